"""INI204 on modules: copies that are meant, and experts that a router tells apart."""

import copy

import pytest

from initaudit.types import Severity

torch = pytest.importorskip("torch")
nn = torch.nn

from tests.rules.nets import ROWS, dense, told  # noqa: E402


class Experts(nn.Module):
    """Equal experts behind a router."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.inp, self.router, self.head = nn.Linear(16, 16), nn.Linear(16, 3, bias=False), nn.Linear(16, 4)
        first = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 16))
        self.experts = nn.ModuleList(copy.deepcopy(first) for _ in range(3))

    def forward(self, x):
        x = self.inp(x)
        share = self.router(x).softmax(-1)
        return self.head(x + sum(share[:, k : k + 1] * expert(x) for k, expert in enumerate(self.experts)))


def test_equal_experts_are_a_warning_only_where_the_router_takes_them_for_one():
    net = Experts()
    (finding,) = told(net, ROWS, code="INI204")
    assert finding.severity is Severity.INFO
    assert "the router" in finding.message
    nn.init.zeros_(net.router.weight)
    (finding,) = told(net, ROWS, code="INI204")
    assert finding.severity is Severity.WARNING


class Twins(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = dense()
        self.second = copy.deepcopy(self.first)

    def forward(self, x):
        return self.first(x), self.second(x)


def test_a_frozen_copy_is_meant():
    net = Twins()
    assert told(net, ROWS, code="INI204")
    net.second.requires_grad_(requires_grad=False)
    assert not told(net, ROWS, code="INI204")
