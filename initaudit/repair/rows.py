"""The output units of a weight as rows: which are copies, which are no draw, and how those were drawn that stay.

Units are counted as the measures count them: by stack, group and place along out, as stored.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from initaudit import laws, stats
from initaudit.closed_forms import EPS
from initaudit.edits import Edit
from initaudit.errors import InitauditError
from initaudit.repair.forms import Form, form_of
from initaudit.schemes import parse
from initaudit.types import Array, Measured, Tensor

_FAR = 16.0  # of the mean square of a unit's weights against that of the others
_CHANCE = 6.0  # over the root of their number: what the logarithm of that may be off by chance
_FEW = 3  # units from which the others say what is usual
_LEAST = 16  # values from which a std is told by them
_SHORT = 2048  # extent of a matrix of which singular values are still worked out


def rows_of(m: Measured, form: Form | None = None) -> Array:
    """Return a weight as (units, values), each row an output unit."""
    form = form or form_of(m.layer, m.layer.weight)
    made = form.canonical(np.asarray(m.layer.weight.load()))
    count = form.stack * form.out
    return np.asarray(made.reshape(count, -1)[form.units(range(count))])


def copies(m: Measured, among: Iterable[int] | None = None, *, apart: bool = False) -> list[tuple[int, ...]]:
    """Return the sets of units with equal weights, not all zero; groups see other inputs, and are compared inside only.

    Args:
        m: the layer.
        among: the units that are looked at, all by default.
        apart: whether stacked operators see other inputs too.
    """
    hashes = m.stats.rows.hash
    stacks = math.prod(n for label, n in zip(m.layer.axes, m.layer.weight.shape, strict=True) if label == "s")
    operators = max(1, m.layer.groups) * (stacks if apart else 1)
    each = hashes.size // operators if hashes.size % operators == 0 else hashes.size
    found: dict[tuple[int, int], list[int]] = {}
    for k in range(hashes.size) if among is None else sorted(among):
        if m.stats.rows.nonzero[k]:
            found.setdefault((k // max(1, each), int(hashes[k])), []).append(k)
    return [tuple(one) for one in found.values() if len(one) > 1]


def again(m: Measured, sets: Iterable[Sequence[int]]) -> tuple[int, ...]:
    """Return what is drawn again of sets of units that are to differ: all but the first one that is a fair draw."""
    sets = [sorted(one) for one in sets]
    if not sets:
        return ()
    rows = rows_of(m)
    inside = np.zeros(len(rows), bool)
    inside[[k for one in sets for k in one]] = True
    others = np.square(rows[~inside].astype(np.float64)).mean(axis=1)
    usual = float(np.median(others)) if others.size >= _FEW else 0.0
    out: list[int] = []
    for one in sets:
        keep = next((k for k in one if _fair(rows[k], usual)), None)
        out += [k for k in one if k != keep]
    return tuple(sorted(out))


def _fair(row: Array, usual: float) -> bool:
    """Whether a unit's weights may have been drawn: not all equal, and of about the size of the others'."""
    values = row.astype(np.float64)
    if not np.isfinite(values).all() or not values.any():
        return False
    if values.size > 1 and bool((values == values[0]).all()):
        return False
    square = float(np.square(values).mean())
    return not usual or abs(math.log(square / usual)) <= math.log(_FAR) + _CHANCE / math.sqrt(values.size)


def own_law(m: Measured, units: Sequence[int]) -> str:
    """Return the scheme by which the other units of a layer were drawn; empty where too few are left to tell."""
    form = form_of(m.layer, m.layer.weight)
    rows = rows_of(m, form)
    stays = np.ones(len(rows), bool)
    stays[list(units)] = False
    kept = np.ascontiguousarray(rows[stays])
    if kept.size < _LEAST or not np.isfinite(kept.astype(np.float64)).all():
        return ""
    if gain := _gain(m, rows.reshape(form.stack * form.blocks, -1, rows.shape[1]), stays):
        return parse("orthogonal")[0].render(gain=1.0 if abs(gain - 1) < 2e-3 else gain)
    tensor = Tensor(m.layer.weight.name, kept.shape, m.layer.weight.dtype, lambda: kept)
    try:
        measured = stats.measure(tensor, "oi")
        law = laws.identify(m.layer, measured)
    except (InitauditError, ArithmeticError, ValueError):
        return ""
    told = law is not None and law.scheme and kept.size >= laws.LEAST
    if told and law is not None and law.law in ("normal", "uniform", "truncated"):
        return law.scheme
    std = math.sqrt(measured.variance + measured.mean**2)
    if not std > 0:
        return ""
    uniform = law is not None and law.law == "uniform"
    return f"uniform:bound={math.sqrt(3) * std:.4g}" if uniform else f"normal:std={std:.4g}"


def _gain(m: Measured, blocks: Array, stays: Array) -> float:
    """Return the gain of a layer whose operators are orthogonal but for the rows that go; 0.0 where they are not."""
    near = 1e-3 + 20 * EPS.get(m.layer.weight.dtype, 0.0)
    count, rows, columns = blocks.shape
    marks = stays.reshape(count, rows)
    found = []
    for block, mark in zip(blocks, marks, strict=True):
        left = int(mark.sum())
        equal = left if rows <= columns else columns - (rows - left)  # singular values that are the gain
        if not left:
            continue
        if equal < 2 or min(left, columns) > _SHORT or columns < 2:
            return 0.0
        values = np.linalg.svd(block[mark].astype(np.float64), compute_uv=False)
        if not values[0] > 0 or values[0] - values[equal - 1] > near * values[0]:
            return 0.0
        found.append(float(values[:equal].mean()))
    return float(np.mean(found)) if found and max(found) - min(found) <= near * max(found) else 0.0


@dataclass(frozen=True, slots=True)
class Anew:
    """A tensor of a layer with other values, in whole or in some units: which values does not matter."""

    m: Measured
    tensor: Tensor
    units: tuple[int, ...] | None = None

    def __call__(self) -> Array:
        """Return random values for a weight that maps units to units, else ones, and zeros for some units."""
        layer = self.m.layer
        stored = np.array(self.tensor.load())
        if self.tensor != layer.weight or not {"i", "o"} <= {*layer.axes}:
            stored.reshape(-1)[slice(None) if self.units is None else list(self.units)] = self.units is None
            return stored
        form = form_of(layer, self.tensor)
        made = form.canonical(stored)
        rows = made.reshape(form.stack * form.out, -1)
        at = np.arange(len(rows)) if self.units is None else form.units(self.units)
        some = np.square(rows[np.isfinite(rows)].astype(np.float64))
        size = math.sqrt(some.mean()) if some.any() else 1.0
        rows[at] = (size * np.random.default_rng(0).standard_normal((len(at), rows.shape[1]))).astype(rows.dtype)
        return form.stored(made)

    @property
    def edit(self) -> Edit:
        """What shows it in a graph."""
        return Edit(self.tensor, self)
