"""Activation functions and their derivatives on numpy arrays; the rows that use them are in activations.py.

Each function takes an array and keyword parameters and returns an array of the same floating type. At a kink the
derivative is the one from the right or the left, whichever is simpler: no integral sees the difference.
"""

from __future__ import annotations

# ruff: noqa: D103  a formula says what it is
import math

import numpy as np

from initaudit.types import Array

SELU_SCALE = 1.0507009873554805  # Klambauer et al. 2017, section 2
SELU_ALPHA = 1.6732632423543772
_STEP = 64  # table points of erf per unit
_LIMIT = 6  # erf(6) is 1 in double precision
_ERF = np.array([math.erf(i / _STEP) for i in range(-_LIMIT * _STEP, _LIMIT * _STEP + 1)])


def erf(x: Array) -> Array:
    """Return the error function, by a Taylor series of order 7 about the nearest of 769 exact values.

    Source: derived; the remainder is below 1e-15 as |step| <= 1/128.
    """
    z = np.clip(np.asarray(x, np.float64), -_LIMIT, _LIMIT)
    index = np.rint(z * _STEP).astype(np.intp)
    a = index / _STEP
    d = z - a
    a2 = a * a
    # derivatives of exp(-a^2) are Hermite polynomials times itself; coefficients of d^1 .. d^7 of its integral
    series = 1.0 / 5040 * (64 * a2 * a2 * a2 - 480 * a2 * a2 + 720 * a2 - 120)
    series = series * d + 1.0 / 720 * -(32 * a2 * a2 - 160 * a2 + 120) * a
    series = series * d + 1.0 / 120 * (16 * a2 * a2 - 48 * a2 + 12)
    series = series * d + 1.0 / 24 * -(8 * a2 - 12) * a
    series = series * d + 1.0 / 6 * (4 * a2 - 2)
    series = series * d - a
    series = (series * d + 1.0) * d
    result = _ERF[index + _LIMIT * _STEP] + 2 / math.sqrt(math.pi) * np.exp(-a2) * series
    return result.astype(x.dtype, copy=False)


def normal_cdf(x: Array) -> Array:
    """Return the standard normal distribution function."""
    return 0.5 * (1.0 + erf(x * math.sqrt(0.5)))


def normal_pdf(x: Array) -> Array:
    """Return the standard normal density."""
    return np.exp(-0.5 * np.square(x)) * (1 / math.sqrt(2 * math.pi))


def _step(x: Array, at: float = 0.0) -> Array:
    return (x > at).astype(x.dtype)


def _between(x: Array, low: float, high: float) -> Array:
    return ((x > low) & (x < high)).astype(x.dtype)


def identity(x: Array) -> Array:
    return x * 1.0


def d_identity(x: Array) -> Array:
    return np.ones_like(x)


def relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def d_relu(x: Array) -> Array:
    return _step(x)


def relu6(x: Array) -> Array:
    return np.clip(x, 0.0, 6.0)


def d_relu6(x: Array) -> Array:
    return _between(x, 0.0, 6.0)


def relu2(x: Array) -> Array:
    return np.square(np.maximum(x, 0.0))


def d_relu2(x: Array) -> Array:
    return 2.0 * np.maximum(x, 0.0)


def star_relu(x: Array, scale: float, bias: float) -> Array:
    return scale * relu2(x) + bias


def d_star_relu(x: Array, scale: float, bias: float) -> Array:
    return scale * d_relu2(x)


def leaky_relu(x: Array, negative_slope: float) -> Array:
    return np.where(x > 0, x, negative_slope * x)


def d_leaky_relu(x: Array, negative_slope: float) -> Array:
    return np.where(x > 0, np.ones_like(x), negative_slope * np.ones_like(x))


def rrelu(x: Array, lower: float, upper: float) -> Array:
    return leaky_relu(x, (lower + upper) / 2)


def d_rrelu(x: Array, lower: float, upper: float) -> Array:
    return d_leaky_relu(x, (lower + upper) / 2)


def elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0)))


def d_elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, np.ones_like(x), alpha * np.exp(np.minimum(x, 0.0)))


def celu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0.0) / alpha))


def d_celu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, np.ones_like(x), np.exp(np.minimum(x, 0.0) / alpha))


def selu(x: Array) -> Array:
    return SELU_SCALE * elu(x, SELU_ALPHA)


def d_selu(x: Array) -> Array:
    return SELU_SCALE * d_elu(x, SELU_ALPHA)


def gelu(x: Array) -> Array:
    y: Array = x * normal_cdf(x)
    return y


def d_gelu(x: Array) -> Array:
    y: Array = normal_cdf(x) + x * normal_pdf(x)
    return y


def sigmoid(x: Array) -> Array:
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def d_sigmoid(x: Array) -> Array:
    return 0.25 * d_tanh(0.5 * x)


def silu(x: Array, beta: float) -> Array:
    return x * sigmoid(beta * x)


def d_silu(x: Array, beta: float) -> Array:
    return sigmoid(beta * x) + beta * x * d_sigmoid(beta * x)


def quick_gelu(x: Array) -> Array:
    return silu(x, 1.702)


def d_quick_gelu(x: Array) -> Array:
    return d_silu(x, 1.702)


def softplus(x: Array, beta: float) -> Array:
    return np.logaddexp(x * beta, 0.0) / beta


def d_softplus(x: Array, beta: float) -> Array:
    return sigmoid(beta * x)


def logsigmoid(x: Array) -> Array:
    return -np.logaddexp(-x, 0.0)


def d_logsigmoid(x: Array) -> Array:
    return sigmoid(-x)


def mish(x: Array) -> Array:
    return x * np.tanh(softplus(x, 1.0))


def d_mish(x: Array) -> Array:
    t = np.tanh(softplus(x, 1.0))
    return t + x * (1.0 - t * t) * sigmoid(x)


def hardsigmoid(x: Array, alpha: float, beta: float) -> Array:
    return np.clip(alpha * x + beta, 0.0, 1.0)


def d_hardsigmoid(x: Array, alpha: float, beta: float) -> Array:
    return alpha * _between(x, -beta / alpha, (1 - beta) / alpha)


def hardswish(x: Array) -> Array:
    return x * hardsigmoid(x, 1 / 6, 0.5)


def d_hardswish(x: Array) -> Array:
    return np.where(x >= 3, np.ones_like(x), np.where(x <= -3, np.zeros_like(x), x / 3 + 0.5))


def hard_mish(x: Array) -> Array:
    return 0.5 * x * np.clip(x + 2.0, 0.0, 2.0)


def d_hard_mish(x: Array) -> Array:
    return np.where(x >= 0, np.ones_like(x), np.where(x <= -2, np.zeros_like(x), x + 1.0))


def hardtanh(x: Array, min_val: float, max_val: float) -> Array:
    return np.clip(x, min_val, max_val)


def d_hardtanh(x: Array, min_val: float, max_val: float) -> Array:
    return _between(x, min_val, max_val)


def tanh(x: Array) -> Array:
    return np.tanh(x)


def d_tanh(x: Array) -> Array:
    t = np.tanh(x)
    return (1.0 - t) * (1.0 + t)


def tanhshrink(x: Array) -> Array:
    return x - np.tanh(x)


def d_tanhshrink(x: Array) -> Array:
    return np.square(np.tanh(x))


def softsign(x: Array) -> Array:
    return x / (1.0 + np.abs(x))


def d_softsign(x: Array) -> Array:
    return 1.0 / np.square(1.0 + np.abs(x))


def softshrink(x: Array, lambd: float) -> Array:
    y: Array = x - np.clip(x, -lambd, lambd)
    return y


def hardshrink(x: Array, lambd: float) -> Array:
    return np.where(np.abs(x) > lambd, x, np.zeros_like(x))


def d_shrink(x: Array, lambd: float) -> Array:
    return _step(np.abs(x), lambd)


def threshold(x: Array, threshold: float, value: float) -> Array:
    return np.where(x > threshold, x, np.full_like(x, value))


def d_threshold(x: Array, threshold: float, value: float) -> Array:
    return _step(x, threshold)


def sin(x: Array, omega: float) -> Array:
    return np.sin(omega * x)


def d_sin(x: Array, omega: float) -> Array:
    return omega * np.cos(omega * x)


def snake(x: Array, alpha: float) -> Array:
    return x + np.square(np.sin(alpha * x)) / alpha


def d_snake(x: Array, alpha: float) -> Array:
    return 1.0 + np.sin(2 * alpha * x)


def exp(x: Array) -> Array:
    return np.exp(x)


def laplace(x: Array, mu: float, sigma: float) -> Array:
    return normal_cdf((x - mu) / sigma)


def d_laplace(x: Array, mu: float, sigma: float) -> Array:
    return normal_pdf((x - mu) / sigma) / sigma


def softmax(x: Array) -> Array:
    """Over the last axis: the one function here that is not elementwise, with its logarithm below."""
    e = np.exp(x - np.max(x, axis=-1, keepdims=True))
    y: Array = e / np.sum(e, axis=-1, keepdims=True)
    return y


def log_softmax(x: Array) -> Array:
    """Over the last axis."""
    shifted = x - np.max(x, axis=-1, keepdims=True)
    y: Array = shifted - np.log(np.sum(np.exp(shifted), axis=-1, keepdims=True))
    return y


def undefined(x: Array) -> Array:
    """No derivative that is a function of one number."""
    return np.full_like(x, np.nan)
