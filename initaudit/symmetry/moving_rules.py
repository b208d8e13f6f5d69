"""What operations do to bounds and to gradients that may be zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import EllipsisType
from typing import Any

import numpy as np

from initaudit.ops import OPS
from initaudit.symmetry.moving import Case, Given, Step, Unread, rule
from initaudit.symmetry.zones import (
    Grad,
    Held,
    Zone,
    alive,
    all_of,
    anything,
    broadcast,
    carried,
    collapsed,
    dead,
    joined,
    lined,
    merged,
    number,
    quiet,
    reduced,
    reshaper,
)
from initaudit.types import Array

_SLACK = 1e-6  # of the sum of sizes: more than rounding takes

# ---- functions of one number


def _curve(f: Callable[[Array], Array]) -> Callable[[Zone], Zone]:
    return lambda x: Zone(f(x.low), f(x.high), x.shape)


def _dip(f: Callable[[Array], Array]) -> Callable[[Zone], Zone]:
    """A function that falls a little below zero before it rises."""

    def apply(x: Zone) -> Zone:
        low = np.where(x.low >= 0, f(x.low), np.where(x.fixed, f(x.low), -0.4))
        high = np.where(x.high <= 0, np.where(x.fixed, f(x.high), 0.0), f(x.high))
        return Zone(low, high, x.shape)

    return apply


def _sigmoid(x: Array) -> Array:
    return np.where(np.isneginf(x), 0.0, 1 / (1 + np.exp(-np.clip(x, -700, 700))))


def _erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf)(x), np.float64)


def _above(x: Zone) -> Array:
    return np.asarray(x.high > 0)


def _away(x: Zone) -> Array:
    return ~x.zero


def _safe(f: Callable[[Array], Array]) -> Callable[[Array], Array]:
    """Return a function of bounds: infinite ones stay what they are where it grows without end."""
    return lambda x: np.where(np.isposinf(x), np.inf, np.where(np.isneginf(x), 0.0, f(np.where(np.isfinite(x), x, 0))))


_IMAGES: dict[str, Callable[[Zone], Zone]] = {
    "relu": _curve(lambda x: np.maximum(x, 0)),
    "relu6": _curve(lambda x: np.clip(x, 0, 6)),
    "sigmoid": _curve(_sigmoid), "tanh": _curve(np.tanh), "exp": _curve(np.exp),
    "softplus": _curve(lambda x: np.logaddexp(0, x)),
    "gelu": _dip(_safe(lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))))),
    "fast_gelu": _dip(_safe(lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))))),
    "silu": _dip(_safe(lambda x: x * _sigmoid(x))),
    "mish": _dip(_safe(lambda x: x * np.tanh(np.logaddexp(0, x)))),
    "hardswish": _dip(_safe(lambda x: x * np.clip(x + 3, 0, 6) / 6)),
    "elu": _curve(lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0)))),
    "sqrt": _curve(lambda x: np.sqrt(np.maximum(x, 0))),
}  # fmt: skip
_SLOPES: dict[str, Callable[[Zone], Array]] = {
    "relu": _above, "relu6": lambda x: (x.high > 0) & (x.low < 6), "square": _away, "abs": _away, "relu2": _above,
    "hardtanh": lambda x: np.ones_like(x.zero),
}  # fmt: skip
_ZERO_AT_ZERO = frozenset({
    "relu", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", "tanh", "relu2", "relu6",
    "softsign", "tanhshrink", "softshrink", "hardshrink", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh", "erf",
    "expm1", "log1p", "neg", "abs", "square", "sqrt", "sign", "floor", "ceil", "round", "trunc", "fast_gelu",
    "quick_gelu", "rrelu", "hardtanh", "scaled_tanh",
})  # fmt: skip
_NO_SLOPE = frozenset({
    "sign", "floor", "ceil", "round", "trunc", "greater", "less", "equal", "greater_or_equal", "less_or_equal", "and",
    "or", "not", "xor", "isnan", "isinf", "heaviside",
})  # fmt: skip
_OTHERS = frozenset({"add", "sub", "mul", "div", "sum", "prelu", "glu", "composite", "where", "pow", "mean"})


@rule(*(n for n, row in OPS.items() if row.family in ("activation", "elementwise") and n not in _OTHERS))
def _each(c: Case) -> Step:
    places = [k for k, name in enumerate(c.node.inputs) if name]
    zones = {k: c.zone(k) for k in places}
    op = c.node.op
    if len(places) != 1:
        shape = broadcast(*(z.shape for z in zones.values()))
        blocked = op in _NO_SLOPE
        out = replace(anything(shape), still=quiet(list(zones.values()), len(shape)))
        return Step((out,), lambda d: {
            k: dead(z.shape) if blocked else reduced(replace(d[0], sums=(), even=frozenset()), z.shape)
            for k, z in zones.items()
        })  # fmt: skip
    x = zones[places[0]]
    if op in _IMAGES and not (op == "elu" and c.attrs.get("alpha", 1.0) != 1.0):
        out = _IMAGES[op](x)
    else:
        out = anything(x.shape)
        if op in _ZERO_AT_ZERO:
            out = Zone(np.where(x.zero, 0.0, -np.inf), np.where(x.zero, 0.0, np.inf), x.shape)
        if op == "neg":
            out = Zone(-x.high, -x.low, x.shape)
        if op in ("square", "abs"):
            out = Zone(np.zeros_like(out.low), out.high, x.shape)
    out = replace(out, still=x.fixed)
    slope = _SLOPES.get(op, lambda z: np.ones_like(z.zero))(x)
    if op in _NO_SLOPE:
        slope = np.zeros_like(x.zero)
    straight = op == "neg"

    def back(d: Sequence[Grad]) -> Given:
        sums = d[0].sums if straight else tuple((one, where & x.fixed) for one, where in d[0].sums)
        own = Grad(d[0].live & slope, x.shape, sums, d[0].even if straight or x.fixed.all() else frozenset())
        return {places[0]: own}

    return Step((out, *([None] * (len(c.node.outputs) - 1))), back)


@rule("identity", "dropout", "contiguous", "cast_like", "cast")
def _identity(c: Case) -> Step:
    return Step((c.value(0), *([None] * (len(c.node.outputs) - 1))), lambda d: {0: d[0]})


def _sum(low: Sequence[Array], high: Sequence[Array], shape: Sequence[int]) -> Zone:
    rank = len(shape)
    a, b = sum(lined(x, rank) for x in low), sum(lined(x, rank) for x in high)
    low_, high_ = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(low) > 1:
        low_ = np.where(low_ == high_, low_, low_ - _slack(low, rank))
        high_ = np.where(np.asarray(a) == high_, high_, high_ + _slack([-x for x in high], rank))
    return Zone(low_, high_, tuple(shape))


def _slack(parts: Sequence[Array], rank: int) -> Array:
    """Return more than rounding can take from a lower bound; nothing where no part is below zero."""
    finite = [np.where(np.isfinite(lined(x, rank)), lined(x, rank), 0) for x in parts]
    below = np.asarray(sum(x < 0 for x in finite)) > 0
    return np.where(below, _SLACK * np.asarray(sum(np.abs(x) for x in finite)), 0.0)


@rule("add", "sum", "sub")
def _add(c: Case) -> Step:
    places = [k for k, name in enumerate(c.node.inputs) if name]
    zones = [c.zone(k) for k in places]
    shape = broadcast(*(z.shape for z in zones))
    low, high = [z.low for z in zones], [z.high for z in zones]
    if c.node.op == "sub":
        low[1], high[1] = -zones[1].high, -zones[1].low
    out = replace(_sum(low, high, shape), still=quiet(zones, len(shape)))
    return Step((out,), lambda d: {
        k: reduced(d[0], z.shape) for k, z in zip(places, zones, strict=True)
    })  # fmt: skip


def _scaled_by(d: Grad, other: Zone, shape: Sequence[int]) -> Grad:
    """Return the gradient of one factor of a product."""
    rank = len(d.shape)
    live = d.live & ~lined(other.zero, rank)
    wide = {a + rank - len(other.shape) for a, n in enumerate(other.shape) if n > 1}
    apart = {a + rank - len(other.shape) for a, n in enumerate(other.low.shape) if n > 1}
    sums = tuple((one, where & lined(other.fixed, rank) if one & wide else where) for one, where in d.sums
                 if not one & apart)  # fmt: skip
    return reduced(Grad(live, d.shape, sums, d.even - wide), shape)


@rule("mul")
def _mul(c: Case) -> Step:
    x, y = c.zone(0), c.zone(1)
    return product(x, y)


def product(x: Zone, y: Zone, first: int = 0, second: int = 1) -> Step:
    """Return a step that multiplies two values element by element."""
    shape = broadcast(x.shape, y.shape)
    rank = len(shape)
    parts = [
        np.where((lined(a, rank) == 0) | (lined(b, rank) == 0), 0.0, lined(a, rank) * lined(b, rank))
        for a in (x.low, x.high) for b in (y.low, y.high)
    ]  # fmt: skip
    low, high = np.minimum.reduce(parts), np.maximum.reduce(parts)
    still = quiet((x, y), rank) | ((low == 0) & (high == 0))
    out = Zone(low, high, shape, still)
    return Step((out,), lambda d: {first: _scaled_by(d[0], y, x.shape), second: _scaled_by(d[0], x, y.shape)})


@rule("div")
def _div(c: Case) -> Step:
    x, y = c.zone(0), c.zone(1)
    shape = broadcast(x.shape, y.shape)
    zero = np.broadcast_to(lined(x.zero, len(shape)), np.broadcast_shapes(
        lined(x.zero, len(shape)).shape, lined(y.zero, len(shape)).shape))
    out = Zone(np.where(zero, 0.0, -np.inf), np.where(zero, 0.0, np.inf), shape, zero | quiet((x, y), len(shape)))

    def back(d: Sequence[Grad]) -> Given:
        rank = len(shape)
        wide = {a + rank - len(y.shape) for a, n in enumerate(y.shape) if n > 1}
        sums = tuple((one, where) for one, where in d[0].sums if not one & wide)
        top = Grad(d[0].live, shape, sums, d[0].even - wide)
        low = Grad(d[0].live & ~lined(x.zero, rank), shape)
        return {0: reduced(top, x.shape), 1: reduced(low, y.shape)}

    return Step((out,), back)


@rule("pow")
def _pow(c: Case) -> Step:
    x, y = c.zone(0), c.zone(1)
    shape = broadcast(x.shape, y.shape)
    positive = bool((y.low > 0).all())
    rank = len(shape)
    zero = lined(x.zero, rank) if positive else np.zeros((1,) * rank, bool)
    out = Zone(np.where(zero, 0.0, -np.inf), np.where(zero, 0.0, np.inf), shape)
    out = replace(out, still=quiet((x, y), rank))
    steep = bool((y.low > 1).all())

    def back(d: Sequence[Grad]) -> Given:
        live = d[0].live & ~lined(x.zero, rank) if steep else d[0].live
        return {0: reduced(Grad(live, shape), x.shape), 1: reduced(Grad(d[0].live, shape), y.shape)}

    return Step((out,), back)


@rule("prelu")
def _prelu(c: Case) -> Step:
    x, slope = c.zone(0), c.zone(1)
    if len(slope.shape) == 1 and len(x.shape) > 1 and slope.shape[0] == x.shape[1] and c.node.call is not None:
        wide = (slope.shape[0], *[1] * (len(x.shape) - 2))
        own = slope.mapped(reshaper(slope.shape, wide), wide)
    else:
        own = slope
    falls = x.low < 0
    low = np.where(x.zero, 0.0, np.where(falls, -np.inf, x.low))
    high = np.where(x.zero, 0.0, np.where(falls, np.inf, x.high))

    def back(d: Sequence[Grad]) -> Given:
        live = d[0].live & (_above(x) | ~lined(own.zero, len(x.shape)))
        mine = reduced(Grad(d[0].live & falls, x.shape), own.shape)
        shape = slope.shape
        turn = reshaper(own.shape, shape)
        return {0: Grad(live, x.shape), 1: Grad(turn(mine.live), shape)}

    return Step((Zone(low, high, x.shape, quiet((x, own), len(x.shape))),), back)


@rule("glu")
def _glu(c: Case) -> Step:
    x = c.zone(0)
    axis = c.integer("axis", -1) % len(x.shape)
    shape = list(x.shape)
    shape[axis] //= 2
    if x.low.shape[axis] == 1:
        halves = [x.low, x.low], [x.high, x.high]
    else:
        halves = np.split(x.low, 2, axis), np.split(x.high, 2, axis)
    (a, _), (b, _) = halves
    zero = (a == 0) & (b == 0)
    fixed = x.fixed
    one, two = (fixed, fixed) if fixed.shape[axis] == 1 else np.split(fixed, 2, axis)
    out = Zone(np.where(zero, 0.0, -np.inf), np.where(zero, 0.0, np.inf), tuple(shape), zero | (one & two))

    def back(d: Sequence[Grad]) -> Given:
        own = list(d[0].live.shape)
        own[axis] = shape[axis]
        live = np.broadcast_to(d[0].live, np.broadcast_shapes(tuple(own), zero.shape))
        zero_ = np.broadcast_to(zero, live.shape)
        sums = []
        for which, where in d[0].sums:
            if axis not in which:
                calm = [np.broadcast_to(where & part, live.shape) for part in (two, one & two)]
                sums.append((which, np.concatenate(calm, axis)))
        return {0: Grad(np.concatenate([live, live & ~zero_], axis), x.shape, tuple(sums))}

    return Step((out,), back)


@rule("where")
def _where(c: Case) -> Step:
    shape = broadcast(*(c.zone(k).shape for k in range(3)))
    x, y = c.zone(1), c.zone(2)
    rank = len(shape)
    out = Zone(np.minimum(lined(x.low, rank), lined(y.low, rank)), np.maximum(lined(x.high, rank), lined(y.high, rank)),
               shape)  # fmt: skip

    def back(d: Sequence[Grad]) -> Given:
        bare = Grad(d[0].live, shape)
        return {1: reduced(bare, x.shape), 2: reduced(bare, y.shape)}

    return Step((out,), back)


@rule("source", "constant_of_shape", "constant", "range", "shape", "size")
def _source(c: Case) -> Step:
    value = c.attrs.get("value")
    plain = isinstance(value, (int, float)) and not isinstance(value, bool) and not c.walk.generic
    return Step((number(c.shape(), float(value)) if plain else anything(c.shape()),), lambda d: {})  # type: ignore[arg-type]


# ---- moves


def _moved(c: Case, f: Callable[[Array], Array], back: Callable[[Array], Array], shape: Sequence[int],
           axes: Callable[[frozenset[int]], frozenset[int] | None]) -> Step:  # fmt: skip
    """Return a step that moves elements; `axes` says which axes before are those after, None where that is lost."""
    x = c.value(0)
    before = x.shape
    out: Zone | Held
    if isinstance(x, Held):
        out = Held(lambda: f(x.numbers()), tuple(shape), f(x.moved))
    else:
        out = x.mapped(f, shape)

    def down(d: Sequence[Grad]) -> Given:
        found = [(axes(one), where) for one, where in d[0].sums]
        even = axes(d[0].even)
        reach = d[0].reach if isinstance(d[0].reach, bool) else back(d[0].reach)
        cancelled = d[0].cancelled if isinstance(d[0].cancelled, bool) else back(d[0].cancelled)
        if isinstance(x, Held):
            reach = back(np.broadcast_to(np.asarray(d[0].reach), [1] * len(shape)))
        sums = tuple((one, _truly(back, where)) for one, where in found if one)
        return {0: Grad(back(d[0].live), before, sums, even or frozenset(), cancelled, reach)}

    return Step((out,), down)


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

    return _moved(c, there, back, shape, axes)


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
    return _moved(c, lambda x: x.transpose(order), lambda x: x.transpose(way), [before[a] for a in order],
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
        axis, local = 0, []
        for i in full:
            if i is None:
                local.append(None)
                continue
            thin = x.shape[axis] == 1 and before[axis] != 1
            local.append((slice(None) if isinstance(i, slice) else 0) if thin else i)
            axis += 1
        return x[tuple(local)]

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

    return _moved(c, there, back, shape, axes)


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
        live = parts[0].live
        reach = np.asarray(parts[0].reach)
        cancelled = np.asarray(parts[0].cancelled)
        for p in parts[1:]:
            live, reach, cancelled = live | p.live, reach | p.reach, cancelled | p.cancelled
        return {0: Grad(live, x.shape, merged(parts).sums, frozenset(), cancelled, reach)}

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
        bounds.append(np.concatenate([np.broadcast_to(p, (*own[:axis], p.shape[axis], *own[axis + 1 :])) for p in parts], axis))
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
    thin = joined(x, grown)
    out = Zone(np.minimum(thin.low, 0), np.maximum(thin.high, 0), shape)
    return Step((out,), lambda d: {0: Grad(collapsed(d[0].live, grown, np.any), x.shape)})


# ---- products


def _wide(x: Array, shape: Sequence[int]) -> Array:
    return np.broadcast_to(x, shape)


class Weighed:
    """A product of a signal and a parameter: (stack, rows, terms) with (stack, terms)."""

    def __init__(self, numbers: Callable[[], Array], moved: Array, low: Array, high: Array, rows: int) -> None:
        self.low, self.high = low, high
        self.stack, self.terms = low.shape
        self.rows = rows
        self.zero = (low == 0) & (high == 0)
        self.moved = moved  # broadcast to (stack, rows, terms)
        self.numbers = numbers
        self.all = bool(moved.all())

    def bounds(self) -> tuple[Array, Array]:
        """Return the bounds of the result, (stack, rows)."""
        if self.all:
            free = np.broadcast_to(~self.zero.all(1, keepdims=True), (self.stack, self.rows))
            return np.where(free, -np.inf, 0.0), np.where(free, np.inf, 0.0)
        w = self.numbers()
        low, high = np.zeros((self.stack, self.rows)), np.zeros((self.stack, self.rows))
        step = max(1, (1 << 22) // max(1, self.terms * self.stack))
        x = ~self.zero
        for r in range(0, self.rows, step):
            part = np.asarray(w[:, r : r + step], np.float64)
            odd = ~np.isfinite(part) | np.broadcast_to(self.moved, w.shape)[:, r : r + step]
            free = (odd & x[:, None]).any(2)
            part = np.where(odd, 0.0, part)
            up, down = np.maximum(part, 0), np.minimum(part, 0)
            ends = []
            for a, b in ((self.low, self.high), (self.high, self.low)):
                finite = [np.where(np.isfinite(v), v, 0.0)[..., None] for v in (a, b)]
                endless = [(~np.isfinite(v)).astype(np.float64)[..., None] for v in (a, b)]
                total = (up @ finite[0] + down @ finite[1])[..., 0]
                more = (up @ endless[0] - down @ endless[1])[..., 0] > 0
                ends.append((total, more))
            low[:, r : r + step], high[:, r : r + step] = -np.inf, np.inf
            if bool((free | (ends[0][1] & ends[1][1])).all()):
                continue
            size = (np.abs(part) @ np.maximum(np.abs(finite[0]), np.abs(finite[1])))[..., 0]
            fixed = ((self.low == self.high)[:, None] | (part == 0)).all(2) & ~free
            below, above = self._signs(part, x)
            low[:, r : r + step] = np.where(
                free | ends[0][1], -np.inf, ends[0][0] - np.where(fixed | ~below, 0.0, _SLACK * size)
            )
            high[:, r : r + step] = np.where(
                free | ends[1][1], np.inf, ends[1][0] + np.where(fixed | ~above, 0.0, _SLACK * size)
            )
        return low, high

    def _signs(self, part: Array, x: Array) -> tuple[Array, Array]:
        """Return whether any term can be below zero, and above."""
        low, high = self.low[:, None], self.high[:, None]
        above = np.where(part > 0, high, np.where(part < 0, -low, 0.0)) > 0
        below = np.where(part > 0, low, np.where(part < 0, -high, 0.0)) < 0
        return (below & x[:, None]).any(2), (above & x[:, None]).any(2)

    def back(self, live: Array) -> Array:
        """Return where the gradient of the signal can be other than zero, (stack, terms)."""
        if self.all:
            return np.broadcast_to(live.any(1, keepdims=True), (self.stack, self.terms))
        out = np.zeros((self.stack, self.terms), bool)
        w = self.numbers()
        step = max(1, (1 << 22) // max(1, self.terms * self.stack))
        live = np.broadcast_to(live, (self.stack, self.rows))
        for r in range(0, self.rows, step):
            part = (np.asarray(w[:, r : r + step]) != 0) | np.broadcast_to(self.moved, w.shape)[:, r : r + step]
            out |= (part & live[:, r : r + step, None]).any(1)
        return out

    def still(self, vary: Array) -> Array:
        """Return where nothing that varies comes in, (stack, rows), `vary` being (stack, terms)."""
        if self.all:
            return np.broadcast_to(~vary.any(1, keepdims=True), (self.stack, self.rows))
        out = np.ones((self.stack, self.rows), bool)
        w = self.numbers()
        step = max(1, (1 << 22) // max(1, self.terms * self.stack))
        for r in range(0, self.rows, step):
            part = (np.asarray(w[:, r : r + step]) != 0) | np.broadcast_to(self.moved, w.shape)[:, r : r + step]
            out[:, r : r + step] = ~(part & vary[:, None]).any(2)
        return out

    def mask(self, live: Array) -> Array:
        """Return where the parameter moves, broadcast to (stack, rows, terms)."""
        x = ~self.zero
        a = live[:, :, None] if not live.all() else np.ones((1, 1, 1), bool)
        b = x[:, None, :] if not x.all() else np.ones((1, 1, 1), bool)
        return a & b


def _contracted(x: Zone, xl: str, w: Held, wl: str, ol: str, shape: Sequence[int]) -> tuple[Zone, Callable[[Grad], tuple[Grad, Grad]]]:
    """Return a product of a signal and a parameter by letters, and the way back to both."""
    stack = "".join(a for a in wl if a in xl and a in ol)
    rows = "".join(a for a in wl if a in ol and a not in xl)
    terms = "".join(a for a in wl if a in xl and a not in ol)
    if len(stack + rows + terms) < len(wl) or len(set(xl)) < len(xl) or len(set(wl)) < len(wl):
        raise Unread
    sizes = dict(zip(wl, w.shape, strict=True))
    n = [math.prod(sizes[a] for a in part) for part in (stack, rows, terms)]
    sets = [k for k, a in enumerate(xl) if a not in wl]
    order = [wl.index(a) for a in stack + rows + terms]

    def side(v: Array, letters: str, part: str, how: Callable[..., Array]) -> Array:
        gone = [k for k, a in enumerate(letters) if a not in part]
        v = collapsed(v, gone, how)
        v = v.transpose([letters.index(a) for a in part] + gone).reshape([v.shape[letters.index(a)] for a in part])
        full = np.broadcast_to(v, [sizes[a] for a in part])
        return full

    low = side(x.low, xl, stack + terms, np.min).reshape(n[0], n[2])
    high = side(x.high, xl, stack + terms, np.max).reshape(n[0], n[2])
    gone = [k for k, q in enumerate(xl) if q not in wl]
    vary = side(~joined(x, gone).fixed, xl, stack + terms, np.any).reshape(n[0], n[2])
    moved = w.moved.transpose(order)
    moved = moved.reshape(1, 1, 1) if moved.size == 1 else np.broadcast_to(moved, [sizes[a] for a in stack + rows + terms]).reshape(n)
    made = Weighed(lambda: w.numbers().transpose(order).reshape(n), moved, low, high, n[1])
    a, b = made.bounds()

    def placed(v: Array, part: str, letters: str, rank: int) -> Array:
        v = v.reshape([sizes[q] for q in part])
        kept = [q for q in letters if q in part]
        v = v.transpose([part.index(q) for q in kept])
        return v.reshape([sizes[q] if q in part else 1 for q in letters]) if rank else v

    out = Zone(placed(a, stack + rows, ol, 1), placed(b, stack + rows, ol, 1), tuple(shape),
               placed(np.ascontiguousarray(made.still(vary)), stack + rows, ol, 1))  # fmt: skip

    def back(d: Grad) -> tuple[Grad, Grad]:
        live = side(d.live, ol, stack + rows, np.any).reshape(n[0], n[1])
        own = placed(np.ascontiguousarray(made.back(live)), stack + terms, xl, 1)
        batch = {k for k, q in enumerate(ol) if q not in wl}
        sums = [one for one, where in d.sums if one <= batch and where.all()]
        where = {k: xl.index(q) for k, q in enumerate(ol) if q in xl}
        signal = Grad(own, x.shape, tuple(
            (frozenset(where[k] for k in one), np.ones((1,) * len(x.shape), bool)) for one in sums
            if all(k in where for k in one)
        ))  # fmt: skip
        mask = made.mask(live)
        cancelled: Array | bool = False
        if sums:
            still = ~vary[:, None, :]
            cancelled = mask & still
            mask = mask & ~still
        inverse = [order.index(k) for k in range(len(order))]

        def param(v: Array) -> Array:
            if v.size == 1:
                return v.reshape((1,) * len(wl))
            return np.broadcast_to(v, n).reshape([sizes[q] for q in stack + rows + terms]).transpose(inverse)

        return signal, Grad(param(mask), w.shape, cancelled=param(cancelled) if isinstance(cancelled, np.ndarray) else False)

    del sets
    return out, back


def _with_bias(c: Case, out: Zone, place: int, axis: int) -> tuple[Zone, Callable[[Grad], dict[int, Grad]]]:
    if not c.has(place):
        return out, lambda d: {}
    bias = c.zone(place)
    rank = len(out.shape)
    wide = [1] * rank
    wide[axis] = bias.shape[-1]
    if len(bias.shape) != 1:
        raise Unread
    low, high = (v.reshape([v.size if k == axis else 1 for k in range(rank)]) for v in (bias.low, bias.high))
    made = _sum([out.low, low], [out.high, high], out.shape)
    made = replace(made, still=out.fixed & bias.fixed.reshape(low.shape))

    def back(d: Grad) -> dict[int, Grad]:
        own = reduced(d, wide)
        cut = [k == axis for k in range(rank)]
        del cut
        live = own.live.reshape(-1) if own.live.shape[axis] > 1 else own.live.reshape(1)
        cancelled = own.cancelled if isinstance(own.cancelled, bool) else own.cancelled.reshape(-1)
        return {place: Grad(live, bias.shape, cancelled=cancelled)}

    return made, back


@rule("linear", "matmul", "gemm", "einsum")
def _product(c: Case) -> Step:
    a, b = c.value(0), c.value(1)
    bias = 2 if c.node.op in ("linear", "gemm") else 9
    al, bl, ol = _letters(c, a.shape, b.shape)
    sizes = dict(zip(al, a.shape, strict=True)) | {q: n for q, n in zip(bl, b.shape, strict=True) if n > 1}
    shape = tuple(sizes.get(q, 1) for q in ol)
    for x, xl, w, wl, places in ((a, al, b, bl, (0, 1)), (b, bl, a, al, (1, 0))):
        if not isinstance(w, Held):
            continue
        try:
            out, back = _contracted(x.zone() if isinstance(x, Held) else x, xl, w, wl, ol, shape)
        except Unread:
            continue
        made, more = _with_bias(c, out, bias, len(shape) - 1)

        def down(d: Sequence[Grad], back: Any = back, places: tuple[int, int] = places, more: Any = more) -> Given:
            signal, param = back(d[0])
            return {places[0]: signal, places[1]: param, **more(d[0])}

        return Step((made,), down)
    x, y = (v.zone() if isinstance(v, Held) else v for v in (a, b))
    out = _pairs(x, al, y, bl, ol, shape)
    made, more = _with_bias(c, out, bias, len(shape) - 1)
    return Step((made,), lambda d: {
        0: _pairs_back(d[0], ol, y, bl, al, x.shape), 1: _pairs_back(d[0], ol, x, al, bl, y.shape), **more(d[0])
    })  # fmt: skip


def _letters(c: Case, a: Sequence[int], b: Sequence[int]) -> tuple[str, str, str]:
    upper, lower = "ABCDEFGHIJKL", "zyxwvutsrq"
    if c.node.op == "linear":
        return upper[: len(a) - 1] + "i", "oi", upper[: len(a) - 1] + "o"
    if c.node.op == "gemm":
        return "im" if c.attrs.get("transA") else "mi", "oi" if c.attrs.get("transB") else "io", "mo"
    if c.node.op == "einsum":
        equation = str(c.attrs.get("equation", "")).replace(" ", "")
        left, arrow, right = equation.partition("->")
        terms = left.split(",")
        if len(terms) != 2 or "." in equation or not arrow:
            raise Unread
        return terms[0], terms[1], right
    if not a or not b:
        raise Unread
    deep = max(len(a), len(b), 2) - 2
    letters: list[str] = ["", ""]
    for k in range(deep):
        own = [s[k - deep + len(s) - 2] if k - deep + len(s) - 2 >= 0 else 0 for s in (a, b)]
        for which in range(2):
            alone = own[which] == 1 and own[1 - which] > 1
            letters[which] += "" if not own[which] else lower[k] if alone else upper[k]
    return (letters[0] + ("mi" if len(a) > 1 else "i"), letters[1] + ("io" if len(b) > 1 else "i"),
            upper[:deep] + ("m" if len(a) > 1 else "") + ("o" if len(b) > 1 else ""))  # fmt: skip


def _spread(v: Array, letters: str, order: str) -> Array:
    kept = [q for q in order if q in letters]
    gone = [q for q in letters if q not in order]
    v = v.transpose([letters.index(q) for q in kept + gone])
    v = v.reshape(v.shape[: len(kept)]) if all(n == 1 for n in v.shape[len(kept) :]) else v.any(tuple(range(len(kept), v.ndim)))
    return v.reshape([v.shape[kept.index(q)] if q in kept else 1 for q in order])


def _pairs(x: Zone, xl: str, y: Zone, yl: str, ol: str, shape: Sequence[int]) -> Zone:
    inner = [q for q in dict.fromkeys(xl + yl) if q not in ol]
    order = ol + "".join(inner)
    alive_ = _spread(~x.zero, xl, order) & _spread(~y.zero, yl, order)
    live = alive_.any(tuple(range(len(ol), len(order)))) if inner else alive_
    still = ~live | bool(x.fixed.all() and y.fixed.all())
    return Zone(np.where(live, -np.inf, 0.0), np.where(live, np.inf, 0.0), tuple(shape), still)


def _pairs_back(d: Grad, ol: str, other: Zone, yl: str, xl: str, shape: Sequence[int]) -> Grad:
    order = "".join(dict.fromkeys(xl + ol + yl))
    alive_ = _spread(d.live, ol, order) & _spread(~other.zero, yl, order)
    gone = tuple(k for k, q in enumerate(order) if q not in xl)
    live = alive_.any(gone) if gone else alive_
    still = bool(other.fixed.all())
    wide = np.broadcast_shapes(other.low.shape, other.fixed.shape)
    same = {q for k, q in enumerate(yl) if wide[k] == 1} | (set(ol) - set(yl))  # along these it is one number
    sums, cancelled = [], False
    for one, where in d.sums:
        letters = {ol[k] for k in one}
        if not where.all():
            continue
        if letters <= set(xl) and not letters & set(yl):
            sums.append((frozenset(xl.index(q) for q in letters), np.ones((1,) * len(xl), bool)))
        elif still and not letters & set(xl) and letters <= same:
            cancelled = True
    even = set()
    if still:  # the other is the same at all places: so is what comes back, along places of its own
        even = {k for k, q in enumerate(xl) if q in yl and q not in ol and q in same}
    if cancelled:
        live = np.zeros_like(live)
    return Grad(live, tuple(shape), tuple(sums), frozenset(even))


@rule("embedding")
def _embedding(c: Case) -> Step:
    w = c.held(0)
    shape = c.shape()
    if w is None or len(w.shape) != 2:
        raise Unread
    zone = w.zone()
    low, high = zone.low.min(0), zone.high.max(0)
    lead = (1,) * (len(shape) - 1)
    out = Zone(low.reshape(*lead, -1), high.reshape(*lead, -1), shape)

    def back(d: Sequence[Grad]) -> Given:
        live = collapsed(d[0].live, range(len(shape) - 1), np.any).reshape(1, -1)
        row = c.attrs.get("padding_idx")
        reach: Array | bool = True
        if isinstance(row, int) and row >= 0:
            reach = (np.arange(w.shape[0]) != row)[:, None]
        return {0: Grad(live, w.shape, reach=reach)}

    return Step((out,), back)


@rule("conv", "conv_transpose")
def _conv(c: Case) -> Step:
    x, w = c.zone(0), c.held(1)
    shape = c.shape()
    if w is None:
        raise Unread
    turned = c.node.op == "conv_transpose"
    groups = c.integer("group", 1)
    space = len(w.shape) - 2
    first = len(shape) - space - 1
    ins = x.shape[first]
    others = [a for a in range(len(x.shape)) if a != first]
    thin = joined(x, others)
    low, high = (np.broadcast_to(v.reshape(-1), ins) for v in (thin.low, thin.high))
    kernel = math.prod(w.shape[2:])
    pads = c.attrs.get("pads", 0)
    if turned or np.any(np.asarray(pads if not isinstance(pads, str) else 1) != 0):
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    cut = (groups, w.shape[0] // groups, w.shape[1], kernel)
    order = (0, 2, 1, 3) if turned else (0, 1, 2, 3)
    n = (groups, w.shape[1] if turned else w.shape[0] // groups, ins // groups * kernel)

    def arranged(v: Array) -> Array:
        if v.size == 1:
            return v.reshape(1, 1, 1)
        return np.broadcast_to(v, w.shape).reshape(cut).transpose(order).reshape(n)

    sides = [np.repeat(v.reshape(groups, -1), kernel, 1) for v in (low, high)]
    made = Weighed(lambda: arranged(np.asarray(w.numbers())), arranged(w.moved), sides[0], sides[1], n[1])
    a, b = made.bounds()
    wide = [1] * len(shape)
    wide[first] = n[0] * n[1]
    fixed = np.broadcast_to(thin.fixed.reshape(-1), ins)
    padded = turned or np.any(np.asarray(pads if not isinstance(pads, str) else 1) != 0)
    vary = np.repeat((~fixed | (padded & ~thin.zero.reshape(-1))).reshape(groups, -1), kernel, 1)
    out = Zone(a.reshape(wide), b.reshape(wide), shape, made.still(vary).reshape(wide))
    out, bias = _with_bias(c, out, 2, first)

    def back(d: Sequence[Grad]) -> Given:
        live = collapsed(d[0].live, [k for k in range(len(shape)) if k != first], np.any).reshape(-1)
        live = np.broadcast_to(live, n[0] * n[1]).reshape(n[:2])
        signal = made.back(live).reshape(groups, -1, kernel).any(2).reshape(-1)
        lead = [1] * len(x.shape)
        lead[first] = ins
        mask = made.mask(live)
        still = fixed & any(where.all() and first not in one for one, where in d[0].sums)
        taps = _covering(c, x.shape[first + 1 :], shape[first + 1 :], w.shape[2:]) if not turned else np.zeros(kernel, bool)
        gone = (still.reshape(groups, -1, 1) & taps).reshape(groups, 1, -1)
        cancelled = mask & gone
        own = Grad(param(mask & ~gone), w.shape, cancelled=param(cancelled))
        return {0: Grad(signal.reshape(lead), x.shape), 1: own, **bias(d[0])}

    def param(v: Array) -> Array:
        if v.size == 1 or v.all() or not v.any():
            return np.full((1,) * len(w.shape), bool(v.any()))
        parts = [cut[k] for k in order]
        return np.broadcast_to(v, n).reshape(parts).transpose([order.index(k) for k in range(4)]).reshape(w.shape)

    return Step((out,), back)


def _covering(c: Case, ins: Sequence[int], outs: Sequence[int], kernel: Sequence[int]) -> Array:
    """Return which places of a kernel never stand on padding: of a signal that is the same everywhere they see as much."""
    given = []
    for name, usual in (("strides", 1), ("pads", 0), ("dilations", 1)):
        value = c.attrs.get(name, usual)
        given.append([value] * len(ins) if isinstance(value, int) else list(value)[: len(ins)])
    out = np.ones((), bool)
    for n, m, k, s, p, d in zip(ins, outs, kernel, *given, strict=True):
        if isinstance(p, str) or not all(isinstance(v, int) for v in (s, p, d)):
            return np.zeros(math.prod(kernel), bool)
        places = np.arange(m)[:, None] * s + np.arange(k) * d - p
        out = np.logical_and.outer(out, ((places >= 0) & (places < n)).all(0))
    return out.reshape(-1)


# ---- norms and what looks at many elements


def _affine(c: Case, made: Zone, back: Callable[[Grad], Grad], weight: int, bias: int, axis: int | None) -> Step:
    rank = len(made.shape)
    zones: dict[int, tuple[Zone, tuple[int, ...]]] = {}
    for place in (weight, bias):
        if c.has(place):
            z = c.zone(place)
            wide = z.shape if axis is None else tuple(z.shape[0] if k == axis else 1 for k in range(rank))
            zones[place] = (z.mapped(reshaper(z.shape, wide), wide), z.shape)
    out = made
    if weight in zones:
        scaled = product(made, zones[weight][0]).outs[0]
        assert isinstance(scaled, Zone)
        out = scaled
    if bias in zones:
        shift = zones[bias][0]
        before = out
        out = _sum([out.low, shift.low], [out.high, shift.high], made.shape)
        out = replace(out, still=quiet((before, shift), rank))

    def down(d: Sequence[Grad]) -> Given:
        found: dict[int, Grad] = {}
        inner = d[0]
        if bias in zones:
            found[bias] = _shaped(reduced(d[0], zones[bias][0].shape), zones[bias][1])
        if weight in zones:
            own = Grad(d[0].live & ~made.zero, d[0].shape)
            found[weight] = _shaped(reduced(own, zones[weight][0].shape), zones[weight][1])
            inner = Grad(d[0].live & ~lined(zones[weight][0].zero, rank), d[0].shape)
        found[0] = back(inner)
        return found

    return Step((out, *([None] * (len(c.node.outputs) - 1))), down)


def _shaped(g: Grad, shape: tuple[int, ...]) -> Grad:
    turn = reshaper(g.shape, shape)
    cancelled = g.cancelled if isinstance(g.cancelled, bool) else turn(g.cancelled)
    return Grad(turn(g.live), shape, cancelled=cancelled)


def _over(x: Zone, axes: Sequence[int], zero: Array, sums: frozenset[int]) -> tuple[Zone, Callable[[Grad], Grad]]:
    full = np.broadcast_shapes(x.low.shape, zero.shape)
    zero = np.broadcast_to(zero, full)
    still = zero | collapsed(x.fixed, axes, np.all)
    made = Zone(np.where(zero, 0.0, -np.inf), np.where(zero, 0.0, np.inf), x.shape, still)

    def back(d: Grad) -> Grad:
        live = collapsed(d.live, axes, np.any)
        return Grad(live, x.shape, all_of(sums, len(x.shape)))

    return made, back


@rule("layer_norm", "rms_norm", "l2_norm", "mean_variance_norm")
def _layer_norm(c: Case) -> Step:
    x = c.zone(0)
    rank = len(x.shape)
    shape = c.attrs.get("normalized_shape")
    given = c.attrs.get("axes")
    axis = c.integer("axis", c.integer("dim", -1))
    axes = ([a % rank for a in given] if isinstance(given, (tuple, list))
            else list(range(rank - len(shape), rank)) if isinstance(shape, (tuple, list))
            else [axis % rank] if c.node.op == "l2_norm" else list(range(axis % rank, rank)))  # fmt: skip
    if c.node.op in ("layer_norm", "mean_variance_norm"):
        low, high = collapsed(x.low, axes, np.min), collapsed(x.high, axes, np.max)
        made, back = _over(x, axes, low == high, frozenset(axes))
    else:
        made, _ = _over(x, axes, x.zero, frozenset())

        def back(d: Grad) -> Grad:
            return Grad(d.live | (collapsed(d.live, axes, np.any) & ~x.zero), x.shape)

    return _affine(c, made, back, 1, 2, None)


@rule("batch_norm")
def _batch_norm(c: Case) -> Step:
    x = c.zone(0)
    rank = len(x.shape)
    channel = 1 if rank > 1 else 0
    others = [a for a in range(rank) if a != channel]
    thin = joined(x, others)
    made, back = _over(x, others, thin.fixed, frozenset(others))
    return _affine(c, made, back, 1, 2, channel)


@rule("instance_norm")
def _instance_norm(c: Case) -> Step:
    x = c.zone(0)
    others = list(range(2, len(x.shape)))
    made, back = _over(x, others, joined(x, others).fixed, frozenset(others))
    return _affine(c, made, back, 1, 2, 1)


@rule("group_norm")
def _group_norm(c: Case) -> Step:
    x = c.zone(0)
    groups = c.attrs.get("num_groups", c.attrs.get("groups"))
    if not isinstance(groups, int):
        raise Unread
    shape = x.shape
    apart = (shape[0], groups, shape[1] // groups, *shape[2:])
    there, again = reshaper(shape, apart), reshaper(apart, shape)
    y = x.mapped(there, apart)
    axes = list(range(2, len(apart)))
    low, high = collapsed(y.low, axes, np.min), collapsed(y.high, axes, np.max)
    made, back = _over(y, axes, low == high, frozenset(axes))
    alone = frozenset(range(2, len(shape))) if shape[1] == groups else frozenset()

    def down(d: Grad) -> Grad:
        own = back(Grad(there(d.live), apart))
        return Grad(again(own.live), shape, all_of(alone, len(shape)))

    return _affine(c, made.mapped(again, shape), down, 1, 2, 1)


@rule("softmax", "log_softmax")
def _softmax(c: Case) -> Step:
    x = c.zone(0)
    axis = c.integer("axis", -1) % len(x.shape)
    log = c.node.op == "log_softmax"
    one = (1,) * len(x.shape)
    out = Zone(np.full(one, -np.inf if log else 0.0), np.full(one, 0.0 if log else 1.0), x.shape,
               collapsed(x.fixed, [axis], np.all))  # fmt: skip

    def back(d: Sequence[Grad]) -> Given:
        live = collapsed(d[0].live, [axis], np.any)
        if x.shape[axis] == 1 or (axis in d[0].even and not log):
            live = np.zeros_like(live)
        return {0: Grad(live, x.shape, all_of(frozenset({axis}), len(x.shape)))}

    return Step((out,), back)


@rule("scaled_dot_product_attention")
def _attention(c: Case) -> Step:
    q, k, v = c.zone(0), c.zone(1), c.zone(2)
    rank = len(q.shape)
    shape = c.shape()
    if any(len(z.shape) != rank for z in (k, v)) or (rank > 2 and q.shape[:-2] != k.shape[:-2]):
        raise Unread
    places = [rank - 2]
    v = joined(v, places)
    out = Zone(v.low, v.high, shape, v.fixed)

    def back(d: Sequence[Grad]) -> Given:
        given = collapsed(d[0].live, places, np.any)
        score = (given & ~v.fixed).any(-1, keepdims=True)
        q_, k_ = joined(q, places), joined(k, places)
        found = {
            0: Grad(score & ~k_.zero & ~_even_keys(k_), q.shape),
            1: Grad(score & ~q_.zero, k.shape, all_of(frozenset({rank - 2}), rank)),
            2: Grad(given, v.shape),
        }
        if c.has(3):
            found[3] = alive(c.zone(3).shape)
        return found

    return Step((out, *([None] * (len(c.node.outputs) - 1))), back)


def _even_keys(k: Zone) -> Array:
    """Whether all keys are one constant: scores are then the same for all, and their gradient sums to zero."""
    return np.asarray(k.fixed)


_LINEAR = frozenset({"reduce_mean", "reduce_sum"})


@rule("reduce_mean", "reduce_sum", "reduce_max", "reduce_min", "reduce_l1", "reduce_l2", "reduce_sum_square",
      "reduce_var", "reduce_std", "reduce_prod", "reduce_log_sum_exp")  # fmt: skip
def _reduce(c: Case) -> Step:
    x = c.zone(0)
    given = c.ints(1, "axes", "dim")
    rank = len(x.shape)
    over = sorted({a % rank for a in given}) if given else list(range(rank))
    keep = bool(c.attrs.get("keepdims", 1)) and (bool(given) or c.node.call is None)
    shape = tuple(1 if a in over else n for a, n in enumerate(x.shape) if keep or a not in over)
    kept = [1 if a in over else n for a, n in enumerate(x.shape)]
    turn = reshaper(kept, shape)
    zero = turn(collapsed(x.zero, over, np.all))
    positive = turn(collapsed(x.low, over, np.min)) >= 0
    if c.node.op not in (*_LINEAR, "reduce_max", "reduce_min", "reduce_l1", "reduce_l2", "reduce_sum_square"):
        zero = np.zeros_like(zero)
        positive = zero
    out = Zone(np.where(zero | positive, 0.0, -np.inf), np.where(zero, 0.0, np.inf), shape,
               turn(collapsed(x.fixed, over, np.all)))  # fmt: skip
    again = reshaper(shape, kept)

    def back(d: Sequence[Grad]) -> Given:
        live = again(d[0].live)
        if c.node.op not in _LINEAR:
            return {0: Grad(live & np.ones_like(x.zero), x.shape)}
        found = [(carried(one, kept, shape), again(where)) for one, where in d[0].sums]
        sums = tuple((one, where) for one, where in found if one)
        return {0: Grad(live, x.shape, sums, frozenset(over))}

    return Step((out,), back)


@rule("max_pool", "average_pool", "lp_pool", "global_average_pool", "global_max_pool", "resize", "upsample")
def _pool(c: Case) -> Step:
    x, shape = c.zone(0), c.shape()
    if len(shape) != len(x.shape):
        raise Unread
    changed = [a for a in range(len(shape)) if a >= min(2, len(shape) - 1)]
    thin = joined(x, changed)
    pads = c.attrs.get("pads", 0)
    if np.any(np.asarray(pads if not isinstance(pads, str) else 1) != 0) and "max" not in c.node.op:
        thin = Zone(np.minimum(thin.low, 0), np.maximum(thin.high, 0), thin.shape)
    out = Zone(thin.low, thin.high, shape, thin.fixed if not np.any(np.asarray(pads != 0)) else None)
    return Step((out, *([None] * (len(c.node.outputs) - 1))),
                lambda d: {0: Grad(collapsed(d[0].live, changed, np.any), x.shape)})  # fmt: skip


def registered() -> Mapping[str, object]:
    """Return nothing; importing this module fills the table."""
    return {}
