"""Near ties and twins, told against planted ones and against training.

    python -m benchmarks.symmetry_lenient [--nets N] [--seed S] [--kind NAME]

Random small networks of `benchmarks.symmetry_nets`, with one or two pairs of units that are

    sign, scale     twins: all weights of one unit are those of the other times c, in float64
    crossed         times c on the way in and divided by c on the way out, which is the same function and no twin
    step            copies, each number off by up to one step of float32, bfloat16 or float16
    through         copies that went through another precision
    noise           copies, each number off by about a hundredth

or none. Networks of the first three kinds are trained 50 steps with SGD, and where c = -1 with Adam too: then the units
of each layer are counted that are not multiples of each other, on random inputs, within 1e-8. It is sound if all sets
that were told are multiples, and complete if there are no others. Near ties are held to the sets that are tied exactly
before the numbers are moved; with noise there must be none.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.symmetry import _UNITS, APART, silent, train, unsteady
from benchmarks.symmetry_nets import FAMILIES
from benchmarks.symmetry_plants import Net, plant
from initaudit import layers, symmetry
from initaudit.audit import live
from initaudit.freedom import LayerFreedom
from initaudit.types import Layer

TRAINED = ("none", "sign", "scale", "crossed")
MOVED = ("step", "through", "noise")
_DTYPES = {"step": (torch.float32, torch.bfloat16, torch.float16), "through": (torch.float64, torch.float32)}
_ODD, _HOMOGENEOUS = (nn.Tanh(),), (nn.ReLU(), nn.LeakyReLU(0.1))


def tables(net: Net, module: nn.Module, seed: int) -> dict[str, np.ndarray]:
    """Return, by parameter, what its units make of random inputs: (units, values)."""
    found: dict[str, np.ndarray] = {}
    hooks = []
    for name, part in module.named_modules():
        axes = _UNITS.get(type(part))
        if axes is None:
            continue

        def hook(_m: nn.Module, _x: Any, out: torch.Tensor, name: str = name, axes: tuple[int, ...] = axes) -> None:
            out = out.detach()
            own = [a % out.dim() for a in axes]
            order = [*own, *(a for a in range(out.dim()) if a not in own)]
            count = int(np.prod([out.shape[a] for a in own]))
            found[f"{name}.weight"] = out.permute(order).reshape(count, -1).numpy()

        hooks.append(part.register_forward_hook(hook))
    with torch.no_grad():
        module(net.inputs(torch.Generator().manual_seed(seed + 1), 24))
    for one in hooks:
        one.remove()
    return found


def multiples(table: np.ndarray) -> np.ndarray:
    """Return for each pair of units whether one is a multiple of the other."""
    size = np.abs(table).max(1, keepdims=True)
    unit = table / np.where(size > 0, size, 1)
    at = np.abs(unit).argmax(1)
    sign = unit[np.arange(len(unit)), at][:, None]
    unit = unit / np.where(sign == 0, 1, sign)
    same = np.zeros((len(unit), len(unit)), bool)
    for k in range(len(unit)):
        own = unit[:, at[k]][:, None]
        same[k] = (np.abs(unit - own * unit[k]) <= APART).all(1)
    return same


def told(module: nn.Module, *examples: torch.Tensor) -> tuple[Sequence[Layer], Sequence[LayerFreedom | None]]:
    """Return the layers of a network and their freedom."""
    model = live(module, examples)
    found, _ = layers.infer(model)
    return found, symmetry.analyse(model.graph, found).layers if model.graph is not None else []


def twins(net: Net, kind: str, rng: np.random.Generator) -> float:
    """Make units of one group multiples of others, and return the factor."""
    factor = -1.0 if kind == "sign" or (kind == "crossed" and rng.random() < 0.5) else float(rng.choice([0.5, 1.7, 3]))
    names = [n for n in net.units if n not in net.fixed and net.units[n] > 3]
    name = str(rng.choice(names))
    within = net.units[name] // max([g for p, g in net.groups.items() if name in net.axes[p]], default=1)
    pairs = rng.choice(within, 4 if within > 3 else 2, replace=False).reshape(-1, 2)[: int(rng.integers(1, 3))]
    with torch.no_grad():
        for p_name, p in net.module.named_parameters():
            for axis, own in enumerate(net.axes.get(p_name, ())):
                base, times = net.repeats.get(own, (own, 1)) if isinstance(own, str) else ("", 1)
                if base != name:
                    continue
                size, each = net.units[name], abs(times)
                keeps = p_name.startswith(("norm", "mid_norm"))
                for j, k in pairs:
                    for r in range(each):
                        a, b = (u * each + r if times < 0 else u + r * size for u in (int(j), int(k)))
                        if b >= p.shape[axis]:
                            continue
                        came = p.select(axis, a).clone()
                        by = 1.0 if keeps and p_name.endswith("weight") else factor
                        if kind == "crossed" and axis == 1:
                            by = 1 / factor if abs(factor) != 1 else 1.0
                        p.select(axis, b).copy_(by * came)
    return factor


def trained(net: Net, seed: int, factor: float, kind: str) -> list[str]:
    """Return what is told wrongly, and what is not told, of a network with twins."""
    found, rows = told(net.module, net.inputs(torch.Generator().manual_seed(seed), 3))
    wrong = []
    for adam in (False, True) if factor == -1 else (False,):
        real = tables(net, train(net, adam, seed), seed)
        for layer, own in zip(found, rows, strict=True):
            if own is None or layer.weight.name not in real or len(real[layer.weight.name]) != own.units:
                continue
            same = multiples(real[layer.weight.name])
            apart = [one for one in (*own.twins, *own.nearly, *own.classes) if not same[np.ix_(one, one)].all()]
            wrong += [f"FALSE {'Adam' if adam else 'SGD'} {layer.name}: {one} part" for one in apart]
            width = len({int(row.argmax()) for row in same})
            if not adam and own.twin_width != width:
                wrong.append(f"missed {kind} {layer.name}: {own.twin_width} told, {width} of {own.units} true")
    return wrong


def off(p: torch.Tensor, g: torch.Generator) -> torch.Tensor:
    """Return numbers that are each off by a step of their dtype at most."""
    way = torch.randint(-1, 2, p.shape, generator=g)
    far = torch.full_like(p, float("inf"))
    return torch.where(way == 0, p, torch.nextafter(p, torch.where(way > 0, far, -far)))


def moved(net: Net, seed: int, kind: str) -> list[str]:
    """Return what is told wrongly of a network whose tied units were moved."""
    rng = np.random.default_rng(seed)
    dtype = _DTYPES.get(kind, (torch.float32, torch.float16))[int(rng.integers(0, len(_DTYPES.get(kind, "ab"))))]
    module = net.module.to(dtype)
    x = net.inputs(torch.Generator().manual_seed(seed), 3)
    x = x.to(dtype) if x.dtype.is_floating_point else x
    _, before = told(module, x)
    g = torch.Generator().manual_seed(seed)
    module = copy.deepcopy(module)
    with torch.no_grad():
        for p in module.parameters():
            if kind == "noise":
                by = 1 + 0.01 * torch.randn(p.shape, generator=g)
                p.copy_((p.double() * by).to(dtype))
            elif kind == "step":
                p.copy_(off(p, g))
            elif p.dim() > 1:  # every second unit
                half = p[1::2].to(torch.bfloat16 if rng.random() < 0.5 else torch.float16).to(dtype)
                p[1::2] = half
    found, rows = told(module, x)
    wrong = []
    for layer, own, old in zip(found, rows, before, strict=True):
        if own is None or old is None:
            continue
        want = own.width if kind == "noise" else old.width
        if own.nearly_width < want:
            wrong.append(f"FALSE {kind} {dtype} {layer.name}: {own.nearly_width} told, {want} of {own.units} planted")
        elif own.nearly_width > want:
            wrong.append(f"missed {kind} {dtype} {layer.name}: {own.nearly_width} told, {want} of {own.units} planted")
    return wrong


def one(family: str, kind: str, seed: int) -> list[str]:
    """Return what is wrong about one network."""
    for attempt in range(20):
        rng = np.random.default_rng([seed, attempt])
        torch.manual_seed(seed + 100_000 * attempt)
        net = FAMILIES[family](rng)
        net.module.double()
        if kind in MOVED:
            plant(net, "copies", rng)
            with torch.no_grad():  # no round numbers
                for p in net.module.parameters():
                    p.mul_(1.2345678912345)
            return moved(net, seed, kind)
        act = {"sign": _ODD, "scale": _HOMOGENEOUS}.get(kind)
        if act is not None and isinstance(getattr(net.module, "act", None), nn.Module):
            net.module.act = copy.deepcopy(act[int(rng.integers(0, len(act)))])
        factor = twins(net, kind, rng) if kind != "none" else 1.0
        if not silent(net, seed) and not unsteady(net, seed):
            break
    return trained(net, seed, factor, kind)


def main() -> None:
    """Run all of it and print what came out."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nets", type=int, default=210)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", default="")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    kinds = [chosen.kind] if chosen.kind else [*TRAINED, *MOVED]
    start = time.time()
    all_: Counter[str] = Counter()
    false: Counter[str] = Counter()
    missed: Counter[str] = Counter()
    for k in range(chosen.nets):
        kind = kinds[k % len(kinds)]
        family = list(FAMILIES)[(k // len(kinds)) % len(FAMILIES)]
        wrong = one(family, kind, chosen.seed + k)
        all_[kind] += 1
        false[kind] += any(line.startswith("FALSE") for line in wrong)
        missed[kind] += any(line.startswith("missed") for line in wrong)
        for line in wrong:
            print(f"{family} seed {chosen.seed + k}: {line}", flush=True)
    for kind in kinds:
        print(f"{kind:8} {all_[kind]:4} nets, {false[kind]} with a false claim, {missed[kind]} with one missed")
    print(f"{time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
