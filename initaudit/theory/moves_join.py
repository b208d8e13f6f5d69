"""Values side by side along an axis, and copies along a new one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from initaudit.theory.align import laid
from initaudit.theory.engine import Unread
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Atom, Axis, Back, Kernel, extent
from initaudit.theory.moves_axes import kinds, merged
from initaudit.theory.moves_cut import BackOne
from initaudit.types import Array

Backs = Callable[[Back], list[Back]]


def concat(parts: Sequence[Kernel], axis: int) -> tuple[Kernel, Backs]:
    """Return values side by side, and the gradients of the parts. Raises Unread."""
    found = set().union(*(kinds(x.axes[axis]) for x in parts))
    kind = UNIT if not found else found.pop() if len(found) == 1 else ""
    if kind == PLACE:
        return _along_places(parts, axis)
    if not kind:
        raise Unread
    return _along_units(parts, axis, kind)


def _along_units(parts: Sequence[Kernel], axis: int, kind: str) -> tuple[Kernel, Backs]:
    lengths = [extent(x.axes[axis]) for x in parts]
    first = max(parts, key=lambda x: (len(x.grid.extents), sum(x.grid.reach), any(a.at >= 0 for a in x.axes[axis])))
    shares = [n / sum(lengths) for n in lengths]
    carried = [laid(x, first, axis) for x in parts]
    mean = math.fsum(w * x.mean for w, x in zip(shares, parts, strict=True))
    own, shared = np.zeros(first.grid.size), np.zeros(first.grid.size)
    for w, x, lay in zip(shares, parts, carried, strict=True):
        own += w * lay.up(x.own)
        shared += w * (lay.up(x.shared) + (x.mean - mean) ** 2)
    size = float(own[0])
    alike = 0.0
    if size > 0:
        alike = math.fsum(w * w * x.alike * float(x.own[0]) for w, x in zip(shares, parts, strict=True)) / size
    axes = list(first.axes)
    rest = tuple(a for a in axes[axis] if a.kind == BATCH and a.extent == 1)
    axes[axis] = (*rest, Atom(kind, sum(lengths))) if sum(lengths) > 1 else axes[axis]
    weights = [float(w * x.own[0]) for w, x in zip(shares, parts, strict=True)]
    best = parts[int(np.argmax(weights))]
    profile = best.profile if len(best.profile) == len(first.grid.extents) else ()
    out = Kernel(tuple(axes), first.grid, own, shared, mean, min(1.0, alike), profile)
    return out, lambda d: [lay.down(d) for lay in carried]


def _along_places(parts: Sequence[Kernel], axis: int) -> tuple[Kernel, Backs]:
    """Return values one after the other along positions: what they have in common beyond their mean is not known."""
    grids = [x.grid for x in parts]
    single = [merged(x, axis) for x in parts]
    parts = [x for x, _ in single]
    lengths = [extent(x.axes[axis]) for x in parts]
    total = sum(lengths)
    first = max(parts, key=lambda x: extent(x.axes[axis]))
    at = next(atom.at for atom in first.axes[axis] if atom.kind == PLACE and atom.extent > 1)
    reach = list(first.grid.reach)
    reach[at] = reach[at] if max(lengths) > 0.7 * total else 0
    extents = list(first.grid.extents)
    extents[at] = total
    grid = Grid(tuple(extents), tuple(reach))
    shares = [n / total for n in lengths]
    mean = math.fsum(w * x.mean for w, x in zip(shares, parts, strict=True))
    whole = [_summed(x, axis, first, at) for x in parts]
    own, shared = np.zeros(grid.size), np.zeros(grid.size)
    for n, x, (o, s) in zip(lengths, parts, whole, strict=True):
        apart = (x.mean - mean) ** 2
        for k, offset in enumerate(np.ndindex(*grid.shape)):
            pairs = max(0, n - offset[at]) / max(1, total - offset[at])
            own[k] += pairs * o(offset)
            shared[k] += pairs * (s(offset) + apart)
        beyond = (n / total) ** 2 if n > 1 else 0.0
        own[-1] += beyond * o(None)
        shared[-1] += beyond * s(None)
    sizes = [w * float(x.own[0] + x.shared[0]) for w, x in zip(shares, parts, strict=True)]
    profile: list[Array | None] = [None] * len(extents)
    if sum(sizes) > 0 and math.isfinite(sum(sizes)):
        spots = []
        for n, size, x in zip(lengths, sizes, parts, strict=True):
            mine = _own_profile(x, axis)
            spots.append((np.ones(n) if mine is None else mine) * (size / n * total / sum(sizes)))
        profile[at] = np.concatenate(spots)
    axes = list(first.axes)
    rest = tuple(a for a in axes[axis] if a.kind == BATCH)
    axes[axis] = (*rest, Atom(PLACE, total, at))
    alike = max(x.alike for x in parts)
    out = Kernel(tuple(axes), grid, own, shared, mean, alike, tuple(profile))
    ends = np.cumsum([0, *lengths])

    def back(d: Back) -> list[Back]:
        found = []
        for k, (x, (_, work)) in enumerate(zip(parts, single, strict=True)):
            piece = _part(d, x, axis, at, grid, slice(int(ends[k]), int(ends[k + 1])))
            found.append(work.backward(piece, grids[k]))
        return found

    return out, back


def _own_profile(x: Kernel, axis: int) -> Array | None:
    at = next((atom.at for atom in x.axes[axis] if atom.kind == PLACE and atom.extent > 1), None)
    return None if at is None or at >= len(x.profile) else x.profile[at]


def _summed(
    x: Kernel, axis: int, first: Kernel, at: int
) -> tuple[Callable[[tuple[int, ...] | None], float], Callable[[tuple[int, ...] | None], float]]:
    """Return the two parts of a kernel as functions of the offset on another's grid; None for far."""
    own_at = next((atom.at for atom in x.axes[axis] if atom.kind == PLACE and atom.extent > 1), None)
    match: dict[int, int] = {} if own_at is None else {at: own_at}
    for a, (mine, its) in enumerate(zip(x.axes, first.axes, strict=True)):
        if a != axis:
            for p, q in zip((m for m in mine if m.kind == PLACE), (m for m in its if m.kind == PLACE), strict=False):
                match[q.at] = p.at

    def of(f: Array) -> Callable[[tuple[int, ...] | None], float]:
        def value(offset: tuple[int, ...] | None) -> float:
            if offset is None:
                return float(f[-1])
            place = [0] * len(x.grid.extents)
            for q, p in match.items():
                place[p] = offset[q]
            return x.grid.at(f, place)

        return value

    return of(x.own), of(x.shared)


def _part(d: Back, x: Kernel, axis: int, at: int, grid: Grid, where: slice) -> Back:
    """Return the gradient of one of the parts."""
    own_at = next((atom.at for atom in x.axes[axis] if atom.kind == PLACE and atom.extent > 1), None)
    f = d.profile[at] if d.profile else None
    piece = None if f is None else f[where]
    weight = 1.0 if piece is None or not len(piece) else float(piece.mean())
    if own_at is None:
        rest, _ = grid.diagonal(d.each, [at])
        kept = tuple(p for a, p in enumerate(d.profile) if a != at)
        made = replace(d.mapped(lambda g: grid.diagonal(g, [at])[1] * weight, rest), profile=kept)
        return made.on(x.grid, list(range(len(x.grid.extents)))) if rest != x.grid else made

    def inner(g: Array) -> Array:
        out = np.empty(x.grid.size)
        for k, offset in enumerate(np.ndindex(*x.grid.shape)):
            out[k] = grid.at(g, offset) if len(offset) == len(grid.extents) else g[0]
        out[-1] = g[-1]
        return out * weight

    profile: tuple[Array | None, ...] = ()
    if piece is not None and weight > 0:
        profile = tuple(piece / weight if a == at else p for a, p in enumerate(d.profile))
    return replace(d.mapped(inner, x.grid), profile=profile)


def copied(x: Kernel, axis: int, n: int, kind: str) -> tuple[Kernel, BackOne]:
    """Return a value copied n times along an axis, and the way back to the one."""
    axes: list[Axis] = list(x.axes)
    old = axes[axis]
    if kind != PLACE:
        axes[axis] = (*old, Atom(kind, n)) if extent(old) > 1 else (Atom(kind, n),)
        times = float(n) if kind == UNIT else 1.0
        return replace(x, axes=tuple(axes), bend=None), lambda d: d.scaled(times)
    at = len(x.grid.extents)
    grid = Grid((*x.grid.extents, n), (*x.grid.reach, 0))
    axes[axis] = (*old, Atom(PLACE, n, at))
    source: list[int | None] = [*range(at), None]
    own, shared = (x.grid.remapped(f, grid, source) for f in (x.own, x.shared))
    profile = (*x.profile, None) if x.profile else ()
    out = replace(x, axes=tuple(axes), grid=grid, own=own, shared=shared, profile=profile, bend=None)
    return out, lambda d: d.summed([at])
