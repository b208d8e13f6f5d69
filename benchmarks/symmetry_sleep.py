"""Parameters that sleep or never move, against the truth by training.

    python -m benchmarks.symmetry_sleep [--nets N] [--seed S] [--family NAME]

Random small networks with random weights, rows, columns, gates and scales set to zero are trained in float64. For every
element of every parameter, the step at which it first moves is compared with what was told before.
"""

from __future__ import annotations

import copy
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from benchmarks.symmetry_nets import FAMILIES, seeded
from benchmarks.symmetry_plants import Net
from benchmarks.symmetry_sleepers import SLEEPERS
from initaudit import symmetry
from initaudit.audit import live

STEPS = 50
RATE, EARLY = 0.1, 12  # the largest movement of a step, for as many steps
NOISE, FLOOR = 1e-12, 1e-14  # of the largest gradient: what may be rounding, and what surely is


class Adapted(nn.Module):
    """A linear layer with a low-rank addition."""

    def __init__(self, i: int, o: int, r: int) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Linear(i, o), nn.Linear(i, r, bias=False), nn.Linear(r, o, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        return self.base(x) + 0.5 * self.up(self.down(x))


class Gates(nn.Module):
    """Residual branches behind gates of several kinds, modulated by a condition."""

    def __init__(self, i: int, d: int, h: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Linear(i, d)
        self.ins = nn.ModuleList(Adapted(d, h, 2) for _ in range(depth))
        self.outs = nn.ModuleList(nn.Linear(h, d) for _ in range(depth))
        self.rezero = nn.ParameterList(nn.Parameter(torch.ones(())) for _ in range(depth))
        self.scale = nn.ParameterList(nn.Parameter(torch.ones(d)) for _ in range(depth))
        self.ada = nn.ModuleList(nn.Linear(i, 3 * d) for _ in range(depth))
        self.norms = nn.ModuleList(nn.LayerNorm(d, elementwise_affine=k % 2 == 1) for k in range(depth))
        self.last = nn.LayerNorm(d)
        self.head = nn.Linear(d, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        c = x
        x = torch.tanh(self.stem(x))
        for k, inner in enumerate(self.ins):
            shift, scale, gate = self.ada[k](c).chunk(3, -1)
            y = self.norms[k](x) * (1 + scale) + shift
            y = self.outs[k](nn.functional.gelu(inner(y)))
            x = x + gate * self.rezero[k] * self.scale[k] * y
        return self.head(self.last(x))


def gates(rng: np.random.Generator) -> Net:
    """Return a random network of gated branches."""
    i, d, h, depth = (int(rng.integers(a, b)) for a, b in ((3, 5), (4, 7), (4, 7), (1, 3)))
    return Net(Gates(i, d, h, depth), lambda g, n: torch.randn(n, i, generator=g, dtype=torch.float64))


class Switched(nn.Module):
    """Rectified units, some of which no input can switch on."""

    def __init__(self, i: int, a: int, b: int) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Linear(i, a), nn.Linear(a, b), nn.Linear(b, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        return self.head(torch.relu(self.two(torch.sigmoid(self.one(x)))))


def switched(rng: np.random.Generator) -> Net:
    """Return a random network with units that are off, for good or not."""
    i, a, b = (int(rng.integers(4, 8)) for _ in range(3))
    module = Switched(i, a, b)
    with torch.no_grad():
        module.two.bias.fill_(1.0)  # on for some inputs
        for row in rng.choice(b, int(rng.integers(1, 3)), replace=False):
            kind = rng.integers(3)
            if kind == 0:
                module.two.weight[row] = 0.0
                module.two.bias[row] = -0.1
            elif kind == 1:
                module.two.weight[row] = -module.two.weight[row].abs()
                module.two.bias[row] = 0.0
            else:
                module.two.bias[row] = -module.two.weight[row].clamp(min=0).sum() - 0.1
    return Net(module, lambda g, n: torch.randn(n, i, generator=g, dtype=torch.float64))


KINDS: dict[str, Callable[[np.random.Generator], Net]] = {
    **FAMILIES, "gates": gates, "switched": switched, **SLEEPERS
}  # fmt: skip
_UNPLANTED = ("switched", "scaled")  # have their zeros already: a direction of length zero has no gradient


def plant(net: Net, rng: np.random.Generator) -> None:
    """Set some of the network to zero."""
    with torch.no_grad():
        for name, p in net.module.named_parameters():
            p.copy_(torch.round(p * 2.0**10) / 2.0**10)  # means of what is the same everywhere are then exact
            draw = rng.random()
            if (p.dim() > 1 and draw < 0.18) or (p.dim() == 1 and draw < 0.3) or (p.dim() == 0 and draw < 0.4):
                p.zero_()
            elif p.dim() > 1 and draw < 0.26:
                p[torch.from_numpy(rng.choice(p.shape[0], 2))] = 0.0
            elif p.dim() > 1 and draw < 0.34:
                p[:, torch.from_numpy(rng.choice(p.shape[1], 2))] = 0.0
            elif p.dim() == 1 and p.numel() > 1 and draw < 0.6 and name.endswith("bias"):
                p.copy_(torch.from_numpy(np.round(rng.standard_normal(p.shape) * 200) / 1024))


def gradients(module: nn.Module, x: torch.Tensor, target: torch.Tensor, weigh: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the gradients of a loss that is invariant to nothing, in float64."""
    module.zero_grad()
    (weigh * (module(x) - target) ** 2).mean().backward()
    return {name: p.grad.double() for name, p in module.named_parameters() if p.grad is not None}


def woken(net: Net, seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return, by parameter, when each element first gets a gradient, and any number at all; 0 for never.

    What rounding leaves of terms that cancel is no gradient: it is another number with the batch in another order, or
    in float32.
    """
    module = copy.deepcopy(net.module).train()
    g = torch.Generator().manual_seed(seed)
    x = net.inputs(g, 48)
    y = module(x).detach()
    target = torch.randn(y.shape, generator=g, dtype=torch.float64)
    weigh = torch.rand(y.shape[1:], generator=g, dtype=torch.float64) + 0.5
    made = torch.optim.SGD(module.parameters(), RATE)
    first = {name: torch.zeros(p.shape, dtype=torch.int64) for name, p in module.named_parameters()}
    largest = 0.0
    trace = {name: f.clone() for name, f in first.items()}
    for step in range(1, STEPS + 1):
        short = copy.deepcopy(module).float()
        rough = gradients(short, x.float() if x.is_floating_point() else x, target.float(), weigh.float())
        other = gradients(copy.deepcopy(module), x.flip(0), target.flip(0), weigh)
        own = gradients(module, x, target, weigh)
        largest = max(largest, *(float(grad.abs().max()) for grad in own.values()))
        least = NOISE * largest
        for name, grad in own.items():
            size = grad.abs()
            real = (size > FLOOR * least / NOISE) & ((grad - other[name]).abs() < 0.01 * size)
            real &= ((grad - rough[name]).abs() < 0.3 * size) | (size > least)
            first[name] = torch.where((first[name] == 0) & real, step, first[name])
            trace[name] = torch.where((trace[name] == 0) & (size > 0), step, trace[name])
        now = max(float(grad.abs().max()) for grad in own.values())
        for group in made.param_groups:  # what wakes late would be too small to see at a fixed rate
            group["lr"] = RATE / now if step <= EARLY and now > NOISE * largest else 0.05
        made.step()
    return {name: (f.numpy(), trace[name].numpy()) for name, f in first.items()}


def one(family: str, seed: int) -> tuple[list[str], int]:
    """Return what is wrong about one network, and of how many elements rounding hides the truth.

    These are told to move, and get no gradient above what rounding leaves, but not exactly zero either; or are told
    never to move, and what rounding leaves grows until it can be seen.
    """
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    net = KINDS[family](rng)
    for part in net.module.modules():
        if isinstance(getattr(part, "act", None), (nn.ReLU, nn.LeakyReLU)):
            part.act = nn.GELU()
    for layers in (getattr(net.module, "norms", []),):  # a slope moves only if its unit is ever below zero
        for k, part in enumerate(layers):
            if isinstance(part, nn.PReLU):
                layers[k] = nn.Identity()
    net.module.double()
    if family not in _UNPLANTED:
        plant(net, rng)
    return against(net, seed)


def against(net: Net, seed: int) -> tuple[list[str], int]:
    """Return what is told otherwise than it is of one network's steps, and of how many elements rounding hides them."""
    g = torch.Generator().manual_seed(seed)
    model = live(net.module, (net.inputs(g, 3),))
    assert model.graph is not None
    told = symmetry.movements(model.graph)
    names = {t.name: value for value, t in model.graph.constants.items()}
    real = woken(net, seed)
    wrong, hidden = [], 0
    for name, (truth, trace) in real.items():
        mine = told.get(names.get(name, name))
        if mine is None:
            wrong.append(f"{name}: not told")
            continue
        mine_step = np.where(mine.reach, np.broadcast_to(mine.step, truth.shape), truth)
        off = mine_step != truth
        small = off & (mine_step > 0) & (trace > 0) & (trace <= mine_step)
        small |= off & (mine_step == 0) & (trace > 0) & (trace < truth)  # rounding, grown until it can be seen
        hidden += int(small.sum())
        off &= ~small
        if off.any():
            at = tuple(int(v) for v in np.argwhere(off)[0])
            wrong.append(
                f"{name}{list(truth.shape)}: {int(off.sum())} off, as at {at}: {mine_step[at]} told, {truth[at]} true"
            )
    return wrong, hidden


def main() -> None:
    """Run all of it and print what came out."""
    chosen = seeded(140).parse_args()
    torch.set_num_threads(1)
    families = [chosen.family] if chosen.family else list(KINDS)
    start = time.time()
    right, all_ = Counter(), Counter()
    hidden = 0
    for k in range(chosen.nets):
        family = families[k % len(families)]
        wrong, some = one(family, chosen.seed + k)
        hidden += some > 0
        all_[family] += 1
        right[family] += not wrong
        for line in wrong:
            print(f"{family} seed {chosen.seed + k}: {line}", flush=True)
    for family in families:
        print(f"{family:12} {right[family]:4} of {all_[family]:4} right")
    print(f"in {hidden} of them rounding hides some of the truth")
    print(f"{sum(right.values())} of {sum(all_.values())} right, {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
