"""What is done to each element by itself, along with what is broadcast to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from initaudit.ops import OPS
from initaudit.symmetry.combining import added, combined, reduced, reshaped
from initaudit.symmetry.engine import Case, Given, Step, Unread, Weight, op
from initaudit.symmetry.labels import ZERO, Labels, dense, even, free, word
from initaudit.types import Array

_OTHERS = frozenset({"glu", "prelu", "bias_gelu", "bias_split_gelu", "composite", "add", "sum", "sub", "mul", "mean"})
_ROUNDED = frozenset({  # no gradient passes
    "greater", "less", "equal", "greater_or_equal", "less_or_equal", "and", "or", "not", "xor", "isnan", "isinf",
    "floor", "ceil", "round", "sign", "trunc", "heaviside", "bit_shift",
})  # fmt: skip


def settings(c: Case) -> str:
    """Return what an operation's attributes say, in words."""
    return str(sorted((k, repr(v)) for k, v in c.attrs.items() if not k.startswith("@")))


def _operands(c: Case) -> dict[int, Labels]:
    return {k: c.labels(k) for k, name in enumerate(c.node.inputs) if name}


@op(*(name for name, row in OPS.items() if row.family in ("activation", "elementwise") and name not in _OTHERS))
def _each(c: Case) -> Step:
    given = _operands(c)
    values = list(given.values())
    if not values:
        raise Unread
    tag = (c.node.op, settings(c))
    out = combined(values, *tag)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        if c.node.op in _ROUNDED:
            return {place: even(x.shape, ZERO) for place, x in given.items()}
        return {place: reduced(combined((d[0], *values), *tag, "back", place), x.shape) for place, x in given.items()}

    return Step((out,), back)


@op("add", "sum", "mean")
def _add(c: Case) -> Step:
    given = _operands(c)
    out = added(list(given.values()))
    if c.node.op == "mean":
        out = out.tagged("mean", len(given))
    return Step((out,), lambda d: {place: reduced(d[0], x.shape) for place, x in given.items()})


@op("sub")
def _sub(c: Case) -> Step:
    x, y = c.labels(0), c.labels(1)
    out = added((x, y.tagged("less")))
    return Step((out,), lambda d: {0: reduced(d[0], x.shape), 1: reduced(d[0].tagged("less"), y.shape)})


@op("mul")
def _mul(c: Case) -> Step:
    x, y = c.labels(0), c.labels(1)
    rank = max(x.rank, y.rank)
    for place, own in ((0, x), (1, y)):
        if c.weight(place) is not None and c.moves(1 - place):  # a scale: its units are those of what it makes
            axes = {k: rank - own.rank + k for k in range(own.rank) if own.shape[k] > 1}
            if axes:
                c.used(place, axes)
    return product(x, y)


def product(x: Labels, y: Labels, first: int = 0, second: int = 1) -> Step:
    """Return a step that multiplies two values element by element."""
    out = added((x.tagged("factor"), y.tagged("factor"))).tagged("product")

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        return {
            first: reduced(combined((d[0], y), "times"), x.shape),
            second: reduced(combined((d[0], x), "times"), y.shape),
        }

    return Step((out,), back)


@op("prelu")
def _prelu(c: Case) -> Step:
    x, slope = c.labels(0), c.labels(1)
    shape = slope.shape
    if slope.rank == 1 and x.rank > 1 and shape[0] == x.shape[1] and c.node.call is not None:
        slope = reshaped(slope, (shape[0], *[1] * (x.rank - 2)))
    out = combined((x, slope), "prelu")

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        own = reduced(combined((d[0], x), "prelu slope"), slope.shape)
        return {0: reduced(combined((d[0], x, slope), "prelu back"), x.shape), 1: reshaped(own, shape)}

    return Step((out,), back)


@op("weight_norm")
def _weight_norm(c: Case) -> Step:
    """A direction and its length: every row of one output unit is divided by its norm."""
    v, g = c.labels(0), c.labels(1)
    axis = c.integer("axis", 0) % v.rank
    if c.attrs.get("p") is not None:
        raise Unread

    def over(x: Labels) -> Labels:
        for a in range(x.rank):
            if a != axis:
                x = x.summed(a)
        return x

    length = over(v)
    out = combined((v, length, g), "weight_norm")

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        mine = combined((d[0], v, length, g), "weight_norm back")
        return {0: combined((mine, over(mine)), "weight_norm back"), 1: reduced(mine, g.shape)}

    return Step((out, *([None] * (len(c.node.outputs) - 1))), back)


@op("glu")
def _glu(c: Case) -> Step:
    x = c.labels(0)
    axis = c.integer("axis", -1) % x.rank
    if x.is_free(axis):
        shape = list(x.shape)
        shape[axis] //= 2
        out = x.whole(axis).as_free(axis, shape[axis]).tagged("glu", axis)
        return Step(
            (out,), lambda d: {0: combined((d[0].freed(axis).as_free(axis, x.shape[axis]), x), "glu back", axis)}
        )
    whole = x.dense(axis)
    at = whole.span(axis).start
    first, second = np.split(whole.data, 2, at)
    half = [
        Labels(part, (*whole.sizes[:at], part.shape[at], *whole.sizes[at + 1 :]), whole.free, whole.groups)
        for part in (first, second)
    ]
    out = combined(half, "glu")

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        parts = [combined((d[0], *half), "glu back", k).dense(axis) for k in range(2)]
        data = np.concatenate([np.broadcast_to(p.data, _wide(parts, at, p)) for p in parts], at)
        sizes = (*parts[0].sizes[:at], data.shape[at], *parts[0].sizes[at + 1 :])
        return {0: Labels(data, sizes, parts[0].free, parts[0].groups)}

    return Step((out,), back)


def _wide(parts: Sequence[Labels], at: int, own: Labels) -> tuple[int, ...]:
    shape = [max(p.data.shape[a] for p in parts) for a in range(own.data.ndim)]
    shape[at] = own.data.shape[at]
    return tuple(shape)


@op("identity", "dropout", "contiguous", "cast_like")
def _identity(c: Case) -> Step:
    x = c.value(0)
    outs = (x, *([None] * (len(c.node.outputs) - 1)))
    return Step(outs, lambda d: {0: d[0]})


@op("cast")
def _cast(c: Case) -> Step:
    to = c.attrs.get("to", c.attrs.get("dtype"))
    floats = to in (1, 10, 11, 16) or (isinstance(to, str) and "float" in to)
    if floats:
        return _identity(c)
    x = c.value(0)
    if isinstance(x, Weight) and not x.factors:
        return Step((x,), lambda d: {})
    out = c.labels(0).tagged("cast", str(to))
    return Step((out,), lambda d: {0: even(out.shape, ZERO)})


@op("source", "constant_of_shape", "constant", "range", "eye_like", "loop_index")
def _source(c: Case) -> Step:
    value = c.attrs.get("value")
    shape = c.shape()
    if shape is None:
        raise Unread
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        out = even(shape, number(value))
    else:
        out = free(shape, word("source", c.at))
    return Step((out,), lambda d: {})


def number(value: float) -> Array:
    """Return the label of a number that no step changes."""
    return combined((dense(np.zeros((), np.uint64)),), "number", float(value)).data


@op("shape", "size")
def _shape(c: Case) -> Step:
    shape = c.shape()
    if shape is None:
        raise Unread
    return Step((free(shape, word("shape", c.at)),), lambda d: {})
