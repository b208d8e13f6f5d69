"""The steps at which parameters first move, as told and as torch finds them."""

import numpy as np
import pytest

from initaudit import symmetry

torch = pytest.importorskip("torch")
nn = torch.nn


class Net(nn.Module):
    def __init__(self, run, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def checked(net, shape, steps=4, floor=1e-14):
    """Compare, element by element; return what is told of the parameters."""
    from initaudit.audit import live

    net = net.double()
    graph = live(net, (torch.randn(3, *shape).double(),)).graph
    moving = symmetry.movements(graph)
    first = {name: np.zeros(p.shape, int) for name, p in net.named_parameters()}
    x = torch.randn(40, *shape).double()
    y = torch.randn_like(net(x))
    made = torch.optim.SGD(net.parameters(), 0.3)
    for step in range(1, steps + 1):
        made.zero_grad()
        ((net(x) - y) ** 2).mean().backward()
        for name, p in net.named_parameters():
            own = first[name]
            if p.grad is not None:
                own[(own == 0) & (p.grad.abs().numpy() > floor)] = step
        made.step()
    names = {t.name: value for value, t in graph.constants.items()}
    for name, own in first.items():
        assert (np.broadcast_to(moving[names[name]].step, own.shape) == own).all(), name
    return first
