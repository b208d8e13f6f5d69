"""The first four moments, centred and mergeable (Chan, Golub and LeVeque 1979; Pebay 2008)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from initaudit.types import Array

_BLOCK = 512  # values summed in their own precision before the sums go on in float64
_NEAR = 0.04  # mean^2 below this share of E[x^2]: powers may be taken around zero
# Fourth powers of values in this range neither overflow float32 nor drown in its subnormals.
_SAFE32 = (1e-6, 1e8)


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and the sums of the second, third and fourth powers of the distance from the mean."""

    count: int = 0
    mean: float = 0.0
    m2: float = 0.0
    m3: float = 0.0
    m4: float = 0.0

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both samples together."""
        if self.count == 0:
            return other
        if other.count == 0:
            return self
        a, b = float(self.count), float(other.count)
        n = a + b
        d = other.mean - self.mean
        e = d / n
        t = d * e * a * b
        m3 = self.m3 + other.m3 + t * e * (a - b) + 3 * e * (a * other.m2 - b * self.m2)
        m4 = self.m4 + other.m4 + t * e * e * (a * a - a * b + b * b)
        m4 += 6 * e * e * (a * a * other.m2 + b * b * self.m2) + 4 * e * (a * other.m3 - b * self.m3)
        return Moments(self.count + other.count, self.mean + b * e, self.m2 + other.m2 + t, m3, m4)

    @property
    def variance(self) -> float:
        """Population variance; nan of nothing."""
        return self.m2 / self.count if self.count else math.nan

    @property
    def kurtosis(self) -> float:
        """E[(x - mean)^4] / variance^2; nan where the variance is 0 or its square leaves float64."""
        square = self.m2 * self.m2
        if not 1e-290 < square < math.inf:
            return math.nan
        return self.count * self.m4 / square


def _sum(x: Array) -> float:
    whole = x.size // _BLOCK * _BLOCK
    total = np.add.reduce(np.add.reduce(x[:whole].reshape(-1, _BLOCK), axis=1), dtype=np.float64)
    return float(total + np.add.reduce(x[whole:], dtype=np.float64))


def _dot(x: Array, y: Array) -> float:
    # einsum and not np.dot: BLAS would bring its own threads, and with them another order of summation.
    whole = x.size // _BLOCK * _BLOCK
    blocks = np.einsum("ij,ij->i", x[:whole].reshape(-1, _BLOCK), y[:whole].reshape(-1, _BLOCK))
    return float(np.add.reduce(blocks, dtype=np.float64)) + float(np.einsum("i,i->", x[whole:], y[whole:]))


def moments(x: Array, low: float, high: float, square: Array | None = None, total: float | None = None) -> Moments:
    """Measure a flat, contiguous, finite chunk of float32 or float64 with extremes `low` and `high`.

    `square` and `total` are x*x and its sum where they are at hand. Within blocks of 512 values sums are taken in the
    chunk's own precision: for float32 the relative error of the powers' sums stays below 1e-6.
    """
    n = x.size
    if n == 0:
        return Moments()
    if low == high:
        return Moments(n, low)
    peak = max(abs(low), abs(high))
    if x.dtype == np.float32 and not _SAFE32[0] < peak < _SAFE32[1]:
        x, square, total = x.astype(np.float64), None, None
    s1 = _sum(x)
    if square is None or total is None:
        square = x * x
        total = _sum(square)
    shift = 0.0
    if s1 * s1 > _NEAR * total * n:
        shift = s1 / n
        x = x.astype(np.float64) - shift
        square = x * x
        s1, total = _sum(x), _sum(square)
    s3, s4 = _dot(square, x), _dot(square, square)
    m = s1 / n
    m2 = max(0.0, total - n * m * m)
    m3 = s3 - 3 * m * total + 2 * n * (m * m * m)
    m4 = max(0.0, s4 - 4 * m * s3 + 6 * m * m * total - 3 * n * (m * m * m * m))
    return Moments(n, shift + m, m2, m3, m4)
