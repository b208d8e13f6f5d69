"""Sums and products of bounds, rounding allowed for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from initaudit.symmetry.moving import Step
from initaudit.symmetry.zones import Grad, Zone, broadcast, lined, quiet, reduced, thinned
from initaudit.types import Array

SLACK = 1e-6  # of the sum of sizes: more than rounding takes


def total(low: Sequence[Array], high: Sequence[Array], shape: Sequence[int]) -> Zone:
    """Return bounds of a sum, from those of its terms."""
    rank = len(shape)
    a, b = sum(lined(x, rank) for x in low), sum(lined(x, rank) for x in high)
    low_, high_ = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if len(low) > 1:
        low_ = np.where(low_ == high_, low_, low_ - slack(low, rank))
        high_ = np.where(np.asarray(a) == high_, high_, high_ + slack([-x for x in high], rank))
    return Zone(low_, high_, tuple(shape))


def slack(parts: Sequence[Array], rank: int) -> Array:
    """Return more than rounding can take from a lower bound; nothing where no part is below zero."""
    finite = [np.where(np.isfinite(lined(x, rank)), lined(x, rank), 0) for x in parts]
    below = np.asarray(sum(x < 0 for x in finite)) > 0
    return np.where(below, SLACK * np.asarray(sum(np.abs(x) for x in finite)), 0.0)


def scaled_by(d: Grad, other: Zone, shape: Sequence[int]) -> Grad:
    """Return the gradient of one factor of a product."""
    rank = len(d.shape)
    live = d.live & ~lined(other.zero, rank)
    wide = {a + rank - len(other.shape) for a, n in enumerate(other.shape) if n > 1}
    apart = {a + rank - len(other.shape) for a, n in enumerate(other.low.shape) if n > 1}
    sums = tuple((one, where & lined(other.fixed, rank) if one & wide else where) for one, where in d.sums
                 if not one & apart)  # fmt: skip
    return reduced(Grad(live, d.shape, sums, d.even - wide), shape)


def product(x: Zone, y: Zone, first: int = 0, second: int = 1) -> Step:
    """Return a step that multiplies two values element by element."""
    shape = broadcast(x.shape, y.shape)
    rank = len(shape)
    parts = [
        np.where((lined(a, rank) == 0) | (lined(b, rank) == 0), 0.0, lined(a, rank) * lined(b, rank))
        for a in (x.low, x.high) for b in (y.low, y.high)
    ]  # fmt: skip
    low, high = np.minimum.reduce(parts), np.maximum.reduce(parts)
    still = quiet((x, y), rank) | ((low == 0) & (high == 0))
    out = thinned(Zone(low, high, shape, still))
    return Step((out,), lambda d: {first: scaled_by(d[0], y, x.shape), second: scaled_by(d[0], x, y.shape)})
