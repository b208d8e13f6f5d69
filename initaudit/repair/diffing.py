"""Two models side by side, tensor by tensor: what one has and the other lacks, and what was drawn again.

Tensors meet by name, and where a format renamed or turned them by what their layers say: the name in the model, and
(out, in, *kernel) with gates in one order. One pair is in memory at a time.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from initaudit import audit, formats, layers
from initaudit.differences import Changed, Difference, Reshaped
from initaudit.errors import InitauditError
from initaudit.repair.drawing import original_name
from initaudit.repair.forms import form_of
from initaudit.repair.steps import Step, silent
from initaudit.stats.moments import Moments
from initaudit.types import Array, Finding, Layer, Model, Report, Skip, Tensor

_BLOCK = 1 << 20  # elements that are compared at a time


@dataclass(frozen=True, slots=True)
class _Side:
    """One of the two models, its tensors by name and by what their layers call them."""

    path: str
    model: Model
    report: Report | None
    homes: dict[str, Layer] = field(default_factory=dict)  # tensor name -> the layer it is of

    @classmethod
    def of(cls, path: str, step: Step, activation: str | None, jobs: int | None) -> _Side:
        model = formats.read(path)
        report = None
        try:
            report = audit.audit_path(
                path, activation=activation, jobs=jobs, progress=lambda done, total: step(Path(path).name, done, total)
            )
            found: Sequence[Layer] = [m.layer for m in report.measured]
        except InitauditError:  # nothing in it to judge: it is compared all the same
            found, _ = layers.infer(model)
        homes: dict[str, Layer] = {}
        for layer in found:
            for tensor in (layer.weight, layer.bias, *layer.extra):
                if tensor is not None:
                    homes.setdefault(tensor.name, layer)
        return cls(path, model, report, homes)

    def original(self, tensor: Tensor) -> str:
        layer = self.homes.get(tensor.name)
        return tensor.name if layer is None else original_name(layer, tensor)


def diff(
    first: str | Path,
    second: str | Path,
    *,
    activation: str | None = None,
    jobs: int | None = None,
    step: Step = silent,
) -> Difference:
    """Return what two models differ in; their formats may differ.

    Raises:
        InitauditError: one of them cannot be read.
    """
    sides = tuple(_Side.of(str(path), step, activation, jobs) for path in (first, second))
    a, b = sides
    pairs, removed, added = _paired(a, b)
    changed: list[Changed] = []
    reshaped: list[Reshaped] = []
    uncompared: list[Skip] = []
    equal, done, total = 0, 0, sum(one.size for one, _ in pairs)
    for one, other in pairs:
        try:
            found = _compared(one, other, a, b)
        except InitauditError as error:
            uncompared.append(Skip(one.name, error.reason))
            found = None
        else:
            equal += found is None
        if isinstance(found, Reshaped):
            reshaped.append(found)
        elif found is not None:
            changed.append(found)
        done += one.size
        step("comparing", done, total)
    appeared, gone = _findings(a.report, b.report)
    return Difference(
        (a.model, b.model), (a.path, b.path), (a.report, b.report), equal, tuple(changed), tuple(reshaped), added,
        removed, appeared, gone, tuple(uncompared),
    )  # fmt: skip


def _paired(a: _Side, b: _Side) -> tuple[list[tuple[Tensor, Tensor]], tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Return tensors that are the same one, by name, else by what their layers call them, and those left over."""
    there = {tensor.name: tensor for tensor in b.model.tensors}
    meets = {t.name: there[t.name] for t in a.model.tensors if t.name in there}
    used = {t.name for t in meets.values()}
    left = [t for t in b.model.tensors if t.name not in used]
    counts = Counter(map(b.original, left))
    named = {b.original(t): t for t in left if counts[b.original(t)] == 1}
    for tensor in a.model.tensors:
        if tensor.name not in meets:
            twin = named.pop(a.original(tensor), None)
            if twin is not None:
                meets[tensor.name] = twin
                used.add(twin.name)
    pairs = [(t, meets[t.name]) for t in a.model.tensors if t.name in meets]
    removed = tuple(t for t in a.model.tensors if t.name not in meets)
    return pairs, removed, tuple(t for t in b.model.tensors if t.name not in used)


def _compared(one: Tensor, other: Tensor, a: _Side, b: _Side) -> Changed | Reshaped | None:
    """Return in what a tensor differs from its twin; None for equal values of one type."""
    homes = a.homes.get(one.name), b.homes.get(other.name)
    turned = homes[0] is not None and homes[1] is not None and _turned(one, homes[0], other, homes[1])
    if one.shape != other.shape and not turned:
        return Reshaped(one.name, other.name, (one.shape, other.shape))
    try:
        left, right = np.asarray(one.load()), np.asarray(other.load())
        if turned and homes[0] is not None and homes[1] is not None:
            left, right = form_of(homes[0], one).canonical(left), form_of(homes[1], other).canonical(right)
        found = _measured(one, other, left, right)
    finally:
        one.release()
        other.release()
    return None if not found.share and one.dtype == other.dtype else found


def _turned(one: Tensor, home: Layer, other: Tensor, there: Layer) -> bool:
    """Whether two tensors are one operator that is stored in two ways."""
    try:
        forms = form_of(home, one), form_of(there, other)
    except InitauditError:
        return False
    same = forms[0].shape == forms[1].shape and forms[0].axes == forms[1].axes and forms[0].parts == forms[1].parts
    return not same and (forms[0].stack, forms[0].operator) == (forms[1].stack, forms[1].operator)


def _measured(one: Tensor, other: Tensor, left: Array, right: Array) -> Changed:
    """Return how many elements of two tensors differ and by how much, both std, and how many are not finite."""
    differ, largest = 0, -1.0
    spreads = [Moments(), Moments()]
    nans, nonfinite = [0, 0], [0, 0]
    for x, y in _blocks(left, right):
        p, q = _wide(x), _wide(y)
        off = (p != q) & ~(np.isnan(p) & np.isnan(q))
        differ += int(np.count_nonzero(off))
        both = off & np.isfinite(p) & np.isfinite(q)
        if both.any():
            with np.errstate(over="ignore"):
                largest = max(largest, float(np.abs(p[both] - q[both]).max()))
        for k, values in enumerate((p, q)):
            spreads[k] = spreads[k].merge(_moments(values))
            nans[k] += int(np.count_nonzero(np.isnan(values)))
            nonfinite[k] += int(np.count_nonzero(~np.isfinite(values)))
    stds = [math.sqrt(s.variance) if s.count else math.nan for s in spreads]
    return Changed(
        one.name, other.name, one.shape, (one.dtype, other.dtype), differ / max(1, left.size),
        largest if largest >= 0 else None, (stds[0], stds[1]), (nans[0], nans[1]), (nonfinite[0], nonfinite[1]),
    )  # fmt: skip


def _moments(values: Array) -> Moments:
    finite = np.abs(values[np.isfinite(values)]) if values.dtype.kind == "c" else values[np.isfinite(values)]
    if not finite.size:
        return Moments()
    mean = float(finite.mean())
    return Moments(finite.size, mean, float(np.square(finite - mean).sum()))


def _wide(values: Array) -> Array:
    """Return values in a type that holds them all; whole numbers of 64 bits stay what they are only below 2^53."""
    return values.astype(np.complex128 if values.dtype.kind == "c" else np.float64)


def _blocks(left: Array, right: Array) -> Iterator[tuple[Array, Array]]:
    """Yield both arrays in pieces, however they lie in memory."""
    if left.size <= _BLOCK or left.ndim == 0:
        yield left, right
        return
    axis = int(np.argmax(left.shape))
    middle = left.shape[axis] // 2
    for piece in (slice(None, middle), slice(middle, None)):
        where = (slice(None),) * axis + (piece,)
        yield from _blocks(left[where], right[where])


def _findings(first: Report | None, second: Report | None) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Return the findings that only the second model has, and those that only the first has."""

    def keys(report: Report | None) -> dict[object, Finding]:
        return {(f.rule, f.layer, f.severity): f for f in report.findings} if report is not None else {}

    old, new = keys(first), keys(second)
    return tuple(f for k, f in new.items() if k not in old), tuple(f for k, f in old.items() if k not in new)
