"""What takes elements by index, repeats or puts them, does to bounds, and to gradients that may be zero."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from types import EllipsisType
from typing import Any

import numpy as np

from initaudit.symmetry.moving import Case, Given, Step, Unread, rule
from initaudit.symmetry.moving_moves import axes_of, moved
from initaudit.symmetry.zones import Grad, Sums, Zone, alive, anything, collapsed, dead, joined, lined, reduced
from initaudit.types import Array

MOST_INDICES = 1 << 20


def taken(c: Case, axis: int, index: Array, shape: Sequence[int]) -> Step:
    """Return a step that takes the elements at known places along an axis, which may become several or none."""
    x = c.value(0)
    before = x.shape
    size = before[axis]
    index = np.where(index < 0, index + size, index)
    flat = index.ravel()
    if flat.size and not 0 <= flat.min() <= flat.max() < size:
        raise Unread
    order = index.ndim == 1 and index.size == size and len(np.unique(flat)) == size
    whole = len(np.unique(flat)) == size
    more = index.ndim - 1

    def there(v: Array) -> Array:
        if v.shape[axis] == 1 and size > 1:
            return v.reshape(*v.shape[:axis], *(1,) * index.ndim, *v.shape[axis + 1 :])
        return np.take(v, index, axis)

    def back(d: Array) -> Array:
        own = d.shape[axis : axis + index.ndim]
        rest = (*d.shape[:axis], -1, *d.shape[axis + index.ndim :])
        if math.prod(own) == 1 and whole:
            return d.reshape(rest)
        flat_d = np.moveaxis(np.broadcast_to(d, (*d.shape[:axis], *index.shape, *d.shape[axis + index.ndim :]))
                             .reshape(rest), axis, 0)  # fmt: skip
        out = np.zeros((size, *flat_d.shape[1:]), bool)
        np.logical_or.at(out, flat, flat_d)
        return np.moveaxis(out, 0, axis)

    def axes(one: frozenset[int]) -> frozenset[int] | None:
        inside = {a for a in one if axis <= a <= axis + more}
        if inside and not order:
            return None
        return frozenset(axis if a in inside else a if a < axis else a - more for a in one)

    return moved(c, there, back, shape, axes)


@rule("gather")
def _gather(c: Case) -> Step:
    x = c.value(0)
    axis = c.integer("axis", 0) % max(1, len(x.shape))
    shape = c.shape()
    index = c.held(1)
    if index is not None and not index.moved.any() and math.prod(index.shape) <= MOST_INDICES:
        places = np.asarray(index.numbers())
        wanted = (*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])
        if places.dtype.kind in "iu" and tuple(shape) == wanted:
            return taken(c, axis, places.reshape(index.shape), shape)
    more = len(shape) - len(x.shape)  # axes beyond the one that is indexed
    if more < -1:
        raise Unread
    own = frozenset(range(axis, axis + more + 1))
    thin = joined(c.zone(0), [axis])

    def there(v: Array) -> Array:
        return v.reshape(*v.shape[:axis], *(1,) * (more + 1), *v.shape[axis + 1 :])

    def back(d: Sequence[Grad]) -> Given:
        def again(v: Array) -> Array:
            v = collapsed(v, sorted(own), np.any)
            return v.reshape(*v.shape[:axis], 1, *v.shape[axis + more + 1 :])

        sums = []
        for one, where in d[0].sums:
            if one & own and not own <= one:
                continue
            rest = {a if a < axis else a - more for a in one - own}
            sums.append((frozenset(rest | ({axis} if own <= one and own else set())), ~again(~where)))
        return {0: Grad(again(d[0].live), x.shape, tuple((one, where) for one, where in sums if one))}

    return Step((thin.mapped(there, shape),), back)


@rule("tile")
def _tile(c: Case) -> Step:
    before, shape = c.value(0).shape, c.shape()
    apart = "interleave" in (c.node.call.target if c.node.call is not None else "")
    if apart and not isinstance(c.attrs.get("axis"), int):
        raise Unread
    rank = len(shape)
    if all(n in (1, m) for n, m in zip((1,) * (rank - len(before)) + before, shape, strict=True)):
        x = c.zone(0)
        out = Zone(lined(x.low, rank), lined(x.high, rank), shape, lined(x.fixed, rank))
        return Step((out,), lambda d: {0: reduced(d[0], x.shape)})
    grown = [a for a, (n, m) in enumerate(zip(before, shape, strict=True)) if n != m]  # of one length, or Unread
    if len(grown) != 1:
        return _mixed(c, grown, [0])
    axis = grown[0]
    places = np.arange(before[axis])
    times = shape[axis] // max(1, before[axis])
    if times * before[axis] != shape[axis] or (apart and not isinstance(c.attrs.get("repeats"), int)):
        return _mixed(c, grown, [0])
    return taken(c, axis, np.repeat(places, times) if apart else np.tile(places, times), shape)


@rule("roll")
def _roll(c: Case) -> Step:
    x = c.value(0)
    rank = len(x.shape)
    axes = c.attrs.get("axes")
    axes = [axes] if isinstance(axes, int) else axes
    if isinstance(axes, (tuple, list)) and len(axes) == 1 and isinstance(axes[0], (tuple, list)):
        axes = axes[0]
    if not axes or not all(isinstance(a, int) for a in axes):
        return _mixed(c, range(rank), [0])
    if not c.attrs.get("reverse") or len(axes) > 1:
        shifts = c.attrs.get("shifts")
        shifts = [shifts] if isinstance(shifts, int) else shifts
        if c.attrs.get("reverse") or len(axes) > 1 or not shifts or not isinstance(shifts[0], int):
            return _mixed(c, [a % rank for a in axes], [0])
        places = np.roll(np.arange(x.shape[axes[0]]), shifts[0])
    else:
        places = np.arange(x.shape[axes[0]])[::-1]
    return taken(c, axes[0] % rank, places, x.shape)


def _mixed(c: Case, lost: Sequence[int], places: Sequence[int], *, fills: bool = False, sums: bool = False) -> Step:
    """Return a step whose results are elements of its operands, along some axes from anywhere.

    Args:
        c: the node.
        lost: axes along which elements may come from anywhere; the others stay what they are.
        places: of the operands.
        fills: some results may be zero besides.
        sums: results may be sums, differences or products of elements.
    """
    shape = c.shape()
    zones = {k: c.zone(k) for k in places}
    rank = len(shape)
    if any(len(z.shape) != rank for z in zones.values()):
        return _any(c, places)
    if any(z.shape[a] != shape[a] for z in zones.values() for a in range(rank) if a not in lost):
        raise Unread
    low, high = zip(*((t.low, t.high) for t in (joined(z, list(lost)) for z in zones.values())), strict=True)
    least, most = _lowest(low), -_lowest([-h for h in high])
    if fills:
        least, most = np.minimum(least, 0), np.maximum(most, 0)
    if sums:
        least, most = np.where(least < 0, -np.inf, 0.0), np.where((most > 0) | (least < 0), np.inf, 0.0)

    def back(d: Sequence[Grad]) -> Given:
        live = collapsed(d[0].live, list(lost), np.any)
        kept: Sums = tuple((one, ~collapsed(~where, list(lost), np.any)) for one, where in d[0].sums
                           if len(places) == 1 and not fills and not sums and not one & set(lost))  # fmt: skip
        return {k: Grad(live, z.shape, kept) for k, z in zones.items()}

    return Step((Zone(least, most, shape), *([None] * (len(c.node.outputs) - 1))), back)


def _lowest(parts: Sequence[Array]) -> Array:
    out = parts[0]
    for part in parts[1:]:
        out = np.minimum(out, part)
    return out


def _any(c: Case, places: Sequence[int]) -> Step:
    """Return a step of which only is known that it makes zeros of zeros."""
    zones = {k: c.zone(k) for k in places}
    zero = all(bool(z.zero.all()) for z in zones.values())
    outs = []
    for k in range(len(c.node.outputs)):
        out = anything(c.shape(k))
        outs.append(replace(out, low=np.zeros_like(out.low), high=np.zeros_like(out.high)) if zero else out)

    def back(d: Sequence[Grad]) -> Given:
        none = all(g.none for g in d)
        return {k: dead(z.shape) if none else alive(z.shape) for k, z in zones.items()}

    return Step(tuple(outs), back)


@rule("sort", "top_k")
def _sort(c: Case) -> Step:
    return _mixed(c, axes_of(c, -1), [0])


@rule("cumsum", "cumprod", "cummax")
def _cumulated(c: Case) -> Step:
    if c.node.op == "cumsum" and c.shape() != c.zone(0).shape:  # differences of neighbours, or areas
        return _any(c, [0])
    axes = axes_of(c, 0)
    if c.node.op == "cummax":
        return _mixed(c, axes, [0])
    return _mixed(c, axes, [0], sums=True)


@rule("trilu")
def _trilu(c: Case) -> Step:
    x = c.zone(0)
    rank = len(x.shape)
    rows, columns = x.shape[-2:]
    k = c.ints(1, "k", "diagonal")
    if rows * columns > MOST_INDICES or not k:
        return _mixed(c, [rank - 2, rank - 1], [0], fills=True)
    kept = np.ones((rows, columns), bool)
    kept = np.triu(kept, k[0]) if c.attrs.get("upper", 1) else np.tril(kept, k[0])
    kept = lined(kept, rank) | c.walk.generic
    out = Zone(np.where(kept, x.low, 0.0), np.where(kept, x.high, 0.0), x.shape,
               x.fixed if x.fixed.shape[-2:] == (rows, columns) or bool(x.zero.all()) else None)  # fmt: skip
    return Step((out,), lambda d: {0: Grad(d[0].live & kept, x.shape)})


@rule("reverse_sequence")
def _reverse(c: Case) -> Step:
    return _mixed(c, [0, 1], [0])


@rule("gather_elements", "gather_nd", "compress", "unfold", "col2im", "depth_to_space", "space_to_depth",
      "center_crop_pad", "reduce_median")  # fmt: skip
def _some(c: Case) -> Step:
    shape, x = c.shape(), c.zone(0)
    axis = c.attrs.get("axis")
    if c.node.op == "gather_elements" and isinstance(axis, int) and len(shape) == len(x.shape):
        lost = [a for a, (m, n) in enumerate(zip(x.shape, shape, strict=True)) if m != n or a == axis % len(shape)]
        return _mixed(c, lost, [0])
    return _any(c, [0])


@rule("scatter_elements", "scatter", "scatter_add")
def _scatter(c: Case) -> Step:
    return _any(c, [0, 2])


@rule("scatter_nd")
def _put(c: Case) -> Step:
    """Put values at places that are written in the program, or at any."""
    index = c.attrs.get("index")
    x = c.zone(0)
    whole = isinstance(index, tuple) and all(
        i is None or isinstance(i, (slice, EllipsisType)) or (isinstance(i, int) and not isinstance(i, bool))
        for i in index
    )
    if not whole or math.prod(x.shape) > MOST_INDICES:
        return _any(c, [0, 2])
    assert isinstance(index, tuple)
    return _assigned(c, index, x, c.zone(2))


def _assigned(c: Case, index: tuple[Any, ...], x: Zone, y: Zone) -> Step:
    where = np.zeros(x.shape, bool)
    where[index] = True
    part = where[index].shape
    y_shape = y.shape[max(0, len(y.shape) - len(part)) :]
    np.broadcast_shapes(y_shape, part)
    wide = [a for a, n in enumerate(x.shape) if not _along(where, a) and n > 1]

    def put(base: Array, value: Array) -> Array:
        full = np.array(np.broadcast_to(base, x.shape))
        full[index] = np.broadcast_to(value.reshape(value.shape[value.ndim - len(y_shape) :]), part)
        thin = tuple(slice(None) if a in wide or _wide(base, a) else slice(0, 1) for a in range(full.ndim))
        return full if any(_wide(value, k) for k in range(value.ndim)) else full[thin]

    low, high = put(x.low, y.low), put(x.high, y.high)
    out = Zone(low, high, x.shape)

    def back(d: Sequence[Grad]) -> Given:
        full = np.broadcast_to(d[0].live, x.shape)
        own = Grad(np.asarray(full[index]), part)
        value = reduced(own, y.shape) if len(y.shape) <= len(part) else alive(y.shape)
        return {0: Grad(full & ~where, x.shape), 2: value}

    return Step((out,), back)


def _along(where: Array, axis: int) -> bool:
    return bool((where == where.take([0], axis)).all())


def _wide(v: Array, axis: int) -> bool:
    return bool(v.shape[axis] > 1)
