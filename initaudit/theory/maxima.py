"""The largest of windows and of whole images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from initaudit.theory.activate import applied
from initaudit.theory.align import restored
from initaudit.theory.bending import Bender, bent
from initaudit.theory.engine import Case, Grads, Step, op
from initaudit.theory.kernel import Back, Batched, Kernel, extent
from initaudit.theory.pooling import averaged, pool_windows, reduced
from initaudit.theory.windows import Image, Window, image, sizes_of, space_grid
from initaudit.types import Array

_STEEPEST = 4.0  # times, that a maximum may find the slope of an activation


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest of n standard normal numbers, and of n that are correlated with them by rho each.

    The covariance of the two maxima is rho / n to the first order; at rho = 1 its slope is 1, since one element wins.
    A power of rho takes up the rest.
    """

    n: int

    @property
    def mean(self) -> float:
        """E max."""
        return largest(self.n)[0]

    @property
    def _power(self) -> tuple[float, float]:
        first = 1 / self.n
        rest = max(1e-6, largest(self.n)[1] - first)
        return rest, max(1.0, (1 - first) / rest)

    def shared(self, rho: float) -> float:
        """Covariance of two maxima."""
        if self.n < 2:
            return rho
        rest, power = self._power
        return float(rho / self.n + rest * max(0.0, rho) ** power)

    def apart(self, gap: float) -> float:
        """Variance less covariance, gap = 1 - rho, which may be tiny."""
        if self.n < 2:
            return gap
        rest, power = self._power
        inner = -math.expm1(power * math.log1p(-gap)) if gap < 1 else 1.0
        return gap / self.n + rest * inner

    def agree(self, rho: float) -> float:
        """Chance that one element wins in both."""
        if self.n < 2:
            return 1.0
        rest, power = self._power
        return float(min(1.0, 1 / self.n + rest * power * max(0.0, rho) ** (power - 1)))


@lru_cache(maxsize=64)
def largest(n: int) -> tuple[float, float]:
    """Return mean and variance of the largest of n standard normal numbers."""
    if n < 2:
        return 0.0, 1.0
    z = np.linspace(-9, 9, 4001)
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    below = np.clip(np.cumsum(density) * (z[1] - z[0]), 0, 1)
    weight = n * density * below ** (n - 1)
    weight /= weight.sum()
    mean = float(weight @ z)
    return mean, float(weight @ np.square(z - mean))


@op("max_pool")
def _max_pool(c: Case) -> Step:
    x = c.kernel(0)
    rank = len(x.axes) - 2
    img = image(x, rank)
    step = restored(maximum(img, pool_windows(c, img, rank)), x, img.value)
    return Step((*step.outs, *(None for _ in c.node.outputs[1:])), step.back)


@op("global_max_pool")
def _global_max(c: Case) -> Step:
    x = c.kernel(0)
    img = image(x, len(x.axes) - 2)
    return restored(maximum(img, [Window(n, n, 1, 0, 0) for n in sizes_of(img)]), x, img.value)


def _largest_of(
    x: Kernel, peak: Peak, img: Image, walk: Sequence[Window], shape: Kernel, order: Sequence[int]
) -> tuple[float, Kernel]:
    """Return how alike what competes in a window is for two inputs, and the largest of each window."""
    grid = shape.grid
    at = 1 if len(x.own) > 2 else -1  # a neighbour
    near_own, near_shared = float(x.own[at]), float(x.shared[at])
    loose_own = max(0.0, float(x.own[0]) - near_own)
    loose = loose_own + max(0.0, float(x.shared[0]) - near_shared)
    gap = loose_own / loose if loose > 0 else 0.0
    both, rest = peak.shared(1 - gap) * loose, peak.apart(gap) * loose
    own, shared = grid.full(float(x.own[-1])), grid.full(float(x.shared[-1]))
    for k, offset in enumerate(np.ndindex(*grid.shape)):
        base = [0] * len(x.grid.extents)
        overlap = 1.0
        for w, place, new in zip(walk, img.places, order, strict=True):
            if new >= 0 and place >= 0:
                base[place] = min(offset[new] * w.stride, x.grid.extents[place] - 1)
                overlap *= max(0.0, 1 - offset[new] * w.stride / w.kernel)
        if any(offset):
            own[k] = x.grid.at(x.own, base) + overlap * rest
            shared[k] = x.grid.at(x.shared, base) + overlap * both
    own[0], shared[0] = near_own + rest, near_shared + both
    mean = x.mean + peak.mean * math.sqrt(loose)
    return 1 - gap, replace(shape, own=own, shared=shared, mean=mean, alike=x.alike)


def _steeper(x: Kernel, top: Kernel, function: Bender) -> float:
    """Return E[f'^2] of the largest by that of all: the activation's own step then takes all to be alike."""
    first, made = bent(function, x.mean, x.spread), bent(function, top.mean, top.spread)
    plain = first.slope / x.spread if x.spread > 0 else first.value
    best = made.slope / top.spread if top.spread > 0 else made.value
    ratio = best / plain if plain > 0 else 1.0
    return min(ratio, _STEEPEST) if math.isfinite(ratio) else 1.0


def maximum(img: Image, walk: Sequence[Window]) -> Step:
    """Return the largest of each window.

    Of a rectified value it is that of the value before: the largest of n normal numbers is taken as normal again.
    """
    x = img.value
    sizes = sizes_of(img)
    grid, axes, order = space_grid(x, img, [w.places(n) for w, n in zip(walk, sizes, strict=True)])
    size = math.prod(min(w.kernel, n) for w, n in zip(walk, sizes, strict=True))
    function = x.bend[0] if x.bend is not None and isinstance(x.bend[0], Bender) else None
    before = x.bend[1] if x.bend is not None and function is not None else x
    if before.grid != x.grid:
        before, function = x, None
    peak = Peak(size)
    rho, top = _largest_of(before, peak, img, walk, Kernel(axes, grid, grid.full(0.0), grid.full(0.0)), order)
    out, steeper = top, 1.0
    if function is not None:
        out, steeper = applied(top, function)[0], _steeper(before, top, function)
    ratio = grid.positions / max(1, x.grid.positions)

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}

        def carried(f: Array) -> Array:
            made_f = np.full(x.grid.size, f[-1] * ratio**2)
            for k, offset in enumerate(np.ndindex(*x.grid.shape)):
                step = [0] * len(grid.extents)
                for w, place, new in zip(walk, img.places, order, strict=True):
                    if new >= 0 and place >= 0:
                        step[new] = round(offset[place] / w.stride)
                made_f[k] = grid.at(f, step) * (ratio if not any(offset) else ratio**2)
            return made_f * steeper

        made_back = replace(back.mapped(carried, x.grid), profile=())
        # The same element wins for two inputs only by chance.
        lost = (1 - peak.agree(rho)) * x.grid.peak(1.0)
        b = made_back.batched
        if b is not None:
            b = Batched(b.own + b.cross * lost, b.cross * (1 - lost), b.more * (1 - lost), b.lone)
        return {
            0: replace(
                made_back, own=made_back.own + made_back.cross * lost, cross=made_back.cross * (1 - lost), batched=b
            )
        }

    return Step((out,), down)


@op("reduce_max", "reduce_min", "amax", "amin")
def _reduce_max(c: Case) -> Step:
    """Return the largest over positions or units, of which no two know of each other's own part."""
    x = c.kernel(0)
    axes, keep = reduced(c, len(x.axes))
    count = math.prod(extent(x.axes[a]) for a in axes)
    sign = -1.0 if c.node.op in ("reduce_min", "amin") else 1.0
    function = x.bend[0] if x.bend is not None and isinstance(x.bend[0], Bender) and sign > 0 else None
    before = x.bend[1] if x.bend is not None and function is not None else x
    if before.grid != x.grid or before.shape != x.shape:
        before, function = x, None
    middle = averaged(before, axes, keep).outs[0]
    if middle is None or count < 2:
        return Step((middle, *(None for _ in c.node.outputs[1:])), averaged(x, axes, keep).back)
    near_own, near_shared = (  # of two that compete
        max(0.0, (count * float(m[0]) - float(f[0])) / (count - 1))
        for m, f in ((middle.own, before.own), (middle.shared, before.shared))
    )
    loose_own = max(0.0, float(before.own[0]) - near_own)
    loose = loose_own + max(0.0, float(before.shared[0]) - near_shared)
    gap = loose_own / loose if loose > 0 else 0.0
    peak = Peak(count)
    own, shared = middle.own.copy(), middle.shared.copy()
    own[0], shared[0] = near_own + peak.apart(gap) * loose, near_shared + peak.shared(1 - gap) * loose
    mean = before.mean + sign * peak.mean * math.sqrt(loose)
    top = replace(middle, own=own, shared=shared, mean=mean, bend=None)
    out, steeper = top, 1.0
    if function is not None:
        out, steeper = applied(top, function)[0], _steeper(before, top, function)
    source = averaged(x, axes, keep)

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        made = source.back([back]).get(0)
        if back is None or made is None:
            return {}

        def won(f: Array, g: Array) -> Array:  # one of `count` gets all of it
            f = f.copy()
            f[0] = float(g[0]) / count
            return f * steeper

        each, mine, cross = won(made.each, back.each), won(made.own, back.own), won(made.cross, back.cross)
        lost = (1 - peak.agree(1 - gap)) * x.grid.peak(1.0)
        b, g = made.batched, back.batched
        if b is not None and g is not None:
            first, both = won(b.own, g.own), won(b.cross, g.cross)
            b = Batched(first + both * lost, both * (1 - lost), won(b.more, g.more) * (1 - lost), b.lone)
        return {0: replace(made, each=each, own=mine + cross * lost, cross=cross * (1 - lost), batched=b)}

    return Step((out, *(None for _ in c.node.outputs[1:])), down)
