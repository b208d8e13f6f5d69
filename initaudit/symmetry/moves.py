"""What only moves elements: labels move with them, and gradients move back."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import Any

import numpy as np

from initaudit.symmetry.combining import added, combined, reshaped, spread
from initaudit.symmetry.engine import Case, Given, Step, Unread, Value, Weight, op
from initaudit.symmetry.labels import Labels, dense, mix
from initaudit.symmetry.products import looked_up
from initaudit.symmetry.shares import merged, moved_back
from initaudit.types import Array

Change = Callable[[Labels], Labels]


def moved(x: Value, up: Change, down: Change, numbers: Callable[[Array], Array], support: Labels | None = None) -> Step:
    """Return a step that moves the elements of its first operand, a weight's with its numbers.

    Args:
        x: the operand.
        up: what becomes of labels.
        down: and on the way back.
        numbers: what becomes of numbers.
        support: of a weight that is not taken as a whole, labels of what is.
    """
    if isinstance(x, Weight):
        made: Value = Weight(
            lambda: numbers(x.numbers()), _shape(x, numbers), tuple(up(f) for f in x.factors), x.reading
        )
    else:
        made = up(x)

    def back(d: Sequence[Any]) -> Mapping[int, Given]:
        if isinstance(d[0], Labels) and support is None:
            return {0: down(d[0])}
        return {0: moved_back(d[0], down, support)}

    return Step((made,), back)


def _shape(x: Weight, numbers: Callable[[Array], Array]) -> tuple[int, ...]:
    return tuple(numbers(np.broadcast_to(np.zeros((), np.int8), x.shape)).shape)


@op("reshape", "flatten", "view", "squeeze", "unsqueeze")
def _reshape(c: Case) -> Step:
    x = c.value(0)
    shape = _wanted(c, x.shape)
    before = x.shape

    def numbers(values: Array) -> Array:
        return values.reshape(shape)

    return moved(x, lambda v: _reshaped(v, shape), lambda d: _reshaped(d, before), numbers)


def _reshaped(x: Labels, shape: Sequence[int]) -> Labels:
    out = reshaped(x, shape)
    return out.tagged("reshape", tuple(shape)) if any(x.free) else out


def _wanted(c: Case, before: tuple[int, ...]) -> tuple[int, ...]:
    told = c.shape()
    if told is not None and math.prod(told) == math.prod(before):
        return told
    rank = len(before)
    if c.node.op in ("squeeze", "unsqueeze"):
        axes = c.ints(1, "axes")
        if c.node.op == "squeeze":
            gone = {a % rank for a in axes} if axes else set(range(rank))
            return tuple(n for a, n in enumerate(before) if n != 1 or a not in gone)
        if axes is None:
            raise Unread
        new = {a % (rank + len(axes)) for a in axes}
        rest = iter(before)
        return tuple(1 if a in new else next(rest) for a in range(rank + len(axes)))
    if c.node.op == "flatten" and c.node.call is None:
        axis = c.integer("axis", 1)
        return (math.prod(before[:axis]), math.prod(before[axis:]))
    wanted = c.ints(1, "shape")
    if wanted is None:
        raise Unread
    out = [before[k] if n == 0 and k < rank else n for k, n in enumerate(wanted)]
    if out.count(-1) == 1:
        out[out.index(-1)] = math.prod(before) // max(1, math.prod(n for n in out if n != -1))
    return tuple(out)


@op("transpose")
def _transpose(c: Case) -> Step:
    x = c.value(0)
    rank = len(x.shape)
    perm = c.attrs.get("perm")
    if perm is None and "swap" in c.attrs:
        first, second = (int(a) % rank for a in c.attrs["swap"])
        perm = list(range(rank))
        perm[first], perm[second] = second, first
    if perm is None and (c.attrs.get("reverse") or c.node.call is None):
        perm = list(range(rank))[::-1]
    if perm is None and "groups" in c.attrs:
        return _shuffle(c, x, int(c.attrs["groups"]))
    if perm is None or sorted(perm) != list(range(rank)):
        raise Unread
    order = [int(a) for a in perm]
    back = [order.index(a) for a in range(rank)]

    def turned(v: Labels, way: Sequence[int]) -> Labels:
        frees = [a for a in way if any(v.free[k] for k in v.span(a))]
        out = v.permuted(way)
        return out if frees == sorted(frees) else out.tagged("transpose", tuple(way))

    return moved(x, lambda v: turned(v, order), lambda d: turned(d, back), lambda n: n.transpose(order))


def _shuffle(c: Case, x: Value, groups: int) -> Step:
    shape = x.shape
    own = (*shape[:1], groups, shape[1] // groups, *shape[2:])
    swap = (0, 2, 1, *range(3, len(own)))

    def up(v: Labels) -> Labels:
        return reshaped(reshaped(v, own).permuted(swap), shape)

    def down(d: Labels) -> Labels:
        return reshaped(reshaped(d, [own[a] for a in swap]).permuted(swap), shape)

    return moved(x, up, down, lambda n: n.reshape(own).transpose(swap).reshape(shape))


# ---- pieces


def taken(x: Labels, axis: int, index: Array, *, keep: bool = True) -> Labels:
    """Return labels of elements at places along an axis; a single one may lose it."""
    if x.is_free(axis):
        out = x.whole(axis).as_free(axis, len(index)).tagged("take", axis, index.tobytes())
    elif x.is_even(axis):
        out = _sized(x.whole(axis), axis, len(index))
    else:
        whole = x.dense(axis)
        at = whole.span(axis).start
        out = Labels(
            np.take(whole.data, index, at), (*whole.sizes[:at], len(index), *whole.sizes[at + 1 :]), whole.free,
            whole.groups,
        )  # fmt: skip
    return out if keep else out.dropped(axis)


def _sized(x: Labels, axis: int, size: int) -> Labels:
    at = x.span(axis).start
    return Labels(x.data, (*x.sizes[:at], size, *x.sizes[at + 1 :]), x.free, x.groups)


def put(d: Labels, axis: int, index: Array, size: int, *, is_free: bool, weight: bool) -> Labels:
    """Return labels of the gradient of a whole of which elements at places along an axis were taken."""
    if len(index) == size and np.array_equal(index, np.arange(size)):
        return d
    if weight and d.is_even(axis):
        return _sized(d.whole(axis), axis, size)  # what else labels this use says where it is
    if is_free:
        return d.freed(axis).as_free(axis, size).tagged("put", axis, index.tobytes())
    whole = d.dense(axis)
    at = whole.span(axis).start
    shape = list(whole.data.shape)
    shape[at] = size
    data = np.zeros(shape, np.uint64)
    where: tuple[Any, ...] = (*[slice(None)] * at, index)
    if len(np.unique(index)) == len(index):
        data[where] = whole.data
    else:
        with np.errstate(over="ignore"):
            np.add.at(data, where, mix(whole.data))
    return Labels(data, (*whole.sizes[:at], size, *whole.sizes[at + 1 :]), whole.free, whole.groups)


def picked(x: Value, axis: int, index: Array, *, keep: bool = True) -> Step:
    """Return a step that takes elements at places along an axis; a single one may lose it."""
    size = x.shape[axis]
    is_free = isinstance(x, Labels) and x.is_free(axis)

    def down(d: Labels) -> Labels:
        wide = d if keep else d.added(axis)
        return put(wide, axis, index, size, is_free=is_free, weight=isinstance(x, Weight))

    def numbers(values: Array) -> Array:
        piece: Any = index if keep else int(index[0])
        if keep and len(index) and np.array_equal(index, np.arange(index[0], index[0] + len(index))):
            piece = slice(int(index[0]), int(index[0]) + len(index))
        return values[(*(slice(None),) * axis, piece)]

    support = None
    if isinstance(x, Weight) and not np.array_equal(index, np.arange(size)):
        marks = np.bincount(index, minlength=size).astype(np.uint64)
        support = dense(marks)
        for a in reversed(range(axis)):
            support = support.added(0, x.shape[a])
        for a in range(axis + 1, len(x.shape)):
            support = support.added(a, x.shape[a])
    return moved(x, lambda v: taken(v, axis, index, keep=keep), down, numbers, support)


def chain(x: Value, steps: Sequence[Callable[[Value], Step]]) -> Step:
    """Return one step that does several."""
    done = []
    for step in steps:
        made = step(x)
        if made.outs[0] is None:
            raise Unread
        x = made.outs[0]
        done.append(made)

    def back(d: Sequence[Any]) -> Mapping[int, Given]:
        given: Any = d[0]
        for made in reversed(done):
            given = made.back([given])[0]
        return {0: given}

    return Step((x,), back)


@op("slice")
def _slice(c: Case) -> Step:
    x = c.value(0)
    index = c.attrs.get("index")
    if index is None:
        return _onnx_slice(c, x)
    if not isinstance(index, tuple):
        raise Unread
    return indexed(x, index)


def indexed(x: Value, index: tuple[Any, ...]) -> Step:
    """Return a step that takes x[index], of numbers, slices, new axes and an ellipsis. Raises Unread for others."""
    used = sum(i is not None and not isinstance(i, EllipsisType) for i in index)
    gap = (slice(None),) * (len(x.shape) - used)
    at = next((k for k, i in enumerate(index) if isinstance(i, EllipsisType)), len(index))
    steps: list[Callable[[Value], Step]] = []
    axis = source = 0
    for one in (*index[:at], *gap, *index[at + 1 :]):
        if one is None:
            steps.append(lambda v, a=axis: _new_axis(v, a))  # type: ignore[misc]
            axis += 1
        elif isinstance(one, slice):
            chosen = np.arange(x.shape[source])[one]
            if len(chosen) < x.shape[source] or (len(chosen) and chosen[0] != 0):
                steps.append(lambda v, a=axis, i=chosen: picked(v, a, i))  # type: ignore[misc]
            source += 1
            axis += 1
        elif isinstance(one, (int, np.integer)) and not isinstance(one, bool):
            chosen = np.arange(x.shape[source])[[int(one)]]
            steps.append(lambda v, a=axis, i=chosen: picked(v, a, i, keep=False))  # type: ignore[misc]
            source += 1
        else:
            raise Unread
    return chain(x, steps)


def _new_axis(x: Value, axis: int) -> Step:
    def up(v: Labels) -> Labels:
        out = v.added(axis)
        return out.tagged("reshape", out.shape) if any(v.free) else out

    return moved(x, up, lambda d: d.dropped(axis), lambda n: np.expand_dims(n, axis))


def _onnx_slice(c: Case, x: Value) -> Step:
    starts, ends = c.ints(1, "starts"), c.ints(2, "ends")
    if starts is None or ends is None:
        raise Unread
    axes = c.ints(3, "axes") or tuple(range(len(starts)))
    by = c.ints(4, "steps") or (1,) * len(starts)
    index: list[Any] = [slice(None)] * len(x.shape)
    for a, start, end, step in zip(axes, starts, ends, by, strict=True):
        stop = None if (step > 0 and end >= 2**31 - 1) or (step < 0 and end < -(2**31) + 1) else end
        index[a % len(x.shape)] = slice(start, stop, step)
    return indexed(x, tuple(index))


@op("split")
def _split(c: Case) -> Step:
    x = c.value(0)
    rank = len(x.shape)
    axis = c.integer("axis", 0) % rank
    keep = c.attrs.get("keepdims", 1) != 0
    count, extent = len(c.node.outputs), x.shape[axis]
    sizes = c.ints(1, "split")
    if not keep:
        sizes = (1,) * extent
    elif "chunks" in c.attrs:
        each = -(-extent // int(c.attrs["chunks"]))
        sizes = tuple(min(each, extent - k * each) for k in range(count))
    elif sizes is not None and len(sizes) == 1:
        each = sizes[0]
        sizes = tuple(min(each, extent - k * each) for k in range(-(-extent // each)))
    elif sizes is None and "sections" not in c.attrs:
        each = -(-extent // count)
        sizes = tuple(min(each, extent - k * each) for k in range(count))
    if sizes is None or sum(sizes) != extent or len(sizes) != count:
        raise Unread
    starts = np.cumsum([0, *sizes])
    steps = [picked(x, axis, np.arange(starts[k], starts[k + 1]), keep=keep) for k in range(count)]
    outs = tuple(step.outs[0] for step in steps)

    def back(d: Sequence[Any]) -> Mapping[int, Given]:
        found: list[Given] = []
        for step, given in zip(steps, d, strict=True):
            if isinstance(given, Labels) and given.data.size == 1 and not given.data.any():
                continue
            found.append(step.back([given])[0])
        if not found:
            return {}
        if isinstance(x, Weight):
            return {0: merged(found)}
        return {0: added([one for one in found if isinstance(one, Labels)])}

    return Step(outs, back)


@op("gather")
def _gather(c: Case) -> Step:
    x = c.value(0)
    axis = c.integer("axis", 0) % max(1, len(x.shape))
    index = c.numbers(1)
    if index is not None and index.dtype.kind in "iu":
        index = np.where(index < 0, index + x.shape[axis], index)
        if index.ndim <= 1:
            return picked(x, axis, index.reshape(-1), keep=index.ndim == 1)
        wide = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
        flat = (*x.shape[:axis], index.size, *x.shape[axis + 1 :])
        return chain(x, (
            lambda v: picked(v, axis, index.reshape(-1)),
            lambda v: moved(v, lambda w: reshaped(w, wide), lambda d: reshaped(d, flat), lambda n: n.reshape(wide)),
        ))  # fmt: skip
    weight = c.weight(0)
    if weight is not None and weight.factors:
        return looked_up(c, weight, c.labels(1), axis)
    return _by_value(c, axis)


def _by_value(c: Case, axis: int) -> Step:
    """Elements are chosen by values, so that along the axis anything may be anywhere."""
    x, ids = c.labels(0), c.labels(1)
    for k in range(ids.rank):
        ids = ids.freed(k)
    size = x.shape[axis]
    rest = x.freed(axis).dropped_free(axis)
    for k in range(ids.rank):
        rest = rest.added(axis + k)
    lined = ids
    for _ in range(x.rank - axis - 1):
        lined = lined.added(lined.rank)
    out = combined((spread(rest, (*x.shape[:axis], *ids.shape, *x.shape[axis + 1 :])), lined), "choice", axis)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        own = combined((d[0], lined), "choice back", axis)
        for _ in range(ids.rank):
            own = own.freed(axis).dropped_free(axis)
        return {0: own.added(axis, size, free=True)}

    return Step((out,), back)
