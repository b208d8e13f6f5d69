"""What only moves elements does to bounds, and to gradients that may be zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from types import EllipsisType
from typing import Any

import numpy as np

from initaudit.symmetry.moving import Case, Given, Step, Unread, rule
from initaudit.symmetry.zones import (
    Grad,
    Held,
    Zone,
    carried,
    collapsed,
    joined,
    lined,
    merged,
    reduced,
    reshaper,
)
from initaudit.types import Array

_FEW = 4096


def moved(c: Case, f: Callable[[Array], Array], back: Callable[[Array], Array], shape: Sequence[int],
           axes: Callable[[frozenset[int]], frozenset[int] | None]) -> Step:  # fmt: skip
    """Return a step that moves elements; `axes` says which axes before are those after, None where that is lost."""
    x = c.value(0)
    before = x.shape
    out: Zone | Held
    out = Held(lambda: f(x.numbers()), tuple(shape), f(x.moved)) if isinstance(x, Held) else x.mapped(f, shape)

    def down(d: Sequence[Grad]) -> Given:
        found = [(axes(one), where) for one, where in d[0].sums]
        even = axes(d[0].even)
        told: tuple[Array, Array] | tuple[()] = ()
        if isinstance(x, Held):
            told = tuple(back(lined(np.asarray(v), len(shape))) for v in (d[0].cancelled, d[0].reach))  # type: ignore[assignment]
        sums = tuple((one, _truly(back, where)) for one, where in found if one)
        return {0: Grad(back(d[0].live), before, sums, even or frozenset(), *told)}

    return Step((out,), down)


def axes_of(c: Case, default: int) -> list[int]:
    """Return the axis of the first operand that a node is about."""
    rank = len(c.value(0).shape)
    return [c.integer("axis", c.integer("dim", default)) % max(1, rank)]


def _truly(back: Callable[[Array], Array], where: Array) -> Array:
    """Carry a mask back; what was not taken has no gradient, which sums to zero too."""
    return ~back(~where)


@rule("reshape", "flatten", "view", "squeeze", "unsqueeze")
def _reshape(c: Case) -> Step:
    before, shape = c.value(0).shape, c.shape()
    if math.prod(before) != math.prod(shape):
        raise Unread
    there, back = reshaper(before, shape), reshaper(shape, before)

    def axes(one: frozenset[int]) -> frozenset[int] | None:
        return carried(one, before, shape)

    return moved(c, there, back, shape, axes)


@rule("transpose")
def _transpose(c: Case) -> Step:
    before = c.value(0).shape
    rank = len(before)
    perm = c.attrs.get("perm")
    if perm is None and "swap" in c.attrs:
        first, second = (int(a) % rank for a in c.attrs["swap"])
        perm = list(range(rank))
        perm[first], perm[second] = second, first
    if perm is None and (c.attrs.get("reverse") or c.node.call is None):
        perm = list(range(rank))[::-1]
    if perm is None or sorted(perm) != list(range(rank)):
        raise Unread
    order = [int(a) for a in perm]
    way = [order.index(a) for a in range(rank)]
    return moved(c, lambda x: x.transpose(order), lambda x: x.transpose(way), [before[a] for a in order],
                  lambda one: frozenset(order[a] for a in one))  # fmt: skip


def _cut(c: Case, index: tuple[Any, ...]) -> Step:
    before = c.value(0).shape
    used = sum(i is not None and not isinstance(i, EllipsisType) for i in index)
    at = next((k for k, i in enumerate(index) if isinstance(i, EllipsisType)), len(index))
    full = (*index[:at], *(slice(None),) * (len(before) - used), *index[at + 1 :])
    if not all(i is None or isinstance(i, slice) or (isinstance(i, int) and not isinstance(i, bool)) for i in full):
        raise Unread
    shape = np.broadcast_to(np.zeros((), np.int8), before)[full].shape
    own = [i for i in full if i is not None]
    origin: list[int | None] = []
    axis = 0
    for i in full:
        if i is None:
            origin.append(None)
        else:
            if isinstance(i, slice):
                origin.append(axis)
            axis += 1
    whole = {a for a, i in enumerate(own) if isinstance(i, slice) and len(range(*i.indices(before[a]))) == before[a]}

    def there(x: Array) -> Array:
        axis = 0
        local: list[Any] = []
        for i in full:
            if i is None:
                local.append(None)
                continue
            thin = x.shape[axis] == 1 and before[axis] != 1
            local.append((slice(None) if isinstance(i, slice) else 0) if thin else i)
            axis += 1
        return np.asarray(x[tuple(local)])

    def back(d: Array) -> Array:
        wide = [n if any(o == a and d.shape[k] > 1 for k, o in enumerate(origin)) or a not in whole else 1
                for a, n in enumerate(before)]  # fmt: skip
        out = np.zeros(wide, bool)
        index_ = tuple(i if i is None or wide[a] > 1 or isinstance(i, int) else slice(None)
                       for a, i in _with_axes(full))  # fmt: skip
        out[index_] = d
        return out

    def axes(one: frozenset[int]) -> frozenset[int] | None:
        found = {origin[a] for a in one if origin[a] is not None}
        return frozenset(a for a in found if a is not None) if found <= whole else None

    return moved(c, there, back, shape, axes)


def _with_axes(index: Sequence[Any]) -> list[tuple[int, Any]]:
    out, axis = [], 0
    for i in index:
        out.append((axis, i))
        axis += i is not None
    return out


@rule("slice")
def _slice(c: Case) -> Step:
    index = c.attrs.get("index")
    if isinstance(index, tuple):
        return _cut(c, index)
    starts, ends = c.ints(1, "starts"), c.ints(2, "ends")
    if starts is None or ends is None:
        raise Unread
    axes = c.ints(3, "axes") or tuple(range(len(starts)))
    by = c.ints(4, "steps") or (1,) * len(starts)
    rank = len(c.value(0).shape)
    found: list[Any] = [slice(None)] * rank
    for a, start, end, step in zip(axes, starts, ends, by, strict=True):
        stop = None if (step > 0 and end >= 2**31 - 1) or (step < 0 and end < -(2**31) + 1) else end
        found[a % rank] = slice(start, stop, step)
    return _cut(c, tuple(found))


@rule("split")
def _split(c: Case) -> Step:
    x = c.value(0)
    axis = c.integer("axis", 0) % len(x.shape)
    keep = c.attrs.get("keepdims", 1) != 0
    steps, at = [], 0
    for k in range(len(c.node.outputs)):
        size = c.shape(k)[axis] if keep else 1
        one: Any = slice(at, at + size) if keep else at
        steps.append(_cut(c, (*(slice(None),) * axis, one)))
        at += size
    if at != x.shape[axis]:
        raise Unread

    def back(d: Sequence[Grad]) -> Given:
        parts = [step.back([g])[0] for step, g in zip(steps, d, strict=True)]
        all_ = merged(parts)
        if not isinstance(x, Held):
            return {0: Grad(all_.live, x.shape, all_.sums)}
        reach, cancelled = np.asarray(parts[0].reach), np.asarray(parts[0].cancelled)
        for p in parts[1:]:
            reach, cancelled = reach | p.reach, cancelled | p.cancelled
        return {0: Grad(all_.live, x.shape, all_.sums, frozenset(), cancelled, reach)}

    return Step(tuple(step.outs[0] for step in steps), back)


@rule("concat")
def _concat(c: Case) -> Step:
    places = [k for k, name in enumerate(c.node.inputs) if name]
    zones = [c.zone(k) for k in places]
    shape = c.shape()
    rank = len(shape)
    axis = c.integer("axis", 0) % rank
    stacks = bool(c.attrs.get("new_axis"))

    def wide(x: Array, z: Zone) -> Array:
        x = np.expand_dims(x, axis) if stacks else x
        size = 1 if stacks else z.shape[axis]
        return np.repeat(x, size, axis) if x.shape[axis] == 1 else x

    sizes = [1 if stacks else z.shape[axis] for z in zones]
    bounds = []
    for which in ("low", "high", "fixed"):
        parts = [wide(getattr(z, which), z) for z in zones]
        own = np.broadcast_shapes(*((*p.shape[:axis], 1, *p.shape[axis + 1 :]) for p in parts))
        bounds.append(
            np.concatenate([np.broadcast_to(p, (*own[:axis], p.shape[axis], *own[axis + 1 :])) for p in parts], axis)
        )
    starts = np.cumsum([0, *sizes])

    def back(d: Sequence[Grad]) -> Given:
        found: dict[int, Grad] = {}
        for k, place in enumerate(places):
            live = d[0].live
            if live.shape[axis] > 1:
                live = live[(*(slice(None),) * axis, slice(int(starts[k]), int(starts[k + 1])))]
            sums = tuple((one, where) for one, where in d[0].sums if axis not in one and where.shape[axis] == 1)
            if stacks:
                live = live.reshape(*live.shape[:axis], *live.shape[axis + 1 :])
                sums = tuple((frozenset(a - (a > axis) for a in one), np.squeeze(where, axis)) for one, where in sums)
            found[place] = Grad(live, zones[k].shape, sums)
        return found

    return Step((Zone(bounds[0], bounds[1], shape, bounds[2]),), back)


@rule("expand")
def _expand(c: Case) -> Step:
    x, shape = c.zone(0), c.shape()
    out = Zone(lined(x.low, len(shape)), lined(x.high, len(shape)), shape, lined(x.fixed, len(shape)))
    return Step((out,), lambda d: {0: reduced(d[0], x.shape)})


@rule("pad")
def _pad(c: Case) -> Step:
    x, shape = c.zone(0), c.shape()
    grown = [a for a, (m, n) in enumerate(zip(x.shape, shape, strict=True)) if m != n]
    mode = str(c.attrs.get("mode") or "constant")
    constant = "constant" in mode
    filled = c.zone(2) if constant and c.has(2) else None
    fill = c.attrs.get("value")
    ends = (filled.low.min(), filled.high.max()) if filled is not None else (float(fill or 0),) * 2
    pads = _amounts(c, x, shape, grown) if constant else None
    if pads is not None:

        def put(v: Array, end: float) -> Array:
            wide = np.broadcast_to(v, [x.shape[a] if a in grown else n for a, n in enumerate(v.shape)])
            return np.pad(wide, pads, constant_values=end)

        fixed = np.pad(np.broadcast_to(x.fixed, [x.shape[a] if a in grown else n for a, n in enumerate(x.fixed.shape)]),
                       pads, constant_values=True)  # fmt: skip
        out = Zone(put(x.low, float(ends[0])), put(x.high, float(ends[1])), shape, fixed)
    else:
        thin = joined(x, grown)
        out = thin.mapped(lambda v: v, shape)
        if constant:
            out = Zone(np.minimum(thin.low, ends[0]), np.maximum(thin.high, ends[1]), shape)

    def back(d: Sequence[Grad]) -> Given:
        live = d[0].live
        if pads is None:
            kept = tuple((one, np.ones((1,) * len(shape), bool)) for one, where in d[0].sums
                         if not constant and where.all() and one >= set(grown))  # fmt: skip
            return {0: Grad(collapsed(live, grown, np.any), x.shape, kept)}
        cut = tuple(slice(first, first + n) if live.shape[a] > 1 else slice(None)
                    for a, ((first, _), n) in enumerate(zip(pads, x.shape, strict=True)))  # fmt: skip
        sums = tuple((one, where) for one, where in d[0].sums if not one & set(grown)
                     and all(where.shape[a] == 1 for a in grown))  # fmt: skip
        return {0: Grad(live[cut], x.shape, sums)}

    return Step((out,), back)


def _amounts(c: Case, x: Zone, shape: Sequence[int], grown: Sequence[int]) -> list[tuple[int, int]] | None:
    """Return how much is put before and after along each axis, where that is known and nothing is cut off."""
    rank = len(shape)
    if math.prod(shape[a] for a in grown) > _FEW:
        return None
    given = c.ints(1, "pads")
    if given is None:
        return None
    if c.node.call is not None:  # from the last axis to the first, before and after together
        if len(given) % 2 or len(given) > 2 * rank:
            return None
        pairs = [(0, 0)] * (rank - len(given) // 2) + [(given[k], given[k + 1]) for k in range(0, len(given), 2)][::-1]
    elif len(given) == 2 * rank:
        pairs = [(given[a], given[a + rank]) for a in range(rank)]
    else:
        return None
    fits = all(m + first + last == n and min(first, last) >= 0
               for (first, last), m, n in zip(pairs, x.shape, shape, strict=True))  # fmt: skip
    return pairs if fits else None
