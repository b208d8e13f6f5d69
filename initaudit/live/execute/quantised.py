"""To and from integers, which are held as floats; rounding passes the gradient on, so that it reaches the input."""

from __future__ import annotations

from typing import Any

import torch

from initaudit.errors import UnsupportedError
from initaudit.formats.onnx.tensors import DTYPES
from initaudit.live.execute.case import Case, axis_of, operator
from initaudit.live.execute.windows import convolved

_RANGES = {
    "uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65535), "int16": (-32768, 32767), "uint4": (0, 15),
    "int4": (-8, 7), "uint2": (0, 3), "int2": (-2, 1), "int32": (-(2**31), 2**31 - 1),
}  # fmt: skip


def rounded(x: torch.Tensor) -> torch.Tensor:
    """Return the nearest integers; the gradient passes as if nothing had been rounded."""
    return x + (x.round() - x).detach()


def _fitted(c: Case, value: torch.Tensor | None, x: torch.Tensor) -> torch.Tensor:
    """Return a scale or zero point as it stands to a value: one, one per channel, or one per block of an axis."""
    if value is None:
        return torch.zeros((), dtype=x.dtype)
    value = value.to(x.dtype)
    if value.numel() == 1:
        return value.reshape(())
    axis = axis_of(c.get("axis", 1), x.dim())
    block = int(c.get("block_size", 0))
    if value.dim() == 1 and not block:
        return value.reshape([-1 if a == axis else 1 for a in range(x.dim())])
    return value.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])


def _range(c: Case, at: int) -> tuple[int, int]:
    """Return the numbers there are in the type of the result, which is that of its zero point."""
    code = c.get("output_dtype", 0)
    name = DTYPES.get(code, "") if code else c.dtype(at) or "uint8"
    name = {"int32": "uint16", "int64": "uint16"}.get(name, name) if not code else name  # as they are held
    if name not in _RANGES:
        raise UnsupportedError(f"quantising to {name or code}")
    return _RANGES[name]


@operator("quantize_linear")
def _quantize(c: Case) -> Any:
    x, zero = c.x(), c.maybe(2)
    low, high = _range(c, 2)
    scale = _fitted(c, c.x(1), x)
    return (rounded(x / scale) + _fitted(c, zero, x)).clamp(low, high)


@operator("dequantize_linear")
def _dequantize(c: Case) -> Any:
    x = c.x().to(c.settings.single)
    return (x - _fitted(c, c.maybe(2), x)) * _fitted(c, c.x(1), x)


@operator("dynamic_quantize_linear")
def _dynamic(c: Case) -> Any:
    x = c.x()
    top, bottom = x.detach().amax().clamp(min=0), x.detach().amin().clamp(max=0)
    scale = (top - bottom) / 255
    zero = (0 - bottom / scale).round().clamp(0, 255)
    return (rounded(x / scale) + zero).clamp(0, 255), scale, zero


@operator("matmul_integer")
def _matmul_integer(c: Case) -> Any:
    a, b = (c.x(at).to(c.settings.single) for at in (0, 1))
    zero = c.maybe(2)
    if zero is not None and zero.dim() == 1 and a.dim() > 1 and zero.numel() > 1:
        zero = zero.unsqueeze(-1)
    a = a if zero is None else a - zero
    other = c.maybe(3)
    return a @ (b if other is None else b - other)


@operator("matmul_integer_to_float", "dynamic_quantize_matmul")
def _matmul_float(c: Case) -> Any:
    dynamic = c.node.op == "dynamic_quantize_matmul"
    a, b = (c.x(at).to(c.settings.single) for at in (0, 1))
    zeros, bias = (c.maybe(3), c.maybe(4)) if dynamic else (c.maybe(5), c.maybe(6))
    out = a if dynamic else (a if c.maybe(4) is None else a - c.x(4)) * c.x(2)
    scale = c.x(2) if dynamic else c.x(3)
    out = out @ ((b if zeros is None else b - zeros) * scale)
    return out if bias is None else out + bias


@operator("conv_integer")
def _conv_integer(c: Case) -> Any:
    x, w = (c.x(at).to(c.settings.single) for at in (0, 1))
    zero, other = c.maybe(2), c.maybe(3)
    x = x if zero is None else x - zero
    if other is not None:
        w = w - (other.reshape(-1, *(1,) * (w.dim() - 1)) if other.dim() else other)
    return convolved(c, x, w, None)


def _requantised(c: Case, y: torch.Tensor, scale: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    low, high = _range(c, 7)
    return (rounded(y / scale) + zero).clamp(low, high)


@operator("qlinear_matmul")
def _qlinear_matmul(c: Case) -> Any:
    a, b = (c.x(at).to(c.settings.single) for at in (0, 3))
    y = (a - c.x(2)) * c.x(1) @ ((b - c.x(5)) * c.x(4))
    return _requantised(c, y, c.x(6), c.x(7))


@operator("qlinear_conv")
def _qlinear_conv(c: Case) -> Any:
    x, w = (c.x(at).to(c.settings.single) for at in (0, 3))
    scale, zero = c.x(4).reshape(-1, *(1,) * (w.dim() - 1)), c.x(5).reshape(-1, *(1,) * (w.dim() - 1))
    bias = c.maybe(8)
    bias = None if bias is None else bias * (c.x(1) * c.x(4))
    y = convolved(c, (x - c.x(2)) * c.x(1), (w - zero) * scale, bias)
    return _requantised(c, y, c.x(6), c.x(7))
