"""Norms, softmax, reductions and pooling: what looks at many elements at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from initaudit.symmetry.choices import sized
from initaudit.symmetry.combining import added, combined, reduced, reshaped, spread
from initaudit.symmetry.convolutions import resized
from initaudit.symmetry.engine import Case, Given, Step, Unread, op
from initaudit.symmetry.labels import Labels, free, word
from initaudit.symmetry.pointwise import settings


def normed(x: Labels, axes: Sequence[int], *tag: object) -> tuple[Labels, object]:
    """Return labels of a value divided by a statistic over axes, and the way back."""

    def over(v: Labels) -> Labels:
        for a in axes:
            v = v.summed(a)
        return v

    out = combined((x, over(x)), *tag)

    def back(d: Labels) -> Labels:
        mine = combined((d, out), *tag, "back")
        return combined((mine, over(mine)), *tag, "back")

    return out, back


def scaled(c: Case, made: Labels, back: object, weight: int, bias: int, shape: Sequence[int] | None = None) -> Step:
    """Return a step that scales and shifts what was normed; operands are first brought to a shape."""
    parts: dict[int, tuple[Labels, tuple[int, ...]]] = {}
    for place in (weight, bias):
        if place >= 0 and c.has(place):
            given = c.labels(place)
            parts[place] = (reshaped(given, shape) if shape is not None else given, given.shape)
    if weight in parts:
        c.used(
            weight,
            {parts[weight][0].rank - 1 - k: made.rank - 1 - k for k in range(parts[weight][0].rank)}
            if shape is None
            else {0: made.rank - len(shape)},
        )
    out = combined((made, parts[weight][0]), "scaled") if weight in parts else made
    out = added((out, parts[bias][0])) if bias in parts else out

    def down(d: Sequence[Labels]) -> Mapping[int, Given]:
        found: dict[int, Given] = {}
        inner = d[0]
        if bias in parts:
            found[bias] = reshaped(reduced(d[0], parts[bias][0].shape), parts[bias][1])
        if weight in parts:
            own, shape_ = parts[weight]
            found[weight] = reshaped(reduced(combined((d[0], made), "scale"), own.shape), shape_)
            inner = combined((d[0], own), "scaled back")
        found[0] = back(inner)  # type: ignore[operator]
        return found

    return Step((out, *([None] * (len(c.node.outputs) - 1))), down)


@op("layer_norm", "rms_norm", "l2_norm", "mean_variance_norm")
def _layer_norm(c: Case) -> Step:
    x = c.labels(0)
    made, back = normed(x, _axes(c, x.rank), c.node.op, str(c.attrs.get("epsilon")))
    return scaled(c, made, back, 1, 2)


def _axes(c: Case, rank: int) -> list[int]:
    given = c.attrs.get("axes")
    if isinstance(given, (tuple, list)):
        return [a % rank for a in given]
    shape = c.attrs.get("normalized_shape")
    if isinstance(shape, (tuple, list)):
        return list(range(rank - len(shape), rank))
    axis = c.attrs.get("axis", c.attrs.get("dim", -1))
    if not isinstance(axis, int):
        raise Unread
    return [axis % rank] if c.node.op == "l2_norm" else list(range(axis % rank, rank))


@op("batch_norm")
def _batch_norm(c: Case) -> Step:
    """Statistics over inputs and places. A graph that uses running ones instead needs those to be equal too."""
    x = c.labels(0)
    channel = 1 if x.rank > 1 else 0
    wide = (x.shape[channel], *[1] * (x.rank - 1 - channel))
    trains = bool(c.attrs.get("training") or c.attrs.get("training_mode"))
    kept = [c.labels(k) for k in (3, 4) if c.has(k) and not trains]
    before = combined((x, *(reshaped(k, wide) for k in kept)), "running") if kept else x
    made, back = normed(before, [a for a in range(x.rank) if a != channel], "batch_norm", str(c.attrs.get("epsilon")))
    step = scaled(c, made, back, 1, 2, wide)
    return Step((*step.outs[:1], *([None] * (len(c.node.outputs) - 1))), step.back)


@op("instance_norm")
def _instance_norm(c: Case) -> Step:
    x = c.labels(0)
    made, back = normed(x, range(2, x.rank), "instance_norm", str(c.attrs.get("epsilon")))
    return scaled(c, made, back, 1, 2, (x.shape[1], *[1] * (x.rank - 2)))


@op("group_norm")
def _group_norm(c: Case) -> Step:
    x = c.labels(0)
    groups = c.attrs.get("num_groups", c.attrs.get("groups"))
    if not isinstance(groups, int) or len(c.node.outputs) > 1:
        raise Unread
    shape = x.shape
    apart = (shape[0], groups, shape[1] // groups, *shape[2:])
    made, back = normed(
        reshaped(x, apart), [2, *range(3, len(apart))], "group_norm", str(c.attrs.get("epsilon")), shape[1] // groups
    )

    def joined(d: Labels) -> Labels:
        return reshaped(back(reshaped(d, apart)), shape)  # type: ignore[operator]

    return scaled(c, reshaped(made, shape), joined, 1, 2, (shape[1], *[1] * (x.rank - 2)))


@op("softmax", "log_softmax")
def _softmax(c: Case) -> Step:
    x = c.labels(0)
    axis = c.integer("axis", -1)
    made, back = normed(x, [axis % x.rank], c.node.op)
    return Step((made,), lambda d: {0: back(d[0])})  # type: ignore[operator]


# ---- reductions


_LINEAR = frozenset({"reduce_mean", "reduce_sum"})
_PICKS = frozenset({"reduce_max", "reduce_min", "reduce_median"})


@op("reduce_mean", "reduce_sum", "reduce_max", "reduce_min", "reduce_l1", "reduce_l2", "reduce_log_sum",
    "reduce_log_sum_exp", "reduce_prod", "reduce_sum_square", "reduce_var", "reduce_std", "reduce_median")  # fmt: skip
def _reduce(c: Case) -> Step:
    x = c.labels(0)
    axes = c.ints(1, "axes", "dim")
    if axes is None and len(c.node.inputs) > 1 and c.node.inputs[1]:
        raise Unread
    over = sorted({a % x.rank for a in axes}) if axes else list(range(x.rank))
    keep = bool(c.attrs.get("keepdims", 1)) and (bool(axes) or c.node.call is None)
    thin = x
    for a in over:
        thin = thin.summed(a)
    thin = thin.tagged(c.node.op)
    kept = thin.shape
    out = thin if keep else reshaped(thin, [n for a, n in enumerate(kept) if a not in over])

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        own = d[0] if keep else reshaped(d[0], kept)
        if c.node.op in _PICKS:  # of equal elements one is picked
            wide = combined((own, thin, x), c.node.op, "back", over, keep)
            for a in over:
                wide = sized(wide, a, x.shape[a])
            return {0: wide}
        if c.node.op in _LINEAR:
            return {0: spread(own, x.shape).tagged(c.node.op, "back", over, keep)}
        if c.node.op == "reduce_std" and _levelled(x, over):
            return {0: free(x.shape, word("no slope", c.at))}  # a root at zero: what rounding leaves, over its own size
        return {0: combined((own, thin, x), c.node.op, "back", over, keep)}

    return Step((out, *([None] * (len(c.node.outputs) - 1))), back)


def _levelled(x: Labels, over: Sequence[int]) -> bool:
    """Whether all elements that a reduction takes together are equal, in some place."""
    if any(x.is_free(a) for a in over):
        return False
    atoms = tuple(a for axis in over for a in x.span(axis))
    return bool((x.data.max(axis=atoms) == x.data.min(axis=atoms)).any())


@op("cumsum", "cumprod", "cummax")
def _running(c: Case) -> Step:
    x = c.labels(0)
    axis = c.ints(1, "axis", "dim")
    if axis is None:
        raise Unread
    out = x.freed(axis[0]).tagged(c.node.op)
    return Step((out,), lambda d: {0: combined((d[0].freed(axis[0]), out), c.node.op, "back")})


# ---- places


@op("max_pool", "average_pool", "lp_pool", "global_average_pool", "global_max_pool", "resize", "upsample")
def _pool(c: Case) -> Step:
    x = c.labels(0)
    shape = c.shape()
    if shape is None or len(shape) != x.rank:
        raise Unread
    changed = [a for a in range(x.rank) if a >= (2 if x.rank > 3 or c.node.call is None else x.rank - 1)]
    if x.rank == 3 and c.node.call is not None:
        changed = [1, 2] if x.shape[1] != shape[1] else [2]
    first = changed[0]
    if x.shape[:first] != shape[:first]:
        raise Unread
    wide = x
    for a in changed:
        wide = wide.freed(a)
    tag = (c.node.op, settings(c))
    out = resized(wide, first, shape[first:]).tagged(*tag)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        own = d[0]
        for a in changed:
            own = own.freed(a)
        own = resized(own, first, x.shape[first:])
        return {0: own.tagged(*tag, "back") if "max" not in c.node.op else combined((own, wide), *tag, "back")}

    return Step((out, *([None] * (len(c.node.outputs) - 1))), back)
