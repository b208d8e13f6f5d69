"""Products with a weight: linear, gemm, matmul, einsum-like, along one axis of the signal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from initaudit.theory.align import relabelled
from initaudit.theory.engine import Case, Down, Grads, Step, Unread, op
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Atom, Axis, Back, Kernel, extent
from initaudit.theory.weights import Weight
from initaudit.types import Array


@dataclass(frozen=True, slots=True)
class Taken:
    """What a weight finds of its input: kernels of pairs that meet the same element of the weight."""

    grid: Grid  # of the positions that are left
    own: Array
    cross: Array  # about zero
    profile: tuple[Array | None, ...]
    kept: tuple[int, ...]  # axes of the input's grid that are left


def renumbered(axes: Sequence[Axis], kept: Sequence[int]) -> tuple[Axis, ...]:
    """Return axes with the places in a grid of which only some axes are left."""
    new = {old: k for k, old in enumerate(kept)}
    return tuple(
        tuple(replace(atom, at=new[atom.at]) if atom.kind == PLACE else atom for atom in axis) for axis in axes
    )


def contract(x: Kernel, axis: int) -> Taken:
    """Return what a weight over one axis finds. Raises Unread where inputs are mixed."""
    atoms = x.axes[axis]
    if any(atom.kind == BATCH and atom.extent > 1 for atom in atoms):
        raise Unread
    gone = [atom.at for atom in atoms if atom.kind == PLACE]
    kept = tuple(a for a in range(len(x.grid.extents)) if a not in gone)
    grid, own = x.grid.diagonal(x.own, gone)
    _, cross = x.grid.diagonal(x.cross, gone)
    profile = tuple(x.profile[a] for a in kept) if x.profile else ()
    return Taken(grid, own, cross, profile, kept)


def overlap(grid: Grid, one: tuple[Array | None, ...], other: tuple[Array | None, ...]) -> tuple[float, float]:
    """Return the mean over positions of the product of two profiles, and over pairs of their geometric means."""
    same, far = 1.0, 1.0
    for axis in range(len(grid.extents)):
        p, q = (f[axis] if axis < len(f) else None for f in (one, other))
        if p is None or q is None:
            continue
        if len(p) == len(q):
            same *= float(np.mean(p * q))
            far *= float(np.mean(np.sqrt(np.abs(p * q)))) ** 2
    return same, far


def learn(c: Case, weight: Weight, taken: Taken, back: Back, times: float) -> None:
    """Tell a weight's gradient: `times` its elements share the pairs of positions of `taken`."""
    counts = taken.grid.counts.copy()
    near, far = overlap(taken.grid, taken.profile, back.profile)
    counts[:-1] *= near
    counts[-1] *= far
    c.learn(weight, *(times * f for f in back.met(counts, taken.own + taken.cross, taken.cross, taken.own)))


def product(c: Case, x: Kernel, weight: Weight, axis: int, outs: int) -> tuple[Kernel, Down]:
    """Return a signal times a matrix along one axis, and the way back to the signal (operand 0).

    Args:
        c: the node.
        x: the signal.
        weight: what it is multiplied by, with `outs` output units.
        axis: of the signal, which the product sums over.
        outs: extent of the new axis in its place.
    """
    axis %= len(x.axes)
    raw = tokens(x, axis)
    if raw is not x:
        made, back = product(c, raw, weight, axis, outs)
        return made, _learning(back)
    fan = extent(x.axes[axis])
    taken = contract(x, axis)
    left = x.units // max(1, int(np.prod([a.extent for a in x.axes[axis] if a.kind == UNIT])))
    mixes = left > 1 and not any(a.kind == UNIT for a in x.axes[axis]) and fan > 1  # over positions, for each unit
    centre, random = weight.centre, weight.random
    gone = [atom.at for atom in x.axes[axis] if atom.kind == PLACE]
    _, pooled = x.grid.summed(x.own, gone)
    pairs = float(np.prod([x.grid.extents[a] ** 2 for a in gone])) if gone else 1.0
    common = fan**2 * centre**2 * x.alike * pooled / pairs  # what all units get from the mean of the weights
    own = fan * random * taken.own
    rows = weight.out_alike or 1 / max(1, outs)
    whole = own + common
    alike = float((common[0] + rows * own[0]) / whole[0]) if whole[0] > 0 else 0.0
    shared = fan * random * taken.cross
    mean = fan * centre * x.mean
    grid, axes = taken.grid, list(x.axes)
    if mixes and outs > 1:
        grid = Grid((*grid.extents, outs), (*grid.reach, 0))
        axes[axis] = (Atom(PLACE, outs, -2),)
        whole, shared = (_beside(taken.grid, grid, f) for f in (whole, shared))
        alike = x.alike
        new = tuple(
            tuple(
                replace(a, at=len(taken.kept) if a.at == -2 else taken.kept.index(a.at)) if a.kind == PLACE else a
                for a in one
            )
            for one in axes
        )
        profile: tuple[Array | None, ...] = (*taken.profile, None) if taken.profile else ()
    else:
        axes[axis] = (Atom(UNIT, outs),) if outs > 1 else ()
        new = renumbered(axes, taken.kept)
        profile = taken.profile
    out = Kernel(new, grid, whole, shared, mean, min(1.0, alike), profile)

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}
        if mixes and outs > 1:
            last = [len(grid.extents) - 1]
            back = back.mapped(lambda f: grid.diagonal(f, last)[1], grid.diagonal(back.each, last)[0])
            learn(c, weight, taken, back, float(fan) * outs * left)
        else:
            learn(c, weight, taken, back, float(fan) * outs * max(1, left))
        return {0: spread_back(x, taken, back, gone, outs, random, centre, weight)}

    return out, down


def _learning(down: Down) -> Down:
    """Return a way back that goes no further: what it comes from is an input of the model."""

    def stop(d: Grads) -> dict[int, Back | None]:
        down(d)
        return {}

    return stop


def tokens(x: Kernel, axis: int) -> Kernel:
    """Return plain noise with the axes beside one that a weight mixes read as positions, as of pixels cut into rows."""
    plain = x.own[0] == 1.0 and not x.mean and not np.any(x.shared) and x.inputs > 0 and x.alike * x.units <= 1.001
    rows = [a for a in range(len(x.axes)) if a != axis and any(t.kind == UNIT for t in x.axes[a])]
    if not plain or not rows or not any(t.kind == UNIT for t in x.axes[axis]):
        return x
    for a in rows:
        if all(t.kind == UNIT for t in x.axes[a]):
            x = relabelled(x, a, (Atom(PLACE, extent(x.axes[a])),))
    return x


def spread_back(
    x: Kernel, taken: Taken, back: Back, gone: Sequence[int], outs: int, random: float, centre: float, weight: Weight
) -> Back:
    """Return the gradient of a signal from that of its product with a matrix."""
    own_alike = outs**2 * centre**2 * back.alike
    source: list[int | None] = [taken.kept.index(a) if a in taken.kept else None for a in range(len(x.grid.extents))]

    def made(f: Array) -> Array:
        return _lone(taken.grid, x.grid, f * (outs * random), source, gone) + (
            taken.grid.remapped(f * own_alike, x.grid, source) if own_alike else 0.0
        )

    columns = weight.in_alike or 1 / max(1, x.units)
    total = outs * random + own_alike
    alike = (own_alike + columns * outs * random) / total if total > 0 else 0.0
    profile: tuple[Array | None, ...] = ()
    if back.profile and not gone:
        profile = back.profile
    return replace(back.mapped(made, x.grid), alike=min(1.0, alike), profile=profile, radial=0.0)


def _lone(small: Grid, large: Grid, f: Array, source: Sequence[int | None], gone: Sequence[int]) -> Array:
    """Return a function on a larger grid, 0 for pairs that differ along the new axes."""
    if not gone:
        return small.remapped(f, large, source)
    out = np.zeros(large.size)
    for k, offset in enumerate(np.ndindex(*large.shape)):
        if any(offset[a] for a in gone):
            continue
        own = [0] * len(small.extents)
        for a, s in enumerate(source):
            if s is not None:
                own[s] = offset[a]
        out[k] = small.at(f, own)
    total = small.total(f) * float(np.prod([large.extents[a] for a in gone]))
    counts = large.counts
    if counts[-1] > 0:
        rest = total - float(counts[:-1] @ out[:-1])
        out[-1] = rest / counts[-1] if abs(rest) > 1e-9 * abs(total) else 0.0
    return out


def _beside(small: Grid, large: Grid, f: Array) -> Array:
    """Return a function on a grid with one more axis at its end, 0 for pairs that differ along it."""
    axes = len(small.extents)
    return _lone(small, large, f, [*range(axes), None], [axes])


def vector(c: Case, bias: Weight, back: Back, units: float) -> None:
    """Tell the gradient of what is added to each unit."""
    one = np.ones(back.grid.size)
    c.learn(bias, *back.met(units * back.grid.counts, one, one, 0 * one))


def biased(c: Case, out: Kernel, down: Down, place: int) -> tuple[Kernel, Down]:
    """Add a vector, one number per unit, that a product takes as its last operand."""
    if not c.has(place):
        return out, down
    bias = c.weight(place)
    shared = out.shared + bias.variance
    mean = out.mean + bias.mean
    made = replace(out, shared=shared, mean=mean)

    def both(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is not None:
            vector(c, bias, back, float(out.units))
        return dict(down(d))

    return made, both


@op("linear")
def _linear(c: Case) -> Step:
    x, weight = c.kernel(0), c.weight(1)
    if len(weight.shape) != 2:
        raise Unread
    out, down = product(c, x, weight, -1, weight.shape[0])
    return Step(*_packed(*biased(c, out, down, 2)))


@op("gemm")
def _gemm(c: Case) -> Step:
    x, weight = c.kernel(0), c.weight(1)
    if len(weight.shape) != 2 or c.attrs.get("transA"):
        raise Unread
    outs = weight.shape[0 if c.attrs.get("transB") else 1]
    alpha, beta = c.real("alpha", 1.0), c.real("beta", 1.0)
    if alpha != 1:
        weight = replace(weight, mean=weight.mean * alpha, variance=weight.variance * alpha**2)
    out, down = product(c, x, weight, -1, outs)
    return Step(*_packed(*(biased(c, out, down, 2) if beta else (out, down))))


def _packed(out: Kernel, down: Down) -> tuple[tuple[Kernel, ...], Down]:
    return (out,), down
