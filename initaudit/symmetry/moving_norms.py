"""What norms, softmax, attention, reductions and pooling do to bounds, and to gradients that may be zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from initaudit.symmetry.bounds import product, total
from initaudit.symmetry.moving import Case, Given, Step, Unread, rule
from initaudit.symmetry.zones import (
    Grad,
    Zone,
    alive,
    all_of,
    carried,
    collapsed,
    dead,
    joined,
    lined,
    loosened,
    number,
    quiet,
    reduced,
    reshaper,
    some,
    thinned,
)
from initaudit.types import Array


def _affine(c: Case, made: Zone, back: Callable[[Grad], Grad], weight: int, bias: int, axis: int | None,
            balanced: frozenset[int] = frozenset()) -> Step:  # fmt: skip
    """Return a step that scales and shifts what was normalised.

    Args:
        c: the node.
        made: what was normalised.
        back: from its gradient to that of the operand.
        weight: the place of the scale.
        bias: the place of the shift.
        axis: along which both are, None for the last ones.
        balanced: axes over which what was normalised sums to zero.
    """
    rank = len(made.shape)
    level = frozenset(range(rank)) if not c.has(weight) else _level(c, weight, rank, axis)
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
        out = total([out.low, shift.low], [out.high, shift.high], made.shape)
        out = replace(out, still=quiet((before, shift), rank))

    def down(d: Sequence[Grad]) -> Given:
        found: dict[int, Grad] = {}
        inner = d[0]
        if bias in zones:
            found[bias] = _shaped(reduced(d[0], zones[bias][0].shape, held=True), zones[bias][1])
        if weight in zones:
            flat = bool(balanced) and axis is not None and balanced <= d[0].even
            own = Grad(d[0].live & ~made.zero & (not flat), d[0].shape)
            found[weight] = _shaped(reduced(own, zones[weight][0].shape), zones[weight][1])
            inner = Grad(d[0].live & ~lined(zones[weight][0].zero, rank), d[0].shape, even=d[0].even & level)
        found[0] = back(inner)
        return found

    return Step((out, *([None] * (len(c.node.outputs) - 1))), down)


def _level(c: Case, weight: int, rank: int, axis: int | None) -> frozenset[int]:
    """Return the axes along which a scale is the same."""
    z = c.zone(weight)
    if axis is not None:
        return frozenset(range(rank)) - {axis}
    deep = len(z.shape)
    same = bool((z.low == z.high).all() and (z.low == z.low.flat[0]).all()) or bool(c.tied(weight, range(deep)).all())
    return frozenset(range(rank if same else rank - deep))


def _shaped(g: Grad, shape: tuple[int, ...]) -> Grad:
    turn = reshaper(g.shape, shape)
    cancelled = g.cancelled if isinstance(g.cancelled, bool) else turn(g.cancelled)
    return Grad(turn(g.live), shape, cancelled=cancelled)


def _over(x: Zone, axes: Sequence[int], zero: Array, sums: frozenset[int]) -> tuple[Zone, Callable[[Grad], Grad]]:
    full = np.broadcast_shapes(x.low.shape, zero.shape)
    zero = np.broadcast_to(zero, full)
    still = zero | collapsed(x.fixed, axes, np.all)
    made = thinned(Zone(np.where(zero, 0.0, -np.inf), np.where(zero, 0.0, np.inf), x.shape, still))

    def back(d: Grad) -> Grad:
        live = collapsed(d.live, axes, np.any)
        if sums and sums <= d.even:  # its mean is taken away, and what was normalised has none
            live = np.zeros_like(live)
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
        made, back = _over(x, axes, (low == high) | lined(c.tied(0, axes), rank), frozenset(axes))
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
    return _affine(c, made, back, 1, 2, channel, frozenset(others))


@rule("instance_norm")
def _instance_norm(c: Case) -> Step:
    x = c.zone(0)
    others = list(range(2, len(x.shape)))
    made, back = _over(x, others, joined(x, others).fixed, frozenset(others))
    return _affine(c, made, back, 1, 2, 1, frozenset(others))


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
    alone = shape[1] == groups

    def down(d: Grad) -> Grad:
        even = {a + 1 for a in d.even if a > 1} | ({2} if alone else set())
        own = back(Grad(there(d.live), apart, even=frozenset(even)))
        return Grad(again(own.live), shape, ((frozenset(range(2, len(shape))), _groups(c, groups, shape, alone)),))

    balanced = frozenset(range(2, len(shape))) if alone else frozenset()
    return _affine(c, made.mapped(again, shape), down, 1, 2, 1, balanced)


def _groups(c: Case, groups: int, shape: Sequence[int], alone: bool) -> Array:
    """Return the channels before which a shift of all places is a shift of all that is normalised together."""
    if alone or c.walk.alike is None:
        return np.full((1,) * len(shape), alone)
    labels = c.walk.alike.units(c.node.inputs[0], 1)
    if labels.size != shape[1]:
        return np.zeros((1,) * len(shape), bool)
    cut = labels.reshape(groups, -1)
    same = np.repeat((cut == cut[:, :1]).all(1), shape[1] // groups)
    return same.reshape(1, -1, *(1,) * (len(shape) - 2))


@rule("softmax", "log_softmax")
def _softmax(c: Case) -> Step:
    x = c.zone(0)
    axis = c.integer("axis", -1) % len(x.shape)
    log = c.node.op == "log_softmax"
    if x.shape[axis] == 1 and not c.walk.generic:
        return Step((number(x.shape, 0.0 if log else 1.0),), lambda d: {0: dead(x.shape)})
    one = (1,) * len(x.shape)
    out = Zone(np.full(one, -np.inf if log else 0.0), np.full(one, 0.0 if log else 1.0), x.shape,
               collapsed(x.fixed, [axis], np.all) | lined(c.tied(0, [axis]), len(x.shape)))  # fmt: skip

    def back(d: Sequence[Grad]) -> Given:
        live = collapsed(d[0].live, [axis], np.any)
        if axis in d[0].even and not log:
            live = np.zeros_like(live)
        return {0: Grad(live, x.shape, all_of(frozenset({axis}), len(x.shape)))}

    return Step((out,), back)


@rule("scaled_dot_product_attention")
def _attention(c: Case) -> Step:
    q, k, v = c.zone(0), c.zone(1), c.zone(2)
    rank = len(q.shape)
    shape = c.shape()
    if any(len(z.shape) != rank for z in (k, v)) or rank < 2 or q.shape[: max(0, rank - 3)] != k.shape[: rank - 3]:
        raise Unread
    times = 1
    if rank > 2 and q.shape[-3] != k.shape[-3]:  # grouped queries
        times = q.shape[-3] // k.shape[-3]
        if times * k.shape[-3] != q.shape[-3] or v.shape[-3] != k.shape[-3]:
            raise Unread

    def grown(x: Array) -> Array:
        return np.repeat(x, times, -3) if times > 1 and x.shape[-3] > 1 else x

    def again(x: Array) -> Array:
        if times == 1 or x.shape[-3] == 1:
            return x
        return some(x.reshape(*x.shape[:-3], -1, times, *x.shape[-2:]), -3)

    places = [rank - 2]
    v = joined(v, places)
    out = Zone(grown(v.low), grown(v.high), shape, grown(v.fixed))

    def back(d: Sequence[Grad]) -> Given:
        given = collapsed(d[0].live, places, np.any)
        times_ = some(d[0].live, tuple(a for a in range(rank) if a != rank - 2), keepdims=True)
        reached = scored = np.ones((1,) * rank, bool)
        if c.attrs.get("is_causal") and not c.walk.generic and q.shape[-2] == k.shape[-2] and times_.size > 1:
            reached = _from_later(times_)
            times_ = times_ & (np.arange(k.shape[-2]).reshape(-1, 1) > 0)  # the first looks at itself alone
            scored = _from_later(times_)
        score = (given & ~grown(v.fixed)).any(-1, keepdims=True) & (k.shape[-2] > 1 or c.walk.generic)
        q_, k_ = joined(q, places), joined(k, places)
        found = {
            0: Grad(score & grown(~k_.zero & ~_even_keys(k_)) & times_, q.shape),
            1: Grad(again(score & ~q_.zero) & scored, k.shape, all_of(frozenset({rank - 2}), rank)),
            2: Grad(again(given) & reached, v.shape),
        }
        if c.has(3):
            found[3] = alive(c.zone(3).shape)
        return found

    return Step((out, *([None] * (len(c.node.outputs) - 1))), back)


def _from_later(queries: Array) -> Array:
    """Return the keys that some of these queries look at, where none looks at a later one."""
    return np.flip(np.logical_or.accumulate(np.flip(queries, -2), -2), -2)


def _even_keys(k: Zone) -> Array:
    """Whether all keys are one constant: scores are then the same for all, and their gradient sums to zero."""
    return np.asarray(k.fixed)


_LINEAR = frozenset({"reduce_mean", "reduce_sum"})
_POSITIVE = frozenset({"reduce_l1", "reduce_l2", "reduce_sum_square", "reduce_var", "reduce_std"})


def _zeros(x: Zone, over: Sequence[int]) -> Array:
    """Return how many of the factors of a product are zero: with another one, no gradient comes to any."""
    sizes = [n if a in over else m for a, (n, m) in enumerate(zip(x.shape, x.zero.shape, strict=True))]
    return np.asarray(np.broadcast_to(x.zero, sizes).sum(tuple(over), keepdims=True))


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
    op = c.node.op
    some, every = collapsed(x.zero, over, np.any), collapsed(x.zero, over, np.all)
    if op in ("reduce_var", "reduce_std"):
        every = collapsed(x.low, over, np.min) == collapsed(x.high, over, np.max)
    zero = turn(some if op == "reduce_prod" else np.zeros_like(every) if op == "reduce_log_sum_exp" else every)
    positive = turn(collapsed(x.low, over, np.min)) >= 0
    positive = positive | (op in _POSITIVE) if op != "reduce_log_sum_exp" else np.zeros_like(zero)
    out = Zone(np.where(zero | positive, 0.0, -np.inf), np.where(zero, 0.0, np.inf), shape,
               turn(collapsed(x.fixed, over, np.all)))  # fmt: skip
    again = reshaper(shape, kept)

    def back(d: Sequence[Grad]) -> Given:
        live = again(d[0].live)
        if op in ("reduce_sum_square", "reduce_l1"):
            return {0: Grad(live & ~x.zero, x.shape)}
        if op == "reduce_prod":
            return {0: Grad(live & (_zeros(x, over) <= x.zero), x.shape)}
        if op not in _LINEAR or c.shape() != shape:
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
    mode = str(c.attrs.get("mode", ""))
    if (
        c.node.op == "lp_pool"
        or "cubic" in mode
        or c.attrs.get("divisor_override")
        or "crop" in str(c.attrs.get("coordinate_transformation_mode"))
    ):  # sums, or weights below zero
        thin = loosened(thin)
    out = Zone(thin.low, thin.high, shape, thin.fixed if not np.any(np.asarray(pads != 0)) else None)
    padded = bool(np.any(np.asarray(pads if not isinstance(pads, str) else 1) != 0))
    whole = c.node.op not in ("lp_pool", "average_pool") or not (padded or c.attrs.get("ceil_mode"))
    whole = whole and c.attrs.get("coordinate_transformation_mode") != "tf_crop_and_resize" and c.node.op != "lp_pool"

    def back(d: Sequence[Grad]) -> Given:
        sums = tuple((one, np.ones((1,) * len(shape), bool)) for one, where in d[0].sums
                     if whole and where.all() and one >= set(changed))  # fmt: skip
        return {0: Grad(collapsed(d[0].live, changed, np.any), x.shape, sums)}

    return Step((out, *([None] * (len(c.node.outputs) - 1))), back)
