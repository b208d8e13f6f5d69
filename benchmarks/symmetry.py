"""Effective widths against the truth by training.

    python -m benchmarks.symmetry [--nets N] [--seed S] [--family NAME]

Random small networks with planted ties are trained in float64, 50 steps of SGD and of Adam. After that the units that
still do the same on random inputs are counted, and compared with what the analysis said before the first step.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections import Counter

import numpy as np
import torch
from torch import nn

from benchmarks.symmetry_nets import FAMILIES, PLANTS, Net, Stack, plant
from initaudit import layers, symmetry
from initaudit.audit import live

STEPS = 50
APART = 1e-8
SHAKEN = 1e-11
_UNITS = {nn.Linear: (-1,), nn.Conv2d: (1,), nn.ConvTranspose2d: (1,), nn.Embedding: (-1,), Stack: (1, 2)}


def distinct(values: torch.Tensor, axes: tuple[int, ...]) -> int:
    """Return how many units differ, by their values on random inputs."""
    axes = tuple(a % values.dim() for a in axes)
    order = [*axes, *(a for a in range(values.dim()) if a not in axes)]
    count = int(np.prod([values.shape[a] for a in axes]))
    table = values.permute(order).reshape(count, -1)
    scale = table.abs().amax(1)
    apart = (table[:, None] - table[None]).abs().amax(-1) > APART * torch.maximum(scale[:, None], scale[None]) + 1e-300
    seen: list[int] = []
    for k in range(count):
        if all(apart[k, j] for j in seen):
            seen.append(k)
    return len(seen)


def train(net: Net, adam: bool, seed: int, *, turned: bool = False, steps: int = STEPS) -> nn.Module:
    """Return the network after some steps; the loss has no invariances.

    Args:
        net: stays as it is.
        adam: or plain gradient descent.
        seed: of the batch, the targets, and how they are weighed.
        turned: with the batch in reverse order, which changes nothing but rounding.
        steps: how many.
    """
    module = copy.deepcopy(net.module).train()
    g = torch.Generator().manual_seed(seed)
    x = net.inputs(g, 24)
    y = module(x).detach()
    target = torch.randn(y.shape, generator=g, dtype=torch.float64)
    weigh = torch.rand(y.shape[1:], generator=g, dtype=torch.float64) + 0.5
    if turned:
        x, target = x.flip(0), target.flip(0)
    own = list(module.parameters())
    # A gradient that is nothing but rounding must not become a step: hence the epsilon.
    made: torch.optim.Optimizer = torch.optim.Adam(own, 0.005, eps=1e-6) if adam else torch.optim.SGD(own, 0.03)
    for _ in range(steps):
        made.zero_grad()
        (weigh * (module(x) - target) ** 2).mean().backward()
        made.step()
    return module


def unsteady(net: Net, seed: int) -> bool:
    """Whether rounding alone changes the trained network so much that ties cannot be read off it."""
    for adam in (False, True):
        pair = [train(net, adam, seed, turned=turned) for turned in (False, True)]
        g = torch.Generator().manual_seed(seed + 2)
        x = net.inputs(g, 24)
        with torch.no_grad():
            one, other = (module(x) for module in pair)
        if not float((one - other).abs().max()) < SHAKEN * float(one.abs().max()):
            return True
    return False


def silent(net: Net, seed: int) -> bool:
    """Whether a weight gets no gradient but what rounding leaves, which may break any tie, or a unit none at all."""
    module = copy.deepcopy(net.module).train()
    g = torch.Generator().manual_seed(seed)
    y = module(net.inputs(g, 24))
    ((y - torch.randn(y.shape, generator=g, dtype=torch.float64)) ** 2).mean().backward()
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in module.parameters() if p.dim() > 1]
    if any(bool((grad.flatten(1) == 0).all(1).any()) for grad in grads):
        return True  # a unit that is off for all inputs
    sizes = [float(grad.abs().max()) for grad in grads]
    return min(sizes) < 1e-9 * float(np.median(sizes))


def truth(net: Net, module: nn.Module, seed: int) -> dict[str, int]:
    """Return the number of units that differ, by parameter."""
    found: dict[str, int] = {}
    g = torch.Generator().manual_seed(seed + 1)
    hooks = []
    for name, part in module.named_modules():
        axes = _UNITS.get(type(part))
        if axes is not None:

            def hook(_m, _x, out, name=name, axes=axes):
                found[f"{name}.weight"] = distinct(out.detach(), axes)

            hooks.append(part.register_forward_hook(hook))
        elif isinstance(part, nn.RNNBase):

            def hook(_m, _x, out, name=name, part=part):
                gates = {"LSTM": 4, "GRU": 3}.get(part.mode, 1)
                for which in ("ih", "hh"):
                    found[f"{name}.weight_{which}_l0"] = gates * distinct(out[0].detach(), (-1,))

            hooks.append(part.register_forward_hook(hook))
    with torch.no_grad():
        module(net.inputs(g, 24))
    for hook in hooks:
        hook.remove()
    return found


def one(family: str, kind: str, seed: int) -> tuple[Net, list[str], symmetry.Freedom]:
    """Return what is wrong about one network; nothing where all agrees."""
    for attempt in range(20):
        rng = np.random.default_rng([seed, attempt])
        torch.manual_seed(seed + 100_000 * attempt)
        net = FAMILIES[family](rng)
        net.module.double()
        plant(net, kind, rng)
        if not silent(net, seed) and not unsteady(net, seed):
            break
    g = torch.Generator().manual_seed(seed)
    model = live(net.module, (net.inputs(g, 3),))
    if model.graph is None:
        return net, ["no graph"], symmetry.Freedom()
    found, _ = layers.infer(model)
    told = symmetry.analyse(model.graph, found)
    wrong = [f"not understood: {name}" for name in told.unread]
    for adam in (False, True):
        real = truth(net, train(net, adam, seed), seed)
        for layer, own in zip(found, told.layers, strict=True):
            want = real.get(layer.weight.name)
            if want is None:
                continue
            width = None if own is None else own.width
            if width != want:
                wrong.append(f"{'Adam' if adam else 'SGD'} {layer.name}: {width} told, {want} of {layer.units} true")
    return net, wrong, told


def main() -> None:
    """Run all of it and print what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nets", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", default="")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    families = [chosen.family] if chosen.family else list(FAMILIES)
    start = time.time()
    right, all_, tied = Counter(), Counter(), Counter()
    for k in range(chosen.nets):
        family = families[k % len(families)]
        kind = PLANTS[(k // len(families)) % len(PLANTS)]
        _, wrong, told = one(family, kind, chosen.seed + k)
        all_[family] += 1
        right[family] += not wrong
        tied[family] += any(own is not None and own.width < own.units for own in told.layers)
        for line in wrong:
            print(f"{family} {kind} seed {chosen.seed + k}: {line}", flush=True)
    for family in families:
        print(f"{family:12} {right[family]:4} of {all_[family]:4} right, {tied[family]} with tied units")
    print(f"{sum(right.values())} of {sum(all_.values())} right, {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
