"""Why parameters never move, and which zeros keep each other at zero."""

import pytest

from initaudit import layers, symmetry
from initaudit.freedom import Cause
from tests.symmetry.steps import Net

torch = pytest.importorskip("torch")
nn = torch.nn


def told(module, *examples):
    from initaudit.audit import live

    model = live(module, examples)
    freedom = symmetry.analyse(model.graph, layers.infer(model)[0])
    return {p.name: p for p in freedom.parameters if p.dead}


def zeroed(layer):
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


def plain(i, o):
    return nn.Linear(i, o, bias=False)


def test_each_pair_of_zeros_is_a_set_of_its_own():
    torch.manual_seed(0)
    net = Net(
        lambda s, x: s.head(torch.tanh(x + s.b(s.a(x)) + s.d(s.c(x)))),
        a=zeroed(plain(4, 2)), b=zeroed(plain(2, 4)), c=zeroed(plain(4, 2)), d=zeroed(plain(2, 4)), head=plain(4, 3),
    )  # fmt: skip
    own = told(net, torch.randn(3, 4))
    assert {name: (p.cause, set(p.blocked_by)) for name, p in own.items()} == {
        "a.weight": (Cause.ZEROS, {"a.weight", "b.weight"}), "b.weight": (Cause.ZEROS, {"a.weight", "b.weight"}),
        "c.weight": (Cause.ZEROS, {"c.weight", "d.weight"}), "d.weight": (Cause.ZEROS, {"c.weight", "d.weight"}),
    }  # fmt: skip


def test_what_stands_between_two_zeros_is_blocked_by_them():
    torch.manual_seed(0)
    net = Net(
        lambda s, x: s.head(x + s.c(torch.tanh(s.b(s.a(x))))),
        a=zeroed(plain(4, 4)), b=plain(4, 4), c=zeroed(plain(4, 4)), head=plain(4, 3),
    )  # fmt: skip
    own = told(net, torch.randn(3, 4))
    assert set(own) == {"a.weight", "b.weight", "c.weight"}
    assert all(set(p.blocked_by) == {"a.weight", "c.weight"} for p in own.values())


def test_three_zeros_of_which_none_would_do_alone():
    torch.manual_seed(0)
    net = Net(
        lambda s, x: s.head(x + s.c(s.b(s.a(x)))),
        a=zeroed(plain(4, 4)), b=zeroed(plain(4, 4)), c=zeroed(plain(4, 4)), head=plain(4, 3),
    )  # fmt: skip
    own = told(net, torch.randn(3, 4))
    assert all(set(p.blocked_by) == {"a.weight", "b.weight", "c.weight"} for p in own.values())
    assert set(own) == {"a.weight", "b.weight", "c.weight"}


def test_biases_of_other_layers_block_nothing():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 5), nn.ReLU(), zeroed(nn.Linear(5, 5)), nn.ReLU(), nn.Linear(5, 2)
    )
    for layer in (net[0], net[2]):
        nn.init.zeros_(layer.bias)
    own = told(net, torch.randn(3, 4))
    assert set(own["0.weight"].blocked_by) == set(own["2.bias"].blocked_by) == {"4.weight", "4.bias"}


def test_units_that_are_off():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        net[0].weight[1], net[0].bias[1] = 0, -1
    own = told(net, torch.randn(3, 4))
    assert {name: (p.dead, p.cause, p.blocked_by) for name, p in own.items()} == {
        "0.weight": (4, Cause.OFF, ()), "0.bias": (1, Cause.OFF, ()), "2.weight": (2, Cause.OFF, ()),
    }  # fmt: skip


def test_what_is_dead_by_design():
    torch.manual_seed(0)

    def run(s, x):
        keys = x.mean(1, keepdim=True)
        return s.head(x + nn.functional.scaled_dot_product_attention(s.q(x), s.k(keys), s.v(keys)))

    net = Net(run, q=plain(4, 4), k=plain(4, 4), v=plain(4, 4), head=plain(4, 3))
    own = told(net, torch.randn(3, 5, 4))
    assert {name: p.cause for name, p in own.items()} == {"q.weight": Cause.DESIGN, "k.weight": Cause.DESIGN}
    masked = Net(
        lambda s, x: s.head(torch.tanh(x @ torch.tril(s.w))), w=nn.Parameter(torch.randn(4, 4)), head=plain(4, 3)
    )
    own = told(masked, torch.randn(3, 4))
    assert {name: (p.dead, p.cause) for name, p in own.items()} == {"w": (6, Cause.DESIGN)}


@pytest.mark.parametrize("batch", [1, 2])
def test_a_batch_of_one_is_only_the_example(batch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.GELU(), nn.Linear(5, 2))
    from initaudit.audit import live

    found = symmetry.analyse(live(net, (torch.randn(batch, 4),)).graph, ()).parameters
    assert {p.name: (p.wake, p.dead, p.cancelled) for p in found} == {"0.bias": (0, 0, 5)}


def test_a_norm_over_units_that_are_all_tied_lets_nothing_through():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.LayerNorm(5), nn.Linear(5, 2))
    with torch.no_grad():
        for p in (*net[0].parameters(), *net[3].parameters()):
            p.fill_(0.1)
    own = told(net, torch.randn(3, 4))
    assert {name: p.cause for name, p in own.items()} == dict.fromkeys(("0.weight", "0.bias", "2.weight"), Cause.TIED)
