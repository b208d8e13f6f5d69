"""Element types of values: half precision is computed in single, all else as it is."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch

from initaudit.errors import UnsupportedError
from initaudit.formats.onnx.tensors import DTYPES, PACKED_BITS
from initaudit.types import Tensor

_NAMED = (
    "float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
    "complex128", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz",
)  # fmt: skip
TORCH: dict[str, torch.dtype] = {name: getattr(torch, name) for name in _NAMED}
# torch computes little with unsigned integers: they are held in the next signed type that has room
_WIDER = {
    "uint16": torch.int32, "uint32": torch.int64, "uint64": torch.int64, "uint4": torch.uint8, "int4": torch.int8,
    "uint2": torch.uint8, "int2": torch.int8, "float4_e2m1fn": torch.float32, "float8_e8m0fnu": torch.float32,
    "complex32": torch.complex64, "half": torch.float16, "double": torch.float64, "long": torch.int64,
}  # fmt: skip
_HALF = {torch.float16, torch.bfloat16, *(v for k, v in TORCH.items() if k.startswith("float8"))}


def computed(dtype: torch.dtype, single: torch.dtype) -> torch.dtype:
    """Return the type that values of `dtype` are computed in.

    Args:
        dtype: what the graph says.
        single: what float32 is computed in: float32, or float64 where more precision is asked for.
    """
    if dtype in _HALF or dtype == torch.float32:
        return single
    if single == torch.float64 and dtype == torch.complex64:
        return torch.complex128
    return dtype


def named(name: str, single: torch.dtype) -> torch.dtype | None:
    """Return the type to compute in for a torch dtype's name, None where there is no such type."""
    dtype = TORCH.get(name, _WIDER.get(name))
    return None if dtype is None else computed(dtype, single)


def coded(code: int, single: torch.dtype) -> torch.dtype:
    """Return the type to compute in for ONNX's number of a type.

    Raises:
        UnsupportedError: values of that type cannot be computed with.
    """
    dtype = named(DTYPES.get(code, ""), single)
    if dtype is None:
        raise UnsupportedError(f"values of ONNX's type {code}")
    return dtype


def narrowed(x: torch.Tensor, name: str, saturate: bool, dtype: torch.dtype) -> torch.Tensor:
    """Return a value cast to a type: of fewer bits than `dtype` it keeps only what they can say.

    Rounding to eight bits or fewer lets the gradient pass; half precision is not rounded at all.

    Raises:
        UnsupportedError: torch cannot round to that type.
    """
    bits = PACKED_BITS.get(name)
    if name in ("float4_e2m1fn", "float8_e8m0fnu"):
        raise UnsupportedError(f"a cast to {name}")
    if bits:
        low = x.to(torch.int64) & (1 << bits) - 1
        return (low if name.startswith("u") else low - ((low >> bits - 1) << bits)).to(dtype)
    if name.startswith("float8"):
        x = x.to(dtype)
        edge = torch.finfo(TORCH[name]).max
        short = (x.clamp(-edge, edge) if saturate else x).detach().to(TORCH[name]).to(dtype)
        exact = torch.isfinite(short) & torch.isfinite(x)
        return torch.where(exact, x + torch.where(exact, short - x.detach(), 0.0), short)
    return x.to(dtype)


def held(tensor: Tensor, single: torch.dtype) -> torch.Tensor:
    """Load a tensor of a file in the type that it is computed in.

    Raises:
        ReadError: its values cannot be read.
        UnsupportedError: its type cannot be computed with.
    """
    array = np.asarray(tensor.load())
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        array = array.astype({2: np.int32, 4: np.int64, 8: np.int64}[array.dtype.itemsize])
    elif array.dtype.kind == "V" or array.dtype.name in ml_dtypes.__dict__:
        array = array.astype(np.float32 if "float" in array.dtype.name else np.int8)
    if array.dtype.kind not in "biufc":
        raise UnsupportedError(f"values of type {array.dtype}")
    native = np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
    value = torch.from_numpy(native).reshape(tensor.shape)
    return value.to(computed(value.dtype, single))
