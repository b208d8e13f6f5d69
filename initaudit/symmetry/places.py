"""What trades channels for places, and writes into parts of a value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import EllipsisType
from typing import Any

import numpy as np

from initaudit.symmetry.combining import combined, reshaped
from initaudit.symmetry.engine import Case, Given, Step, Unread, op
from initaudit.symmetry.joins import side_by_side
from initaudit.symmetry.labels import ZERO, Labels, even
from initaudit.symmetry.moves import put, taken


@op("depth_to_space")
def _depth_to_space(c: Case) -> Step:
    x = c.labels(0)
    size = c.integer("blocksize", 0)
    if size < 1 or x.rank != 4:
        raise Unread
    n, ch, h, w = x.shape
    deep = ch // size**2
    if c.attrs.get("mode", "DCR") == "CRD":
        apart, order = (n, deep, size, size, h, w), (0, 1, 4, 2, 5, 3)
    else:
        apart, order = (n, size, size, deep, h, w), (0, 3, 4, 1, 5, 2)
    wide = (n, deep, h * size, w * size)
    steps = [apart[a] for a in order]
    way = [order.index(a) for a in range(6)]
    y = reshaped(x, apart).permuted(order)
    for a in (2, 3, 4, 5):
        y = y.freed(a)
    out = reshaped(y, wide).tagged("depth to space", size)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        own = d[0]
        for a in (2, 3):
            own = own.freed(a)
        return {0: reshaped(reshaped(own, steps).permuted(way), x.shape).tagged("depth to space", size, "back")}

    return Step((out,), back)


@op("space_to_depth")
def _space_to_depth(c: Case) -> Step:
    x = c.labels(0)
    size = c.integer("blocksize", 0)
    if size < 1 or x.rank != 4:
        raise Unread
    n, ch, h, w = x.shape
    apart = (n, ch, h // size, size, w // size, size)
    order = (0, 3, 5, 1, 2, 4) if c.node.call is None else (0, 1, 3, 5, 2, 4)
    steps = [apart[a] for a in order]
    way = [order.index(a) for a in range(6)]
    wide = (n, ch * size**2, h // size, w // size)
    y = x
    for a in (2, 3):
        y = y.freed(a)
    out = reshaped(reshaped(y, apart).permuted(order), wide).tagged("space to depth", size)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        own = reshaped(d[0], steps).permuted(way)
        for a in range(2, 6):
            own = own.freed(a)
        return {0: reshaped(own, x.shape).tagged("space to depth", size, "back")}

    return Step((out,), back)


@op("unfold", "col2im")
def _unfold(c: Case) -> Step:
    """Windows laid out: of each channel, its places in a window side by side."""
    x, shape = c.labels(0), c.shape()
    if shape is None:
        raise Unread
    axis = c.attrs.get("dimension")
    if isinstance(axis, int):
        return _windows(x, axis % x.rank, shape)
    if not {len(shape), x.rank} == {3, 4} or x.shape[0] != shape[0]:
        raise Unread
    small, large = (x.shape, shape) if x.rank == 4 else (shape, x.shape)
    n, ch = small[:2]
    if large[1] % ch:
        raise Unread
    apart = (n, ch, large[1] // ch, large[2])

    def changed(v: Labels, to: Sequence[int], *tag: object) -> Labels:
        v = v if v.rank == 4 else reshaped(v, apart)
        for a, size in zip((2, 3), apart[2:] if len(to) == 3 else to[2:], strict=True):
            v = v.freed(a).as_free(a, size)
        return reshaped(v, to).tagged(*tag)

    out = changed(x, shape, "windows")
    return Step((out,), lambda d: {0: changed(d[0], x.shape, "windows back")})


def _windows(x: Labels, axis: int, shape: Sequence[int]) -> Step:
    out = x.freed(axis).as_free(axis, shape[axis]).added(x.rank, shape[-1], free=True).tagged("windows", axis)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        own = d[0].freed(x.rank).dropped_free(x.rank).freed(axis).as_free(axis, x.shape[axis])
        return {0: own.tagged("windows back", axis)}

    return Step((out,), back)


# ---- written into


def written(x: Labels, value: Labels, index: tuple[Any, ...], place: int) -> Step:
    """Return a step that writes an operand into x[index], of numbers, slices, an ellipsis. Raises Unread for others."""
    at = next((k for k, i in enumerate(index) if isinstance(i, EllipsisType)), len(index))
    full = [*index[:at], *[slice(None)] * (x.rank - len(index) + (at < len(index))), *index[at + 1 :]]
    if len(full) != x.rank or not all(isinstance(i, (int, slice)) for i in full):
        raise Unread
    shape = value.shape
    cuts: dict[int, np.ndarray] = {}
    wide = value
    while wide.rank < sum(isinstance(i, slice) for i in full):
        wide = wide.added(0)
    for axis, one in enumerate(full):
        own = np.arange(x.shape[axis])[one if isinstance(one, slice) else [one]]
        if not isinstance(one, slice):
            wide = wide.added(axis)
        if len(own) < x.shape[axis]:
            cuts[axis] = own
    if wide.rank != x.rank:
        raise Unread
    if len(cuts) == 1 and not (x.is_free(next(iter(cuts))) or wide.is_free(next(iter(cuts)))):
        ((axis, own),) = cuts.items()
        return _replaced(x, wide, axis, own, shape, place)
    tag = ("written", str(full))
    given = x
    for axis in cuts:
        given, wide = given.freed(axis), wide.freed(axis).as_free(axis, x.shape[axis])
    out = combined((given, wide), *tag)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        own = d[0]
        for axis in cuts:
            own = own.freed(axis)
        into = own
        for axis, part in cuts.items():
            into = into.as_free(axis, len(part))
        return {0: own.tagged(*tag, "back"), place: _as(into.tagged(*tag, "value"), shape)}

    return Step((out,), back)


def _as(d: Labels, shape: Sequence[int]) -> Labels:
    """Return labels of the gradient of what was broadcast, or had no axes of one element."""
    if math.prod(d.shape) == math.prod(shape):
        return reshaped(d, shape)
    thin = [n for n in shape if n > 1]
    for axis in reversed(range(d.rank)):
        if d.shape[axis] == 1:
            d = d.dropped(axis)
    while d.rank > len(thin):
        d = d.summed(0, keep=False)
    return reshaped(d, shape)


def _replaced(x: Labels, value: Labels, axis: int, own: np.ndarray, shape: Sequence[int], place: int) -> Step:
    size = x.shape[axis]
    value = value if value.shape[axis] == len(own) else taken(value, axis, np.zeros(len(own), np.int64))
    order = np.arange(size)
    order[own] = size + np.arange(len(own))
    out = taken(side_by_side([x, value], axis), axis, order)
    rest = np.setdiff1d(np.arange(size), own)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        kept = put(taken(d[0], axis, rest), axis, rest, size, is_free=False, weight=False)
        return {0: kept if len(rest) else even(x.shape, ZERO), place: _as(taken(d[0], axis, own), shape)}

    return Step((out,), back)
