"""What comparisons, choices, limits and casts do to bounds, and to gradients that may be zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from initaudit.symmetry.moving import Case, Given, Step, Unread, rule
from initaudit.symmetry.zones import Grad, Zone, anything, broadcast, dead, lined, quiet, reduced
from initaudit.types import Array

FAR = -1e4  # a score that a softmax makes exactly zero of, beside any other


def _pair(c: Case) -> tuple[Zone, Zone, tuple[int, ...]]:
    x, y = c.zone(0), c.zone(1)
    shape = broadcast(x.shape, y.shape)
    rank = len(shape)
    x, y = (
        Zone(lined(v.low, rank), lined(v.high, rank), shape, lined(v.fixed, rank)) for v in (x, y)
    )  # fmt: skip
    return x, y, shape


def _truth(c: Case, yes: Array, no: Array, zones: Sequence[Zone], shape: Sequence[int]) -> Step:
    """Return a step whose result is one or zero, where that is known."""
    shapes = [c.zone(k).shape for k, name in enumerate(c.node.inputs) if name]
    out = Zone(np.where(yes, 1.0, 0.0), np.where(no, 0.0, 1.0), tuple(shape))
    return Step((replace(out, still=quiet((*zones, out), len(shape)) | out.fixed),),
                lambda d: {k: dead(s) for k, s in enumerate(shapes)})  # fmt: skip


@rule("greater", "less", "greater_or_equal", "less_or_equal")
def _ordered(c: Case) -> Step:
    x, y, shape = _pair(c)
    if "less" in c.node.op:
        x, y = y, x
    if "equal" in c.node.op:
        return _truth(c, x.low >= y.high, x.high < y.low, (x, y), shape)
    return _truth(c, x.low > y.high, x.high <= y.low, (x, y), shape)


@rule("equal")
def _equal(c: Case) -> Step:
    x, y, shape = _pair(c)
    same = (x.low == x.high) & (y.low == y.high) & (x.low == y.low)
    return _truth(c, same & (c.node.call is None or "isin" not in c.node.call.target),
                  ((x.high < y.low) | (y.high < x.low)) & (c.node.call is None), (x, y), shape)  # fmt: skip


@rule("not")
def _not(c: Case) -> Step:
    x = c.zone(0)
    return _truth(c, x.zero, (x.low > 0) | (x.high < 0), (x,), x.shape)


@rule("and", "or")
def _both(c: Case) -> Step:
    x, y, shape = _pair(c)
    sure = [(v.low > 0) | (v.high < 0) for v in (x, y)]
    if c.node.op == "and":
        return _truth(c, sure[0] & sure[1], x.zero | y.zero, (x, y), shape)
    return _truth(c, sure[0] | sure[1], x.zero & y.zero, (x, y), shape)


@rule("where")
def _where(c: Case) -> Step:
    if c.node.call is not None and "scatter" in c.node.call.target:  # elements of another value, one after the other
        raise Unread
    cond, x, y = c.zone(0), c.zone(1), c.zone(2)
    shape = broadcast(cond.shape, x.shape, y.shape)
    rank = len(shape)
    yes, no = lined((cond.low > 0) | (cond.high < 0), rank), lined(cond.zero, rank)
    ends = [lined(v, rank) for v in (x.low, x.high, y.low, y.high)]
    low = np.where(yes, ends[0], np.where(no, ends[2], np.minimum(ends[0], ends[2])))
    high = np.where(yes, ends[1], np.where(no, ends[3], np.maximum(ends[1], ends[3])))
    fixed = [lined(v.fixed, rank) for v in (cond, x, y)]
    same = fixed[0] & (fixed[1] | no) & (fixed[2] | yes)
    alike = all(v.fixed.shape == v.low.shape for v in (cond, x, y))
    out = Zone(low, high, shape, same if alike else None)
    softened = all(c.walk.view.nodes[use.node].op == "softmax" for use in c.walk.view.readers(c.node.outputs[0]))
    masked = [softened and _far(c, place) for place in (2, 1)]

    def back(d: Sequence[Grad]) -> Given:
        found: dict[int, Grad] = {0: dead(cond.shape)}
        for place, own, off, whole in ((1, x, no, masked[0]), (2, y, yes, masked[1])):
            sums = d[0].sums if whole else ()
            found[place] = reduced(Grad(d[0].live & ~off, shape, sums), own.shape)
        return found

    return Step((out,), back)


def _far(c: Case, place: int) -> bool:
    held = c.held(place)
    if held is not None:
        numbers = np.asarray(held.numbers())
        kept = not held.moved.any() or numbers.size == 1 or bool(np.isneginf(numbers).all())  # nothing that learns
        return kept and bool((numbers <= FAR).all())
    return bool((c.zone(place).high <= FAR).all())


def _ends(c: Case, shape: Sequence[int]) -> tuple[Array, Array]:
    """Return the limits of a clip, which must be the same for all inputs and places."""
    ends = []
    for place, name, none in ((1, "min", -np.inf), (2, "max", np.inf)):
        given = c.attrs.get(name)
        if c.has(place):
            zone = c.zone(place)
            if not bool((zone.low == zone.high).all()):
                raise Unread
            ends.append(lined(zone.low, max(len(shape), zone.low.ndim)))
        else:
            ends.append(np.full((1,) * len(shape), float(given) if isinstance(given, (int, float)) else none))
    return ends[0], ends[1]


@rule("clip")
def _clip(c: Case) -> Step:
    x = c.zone(0)
    try:
        least, most = _ends(c, x.shape)
    except Unread:
        return _loose(c)
    if any(len(e.shape) != len(x.shape) for e in (least, most)):
        return _loose(c)

    def limited(v: Array) -> Array:
        return np.minimum(np.maximum(v, least), most)

    out = Zone(limited(x.low), limited(x.high), x.shape, x.fixed if least.size == most.size == 1 else None)
    inside = (x.high >= least) & (x.low <= most)
    places = [k for k in (1, 2) if c.has(k)]
    return Step((out,), lambda d: {
        0: Grad(d[0].live & inside, x.shape), **{k: dead(c.zone(k).shape) for k in places}
    })  # fmt: skip


def _loose(c: Case) -> Step:
    zones = {k: c.zone(k) for k, name in enumerate(c.node.inputs) if name}
    shape = broadcast(*(z.shape for z in zones.values()))
    return Step((anything(shape),), lambda d: {
        k: reduced(Grad(d[0].live, shape), z.shape) for k, z in zones.items()
    })  # fmt: skip


@rule("max", "min")
def _extreme(c: Case) -> Step:
    places = [k for k, name in enumerate(c.node.inputs) if name]
    zones = [c.zone(k) for k in places]
    shape = broadcast(*(z.shape for z in zones))
    rank = len(shape)
    low, high = [lined(z.low, rank) for z in zones], [lined(z.high, rank) for z in zones]
    how: Callable[..., Array] = np.maximum if c.node.op == "max" else np.minimum
    out = low[0], high[0]
    for a, b in zip(low[1:], high[1:], strict=True):
        out = how(out[0], a), how(out[1], b)
    still = quiet(zones, rank) if all(z.fixed.shape == z.low.shape for z in zones) else None

    def back(d: Sequence[Grad]) -> Given:
        found: dict[int, Grad] = {}
        for place, z, a, b in zip(places, zones, low, high, strict=True):
            chosen = b >= out[0] if c.node.op == "max" else a <= out[1]
            found[place] = reduced(Grad(d[0].live & chosen, shape), z.shape)
        return found

    return Step((Zone(out[0], out[1], shape, still),), back)


@rule("cast")
def _cast(c: Case) -> Step:
    to = c.attrs.get("to", c.attrs.get("dtype"))
    if to is None or to in (1, 10, 11, 14, 15, 16) or (isinstance(to, str) and ("float" in to or "complex" in to)):
        return Step((c.value(0),), lambda d: {0: d[0]})
    x = c.held(0)
    if x is not None and np.asarray(x.numbers()).dtype.kind in "iub":
        return Step((x,), lambda d: {0: dead(x.shape)})
    z = c.zone(0)
    if to == 9 or (isinstance(to, str) and "bool" in to):
        return _truth(c, (z.low > 0) | (z.high < 0), z.zero, (z,), z.shape)
    return Step((Zone(np.trunc(z.low), np.trunc(z.high), z.shape, z.fixed),), lambda d: {0: dead(z.shape)})
