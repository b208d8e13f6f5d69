"""Gaussian expectations of functions with kinks: Gauss-Legendre panels between the kinks, finer where they are near.

Gauss-Hermite alone is off by several per cent for ReLU-like functions; panels that end at every kink are exact to
rounding for piecewise polynomials and converge geometrically for smooth functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache, lru_cache

import numpy as np

from initaudit.types import Array

_REACH = 12.0  # standard deviations; the mass beyond is 2e-33
_FAR = 38.0  # where the normal density leaves double precision
_PANELS = 20000
_SPREAD = np.concatenate([[0.0], *[[-(2.0**j), 2.0**j] for j in range(-2, 7)]])
_SHORT = np.array([0.0, -0.5, 0.5, -2.0, 2.0, -8.0, 8.0])


@cache
def _legendre(points: int) -> tuple[Array, Array]:
    """Return Gauss-Legendre nodes and weights; numpy.polynomial is only loaded where a gain is asked for."""
    x, weights = np.polynomial.legendre.leggauss(points)
    return x, weights


def _density(t: Array) -> Array:
    return np.exp(-0.5 * t * t) / math.sqrt(2 * math.pi)


@lru_cache(maxsize=512)
def nodes(mean: float, variance: float, kinks: tuple[float, ...] = (), period: float = math.inf) -> tuple[Array, Array]:
    """Return points and weights with sum(w * f(z)) = E[f(z)] for z ~ N(mean, variance).

    Panels end at the kinks and shrink geometrically towards them and towards 0, where activations bend; `period` is
    the length over which the function oscillates.
    """
    s = math.sqrt(variance)
    if s == 0:
        return np.array([mean]), np.array([1.0])
    reach = min(_REACH + 2 * s, _FAR)
    step = max(min(1.0, period / (2 * s)), 2 * reach / _PANELS)
    even = np.linspace(-reach, reach, 2 * math.ceil(reach / step) + 1)
    near = [((c + _SPREAD) - mean) / s for c in {0.0, *kinks}]
    breaks = np.unique(np.clip(np.concatenate([even, *near]), -reach, reach))
    half = np.diff(breaks)[:, None] / 2
    points, weights = _legendre(24)
    t = (breaks[:-1, None] + half * (1 + points)).ravel()
    weight = (half * weights).ravel() * _density(t)
    z, w = mean + s * t, weight / weight.sum()
    z.flags.writeable = w.flags.writeable = False  # they are shared through the cache
    return z, w


def expectation(
    f: Callable[[Array], Array],
    *,
    mean: float = 0.0,
    variance: float = 1.0,
    kinks: tuple[float, ...] = (),
    period: float = math.inf,
) -> float:
    """Return E[f(z)] for z ~ N(mean, variance)."""
    z, w = nodes(float(mean), float(variance), kinks, period)
    return float(np.dot(w, f(z)))


def pair_expectation(
    f: Callable[[Array], Array],
    rho: float,
    *,
    mean: float = 0.0,
    variance: float = 1.0,
    kinks: tuple[float, ...] = (),
    period: float = math.inf,
) -> float:
    """Return E[f(u) f(v)] for u, v ~ N(mean, variance) with correlation rho.

    v given u is normal too: an inner quadrature per outer point, each split at the kinks where they lie for that point.
    """
    rho = min(1.0, max(-1.0, rho))
    rest = math.sqrt((1 - rho) * (1 + rho))
    s = math.sqrt(variance)
    if s == 0 or rest < 1e-9:  # u and v are equal or opposite to within rounding
        sign = 1.0 if rho >= 0 else -1.0
        both = (*kinks, *(2 * mean - k for k in kinks))
        return expectation(
            lambda z: f(z) * f(mean + sign * (z - mean)), mean=mean, variance=variance, kinks=both, period=period
        )
    turned = tuple(mean + (k - mean) / rho for k in {0.0, *kinks}) if abs(rho) > 1e-3 else ()
    u, w = nodes(float(mean), float(variance), (*kinks, *turned), period)
    keep = w > 1e-22
    u, w = u[keep], w[keep]
    centre = mean + rho * (u - mean)
    inner = s * rest
    step = max(min(1.5, period / (2 * inner)), 0.05)
    even = np.broadcast_to(np.linspace(-9, 9, 2 * math.ceil(9 / step) + 1), (u.size, 2 * math.ceil(9 / step) + 1))
    near = [np.clip((c + _SHORT - centre[:, None]) / inner, -9, 9) for c in sorted({0.0, *kinks})]
    breaks = np.sort(np.concatenate([even, *near], axis=1), axis=1)
    x, weights = _legendre(16)
    total = 0.0
    for first in range(0, u.size, 256):  # bounded memory whatever the function needs
        part = slice(first, first + 256)
        half = np.diff(breaks[part], axis=1)[:, :, None] / 2
        t = breaks[part, :-1, None] + half * (1 + x)
        g = np.sum(half * weights * _density(t) * f(centre[part, None, None] + inner * t), axis=(1, 2))
        total += float(np.dot(w[part], f(u[part]) * g))
    return total
