"""What functions of each element by itself do to bounds, and to gradients that may be zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from initaudit.ops import OPS
from initaudit.symmetry.bounds import product, total
from initaudit.symmetry.moving import Case, Given, Step, Unread, rule
from initaudit.symmetry.zones import (
    Grad,
    Held,
    Zone,
    anything,
    broadcast,
    dead,
    lined,
    number,
    quiet,
    reduced,
    reshaper,
)
from initaudit.types import Array


def _curve(f: Callable[[Array], Array]) -> Callable[[Zone], Zone]:
    return lambda x: Zone(f(x.low), f(x.high), x.shape)


def _dip(f: Callable[[Array], Array]) -> Callable[[Zone], Zone]:
    """A function that falls a little below zero before it rises."""

    def apply(x: Zone) -> Zone:
        known = x.low == x.high
        low = np.where((x.low >= 0) | known, f(x.low), -0.4)
        high = np.where((x.high >= 0) | known, f(x.high), 0.0)
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
    "softsign": _curve(lambda x: np.where(np.isinf(x), np.sign(x), x / (1 + np.abs(np.where(np.isinf(x), 0, x))))),
    "erf": _curve(_erf), "atan": _curve(np.arctan),
    "sqrt": _curve(lambda x: np.sqrt(np.maximum(x, 0))),
    "sign": _curve(np.sign), "floor": _curve(np.floor), "ceil": _curve(np.ceil), "trunc": _curve(np.trunc),
}  # fmt: skip
_DETACHED = frozenset({"detach", "detach_"})
_SLOPES: dict[str, Callable[[Zone], Array]] = {
    "relu": _above, "relu6": lambda x: (x.high > 0) & (x.low < 6), "square": _away, "abs": _away, "relu2": _above,
    "hardswish": lambda x: x.high >= -3, "cos": _away, "cosh": _away, "tanhshrink": _away,
}  # fmt: skip
_ZERO_AT_ZERO = frozenset({
    "relu", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardswish", "tanh", "relu2", "relu6",
    "softsign", "tanhshrink", "softshrink", "hardshrink", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh", "erf",
    "expm1", "log1p", "neg", "abs", "square", "sqrt", "sign", "floor", "ceil", "round", "trunc", "fast_gelu",
    "quick_gelu", "rrelu", "hardtanh", "scaled_tanh",
})  # fmt: skip
_NO_SLOPE = frozenset({"sign", "floor", "ceil", "round", "trunc", "xor", "isnan", "isinf", "heaviside"})  # fmt: skip
_OTHERS = frozenset({
    "add", "sub", "mul", "div", "sum", "prelu", "glu", "composite", "where", "pow", "mean", "clip", "max", "min",
    "greater", "less", "equal", "greater_or_equal", "less_or_equal", "and", "or", "not",
})  # fmt: skip


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
    if op in ("softshrink", "hardshrink", "threshold"):
        return _flat(c, x)
    if op in ("hardtanh", "hardsigmoid"):
        return _limited(c, x)
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
    slope = _SLOPES[op](x) if op in _SLOPES else np.ones_like(x.zero)
    if op in _NO_SLOPE and not c.walk.generic:
        slope = np.zeros_like(x.zero)
    straight = op == "neg"

    def back(d: Sequence[Grad]) -> Given:
        sums = d[0].sums if straight else tuple((one, where & x.fixed) for one, where in d[0].sums)
        own = Grad(d[0].live & slope, x.shape, sums, d[0].even if straight or x.fixed.all() else frozenset())
        return {places[0]: own}

    return Step((out, *([None] * (len(c.node.outputs) - 1))), back)


def _limited(c: Case, x: Zone) -> Step:
    """Return a straight line between two numbers, without a slope outside and at its ends."""
    if c.node.op == "hardtanh":
        least, most = (c.attrs.get(name, usual) for name, usual in (("min_val", -1.0), ("max_val", 1.0)))
        slope, shift = 1.0, 0.0
    else:
        slope, shift = c.attrs.get("alpha", 0.2), c.attrs.get("beta", 0.5)
        least, most = 0.0, 1.0
    if not all(isinstance(v, (int, float)) for v in (least, most, slope, shift)) or slope <= 0:
        raise Unread
    low, high = (np.clip(slope * v + shift, least, most) for v in (x.low, x.high))
    inside = (slope * x.high + shift > least) & (slope * x.low + shift < most)
    return Step((Zone(low, high, x.shape, x.fixed),), lambda d: {0: Grad(d[0].live & inside, x.shape)})


def _flat(c: Case, x: Zone) -> Step:
    """Return a function that is one number within some bounds, and goes on outside of them."""
    op = c.node.op
    edge, value = (c.attrs.get(name) for name in ("threshold" if op == "threshold" else "lambd", "value"))
    if not isinstance(edge, (int, float)) or (op == "threshold" and not isinstance(value, (int, float))):
        raise Unread
    inside = x.high <= edge if op == "threshold" else (x.high <= edge) & (x.low >= -edge)
    other = float(value) if isinstance(value, (int, float)) else 0.0
    out = Zone(np.where(inside, other, np.minimum(x.low, other)), np.where(inside, other, np.maximum(x.high, other)),
               x.shape, x.fixed)  # fmt: skip
    return Step((out,), lambda d: {0: Grad(d[0].live & ~inside, x.shape)})


@rule("identity", "dropout", "contiguous", "cast_like")
def _identity(c: Case) -> Step:
    shape = c.walk.shape(c.node.outputs[0])
    if shape is not None and shape != c.value(0).shape:  # packed, or complex
        raise Unread
    call = c.node.call.target.rpartition(".")[2] if c.node.call is not None else ""
    if c.walk.generic:
        return Step((c.value(0), *([None] * (len(c.node.outputs) - 1))), lambda d: {0: d[0]})
    if call in _DETACHED or ".data.__get__" in (c.node.call.target if c.node.call is not None else ""):
        return Step((c.zone(0),), lambda d: {0: dead(d[0].shape)})
    return Step((c.value(0), *([None] * (len(c.node.outputs) - 1))), lambda d: {0: d[0]})


@rule("add", "sum", "sub")
def _add(c: Case) -> Step:
    places = [k for k, name in enumerate(c.node.inputs) if name]
    zones = [c.zone(k) for k in places]
    shape = broadcast(*(z.shape for z in zones))
    low, high = [z.low for z in zones], [z.high for z in zones]
    if c.node.op == "sub":
        low[1], high[1] = -zones[1].high, -zones[1].low
    out = replace(total(low, high, shape), still=quiet(zones, len(shape)))
    return Step((out,), lambda d: {
        k: reduced(d[0], z.shape, held=c.held(k) is not None) for k, z in zip(places, zones, strict=True)
    })  # fmt: skip


@rule("mul")
def _mul(c: Case) -> Step:
    x, y = c.zone(0), c.zone(1)
    return product(x, y)


@rule("div")
def _div(c: Case) -> Step:
    x, y = c.zone(0), c.zone(1)
    shape = broadcast(x.shape, y.shape)
    zero = np.broadcast_to(
        lined(x.zero, len(shape)), np.broadcast_shapes(lined(x.zero, len(shape)).shape, lined(y.zero, len(shape)).shape)
    )
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


def _whole(args: Sequence[object]) -> bool:
    return 1 <= len(args) <= 3 and all(isinstance(a, int) and not isinstance(a, bool) for a in args)


@rule("source", "constant_of_shape", "constant", "range", "shape", "size")
def _source(c: Case) -> Step:
    value = c.attrs.get("value")
    call = c.node.call
    if call is not None and call.target.rpartition(".")[2] == "arange" and _whole(call.args):
        numbers = np.arange(*call.args)
        if numbers.shape == c.shape():
            return Step((Held(lambda: numbers, numbers.shape, np.zeros((1,), bool)),), lambda d: {})
    plain = isinstance(value, (int, float)) and not isinstance(value, bool) and not c.walk.generic
    return Step((number(c.shape(), float(value)) if plain else anything(c.shape()),), lambda d: {})  # type: ignore[arg-type]
