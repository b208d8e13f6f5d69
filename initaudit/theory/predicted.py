"""From a walk to what there is to say of each layer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import fields, replace
from functools import lru_cache
from statistics import NormalDist
from typing import Any

import numpy as np

from initaudit.layers.spots import Place, Places
from initaudit.theory.activate import slopes
from initaudit.theory.bending import bender
from initaudit.theory.engine import Learned, Walk, finite
from initaudit.theory.kernel import PLACE, Kernel
from initaudit.types import Array, Head, Measured, Signal

_PROBABILITIES = frozenset({"softmax", "log_softmax"})
_ALIKE = 1.9  # times 1/n, the second moment of the mean of n units that know nothing of each other
_STEPS = frozenset({"identity", "cast", "reshape", "squeeze"})


def targets(places: Places) -> tuple[str, ...]:
    """Return the outputs that gradients start from: before probabilities, and none that another is made of."""
    view = places.view
    ends = tuple(dict.fromkeys(_logits(places, name) for name in view.graph.outputs))
    above: dict[str, set[int]] = {name: _ancestors(places, name) for name in ends}
    kept = []
    for name in ends:
        at = view.producer.get(name)
        if at is not None and any(o != name and view.producer.get(o) != at and at in above[o] for o in ends):
            continue
        kept.append(name)
    return tuple(kept)


def _logits(places: Places, name: str) -> str:
    at = places.view.producer.get(name)
    passed = name
    while at is not None:
        node = places.view.nodes[at]
        if node.op in _PROBABILITIES and node.inputs:
            return node.inputs[0]
        if node.op not in _STEPS or not node.inputs:
            break
        passed = node.inputs[0]
        at = places.view.producer.get(passed)
    return name


def _ancestors(places: Places, name: str) -> set[int]:
    seen: set[int] = set()
    todo = [name]
    while todo:
        at = places.view.producer.get(todo.pop())
        if at is not None and at not in seen:
            seen.add(at)
            todo += places.view.nodes[at].inputs
    return seen


def row(walk: Walk, place: Place, measured: Measured, inputs: int) -> Signal:
    """Return what a walk says of one layer."""
    values = [k for name in place.outs if (k := walk.kernels.get(name)) is not None]
    variance = _mean([float(k.own[0]) for k in values])
    second = _mean([float(k.same[0]) for k in values])
    dead = saturated = None
    if place.bend is not None:
        dead, saturated = _slopes(walk, place, inputs)
    learned = _learned(walk, place)
    gradient = common = contrast = None
    if learned is not None:
        gradient = math.sqrt(max(0.0, learned.square)) if math.isfinite(learned.square) else None
        contrast = finite(max(0.0, learned.contrast))
        common = finite(max(0.0, learned.cross + learned.batch / inputs))
    stats = measured.stats
    size = math.sqrt(stats.count * (stats.variance + stats.mean**2)) if stats.count else 0.0
    return Signal(
        forward_variance=finite(variance),
        second_moment=finite(second),
        input_correlation=_mean([c for k in values if (c := _correlation(k)) is not None]),
        dead=finite(dead),
        saturated=finite(saturated),
        gradient=finite(gradient),
        relative_gradient=finite(gradient / size) if gradient is not None and size > 0 else None,
        common=common,
        contrast=contrast,
        tied=_tied(walk, place, measured),
    )


def _tied(walk: Walk, place: Place, measured: Measured) -> float | None:
    """Return the share of units that are copies of another in their weights and in the gradient that comes back."""
    units = measured.stats.rows.hash
    if len(units) < 2 or measured.layer.kind in ("norm", "embedding"):
        return None
    if len(np.unique(units)) == len(units):
        return 0.0
    keys = [np.unique(units, return_inverse=True)[1].ravel()]
    for tensor, _ in measured.tensors:  # units with equal weights and other biases are no copies
        values = walk.weights.loaded(tensor) if tensor.shape == (len(units),) else None
        if values is not None and values.dtype.kind == "f":
            keys.append(np.unique(values, return_inverse=True)[1].ravel())
    _, group, counts = np.unique(np.stack(keys), axis=1, return_inverse=True, return_counts=True)
    group = np.ravel(group)
    copies = float(np.mean(counts[group] > 1))
    if not copies:
        return 0.0
    backs = [d for name in place.outs if (d := walk.backs.get(name)) is not None]
    if not backs:
        return None
    alike = max(d.alike for d in backs) * len(units)
    return copies if alike >= _ALIKE else 0.0


def _correlation(k: Kernel) -> float | None:
    whole = float(k.same[0])
    return finite(float(k.cross[0]) / whole) if whole > 0 else None


def _learned(walk: Walk, place: Place) -> Learned | None:
    """Return the gradient of a layer's weight; None where it is not known, zeros where nothing comes back."""
    own = [t for name in place.constants if (t := walk.view.graph.constants.get(name)) is not None]
    if own and all(t.buffer for t in own):
        return None  # it does not learn
    names = [name for name in place.constants if name in walk.learned and not _buffer(walk, name)]
    if names:
        out = Learned()
        for name in names:
            out.square += walk.learned[name].square
            out.cross += walk.learned[name].cross
            out.apart += walk.learned[name].apart
            out.batch += walk.learned[name].batch
            out.contrast += walk.learned[name].contrast
        if any(at in walk.guessed or set(walk.view.nodes[at].outputs) & walk.lost for at in place.nodes):
            return None
        return out
    unknown = not place.nodes or any(
        at not in walk.steps or at in walk.guessed or set(walk.view.nodes[at].outputs) & walk.lost for at in place.nodes
    )
    return None if unknown else Learned()


def _buffer(walk: Walk, name: str) -> bool:
    tensor = walk.view.graph.constants.get(name)
    return tensor is not None and tensor.buffer


def _slopes(walk: Walk, place: Place, inputs: int) -> tuple[float | None, float | None]:
    bend = place.bend
    if bend is None:
        return None, None
    after = walk.kernels.get(bend.after)
    before = walk.kernels.get(bend.before)
    if after is None or before is None:
        return None, None
    function = after.bend[0] if after.bend is not None else bender(bend.name)
    found = slopes(before, function, inputs) if hasattr(function, "df") else None  # type: ignore[arg-type]
    return (None, None) if found is None else (found.dead, found.saturated)


def heads(walk: Walk, ends: Sequence[str], ids: bool) -> tuple[Head, ...]:
    """Return what there is to say of the outputs."""
    out = []
    for name in ends:
        value = walk.kernels.get(name)
        if value is None:
            continue
        shape = value.shape
        variance, spread = float(value.own[0]), max(0.0, value.spread)
        loss = None
        if len(shape) > 1 and shape[-1] > 1 and (len(shape) == 2 or (len(shape) == 3 and ids)):
            loss = finite(excess(spread, shape[-1]))
        out.append(
            Head(name, shape, _short(variance), _short(math.sqrt(spread)), None if loss is None else _short(loss))
        )
    return tuple(out)


def excess(variance: float, classes: int) -> float:
    """Return the expected cross entropy of normal logits against random classes, less log C.

    That is log E exp over the classes, whose logits are put at the quantiles of a normal variable: one each for the
    largest, fewer for the many behind them.
    """
    places, counts = _ranks(classes)
    deviation = math.sqrt(max(0.0, variance))
    if not math.isfinite(deviation):
        return math.nan
    top = deviation * float(places.max())
    return top + math.log(float(counts @ np.exp(deviation * places - top)) / classes)


@lru_cache(maxsize=64)
def _ranks(classes: int) -> tuple[Array, Array]:
    """Return where C sorted normal numbers are about, and how many each of these places stands for."""
    edges = np.unique(np.round(np.geomspace(1, classes + 1, 400)).astype(np.int64))
    edges = np.unique(np.concatenate([edges, classes + 1 - edges + 1]).clip(1, classes + 1))
    counts = np.diff(edges).astype(np.float64)
    middle = (edges[:-1] + edges[1:] - 1) / 2
    normal = NormalDist()
    places = np.array([-normal.inv_cdf((m - 0.5) / classes) for m in middle])
    return places, counts


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values and all(map(math.isfinite, values)) else None


def _short(value: float) -> float:
    return float(f"{value:.6g}") if math.isfinite(value) else math.nan


def shortened(signal: Signal) -> Signal:
    """Return a signal with its numbers rounded to six digits."""
    found = {field.name: getattr(signal, field.name) for field in fields(signal)}
    changed: dict[str, Any] = {name: _short(value) for name, value in found.items() if isinstance(value, float)}
    return replace(signal, **changed)


def positions_of(kernel: Kernel) -> int:
    """Return how many positions a value has."""
    return kernel.count(PLACE)
