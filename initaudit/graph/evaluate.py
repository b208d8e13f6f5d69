"""Elementwise and reducing operations in numpy, to see what a piece of a graph does to numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from initaudit.types import Array

Values = Sequence[Array]
Attrs = Mapping[str, Any]

_erf = np.vectorize(math.erf, otypes=[np.float64])


def _number(attrs: Attrs, *names: str, default: float) -> float:
    for name in names:
        if isinstance(attrs.get(name), (int, float)):
            return float(attrs[name])
    return default


def _sigmoid(x: Array) -> Array:
    out: Array = 1.0 / (1.0 + np.exp(-x))
    return out


def _softplus(x: Array) -> Array:
    out: Array = np.logaddexp(0.0, x)
    return out


def _gelu(v: Values, attrs: Attrs) -> Array:
    x = v[0]
    if attrs.get("approximate") in ("tanh", b"tanh"):
        out: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    else:
        out = 0.5 * x * (1 + _erf(x / math.sqrt(2)))
    return out


def _clip(v: Values, attrs: Attrs) -> Array:
    low = v[1] if len(v) > 1 and v[1].size else _number(attrs, "min", default=-np.inf)
    high = v[2] if len(v) > 2 and v[2].size else _number(attrs, "max", default=np.inf)
    out: Array = np.minimum(np.maximum(v[0], low), high)
    return out


def _selu(v: Values, attrs: Attrs) -> Array:
    alpha = _number(attrs, "alpha", default=1.6732632423543772)
    gamma = _number(attrs, "gamma", default=1.0507009873554805)
    out: Array = gamma * np.where(v[0] > 0, v[0], alpha * np.expm1(v[0]))
    return out


def _leaky(v: Values, attrs: Attrs) -> Array:
    out: Array = np.where(v[0] > 0, v[0], _number(attrs, "alpha", "negative_slope", default=0.01) * v[0])
    return out


def _elu(v: Values, attrs: Attrs) -> Array:
    out: Array = np.where(v[0] > 0, v[0], _number(attrs, "alpha", default=1.0) * np.expm1(v[0]))
    return out


def _celu(v: Values, attrs: Attrs) -> Array:
    alpha = _number(attrs, "alpha", default=1.0)
    out: Array = np.maximum(v[0], 0) + np.minimum(0, alpha * np.expm1(v[0] / alpha))
    return out


def _hardsigmoid(v: Values, attrs: Attrs) -> Array:
    slope, shift = _number(attrs, "alpha", default=0.2), _number(attrs, "beta", default=0.5)
    out: Array = np.clip(slope * v[0] + shift, 0, 1)
    return out


def _silu(v: Values, attrs: Attrs) -> Array:
    return v[0] * _sigmoid(_number(attrs, "alpha", default=1.0) * v[0])


def _threshold(v: Values, attrs: Attrs) -> Array:
    least = _number(attrs, "threshold", "alpha", default=1.0)
    out: Array = np.where(v[0] > least, v[0], _number(attrs, "value", default=0.0))
    return out


def _hardtanh(v: Values, attrs: Attrs) -> Array:
    out: Array = np.clip(v[0], _number(attrs, "min_val", default=-1.0), _number(attrs, "max_val", default=1.0))
    return out


def _rrelu(v: Values, attrs: Attrs) -> Array:
    slope = (_number(attrs, "lower", default=1 / 8) + _number(attrs, "upper", default=1 / 3)) / 2
    out: Array = np.where(v[0] > 0, v[0], slope * v[0])
    return out


def _soft_shrink(v: Values, attrs: Attrs) -> Array:
    lambd = _number(attrs, "lambd", default=0.5)
    return _shrink(v, {"lambd": lambd, "bias": lambd})


def _scaled_softplus(v: Values, attrs: Attrs) -> Array:
    beta = _number(attrs, "beta", default=1.0)
    return _softplus(beta * v[0]) / beta


def _div(v: Values, attrs: Attrs) -> Array:
    out: Array = np.divide(v[0], v[1])
    rounding = attrs.get("rounding_mode")
    return out if rounding is None else np.floor(out) if rounding == "floor" else np.trunc(out)


def _shrink(v: Values, attrs: Attrs) -> Array:
    lambd, bias = _number(attrs, "lambd", default=0.5), _number(attrs, "bias", default=0.0)
    out: Array = np.where(v[0] < -lambd, v[0] + bias, np.where(v[0] > lambd, v[0] - bias, 0.0))
    return out


def _quick_gelu(v: Values, attrs: Attrs) -> Array:
    return v[0] * _sigmoid(_number(attrs, "alpha", default=1.702) * v[0])


def _fold(function: Callable[[Array, Array], Array]) -> Callable[[Values, Attrs], Array]:
    def run(v: Values, _: Attrs) -> Array:
        out = v[0]
        for other in v[1:]:
            out = function(out, other)
        return out

    return run


def _pure(function: Callable[..., Any]) -> Callable[[Values, Attrs], Array]:
    def run(v: Values, _: Attrs) -> Array:
        out: Array = function(*v)
        return out

    return run


POINTWISE: dict[str, Callable[[Values, Attrs], Array]] = {
    "add": _fold(np.add), "sum": _fold(np.add), "sub": _pure(np.subtract), "mul": _fold(np.multiply),
    "div": _div, "pow": _pure(np.power), "sqrt": _pure(np.sqrt), "rsqrt": _pure(lambda x: 1 / np.sqrt(x)),
    "square": _pure(np.square), "exp": _pure(np.exp), "expm1": _pure(np.expm1), "log": _pure(np.log),
    "log1p": _pure(np.log1p), "neg": _pure(np.negative), "abs": _pure(np.abs), "erf": _pure(_erf),
    "reciprocal": _pure(np.reciprocal), "min": _fold(np.minimum), "max": _fold(np.maximum),
    "where": _pure(lambda c, a, b: np.where(c != 0, a, b)),
    "sin": _pure(np.sin), "cos": _pure(np.cos), "atan": _pure(np.arctan), "sinh": _pure(np.sinh),
    "cosh": _pure(np.cosh), "floor": _pure(np.floor), "ceil": _pure(np.ceil), "sign": _pure(np.sign),
    "greater": _pure(np.greater), "less": _pure(np.less), "greater_or_equal": _pure(np.greater_equal),
    "less_or_equal": _pure(np.less_equal), "equal": _pure(np.equal), "not": _pure(np.logical_not),
    "and": _pure(np.logical_and), "or": _pure(np.logical_or), "clip": _clip,
    "relu": _pure(lambda x: np.maximum(x, 0)), "sigmoid": _pure(_sigmoid), "tanh": _pure(np.tanh),
    "softplus": _scaled_softplus, "softsign": _pure(lambda x: x / (1 + np.abs(x))), "gelu": _gelu,
    "fast_gelu": lambda v, _: _gelu(v[:1], {"approximate": "tanh"}), "quick_gelu": _quick_gelu, "silu": _silu,
    "mish": _pure(lambda x: x * np.tanh(_softplus(x))), "hardsigmoid": _hardsigmoid,
    "hardswish": _pure(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)), "leaky_relu": _leaky, "elu": _elu, "selu": _selu,
    "celu": _celu, "threshold": _threshold, "shrink": _shrink, "relu6": _pure(lambda x: np.clip(x, 0, 6)),
    "logsigmoid": _pure(lambda x: -_softplus(-x)), "identity": lambda v, _: v[0], "dropout": lambda v, _: v[0],
    "hardtanh": _hardtanh, "rrelu": _rrelu, "softshrink": _soft_shrink, "hardshrink": _shrink,
    "tanhshrink": _pure(lambda x: x - np.tanh(x)), "erfc": _pure(lambda x: 1 - _erf(x)), "log2": _pure(np.log2),
    "log10": _pure(np.log10), "trunc": _pure(np.trunc), "round": _pure(np.round), "tan": _pure(np.tan),
    "asinh": _pure(np.arcsinh), "sinc": _pure(np.sinc), "xor": _pure(np.logical_xor),
    "cast": lambda v, _: v[0] + 0.0, "cast_like": lambda v, _: v[0] + 0.0,
}  # fmt: skip

REDUCING: dict[str, Callable[[Array], Array]] = {
    "reduce_mean": lambda x: x.mean(1, keepdims=True),
    "reduce_sum": lambda x: x.sum(1, keepdims=True),
    "reduce_max": lambda x: x.max(1, keepdims=True),
    "reduce_min": lambda x: x.min(1, keepdims=True),
    "reduce_l1": lambda x: np.abs(x).sum(1, keepdims=True),
    "reduce_l2": lambda x: np.sqrt(np.square(x).sum(1, keepdims=True)),
    "reduce_sum_square": lambda x: np.square(x).sum(1, keepdims=True),
    "reduce_log_sum_exp": lambda x: np.log(np.exp(x).sum(1, keepdims=True)),
    "reduce_log_sum": lambda x: np.log(x.sum(1, keepdims=True)),
    "reduce_var": lambda x: x.var(1, keepdims=True),
    "reduce_std": lambda x: x.std(1, keepdims=True),
}  # every one over axis 1 of samples (cases, features)
