"""Equal parameters that an ONNX exporter wrote once are trained as several."""

import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from initaudit import audit, layers, symmetry
from initaudit.freedom import Freedom
from initaudit.symmetry.merged import original, parted
from initaudit.types import Graph, Node, Tensor


def exported(net: nn.Module, wide: int, path: Path, dynamo: bool) -> Freedom:
    logging.disable(logging.ERROR)
    torch.onnx.export(net.eval(), (torch.randn(4, wide),), str(path), dynamo=dynamo, verbose=False)
    logging.disable(logging.NOTSET)
    model = audit.read(path)
    return symmetry.of_model(model, layers.infer(model)[0])


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    for k in (0, 2, 4):
        nn.init.zeros_(net[k].bias)
    return net


@pytest.mark.parametrize("dynamo", [False, True])
def test_zero_biases_that_share_an_initializer_do_not_part_units(tmp_path, dynamo):
    net = chain()
    with torch.no_grad():
        net[0].weight[3] = net[0].weight[5]
        net[2].weight[:, 3] = net[2].weight[:, 5]
    told = exported(net, 8, tmp_path / "a.onnx", dynamo)
    assert [one and one.width for one in told.layers] == [15, 16, 3]


@pytest.mark.parametrize("dynamo", [False, True])
def test_constant_layers_that_share_an_initializer_are_told_by_the_first(tmp_path, dynamo):
    net = nn.Sequential(nn.Linear(16, 16), *chain())
    net[1] = nn.Linear(16, 16)
    for k in (0, 1, 3):
        nn.init.constant_(net[k].weight, 0.05)
        nn.init.zeros_(net[k].bias)
    told = exported(net, 16, tmp_path / "a.onnx", dynamo)
    assert told.layers[0] is not None
    assert told.layers[0].width == 1


def test_a_tensor_that_is_drawn_at_random_stays_shared():
    drawn, even = (
        Tensor(name, (2,), "float32", v.numpy) for name, v in zip("ab", (torch.randn(2), torch.zeros(2)), strict=False)
    )
    nodes = (Node("add", ("x", "a"), ("y",)), Node("add", ("y", "a"), ("z",)), Node("mul", ("z", "b"), ("u",)),
             Node("mul", ("u", "b"), ("v",)))  # fmt: skip
    graph = parted(Graph(nodes, {"x": (4, 2)}, ("v",), {"a": drawn, "b": even}, {}))
    assert [node.inputs[1] for node in graph.nodes] == ["a", "a", "b", "b@1"]
    assert graph.constants["b@1"].identity != even.identity
    assert original(graph.constants["b@1"]) == original(even) == even.identity
