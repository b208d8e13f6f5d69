"""What joins several values, or copies, pads and turns one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from initaudit.symmetry.combining import combined, reduced, reshaped, spread
from initaudit.symmetry.engine import Case, Given, Step, Unread, Value, Weight, op
from initaudit.symmetry.labels import Labels, chained, even, word
from initaudit.symmetry.moves import chain, picked, taken
from initaudit.symmetry.shares import merged, moved_back
from initaudit.types import Array


@op("concat")
def _concat(c: Case) -> Step:
    places = [k for k, name in enumerate(c.node.inputs) if name]
    values = [c.value(k) for k in places]
    xs = [v.labels() if isinstance(v, Weight) else v for v in values]
    stacks = bool(c.attrs.get("new_axis"))
    rank = xs[0].rank + stacks
    axis = c.integer("axis", 0) % rank
    if stacks:
        xs = [x.added(axis) for x in xs]
    sizes = [x.shape[axis] for x in xs]
    shape = list(xs[0].shape)
    shape[axis] = sum(sizes)
    starts = np.cumsum([0, *sizes])
    units = [x for k, x in zip(places, xs, strict=True) if c.moves(k) and not x.is_free(axis) and x.shape[axis] > 1]
    weights = [v for v in values if isinstance(v, Weight)]
    if len(weights) == len(values) and any(w.factors for w in weights):
        return _whole(weights, places, axis, stacks=stacks)
    is_free = any(x.is_free(axis) for x in xs) and not any(not x.is_even(axis) for x in units)
    if is_free:
        parts = [x.freed(axis).as_free(axis, 1) for x in xs]
        out = combined(parts, "concat", axis, stacks).as_free(axis, shape[axis])
    else:
        out = side_by_side(xs, axis)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        found: dict[int, Given] = {}
        for k, place in enumerate(places):
            piece = taken(d[0], axis, np.arange(starts[k], starts[k + 1]))
            found[place] = piece.dropped(axis) if stacks else piece
        return found

    return Step((out,), back)


def _whole(weights: Sequence[Weight], places: Sequence[int], axis: int, *, stacks: bool) -> Step:
    """Return a step that joins parameters to one weight."""
    wide = [tuple(np.insert(w.shape, axis, 1)) if stacks else w.shape for w in weights]
    sizes = [shape[axis] for shape in wide]
    starts = np.cumsum([0, *sizes])
    shape = (*wide[0][:axis], int(starts[-1]), *wide[0][axis + 1 :])
    given = [
        [f.added(axis) if stacks else f for f in w.factors] or [even(s, word("fixed"))]
        for w, s in zip(weights, wide, strict=True)
    ]
    if len({len(own) for own in given}) > 1:
        given = [[combined(own, "joined")] for own in given]
    factors = tuple(_beside(parts, axis) for parts in zip(*given, strict=True))

    def numbers() -> Array:
        return np.concatenate([w.numbers().reshape(s) for w, s in zip(weights, wide, strict=True)], axis)

    def back(d: Sequence[Any]) -> Mapping[int, Given]:
        found: dict[int, list[Given]] = {}
        for k, place in enumerate(places):
            index = np.arange(starts[k], starts[k + 1])

            def down(f: Labels, index: Array = index) -> Labels:
                piece = taken(f, axis, index)
                return piece.dropped(axis) if stacks else piece

            own = moved_back(d[0], down)
            if own.support is None or bool(own.support.data.any()):
                found.setdefault(place, []).append(own)
        return {place: merged(own) for place, own in found.items()}

    return Step((Weight(numbers, shape, factors, weights[0].reading),), back)


def _beside(parts: Sequence[Labels], axis: int) -> Labels:
    """Return labels side by side along an axis, even along it where all are the same."""
    first = parts[0]
    if all(x.is_even(axis) and x.free == first.free and np.array_equal(x.data, first.data) for x in parts):
        at = first.whole(axis)
        place = at.span(axis).start
        size = sum(x.shape[axis] for x in parts)
        return Labels(at.data, (*at.sizes[:place], size, *at.sizes[place + 1 :]), at.free, at.groups)
    return side_by_side(parts, axis)


def side_by_side(xs: Sequence[Labels], axis: int) -> Labels:
    """Return labels of values that are joined along an axis, an entry for each index there."""
    thin = [x.dense(axis) for x in xs]
    frees = [tuple(x.is_free(a) for a in range(x.rank)) for x in thin]
    for a in range(thin[0].rank):
        if a != axis and any(f[a] for f in frees):
            thin = [x.freed(a) for x in thin]
        elif a != axis:
            thin = [x.whole(a) for x in thin]
    at = [x.span(axis).start for x in thin]
    rank = thin[0].data.ndim
    if any(x.data.ndim != rank for x in thin) or len(set(at)) > 1:
        raise Unread
    wide = [max(x.data.shape[a] for x in thin) for a in range(rank)]
    data = np.concatenate(
        [np.broadcast_to(x.data, [x.data.shape[a] if a == at[0] else wide[a] for a in range(rank)]) for x in thin],
        at[0],
    )
    sizes = list(thin[0].sizes)
    sizes[at[0]] = data.shape[at[0]]
    return Labels(data, tuple(sizes), thin[0].free, thin[0].groups)


@op("expand")
def _expand(c: Case) -> Step:
    x = c.labels(0)
    shape = c.shape()
    if shape is None or len(c.node.outputs) > 1:
        raise Unread
    return Step((spread(x, shape),), lambda d: {0: reduced(d[0], x.shape)})


@op("tile")
def _tile(c: Case) -> Step:
    x = c.labels(0)
    shape = c.shape()
    if shape is None or c.attrs.get("axis") is not None or c.attrs.get("dim") is not None:
        return _interleave(c, x)
    before = (1,) * (len(shape) - x.rank) + x.shape
    out = reshaped(x, before)
    wide = [n for k in range(len(shape)) for n in (shape[k] // before[k], before[k])]
    thin = [n for k in range(len(shape)) for n in (1, before[k])]
    made = reshaped(spread(reshaped(out, thin), wide), shape).tagged("tile", shape)
    return Step((made,), lambda d: {0: reshaped(reduced(reshaped(d[0], wide), thin), x.shape)})


def _interleave(c: Case, x: Labels) -> Step:
    shape = c.shape()
    axis = c.attrs.get("axis", c.attrs.get("dim"))
    if shape is None or not isinstance(axis, int) or len(shape) != x.rank:
        raise Unread
    axis %= x.rank
    size = x.shape[axis]
    times = shape[axis] // size
    if times * size != shape[axis] or not isinstance(c.attrs.get("repeats"), int):
        raise Unread
    wide = (*x.shape[: axis + 1], times, *x.shape[axis + 1 :])
    thin = (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :])
    made = reshaped(spread(reshaped(x, thin), wide), shape).tagged("interleave", axis, shape)
    return Step((made,), lambda d: {0: reshaped(reduced(reshaped(d[0], wide), thin), x.shape)})


@op("pad")
def _pad(c: Case) -> Step:
    x = c.labels(0)
    shape = c.shape()
    if shape is None or len(shape) != x.rank:
        raise Unread
    before = x.shape
    out = x
    tag = word("pad", str(c.attrs.get("pads")), str(c.attrs.get("mode")), str(c.attrs.get("value")))
    amounts: dict[int, tuple[int, int]] = {}
    for axis in range(x.rank):
        if out.is_free(axis) or out.shape[axis] == 1:
            out = out.freed(axis).as_free(axis, shape[axis])
            continue
        first, last = _around(c, axis, x.rank)
        if first == last == 0 and shape[axis] == before[axis]:
            continue
        amounts[axis] = first, last
        if (
            min(first, last) < 0
            or first + before[axis] + last != shape[axis]
            or c.attrs.get("mode", "constant") != "constant"
        ):
            raise Unread
        whole = out.dense(axis)
        at = whole.span(axis).start
        wide = [(first, last) if a == at else (0, 0) for a in range(whole.data.ndim)]
        data = np.pad(whole.data, wide, constant_values=tag)
        out = Labels(data, (*whole.sizes[:at], shape[axis], *whole.sizes[at + 1 :]), whole.free, whole.groups)
    out = out.with_data(chained(out.data, tag))

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        given = d[0]
        for axis in range(x.rank):
            if axis in amounts:
                first = amounts[axis][0]
                given = taken(given, axis, np.arange(first, first + before[axis]))
            elif shape[axis] != before[axis]:
                given = given.freed(axis).as_free(axis, before[axis])
        return {0: given.tagged("pad back")}

    return Step((out,), back)


def _around(c: Case, axis: int, rank: int) -> tuple[int, int]:
    """Return how much is put before and after an axis."""
    pads = c.ints(1 if c.node.call is None else -1, "pads")
    if pads is None:
        raise Unread
    if c.node.call is not None:  # from the last axis on, in pairs
        k = 2 * (rank - 1 - axis)
        return (pads[k], pads[k + 1]) if k + 1 < len(pads) else (0, 0)
    axes = [a % rank for a in c.ints(3) or range(rank)]
    if axis not in axes:
        return (0, 0)
    k = axes.index(axis)
    return pads[k], pads[k + len(axes)]


@op("roll", "trilu", "reverse_sequence")
def _within(c: Case) -> Step:
    x = c.labels(0)
    axes = c.attrs.get("axes", c.attrs.get("dims"))
    if c.node.op == "trilu":
        axes = (-2, -1)
    elif c.node.op == "reverse_sequence":
        axes = (c.attrs.get("batch_axis", 1), c.attrs.get("time_axis", 0))
    axes = (axes,) if isinstance(axes, int) else axes
    if not axes:
        raise Unread
    index = _turned(c, x, axes)
    if index is not None:
        return chain(c.value(0), index)
    tag = (c.node.op, str(sorted((k, repr(v)) for k, v in c.attrs.items() if not k.startswith("@"))))
    out = x
    for a in axes:
        out = out.freed(a)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        given = d[0]
        for a in axes:
            given = given.freed(a)
        return {0: given.tagged(*tag, "back")}

    return Step((out.tagged(*tag),), back)


def _turned(c: Case, x: Labels, axes: Sequence[int]) -> list[Callable[[Value], Step]] | None:
    """Return steps that take units in another order; None where axes have no units, or the order is not known."""
    if c.node.op != "roll" or all(x.is_free(a) or x.shape[a] == 1 for a in axes):
        return None
    shifts = c.attrs.get("shifts")
    shifts = (shifts,) if isinstance(shifts, int) else shifts
    name = c.node.call.target.split(".")[-1] if c.node.call is not None else ""
    steps: list[Callable[[Value], Step]] = []
    for k, a in enumerate(axes):
        own = np.arange(x.shape[a])
        if name == "flip" and c.attrs.get("reverse"):
            own = own[::-1]
        elif name == "roll" and isinstance(shifts, (tuple, list)) and len(shifts) == len(axes):
            own = np.roll(own, int(shifts[k]))
        else:
            return None
        steps.append(lambda v, a=a % x.rank, i=own: picked(v, a, i))  # type: ignore[misc]
    return steps
