"""What docs/symmetry.md states of optimizers, held to training: ties by sums alone, and ties of copies."""

import pytest

torch = pytest.importorskip("torch")
optim = torch.optim

KEEP = {
    "sgd": lambda p: optim.SGD(p, 0.05),
    "nesterov, with an L2 penalty": lambda p: optim.SGD(p, 0.05, momentum=0.9, nesterov=True, weight_decay=0.1),
    "adam": lambda p: optim.Adam(p, 0.01),
    "adamw": lambda p: optim.AdamW(p, 0.01, weight_decay=0.1),
    "rmsprop": lambda p: optim.RMSprop(p, 0.01, momentum=0.9),
    "adagrad": lambda p: optim.Adagrad(p, 0.05),
}


def penalised(p):
    return optim.Adam(p, 0.01, weight_decay=0.1)


def parted(made, block):
    """How far tied units are from each other after training: 0-3 of the first layer, 0 and 1 of the second."""
    torch.manual_seed(0)
    linear, tanh = torch.nn.Linear, torch.nn.Tanh
    net = torch.nn.Sequential(linear(5, 6), tanh(), linear(6, 4), tanh(), linear(4, 3)).double()
    first, second, head = net[0], net[2], net[4]
    with torch.no_grad():
        for rows in (first.weight, first.bias, second.weight.T):
            rows[1:4] = rows[0]
        for rows in (second.weight, second.bias, head.weight.T):
            rows[1] = rows[0]
        second.weight[:2, :4] = torch.tensor(block)
    x, target = torch.randn(32, 5).double(), torch.randn(32, 3).double()
    optimizer = made(net.parameters())
    for _ in range(20):
        optimizer.zero_grad()
        (net(x) - target).abs().pow(1.5).mean().backward()
        optimizer.step()
    with torch.no_grad():
        low, high = first(x)[:, :4], second(net[:2](x))[:, :2]
    return max(float((units - units[:, :1]).abs().max()) for units in (low, high))


COPIES = [[0.5] * 4] * 2
SUMS = [[0.5, 0.75, 0.25, 0.5], [0.5, 0.25, 0.75, 0.5]]  # of rows 2, of columns 1


@pytest.mark.parametrize("name", KEEP)
@pytest.mark.parametrize("block", [COPIES, SUMS], ids=["copies", "sums"])
def test_ties_stay(name, block):
    assert parted(KEEP[name], block) < 1e-12


def test_an_l2_penalty_inside_adam_keeps_copies_and_parts_what_agrees_by_sums_alone():
    assert parted(penalised, COPIES) < 1e-12
    assert parted(penalised, SUMS) > 1e-4
    assert parted(KEEP["adam"], [SUMS[0], [0.5, 0.25, 0.75, 0.625]]) > 1e-4  # where sums differ all parts
