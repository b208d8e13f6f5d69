"""numpy arrays and scalars inside a pickle, from the records of the functions that would rebuild them."""

from __future__ import annotations

from typing import Any

import numpy as np

from initaudit.errors import CorruptFileError
from initaudit.formats.torch.pickle_values import Record
from initaudit.formats.torch.storage import Blob, Storage, checked_shape, product, strided
from initaudit.strides import contiguous
from initaudit.types import Global, Tensor

_DTYPES = {
    "f8": "float64", "f4": "float32", "f2": "float16", "i8": "int64", "i4": "int32", "i2": "int16", "i1": "int8",
    "u8": "uint64", "u4": "uint32", "u2": "uint16", "u1": "uint8", "b1": "bool", "c8": "complex64",
    "c16": "complex128",
}  # fmt: skip
_ARRAY = ("multiarray._reconstruct", "numeric._frombuffer", "array._reconstruct_array")


def numpy_name(record: Record) -> str:
    """Return "multiarray.scalar" and the like for a function of numpy, whichever version; "" for all others."""
    package, _, rest = record.name.partition(".")
    if package not in ("numpy", "jax", "jaxlib"):
        return ""
    return ".".join(rest.split(".")[-2:])


def element_type(value: object) -> tuple[str, bool] | None:
    """Return torch's name of a pickled numpy dtype and whether it is big endian; None for one torch has no name for."""
    if not isinstance(value, Record) or not value.args:
        return None
    code = value.args[0]
    if isinstance(code, Global) and code.name.startswith("ml_dtypes."):
        return code.name.rpartition(".")[2], False
    if isinstance(code, str):
        order = value.state[1] if isinstance(value.state, tuple) and len(value.state) > 1 else "<"
        name = _DTYPES.get(code.lstrip("<>=|"))
        return (name, ">" in (order, code[:1])) if name else None
    return None


def scalar(record: Record) -> int | float | bool | None:
    """Return the value of a pickled numpy scalar, None if it is none or not a real number."""
    if numpy_name(record) != "multiarray.scalar" or len(record.args) != 2:
        return None
    kind, raw = element_type(record.args[0]), record.args[1]
    if kind is None or kind[0] not in _DTYPES.values():
        return None
    data = raw.encode() if isinstance(raw, str) else raw
    dtype: np.dtype[Any] = np.dtype(kind[0]).newbyteorder(">" if kind[1] else "<")
    if not isinstance(data, bytes) or len(data) != dtype.itemsize or dtype.kind == "c":
        return None
    value = np.frombuffer(data, dtype)[0].item()
    return value if isinstance(value, (int, float, bool)) else None


def array(record: Record, name: str, storages: dict[str, Storage]) -> Tensor | str | None:
    """Return the nameless tensor of a pickled array, why there is none, or None if the record is no array.

    Its storage is added to `storages` under `name`.

    Raises:
        CorruptFileError: the parts of the array do not fit together.
    """
    if numpy_name(record) not in _ARRAY:
        return None
    match record:
        case Record(args=(_, tuple(), tuple() as state, *_)) if numpy_name(record) == "array._reconstruct_array":
            pass
        case Record(args=(data, dtype, tuple() as shape, str(order), *rest), state=None):
            axes = rest[0] if rest and order == "K" else None
            return _tensor(name, dtype, shape, order == "F", data, axes, storages)
        case Record(state=tuple() as state):
            pass
        case _:
            raise CorruptFileError("a numpy array without its values")
    if len(state) not in (4, 5):
        raise CorruptFileError("a numpy array without its values")
    shape, dtype, fortran, data = state[-4:]
    return _tensor(name, dtype, shape, bool(fortran), data, None, storages)


def _tensor(
    name: str, dtype: object, shape: object, fortran: bool, data: object, axes: object, storages: dict[str, Storage]
) -> Tensor | str | None:
    kind = element_type(dtype)
    if kind is None:
        code = dtype.args[0] if isinstance(dtype, Record) and dtype.args else "?"
        if isinstance(code, str) and code.lstrip("<>=|")[:1] in ("S", "U", "M", "m", "a"):
            return None  # text and dates are no weights
        return f"a numpy array of element type {code}"
    extents = checked_shape(shape)
    raw = data.encode() if isinstance(data, str) else data
    if not isinstance(raw, (bytes, bytearray, memoryview)):
        raise CorruptFileError("a numpy array whose values are no bytes")
    storage = Storage(name, kind[0], product(extents), big_endian=kind[1])
    storage.put(Blob(raw, data), 0, len(raw))
    storages[name] = storage
    strides = contiguous(extents)
    if isinstance(axes, tuple):
        if sorted(axes) != list(range(len(extents))):
            raise CorruptFileError("a numpy array whose axes are no permutation")
        extents, strides = tuple(extents[a] for a in axes), tuple(strides[a] for a in axes)
    elif fortran:
        strides = contiguous(extents[::-1])[::-1]
    return strided(storage, kind[0], 0, extents, strides)
