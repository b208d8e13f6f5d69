"""What theory knows of a value on the way up (Kernel) and of its gradient on the way down (Back).

Two inputs a and b of the model are told apart throughout. Values are seen as random over units, each unit having a
part that all inputs share and a part of its own for each input:

    mean        m, over units, inputs and positions
    shared(r)   E[x_a(p) x_b(p + r)] - m^2, a and b two different inputs: what does not depend on the input
    own(r)      E[x_a(p) x_a(p + r)] - E[x_a(p) x_b(p + r)]: variance across inputs, per unit, for r = 0

with p and p + r two positions (see grid.py) and E over units too. The two parts are never added and then subtracted
again, so that own / shared may be 1e-30. Poole et al. 2016, Xiao et al. 2018 (positions), Yang 2019.

The way back likewise, for the gradient d of <u, output>, u a random vector:

    each(r)     E[d_a(p) d_a(p + r)], u drawn for each input
    cross(r)    E[d_a(p) d_b(p + r)], one u for all inputs, a and b two different ones
    own(r)      E[d_a(p) d_a(p + r)] - cross(r), one u for all inputs

Without batch norms each = own + cross. A batch norm makes inputs of one batch speak to each other:

    more(r)     what cross is more for two inputs of one batch, times the inputs in it
    lone(r)     E[d_a(p) d_b(p + r)] for two inputs of one batch, u drawn for each input, times the inputs in it

and takes off what all inputs of the batch have in common, so that it matters with which weights these add up: own and
cross are for equal ones (`Signal.common`), those of `Batched` for weights that sum to zero (`Signal.contrast`).

A Back belongs to a value and has the axes and the grid of its Kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from initaudit.theory.grid import Grid, grid_of
from initaudit.types import Array

_OFF = 4.0  # of the variance of a table, from which what was told step by step is corrected

BATCH, UNIT, PLACE = "b", "u", "p"


@dataclass(frozen=True, slots=True)
class Atom:
    """A piece of an axis: inputs, units or positions. A reshape may put several into one axis, slowest first."""

    kind: str  # BATCH, UNIT, PLACE
    extent: int
    at: int = -1  # of PLACE: which axis of the grid it is


Axis = tuple[Atom, ...]  # () for an axis of one element


def extent(axis: Axis) -> int:
    """Return the length of an axis."""
    return math.prod(atom.extent for atom in axis)


@dataclass(frozen=True, slots=True)
class Kernel:
    """A value on the way up."""

    axes: tuple[Axis, ...]
    grid: Grid
    own: Array  # of the offset; see the module
    shared: Array
    mean: float = 0.0
    alike: float = 0.0  # variance of the mean over units / own[0]: 1 where all units are copies, 1/n independent
    profile: tuple[Array | None, ...] = ()  # along each axis of the grid, of own and shared, with mean 1; () flat
    bend: tuple[object, Kernel] | None = field(default=None, compare=False)  # the activation that made it, of what

    @property
    def shape(self) -> tuple[int, ...]:
        """Extents of the axes."""
        return tuple(extent(axis) for axis in self.axes)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def count(self, kind: str) -> int:
        """Return the number of inputs, units or positions."""
        return math.prod(atom.extent for axis in self.axes for atom in axis if atom.kind == kind)

    @property
    def units(self) -> int:
        """Number of units."""
        return self.count(UNIT)

    @property
    def inputs(self) -> int:
        """Number of inputs that it holds; 1 for a constant."""
        return self.count(BATCH)

    @property
    def same(self) -> Array:
        """E[x_a(p) x_a(p + r)], about zero."""
        return self.own + self.shared + self.mean**2

    @property
    def cross(self) -> Array:
        """E[x_a(p) x_b(p + r)], about zero."""
        return self.shared + self.mean**2

    @property
    def spread(self) -> float:
        """Variance over units and inputs about the mean, q."""
        return float(self.own[0] + self.shared[0])

    def scaled(self, factor: float) -> Kernel:
        """Return it times a number."""
        square = factor * factor
        return replace(
            self, own=self.own * square, shared=self.shared * square, mean=self.mean * factor, bend=None
        )  # fmt: skip

    def collapsed(self) -> Kernel:
        """Return it with positions told apart only as same and far."""
        if all(r == 0 for r in self.grid.reach):
            return self
        grid = Grid(self.grid.extents, (0,) * len(self.grid.extents))
        return replace(
            self, grid=grid, own=self.grid.collapsed(self.own), shared=self.grid.collapsed(self.shared), profile=()
        )


@dataclass(frozen=True, slots=True)
class Batched:
    """What batch norms make of a gradient; see the module."""

    own: Array
    cross: Array
    more: Array
    lone: Array | None = None  # None: 0


@dataclass(frozen=True, slots=True)
class Back:
    """A gradient on the way down, of a value with the same axes and grid."""

    grid: Grid
    each: Array
    own: Array
    cross: Array
    alike: float = 0.0  # second moment of the mean over units / each[0]
    profile: tuple[Array | None, ...] = ()
    batched: Batched | None = None  # None where no batch norm was passed
    bend: tuple[object, Back] | None = field(default=None, compare=False)  # the activation it passed, and it before
    radial: float = 0.0  # share that knows nothing of a unit's scale, since a norm behind it takes that off

    def scaled(self, square: float | Array) -> Back:
        """Return it with second moments times a number, or a function of the offset."""
        return self.mapped(lambda f: f * square)

    def mapped(self, change: Callable[[Array], Array], grid: Grid | None = None) -> Back:
        """Return it with each of its functions changed in the same linear way, perhaps on another grid."""
        b = self.batched
        batched = None
        if b is not None:
            lone = None if b.lone is None else change(b.lone)
            batched = Batched(change(b.own), change(b.cross), change(b.more), lone)
        return Back(
            self.grid if grid is None else grid, change(self.each), change(self.own), change(self.cross), self.alike,
            self.profile if grid is None or grid == self.grid else (), batched,
            None, self.radial,
        )  # fmt: skip

    def times(self, same: Array, cross: Array, gap: Array) -> Back:
        """Return the gradient times independent factors with these moments; gap = same - cross."""
        b = self.batched
        batched = None
        if b is not None:
            lone = None if b.lone is None else b.lone * cross
            batched = Batched(b.own * same + b.cross * gap, b.cross * cross, b.more * cross, lone)
        return replace(
            self,
            each=self.each * same,
            own=self.own * same + self.cross * gap,
            cross=self.cross * cross,
            batched=batched,
            bend=None,
            radial=0.0,
        )

    def met(self, counts: Array, same: Array, cross: Array, own: Array) -> tuple[float, float, float, float, float]:
        """Return the sums over pairs of positions of this gradient and of a value: see `Learned`, in its order."""
        b = self.batched or unbatched(self)
        return (
            max(0.0, float(counts @ (self.each * same + (0.0 if b.lone is None else b.lone * cross)))),
            float(counts @ (self.cross * cross)),
            float(counts @ (self.own * same + self.cross * own)),
            float(counts @ (b.more * cross)),
            float(counts @ (b.own * same + b.cross * own)),
        )

    def plus(self, other: Back) -> Back:
        """Return the sum of two gradients that know nothing of each other."""
        each = self.each + other.each
        whole = float(each[0])
        alike = (self.alike * float(self.each[0]) + other.alike * float(other.each[0])) / whole if whole > 0 else 0.0
        profile = blended(self.profile, float(self.each[0]), other.profile, float(other.each[0]), self.grid)
        a, b = (d.batched or unbatched(d) if self.batched or other.batched else None for d in (self, other))
        batched = None
        if a is not None and b is not None:
            lone = a.lone if b.lone is None else b.lone if a.lone is None else a.lone + b.lone
            batched = Batched(a.own + b.own, a.cross + b.cross, a.more + b.more, lone)
        radial = 0.0
        if whole > 0:
            radial = (self.radial * float(self.each[0]) + other.radial * float(other.each[0])) / whole
        own, cross = self.own + other.own, self.cross + other.cross
        return Back(self.grid, each, own, cross, alike, profile, batched, None, radial)

    def on(self, grid: Grid, source: Sequence[int | None]) -> Back:
        """Return it on another grid; see Grid.remapped."""
        if grid == self.grid and list(source) == list(range(len(grid.extents))):
            return self
        return self.mapped(lambda f: self.grid.remapped(f, grid, source), grid)

    def summed(self, axes: Sequence[int]) -> Back:
        """Return the gradient of what was copied along axes of the grid."""
        grid, _ = self.grid.summed(self.each, axes)
        kept = tuple(p for a, p in enumerate(self.profile) if a not in axes)
        made = self.mapped(lambda f: self.grid.summed(f, axes)[1], grid)
        return replace(made, profile=kept if len(kept) == len(grid.extents) else ())


def corrected(x: Kernel, values: Array) -> Kernel:
    """Return the kernel of what is computed from constants with the moments of its real values, if these are far off.

    Step by step the values count as normal: the exponential of a table's exponential is then far too large.
    """
    if values.size < 2 or values.dtype.kind not in "fiu" or not np.all(np.isfinite(values)):
        return x
    mean, variance = float(np.mean(values, dtype=np.float64)), float(np.var(values, dtype=np.float64))
    spread = x.spread
    if not (variance > 0 and spread > 0 and math.isfinite(spread)):
        return x
    near = variance / _OFF <= spread <= variance * _OFF and (x.mean - mean) ** 2 <= variance * _OFF
    if near:
        return x
    factor = variance / spread
    return replace(x, own=x.own * factor, shared=x.shared * factor, mean=mean)


def unbatched(back: Back) -> Batched:
    """Return what a gradient is where no batch norm was passed."""
    zero = np.zeros_like(back.own)
    return Batched(back.own, back.cross, zero)


def start(value: Kernel) -> Back:
    """Return the gradient of an output with a random vector of unit size per input."""
    elements = max(1, value.units * value.count(PLACE))
    peak = value.grid.peak(1 / elements)
    return Back(value.grid, peak, np.zeros_like(peak), peak, 1 / max(1, value.units))


def blended(
    one: tuple[Array | None, ...], a: float, other: tuple[Array | None, ...], b: float, grid: Grid
) -> tuple[Array | None, ...]:
    """Return the profile of a sum of two values with these variances."""
    if not one and not other:
        return ()
    whole = a + b
    if not (whole > 0 and math.isfinite(whole)):
        return ()
    out: list[Array | None] = []
    for axis, n in enumerate(grid.extents):
        p, q = (f[axis] if axis < len(f) else None for f in (one, other))
        if p is None and q is None:
            out.append(None)
            continue
        p, q = (np.ones(n) if f is None or len(f) != n else f for f in (p, q))
        out.append((a * p + b * q) / whole)
    return tuple(out)


def plain_axes(shape: Sequence[int], kinds: str) -> tuple[tuple[Axis, ...], Grid]:
    """Return axes and grid of a value of which each axis is of one kind, as "bupp" says it."""
    places = [n for n, kind in zip(shape, kinds, strict=True) if kind == PLACE and n != 1]
    axes: list[Axis] = []
    at = 0
    for n, kind in zip(shape, kinds, strict=True):
        if n == 1 and kind != BATCH:
            axes.append(())
        else:
            axes.append((Atom(kind, n, at if kind == PLACE else -1),))
            at += kind == PLACE
    return tuple(axes), grid_of(places, near=len(places) > 0 and kinds.count(PLACE) > 1)
