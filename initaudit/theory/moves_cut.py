"""A piece cut out of a value along one axis, and what its gradient is of the whole."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from initaudit.theory.dense import renumbered
from initaudit.theory.engine import Unread
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Atom, Axis, Back, Kernel, extent
from initaudit.theory.moves_axes import merged
from initaudit.types import Array

BackOne = Callable[[Back], Back]
Made = tuple[Kernel, BackOne]


def cut(x: Kernel, axis: int, start: int, length: int, step: int = 1) -> Made:
    """Return `length` elements of an axis, `step` apart, and the way back. Raises Unread."""
    atoms = x.axes[axis]
    whole = extent(atoms)
    if length == whole and step in (1, -1):
        return x, lambda d: d
    if length < 1:
        raise Unread
    rest = tuple(atom for atom in atoms if atom.extent == 1)
    long = tuple(atom for atom in atoms if atom.extent > 1)
    if len(long) > 1:
        inner = extent(long[1:])
        if step == 1 and start % inner == 0 and length % inner == 0:
            return _piece(x, axis, rest, long, start // inner, length // inner, 1)
        if length == 1 and all(atom.kind == PLACE for atom in long):
            return _one(x, axis, rest, long, start)
        if all(atom.kind == PLACE for atom in long):
            one, work = merged(x, axis)
            out, back = cut(one, axis, start, length, step)
            return out, lambda d: work.backward(back(d), x.grid)
        raise Unread
    return _piece(x, axis, rest, long, start, length, step)


def _piece(x: Kernel, axis: int, rest: Axis, long: Axis, start: int, length: int, step: int) -> Made:
    """Cut the outermost atom."""
    first = long[0]
    axes = list(x.axes)
    if first.kind == PLACE:
        if length == 1:
            return _one(x, axis, rest, long[:1], start, long[1:])
        axes[axis] = (*rest, replace(first, extent=length), *long[1:])
        return _places(x, tuple(axes), first.at, start, length, step)
    kept = (replace(first, extent=length),) if length > 1 or first.kind == BATCH else ()
    axes[axis] = (*rest, *kept, *long[1:])
    share = length / first.extent
    if first.kind == BATCH:
        return replace(x, axes=tuple(axes), bend=None), lambda d: d
    before, after = max(1, x.units), max(1, round(x.units * share))
    alike = x.alike
    if before > 1 and x.alike < 1:
        alike = 1 / after + max(0.0, x.alike - 1 / before) * (1 - 1 / after) / (1 - 1 / before)
    out = replace(x, axes=tuple(axes), alike=min(1.0, alike), bend=None)
    return out, lambda d: replace(d.scaled(share), alike=d.alike * share)


def _one(x: Kernel, axis: int, rest: Axis, long: Axis, index: int, inner: Axis = ()) -> Made:
    """Take one position: all atoms given are left out."""
    axes = list(x.axes)
    axes[axis] = (*rest, *inner)
    gone = [atom.at for atom in long]
    kept = [a for a in range(len(x.grid.extents)) if a not in gone]
    where = dict(zip(gone, np.unravel_index(index, [atom.extent for atom in long]), strict=True))
    grid, own = x.grid.diagonal(x.own, gone)
    _, shared = x.grid.diagonal(x.shared, gone)
    weight = 1.0
    for a in gone:
        f = x.profile[a] if a < len(x.profile) else None
        weight *= 1.0 if f is None else float(f[where[a]])
    profile = tuple(x.profile[a] for a in kept) if x.profile else ()
    out = replace(x, axes=renumbered(axes, kept), grid=grid, own=own * weight, shared=shared * weight,
                  profile=profile, bend=None)  # fmt: skip

    def back(d: Back) -> Back:
        spot: list[Array | None] = []
        for a, n in enumerate(x.grid.extents):
            if a in where:
                one = np.zeros(n)
                one[where[a]] = n
                spot.append(one)
            else:
                k = kept.index(a)
                spot.append(d.profile[k] if k < len(d.profile) else None)
        return replace(d.mapped(lambda f: _placed(f, grid, x.grid, kept), x.grid), profile=tuple(spot))

    return out, back


def _placed(f: Array, small: Grid, large: Grid, kept: list[int]) -> Array:
    """Return the gradient's moments of a whole of which only one place along some axes has any."""
    out = np.zeros(large.size)
    positions = large.positions / max(1, small.positions)
    for k, offset in enumerate(itertools.product(*(range(r + 1) for r in large.reach))):
        if all(o == 0 for a, o in enumerate(offset) if a not in kept):
            out[k] = small.at(f, [offset[a] for a in kept]) / positions
    counts = large.counts
    if counts[-1] > 0:
        total = small.total(f)
        rest = total - float(counts[:-1] @ out[:-1])
        out[-1] = rest / counts[-1] if abs(rest) > 1e-9 * abs(total) else 0.0
    return out


def _places(x: Kernel, axes: tuple[Axis, ...], at: int, start: int, length: int, step: int) -> Made:
    """Cut positions out of an axis of the grid."""
    step = abs(step)
    extents, reach = list(x.grid.extents), list(x.grid.reach)
    whole = extents[at]
    extents[at], reach[at] = length, min(reach[at] // step, length - 1)
    grid = Grid(tuple(extents), tuple(reach))
    index = tuple(slice(None, None, step) if a == at else slice(None) for a in range(len(extents)))
    own, shared = (
        grid.made(x.grid.table(f)[index][_within(grid)], float(f[-1])) for f in (x.own, x.shared)
    )  # fmt: skip
    profile, weight = list(x.profile), 1.0
    f = profile[at] if profile else None
    if f is not None:
        piece = f[start : start + length * step : step]
        weight = float(piece.mean()) if len(piece) else 1.0
        profile[at] = piece / weight if weight > 0 and len(piece) == length else None
    out = replace(x, axes=axes, grid=grid, own=own * weight, shared=shared * weight, profile=tuple(profile), bend=None)

    def back(d: Back) -> Back:
        spot = np.zeros(whole)
        given = d.profile[at] if d.profile else None
        spot[start : start + length * step : step] = (np.ones(length) if given is None else given) * whole / length
        rest: list[Array | None] = list(d.profile) if d.profile else [None] * len(extents)
        rest[at] = spot
        return replace(d.mapped(lambda f: _spread(f, grid, x.grid, at, step), x.grid), profile=tuple(rest))

    return out, back


def _within(grid: Grid) -> tuple[slice, ...]:
    return tuple(slice(0, r + 1) for r in grid.reach)


def _spread(f: Array, small: Grid, large: Grid, at: int, step: int) -> Array:
    """Return the moments over all pairs of a whole of which only some places along one axis have any."""
    out = np.zeros(large.size)
    counts = large.counts
    inner = small.counts
    shape = small.shape
    for k, offset in enumerate(itertools.product(*(range(r + 1) for r in large.reach))):
        blocks, left = divmod(offset[at], step)
        if left or counts[k] <= 0:
            continue
        place = [*offset]
        place[at] = blocks
        if blocks <= small.reach[at]:
            one = int(np.ravel_multi_index(place, shape))
            out[k] = f[one] * inner[one] / counts[k]
    if counts[-1] > 0:
        total = small.total(f)
        rest = total - float(counts[:-1] @ out[:-1])
        out[-1] = rest / counts[-1] if abs(rest) > 1e-9 * abs(total) else 0.0
    return out


def unit_axis(n: int) -> Axis:
    """Return an axis of units."""
    return (Atom(UNIT, n),) if n > 1 else ()
