"""Values of different shapes side by side, as broadcasting has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from initaudit.theory.engine import Grads, Step, Unread
from initaudit.theory.grid import Grid, regrid
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Atom, Axis, Back, Kernel, extent
from initaudit.types import Array


def apart(alike: float, n: int) -> float:
    """Return the correlation of two different units, from the variance of the mean over n."""
    return max(0.0, min(1.0, (alike * n - 1) / (n - 1))) if n > 1 else 1.0


def relabelled(x: Kernel, axis: int, atoms: Axis) -> Kernel:
    """Return a value with an axis read in another way, as units instead of positions or the reverse."""
    old = x.axes[axis]
    if _inputs(old) != _inputs(atoms) or extent(old) != extent(atoms):
        raise Unread
    gone = [a.at for a in old if a.kind == PLACE]
    units = math.prod(a.extent for a in old if a.kind == UNIT)
    left = [a for a in range(len(x.grid.extents)) if a not in gone]
    grid, own = x.grid.diagonal(x.own, gone)
    _, shared = x.grid.diagonal(x.shared, gone)
    alike = x.alike
    if gone and own[0] > 0:
        _, pooled = x.grid.summed(x.own, gone)
        pairs = math.prod(x.grid.extents[a] ** 2 for a in gone)
        alike = min(1.0, alike * max(float(pooled[0]) / pairs / float(own[0]), 0.0))
    number = {a: k for k, a in enumerate(left)}
    axes = [tuple(replace(t, at=number[t.at]) if t.kind == PLACE and t.at in number else t for t in one)
            for one in x.axes]  # fmt: skip
    extents, reach = list(grid.extents), list(grid.reach)
    new: list[Atom] = []
    for atom in atoms:
        if atom.kind == PLACE:
            new.append(replace(atom, at=len(extents)))
            extents.append(atom.extent)
            reach.append(0)
        else:
            new.append(atom)
    axes[axis] = tuple(new)
    wide = Grid(tuple(extents), tuple(reach))
    between = apart(x.alike, units) if units > 1 else 0.0
    count = len(grid.extents)

    def spread(f: Array, far: float) -> Array:
        out = np.full(wide.size, far * float(f[-1]))
        for k, offset in enumerate(np.ndindex(*wide.shape)):
            out[k] = grid.at(f, offset[:count])
        if len(extents) > count:  # pairs that differ along the new axes are far
            out[-1] = far * float(f[0])
        else:
            out[-1] = f[-1]
        return out

    made = Kernel(tuple(axes), wide, spread(own, between), spread(shared, 0.0), x.mean, alike)
    return replace(made, alike=max(alike, 1 / max(1, made.units)))


def _inputs(axis: Axis) -> list[int]:
    return [a.extent for a in axis if a.kind == BATCH and a.extent > 1]


@dataclass(frozen=True, slots=True)
class Laid:
    """How a value lies within a larger one."""

    own: Kernel
    grid: Grid  # of the larger
    source: tuple[int | None, ...]  # for each axis of the larger grid, that of the own one
    units: int  # of the larger for each unit of the own
    original: Grid  # of the value before its axes were read as the larger one's

    def up(self, f: Array) -> Array:
        """Return a function of the own grid on the larger one."""
        return self.own.grid.remapped(f, self.grid, self.source)

    def down(self, back: Back, unlike: float = 0.0) -> Back:
        """Return the gradient of the own value: a sum over what it was copied to."""
        gone = [k for k, s in enumerate(self.source) if s is None]
        summed = back.summed(gone) if gone else back
        kept = [s for s in self.source if s is not None]
        target = self.own.grid
        if kept == list(range(len(target.extents))) and summed.grid == target:
            out = summed
        else:
            place = {s: k for k, s in enumerate(kept)}

            def pick(offset: tuple[int, ...]) -> tuple[int, ...] | None:
                out = [0] * len(kept)
                for a, o in enumerate(offset):
                    if a in place:
                        out[place[a]] = o
                return tuple(out)

            out = replace(summed.mapped(lambda f: regrid(f, summed.grid, target, pick), target), profile=())
        if self.units > 1:
            total = self.units * (1 + (self.units - 1) * max(apart(back.alike, self.units), unlike))
            out = replace(out.scaled(total), alike=max(out.alike, 1 / max(1, self.own.units)))
        return reread(out, self.original)


def reread(back: Back, new: Grid) -> Back:
    """Return a gradient of a value whose axes were read in another way, on the value's first grid."""
    old = back.grid
    if old == new:
        return back
    if old.positions == new.positions:
        return back.mapped(lambda f: regrid(f, old, new, lambda offset: None if any(offset) else _zeros(old)), new)
    count = len(new.extents)
    if old.extents[:count] == new.extents:  # positions that were units
        gone = range(count, len(old.extents))

        def left(f: Array) -> Array:
            rest, one = old.diagonal(f, gone)
            return regrid(one, rest, new, lambda offset: offset)

        return back.mapped(left, new)
    return back.mapped(lambda f: new.peak(float(f[0])), new)


def restored(step: Step, x: Kernel, read: Kernel) -> Step:
    """Return a step whose way back ends at a value from before its axes were read in another way."""
    if read is x or read.grid == x.grid:
        return step

    def down(d: Grads) -> dict[int, Back | None]:
        return {k: reread(b, x.grid) if k == 0 and b is not None else b for k, b in step.back(d).items()}

    return Step(step.outs, down)


def _zeros(grid: Grid) -> tuple[int, ...]:
    return (0,) * len(grid.extents)


def laid(x: Kernel, main: Kernel, skip: int | None = None) -> Laid:
    """Return how a value lies within a larger one that it is broadcast to; `skip` is an axis where they may differ."""
    rank = len(main.axes)
    if len(x.axes) > rank:
        raise Unread
    axes: list[Axis] = [()] * (rank - len(x.axes)) + list(x.axes)
    value = replace(x, axes=tuple(axes))
    for a in range(rank):
        mine, theirs = value.axes[a], main.axes[a]
        if a == skip and _kinds(mine) <= {UNIT, BATCH} and _kinds(theirs) <= {UNIT, BATCH}:
            continue
        if extent(mine) == 1 or a == skip:
            continue
        if extent(mine) != extent(theirs):
            raise Unread
        if [(t.kind, t.extent) for t in mine] != [(t.kind, t.extent) for t in theirs]:
            value = _matched(value, a, theirs)
    source: list[int | None] = [None] * len(main.grid.extents)
    units = 1
    for a in range(rank):
        mine, theirs = value.axes[a], main.axes[a]
        places = [t.at for t in mine if t.kind == PLACE]
        wanted = [t.at for t in theirs if t.kind == PLACE]
        if places and len(places) == len(wanted):
            for p, w in zip(places, wanted, strict=True):
                source[w] = p
        if extent(mine) == 1 and a != skip:
            units *= math.prod(t.extent for t in theirs if t.kind == UNIT)
    return Laid(value, main.grid, tuple(source), units, x.grid)


def _kinds(axis: Axis) -> set[str]:
    return {t.kind for t in axis}


def _matched(x: Kernel, axis: int, atoms: Axis) -> Kernel:
    if any(t.kind == BATCH for t in atoms) and _inputs(x.axes[axis]) != _inputs(atoms):
        if _kinds(x.axes[axis]) == {BATCH} and len(atoms) > 1:  # copied to the positions of each input
            return replace(x, axes=tuple(() if a == axis else one for a, one in enumerate(x.axes)))
        if x.inputs > 1:
            raise Unread
        whole = math.prod(t.extent for t in atoms if t.kind != BATCH)
        if whole == 1:  # a constant that differs from input to input of one run: as if it were units
            axes = list(x.axes)
            axes[axis] = ()
            gone = [t.at for t in x.axes[axis] if t.kind == PLACE]
            if not gone:
                return replace(x, axes=tuple(axes))
            grid, own = x.grid.diagonal(x.own, gone)
            left = [a for a in range(len(x.grid.extents)) if a not in gone]
            number = {a: k for k, a in enumerate(left)}
            kept = tuple(tuple(replace(t, at=number[t.at]) if t.kind == PLACE else t for t in one) for one in axes)
            return replace(x, axes=kept, grid=grid, own=own, shared=x.grid.diagonal(x.shared, gone)[1], profile=())
        raise Unread
    return relabelled(x, axis, atoms)


def _moves(x: Kernel) -> bool:
    return any(t.kind == BATCH for axis in x.axes for t in axis)


def common(values: Sequence[Kernel]) -> Kernel:
    """Return a value of the shape that some values are broadcast to; its moments mean nothing."""
    rank = max(len(v.axes) for v in values)
    # of values that move, the one whose axis of inputs holds positions too knows better what is an input
    first = max(values, key=lambda v: (v.size, _moves(v), -v.inputs))
    axes: list[Axis] = []
    extents: list[int] = []
    reach: list[int] = []
    for a in range(rank):
        best: tuple[int, Kernel, Axis] | None = None
        for v in (first, *values):
            place = a - (rank - len(v.axes))
            if place >= 0 and (best is None or extent(v.axes[place]) > best[0]):
                best = (extent(v.axes[place]), v, v.axes[place])
        if best is None:
            raise Unread
        own: list[Atom] = []
        for atom in best[2]:
            if atom.kind == PLACE:
                own.append(replace(atom, at=len(extents)))
                extents.append(atom.extent)
                reach.append(best[1].grid.reach[atom.at])
            else:
                own.append(atom)
        axes.append(tuple(own))
    grid = Grid(tuple(extents), tuple(reach))
    zero = grid.full(0.0)
    return Kernel(tuple(axes), grid, zero, zero)


def profile_of(lay: Laid) -> tuple[Array | None, ...]:
    """Return the profile of a value on the larger grid."""
    if not lay.own.profile:
        return ()
    return tuple(None if s is None or s >= len(lay.own.profile) else lay.own.profile[s] for s in lay.source)
