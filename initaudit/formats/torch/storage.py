"""What a tensor of a torch file looks at: runs of bytes in the file, in an archive member or in a pickled string."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from initaudit.dtypes import numpy_dtype
from initaudit.errors import CorruptFileError, UnsupportedError
from initaudit.strides import contiguous
from initaudit.types import Array, Skip, Tensor

if TYPE_CHECKING:
    from initaudit.formats.torch.archive import Archive

MAX_DIMENSIONS = 32  # what every numpy can hold
MAX_ELEMENTS = 2**48
MAX_EXPANDED = 2**26  # elements of a tensor that repeats its storage (stride 0): more would be a bomb for every reader

STORAGE_DTYPES = {
    "FloatStorage": "float32", "DoubleStorage": "float64", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool", "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128", "QInt8Storage": "qint8", "QUInt8Storage": "quint8",
    "QInt32Storage": "qint32", "UntypedStorage": "uint8", "QUInt4x2Storage": "quint4x2",
    "QUInt2x4Storage": "quint2x4",
}  # fmt: skip
QUANTISED = {"qint8": "int8", "quint8": "uint8", "qint32": "int32"}  # how the integers lie in the storage
PACKED = {"quint4x2", "quint2x4"}  # several values in a byte


class Source(Protocol):
    """Bytes that are read on demand; a MappedFile is one."""

    size: int

    def view(self, offset: int, length: int, what: str = "data") -> memoryview:
        """Return `length` bytes from `offset`, or raise CorruptFileError."""

    def release(self, offset: int, length: int) -> None:
        """Let go of these bytes in memory."""


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a zip archive, as the place where something lies."""

    archive: Archive
    name: str


class Blob:
    """Bytes in memory, as a source of their own; `origin` tells where they come from: a Member, or a pickled value."""

    def __init__(self, data: bytes | bytearray | memoryview, origin: object = None) -> None:
        self._data = memoryview(data)
        self.origin = data if origin is None else origin
        self.size = len(self._data)

    def view(self, offset: int, length: int, what: str = "data") -> memoryview:
        """Return `length` bytes from `offset`."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CorruptFileError(f"{what} at byte {offset} needs {length} bytes, but there are {self.size}")
        return self._data[offset : offset + length]

    def release(self, offset: int, length: int) -> None:
        """Do nothing: whoever holds the pickle holds these bytes."""


class Window:
    """A stretch of a source, as a source of its own: a file that lies, stored as it is, inside another."""

    def __init__(self, source: Source, start: int, size: int, origin: Member) -> None:
        self._source, self._start, self.size, self.origin = source, start, size, origin

    def view(self, offset: int, length: int, what: str = "data") -> memoryview:
        """Return `length` bytes from `offset`."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CorruptFileError(f"{what} at byte {offset} needs {length} bytes, but there are {self.size}")
        return self._source.view(self._start + offset, length, what)

    def release(self, offset: int, length: int) -> None:
        """Let go of these bytes in memory."""
        self._source.release(self._start + offset, length)


def storage_dtype(cls: str) -> str:
    """Return the element type of torch.FloatStorage, torch.cuda.FloatStorage, ...

    Raises:
        UnsupportedError: it is a storage that we do not know.
    """
    name = cls.rpartition(".")[2]
    if name not in STORAGE_DTYPES:
        raise UnsupportedError(f"a storage of class {cls[:60]}")
    return STORAGE_DTYPES[name]


def storage_size(dtype: str, numel: int) -> int:
    """Return the number of bytes of a storage.

    Raises:
        CorruptFileError: no file holds so many values.
    """
    if not 0 <= numel <= MAX_ELEMENTS:
        raise CorruptFileError(f"a storage of {numel} values")
    return numel * (1 if dtype in PACKED else numpy_dtype(QUANTISED.get(dtype, dtype)).itemsize)


@dataclass(frozen=True, slots=True)
class Loaded:
    """The value of a file with its storages in place, and every name of a class or function in it."""

    value: object
    names: set[str]
    detail: str
    skipped: tuple[Skip, ...] = ()
    storages: Mapping[str, Storage] = field(default_factory=dict)


class Storage:
    """One run of elements. `read` gives its bytes; a legacy file tells where they are only after naming them."""

    def __init__(self, name: str, dtype: str, numel: int, *, start: int = 0, big_endian: bool = False) -> None:
        self.name = name
        self.dtype = dtype
        self.numel = numel
        self.start = start  # elements, for a view of another storage
        self.big_endian = big_endian
        self.nbytes = 0
        self.place: tuple[Source | Member, int] | None = None  # where it is written: in what, from which byte
        self.read: Callable[[], memoryview] = lambda: memoryview(b"")
        self.release: Callable[[], None] = lambda: None

    def put(self, source: Source, offset: int, nbytes: int) -> None:
        """Say that the bytes lie in `source`."""
        self.nbytes = nbytes
        self.place = source, offset
        self.read = lambda: source.view(offset, nbytes, self.name)
        self.release = lambda: source.release(offset, nbytes)

    def array(self, dtype: str) -> Array:
        """Return the whole storage as a flat array of little-endian elements."""
        kind: np.dtype[Any] = numpy_dtype(QUANTISED.get(dtype, dtype))
        raw = self.read()
        values = np.frombuffer(raw, kind, len(raw) // kind.itemsize)
        if self.big_endian and kind.itemsize > 1:
            part = kind.itemsize // 2 if kind.kind == "c" else kind.itemsize
            values = values.view(f"u{part}").byteswap().view(kind)
            values.flags.writeable = False
        return values


def product(shape: Sequence[int]) -> int:
    """Return the number of elements of a shape."""
    return math.prod(shape)


def checked_shape(shape: object, what: str = "shape") -> tuple[int, ...]:
    """Return `shape` as a tuple of extents.

    Raises:
        CorruptFileError: it is none.
    """
    if not isinstance(shape, (tuple, list)) or len(shape) > MAX_DIMENSIONS:
        raise CorruptFileError(f"a tensor whose {what} is no list of at most {MAX_DIMENSIONS} numbers")
    if any(type(extent) is not int or extent < 0 for extent in shape):
        raise CorruptFileError(f"a tensor whose {what} is {str(shape)[:60]}")
    if math.prod(max(extent, 1) for extent in shape) > MAX_ELEMENTS:
        raise CorruptFileError(f"a tensor whose {what} is {str(shape)[:60]}: more than any file holds")
    return tuple(shape)


def strided(storage: Storage, dtype: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    """Return the nameless tensor that looks at `storage` in this way.

    Raises:
        CorruptFileError: it would look beyond the storage.
        UnsupportedError: numpy has no such element type.
    """
    itemsize = numpy_dtype(QUANTISED.get(dtype, dtype)).itemsize
    if len(strides) != len(shape) or offset < 0:
        raise CorruptFileError(f"a tensor of {len(shape)} dimensions with {len(strides)} strides, offset {offset}")
    offset += storage.start
    count = product(shape)
    last = offset + sum((extent - 1) * step for extent, step in zip(shape, strides, strict=True)) if count else -1
    if (last + 1) * itemsize > storage.nbytes:
        raise CorruptFileError(
            f"a tensor of shape {shape} reaches element {last} of {storage.name}, "
            f"which holds {storage.nbytes // itemsize} of {dtype}"
        )
    usual = contiguous(shape)
    flat = all(e <= 1 or s == u for e, s, u in zip(shape, strides, usual, strict=True)) or count == 0

    def load() -> Array:
        if count == 0:
            return np.empty(shape, numpy_dtype(QUANTISED.get(dtype, dtype)))
        values = storage.array(dtype)
        if flat:
            return values[offset : offset + count].reshape(shape)
        steps = tuple(step * itemsize for step in strides)
        # checks the bounds once more; as_strided does not, and refuses the types of ml_dtypes
        return np.ndarray(shape, values.dtype, values.view(np.uint8).data, offset * itemsize, steps)

    return Tensor(
        "", shape, dtype, load, storage=storage.name, offset=offset, strides=None if flat else strides,
        release=storage.release,
    )  # fmt: skip
