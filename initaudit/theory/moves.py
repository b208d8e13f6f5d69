"""Operations that only move, cut, join or copy values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import EllipsisType
from typing import Any

import numpy as np

from initaudit.theory.embedding import looked_up
from initaudit.theory.engine import Case, Grads, Step, Unread, op
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Axis, Back, Kernel, extent
from initaudit.theory.moves_axes import kinds, regrouped
from initaudit.theory.moves_cut import BackOne, cut
from initaudit.theory.moves_join import concat, copied
from initaudit.types import Ref


def one(out: Kernel, back: BackOne, place: int = 0) -> Step:
    """Return the step of an operation on one signal."""

    def down(d: Grads) -> Mapping[int, Back | None]:
        return {} if d[0] is None else {place: back(d[0])}

    return Step((out,), down)


def reshaped(x: Kernel, shape: Sequence[int]) -> tuple[Kernel, BackOne]:
    """Return a signal in another shape, and the way back."""
    axes, work = regrouped(x, shape)
    return work.forward(x, axes), lambda d: work.backward(d, x.grid)


def chain(first: BackOne, then: BackOne) -> BackOne:
    """Return the way back through two steps."""
    return lambda d: first(then(d))


@op("identity", "dropout", "cast", "cast_like", "contiguous", "trilu", "flip")
def _same(c: Case) -> Step:
    return one(replace(c.kernel(0), bend=None), lambda d: d)


@op("roll")
def _rolled(c: Case) -> Step:
    x = c.kernel(0)
    return one(replace(x, profile=(), bend=None), lambda d: replace(d, profile=()))


# ---- shapes


@op("reshape", "view", "flatten", "squeeze", "unsqueeze")
def _reshape(c: Case) -> Step:
    x = c.kernel(0)
    return one(*reshaped(x, target(c, x)))


def target(c: Case, x: Kernel) -> tuple[int, ...]:
    """Return the shape that a node asks for. Raises Unread."""
    given = filled(c.shape(), x.size)
    if given is None:
        given = _asked(c, x)
    if given is None or math.prod(given) != x.size:
        raise Unread
    return given


def filled(shape: Sequence[int | None] | None, size: int) -> tuple[int, ...] | None:
    """Return a shape with the one unknown extent worked out; None where it does not fit."""
    if shape is None:
        return None
    known = math.prod(n for n in shape if n is not None and n >= 0)
    unknown = [k for k, n in enumerate(shape) if n is None or n < 0]
    if len(unknown) > 1 or not known or size % known or (not unknown and known != size):
        return None
    return tuple(size // known if k in unknown else int(n or 0) for k, n in enumerate(shape))


def _asked(c: Case, x: Kernel) -> tuple[int, ...] | None:
    shape, rank = list(x.shape), len(x.shape)
    match c.node.op:
        case "flatten":
            if c.node.call is None:
                axis = c.integer("axis", 1) % (rank + 1)
                return (math.prod(shape[:axis]), math.prod(shape[axis:]))
            start, end = c.integer("start_dim", 0) % rank, c.integer("end_dim", -1) % rank
            return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])
        case "unsqueeze":
            axes = c.ints(1, "axes", "axis")
            if axes is None:
                return None
            for axis in sorted(a % (rank + len(axes)) for a in axes):
                shape.insert(axis, 1)
            return tuple(shape)
        case "squeeze":
            axes = c.ints(1, "axes", "axis")
            gone = {a % rank for a in axes} if axes is not None else set(range(rank))
            return tuple(n for a, n in enumerate(shape) if a not in gone or n != 1)
    if "sizes" in c.attrs and "axis" in c.attrs:
        sizes, axis = c.ints(-1, "sizes"), c.integer("axis", 0) % rank
        return None if sizes is None else filled([*shape[:axis], *sizes, *shape[axis + 1 :]], x.size)
    if "start_dim" in c.attrs or "end_dim" in c.attrs:
        start, end = c.integer("start_dim", 0) % rank, c.integer("end_dim", -1) % rank
        return (*shape[:start], math.prod(shape[start : end + 1]), *shape[end + 1 :])
    wanted = c.ints(1, "shape")
    if wanted is None:
        return None
    keeps = not c.attrs.get("allowzero") and c.node.call is None
    return filled([shape[k] if n == 0 and keeps and k < rank else n for k, n in enumerate(wanted)], x.size)


@op("transpose")
def _transpose(c: Case) -> Step:
    x = c.kernel(0)
    rank = len(x.axes)
    order = list(range(rank))
    perm, swap = c.attrs.get("perm"), c.attrs.get("swap")
    if isinstance(swap, (tuple, list)):
        first, second = (int(a) % rank for a in swap)
        order[first], order[second] = order[second], order[first]
    elif isinstance(perm, (tuple, list)):
        order = [int(a) % rank for a in perm]
    elif c.attrs.get("reverse") or c.node.call is None:
        order.reverse()
    else:
        order = _by_shape(c, x)
    return one(replace(x, axes=tuple(x.axes[a] for a in order), bend=None), lambda d: d)


def _by_shape(c: Case, x: Kernel) -> list[int]:
    """Return an order that the shapes leave no choice of. Raises Unread."""
    shape = c.shape()
    if shape is None or len(set(x.shape)) < len(x.shape) or sorted(map(str, shape)) != sorted(map(str, x.shape)):
        raise Unread
    return [x.shape.index(n or 0) for n in shape]


# ---- pieces


@op("slice")
def _slice(c: Case) -> Step:
    x = c.kernel(0)
    index = c.attrs.get("index")
    out, back = indexed(x, index) if isinstance(index, tuple) else _from_bounds(c, x)
    return one(out, back)


def indexed(x: Kernel, index: tuple[Any, ...]) -> tuple[Kernel, BackOne]:
    """Return x[index] for numbers, slices, new axes and an ellipsis. Raises Unread."""
    taken = sum(i is not None and not isinstance(i, EllipsisType) for i in index)
    at = next((k for k, i in enumerate(index) if isinstance(i, EllipsisType)), len(index))
    rest = (slice(None),) * (len(x.axes) - taken)
    full = (*index[:at], *rest, *index[at + 1 :])
    if any(isinstance(i, (Ref, tuple)) for i in full):
        raise Unread
    out, back = x, lambda d: d
    shape: list[int] = []
    axis = 0
    for i in full:
        if i is None:
            shape.append(1)
            continue
        n = out.shape[axis]
        if isinstance(i, slice):
            start, stop, step = i.indices(n)
            length = len(range(start, stop, step))
            out, way = cut(out, axis, start if step > 0 else start + (length - 1) * step, length, step)
            shape.append(length)
        else:
            out, way = cut(out, axis, int(i) % n, 1)
        back = chain(back, way)
        axis += 1
    out, way = reshaped(out, shape) if tuple(shape) != out.shape else (out, lambda d: d)
    return replace(out, bend=None), chain(back, way)


def _from_bounds(c: Case, x: Kernel) -> tuple[Kernel, BackOne]:
    """Return a piece as ONNX asks for it."""
    starts, ends = c.ints(1, "starts"), c.ints(2, "ends")
    if starts is None or ends is None:
        raise Unread
    axes = c.ints(3, "axes") or tuple(range(len(starts)))
    steps = c.ints(4, "steps") or (1,) * len(starts)
    index: list[slice] = [slice(None)] * len(x.axes)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice(start, end if abs(end) < 2**62 or step > 0 else None, step)
    return indexed(x, tuple(index))


@op("split")
def _split(c: Case) -> Step:
    x = c.kernel(0)
    rank = len(x.axes)
    axis = c.integer("axis", 0) % rank
    lengths = _lengths(c, x.shape[axis], axis)
    keeps = c.attrs.get("keepdims", 1) not in (0, False)
    outs: list[Kernel] = []
    backs: list[BackOne] = []
    start = 0
    for length in lengths:
        out, back = cut(x, axis, start, length)
        if not keeps:
            out, way = reshaped(out, [n for a, n in enumerate(out.shape) if a != axis])
            back = chain(back, way)
        outs.append(replace(out, bend=None))
        backs.append(back)
        start += length

    def down(d: Grads) -> dict[int, Back | None]:
        found = [back(one_d) for back, one_d in zip(backs, d, strict=False) if one_d is not None]
        if not found:
            return {}
        whole = found[0]
        for other in found[1:]:
            whole = whole.plus(other)
        return {0: whole}

    return Step(tuple(outs), down)


def _lengths(c: Case, whole: int, axis: int) -> list[int]:
    count = len(c.node.outputs)
    shapes = [c.shape(k) for k in range(count)]
    keeps = c.attrs.get("keepdims", 1) not in (0, False)
    if keeps:
        told = [None if s is None or axis >= len(s) else s[axis] for s in shapes]
        if all(n is not None for n in told) and sum(n or 0 for n in told) == whole:
            return [int(n or 0) for n in told]
    given = c.ints(1, "split", "sections")
    if given is not None and len(given) > 1 and sum(given) == whole:
        return list(given)
    if given is not None and len(given) == 1 and c.node.call is not None and "split" in c.attrs:
        size = given[0]
        return [min(size, whole - k) for k in range(0, whole, size)]
    if not keeps:
        return [1] * whole
    size = -(-whole // max(1, count))
    return [min(size, whole - k) for k in range(0, whole, size)]


@op("gather")
def _gather(c: Case) -> Step:
    if c.is_weight(0) and c.integer("axis", 0) == 0 and (len(c.weight(0).shape) == 2 or c.moves(1)):
        values = c.values(1) if not c.moves(1) else None
        if values is None or values.size > 1:
            return looked_up(c, 0, 1)
    x = c.kernel(0)
    axis = c.integer("axis", 0) % len(x.axes)
    index = c.values(1)
    shape = tuple(index.shape) if index is not None else _index_shape(c, x, axis)
    if index is not None and index.dtype.kind in "iu" and index.size == 1:
        out, back = cut(x, axis, int(index.ravel()[0]) % x.shape[axis], 1)
        wanted = [*x.shape[:axis], *shape, *x.shape[axis + 1 :]]
        out, way = reshaped(out, wanted) if tuple(wanted) != out.shape else (out, lambda d: d)
        return one(replace(out, bend=None), chain(back, way))
    return one(*_picked(x, axis, shape))


@op("gather_elements")
def _gathered(c: Case) -> Step:
    """Elements of one axis chosen by a table of places, as relative positions choose logits."""
    x = c.kernel(0)
    axis = c.integer("axis", 0) % len(x.axes)
    shape = c.shape()
    if shape is None or len(shape) != len(x.axes) or any(n is None for n in shape):
        raise Unread
    if any(n != m for a, (n, m) in enumerate(zip(shape, x.shape, strict=True)) if a != axis):
        raise Unread
    return one(*_picked(x, axis, (int(shape[axis] or 0),)))


def _index_shape(c: Case, x: Kernel, axis: int) -> tuple[int, ...]:
    shape = c.shape()
    if shape is None or any(n is None for n in shape):
        raise Unread
    return tuple(int(n or 0) for n in shape[axis : len(shape) - (len(x.axes) - axis - 1)])


def _picked(x: Kernel, axis: int, shape: tuple[int, ...]) -> tuple[Kernel, BackOne]:
    """Return elements of an axis in another order and number, each about equally often."""
    n, whole = math.prod(shape), x.shape[axis]
    found = kinds(x.axes[axis])
    if found == {UNIT} or not found:
        return _resized(x, axis, shape, n / whole)
    if found != {PLACE} or len(x.axes[axis]) > 1:
        raise Unread
    at = x.axes[axis][0].at
    extents, reach = list(x.grid.extents), list(x.grid.reach)
    extents[at], reach[at] = n, 0
    grid = Grid(tuple(extents), tuple(reach))
    same = 1 / whole  # of two places that are chosen, the share that are one

    def gathered(f: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        index = tuple(slice(0, 1) if a == at else slice(None) for a in range(len(extents)))
        table = x.grid.table(f)[index]
        return grid.made(table, float(f[-1]) + same * (float(f[0]) - float(f[-1])))

    axes: list[Axis] = list(x.axes)
    axes[axis] = (replace(axes[axis][0], extent=n),)
    out = replace(x, axes=tuple(axes), grid=grid, own=gathered(x.own), shared=gathered(x.shared), profile=(), bend=None)

    def back(d: Back) -> Back:
        def spread(f: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
            near = f[0] * n / whole + f[-1] * n * (n - 1) / whole**2
            far = f[-1] * n * (n - 1) / whole**2
            made = np.full(x.grid.size, far)
            made[0] = near
            return made

        return replace(d.mapped(spread, x.grid), profile=())

    wanted = [*x.shape[:axis], *shape, *x.shape[axis + 1 :]]
    made, way = reshaped(out, wanted)
    return made, chain(back, way)


def _resized(x: Kernel, axis: int, shape: tuple[int, ...], times: float) -> tuple[Kernel, BackOne]:
    from initaudit.theory.moves_cut import unit_axis  # noqa: PLC0415

    axes = list(x.axes)
    rest = tuple(a for a in axes[axis] if a.kind == BATCH)
    axes[axis : axis + 1] = [(*rest, *unit_axis(shape[0])), *(unit_axis(n) for n in shape[1:])] if shape else []
    return replace(x, axes=tuple(axes), bend=None), lambda d: d.scaled(times)


@op("gather_nd")
def _chosen(c: Case) -> Step:
    if c.node.call is None and c.is_weight(0) and c.moves(1) and not c.integer("batch_dims", 0):
        return looked_up(c, 0, 1)
    x = c.kernel(0)
    index = c.attrs.get("index")
    if not isinstance(index, tuple):
        raise Unread
    refs = [k for k, i in enumerate(index) if isinstance(i, Ref)]
    if len(refs) == 1 and all(isinstance(i, slice) and i == slice(None) for k, i in enumerate(index) if k not in refs):
        shape = _index_shape(c, x, refs[0])
        return one(*_picked(x, refs[0], shape))
    return one(*_rowwise(c, x, index))


def _rowwise(c: Case, x: Kernel, index: tuple[Any, ...]) -> tuple[Kernel, BackOne]:
    """Return one place for each input, as x[arange, last]. Raises Unread."""
    plain = [i for i in index if not isinstance(i, EllipsisType)]
    if len(plain) != 2 or len(index) != 2 or kinds(x.axes[0]) - {BATCH} or kinds(x.axes[1]) != {PLACE}:
        raise Unread
    out, back = cut(x, 1, x.shape[1] - 1, 1)
    made, way = reshaped(out, [n for a, n in enumerate(out.shape) if a != 1])
    return made, chain(back, way)


# ---- together and copied


@op("concat")
def _concat(c: Case) -> Step:
    shapes = c.walk.view.graph.shapes
    places = [k for k in range(len(c.node.inputs)) if c.has(k) and 0 not in (shapes.get(c.name(k)) or ())]
    parts = [c.kernel(k) for k in places]
    if not parts:
        raise Unread
    rank = len(parts[0].axes)
    ways: list[BackOne] = [lambda d: d] * len(parts)
    axis = c.integer("axis", 0)
    if c.attrs.get("new_axis"):
        axis %= rank + 1
        made = [reshaped(x, [*x.shape[:axis], 1, *x.shape[axis:]]) for x in parts]
        parts, ways = [x for x, _ in made], [w for _, w in made]
        if axis < rank and not any(a.kind == PLACE for a in parts[0].axes[axis]):
            made = [
                copied(x, axis, 1, PLACE) if len(parts[0].axes) == 3 and axis == 1 else (x, nothing()) for x in parts
            ]
            parts = [x for x, _ in made]
            ways = [chain(w, v) for w, (_, v) in zip(ways, made, strict=True)]
    axis %= len(parts[0].axes)
    out, backs = concat(parts, axis)

    def down(d: Grads) -> dict[int, Back | None]:
        if d[0] is None:
            return {}
        return {k: way(back) for k, way, back in zip(places, ways, backs(d[0]), strict=True)}

    return Step((out,), down)


def nothing() -> BackOne:
    """Return the way back through nothing."""
    return lambda d: d


@op("expand", "broadcast")
def _expand(c: Case) -> Step:
    x = c.kernel(0)
    shape = c.shape()
    if shape is None or any(n is None for n in shape):
        wanted = c.ints(1, "shape")
        if wanted is None:
            raise Unread
        old = (1,) * (len(wanted) - len(x.shape)) + x.shape
        shape = tuple(max(n, m) for n, m in zip(wanted, old, strict=True))
    return one(*expanded(x, [int(n or 0) for n in shape]))


def expanded(x: Kernel, shape: Sequence[int]) -> tuple[Kernel, BackOne]:
    """Return a signal with axes of one element copied as often as a shape says."""
    out, back = x, nothing()
    if len(shape) > len(x.axes):
        out, back = reshaped(x, (1,) * (len(shape) - len(x.axes)) + x.shape)
    for axis, n in enumerate(shape):
        if n == out.shape[axis]:
            continue
        if out.shape[axis] != 1:
            raise Unread
        out, way = copied(out, axis, n, _kind(out, axis))
        back = chain(back, way)
    return replace(out, bend=None), back


def _kind(x: Kernel, axis: int) -> str:
    """Return what copies along an axis of one element are: of inputs, of a unit, or of a position."""
    if any(atom.kind == BATCH for atom in x.axes[axis]) or axis == 0:
        return BATCH
    before = kinds(x.axes[axis - 1])
    after = kinds(x.axes[axis + 1]) if axis + 1 < len(x.axes) else set()
    return UNIT if UNIT in before and (PLACE in after or len(x.axes) > 4) else PLACE


@op("tile")
def _tile(c: Case) -> Step:
    x = c.kernel(0)
    shape = c.shape()
    if shape is None or any(n is None for n in shape):
        repeats = c.ints(1, "repeats")
        if repeats is None:
            raise Unread
        longer = (1,) * (len(repeats) - len(x.shape)) + x.shape
        shape = tuple(r * n for r, n in zip(repeats, longer, strict=True))
    wanted = [int(n or 0) for n in shape]
    out, back = x, nothing()
    if len(wanted) > len(x.axes):
        out, back = reshaped(x, (1,) * (len(wanted) - len(x.axes)) + x.shape)
    for axis, n in enumerate(wanted):
        old = out.shape[axis]
        if n == old:
            continue
        if not old or n % old:
            raise Unread
        found = kinds(out.axes[axis])
        kind = _kind(out, axis) if not found else found.pop() if len(found) == 1 else PLACE
        out, way = copied(out, axis, n // old, kind)
        back = chain(back, way)
        if extent(out.axes[axis]) > 1 and kind != PLACE:
            out, way = reshaped(out, out.shape)
            back = chain(back, way)
    return one(out, back)
