"""What is chosen, sorted or put in place by values: along such an axis anything may come from anywhere.

No two indices along it are called equal, not even of equal elements: of those one is picked, and only it learns. All
other axes are left as they are: a choice of experts says nothing of the units inside one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from initaudit.symmetry.combining import combined
from initaudit.symmetry.engine import Case, Given, Step, Unread, op
from initaudit.symmetry.labels import ZERO, Labels, even
from initaudit.symmetry.places import written
from initaudit.symmetry.pointwise import settings
from initaudit.symmetry.products import alone, forgotten

_FEW = 1 << 16  # entries of labels that are told one by one


def sized(x: Labels, axis: int, size: int) -> Labels:
    """Return labels with an axis on which no two indices are called equal, and of another extent."""
    out = x.freed(axis).as_free(axis, size)
    return out if x.is_free(axis) else apart(out, axis)


def apart(x: Labels, axis: int) -> Labels:
    """Return the same labels with an entry for each index of a free axis, so that others speak of each by itself."""
    return x.dense(axis) if x.data.size * x.shape[axis] <= _FEW else x


def fitted(x: Labels, shape: Sequence[int], axis: int) -> Labels:
    """Return labels on the axes of another value, with one axis free, and any of another extent."""
    if x.rank != len(shape):
        return alone(x, len(shape))
    for k, size in enumerate(shape):
        if k == axis or x.shape[k] != size:
            x = sized(x, k, size)
    return x


def _axis(c: Case, rank: int, default: int = 0) -> int:
    return c.integer("axis", default) % rank


@op("top_k", "sort", "argsort")
def _sorted(c: Case) -> Step:
    x = c.labels(0)
    axis = _axis(c, x.rank, -1)
    told = c.shape()
    if told is None or len(told) != x.rank:
        count = c.ints(1, "k")
        if c.node.op == "top_k" and count is None:
            raise Unread
        told = (*x.shape[:axis], count[0] if count else x.shape[axis], *x.shape[axis + 1 :])
    picked = sized(x, axis, told[axis]).tagged(c.node.op, settings(c))
    places = picked.tagged("places")
    outs = (places,) if c.node.op == "argsort" else (picked, places)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        if c.node.op == "argsort":
            return {0: even(x.shape, ZERO)}
        own = combined((sized(d[0], axis, x.shape[axis]), sized(x, axis, x.shape[axis])), c.node.op, "back")
        return {0: own}

    return Step((*outs, *([None] * (len(c.node.outputs) - len(outs))))[: len(c.node.outputs)], back)


@op("arg_max", "arg_min")
def _arg(c: Case) -> Step:
    x = c.labels(0)
    axis, shape = c.attrs.get("axis", 0 if c.node.call is None else None), c.shape()
    if not isinstance(axis, int):
        raise Unread
    axis %= x.rank
    keep = bool(c.attrs.get("keepdims", c.node.call is None))
    out = sized(x, axis, 1).tagged(c.node.op, settings(c))
    out = out if keep else out.dropped(axis)
    if shape is not None and out.shape != shape:
        raise Unread
    return Step((out,), lambda d: {0: even(x.shape, ZERO)})


@op("one_hot")
def _one_hot(c: Case) -> Step:
    ids, shape = c.labels(0), c.shape()
    if shape is None or len(shape) != ids.rank + 1:
        raise Unread
    axis = _axis(c, len(shape), -1)
    out = apart(ids.added(axis, shape[axis], free=True), axis).tagged("one hot", settings(c))
    return Step((out,), lambda d: {})


@op("gather_elements")
def _gather_elements(c: Case) -> Step:
    x, ids = c.labels(0), c.labels(1)
    axis = _axis(c, x.rank)
    out = combined((fitted(x, ids.shape, axis), fitted(ids, ids.shape, axis)), "pick", axis)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        return {0: combined((fitted(d[0], x.shape, axis), fitted(ids, x.shape, axis)), "pick back", axis)}

    return Step((out,), back)


@op("scatter_elements", "scatter")
def _scatter_elements(c: Case) -> Step:
    x, places = c.labels(0), [k for k in range(1, len(c.node.inputs)) if c.has(k)]
    if not isinstance(c.attrs.get("axis", 0 if c.node.call is None else None), int):
        raise Unread
    axis = _axis(c, x.rank)
    others = [c.labels(k) for k in places]
    if c.has(2) and c.labels(2).rank not in (0, x.rank):
        raise Unread
    parts = [sized(x, axis, x.shape[axis]), *(fitted(v, x.shape, axis) for v in others)]
    tag = ("put", axis, settings(c))
    out = combined(parts, *tag)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        own = combined((sized(d[0], axis, x.shape[axis]), *parts), *tag, "back")
        found: dict[int, Given] = {0: own}
        if c.has(2) and c.labels(2).rank == x.rank:
            found[2] = fitted(own, c.labels(2).shape, axis).tagged("put")
        elif c.has(2):
            found[2] = alone(own)
        return found

    return Step((out,), back)


def _leading(x: Labels, count: int, lead: Sequence[int]) -> Labels:
    """Return labels with the first axes replaced by free ones."""
    for _ in range(count):
        x = forgotten(x, 0)
    for size in reversed(lead):
        x = x.added(0, size, free=True)
    return x


def _consumed(c: Case, x: Labels, outs: Sequence[int] | None) -> tuple[int, int]:
    """Return how many of the first axes are looked up by values, and how many operands say where."""
    index = c.attrs.get("index")
    if index is None:
        deep = c.integer("batch_dims", 0)
        return deep + c.value(1).shape[-1], 1
    refs = [i for i in index if not (isinstance(i, slice) and i == slice(None)) and i is not Ellipsis]
    if not isinstance(index, tuple) or list(index[: len(refs)]) != refs or any(_plain(i) for i in refs):
        raise Unread
    if len(refs) == 1 and outs is not None:  # a mask takes as many axes as it has
        rank = c.value(1).shape
        return (len(rank), 1) if len(outs) == 1 + x.rank - len(rank) and len(rank) > 1 else (1, 1)
    return len(refs), len(refs)


def _plain(i: object) -> bool:
    return i is None or isinstance(i, (int, slice))


@op("gather_nd")
def _gather_nd(c: Case) -> Step:
    x = c.labels(0)
    shape = c.shape()
    if shape is None and c.attrs.get("index") is None:
        ids = c.value(1).shape
        shape = (*ids[:-1], *x.shape[c.integer("batch_dims", 0) + ids[-1] :])
    count, refs = _consumed(c, x, shape)
    if shape is None or shape[len(shape) - x.rank + count :] != x.shape[count:]:
        raise Unread
    lead = shape[: len(shape) - x.rank + count]
    where = [alone(c.labels(k), x.rank - count + len(lead)) for k in range(1, 1 + refs)]
    out = combined((_leading(x, count, lead), *where), "look up", count)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        own = combined((d[0], *where), "look up back", count)
        return {0: _leading(own, len(lead), x.shape[:count])}

    return Step((out,), back)


@op("scatter_nd")
def _scatter_nd(c: Case) -> Step:
    x = c.labels(0)
    index = c.attrs.get("index")
    axis = c.attrs.get("axis")
    if isinstance(axis, int):  # a slice, or one index, along an axis
        own = index if isinstance(index, int) else slice(*(c.attrs.get(name) for name in ("start", "end", "step")))
        return written(x, c.labels(1), (*(slice(None),) * (axis % x.rank), own), 1)
    if isinstance(index, tuple) and all(_plain(i) or i is Ellipsis for i in index):
        return written(x, c.labels(2), index, 2)
    count, _ = _consumed(c, x, None)
    last = 2
    value = c.labels(last)
    kept = x.rank - count
    rest = min(kept, value.rank)
    if value.shape[value.rank - rest :] != x.shape[x.rank - rest :] and value.rank:
        raise Unread
    lead = value.shape[: value.rank - rest]
    wide = _leading(value, len(lead), ())
    where = [alone(c.labels(k), x.rank) for k in range(1, len(c.node.inputs)) if k != last and c.has(k)]
    base = _leading(x, count, x.shape[:count])
    tag = ("put at", count, settings(c))
    out = combined((base, wide, *where), *tag)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        own = combined((_leading(d[0], count, x.shape[:count]), *where), *tag, "back")
        return {0: own, last: _leading(own.tagged("put at"), x.rank - rest, lead)}

    return Step((out,), back)


@op("grid_sample")
def _grid_sample(c: Case) -> Step:
    x, grid, shape = c.labels(0), c.labels(1), c.shape()
    if shape is None or x.shape[:2] != shape[:2]:
        raise Unread
    where = alone(grid, x.rank)
    wide = x
    for k in range(2, x.rank):
        wide = sized(wide, k, shape[k])
    out = combined((wide, where), "sample", settings(c))

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        own = combined((d[0], where), "sample back")
        for k in range(2, x.rank):
            own = sized(own, k, x.shape[k])
        spread = alone(combined((d[0], out), "grid")).data
        free = grid
        for k in range(grid.rank):
            free = sized(free, k, grid.shape[k])
        return {0: own, 1: free.with_data(free.data * 0 + spread)}

    return Step((out,), back)
