"""What operations other than products with weights do to the sign and the scale of units; see gauge.py."""

from __future__ import annotations

import math

import numpy as np

from initaudit.symmetry.gauge import BOTH, NOTHING, SCALE, SIGN, Clash, Gauge, Measure, along, rule
from initaudit.types import Array, Node

_ODD = (
    "tanh", "softsign", "erf", "erfinv", "sin", "tan", "asin", "atan", "sinh", "asinh", "atanh", "tanhshrink",
    "softshrink", "hardshrink",
)  # fmt: skip
_LINEAR = ("identity", "dropout", "contiguous", "cast_like", "neg")
_POOLS = ("average_pool", "global_average_pool", "reduce_mean", "reduce_sum", "resize", "upsample")


# ---- each element by itself


def _same(g: Gauge, _: int, node: Node) -> Measure | None:
    return g.of(node.inputs[0])


rule(lambda g, node, place, out: SIGN & out if place == 0 else NOTHING, *_ODD)(_same)
rule(lambda g, node, place, out: SCALE & out if place == 0 else NOTHING, "relu", "leaky_relu")(_same)
rule(lambda g, node, place, out: out, *_LINEAR)(_same)


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


rule(_symmetric, "clip", "hardtanh")(_same)


def _one_slope(g: Gauge, node: Node, place: int, out: int) -> int:
    slope = g.view.graph.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
    return SCALE & out if place == 0 and slope is not None and slope.size == 1 else NOTHING


rule(_one_slope, "prelu")(_same)


@rule(lambda g, node, place, out: out, "cast")
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


@rule(lambda g, node, place, out: out, "add", "sum", "sub")
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
    if len(others) != 1:
        return NOTHING
    if g.moves(others[0]) or (node.op == "div" and place):
        return SIGN & out
    tensor = g.view.graph.constants.get(others[0])
    if tensor is None:
        return NOTHING
    return out if tensor.size == 1 else SIGN & out


@rule(_scaled_by, "mul", "div")
def _mul(g: Gauge, at: int, node: Node) -> Measure | None:
    rank = len(g.shape(node.outputs[0]))
    found = [one for one in (g.of(name) for name in node.inputs if g.moves(name)) if one is not None]
    if not found:
        return None
    sizes = [one.size.reshape((1,) * (rank - one.size.ndim) + one.size.shape) for one in found]
    return Measure(math.prod(sizes[1:], start=sizes[0]), frozenset(k for one in found for k in one.by))


def _normed(g: Gauge, node: Node, place: int, out: int) -> int:
    if place != 0:
        return NOTHING
    if len(node.inputs) > 1 and g.parameter(node.inputs[1]) is not None:
        return SIGN
    return NOTHING if len(node.inputs) > 2 and node.inputs[2] else SIGN & out


@rule(_normed, "batch_norm", "instance_norm", "rms_norm", "l2_norm")
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


@rule(lambda g, node, place, out: BOTH, "shape", "size")
def _shape(g: Gauge, at: int, node: Node) -> Measure | None:
    return None


@rule(lambda g, node, place, out: SCALE & out if place == 0 else NOTHING, "max_pool", "global_max_pool")
def _max_pool(g: Gauge, at: int, node: Node) -> Measure | None:
    return _pooled(g, at, node)


@rule(lambda g, node, place, out: out if place == 0 else NOTHING, *_POOLS)
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


@rule(lambda g, node, place, out: out if place == 0 else NOTHING,
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


@rule(lambda g, node, place, out: out if place == 0 else NOTHING, "transpose")
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


@rule(lambda g, node, place, out: out, "concat")
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
