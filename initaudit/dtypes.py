"""Element types by the name torch gives them, and the numpy type that holds each."""

from __future__ import annotations

from typing import Any

import numpy as np

from initaudit.errors import UnsupportedError

_NUMPY = {
    "float64": "<f8", "float32": "<f4", "float16": "<f2", "int64": "<i8", "int32": "<i4", "int16": "<i2", "int8": "i1",
    "uint64": "<u8", "uint32": "<u4", "uint16": "<u2", "uint8": "u1", "bool": "?", "complex64": "<c8",
    "complex128": "<c16",
}  # fmt: skip
_ML = {  # held by the ml_dtypes package, which onnx needs too
    "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu",
}  # fmt: skip


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the little-endian numpy type for a torch dtype name.

    Raises:
        UnsupportedError: numpy and ml_dtypes have no such type.
    """
    if name in _NUMPY:
        return np.dtype(_NUMPY[name])
    if name in _ML:
        import ml_dtypes  # noqa: PLC0415  costs 20 ms, and most files never need it

        held: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return held
    raise UnsupportedError(f"element type {name} is not read yet; read are {', '.join([*_NUMPY, *sorted(_ML)])}")
