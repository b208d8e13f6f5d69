"""Dropout inside a module parts what is tied there, though a graph of evaluation does not show it."""

import torch
from torch import nn

from initaudit import layers, symmetry
from initaudit.audit import live


class Net(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.cell = nn.LSTM(4, 8, 2, dropout=dropout, batch_first=True)
        self.at = nn.MultiheadAttention(8, 2, dropout=dropout, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        y = self.cell(x)[0]
        return self.head(self.at(y, y, y)[0])


def told(dropout):
    net = Net(dropout).eval()
    for p in net.parameters():
        nn.init.constant_(p, 0.1)
    model = live(net, (torch.randn(2, 3, 4),))
    found, _ = layers.infer(model)
    freedom = symmetry.of_model(model, found)
    return {layer.name: one for layer, one in zip(found, freedom.layers, strict=True) if one is not None}


def test_it_parts_heads_and_all_recurrent_layers_but_the_last():
    found = told(0.3)
    assert found["cell.weight_ih_l0"].breaks == ("dropout 0.3 inside cell",)
    assert found["cell.weight_ih_l1"].classes
    assert not found["cell.weight_ih_l1"].breaks
    assert found["at.in_proj_weight"].breaks == ("dropout 0.3 inside at",)


def test_none_parts_nothing():
    assert all(not one.breaks for one in told(0.0).values())
    assert all(one.classes for name, one in told(0.0).items() if name != "head")
