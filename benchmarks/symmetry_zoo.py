"""Ties and silent parameters of models as their experts initialise them, against their own training.

    python -m benchmarks.symmetry_zoo [--only NAME ...] [--most MILLIONS] [--train MILLIONS] [--plant MILLIONS]

The models are those of `benchmarks.false_alarms`. Of each it is listed what is claimed as it is built: tied units (also
nearly, and twins), parameters that never move, that are cancelled, and that sleep. A model with claims is then trained
three steps in float64, with a loss that is invariant to nothing: what is told silent must get no gradient until it is
told to wake, and what is told tied must still be equal. Models up to `--plant` are looked at a second time, with most
of their weights set constant and equal rows and columns in the others, so that there is much to claim.

Each model has a process of its own, one at a time. It exits with 1 where training contradicts a claim.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import re
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks import false_alarms_models as models
from benchmarks.false_alarms import _import_all
from benchmarks.zoo import Built, Row, build
from initaudit import layers, symmetry
from initaudit.audit import live
from initaudit.freedom import Freedom, LayerFreedom, ParameterFreedom
from initaudit.symmetry.moving import Moving
from initaudit.types import Graph, Layer

SMALL = 1e-9  # of the largest gradient, and of a value: below it rounding is all there is
APART = 1e-8  # of the largest value: from here two units differ
NARROW = 1e4  # times as much where a model computes in float32 whatever its weights are
STEPS = 3
LIMIT = 900  # seconds for one model
_LAST, _FIRST = (nn.Linear, nn.Embedding), (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d)

Record = dict[str, Any]
Part = tuple[str, int, int, str]  # name, how many of it, of how many, why


# ---- training


class Narrow(TorchDispatchMode):
    """Sees whether anything is computed in float32 or less."""

    seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.seen |= torch.is_tensor(out) and out.is_floating_point() and out.dtype != torch.float64 and out.dim() > 0
        return out


def tensors(value: object) -> Iterator[torch.Tensor]:
    """Yield what a model returns."""
    if torch.is_tensor(value):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from tensors(one)
    elif hasattr(value, "__dict__"):
        yield from tensors(vars(value))


def learning(module: nn.Module) -> nn.Module:
    """Return a module whose batch norms train, and which drops nothing."""
    module.eval()
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.train()
    return module


def descend(module: nn.Module, inputs: Mapping[str, Any]) -> None:
    """Leave a gradient of a loss that is invariant to nothing."""
    g = torch.Generator().manual_seed(1)
    module.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for y in tensors(module(**inputs)):
        if y.is_floating_point() and y.requires_grad:
            total = total + (torch.randn(y.shape, generator=g, dtype=torch.float64) * y).mean()
            total = total + (torch.rand(y.shape, generator=g, dtype=torch.float64) * y**2).mean()
    total.backward()


def wide(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs in float64."""
    return {k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in inputs.items()}


def several(module: nn.Module, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return inputs of which there are enough for batch norms to train on."""
    try:
        with torch.no_grad():
            learning(module)(**inputs)
    except ValueError:
        return {k: torch.cat([v, v.flip(-1)]) if torch.is_tensor(v) and v.dim() else v for k, v in inputs.items()}
    return inputs


def trained(
    module: nn.Module, inputs: Mapping[str, Any], graph: Graph, moving: Mapping[str, Moving], steps: int = STEPS
) -> tuple[float, list[str]]:
    """Train a few steps; return how much rounding is, and which parameters moved before they were told to."""
    own = dict(learning(module).named_parameters())
    with Narrow() as sees, torch.no_grad():
        module(**inputs)
    rounding = NARROW if sees.seen else 1.0
    made = torch.optim.SGD(module.parameters(), 1e-3)
    wrong = []
    for step in range(1, steps + 1):
        descend(module, inputs)
        top = max(float(p.grad.abs().max()) for p in own.values() if p.grad is not None)
        for value, m in moving.items():
            name = graph.constants[value].name
            p = own.get(name)
            if p is None or p.grad is None or tuple(p.shape) != graph.constants[value].shape:
                continue
            quiet = np.broadcast_to(m.reach & ((m.step == 0) | (m.step > step)), p.shape)
            worst = float(p.grad.abs().numpy()[quiet].max(initial=0)) / top
            if worst > SMALL * rounding:
                wrong.append(f"{name} moves at step {step} ({worst:.0e} of the largest gradient)")
        nn.utils.clip_grad_norm_(module.parameters(), 10.0)
        made.step()
    return rounding, wrong


def outputs(module: nn.Module, inputs: Mapping[str, Any]) -> dict[str, list[torch.Tensor]]:
    """Return what layers make, by unit."""
    seen: dict[str, list[torch.Tensor]] = {}
    hooks = []
    for name, part in module.named_modules():
        axis = -1 if isinstance(part, _LAST) else 1 if isinstance(part, _FIRST) else None
        if axis is not None:

            def hook(_m: object, _x: object, out: object, name: str = name, axis: int = axis) -> None:
                made = next(tensors(out))  # a layer of one's own may return more
                seen.setdefault(name, []).append(made.detach().movedim(axis, 0).flatten(1))

            hooks.append(part.register_forward_hook(hook))
    with torch.no_grad():
        module(**inputs)
    for one in hooks:
        one.remove()
    return seen


def parted(
    module: nn.Module, inputs: Mapping[str, Any], found: Sequence[Layer], told: Freedom, rounding: float
) -> tuple[int, int, list[str]]:
    """Return how many units are told equal to another, how many of these were looked at, and which are not equal."""
    seen = outputs(module, inputs)
    own = dict(module.named_parameters())
    tied = checked = 0
    wrong = []
    for layer, one in zip(found, told.layers, strict=True):
        if one is None:
            continue
        values = seen.get(layer.name) or _sums(layer, own)
        for what, sets, differ in (("ties", one.classes, _differ), ("twins", one.twins, _skew)):
            parts = []
            for units in sets:
                tied += len(units) - 1
                fitting = [y for y in values if max(units) < len(y)]
                checked += (len(units) - 1) * bool(fitting)
                parts.append(max((differ(y, units) for y in fitting), default=0.0))
            over = [worst for worst in parts if worst > APART * rounding]
            if over:
                wrong.append(f"{layer.name}: {len(over)} of {len(sets)} {what} part ({max(over):.0e})")
    return tied, checked, wrong


def _sums(layer: Layer, own: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the sums of each row over all that comes in: equal for tied units, whatever is tied below them."""
    p, axes = own.get(layer.weight.name), layer.axes
    if p is None or tuple(p.shape) != layer.weight.shape or len(axes) != p.dim():
        return []
    units, terms, rest = ([a for a, c in enumerate(axes) if c in which] for which in ("so", "i", "k"))
    shape = [math.prod(p.shape[a] for a in some) for some in (units, terms, rest)]
    return [p.detach().permute([*units, *terms, *rest]).reshape(shape).sum(1)]


def _differ(y: torch.Tensor, units: Sequence[int]) -> float:
    size = float(y.abs().max())
    return float((y[list(units)] - y[units[0]]).abs().max()) / size if size > SMALL else 0.0


def _skew(y: torch.Tensor, units: Sequence[int]) -> float:
    """Return how far units are from multiples of the first."""
    first, others = y[units[0]], y[list(units)]
    scale = (others @ first) / (first @ first).clamp_min(1e-300)
    size = float(others.abs().max())
    return float((others - scale[:, None] * first).abs().max()) / size if size > SMALL else 0.0


# ---- one model


def as_shipped(module: nn.Module, inputs: Mapping[str, Any], *, train: bool) -> Record:
    """Return what is claimed of a model as it is, and what of that training contradicts."""
    model = live(module, dict(inputs))
    assert model.graph is not None
    found, _ = layers.infer(model)
    start = time.perf_counter()
    told = symmetry.analyse(model.graph, found)
    seconds = time.perf_counter() - start
    record = {
        "seconds": seconds,
        "layers": len(told.layers),
        "unknown": sum(one is None for one in told.layers),
        "tied": [_widths(one) for one in told.layers if one is not None and one.classes],
        "nearly": [_widths(one) for one in told.layers if one is not None and one.nearly],
        "twins": [_flipped(one) for one in told.layers if one is not None and one.twins],
        "dead": [_dead(p) for p in told.parameters if p.dead],
        "cancelled": [p.name for p in told.parameters if p.cancelled],
        "asleep": dict(Counter(step for p in told.parameters for step, _ in p.late)),
        "equal": sum(len(u) - 1 for one in told.layers if one is not None for u in (*one.classes, *one.twins)),
        "unread": list(told.unread),
        "wrong": [],
        "trained": False,
    }
    claims = told.parameters or any(one is not None and (one.classes or one.twins) for one in told.layers)
    if not (claims and train):
        return {**record, "claims": bool(claims)}
    moving = symmetry.movements(model.graph)
    inputs = several(module.double(), wide(inputs))
    lasting = any(p.dead or p.cancelled for p in told.parameters) or record["tied"] or record["twins"]
    steps = STEPS if lasting else told.steps - 1  # what sleeps is silent until it wakes
    rounding, wrong = trained(module, inputs, model.graph, moving, steps)
    _, looked, apart = parted(module, inputs, found, told, rounding)
    return {**record, "claims": True, "trained": True, "wrong": wrong + apart, "looked": looked}


def _widths(one: LayerFreedom) -> Part:
    return one.name, min(one.width, one.nearly_width), one.units, ""


def _flipped(one: LayerFreedom) -> Part:
    return one.name, sum(map(len, one.twins)), one.units, ""


def _dead(one: ParameterFreedom) -> Part:
    return one.name, one.dead, one.size, f"({one.cause})" if one.cause else ""


def plant(module: nn.Module, seed: int) -> None:
    """Set most weights constant, and make a few rows and columns of the others equal."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for p in module.parameters():
            if p.dim() > 1 and rng.random() < 0.8:
                p.fill_(0.03125)
            elif p.dim() > 1 and p.shape[0] > 2:
                p[1] = p[0]
                p[:, min(1, p.shape[1] - 1)] = p[:, 0]


def planted(make: Callable[[], Built], seed: int) -> Record:
    """Return how many units are told tied once weights are set constant, and which of them part."""
    module, inputs = make()
    plant(module, seed)
    model = live(module.eval(), dict(inputs))
    assert model.graph is not None
    found, _ = layers.infer(model)
    told = symmetry.analyse(model.graph, found)
    inputs = several(module.double(), wide(inputs))
    rounding, _ = trained(module, inputs, model.graph, {})
    tied, checked, wrong = parted(module, inputs, found, told, rounding)
    noise = 0.0
    if wrong:  # or rounding, which norms of constant channels amplify
        other = make()[0].double()
        plant(other, seed)
        noise = noise_of(module, other, inputs, model.graph)
        tied, checked, wrong = parted(module, inputs, found, told, max(rounding, 10 * noise / APART))
    return {"planted": (tied, checked), "parted": wrong, "noise": noise}


def noise_of(module: nn.Module, other: nn.Module, inputs: Mapping[str, Any], graph: Graph) -> float:
    """Return how far the same model is from the first after the same training, had it started from the next numbers."""
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(1 + 1e-15 * torch.randn(p.shape, generator=g, dtype=p.dtype))
    trained(other, inputs, graph, {})
    pairs = zip(outputs(module, inputs).values(), outputs(other, inputs).values(), strict=True)
    sizes = [
        (float((a - b).abs().max()), float(a.abs().max())) for xs, ys in pairs for a, b in zip(xs, ys, strict=True)
    ]
    return max((apart / size for apart, size in sizes if size > SMALL), default=0.0)


def look(row: Row, seed: int, train: float, plant: float) -> Record:
    """Build a model and return what came out."""
    module, inputs = build(row)
    size = sum(p.numel() for p in module.parameters())
    record: Record = {"name": row.name, "parameters": size, "failed": []}
    tries: list[tuple[str, Callable[[], Record]]] = [
        ("as shipped", lambda: as_shipped(module, inputs, train=size <= train * 1e6))
    ]
    if size <= plant * 1e6:
        tries.append(("planted", lambda: planted(lambda: build(row), seed)))
    for what, work in tries:
        try:
            record.update(work())
        except Exception as fault:
            record["failed"].append(f"{what}: {type(fault).__name__}: {' '.join(str(fault).split())[:120]}")
    return record


def _child(row: Row, seed: int, train: float, plant: float, pipe: Any) -> None:
    warnings.filterwarnings("ignore")
    pipe.send(look(row, seed, train, plant))


def apart(row: Row, seed: int, train: float, plant: float) -> Record:
    """Do the same in a process of its own."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    process = fork.Process(target=_child, args=(row, seed, train, plant, theirs))
    process.start()
    theirs.close()
    try:
        if ours.poll(LIMIT):
            got: Record = ours.recv()
            return got
        why = f"more than {LIMIT} s"
    except EOFError:
        why = "its process ended"
    finally:
        process.kill()
        process.join()
    return {"name": row.name, "parameters": 0, "failed": [why]}


# ---- what came out


def render(records: Sequence[Record]) -> str:
    """Return the outcome as text."""
    whole = [r for r in records if "tied" in r]
    trained_ = [r for r in whole if r["trained"]]
    second = [r for r in records if "planted" in r]
    wrong = {r["name"]: [*r.get("wrong", ()), *r.get("parted", ())] for r in records}
    claims, looked = sum(r["claims"] for r in whole), sum(r["looked"] for r in trained_)
    told = [sum(r["planted"][k] for r in second) for k in (0, 1)]
    million = sum(r["parameters"] for r in whole) / 1e6
    seconds = sum(r["seconds"] for r in whole)
    equal = sum(r["equal"] for r in whole)
    asleep = sum(sum(r["asleep"].values()) for r in whole)
    noisy = sum(r["noise"] > 0 for r in second)
    lines = [
        f"- {len(records)} models, {len(whole)} analysed as shipped: {million:.0f} M parameters in {seconds:.0f} s",
        f"- {sum(r['layers'] for r in whole)} layers, {sum(r['unknown'] for r in whole)} of them with units not known",
        f"- claims: {equal} units equal to another, {_count(whole, 'dead')} tensors dead in whole or in part",
        f"- and {_count(whole, 'cancelled')} tensors cancelled, {asleep} asleep at first",
        f"- {claims} models have claims, {len(trained_)} were trained; {looked} of the units were looked at",
        f"- {len(second)} models planted: {told[0]} units told equal to another, {told[1]} of them looked at",
        f"- in {noisy} of these rounding alone parts units by more than {APART:g}, and hides so much",
        f"- contradicted by training: {sum(map(len, wrong.values()))}",
        "",
    ]
    for name, own in wrong.items():
        lines += [f"- WRONG: {name}: {what}" for what in own[:4]]
        lines += [f"- WRONG: {name}: {len(own) - 4} more"] * (len(own) > 4)
    lines += [f"- failed: {r['name']}: {why}" for r in records for why in r["failed"]]
    rows = [r for r in whole if r["tied"] or r["nearly"] or r["twins"] or r["dead"]]
    lines += ["", "| what experts ship | tied, nearly | twins | dead |", "|---|---|---|---|"]
    lines += [
        f"| {r['name']} | {_folded((*r['tied'], *r['nearly']))} | {_folded(r['twins'])} | {_folded(r['dead'])} |"
        for r in rows
    ]
    wakes = Counter(int(step) for r in whole for step, n in r["asleep"].items() for _ in range(n))
    lines += ["", "| wakes at step | parameters | models |", "|---|---|---|"]
    lines += [f"| {s} | {n} | {sum(s in r['asleep'] for r in whole)} |" for s, n in sorted(wakes.items())]
    unread = Counter(op for r in whole for op in r["unread"])
    lines += ["", "Not understood, in models: " + (", ".join(f"{op} {n}" for op, n in unread.most_common()) or "-")]
    return "\n".join(lines)


def _count(records: Sequence[Record], what: str) -> int:
    return sum(len(r[what]) for r in records)


def _folded(parts: Sequence[Part]) -> str:
    """Return parts whose names differ in a number between dots only as one, with how many they are."""
    groups: dict[tuple[str, str], list[Part]] = {}
    for part in parts:
        groups.setdefault((re.sub(r"(?<![^.])\d+(?![^.])", "N", part[0]), part[3]), []).append(part)
    told = []
    for (name, why), own in groups.items():
        called = f"{name} (x{len(own)})" if len(own) > 1 else own[0][0]
        told.append(f"{called} {sum(p[1] for p in own)} of {sum(p[2] for p in own)} {why}")
    return ", ".join(one.strip() for one in told[:8]) + (f" and {len(told) - 8} more" if len(told) > 8 else "") or "-"


def main() -> int:
    """Run all of it and print what came out."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.symmetry_zoo")
    parser.add_argument("--only", nargs="*", default=[], help="names of models")
    parser.add_argument("--most", type=float, default=1000.0, help="millions of parameters of the largest model")
    parser.add_argument("--train", type=float, default=1000.0, help="the same for models that are trained as shipped")
    parser.add_argument("--plant", type=float, default=0.5, help="the same for models that are planted")
    chosen = parser.parse_args()
    _import_all()
    records = []
    for seed, row in enumerate(models.EVERY):
        if chosen.only and row.name not in chosen.only:
            continue
        start = time.perf_counter()
        record = apart(row, seed, chosen.train, chosen.plant)
        if record["parameters"] > chosen.most * 1e6:
            continue
        records.append(record)
        said = {k: v for k, v in record.items() if v and k not in ("name", "seconds", "layers")}
        print(f"{row.name}: {time.perf_counter() - start:.0f} s: {said}", file=sys.stderr, flush=True)
    print(render(records))
    return int(any(r.get("wrong") or r.get("parted") for r in records))


if __name__ == "__main__":
    sys.exit(main())
