"""Of each set of tied units all but one are drawn again, and only where that parts them."""

import pytest

import initaudit
from initaudit.repair.comparing import worse
from initaudit.repair.parting import parted

torch = pytest.importorskip("torch")
nn = torch.nn


def seeded(*layers):
    torch.manual_seed(0)
    net = nn.Sequential(*layers)
    for p in net.parameters():  # sums of such numbers are exact
        p.data = torch.round(p.data * 2**16) / 2**16
        if p.dim() == 1:
            p.data.zero_()
    return net


@torch.no_grad()
def tie(layer, above, a, b):
    """Make two units equal in what comes in and in what goes back."""
    layer.weight[b] = layer.weight[a]
    above.weight[:, b] = above.weight[:, a]


def chain(how):
    """Two layers with ties: in the second the rows are equal, or only their sums over the tied units of the first."""
    net = seeded(nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 20), nn.Tanh(), nn.Linear(20, 5))
    tie(net[0], net[2], 1, 4)
    tie(net[2], net[4], 2, 5)
    with torch.no_grad():
        net[2].weight[:, 4] = net[2].weight[:, 1]
        if how == "sums":
            net[2].weight[2, [1, 4]] += torch.tensor([0.125, -0.125])
            net[2].weight[5, [1, 4]] -= torch.tensor([0.125, -0.125])
    return net


def changed(net, x):
    """Repair a net; return the report after it, and by tensor the output units that changed."""
    old = {name: value.clone() for name, value in net.state_dict().items()}
    repair = initaudit.fix(net, x)
    assert repair.after is not None and not repair.worse and not repair.at_fault
    found = {}
    for name, new in net.state_dict().items():
        differ = (new != old[name]).flatten(1).any(1) if new.dim() > 1 else new != old[name]
        if differ.any():
            found[name] = differ.nonzero().ravel().tolist()
    return repair, found


def widths(report):
    return [(m.freedom.units, m.freedom.width) for m in report.measured if m.freedom is not None]


def trained(net, x, y, steps=50):
    optimizer = torch.optim.SGD(net.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        (net(x) - y).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("how, units", [("sums", {"0.weight": [4]}), ("rows", {"0.weight": [4], "2.weight": [5]})])
def test_what_is_tied_only_because_of_units_below_is_left_alone(how, units):
    net, x = chain(how), torch.randn(64, 32)
    before = initaudit.check(net, x, probe=False)
    assert widths(before) == [(24, 23), (20, 19), (5, 5)]
    repair, found = changed(net, x)
    assert found == units
    assert widths(repair.after) == [(24, 24), (20, 20), (5, 5)]
    trained(net, x, torch.randn(64, 5))
    for hidden in (torch.tanh(net[0](x)), torch.tanh(net[2](torch.tanh(net[0](x))))):
        assert torch.unique(hidden.round(decimals=6), dim=1).shape[1] == hidden.shape[1]


def test_where_the_first_layer_stays_the_next_is_drawn():
    net, x = chain("sums"), torch.randn(16, 32)
    report = initaudit.check(net, x, probe=False)
    told = {k: m.freedom.classes for k, m in enumerate(report.measured) if m.freedom.classes}
    assert list(told) == [0, 1]
    assert parted(report.measured, report.model, told, lambda m: True) == {0: (4,)}
    assert parted(report.measured, report.model, told, lambda m: m is not report.measured[0]) == {1: (5,)}
    assert parted(report.measured, report.model, told, lambda m: False) == {}


def test_all_but_one_however_many_there_are():
    net, x = seeded(nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 5)), torch.randn(16, 32)
    for unit in range(1, 24):
        tie(net[0], net[2], 0, unit)
    repair, found = changed(net, x)
    assert found == {"0.weight": list(range(1, 24))}
    assert widths(repair.after)[0] == (24, 24)


def test_equal_filters_of_tied_channels_are_left_alone():
    apart = nn.Conv2d(8, 8, 3, groups=8)
    net = seeded(nn.Conv2d(3, 8, 3), nn.Tanh(), apart, nn.Tanh(), nn.Flatten(), nn.Linear(128, 4))
    x = torch.randn(8, 3, 8, 8)
    with torch.no_grad():
        net[0].weight[6] = net[0].weight[1]
        net[2].weight[6] = net[2].weight[1]
        columns = net[5].weight.view(4, 8, 16)
        columns[:, 6] = columns[:, 1]
    assert [units - width for units, width in widths(initaudit.check(net, x, probe=False))] == [1, 1, 0]
    repair, found = changed(net, x)
    assert found == {"0.weight": [6]}
    assert all(units == width for units, width in widths(repair.after))


def test_a_constant_layer_is_drawn_as_a_whole_and_what_hangs_on_it_is_not():
    net, x = seeded(nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 20), nn.Tanh(), nn.Linear(20, 5)), torch.randn(16, 32)
    with torch.no_grad():
        net[0].weight.fill_(0.125)
        net[2].weight[7] = net[2].weight[3].flip(0)  # equal sums over the one class below
        net[4].weight[:, 7] = net[4].weight[:, 3]
    assert widths(initaudit.check(net, x, probe=False))[:2] == [(24, 24), (20, 20)]  # the columns of 2 part them
    with torch.no_grad():
        net[2].weight[:] = net[2].weight[:, :1]
        net[2].weight[7] = net[2].weight[3]
    assert widths(initaudit.check(net, x, probe=False))[:2] == [(24, 1), (20, 19)]
    repair, found = changed(net, x)
    assert found["0.weight"] == list(range(24))
    assert all(units == width for units, width in widths(repair.after))


def test_copies_that_training_parts_are_left_and_said():
    net, x = seeded(nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 5)), torch.randn(16, 32)
    with torch.no_grad():
        net[0].weight[7] = net[0].weight[3]
    repair = initaudit.fix(net, x)
    assert [f.rule for f in repair.before.findings if f.severity >= 2] == ["INI201"]
    assert repair.plan.recipes == ()
    assert any("parts these units by itself" in note for note in repair.plan.notes)
    tie(net[0], net[2], 1, 9)  # and beside some that it does not part
    repair, found = changed(net, x)
    assert found == {"0.weight": [9]}


def test_ties_that_a_repair_makes_are_worse_and_those_it_leaves_are_not():
    net, x = seeded(nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 5)), torch.randn(16, 32)
    healthy = initaudit.check(net, x, probe=False)
    tie(net[0], net[2], 1, 9)
    tied = initaudit.check(net, x, probe=False)
    assert worse(healthy, tied, {"2"})
    assert not worse(tied, tied, {"2"})
    assert not worse(tied, healthy, {"0"})
