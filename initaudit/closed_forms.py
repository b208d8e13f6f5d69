"""Tensors that are drawn by no independent random numbers: constants, identities, orthogonal matrices, tables."""

from __future__ import annotations

import math

import numpy as np

from initaudit import schemes
from initaudit.types import Array, Law, Layer, Stats

EPS = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float8_e4m3fn": 2.0**-4, "float8_e5m2": 2.0**-3}  # relative rounding
TABLES = ("sinusoidal", "log-range")  # computed from positions, no initializer of a weight


def closed_form(layer: Layer, stats: Stats) -> Law | None:
    """Return the law of a tensor that takes no random numbers, or whose entries are bound to each other."""
    if stats.constant:
        if stats.min in (0.0, 1.0):
            return Law("ones" if stats.min else "zeros", "constant")
        return Law(f"constant:value={stats.min:.4g}", "constant")
    if len(layer.weight.shape) < 2 or not stats.variance > 0:
        return None
    return _identity(layer, stats) or _delta(layer, stats) or _orthogonal(layer, stats) or _table(stats)


def _total(stats: Stats) -> float:
    return (stats.variance + stats.mean**2) * (stats.count - stats.nonfinite)


def _scheme(name: str, gain: float) -> str:
    return schemes.parse(name)[0].render(gain=1.0 if abs(gain - 1) < 2e-3 else gain)


def _equal(values: Array, eps: float) -> bool:
    return values.size > 0 and float(np.ptp(values)) <= 10 * eps * float(np.abs(values).max())


def _identity(layer: Layer, stats: Stats) -> Law | None:
    """One entry per unit at most, all equal: the identity of each part, or Dirac filters where there is a kernel."""
    rows, columns = stats.rows, stats.columns
    eps = EPS.get(layer.weight.dtype, 1e-5)
    if rows.nonzero.size < 2 or rows.nonzero.max() != 1 or stats.mean <= 0 or "i" not in layer.axes:
        return None
    ones = rows.square[rows.nonzero == 1]
    if not _equal(ones, eps) or not _equal(np.array([stats.max, math.sqrt(float(ones[0]))]), eps):
        return None
    if columns.nonzero.max() > max(1, len(layer.parts)):
        return None
    name = "dirac" if "k" in layer.axes and math.prod(layer.weight.shape) > rows.nonzero.size**2 else "identity"
    name = "dirac" if "k" in layer.axes else name
    return Law(_scheme(name, stats.max), name)


def _delta(layer: Layer, stats: Stats) -> Law | None:
    """Only the kernel's centre is set, and its matrix has orthonormal columns."""
    kernel = math.prod(n for a, n in zip(layer.axes, layer.weight.shape, strict=True) if a == "k")
    left = stats.count - stats.zeros
    if kernel < 2 or left * kernel != stats.count or stats.columns.nonzero.size < 2:
        return None
    squares = stats.columns.square
    if not _equal(squares, max(EPS.get(layer.weight.dtype, 0.0), 1e-5)):
        return None
    return Law(_scheme("delta-orthogonal", math.sqrt(float(squares.mean()))), "delta-orthogonal")


def _orthogonal(layer: Layer, stats: Stats) -> Law | None:
    """Orthogonal rows or columns of equal length, of each part or of the parts together (torch.nn.init).

    Parts that are orthogonal make tall weights orthogonal as a whole, not the other way round.
    """
    fans = schemes.fans_of(layer)
    if fans is None:
        return None
    rows, columns = fans.matrix
    near = 1e-3 + 20 * EPS.get(layer.weight.dtype, 0.0)
    for parts, off in ((1, stats.part_orthogonality), (max(1, len(layer.parts)), stats.orthogonality)):
        short = min(rows * parts, columns)
        operators = stats.count // max(rows * parts * columns, 1)
        if not off < near or short < 4 or operators * rows * parts * columns != stats.count:
            continue
        gain = math.sqrt(_total(stats) / (operators * short))
        return Law(_scheme("orthogonal", gain) if 0.005 <= gain <= 3 else "", "orthogonal")
    return None


def _table(stats: Stats) -> Law | None:
    """Tables computed from positions: sines and cosines, log(1..n) in every row."""
    rows = stats.rows
    width = stats.count / max(rows.square.size, 1)
    if stats.nonfinite == 0 and rows.square.size >= 4 and width >= 8 and abs(max(stats.max, -stats.min) - 1) < 1e-2:
        if np.allclose(rows.square, width / 2, rtol=2e-2):
            return Law("", "sinusoidal")
        if np.allclose(stats.columns.square * 2, stats.count / max(stats.columns.square.size, 1), rtol=1e-6):
            return Law("", "sinusoidal")
    n = round(width)
    same = rows.hash.size > 1 and n > 1 and bool((rows.hash == rows.hash[0]).all())
    if (
        same
        and stats.min == 0
        and math.isclose(stats.max, math.log(n), rel_tol=1e-3)
        and math.isclose(stats.mean, math.lgamma(n + 1) / n, rel_tol=1e-2)
    ):
        return Law("", "log-range")
    return None
