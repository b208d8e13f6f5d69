import numpy as np
import pytest

from initaudit import symmetry

torch = pytest.importorskip("torch")
nn = torch.nn


def told(module, *examples):
    from initaudit.audit import live

    freedom = symmetry.analyse(live(module, examples).graph, ())
    return {p.name: p for p in freedom.parameters}


class Lora(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.base, self.down, self.up = nn.Linear(4, 5), nn.Linear(4, 2, bias=False), nn.Linear(2, 5, bias=False)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


def test_one_zero_factor_wakes_the_other_at_the_second_step():
    net = Lora()
    nn.init.zeros_(net.up.weight)
    own = told(net, torch.randn(3, 4))
    assert set(own) == {"down.weight"}
    assert own["down.weight"].wake == 2
    assert own["down.weight"].asleep
    assert not own["down.weight"].dead


def test_two_zero_factors_are_dead_for_ever():
    net = Lora()
    nn.init.zeros_(net.up.weight)
    nn.init.zeros_(net.down.weight)
    own = told(net, torch.randn(3, 4))
    assert {name: (p.wake, p.dead) for name, p in own.items()} == {"down.weight": (0, 8), "up.weight": (0, 10)}


def test_nothing_is_told_of_what_moves_at_once():
    assert told(Lora(), torch.randn(3, 4)) == {}


def test_a_chain_of_sleepers_wakes_step_by_step():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.gate = nn.Parameter(torch.zeros(()))
            self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
            nn.init.zeros_(self.b.weight)

        def forward(self, x):
            return self.head(x + self.gate * self.b(torch.tanh(self.a(x))))

    own = told(Gated(), torch.randn(3, 4))
    assert {name: p.wake for name, p in own.items()} == {"a.weight": 3, "a.bias": 3, "b.weight": 2, "b.bias": 2}


@pytest.mark.parametrize(
    ("sign", "bias", "dead"), [(-1, 0.0, True), (-1, 0.1, False), (0, -0.1, True), (1, -0.1, False)]
)
def test_units_that_no_input_can_switch_on(sign, bias, dead):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    with torch.no_grad():
        net[2].weight[3] = sign * net[2].weight[3].abs()
        net[2].bias[3] = bias
    own = told(net, torch.randn(3, 4))
    assert ({name: p.dead for name, p in own.items()} == {"2.weight": 6, "2.bias": 1, "4.weight": 2}) is dead
    assert bool(own) is dead


def test_biases_that_are_taken_away_again():
    class Key(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.q, self.k, self.v = (nn.Linear(6, 6) for _ in range(3))
            self.conv, self.norm = nn.Linear(6, 6), nn.BatchNorm1d(6)

        def forward(self, x):
            y = nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
            return self.norm(self.conv(y.mean(1)))

    own = told(Key(), torch.randn(3, 5, 6))
    assert {name: (p.cancelled, p.dead) for name, p in own.items()} == {"k.bias": (6, 0), "conv.bias": (6, 0)}


def test_rows_and_columns_are_told_one_by_one():
    net = Lora()
    with torch.no_grad():
        net.up.weight[:, 1] = 0
        net.down.weight[1] = 0
    own = told(net, torch.randn(3, 4))
    assert own["down.weight"].dead == 4
    assert own["up.weight"].dead == 5


def test_what_nothing_reads_is_not_called_dead():
    class Half(nn.Module):
        def __init__(self):
            super().__init__()
            self.both = nn.Linear(4, 6)

        def forward(self, x):
            return self.both(x).chunk(2, -1)[0]

    assert told(Half(), torch.randn(3, 4)) == {}


def test_steps_agree_with_gradients():
    """Every step that is told, against the first step at which torch finds a gradient."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 5), nn.GELU(), nn.Linear(5, 2)).double()
    with torch.no_grad():
        net[2].weight.zero_()
        net[2].bias.zero_()
        net[4].weight[:, 2:] = 0
    from initaudit.audit import live

    graph = live(net, (torch.randn(3, 4).double(),)).graph
    moving = symmetry.movements(graph)
    first = {name: np.zeros(p.shape, int) for name, p in net.named_parameters()}
    x, y = torch.randn(40, 4).double(), torch.randn(40, 2).double()
    made = torch.optim.SGD(net.parameters(), 0.3)
    for step in range(1, 6):
        made.zero_grad()
        ((net(x) - y) ** 2).mean().backward()
        for name, p in net.named_parameters():
            own = first[name]
            own[(own == 0) & (p.grad.abs().numpy() > 1e-14)] = step
        made.step()
    for name, own in first.items():
        assert (np.broadcast_to(moving[name].step, own.shape) == own).all(), name
