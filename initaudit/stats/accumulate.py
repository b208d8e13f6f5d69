"""What is summed up over the boxes of a tensor, and merged over its segments."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from initaudit.stats.elements import SCRATCH, Elements
from initaudit.stats.hashing import mix, multipliers
from initaudit.stats.layout import Box, Layout, Reduction, Side, index_of, reduction
from initaudit.stats.moments import Moments, moments
from initaudit.types import Array

_FOLD = 512  # values that one inner loop runs over
_FAINT = 1e-24  # a unit's sum of squares below this may have lost values to float32's range


@dataclass(slots=True)
class SideSums:
    """Sums per unit of one side, over a range of its units (in the order they are walked)."""

    bounds: Box
    square: Array
    hash: Array
    zeros: Array | None = None  # made when the first zero is seen

    @staticmethod
    def make(side: Side, bounds: Box) -> SideSums:
        """Start from nothing, for the units inside `bounds`."""
        whole = reduction(side, bounds)
        return SideSums(whole.kept, np.zeros(whole.shape), np.zeros(whole.shape, np.uint64))

    def where(self, inside: Box) -> tuple[slice, ...]:
        """Position of a smaller range in these arrays."""
        return tuple([slice(b[0] - a[0], b[1] - a[0]) for a, b in zip(self.bounds, inside, strict=True)])

    def count_zeros(self, inside: tuple[slice, ...], zeros: Array | int) -> None:
        """Add zero counts of some units."""
        if self.zeros is None:
            self.zeros = np.zeros(self.square.shape, np.int64)
        self.zeros[inside] += zeros

    def merge(self, other: SideSums) -> None:
        """Add the sums of a range inside this one."""
        inside = self.where(other.bounds)
        self.square[inside] += other.square
        self.hash[inside] += other.hash
        if other.zeros is not None:
            self.count_zeros(inside, other.zeros)


_Sides = tuple[tuple[Reduction, SideSums], ...]


class Accumulator:
    """The measures of some boxes of one tensor."""

    def __init__(self, walk: Layout, kind: Elements, bounds: Box) -> None:
        self.walk = walk
        self.kind = kind
        self.low = math.inf
        self.high = -math.inf
        self.zeros = self.nans = self.infs = self.subnormals = self.positive = 0
        self.parts = [Moments()] * walk.parts
        self.histogram = np.zeros(kind.word.bins, np.int64)
        self.rows = SideSums.make(walk.rows, bounds)
        self.columns = SideSums.make(walk.columns, bounds)

    @classmethod
    def whole(cls, walk: Layout, kind: Elements) -> Accumulator:
        """Start from nothing, for all units."""
        return cls(walk, kind, walk.all)

    @classmethod
    def over(cls, walk: Layout, kind: Elements, array: Array, boxes: Sequence[Box]) -> Accumulator:
        """Measure some boxes; independent of all others, so any thread may do it."""
        bounds = boxes[0]
        if len(boxes) > 1:
            bounds = tuple((min(b[n][0] for b in boxes), max(b[n][1] for b in boxes)) for n in range(len(walk.axes)))
        result = cls(walk, kind, bounds)
        view, step = walk.view(array), _coprime(walk)
        with np.errstate(all="ignore"):
            for box in boxes:
                result._add(view[tuple([slice(*span) for span in box])], box, step)
        return result

    def merge(self, other: Accumulator) -> None:
        """Add the measures of other boxes; the caller keeps the order fixed, and with it every last bit."""
        self.low = min(self.low, other.low)
        self.high = max(self.high, other.high)
        self.zeros += other.zeros
        self.nans += other.nans
        self.infs += other.infs
        self.subnormals += other.subnormals
        self.positive += other.positive
        self.parts = [a.merge(b) for a, b in zip(self.parts, other.parts, strict=True)]
        self.histogram += other.histogram
        self.rows.merge(other.rows)
        self.columns.merge(other.columns)

    def _add(self, values: Array, box: Box, step: int) -> None:
        word = self.kind.word
        x, bits = self.kind.load(values)
        flat = x.reshape(-1)
        n = flat.size
        signed = flat.view(word.uint) if self.kind.raw else bits
        magnitude = np.bitwise_and(signed, word.uint.type(word.magnitude), out=SCRATCH.bits.view(word.uint)[:n])
        least, most = int(magnitude.min()), int(magnitude.max())
        sides = (
            (reduction(self.walk.rows, box), self.rows),
            (reduction(self.walk.columns, box), self.columns),
        )
        if most == 0:
            self._nothing(n, box, sides)
            return
        flag = np.greater(flat, 0, out=SCRATCH.flag[:n])
        self.positive += int(np.count_nonzero(flag))
        zero = np.equal(magnitude, 0, out=flag) if least == 0 else None
        if least < self.kind.least:
            tiny = np.count_nonzero(magnitude < word.uint.type(self.kind.least))
            self.subnormals += int(tiny) - (0 if zero is None else int(np.count_nonzero(zero)))
        self._hash(box, bits, zero, sides)
        self._exponents(magnitude[::step], zero is not None)
        if zero is not None:
            self.zeros += int(np.count_nonzero(zero))
            ones = zero.view(np.uint8).astype(np.float32)
            for plan, sums in sides:
                sums.count_zeros(
                    sums.where(plan.kept), np.rint(_reduce(ones, plan)).astype(np.int64).reshape(plan.shape)
                )
        finite = None
        if most >= word.infinity:
            infinity = word.uint.type(word.infinity)
            self.nans += int(np.count_nonzero(magnitude > infinity))
            self.infs += int(np.count_nonzero(magnitude == infinity))
            finite = magnitude.reshape(x.shape) < infinity
        self._values(box, x, finite, sides)

    def _nothing(self, n: int, box: Box, sides: _Sides) -> None:
        """Add a box of zeros."""
        self.zeros += n
        self.low, self.high = min(self.low, 0.0), max(self.high, 0.0)
        for plan, sums in sides:
            sums.count_zeros(sums.where(plan.kept), n // math.prod(plan.shape))
        for part, index in _pieces(self.walk, box):
            shape = [1 if isinstance(at, int) else stop - start for at, (start, stop) in zip(index, box, strict=True)]
            self.parts[part] = self.parts[part].merge(Moments(math.prod(shape)))

    def _exponents(self, magnitude: Array, zeros: bool) -> None:
        word = self.kind.word
        kept = magnitude[magnitude != 0] if zeros else magnitude
        shifted = np.right_shift(kept, word.uint.type(word.shift)).astype(np.int64)
        self.histogram += np.bincount(shifted, minlength=word.bins)[: word.bins]

    def _hash(self, box: Box, bits: Array, zero: Array | None, sides: _Sides) -> None:
        mixed = SCRATCH.hash[: bits.size]
        mix(bits, SCRATCH.spare.view(self.kind.word.uint)[:, : bits.size], mixed)
        if zero is not None and not self.kind.raw:
            mixed[zero] = 0  # -0.0 as 0.0
        for plan, sums in sides:
            sums.hash[sums.where(plan.kept)] += _weigh(self.walk, mixed, plan, box).reshape(plan.shape)

    def _values(self, box: Box, x: Array, finite: Array | None, sides: _Sides) -> None:
        flat = x.reshape(-1)
        clean = x
        if finite is not None:
            clean = np.where(finite, x, x.dtype.type(0))
            flat = x[finite]
        if flat.size:
            low, high = float(flat.min()), float(flat.max())
            self.low, self.high = min(self.low, low), max(self.high, high)
        square = np.multiply(clean, clean, out=SCRATCH.square.view(x.dtype)[: x.size].reshape(x.shape))
        totals = [_reduce(square, plan) for plan, _ in sides]
        if x.dtype == np.float32 and not all(t.min() > _FAINT and t.max() < math.inf for t in totals):
            exact = np.square(clean, dtype=np.float64)
            totals = [_reduce(exact, plan) for plan, _ in sides]
        for (plan, sums), total in zip(sides, totals, strict=True):
            sums.square[sums.where(plan.kept)] += total.reshape(plan.shape)
        pieces = _pieces(self.walk, box)
        if len(pieces) == 1:
            if flat.size:
                hint = (square.reshape(-1), float(np.add.reduce(totals[0]))) if finite is None else (None, None)
                part = pieces[0][0]
                self.parts[part] = self.parts[part].merge(moments(flat, low, high, *hint))
            return
        for part, index in pieces:
            some = x[index].reshape(-1) if finite is None else x[index][finite[index]]
            if some.size:
                piece = moments(some, float(some.min()), float(some.max()))
                self.parts[part] = self.parts[part].merge(piece)


def _coprime(walk: Layout) -> int:
    """Stride at which exponents are sampled: all of a small tensor, and prime to every axis of a large one."""
    if walk.size <= 1 << 20:
        return 1
    return next(step for step in range(5, 1000, 2) if all(math.gcd(step, axis.extent) == 1 for axis in walk.axes))


def _reduce(values: Array, plan: Reduction) -> Array:
    """Sum a contiguous box onto the units of a side, in float64 beyond blocks of a few hundred values."""
    total = values.reshape(-1)
    for step in plan.steps:
        total = _sum_axis(total.reshape(step.before, step.extent, step.after))
    return total.astype(np.float64, copy=False).reshape(-1)


def _sum_axis(x: Array) -> Array:
    """Sum the middle axis of three."""
    before, extent, after = x.shape
    if extent == 1:
        return x.reshape(-1)
    if after == 1:
        x = x.reshape(before, extent)
        if extent < 32:
            return np.asarray(np.einsum("ij->i", x))
        return np.asarray(np.add.reduce(x, axis=1))
    # Short inner axes: let one inner loop run over several rows at once.
    fold = max(1, min(extent, _FOLD // after))
    whole = extent // fold
    total = np.add.reduce(x[:, : whole * fold].reshape(before, whole, fold * after), axis=1)
    if fold > 1:
        total = np.add.reduce(total.reshape(before, fold, after), axis=1, dtype=np.float64)
    if whole * fold < extent:
        total = total + np.add.reduce(x[:, whole * fold :], axis=1, dtype=np.float64)
    return np.asarray(total).reshape(-1)


def _weigh(walk: Layout, mixed: Array, plan: Reduction, box: Box) -> Array:
    """Sum a box of mixed bits, times the multipliers of their positions, onto the units of a side, modulo 2^64."""
    total = mixed
    for step in plan.steps:
        weight = _weights(walk, box, step.axes)
        if step.after == 1:
            total = np.einsum("ij,j->i", total.reshape(step.before, step.extent), weight)
        elif step.before == 1:
            total = np.einsum("ij,i->j", total.reshape(step.extent, step.after), weight)
        else:
            total = np.einsum("aij,i->aj", total.reshape(step.before, step.extent, step.after), weight)
        total = total.reshape(-1)
    return total


def _weights(walk: Layout, box: Box, axes: tuple[int, ...]) -> Array:
    """Multiply up the multipliers of the labels along some adjacent axes."""
    weight: Array | None = None
    for label in dict.fromkeys(walk.axes[n].label for n in axes):
        mine = tuple(n for n in axes if walk.axes[n].label == label)
        if len(mine) == 1 and walk.axes[mine[0]].place == 1:
            factor = multipliers(*box[mine[0]], label)
        else:
            index = index_of(walk, box, mine)
            factor = multipliers(0, int(index.max()) + 1, label)[index]
        weight = factor if weight is None else (weight[:, None] * factor).reshape(-1)
    assert weight is not None
    return weight


@lru_cache(maxsize=4096)
def _pieces(walk: Layout, box: Box) -> list[tuple[int, tuple[slice | int, ...]]]:
    """Split a box where parts meet: (part, index into the box)."""
    marked = [n for n, axis in enumerate(walk.axes) if axis.part]
    result: list[tuple[int, tuple[slice | int, ...]]] = []
    for point in itertools.product(*(range(*box[n]) for n in marked)):
        index: list[slice | int] = [slice(None)] * len(box)
        for n, at in zip(marked, point, strict=True):
            index[n] = at - box[n][0]
        result.append((sum(at * walk.axes[n].part for n, at in zip(marked, point, strict=True)), tuple(index)))
    return result
