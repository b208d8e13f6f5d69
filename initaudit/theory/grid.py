"""Pairs of positions by how far apart they are: the argument of every kernel.

A value has positions along some axes (rows and columns of an image, tokens). What a kernel says of two positions p and
p + r depends on the offset r alone, up to a small reach along each axis; all pairs further apart share one number,
"far". A function of the offset is kept flat: the grid of offsets, then far. Axes with reach 0 know only same and far,
as tokens do. Means and sums over pairs weigh each offset by how many pairs have it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from initaudit.types import Array

REACH = 3  # offsets along an axis of space that are told apart


@dataclass(frozen=True, slots=True)
class Grid:
    """Axes of positions: how long they are, and up to which offset pairs are told apart along each."""

    extents: tuple[int, ...] = ()
    reach: tuple[int, ...] = ()

    @property
    def positions(self) -> int:
        """Number of positions."""
        return math.prod(self.extents)

    @property
    def size(self) -> int:
        """Numbers in a function of the offset: those of the grid, and far."""
        return math.prod(r + 1 for r in self.reach) + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the grid of offsets."""
        return tuple(r + 1 for r in self.reach)

    @property
    def counts(self) -> Array:
        """Ordered pairs of positions at each offset, far last."""
        return _counts(self)

    @property
    def share(self) -> Array:
        """The same as a share of all pairs."""
        return _share(self)

    def full(self, value: float) -> Array:
        """Return the function that is one number everywhere."""
        return np.full(self.size, float(value))

    def peak(self, value: float) -> Array:
        """Return the function that is a number for a position with itself, and 0 else."""
        out = np.zeros(self.size)
        out[0] = value
        return out

    def mean(self, f: Array) -> float:
        """Return the mean over all pairs."""
        return float(self.share @ f)

    def total(self, f: Array) -> float:
        """Return the sum over all pairs."""
        return float(self.counts @ f)

    def table(self, f: Array) -> Array:
        """Return the offsets' values in the shape of the grid, far left out."""
        return f[:-1].reshape(self.shape)

    def made(self, table: Array, far: float) -> Array:
        """Return the function with these values at the offsets, and this one far."""
        return np.append(np.asarray(table, np.float64).ravel(), far)

    def at(self, f: Array, offset: Sequence[int]) -> float:
        """Return the value at an offset of either sign."""
        if any(abs(o) >= n for o, n in zip(offset, self.extents, strict=True)):
            return 0.0
        place = 0
        for o, r in zip(offset, self.reach, strict=True):
            if abs(o) > r:
                return float(f[-1])
            place = place * (r + 1) + abs(o)
        return float(f[place])

    def remapped(self, f: Array, other: Grid, source: Sequence[int | None]) -> Array:
        """Return a function on another grid; copies along the new axes keep the mean over all pairs.

        Args:
            f: on this grid.
            other: the grid to be on.
            source: for each of its axes, the axis of this grid that it is; None for an axis along which all is copied.
        """
        if other == self and all(k == s for k, s in enumerate(source)):
            return f
        if not other.extents:
            return np.array([f[0], f[-1]]) if not self.extents else np.array([f[0], f[0]])
        out = np.empty(other.size)
        for k, offset in enumerate(itertools.product(*(range(r + 1) for r in other.reach))):
            own = [0] * len(self.extents)
            for o, s in zip(offset, source, strict=True):
                if s is not None:
                    own[s] = o
            out[k] = self.at(f, own)
        counts = other.counts
        kept = {s for s in source if s is not None}
        gone = [a for a in range(len(self.extents)) if a not in kept]
        mean = self.mean(f) if not gone else self.mean(self.picked(f, gone))
        out[-1] = 0.0
        if counts[-1] > 0:
            rest = mean * other.positions**2 - float(counts[:-1] @ out[:-1])
            out[-1] = _held(rest / counts[-1], mean, out)
        return out

    def picked(self, f: Array, axes: Sequence[int]) -> Array:
        """Return the function with pairs kept only where they agree along some axes: what differs there is far."""
        shape = self.shape
        table = self.table(f).copy()
        index = tuple(slice(0, 1) if a in axes else slice(None) for a in range(len(shape)))
        return self.made(np.broadcast_to(table[index], shape), float(f[-1]))

    def summed(self, f: Array, axes: Sequence[int]) -> tuple[Grid, Array]:
        """Return the grid without some axes, and the sum of a function over all pairs along these."""
        kept = [a for a in range(len(self.extents)) if a not in axes]
        rest = Grid(tuple(self.extents[a] for a in kept), tuple(self.reach[a] for a in kept))
        table = self.table(f)
        pairs = math.prod(self.extents[a] ** 2 for a in axes)
        inside = 1.0
        for a in sorted(axes, reverse=True):
            weights = _along(self.extents[a], self.reach[a])
            inside *= float(weights.sum())
            table = np.tensordot(table, weights, axes=(a, 0))
        far = float(f[-1])
        table = table + (pairs - inside) * far
        return rest, rest.made(table, far * pairs)

    def diagonal(self, f: Array, axes: Sequence[int]) -> tuple[Grid, Array]:
        """Return the grid without some axes, and the function for pairs that are at one place along these."""
        kept = [a for a in range(len(self.extents)) if a not in axes]
        rest = Grid(tuple(self.extents[a] for a in kept), tuple(self.reach[a] for a in kept))
        index = tuple(0 if a in axes else slice(None) for a in range(len(self.shape)))
        return rest, rest.made(self.table(f)[index], float(f[-1]))

    def collapsed(self, f: Array) -> Array:
        """Return (same, far): the value of a position with itself, and the mean over all other pairs."""
        n = self.positions
        if n < 2:
            return np.array([f[0], f[0]])
        return np.array([f[0], (self.total(f) - n * f[0]) / (n * (n - 1.0))])


def grid_of(extents: Sequence[int], *, near: bool = True) -> Grid:
    """Return a grid with the usual reach, or of tokens, where all pairs of two are alike."""
    return Grid(tuple(extents), tuple(min(REACH, n - 1) if near else 0 for n in extents))


def _held(value: float, mean: float, inner: Array) -> float:
    """Return what is left for far without what rounding leaves."""
    size = float(np.max(np.abs(inner[:-1]), initial=abs(mean)))
    return value if abs(value) > 1e-12 * size else 0.0


def _along(extent: int, reach: int) -> Array:
    return np.array([extent if r == 0 else 2.0 * (extent - r) for r in range(reach + 1)], np.float64)


@lru_cache(maxsize=512)
def _counts(grid: Grid) -> Array:
    table = np.ones(())
    for extent, reach in zip(grid.extents, grid.reach, strict=True):
        table = np.multiply.outer(table, _along(extent, reach))
    far = float(grid.positions) ** 2 - float(table.sum())
    out = np.append(table.ravel(), max(0.0, far))
    out.flags.writeable = False
    return out


@lru_cache(maxsize=512)
def _share(grid: Grid) -> Array:
    out = _counts(grid) / max(float(grid.positions), 1.0) ** 2
    out.flags.writeable = False
    return out


def regrid(f: Array, grid: Grid, other: Grid, pick: Callable[[tuple[int, ...]], tuple[int, ...] | None]) -> Array:
    """Return a function on another grid with the same mean over all pairs.

    Args:
        f: the function.
        grid: what it is on.
        other: the new grid.
        pick: the old offset for a new one, None for far.
    """
    if other == grid:
        return f
    out = np.empty(other.size)
    for k, offset in enumerate(np.ndindex(*other.shape)):
        own = pick(offset)
        out[k] = f[-1] if own is None else grid.at(f, own)
    out[-1] = f[-1]
    counts = other.counts
    if counts[-1] > 0:
        mean = grid.mean(f)
        out[-1] = _held((mean * other.positions**2 - float(counts[:-1] @ out[:-1])) / counts[-1], mean, out)
    return out
