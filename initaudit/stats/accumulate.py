"""What is summed up over the boxes of a tensor, and merged over its segments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from initaudit.stats.elements import SCRATCH, Elements
from initaudit.stats.hashing import mix, multipliers
from initaudit.stats.layout import Box, Layout, Side, index_of, take
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
        mine = tuple(bounds[n] for n in side.kept)
        shape = tuple(stop - start for start, stop in mine)
        return SideSums(mine, np.zeros(shape), np.zeros(shape, np.uint64))

    def where(self, inside: Box) -> tuple[slice, ...]:
        """Position of a smaller range in these arrays."""
        return tuple(slice(b[0] - a[0], b[1] - a[0]) for a, b in zip(self.bounds, inside, strict=True))

    def count_zeros(self, inside: tuple[slice, ...], zeros: Array) -> None:
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
        return cls(walk, kind, tuple((0, axis.extent) for axis in walk.axes))

    @classmethod
    def over(cls, walk: Layout, kind: Elements, boxes: Sequence[Box]) -> Accumulator:
        """Measure some boxes; independent of all others, so any thread may do it."""
        bounds = tuple((min(b[n][0] for b in boxes), max(b[n][1] for b in boxes)) for n in range(len(walk.axes)))
        result = cls(walk, kind, bounds)
        step = _coprime(walk)
        with np.errstate(all="ignore"):
            for box in boxes:
                result._add(box, step)
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

    def _add(self, box: Box, step: int) -> None:
        word = self.kind.word
        x, bits = self.kind.load(take(self.walk, box))
        flat = x.reshape(-1)
        n = flat.size
        magnitude = np.bitwise_and(bits if not self.kind.raw else flat.view(word.uint), word.uint.type(word.magnitude),
                                   out=SCRATCH.bits.view(word.uint)[:n])  # fmt: skip
        least, most = int(magnitude.min()), int(magnitude.max())
        flag = np.greater(flat, 0, out=SCRATCH.flag[:n])
        self.positive += int(np.count_nonzero(flag))
        zero = np.equal(magnitude, 0, out=flag) if least == 0 else None
        if least < self.kind.least:
            tiny = np.count_nonzero(magnitude < word.uint.type(self.kind.least))
            self.subnormals += int(tiny) - (0 if zero is None else int(np.count_nonzero(zero)))
        self._hash(box, bits, zero)
        self._exponents(magnitude[::step])
        if zero is not None:
            self._zeros(box, zero)
        finite = None
        if most >= word.infinity:
            nans = int(np.count_nonzero(magnitude > word.uint.type(word.infinity)))
            infs = int(np.count_nonzero(magnitude == word.uint.type(word.infinity)))
            self.nans += nans
            self.infs += infs
            finite = magnitude.reshape(x.shape) < word.uint.type(word.infinity)
        self._values(box, x, finite)

    def _exponents(self, magnitude: Array) -> None:
        word = self.kind.word
        kept = magnitude[magnitude != 0] if self.zeros or self.kind.least == 0 else magnitude
        shifted = np.right_shift(kept, word.uint.type(word.shift)).astype(np.int64)
        self.histogram += np.bincount(shifted, minlength=word.bins)[: word.bins]

    def _zeros(self, box: Box, zero: Array) -> None:
        self.zeros += int(np.count_nonzero(zero))
        for side, sums in ((self.walk.rows, self.rows), (self.walk.columns, self.columns)):
            total = _reduce(zero.view(np.uint8).astype(np.float32), side, box)
            inside = sums.where(tuple(box[n] for n in side.kept))
            sums.count_zeros(inside, np.rint(total).astype(np.int64).reshape(_shape(side, box)))

    def _hash(self, box: Box, bits: Array, zero: Array | None) -> None:
        word = self.kind.word
        mixed = SCRATCH.hash[: bits.size]
        mix(bits, SCRATCH.spare.view(word.uint)[:, : bits.size], mixed)
        if zero is not None and word.float.kind == "f" and not self.kind.raw:
            mixed[zero] = 0  # -0.0 as 0.0
        for side, sums in ((self.walk.rows, self.rows), (self.walk.columns, self.columns)):
            total = _weigh(self.walk, mixed, side, box)
            sums.hash[sums.where(tuple(box[n] for n in side.kept))] += total.reshape(_shape(side, box))

    def _values(self, box: Box, x: Array, finite: Array | None) -> None:
        flat = x.reshape(-1)
        clean = x
        if finite is not None:
            clean = np.where(finite, x, x.dtype.type(0))
            flat = x[finite]
        if flat.size:
            low, high = float(flat.min()), float(flat.max())
            self.low, self.high = min(self.low, low), max(self.high, high)
        square = np.multiply(clean, clean, out=SCRATCH.square.view(x.dtype)[: x.size].reshape(x.shape))
        rows, columns = _reduce(square, self.walk.rows, box), _reduce(square, self.walk.columns, box)
        if x.dtype == np.float32 and not (
            rows.min() > _FAINT and columns.min() > _FAINT and rows.max() < math.inf and columns.max() < math.inf
        ):
            exact = np.square(clean, dtype=np.float64)
            rows, columns = _reduce(exact, self.walk.rows, box), _reduce(exact, self.walk.columns, box)
        for side, sums, total in ((self.walk.rows, self.rows, rows), (self.walk.columns, self.columns, columns)):
            sums.square[sums.where(tuple(box[n] for n in side.kept))] += total.reshape(_shape(side, box))
        pieces = list(_pieces(self.walk, box))
        if len(pieces) == 1:
            if flat.size:
                hint = (square.reshape(-1), float(np.add.reduce(rows))) if finite is None else (None, None)
                piece = moments(flat, low, high, *hint)
                self.parts[pieces[0][0]] = self.parts[pieces[0][0]].merge(piece)
            return
        for part, index in pieces:
            some = x[index].reshape(-1) if finite is None else x[index][finite[index]]
            if some.size:
                piece = moments(some, float(some.min()), float(some.max()))
                self.parts[part] = self.parts[part].merge(piece)


def _coprime(walk: Layout) -> int:
    """Stride at which exponents are sampled: every value of a small tensor, and no aliasing with any axis of a large."""
    if walk.size <= 1 << 20:
        return 1
    return next(step for step in range(5, 1000, 2) if all(math.gcd(step, axis.extent) == 1 for axis in walk.axes))


def _shape(side: Side, box: Box) -> tuple[int, ...]:
    return tuple(box[n][1] - box[n][0] for n in side.kept)


def _runs(side: Side, box: Box) -> list[tuple[bool, int, tuple[int, ...]]]:
    return [(gone, math.prod(box[n][1] - box[n][0] for n in axes), axes) for gone, axes in side.runs]


def _order(runs: list[tuple[bool, int, tuple[int, ...]]]) -> Iterable[tuple[int, int, int, int]]:
    """Yield (run, before, extent, after) for each run to sum over, the longest first: what remains is then short."""
    extents = [extent for _, extent, _ in runs]
    for n in sorted((n for n, run in enumerate(runs) if run[0]), key=lambda n: -runs[n][1]):
        yield n, math.prod(extents[:n]), extents[n], math.prod(extents[n + 1 :])
        extents[n] = 1


def _reduce(values: Array, side: Side, box: Box) -> Array:
    """Sum a contiguous box onto the units of a side, in float64 beyond blocks of a few hundred values."""
    total = values.reshape(-1)
    for _, before, extent, after in _order(_runs(side, box)):
        total = _sum_axis(total.reshape(before, extent, after))
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


def _weigh(walk: Layout, mixed: Array, side: Side, box: Box) -> Array:
    """Sum a box of mixed bits, times the multipliers of their positions, onto the units of a side, modulo 2^64."""
    total = mixed
    runs = _runs(side, box)
    for n, before, extent, after in _order(runs):
        weight = _weights(walk, box, runs[n][2])
        if after == 1:
            total = np.einsum("ij,j->i", total.reshape(before, extent), weight)
        elif before == 1:
            total = np.einsum("ij,i->j", total.reshape(extent, after), weight)
        else:
            total = np.einsum("aij,i->aj", total.reshape(before, extent, after), weight)
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


def _pieces(walk: Layout, box: Box) -> Iterable[tuple[int, tuple[slice | int, ...]]]:
    """Split a box where parts meet: (part, index into the box)."""
    marked = [n for n, axis in enumerate(walk.axes) if axis.part]
    spans = [range(*box[n]) for n in marked]
    for point in np.ndindex(*(len(span) for span in spans)):
        index: list[slice | int] = [slice(None)] * len(box)
        part = 0
        for n, at in zip(marked, point, strict=True):
            index[n] = at
            part += (box[n][0] + at) * walk.axes[n].part
        yield part, tuple(index)
