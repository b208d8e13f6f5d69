"""What operations do to the sign and the scale that units are measured in; see gauge.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from initaudit.symmetry.gauge import BOTH, NOTHING, SCALE, SIGN, Clash, Gauge, Measure, Rule, along, rules
from initaudit.types import Array, Node, Tensor

_ODD = (
    "tanh", "softsign", "erf", "erfinv", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh", "tanhshrink",
    "softshrink", "hardshrink",
)  # fmt: skip
_LINEAR = ("identity", "dropout", "contiguous", "cast_like", "neg")
_POOLS = ("average_pool", "global_average_pool", "reduce_mean", "reduce_sum", "resize", "upsample")


Makes = Callable[[Gauge, int, Node], Measure | None]


def _rule(lets: Callable[[Gauge, Node, int, int], int], *names: str) -> Callable[[Makes], Makes]:
    def enter(makes: Makes) -> Makes:
        rules.update(dict.fromkeys(names, Rule(lets, makes)))
        return makes

    return enter


# ---- weights


def _reads(g: Gauge, node: Node, place: int, _: int) -> int:
    own = g.parameter(node.inputs[1 - place]) if len(node.inputs) > 1 and place in (0, 1) else None
    if own is None or (place == 1 and node.op != "matmul") or (len(own.shape) != 2 and "conv" not in node.op):
        return NOTHING
    groups = node.attrs.get("group", 1)
    if groups != 1 and node.op == "conv_transpose":
        return NOTHING
    return SIGN if groups != 1 else BOTH  # a group's own scale would change how fast its weights move


@dataclass(frozen=True, slots=True)
class _Weight:
    """How the axes of a weight and of what it meets go together."""

    outs: int  # its axis of units
    ins: int  # and of terms
    coming: int  # the axis of what comes in along its terms
    going: int  # the axis of its result along its units
    groups: int


def _axes(g: Gauge, node: Node, own: Tensor, place: int) -> _Weight:
    spatial = len(own.shape) - 2
    conv = node.op.startswith("conv")
    if len(own.shape) < 2 or (spatial and not conv) or (place == 1 and node.op != "matmul"):
        raise Clash
    if any(node.attrs.get(name, 1) != 1 for name in ("alpha", "beta")) or node.attrs.get("transA"):
        raise Clash
    x, out = (len(g.shape(name)) for name in (node.inputs[place], node.outputs[0]))
    turned = node.op == "conv_transpose" or (node.op == "matmul" and place == 0)
    turned = turned or (node.op == "gemm" and not node.attrs.get("transB"))
    last = 1 + spatial if conv else 1 + place  # from the end
    return _Weight(int(turned), 1 - int(turned), x - last, out - last, int(node.attrs.get("group", 1)) if conv else 1)


@_rule(_reads, "linear", "gemm", "matmul", "conv", "conv_transpose")
def _weigh(g: Gauge, at: int, node: Node) -> Measure | None:
    place = 0 if g.moves(node.inputs[0]) else 1
    name, out = node.inputs[1 - place], node.outputs[0]
    given, own = g.of(node.inputs[place]), g.parameter(name)
    if given is None and (own is None or g.allowed.get(out, BOTH) == NOTHING or at in g.pinned):
        return None
    if own is None:
        raise Clash
    axes = _axes(g, node, own, place)
    wide = len(own.shape)
    coming = along(given, len(g.shape(node.inputs[place])), axes.coming)
    change = np.ones((1,) * wide)
    if coming is not None and axes.groups > 1:
        each = np.repeat(coming.reshape(axes.groups, -1), own.shape[0] // axes.groups, 0)
        change = each.reshape(*own.shape[:2], *[1] * (wide - 2))
    elif coming is not None:
        change = coming.reshape([-1 if a == axes.ins else 1 for a in range(wide)])
    free = None
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] else ""
    plain = not bias or (g.parameter(bias) is not None and g.shape(bias) == (own.shape[axes.outs],))
    if plain and not (axes.groups > 1 and node.op == "conv_transpose"):
        rows = np.moveaxis(g.numbers(name) * change, axes.outs, 0).reshape(own.shape[axes.outs], -1)
        free = g.chosen(at, out, rows, g.numbers(bias) if bias else None)
    if free is None:
        if coming is not None:
            g.changes[name] = change
        return None
    g.changes[name] = change / free.reshape([-1 if a == axes.outs else 1 for a in range(wide)])
    if bias:
        g.shifts[bias] = 1.0 / free
    rank = len(g.shape(out))
    return Measure(free.reshape([-1 if a == axes.going % rank else 1 for a in range(rank)]), g.by(at))


@_rule(lambda g, node, place, out: NOTHING, "embedding")
def _embedding(g: Gauge, at: int, node: Node) -> Measure | None:
    w, out = node.inputs[0], node.outputs[0]
    own = g.parameter(w)
    if own is None or len(own.shape) != 2 or g.allowed.get(out, BOTH) == NOTHING or at in g.pinned:
        return None
    free = g.chosen(at, out, g.numbers(w).T)
    if free is None:
        return None
    g.changes[w] = 1.0 / free[None]
    rank = len(g.shape(out))
    return Measure(free.reshape([-1 if a == rank - 1 else 1 for a in range(rank)]), g.by(at))


# ---- each element by itself


def _same(g: Gauge, _: int, node: Node) -> Measure | None:
    return g.of(node.inputs[0])


_rule(lambda g, node, place, out: SIGN & out if place == 0 else NOTHING, *_ODD)(_same)
_rule(lambda g, node, place, out: SCALE & out if place == 0 else NOTHING, "relu", "leaky_relu")(_same)
_rule(lambda g, node, place, out: out, *_LINEAR)(_same)


def _symmetric(g: Gauge, node: Node, place: int, out: int) -> int:
    """Let a sign through where both bounds are as far from zero."""
    low, high = (node.attrs.get(a, node.attrs.get(b)) for a, b in (("min_val", "min"), ("max_val", "max")))
    if node.op == "clip" and len(node.inputs) > 2:
        sizes = [g.view.graph.constants.get(name) for name in node.inputs[1:3]]
        if any(t is None or t.size != 1 for t in sizes):
            return NOTHING
        low, high = (float(np.asarray(t.load()).reshape(())) for t in sizes if t is not None)
    fits = isinstance(low, (int, float)) and isinstance(high, (int, float)) and low == -high
    return SIGN & out if place == 0 and fits else NOTHING


_rule(_symmetric, "clip", "hardtanh")(_same)


def _one_slope(g: Gauge, node: Node, place: int, out: int) -> int:
    slope = g.view.graph.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
    return SCALE & out if place == 0 and slope is not None and slope.size == 1 else NOTHING


_rule(_one_slope, "prelu")(_same)


@_rule(lambda g, node, place, out: out, "cast")
def _cast(g: Gauge, _: int, node: Node) -> Measure | None:
    to = node.attrs.get("to", node.attrs.get("dtype"))
    given = g.of(node.inputs[0])
    if given is not None and not (to in (1, 10, 11, 16) or (isinstance(to, str) and "float" in to)):
        raise Clash(*given.by)
    return given


# ---- with parameters


def _placed(g: Gauge, name: str, rank: int) -> tuple[int, ...]:
    """Return the extents of a parameter where it is broadcast to a rank."""
    shape = g.shape(name)
    if len(shape) > rank:
        raise Clash
    return (1,) * (rank - len(shape)) + shape


@_rule(lambda g, node, place, out: out, "add", "sum", "sub")
def _add(g: Gauge, at: int, node: Node) -> Measure | None:
    moving = [name for name in node.inputs if g.moves(name)]
    given = [g.of(name) for name in moving]
    by = {k for one in given if one is not None for k in one.by}
    shape = g.shape(node.outputs[0]) if by else ()
    sizes = [np.ones((1,) * len(shape)) if one is None else one.size for one in given]
    sizes = [size.reshape((1,) * (len(shape) - size.ndim) + size.shape) for size in sizes]
    if not by:
        return None
    for size in sizes[1:]:
        if size.shape != sizes[0].shape or not np.array_equal(size, sizes[0]):
            raise Clash(*by)
    size = sizes[0]
    for name in node.inputs:
        if name and not g.moves(name):
            wide = _placed(g, name, len(shape))
            if g.parameter(name) is None or any(m > 1 and n != m for m, n in zip(size.shape, wide, strict=True)):
                raise Clash(*by)
            g.shifts[name] = (1.0 / size).reshape(size.shape[len(shape) - len(g.shape(name)) :])
    return Measure(size, frozenset(by))


def _scaled_by(g: Gauge, node: Node, place: int, out: int) -> int:
    others = [name for k, name in enumerate(node.inputs) if k != place and name]
    if len(others) != 1 or g.moves(others[0]) or (node.op == "div" and place):
        return NOTHING
    tensor = g.view.graph.constants.get(others[0])
    if tensor is None:
        return NOTHING
    return out if tensor.size == 1 else SIGN & out


@_rule(_scaled_by, "mul", "div")
def _mul(g: Gauge, at: int, node: Node) -> Measure | None:
    moving = [name for name in node.inputs if g.moves(name)]
    if len(moving) != 1:
        return None
    return g.of(moving[0])


def _normed(g: Gauge, node: Node, place: int, out: int) -> int:
    if place != 0:
        return NOTHING
    return SIGN if len(node.inputs) > 1 and g.parameter(node.inputs[1]) is not None else SIGN & out


@_rule(_normed, "batch_norm", "instance_norm", "rms_norm", "l2_norm")
def _norm(g: Gauge, at: int, node: Node) -> Measure | None:
    x, out = node.inputs[0], node.outputs[0]
    given = g.of(x)
    rank = len(g.shape(x))
    axis = 1 if node.op in ("batch_norm", "instance_norm") else rank - 1
    coming = along(given, rank, axis)
    if len(node.inputs) < 2 or g.parameter(node.inputs[1]) is None:
        return given
    size = g.shape(x)[axis]
    scale = node.inputs[1]
    if g.shape(scale) != (size,):
        if given is not None:
            raise Clash(*given.by)
        return None
    rows = g.numbers(scale)[:, None] * (np.ones((size, 1)) if coming is None else coming[:, None])
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] else ""
    free = None
    if not bias or g.parameter(bias) is not None:
        free = g.chosen(at, out, rows, g.numbers(bias) if bias else None)
    free = None if free is None else np.sign(free)
    change = np.ones(size) if coming is None else coming
    if free is not None:
        change = change / free
        if bias:
            g.shifts[bias] = 1.0 / free
    g.changes[scale] = change
    if node.op == "batch_norm" and coming is not None and len(node.inputs) > 3 and node.inputs[3]:
        if g.parameter(node.inputs[3]) is None:
            raise Clash(*(given.by if given is not None else ()))
        g.shifts[node.inputs[3]] = 1.0 / coming
    if free is None:
        return None
    return Measure(free.reshape([-1 if a == axis else 1 for a in range(rank)]), g.by(at))


# ---- places


@_rule(lambda g, node, place, out: SCALE & out if place == 0 else NOTHING, "max_pool", "global_max_pool")
def _max_pool(g: Gauge, at: int, node: Node) -> Measure | None:
    return _pooled(g, at, node)


@_rule(lambda g, node, place, out: out if place == 0 else NOTHING, *_POOLS)
def _pool(g: Gauge, at: int, node: Node) -> Measure | None:
    return _pooled(g, at, node)


def _pooled(g: Gauge, _: int, node: Node) -> Measure | None:
    given = g.of(node.inputs[0])
    if given is None:
        return None
    before, after = g.shape(node.inputs[0]), g.shape(node.outputs[0])
    if len(before) == len(after):
        fits = all(n == 1 or before[a] == after[a] for a, n in enumerate(given.size.shape))
        if not fits or (node.op.startswith("reduce") and _over(node, given, before)):
            raise Clash(*given.by)
        return given
    axes = node.attrs.get("axes", node.attrs.get("dim"))
    if not isinstance(axes, (tuple, list)):
        raise Clash(*given.by)
    gone = {int(a) % len(before) for a in axes}
    if any(given.size.shape[a] > 1 for a in gone):
        raise Clash(*given.by)
    kept = [n for a, n in enumerate(given.size.shape) if a not in gone]
    if len(kept) != len(after):
        raise Clash(*given.by)
    return Measure(given.size.reshape(kept), given.by)


def _over(node: Node, given: Measure, before: tuple[int, ...]) -> bool:
    axes = node.attrs.get("axes", node.attrs.get("dim"))
    if not isinstance(axes, (tuple, list)):
        return True
    return any(given.size.shape[int(a) % len(before)] > 1 for a in axes)


@_rule(lambda g, node, place, out: out if place == 0 else NOTHING,
       "reshape", "flatten", "view", "squeeze", "unsqueeze")  # fmt: skip
def _reshape(g: Gauge, _: int, node: Node) -> Measure | None:
    given = g.of(node.inputs[0])
    if given is None:
        return None
    before, after = g.shape(node.inputs[0]), g.shape(node.outputs[0])
    if math.prod(before) != math.prod(after):
        raise Clash(*given.by)
    if before[:1] == after[:1] and given.size.shape[:1] == (1,):
        before, after = (1, *before[1:]), (1, *after[1:])
    if math.prod(before) > 1 << 22:
        raise Clash(*given.by)
    return Measure(_thin(np.broadcast_to(given.size, before).reshape(after)), given.by)


def _thin(size: Array) -> Array:
    for axis in range(size.ndim):
        first = np.take(size, [0], axis)
        if size.shape[axis] > 1 and bool((size == first).all()):
            size = first
    return size


@_rule(lambda g, node, place, out: out if place == 0 else NOTHING, "transpose")
def _transpose(g: Gauge, _: int, node: Node) -> Measure | None:
    given = g.of(node.inputs[0])
    if given is None:
        return None
    rank = given.size.ndim
    perm = node.attrs.get("perm")
    if perm is None and "swap" in node.attrs:
        a, b = (int(k) % rank for k in node.attrs["swap"])
        perm = list(range(rank))
        perm[a], perm[b] = perm[b], perm[a]
    if perm is None or sorted(int(a) for a in perm) != list(range(rank)):
        raise Clash(*given.by)
    return Measure(given.size.transpose([int(a) for a in perm]), given.by)


@_rule(lambda g, node, place, out: out, "concat")
def _concat(g: Gauge, _: int, node: Node) -> Measure | None:
    names = [name for name in node.inputs if name]
    given = [g.of(name) for name in names]
    by = frozenset(k for one in given if one is not None for k in one.by)
    if not by:
        return None
    if node.attrs.get("new_axis") or any(not g.moves(name) for name in names):
        raise Clash(*by)
    rank = len(g.shape(node.outputs[0]))
    axis = int(node.attrs.get("axis", 0)) % rank
    parts = []
    for name, one in zip(names, given, strict=True):
        size = np.ones((1,) * rank) if one is None else one.size
        if any(n > 1 for a, n in enumerate(size.shape) if a != axis):
            raise Clash(*by)
        wide = [g.shape(name)[axis] if a == axis else 1 for a in range(rank)]
        parts.append(np.broadcast_to(size, wide))
    return Measure(np.concatenate(parts, axis), by)
