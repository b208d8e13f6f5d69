"""How a stored tensor is walked: labelled axes in memory order, boxes of bounded size, and which axes a side keeps.

A weight is looked at as (S operators, O outputs, I inputs, K kernel positions). No such array is ever made: the stored
array is only split and transposed, both of which are views, so that its axes run from the slowest to the fastest in
memory. It is read one box at a time, and each box is reduced onto the units of either side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from initaudit.errors import UnsupportedError
from initaudit.types import Array

CHUNK = 1 << 16  # elements of a box: small enough that its scratch copies stay in a core's cache
SEGMENT = 1 << 22  # elements summed before they are merged: the unit of work that threads share

Box = tuple[tuple[int, int], ...]  # (start, stop) for each axis


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the walked array, named s, g (group), o, i or k."""

    label: str
    extent: int
    place: int = 1  # what one step adds to the index among all axes of this label
    part: int = 0  # what one step adds to the index of the part; 0 where the axis lies inside one


@dataclass(frozen=True, slots=True)
class Side:
    """One side of a weight: the axes its units run along, and the runs of axes summed over, the others between them."""

    kept: tuple[int, ...]
    canonical: tuple[int, ...]  # permutation of `kept` into (s, g, o) or (s, g, i) order
    runs: tuple[tuple[bool, tuple[int, ...]], ...]  # (summed over?, axes) from the slowest to the fastest
    summed: str  # labels summed over: "ik" or "ok"


@dataclass(frozen=True, slots=True)
class Layout:
    """A stored array as a view with labelled axes, slowest first."""

    array: Array
    axes: tuple[Axis, ...]
    stored: tuple[int, ...]  # permutation of the axes into canonical order: s, g, o, i, k, each as it was stored
    rows: Side
    columns: Side
    parts: int

    def extent(self, labels: str) -> int:
        """Number of index tuples over the axes of these labels."""
        return math.prod(axis.extent for axis in self.axes if axis.label in labels)

    @property
    def size(self) -> int:
        """Number of elements."""
        return self.extent("sgoik")

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
            yield tuple((0, extent) for extent in extents)
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


def layout(array: Array, axes: str, groups: int = 1, parts: int = 1) -> Layout:
    """Label the axes of `array`, split off groups and parts, and order them as they lie in memory.

    Raises:
        UnsupportedError: the labels, groups or parts do not fit the shape.
    """
    if len(axes) != array.ndim or set(axes) - set("oiks"):
        raise UnsupportedError(f"axes {axes!r} do not describe a tensor of shape {list(array.shape)}")
    split = [Axis(label, extent) for label, extent in zip(axes, array.shape, strict=True)]
    if array.size:
        if groups > 1:
            first = next((label for label in axes if label in "oi"), "")
            both = "o" in axes and "i" in axes
            split = _split(split, "i" if both and first == "i" else "o", groups, "group", array)
        if parts > 1:
            split = _split(split, "go", parts, "part", array)
    view = array.reshape([axis.extent for axis in split])
    slim = [n for n, axis in enumerate(split) if axis.extent != 1]
    view = view.reshape([split[n].extent for n in slim])
    split = _placed([split[n] for n in slim])
    order = sorted(range(len(split)), key=lambda n: -abs(view.strides[n]))
    rank = sorted(range(len(split)), key=lambda n: ("sgoik".index(split[n].label), n))
    labels = [split[n].label for n in order]
    if len(list(itertools.groupby(labels))) > len(set(labels)):
        order = rank  # a label in two places: walk in canonical order, one strided copy per box
    position = {axis: n for n, axis in enumerate(order)}
    ordered = tuple(split[n] for n in order)
    stored = tuple(position[n] for n in rank)
    return Layout(
        view.transpose(order), ordered, stored, _side(ordered, stored, "ik"), _side(ordered, stored, "ok"), parts
    )


def _split(axes: list[Axis], labels: str, count: int, what: str, array: Array) -> list[Axis]:
    """Cut the combined axes of `labels`, slowest first, into `count` blocks: groups get a label, parts a mark."""
    result: list[Axis] = []
    left = count
    # Groups of a transposed convolution come from its i axis, yet are the outermost output units.
    chosen = sorted((n for n, axis in enumerate(axes) if axis.label in labels), key=lambda n: labels.index(axes[n].label))
    pieces = {n: [axis] for n, axis in enumerate(axes)}
    for n in chosen:
        extent, label = axes[n].extent, axes[n].label
        if left == 1:
            break
        inside = math.gcd(extent, left)
        if inside not in (extent, left):
            break
        left //= inside
        mark = Axis("g", inside) if what == "group" else Axis(label, inside, part=1)
        pieces[n] = [mark, Axis(label, extent // inside)]
    if left != 1:
        raise UnsupportedError(f"{count} {what}s do not divide the units of a tensor of shape {list(array.shape)}")
    for n in range(len(axes)):
        result += pieces[n]
    return result


def _placed(axes: list[Axis]) -> list[Axis]:
    """Give each axis its place value among those of its label, and among the parts."""
    result: list[Axis] = []
    place: dict[str, int] = {}
    for axis in reversed(axes):
        result.append(Axis(axis.label, axis.extent, place.get(axis.label, 1), axis.part))
        place[axis.label] = place.get(axis.label, 1) * axis.extent
    result.reverse()
    part = 1
    for n in sorted((n for n, axis in enumerate(result) if axis.part), key=lambda n: ("og".index(result[n].label), -n)):
        result[n] = Axis(result[n].label, result[n].extent, result[n].place, part)
        part *= result[n].extent
    return result


def _side(axes: tuple[Axis, ...], stored: tuple[int, ...], summed: str) -> Side:
    runs = tuple(
        (gone, tuple(n for n, _ in run))
        for gone, run in itertools.groupby(enumerate(axes), key=lambda item: item[1].label in summed)
    )
    kept = tuple(n for n, axis in enumerate(axes) if axis.label not in summed)
    canonical = tuple(kept.index(n) for n in stored if n in kept)
    return Side(kept, canonical, runs, summed)


def take(walk: Layout, box: Box) -> Array:
    """The elements of a box, as a view."""
    return walk.array[tuple(slice(start, stop) for start, stop in box)]


def index_of(walk: Layout, box: Box, axes: tuple[int, ...]) -> Array:
    """Joint index of one label's axes, for each position of the box along them, flattened."""
    index = np.zeros((), np.int64)
    for n in axes:
        start, stop = box[n]
        index = index[..., None] + np.arange(start, stop, dtype=np.int64) * walk.axes[n].place
    return index.reshape(-1)
