"""Of zeros that keep each other at zero one is drawn; after it all move."""

import pytest

import initaudit
from initaudit.repair.waking import woken

torch = pytest.importorskip("torch")
nn = torch.nn


class Lora(nn.Module):
    """A weight with a low-rank addition."""

    def __init__(self, first="lora_A", last="lora_B"):
        super().__init__()
        self.base, self.head = nn.Linear(32, 32), nn.Linear(32, 5)
        self.first, self.last = first, last
        for name, (a, b) in {first: (32, 4), last: (4, 32)}.items():
            self.add_module(name, nn.Linear(a, b, bias=False))
            nn.init.zeros_(self.get_submodule(name).weight)

    def forward(self, x):
        low = self.get_submodule(self.last)(self.get_submodule(self.first)(x))
        return self.head(torch.tanh(self.base(x) + low))


class Gated(nn.Module):
    """A branch whose last weight and whose gate are zero."""

    def __init__(self):
        super().__init__()
        self.stem, self.wide, self.thin = nn.Linear(32, 32), nn.Linear(32, 48), nn.Linear(48, 32)
        self.gate, self.head = nn.Parameter(torch.zeros(1)), nn.Linear(32, 5)
        nn.init.zeros_(self.thin.weight)
        nn.init.zeros_(self.thin.bias)

    def forward(self, x):
        x = self.stem(x)
        return self.head(x + self.gate * self.thin(torch.tanh(self.wide(x))))


class Branch(nn.Module):
    """A branch both of whose weights are zero."""

    def __init__(self):
        super().__init__()
        self.stem, self.wide, self.thin = nn.Linear(32, 32), nn.Linear(32, 48), nn.Linear(48, 32)
        self.head = nn.Linear(32, 5)
        for layer in (self.wide, self.thin):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        return self.head(x + self.thin(torch.tanh(self.wide(x))))


class Rectified(nn.Module):
    """Units behind a ReLU, of which some are never on."""

    def __init__(self, how):
        super().__init__()
        self.stem, self.wide, self.head = nn.Linear(32, 32), nn.Linear(32, 40), nn.Linear(40, 5)
        with torch.no_grad():
            if how == "bias":
                self.wide.bias[[3, 17]] = -1e4
            else:
                self.wide.bias.zero_()
                self.wide.weight[[3, 17]] = -self.wide.weight[[3, 17]].abs()

    def forward(self, x):
        return self.head(torch.relu(self.wide(torch.sigmoid(self.stem(x)))))


def seeded(make):
    torch.manual_seed(0)
    return make(), torch.randn(16, 32)


@pytest.mark.parametrize(
    "make, drawn",
    [
        (Lora, {"lora_A.weight"}),
        (lambda: Lora("lora_down", "lora_up"), {"lora_down.weight"}),
        (Gated, {"thin.weight"}),
        (Branch, {"wide.weight"}),
    ],
)
def test_one_zero_is_drawn_and_everything_moves(make, drawn):
    net, x = seeded(make)
    old = {name: value.clone() for name, value in net.state_dict().items()}
    assert any(p.dead for p in initaudit.check(net, x, probe=False).freedom.parameters)
    repair = initaudit.fix(net, x)
    new = net.state_dict()
    assert {name for name in old if not torch.equal(old[name], new[name])} == drawn
    assert not repair.worse and not repair.at_fault
    assert not any(p.dead for p in repair.after.freedom.parameters)
    moved = {name: value.clone() for name, value in new.items()}
    optimizer = torch.optim.SGD(net.parameters(), 0.05)
    for _ in range(4):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    assert all(not torch.equal(value, moved[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("how, expected", [("bias", "wide.bias"), ("weight", "wide.weight")])
def test_units_that_nothing_switches_on(how, expected):
    net, x = seeded(lambda: Rectified(how))
    report = initaudit.check(net, x, probe=False)
    dead = {p.name: str(p.cause) for p in report.freedom.parameters if p.dead}
    assert set(dead.values()) == {"off"}
    (one,) = woken(report.measured, report.model, dead, lambda m: True)
    assert (one.tensor.name, one.units) == (expected, (3, 17))
    assert woken(report.measured, report.model, dead, lambda m: False) == []
    assert woken(report.measured, report.model, dict.fromkeys(dead, "zeros"), lambda m: True) == []


def test_what_is_drawn_anyway_is_taken_into_account():
    net, x = seeded(Gated)
    report = initaudit.check(net, x, probe=False)
    dead = {p.name: str(p.cause) for p in report.freedom.parameters if p.dead}
    (one,) = woken(report.measured, report.model, dead, lambda m: True)
    assert woken(report.measured, report.model, dead, lambda m: True, [one]) == []
