"""Which zero weights wake at the first steps of training, held against training itself."""

import copy

import pytest

from tests.live.test_probe import Plain, probed

torch = pytest.importorskip("torch")
nn = torch.nn


def mlp(act, zeroed=(), bias=True, depth=4, width=12):
    parts = [nn.Linear(6, width, bias)]
    for _ in range(depth - 2):
        parts += [act(), nn.Linear(width, width, bias)]
    net = Plain(*parts, act(), nn.Linear(width, 3, bias))
    for at in zeroed:
        nn.init.zeros_(net.parts[2 * at].weight)
        if bias:
            nn.init.zeros_(net.parts[2 * at].bias)
    return net


def moved(module, inputs, steps=3):
    """Return the names of the weights that some steps of SGD change, with targets drawn once."""
    torch.manual_seed(7)
    net = copy.deepcopy(module).double()
    inputs = [x.double() for x in inputs]
    wanted = torch.randn_like(net(*inputs))
    rate = torch.optim.SGD(net.parameters(), lr=0.05)
    for _ in range(steps):
        rate.zero_grad()
        (net(*inputs) - wanted).square().mean().backward()
        rate.step()
    return {name for (name, p), q in zip(net.named_parameters(), module.parameters(), strict=True)
            if not torch.equal(p, q.double())}  # fmt: skip


@pytest.mark.parametrize("bias", [True, False])
def test_a_zeroed_layer_before_tanh_wakes_and_its_neighbours_sleep(bias):
    torch.manual_seed(1)
    net = mlp(nn.Tanh, [2], bias, depth=6)
    x = torch.randn(2, 6)
    rows, made, _ = probed(net, x)
    gate = rows["parts.4.weight"]
    assert gate.gate_gradient > 1e-3
    assert not gate.behind_gate
    for at in (0, 2, 6, 8):
        row = rows[f"parts.{at}.weight"]
        assert row.behind_gate, at
        assert row.gate == "parts.4.weight"
        assert row.open_forward_variance > 1e-3
        assert row.open_relative_gradient > 1e-3
    assert all(f"parts.{at}.weight" in moved(net, [x], 4) for at in (0, 2, 4, 6, 8))
    (head,) = made.heads
    assert head.variance < 1e-9
    assert head.open_variance > 1e-4
    assert head.open_std > head.std
    assert head.open_excess_loss is not None


def test_two_zeroed_layers_in_a_row_are_dead():
    net = mlp(nn.Tanh, [1, 2], bias=False)
    x = torch.randn(2, 6)
    rows, made, _ = probed(net, x)
    assert not moved(net, [x], 4)
    assert not any(row.behind_gate for row in rows.values())
    assert [row.gradient for row in rows.values()] == [0] * 4
    assert made.heads[0].open_variance is None


class Nested(nn.Module):
    """A gate inside what another gate keeps shut, or one after the other."""

    def __init__(self, series):
        super().__init__()
        self.outer, self.inner = nn.Linear(6, 6), nn.Linear(6, 6)
        self.a, self.b = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.zeros(6))
        self.head, self.series = nn.Linear(6, 3), series

    def forward(self, x):
        if self.series:
            return self.head(x + self.a * (self.b * self.inner(torch.tanh(self.outer(x)))))
        h = torch.tanh(self.outer(x))
        return self.head(x + self.a * (h + self.b * self.inner(h)))


def test_a_gate_behind_a_gate_wakes_after_it():
    torch.manual_seed(0)
    net = Nested(series=False)
    x = torch.randn(2, 6)
    rows, _, _ = probed(net, x)
    assert rows["outer.weight"].behind_gate
    assert rows["inner.weight"].behind_gate
    assert rows["outer.weight"].gate in ("a", "b")
    assert rows["inner.weight"].gate == "b"
    assert rows["inner.weight"].gate_gradient > 1e-3
    assert "inner.weight" in moved(net, [x], 5)
    assert "inner.weight" not in moved(net, [x], 2)


def test_two_zero_factors_in_series_stay_dead():
    net = Nested(series=True)
    x = torch.randn(2, 6)
    rows, _, _ = probed(net, x)
    assert not rows["inner.weight"].behind_gate
    assert rows["inner.weight"].gradient == 0
    assert moved(net, [x], 5) == {"head.weight", "head.bias"}


def test_a_weight_that_is_all_but_zero_is_a_gate_and_a_small_net_is_none():
    net = mlp(nn.Tanh, bias=False)
    with torch.no_grad():
        net.parts[4].weight.mul_(1e-5)
    rows, _, _ = probed(net, torch.randn(2, 6))
    assert rows["parts.0.weight"].behind_gate
    assert rows["parts.0.weight"].gate == "parts.4.weight"
    tiny = mlp(nn.Tanh, bias=False, depth=8)
    with torch.no_grad():
        for p in tiny.parameters():
            p.mul_(1e-4)
    rows, _, _ = probed(tiny, torch.randn(2, 6))
    assert not any(row.behind_gate for row in rows.values())


def test_a_zeroed_head_sleeps_with_all_before_it():
    net = mlp(nn.ReLU, [3])
    x = torch.randn(2, 6)
    rows, made, _ = probed(net, x)
    assert [row.behind_gate for row in rows.values()] == [True, True, True, False]
    assert {"parts.0.weight", "parts.6.weight"} <= moved(net, [x])
    assert made.heads[0].open_variance > 0 == made.heads[0].variance


def test_layers_after_a_zeroed_end_of_a_residual_branch_do_not_sleep():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
            nn.init.zeros_(self.down.weight)

        def forward(self, x):
            return self.head(x + self.down(torch.relu(self.up(x))))

    rows, _, _ = probed(Block(), torch.randn(2, 6))
    assert rows["up.weight"].behind_gate
    assert not rows["head.weight"].behind_gate
    assert not rows["down.weight"].behind_gate
    assert rows["down.weight"].gate_gradient > 1e-3


class Joined(nn.Module):
    """A class token that joins the others at the end, and reads them behind a small gate only."""

    def __init__(self, scale):
        super().__init__()
        self.embed, self.read, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.gamma = nn.Parameter(torch.full((8,), scale))

    def forward(self, x):
        x = self.embed(x)
        token = self.token.expand(len(x), -1, -1)
        token = token + self.gamma * self.read(x).mean(1, keepdim=True)
        return self.head(nn.functional.layer_norm(torch.cat([token, x], 1), (8,))[:, 0])


@pytest.mark.parametrize("scale", [1e-5, 0.0, 1.0])
def test_what_is_read_past_a_gate_only_sleeps_whatever_ways_the_graph_leaves(scale):
    """All tokens are normalised and joined, so that the graph leads from input to head past the gate."""
    torch.manual_seed(0)
    rows, made, _ = probed(Joined(scale), torch.randn(2, 5, 6))
    asleep = {name for name, row in rows.items() if row.behind_gate} - {"token"}  # which carries nothing of an input
    assert asleep == ({"embed.weight", "read.weight", "head.weight"} if scale < 1 else set())
    if scale < 1:
        assert rows["head.weight"].gate == rows["embed.weight"].gate == "gamma"
        assert rows["head.weight"].open_forward_variance > 1e4 * rows["head.weight"].forward_variance
        assert made.heads[0].open_variance > 1e4 * made.heads[0].variance


def test_zeroed_ends_of_many_branches_do_not_sleep_behind_each_other():
    class Deep(nn.Module):
        def __init__(self):
            super().__init__()
            self.ups = nn.ModuleList([nn.Linear(6, 6) for _ in range(10)])
            self.downs = nn.ModuleList([nn.Linear(6, 6) for _ in range(10)])
            for down in self.downs:
                nn.init.zeros_(down.weight)

        def forward(self, x):
            for up, down in zip(self.ups, self.downs, strict=True):
                x = x + down(torch.relu(3 * up(x)))
            return x

    rows, _, _ = probed(Deep(), torch.randn(2, 6))
    assert all(row.behind_gate == name.startswith("ups") for name, row in rows.items())
