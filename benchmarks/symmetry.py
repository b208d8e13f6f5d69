"""Effective widths against the truth by training.

    python -m benchmarks.symmetry [--nets N] [--seed S] [--family NAME] [--files older dynamo]

Random small networks with planted ties and zeros are trained in float64, 50 steps of SGD and of Adam. After that

    the units that still do the same on random inputs are counted, and compared with the effective widths,
    the elements of parameters that changed by less than 1e-6 of the median (of those that changed at all) are compared
    with those named,
    and the step at which each element first gets a gradient with the one that was told,

all told before the first step. With `--files` the widths are told of ONNX files of the same networks too.
"""

from __future__ import annotations

import contextlib
import copy
import io
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  as everyone calls it

from benchmarks.symmetry_more import Tap, gated, odd, routed, stacks
from benchmarks.symmetry_nets import FAMILIES, Stack, seeded
from benchmarks.symmetry_plants import PLANTS, Net, plant
from benchmarks.symmetry_sleep import EARLY, RATE, against
from benchmarks.symmetry_spellings import heads, spatial
from initaudit import layers, symmetry
from initaudit.audit import live, read
from initaudit.symmetry.moving import Moving
from initaudit.types import Layer, Model

STEPS = 50
STILL = 1e-6  # of the median movement of what moved at all: what moved less never moved
APART = 1e-8
SHAKEN = 1e-11
_SMEAR = 1e-13  # of the largest gradient
ALL = FAMILIES | {
    "gated": gated, "stacks": stacks, "heads": heads, "routed": routed, "spatial": spatial, "odd": odd,
}  # fmt: skip
_UNITS = {
    nn.Linear: (-1,), nn.Bilinear: (-1,), nn.Embedding: (-1,), nn.EmbeddingBag: (-1,), nn.Conv1d: (1,),
    nn.Conv2d: (1,), nn.Conv3d: (1,), nn.ConvTranspose1d: (1,), nn.ConvTranspose2d: (1,), Stack: (1, 2),
}  # fmt: skip


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
    for step in range(steps):
        made.zero_grad()
        (weigh * (module(x) - target) ** 2).mean().backward()
        if net.slow and not adam:  # what wakes late would be too small to see at a fixed rate
            largest = max(float(p.grad.abs().max()) for p in own if p.grad is not None)
            made.param_groups[0]["lr"] = RATE / largest if step < EARLY and largest > 1e-12 else 0.03
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
    """Whether a weight gets no gradient but what rounding leaves, which may break any tie, or a unit is off."""
    module = copy.deepcopy(net.module).train()
    g = torch.Generator().manual_seed(seed)
    y = module(net.inputs(g, 24))
    ((y - torch.randn(y.shape, generator=g, dtype=torch.float64)) ** 2).mean().backward()
    every = [p.grad if p.grad is not None else torch.zeros_like(p) for p in module.parameters()]
    bends = net.picks or any(isinstance(part, (nn.ReLU, nn.LeakyReLU, nn.PReLU)) for part in module.modules())
    if bends and any(bool((grad == 0).any()) for grad in every):
        return True  # off for the whole batch, or a slope that is not used
    sizes = [float(grad.abs().max()) for grad in every if grad.dim() > 1]
    return min(sizes) < 1e-9 * float(np.median(sizes))


def truth(net: Net, module: nn.Module, seed: int) -> dict[str, int]:
    """Return the number of units that differ, by parameter."""
    found: dict[str, int] = {}
    g = torch.Generator().manual_seed(seed + 1)
    hooks = []
    for name, part in module.named_modules():
        if (watch := _watched(name, part, found)) is not None:
            hooks.append(part.register_forward_hook(watch))
    with torch.no_grad():
        module(net.inputs(g, 24))
    for hook in hooks:
        hook.remove()
    return found


def _watched(
    name: str, part: nn.Module, found: dict[str, int]
) -> Callable[[nn.Module, tuple[torch.Tensor, ...], Any], None] | None:
    """Return a hook that counts the units of a module; None for one that has none of its own."""
    own = next((axes for kind, axes in _UNITS.items() if isinstance(part, kind)), None)
    if isinstance(part, Tap):
        *times, first = part.of.split(" ", 1)
        names = (first if times else part.of).split()

        def hook(_m: nn.Module, _x: tuple[torch.Tensor, ...], out: Any) -> None:
            found.update(dict.fromkeys(names, int(*times or "1") * distinct(out.detach(), part.axes)))
            if len(part.axes) > 1:  # of each of several in one tensor
                for k, own in enumerate(out.detach().unbind(part.axes[0])):
                    found[f"{names[0]}[{k}]"] = distinct(own, (part.axes[1] - 1,))

    elif own is not None:

        def hook(_m: nn.Module, _x: tuple[torch.Tensor, ...], out: Any) -> None:
            found[f"{name}.weight"] = distinct(out.detach(), own)

    elif isinstance(part, nn.RNNBase):

        def hook(_m: nn.Module, x: tuple[torch.Tensor, ...], out: Any) -> None:
            found.update(_recurrent(name, part, x))

    elif isinstance(part, nn.MultiheadAttention):

        def hook(_m: nn.Module, x: tuple[torch.Tensor, ...], out: Any) -> None:
            rows = [
                F.linear(y, w, b).detach()
                for y, w, b in zip(x[:3], part.in_proj_weight.chunk(3), part.in_proj_bias.chunk(3), strict=True)
            ]
            found[f"{name}.in_proj_weight"] = sum(distinct(row, (-1,)) for row in rows)

    else:
        return None
    return hook


def _recurrent(name: str, part: nn.RNNBase, x: tuple[torch.Tensor, ...]) -> dict[str, int]:
    """Return the units of every layer and direction, each run alone with the weights that it has."""
    found = {}
    gates = {"LSTM": 4, "GRU": 3}.get(part.mode, 1)
    y, start = x[0].detach(), x[1:2]
    for layer in range(part.num_layers):
        outs = []
        for way in ("", "_reverse") if part.bidirectional else ("",):
            options: dict[str, Any] = {"batch_first": part.batch_first}
            if isinstance(part, nn.RNN):
                options["nonlinearity"] = part.nonlinearity
            if part.proj_size:
                options["proj_size"] = part.proj_size
            one = type(part)(y.shape[-1], part.hidden_size, **options).double()
            for key, _ in one.named_parameters():
                getattr(one, key).data.copy_(getattr(part, key[:-1] + str(layer) + way))
            time = int(part.batch_first)
            out = one(y.flip(time) if way else y, *start)[0].detach()
            outs.append(out.flip(time) if way else out)
            cells = out
            if part.proj_size:
                found[f"{name}.weight_hr_l{layer}{way}"] = distinct(out, (-1,))
                steps = y.unbind(time)
                cells = torch.stack([one(y.narrow(time, 0, t + 1))[1][1][0].detach() for t in range(len(steps))])
            for which in ("ih", "hh"):
                found[f"{name}.weight_{which}_l{layer}{way}"] = gates * distinct(cells, (-1,))
        y = torch.cat(outs, -1)
    return found


def _name(layer: Layer, real: Mapping[str, int]) -> str:
    """Return by what name the truth knows a layer: its parameter's, or one of several in that."""
    known = next((n for n in (layer.weight.name, layer.name, f"{layer.name}.weight") if n in real), "")
    if known and len(layer.weight.shape) == 2 and f"{known}[0]" in real:
        return f"{known}[{layer.weight.offset // layer.weight.size}]"
    return known


@dataclass
class Outcome:
    """What is told otherwise than it is of one network."""

    widths: list[str]
    never: list[str]
    wakes: list[str]
    redrawn: list[str]  # why networks were drawn before this one, and not looked at
    tied: bool = False  # whether any units are
    asleep: bool = False  # whether any parameter does not move as a whole at the first step
    hidden: int = 0  # elements whose wake step rounding hides


def drawn(family: str, kind: str, seed: int) -> tuple[Net, list[str]]:
    """Return a network in which training tells units apart by more than rounding, and why others were not taken."""
    why: list[str] = []
    for attempt in range(20):
        rng = np.random.default_rng([seed, attempt])
        torch.manual_seed(seed + 100_000 * attempt)
        net = ALL[family](rng)
        net.module.double()
        plant(net, kind, rng)
        net.slow = kind == "zeros"
        if net.slow:  # what is off, or not below zero, for a batch is no question of zeros
            for part in net.module.modules():
                if isinstance(getattr(part, "act", None), (nn.ReLU, nn.LeakyReLU)):
                    part.act = nn.GELU()
            norms = getattr(net.module, "norms", None)
            for k, part in enumerate(norms if isinstance(norms, nn.ModuleList) else ()):
                if isinstance(part, nn.PReLU):
                    norms[k] = nn.Identity()
        if (kind != "zeros" or net.picks) and silent(net, seed):
            why.append("units off, or weights without a gradient, for the whole batch")
        elif unsteady(net, seed) or (net.slow and _smeared(net, seed)):
            why.append("rounding alone changes what is learned")
        else:
            break
    return net, why


def _smeared(net: Net, seed: int) -> bool:
    """Whether rounding leaves a gradient where exact arithmetic has none: steps of any size then move it in the end."""
    g = torch.Generator().manual_seed(seed)
    module = copy.deepcopy(net.module).train()
    y = module(net.inputs(g, 24))
    ((y - torch.randn(y.shape, generator=g, dtype=torch.float64)) ** 2).mean().backward()
    sizes = torch.cat([p.grad.abs().flatten() for p in module.parameters() if p.grad is not None])
    return bool(((sizes > 0) & (sizes < _SMEAR * sizes.max())).any())


def one(family: str, kind: str, seed: int, files: Sequence[str] = ()) -> Outcome:
    """Return what is told otherwise than it is of one network."""
    net, why = drawn(family, kind, seed)
    out = Outcome([], [], [], why)
    g = torch.Generator().manual_seed(seed)
    x = net.inputs(g, 3)
    models = {"": live(net.module, (x,))}
    for which in files:
        found = _written(net.module, x, dynamo=which == "dynamo")
        if isinstance(found, str):
            out.widths.append(f"{which}: not exported: {found}")
        else:
            models[f"{which} "] = found
    trained = [(name, train(net, name == "Adam", seed)) for name in ("SGD", "Adam")]
    real = [(name, _alive(truth(net, module, seed), module)) for name, module in trained]
    for where, model in models.items():
        if model.graph is None:
            out.widths.append(f"{where}no graph")
            continue
        found, _ = layers.infer(model)
        told = symmetry.analyse(model.graph, found)
        out.widths += [f"{where}not understood: {name}" for name in told.unread]
        for name, widths in real:
            out.widths += [f"{where}{name} {line}" for line in _against(found, told, widths)]
        if not where:
            out.tied = any(own is not None and own.width < own.units for own in told.layers)
            out.asleep = bool(told.parameters)
            moving = symmetry.movements(model.graph)
            names = {t.name: moving[value] for value, t in model.graph.constants.items() if value in moving}
            for name, module in trained:
                late = net.slow and name == "SGD"  # what wakes late moves too little to be seen by then
                out.never += [f"{name} {line}" for line in _still(net.module, module, names, late=late)]
    out.wakes, out.hidden = against(net, seed)
    return out


def _still(before: nn.Module, after: nn.Module, told: Mapping[str, Moving], *, late: bool) -> Iterator[str]:
    """Yield where what never moved is not what was named; with `late` only what was named and moved."""
    changes = {
        n: (q - p).abs().detach() for (n, p), q in zip(before.named_parameters(), after.parameters(), strict=True)
    }
    every = torch.cat([change.flatten() for change in changes.values()])
    least = STILL * float(every[every > STILL * every.max()].median())
    for name, change in changes.items():
        if (own := told.get(name)) is None:
            continue
        never = np.broadcast_to(own.step == 0, change.shape)
        off = (never != (change < least).numpy()) & np.broadcast_to(own.reach, change.shape)
        off = off & never if late else off
        if off.any():
            at = tuple(int(k) for k in np.argwhere(off)[0])
            mine = "never" if never[at] else "moves"
            yield f"{name}{list(change.shape)}: {int(off.sum())} off, as at {at}: {mine} told"


def _alive(widths: Mapping[str, int], module: nn.Module) -> dict[str, int]:
    """Leave out what stays zero throughout: its units are dead, and no question of ties."""
    zero = tuple(name for name, p in module.named_parameters() if p.dim() > 1 and not bool(p.any()))
    return {name: width for name, width in widths.items() if not name.startswith(zero)}


def _against(found: Sequence[Layer], told: symmetry.Freedom, real: Mapping[str, int]) -> Iterator[str]:
    """Yield what is told otherwise than it is."""
    for layer, own in zip(found, told.layers, strict=True):
        want = real.get(_name(layer, real))
        width = None if own is None else own.width
        if want is not None and width != want:
            yield f"{layer.name}: {width} told, {want} of {layer.units} true"


def _written(module: nn.Module, x: torch.Tensor, *, dynamo: bool) -> Model | str:
    """Return a network as it is read from an ONNX file; a reason where it cannot be written."""
    short = copy.deepcopy(module).float()
    x = x.float() if x.is_floating_point() else x
    options: dict[str, Any] = {} if dynamo else {"training": torch.onnx.TrainingMode.PRESERVE, "opset_version": 17}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = f"{folder}/net.onnx"
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                torch.onnx.export(short, (x,), path, dynamo=dynamo, **options)
        except Exception as fault:  # exporters raise what they like
            return f"{type(fault).__name__} {str(fault)[:80]!r}"
        return read(path)


def main() -> None:
    """Run all of it and print what came out."""
    parser = seeded(200)
    parser.add_argument("--files", nargs="*", default=(), choices=("older", "dynamo"), help="ONNX exporters")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    families = [chosen.family] if chosen.family else list(ALL)
    start = time.time()
    counts: dict[str, Counter[str]] = {family: Counter() for family in families}
    redrawn: Counter[str] = Counter()
    for k in range(chosen.nets):
        family = families[k % len(families)]
        kind = PLANTS[(k // len(families)) % len(PLANTS)]
        found = one(family, kind, chosen.seed + k, chosen.files)
        counts[family] += Counter(
            nets=1, widths=not found.widths, never=not found.never, wakes=not found.wakes, tied=found.tied,
            asleep=found.asleep, hidden=found.hidden > 0, redrawn=bool(found.redrawn),
        )  # fmt: skip
        redrawn.update(found.redrawn)
        for about in ("widths", "never", "wakes"):
            for line in dict.fromkeys(getattr(found, about)):
                print(f"{family} {kind} seed {chosen.seed + k}: {about}: {line}", flush=True)
    print("| networks | drawn | with ties | asleep or still | widths right | never moved right | wake steps right |")
    print("|---|---|---|---|---|---|---|")
    rows = [*counts.items(), ("all", sum(counts.values(), Counter()))]
    for family, own in rows:
        print("| " + " | ".join([family, *(str(own[n]) for n in (
            "nets", "tied", "asleep", "widths", "never", "wakes"))]) + " |")  # fmt: skip
    whole = rows[-1][1]
    print(f"drawn again: {whole['redrawn']} of the networks, {dict(redrawn)}")
    print(f"rounding hides the wake step of some elements in {whole['hidden']}; {time.time() - start:.0f} s")


if __name__ == "__main__":
    main()
