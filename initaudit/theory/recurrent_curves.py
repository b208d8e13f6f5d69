"""Moments of functions of two normal numbers with different variances: the gates of two time steps."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from initaudit.types import Array

_TERMS = 32
_NODES = 641
_WIDE = 8.0

Function = Callable[[Array], Array]


def sigmoid(x: Array) -> Array:
    """Return 1 / (1 + exp(-x))."""
    out: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return out


def sigmoid_slope(x: Array) -> Array:
    """Return its derivative."""
    s = sigmoid(x)
    out: Array = s * (1 - s)
    return out


def tanh_slope(x: Array) -> Array:
    """Return the derivative of tanh."""
    out: Array = 1 - np.tanh(x) ** 2
    return out


def relu(x: Array) -> Array:
    """Return max(x, 0)."""
    out: Array = np.maximum(x, 0.0)
    return out


def relu_slope(x: Array) -> Array:
    """Return its derivative."""
    out: Array = (x > 0).astype(np.float64)
    return out


@lru_cache(maxsize=1)
def _basis() -> tuple[Array, Array, Array]:
    """Return evenly spaced values of N(0, 1) with their weights, and the normalised Hermite polynomials there.

    Even spacing resolves the slope of a gate that is far in saturation for most values; Gauss-Hermite nodes miss it.
    """
    nodes = np.linspace(-_WIDE, _WIDE, _NODES)
    weights = np.exp(-nodes * nodes / 2)
    weights = weights / weights.sum()
    rows = [np.ones_like(nodes), nodes]
    for n in range(1, _TERMS - 1):
        rows.append((nodes * rows[n] - np.sqrt(n) * rows[n - 1]) / np.sqrt(n + 1))
    return nodes, weights, np.array(rows)


class Curve:
    """A function of normal numbers, one variance per time step, told step by step.

    Args:
        f: the function.
        mean: of the numbers.
        steps: how many there will be.
    """

    def __init__(self, f: Function, mean: float, steps: int) -> None:
        self._f, self._centre = f, mean
        self._terms = np.zeros((steps, _TERMS))
        self._rest = np.zeros(steps)
        self.variance = np.zeros(steps)
        self.mean = np.zeros(steps)
        self.square = np.zeros(steps)

    def add(self, step: int, variance: float) -> None:
        """Tell the variance at a time step."""
        nodes, weights, basis = _basis()
        self.variance[step] = max(variance, 0.0)
        values = self._f(self._centre + math.sqrt(self.variance[step]) * nodes)
        terms = basis @ (values * weights)
        self._terms[step] = terms
        self.mean[step] = terms[0]
        self.square[step] = float((values * values) @ weights)
        self._rest[step] = math.sqrt(max(0.0, self.square[step] - float(terms @ terms)))

    def pair(self, step: int, others: Array, covariance: Array) -> Array:
        """Return E[f(u) f(v)], u at a time step and v at others, with these covariances."""
        size = np.sqrt(self.variance[step] * self.variance[others])
        rho = np.clip(np.divide(covariance, size, out=np.zeros_like(covariance), where=size > 0), -1.0, 1.0)
        powers = np.power(rho[:, None], np.arange(_TERMS))
        products = self._terms[step][None, :] * self._terms[others]
        beyond = self._rest[step] * self._rest[others] * np.abs(rho) ** (2 * _TERMS)
        out: Array = (products * powers).sum(1) + beyond
        return out
