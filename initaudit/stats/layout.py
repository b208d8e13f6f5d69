"""How a stored tensor is walked: labelled axes in memory order, boxes of bounded size, and which axes a side keeps.

A weight is looked at as (S operators, O outputs, I inputs, K kernel positions). No such array is ever made: the stored
array is only split and transposed, both of which are views, so that its axes run from the slowest to the fastest in
memory. It is read one box at a time, and each box is reduced onto the units of either side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from initaudit.errors import UnsupportedError
from initaudit.types import Array

CHUNK = 1 << 18  # elements of a box: its scratch copies stay in cache, and calls take longer than their overhead
SEGMENT = 1 << 22  # elements summed before they are merged: the unit of work that threads share

Box = tuple[tuple[int, int], ...]  # (start, stop) for each axis


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the walked array, named s, g (group), o, i or k."""

    label: str
    extent: int
    stride: int
    place: int = 1  # what one step adds to the index among all axes of this label
    part: int = 0  # what one step adds to the index of the part; 0 where the axis lies inside one


@dataclass(frozen=True, slots=True)
class Step:
    """A run of axes to be summed over, seen as the middle one of three; earlier steps have been taken."""

    axes: tuple[int, ...]
    before: int
    extent: int
    after: int


@dataclass(frozen=True, slots=True)
class Reduction:
    """How the elements of a box are summed onto the units of one side."""

    kept: Box  # the units
    shape: tuple[int, ...]  # of the result
    steps: tuple[Step, ...]  # the longest first: what remains is then short


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One side of a weight: the axes its units run along, and the runs of axes summed over, the others between them."""

    kept: tuple[int, ...]
    canonical: tuple[int, ...]  # permutation of `kept` into (s, g, o) or (s, g, i) order
    runs: tuple[tuple[bool, tuple[int, ...]], ...]  # (summed over?, axes) from the slowest to the fastest
    each: int  # elements of a unit


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """Labelled axes of a stored array, slowest first. It knows shape and strides and no values, so it is shared."""

    split: tuple[int, ...]  # shape with groups and parts split off and axes of extent 1 left out
    order: tuple[int, ...]
    axes: tuple[Axis, ...]
    stored: tuple[int, ...]  # permutation of the axes into canonical order: s, g, o, i, k, each as it was stored
    rows: Side
    columns: Side
    parts: int
    operators: int  # stacked times grouped
    outs: int  # per operator
    ins: int
    kernel: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.operators * self.outs * self.ins * self.kernel

    @property
    def all(self) -> Box:
        """The box that covers everything."""
        return tuple((0, axis.extent) for axis in self.axes)

    def view(self, array: Array) -> Array:
        """Return the stored array with these axes, without a copy."""
        return array.reshape(self.split).transpose(self.order).reshape([axis.extent for axis in self.axes])

    def boxes(self) -> Iterator[Box]:
        """Cover the array, in memory order, by boxes of at most CHUNK elements."""
        if self.size == 0:
            return
        extents = [axis.extent for axis in self.axes]
        cut, inner = len(extents), 1  # the axes after `cut` are taken whole, the one at `cut` in slices
        while cut > 0 and inner * extents[cut - 1] <= CHUNK:
            cut -= 1
            inner *= extents[cut]
        if cut == 0:
            yield self.all
            return
        cut -= 1
        pieces = -(-extents[cut] // max(1, CHUNK // inner))
        bounds = [extents[cut] * n // pieces for n in range(pieces + 1)]
        whole = tuple((0, extent) for extent in extents[cut + 1 :])
        for outer in itertools.product(*(range(extent) for extent in extents[:cut])):
            fixed = tuple((n, n + 1) for n in outer)
            for start, stop in itertools.pairwise(bounds):
                yield (*fixed, (start, stop), *whole)

    def segments(self) -> Iterator[list[Box]]:
        """Group the boxes into units of work; the grouping depends on nothing but the shape."""
        batch: list[Box] = []
        size = 0
        for box in self.boxes():
            batch.append(box)
            size += math.prod(stop - start for start, stop in box)
            if size >= SEGMENT:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch


@lru_cache(maxsize=1024)
def layout(shape: tuple[int, ...], strides: tuple[int, ...], axes: str, groups: int = 1, parts: int = 1) -> Layout:
    """Label the axes, split off groups and parts, and order them as they lie in memory.

    Raises:
        UnsupportedError: the labels, groups or parts do not fit the shape.
    """
    if len(axes) != len(shape) or set(axes) - set("oiks"):
        raise UnsupportedError(f"axes {axes!r} do not describe a tensor of shape {list(shape)}")
    split = [Axis(*each) for each in zip(axes, shape, strides, strict=True)]
    if math.prod(shape):
        if groups > 1:
            first = next((label for label in axes if label in "oi"), "")
            both = "o" in axes and "i" in axes
            split = _split(split, "i" if both and first == "i" else "o", groups, "group", shape)
        if parts > 1:
            split = _split(split, "go", parts, "part", shape)
    split = _placed([axis for axis in split if axis.extent != 1])
    order = sorted(range(len(split)), key=lambda n: -abs(split[n].stride))
    rank = sorted(range(len(split)), key=lambda n: ("sgoik".index(split[n].label), n))
    labels = [split[n].label for n in order]
    if len(list(itertools.groupby(labels))) > len(set(labels)):
        order = rank  # a label in two places: walk in canonical order, one strided copy per box
    walked, ranks = _merged([split[n] for n in order], [rank.index(n) for n in order])
    stored = tuple(sorted(range(len(walked)), key=ranks.__getitem__))
    extent = {label: math.prod(axis.extent for axis in walked if axis.label == label) for label in "sgoik"}
    return Layout(
        split=tuple(axis.extent for axis in split),
        order=tuple(order),
        axes=walked,
        stored=stored,
        rows=_side(walked, stored, "ik"),
        columns=_side(walked, stored, "ok"),
        parts=parts,
        operators=extent["s"] * extent["g"],
        outs=extent["o"],
        ins=extent["i"],
        kernel=extent["k"],
    )


def _split(axes: list[Axis], labels: str, count: int, what: str, shape: tuple[int, ...]) -> list[Axis]:
    """Cut the combined axes of `labels`, slowest first, into `count` blocks: groups get a label, parts a mark."""
    pieces = [[axis] for axis in axes]
    left = count
    # Groups of a transposed convolution come from its i axis, yet are the outermost output units.
    for n in sorted(
        (n for n, axis in enumerate(axes) if axis.label in labels), key=lambda n: labels.index(axes[n].label)
    ):
        axis = axes[n]
        outer = math.gcd(axis.extent, left)
        if left == 1 or outer not in (axis.extent, left):
            break
        left //= outer
        inner = axis.extent // outer
        block = Axis(axis.label, outer, axis.stride * inner, part=1)
        if what == "group":
            block = Axis("g", outer, axis.stride * inner)
        pieces[n] = [block, Axis(axis.label, inner, axis.stride)]
    if left != 1:
        raise UnsupportedError(f"{count} {what}s do not divide the units of a tensor of shape {list(shape)}")
    return [axis for piece in pieces for axis in piece]


def _placed(axes: list[Axis]) -> list[Axis]:
    """Give each axis its place value among those of its label, and among the parts."""
    result = list(axes)
    place: dict[str, int] = {}
    for n in reversed(range(len(axes))):
        result[n] = replace(axes[n], place=place.get(axes[n].label, 1))
        place[axes[n].label] = result[n].place * axes[n].extent
    part = 1
    for n in sorted((n for n, axis in enumerate(result) if axis.part), key=lambda n: ("og".index(result[n].label), -n)):
        result[n] = replace(result[n], part=part)
        part *= result[n].extent
    return result


def _merged(axes: list[Axis], ranks: list[int]) -> tuple[tuple[Axis, ...], list[int]]:
    """Make one axis of neighbours that run through one label without a gap."""
    result: list[Axis] = []
    kept: list[int] = []
    for axis, rank in zip(axes, ranks, strict=True):
        last = result[-1] if result else None
        if (
            last is not None
            and last.label == axis.label
            and not (last.part or axis.part)
            and last.place == axis.place * axis.extent
            and last.stride == axis.stride * axis.extent
        ):
            result[-1] = replace(axis, extent=last.extent * axis.extent)
        else:
            result.append(axis)
            kept.append(rank)
    return tuple(result), kept


def _side(axes: tuple[Axis, ...], stored: tuple[int, ...], summed: str) -> Side:
    runs = tuple(
        (gone, tuple(n for n, _ in run))
        for gone, run in itertools.groupby(enumerate(axes), key=lambda item: item[1].label in summed)
    )
    kept = tuple(n for n, axis in enumerate(axes) if axis.label not in summed)
    canonical = tuple(kept.index(n) for n in stored if n in kept)
    return Side(kept, canonical, runs, math.prod(axis.extent for axis in axes if axis.label in summed))


@lru_cache(maxsize=4096)
def reduction(side: Side, box: Box) -> Reduction:
    """Plan the sums over a box onto the units of a side."""
    extents = [math.prod(box[n][1] - box[n][0] for n in axes) for _, axes in side.runs]
    steps: list[Step] = []
    for n in sorted((n for n, run in enumerate(side.runs) if run[0]), key=lambda n: -extents[n]):
        steps.append(Step(side.runs[n][1], math.prod(extents[:n]), extents[n], math.prod(extents[n + 1 :])))
        extents[n] = 1
    kept = tuple(box[n] for n in side.kept)
    return Reduction(kept, tuple(stop - start for start, stop in kept), tuple(steps))


def index_of(walk: Layout, box: Box, axes: tuple[int, ...]) -> Array:
    """Joint index of one label's axes, for each position of the box along them, flattened."""
    index = np.zeros((), np.int64)
    for n in axes:
        start, stop = box[n]
        index = index[..., None] + np.arange(start, stop, dtype=np.int64) * walk.axes[n].place
    return index.reshape(-1)
