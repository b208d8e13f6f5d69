"""Operations on each element alone, with ONNX's meaning."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812  its usual name

from initaudit.errors import UnsupportedError
from initaudit.formats.onnx.tensors import DTYPES
from initaudit.live.execute.case import OPERATORS, Case, operator
from initaudit.live.execute.elements import TORCH, coded, named, narrowed

Unary = Callable[[torch.Tensor], torch.Tensor]
Binary = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

_UNARY: dict[str, Unary] = {
    "relu": F.relu, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "softsign": F.softsign, "mish": F.mish,
    "sqrt": torch.sqrt, "exp": torch.exp, "log": torch.log, "neg": torch.neg, "abs": torch.abs, "erf": torch.erf,
    "reciprocal": torch.reciprocal, "sin": torch.sin, "cos": torch.cos, "tan": torch.tan, "asin": torch.asin,
    "acos": torch.acos, "atan": torch.atan, "sinh": torch.sinh, "cosh": torch.cosh, "asinh": torch.asinh,
    "acosh": torch.acosh, "atanh": torch.atanh, "floor": torch.floor, "ceil": torch.ceil, "round": torch.round,
    "sign": torch.sign, "isnan": torch.isnan, "not": torch.logical_not, "bitwise_not": torch.bitwise_not,
    "rsqrt": torch.rsqrt, "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)), "det": torch.linalg.det,
    "hardswish": lambda x: x * torch.clamp(x / 6 + 0.5, 0, 1), "square": torch.square, "inverse": torch.linalg.inv,
}  # fmt: skip


def _divided(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    whole = not (a.is_floating_point() or b.is_floating_point() or a.is_complex() or b.is_complex())
    return torch.div(a, b, rounding_mode="trunc") if whole else torch.div(a, b)


def _raised(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if b.numel() == 1 and not b.requires_grad and b.dim() <= a.dim():  # exact, and its gradient at 0 is no NaN
        return torch.pow(a, b.reshape(()).item()).to(a.dtype)
    return torch.pow(a, b).to(a.dtype)


_BINARY: dict[str, Binary] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": _divided, "pow": _raised,
    "greater": torch.gt, "less": torch.lt, "equal": torch.eq, "greater_or_equal": torch.ge, "less_or_equal": torch.le,
    "and": torch.logical_and, "or": torch.logical_or, "xor": torch.logical_xor, "bitwise_and": torch.bitwise_and,
    "bitwise_or": torch.bitwise_or, "bitwise_xor": torch.bitwise_xor,
}  # fmt: skip


def _pair(c: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Return two operands; before opset 7 an attribute says where the second one's axes belong."""
    a, b = c.x(0), c.x(1)
    axis = c.get("axis")
    if c.get("broadcast") and axis is not None and b.dim() < a.dim():
        axis = int(axis) % a.dim()
        b = b.reshape(*b.shape, *(1,) * (a.dim() - axis - b.dim()))
    return a, b


def _of_one(function: Unary) -> Callable[[Case], Any]:
    return lambda c: function(c.x())


def _of_two(function: Binary) -> Callable[[Case], Any]:
    return lambda c: function(*_pair(c))


OPERATORS.update({name: _of_one(function) for name, function in _UNARY.items()})
OPERATORS.update({name: _of_two(function) for name, function in _BINARY.items()})


@operator("sum", "mean", "max", "min")
def _several(c: Case) -> Any:
    steps: dict[str, Binary] = {"sum": torch.add, "mean": torch.add, "max": torch.maximum, "min": torch.minimum}
    out = reduce(steps[c.node.op], [c.x(at) for at in range(len(c.values))])
    return out / len(c.values) if c.node.op == "mean" else out


@operator("mod")
def _mod(c: Case) -> Any:
    a, b = _pair(c)
    return torch.fmod(a, b) if c.get("fmod", 0) else torch.remainder(a, b)


@operator("where")
def _where(c: Case) -> Any:
    return torch.where(c.x(0).bool(), c.x(1), c.x(2))


@operator("clip")
def _clip(c: Case) -> Any:
    x = c.x()
    low, high = c.get("min", c.maybe(1)), c.get("max", c.maybe(2))
    for bound, hold in ((low, torch.maximum), (high, torch.minimum)):
        if bound is not None:
            x = hold(x, torch.as_tensor(bound, dtype=x.dtype).reshape(()).detach())
    return x


@operator("isinf")
def _isinf(c: Case) -> Any:
    x = c.x()
    up = torch.isposinf(x) if c.get("detect_positive", 1) else torch.zeros_like(x, dtype=torch.bool)
    return up | torch.isneginf(x) if c.get("detect_negative", 1) else up


@operator("bit_shift")
def _shift(c: Case) -> Any:
    a, b = _pair(c)
    return torch.bitwise_left_shift(a, b) if c.text("direction") == "LEFT" else torch.bitwise_right_shift(a, b)


@operator("cast")
def _cast(c: Case) -> Any:
    to = c.get("to", c.get("dtype"))
    if isinstance(to, int):
        return narrowed(c.x(), DTYPES.get(to, ""), bool(c.get("saturate", 1)), coded(to, c.settings.single))
    dtype = named({"float": "float32"}.get(str(to).lower(), str(to).lower()), c.settings.single)
    if dtype is None:
        raise UnsupportedError(f"a cast to {to}")
    return c.x().to(dtype)


@operator("cast_like")
def _cast_like(c: Case) -> Any:
    return c.x().to(c.x(1).dtype)


@operator("bit_cast")
def _bit_cast(c: Case) -> Any:
    dtype = coded(c.get("to", 0), c.settings.single)
    if c.x().element_size() != TORCH[str(dtype).removeprefix("torch.")].itemsize:
        raise UnsupportedError("bits of a type of another width")
    return c.x().view(dtype)


# ---- activations


@operator("leaky_relu")
def _leaky_relu(c: Case) -> Any:
    return F.leaky_relu(c.x(), c.get("alpha", c.get("negative_slope", 0.01)))


@operator("prelu")
def _prelu(c: Case) -> Any:
    x, slope = c.x(), c.x(1)
    if slope.dim() == 1 and x.dim() > 2 and slope.shape[0] == x.shape[1] != x.shape[-1]:
        slope = slope.reshape(-1, *(1,) * (x.dim() - 2))  # before opset 7: one per channel
    return torch.where(x >= 0, x, slope * x)


@operator("elu")
def _elu(c: Case) -> Any:
    return F.elu(c.x(), c.get("alpha", 1.0))


@operator("celu")
def _celu(c: Case) -> Any:
    return F.celu(c.x(), c.get("alpha", 1.0))


@operator("selu")
def _selu(c: Case) -> Any:
    alpha, gamma = c.get("alpha", 1.6732632423543772), c.get("gamma", 1.0507009873554805)
    return gamma * F.elu(c.x(), alpha)


@operator("gelu")
def _gelu(c: Case) -> Any:
    return F.gelu(c.x(), approximate=c.text("approximate", "none"))


@operator("fast_gelu", "bias_gelu")
def _biased_gelu(c: Case) -> Any:
    bias = c.maybe(1)
    x = c.x() if bias is None else c.x() + bias
    return F.gelu(x, approximate="tanh" if c.node.op == "fast_gelu" else "none")


@operator("bias_split_gelu")
def _split_gelu(c: Case) -> Any:
    value, gate = (c.x() + c.x(1)).chunk(2, -1)
    return value * F.gelu(gate)


@operator("quick_gelu")
def _quick_gelu(c: Case) -> Any:
    return c.x() * torch.sigmoid(c.get("alpha", 1.702) * c.x())


@operator("silu")
def _silu(c: Case) -> Any:
    return c.x() * torch.sigmoid(c.get("alpha", 1.0) * c.x())


@operator("hardsigmoid")
def _hardsigmoid(c: Case) -> Any:
    return torch.clamp(c.x() * c.get("alpha", 0.2) + c.get("beta", 0.5), 0, 1)


@operator("threshold")
def _threshold(c: Case) -> Any:
    return torch.where(c.x() > c.get("alpha", 1.0), c.x(), torch.zeros_like(c.x()))


@operator("shrink")
def _shrink(c: Case) -> Any:
    x, edge, bias = c.x(), c.get("lambd", 0.5), c.get("bias", 0.0)
    inner = torch.where(x > edge, x - bias, torch.zeros_like(x))
    return torch.where(x < -edge, x + bias, inner)


@operator("scaled_tanh")
def _scaled_tanh(c: Case) -> Any:
    return c.get("alpha", 1.0) * torch.tanh(c.get("beta", 1.0) * c.x())


@operator("parametric_softplus")
def _parametric_softplus(c: Case) -> Any:
    return c.get("alpha", 1.0) * F.softplus(c.get("beta", 1.0) * c.x())


@operator("swi_glu")
def _swiglu(c: Case) -> Any:
    return _silu(c) * c.x(1)


# ---- softmax


def _grouped(c: Case) -> tuple[torch.Tensor, int, bool]:
    """Return the operand and the axis; before opset 13 all axes from the given one on are one."""
    x = c.x()
    if c.get("@opset", 13) >= 13:
        return x, int(c.get("axis", -1)), False
    axis = int(c.get("axis", 1))
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:])), 1, True


@operator("softmax", "log_softmax", "hardmax")
def _softmax(c: Case) -> Any:
    x, axis, flat = _grouped(c)
    if c.node.op == "hardmax":
        out = torch.zeros_like(x).scatter(axis, x.argmax(axis, keepdim=True), 1.0)
    else:
        out = torch.softmax(x, axis) if c.node.op == "softmax" else torch.log_softmax(x, axis)
    return out.reshape(c.x().shape) if flat else out


@operator("bias_softmax")
def _bias_softmax(c: Case) -> Any:
    axis = int(c.get("axis", 1))
    x = c.x() + c.x(1)
    return torch.softmax(x.flatten(axis), -1).reshape(x.shape)
