"""Norms: what they take off, what they divide by, and what they hold back of a gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from initaudit.theory.activate import applied, numeric
from initaudit.theory.align import apart
from initaudit.theory.bending import Bender
from initaudit.theory.dense import vector
from initaudit.theory.engine import INPUTS, Case, Down, Grads, Step, Unread, op
from initaudit.theory.kernel import PLACE, UNIT, Back, Batched, Kernel, extent, unbatched
from initaudit.theory.profiles import divided
from initaudit.theory.sums import product_of
from initaudit.theory.weights import Weight
from initaudit.types import Array

_FEW = 2.4  # at most, for three degrees of freedom and fewer: the mean of 1 / s^2 is that of a few units


@dataclass(frozen=True, slots=True)
class Normed:
    """A value that was centred and divided, and how much of a gradient gets back."""

    out: Kernel
    scale: float  # what it was multiplied by
    down: Down


def scaled_by(c: Case, made: Normed, place: int, bias: int, by_unit: bool = True) -> Step:
    """Add the learned scale and shift, one number per unit."""
    out = made.out
    gamma = c.weight(place) if c.has(place) else None
    beta = c.weight(bias) if c.has(bias) else None
    if gamma is not None and gamma.count and by_unit:
        square, mean = gamma.square, gamma.mean
        alike = 0.0
        if square > 0:
            units = max(1, out.units)
            alike = 1 / units + (1 - 1 / units) * apart(out.alike, units) * mean**2 / square
        out = replace(
            out,
            own=out.own * square,
            shared=out.cross * square - (out.mean * mean) ** 2,
            mean=out.mean * mean,
            alike=alike,
        )
    if beta is not None:
        out = replace(out, shared=out.shared + beta.variance, mean=out.mean + beta.mean)
    out = replace(out, bend=None)
    inner = made.out

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}
        units = float(max(1, out.units))
        if beta is not None:
            vector(c, beta, back, units)
        if gamma is not None:
            felt = units * max(0.0, 1 - back.radial)
            value, above = inner, back
            if back.bend is not None and isinstance(back.bend[0], Bender):  # f'(z) and z of one place go together
                value, above = _leaning(out, back.bend[0]), back.bend[1]
                felt = felt / gamma.square if gamma.square > 0 else 0.0
            c.learn(gamma, *above.met(felt * above.grid.counts, value.same, value.cross, value.own))
            n = max(1, out.units)
            ratio = gamma.mean**2 / gamma.square if gamma.square > 0 else 0.0
            alike = 1 / n + (1 - 1 / n) * apart(back.alike, n) * ratio
            back = replace(back.scaled(gamma.square), alike=alike)
        return dict(made.down([back]))

    return Step((out, *(None for _ in c.node.outputs[1:])), down)


def _leaning(z: Kernel, function: Bender) -> Kernel:
    """Return z f'(z)."""
    return applied(z, numeric(f"{function.name} leaning", lambda v: v * function.df(v), kinks=function.kinks))[0]


def _epsilon(c: Case, default: float = 1e-5) -> float:
    return c.real("epsilon", c.real("eps", default))


def over_units(x: Kernel, units: float, epsilon: float, centred: bool, groups: int = 1, places: bool = False) -> Normed:
    """Return a value normalised within each input over its units, or over groups of them and all positions.

    Args:
        x: the value.
        units: how many units are normalised together.
        epsilon: added to the variance.
        centred: whether the mean is taken off.
        groups: into how many the units are cut.
        places: whether positions are normalised together too.
    """
    grid = x.grid
    between = apart(x.alike, max(1, x.units))
    share = 1 / max(1.0, units)  # of a unit's own in the mean of the group
    if centred:
        own_mean = (share + (1 - share) * between) * (grid.mean(x.own) if places else x.own)
        shared_mean = share * (grid.mean(x.shared) if places else x.shared)
        taken = x.mean**2
        if groups > 1 and units <= 1.5:
            taken = x.mean**2
    else:
        own_mean = shared_mean = 0.0
        taken = 0.0
    own = x.own - own_mean
    shared = x.shared - shared_mean
    mean_square = 0.0 if centred else x.mean**2
    if not centred:
        variance = float(x.same[0])
    else:
        held = float(np.asarray(own_mean).ravel()[0] + np.asarray(shared_mean).ravel()[0])
        variance = max(0.0, x.spread - held)
        if x.spread > 0 and variance < 1e-12 * x.spread:
            variance = 0.0
    del taken, mean_square
    scale = 1 / math.sqrt(variance + epsilon) if variance + epsilon > 0 else 0.0
    square = scale * scale
    if variance <= 0:
        own, shared = np.zeros_like(own), np.zeros_like(shared)
    out = Kernel(
        x.axes, grid, own * square, shared * square, 0.0 if centred else x.mean * scale,
        0.0 if centred else x.alike, (), None,
    )  # fmt: skip
    passing = variance * square  # epsilon may be more than the variance: then the scale is no longer taken off

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}
        n = max(1.0, units * (grid.positions if places else 1))
        same_alike = back.alike if not places else 0.0
        off = min(1.0, max(same_alike, 1 / n)) if centred else 0.0
        radial = passing / n
        keep = max(0.0, 1 - off - radial)
        made = back.mapped(lambda f: (f * keep if not places else _without_mean(x, f, keep, share)) * square)
        if not places:
            made = divided(x, made, variance, epsilon)
        return {0: replace(made, alike=0.0 if centred else back.alike)}

    return Normed(out, scale, down)


def _without_mean(x: Kernel, f: Array, keep: float, share: float) -> Array:
    return f * keep - share * x.grid.mean(f)


@op("layer_norm", "rms_norm", "l2_norm", "mean_variance_norm")
def _layer_norm(c: Case) -> Step:
    x = c.kernel(0)
    rank = len(x.axes)
    op_name = c.node.op
    axes = _axes(c, rank)
    atoms = [t for a in axes for t in x.axes[a]]
    units = math.prod(t.extent for t in atoms if t.kind == UNIT)
    places = [t for t in atoms if t.kind == PLACE and t.extent > 1]
    centred = op_name in ("layer_norm", "mean_variance_norm")
    epsilon = _epsilon(c)
    if units <= 1 and places:  # over positions of each unit
        made = over_units(x, 1.0, epsilon, centred, places=True)
    else:
        made = over_units(x, float(max(1, units)), epsilon, centred, places=bool(places))
    if op_name == "l2_norm":
        n = math.prod(extent(x.axes[a]) for a in axes)
        made = _smaller(made, 1 / math.sqrt(max(1, n)))
    scale = c.attrs.get("scale")
    if isinstance(scale, (int, float)):
        made = _smaller(made, float(scale))
    return scaled_by(c, made, 1, 2 if centred else 99)


def _smaller(made: Normed, factor: float) -> Normed:
    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        return dict(made.down([None if back is None else back.scaled(factor**2)]))

    return Normed(made.out.scaled(factor), made.scale * factor, down)


def _axes(c: Case, rank: int) -> list[int]:
    given = c.attrs.get("axes")
    if isinstance(given, (tuple, list)):
        return [int(a) % rank for a in given]
    shape = c.attrs.get("normalized_shape")
    if isinstance(shape, (tuple, list)):
        return list(range(rank - len(shape), rank))
    axis = c.attrs.get("axis", c.attrs.get("dim", -1))
    if isinstance(axis, (tuple, list)):
        return [int(a) % rank for a in axis]
    axis = int(axis) % rank if isinstance(axis, int) else rank - 1
    return [axis] if c.node.op == "l2_norm" else list(range(axis, rank))


@op("skip_layer_norm", "skip_rms_norm")
def _skip_norm(c: Case) -> Step:
    raise Unread


@op("group_norm", "instance_norm")
def _group_norm(c: Case) -> Step:
    x = c.kernel(0)
    channels = extent(x.axes[1]) if len(x.axes) > 1 else 1
    groups = channels if c.node.op == "instance_norm" else max(1, c.integer("num_groups", c.integer("groups", 1)))
    units = max(1, channels // groups)
    made = over_units(x, float(units), _epsilon(c), True, groups, places=True)
    return scaled_by(c, made, 1, 2)


def few(freedom: float) -> float:
    """Return how much larger a typical 1 / s^2 is than 1 / E[s^2], s^2 a variance with few degrees of freedom."""
    return math.sqrt(min(_FEW, freedom / (freedom - 2)) if freedom > 2 else _FEW)


@op("batch_norm")
def _batch_norm(c: Case) -> Step:
    x = c.kernel(0)
    n = INPUTS
    grid = x.grid
    own_mean, shared_mean = grid.mean(x.own), grid.mean(x.shared)
    variance = max(0.0, float(x.own[0]) - own_mean / n + float(x.shared[0]) - shared_mean)
    if variance < 1e-12 * x.spread:
        variance = max(0.0, float(x.own[0]) * (1 - 1 / n)) if grid.positions == 1 else 0.0
    epsilon = _epsilon(c)
    square = 1 / (variance + epsilon) if variance + epsilon > 0 else 0.0
    own = (x.own - own_mean / n) * square
    shared = (x.shared - shared_mean) * square
    out = Kernel(x.axes, grid, own, shared, 0.0, x.alike, x.profile)
    passing = variance * square
    count = float(n * grid.positions)

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}
        # The mean over the batch comes off, and what is along the value itself: all of it but a share of one input.
        along = passing * passing
        same, gap = out.same, out.own
        off = grid.mean(back.each) + along * grid.mean(back.each * same) * same
        each = back.each - off / n
        each[0] = max(each[0], back.each[0] * max(0.0, 1 - 2 / count))
        cross = back.cross - grid.mean(back.cross) - along * grid.mean(back.cross * out.cross) * out.cross
        lost = grid.mean(back.own) + along * grid.mean(back.own * same + back.cross * gap) * gap
        b = back.batched or unbatched(back)
        # With weights that sum to zero over the batch there is no mean that all inputs share.
        gone = grid.mean(b.own) + along * grid.mean(b.own * same + b.cross * gap) * gap
        apart_off = grid.mean(back.each) + along * grid.mean(back.each * same) * out.cross  # between two inputs
        signed = Batched(b.own - gone / n, b.cross, -lost * (1 - 1 / n), -apart_off * (1 - 1 / n))
        made = Back(grid, each, back.own - lost / n, cross, back.alike, back.profile, signed, radial=passing**2)
        return {0: made.scaled(square * few(count - 1))}

    return scaled_by(c, Normed(out, math.sqrt(square), down), 1, 2)


def product(values: Sequence[Kernel]) -> Step:
    """Return the product of two kernels."""
    return product_of(values, (0, 1))


def moments(weight: Weight) -> tuple[float, float]:
    """Return mean and mean square."""
    return weight.mean, weight.square
