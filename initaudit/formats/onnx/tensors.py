"""ONNX tensors as lazy tensors: where each value lies, and how it is decoded when somebody asks.

`Tensor.storage` is "FILE@BYTE": the external file ("" for the model itself) and the byte at which the numbers start, so
that two initializers that share bytes are tied, and a writer finds its place. Numbers that do not lie there as plain
little-endian values (varints, sub-byte types) carry their encoding after a colon.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath, PureWindowsPath

import numpy as np

from initaudit.dtypes import numpy_dtype
from initaudit.errors import CorruptFileError, ReadError, UnsafeFileError
from initaudit.formats.interrupted import refuse_interrupted
from initaudit.formats.mapped import MappedFile
from initaudit.formats.onnx.protobuf import BYTES, FIXED32, FIXED64, Message, varint_count, varints
from initaudit.formats.onnx.records import Span, SparseRecord, TensorRecord
from initaudit.types import Array, Skip, Tensor

DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 14: "complex64", 15: "complex128", 16: "bfloat16", 17: "float8_e4m3fn",
    18: "float8_e4m3fnuz", 19: "float8_e5m2", 20: "float8_e5m2fnuz", 21: "uint4", 22: "int4", 23: "float4_e2m1fn",
    24: "float8_e8m0fnu", 25: "uint2", 26: "int2",
}  # fmt: skip
PACKED_BITS = {"uint4": 4, "int4": 4, "float4_e2m1fn": 4, "uint2": 2, "int2": 2}
_FLOAT4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
TYPED_FIELD = {1: 4, 14: 4, 7: 7, 11: 10, 15: 10, 12: 11, 13: 11}  # everything else lies in int32_data
_STRING = 8
MOST_ELEMENTS = 1 << 30  # of what is made rather than found in the file
_MOST_AXES = 32  # what every numpy holds


def loaded_dtype(name: str) -> np.dtype[np.generic]:
    """Return the numpy type in which values of dtype `name` are handed out; sub-byte ones are widened."""
    if name in PACKED_BITS:
        return np.dtype(np.float32 if name.startswith("float") else np.uint8 if name.startswith("u") else np.int8)
    return numpy_dtype(name)


def element_count(name: str, dims: tuple[int, ...]) -> int:
    """Return the product of the extents.

    Raises:
        CorruptFileError: no array can have this shape.
    """
    extent = math.prod(max(d, 1) for d in dims)
    if len(dims) > _MOST_AXES or extent >= 1 << 60:
        raise CorruptFileError(f"tensor {name!r} has an impossible shape: {str(dims)[:80]}")
    return math.prod(dims)


class Source:
    """Where the bytes of a model's tensors are: the model file itself and the external files beside it."""

    def __init__(self, file: MappedFile) -> None:
        self.file = file
        self.message = Message(file.view(0, file.size), 0, file.size)
        self._external: dict[str, MappedFile] = {}
        self._made: dict[int, Tensor | Skip] = {}
        self._records: dict[int, TensorRecord] = {}
        self.sparse_ones: dict[str, SparseRecord] = {}  # by the storage of their tensors

    def stored(self) -> Iterator[tuple[TensorRecord, Tensor]]:
        """Yield every tensor that was handed out, with its record."""
        for at, tensor in self._made.items():
            if isinstance(tensor, Tensor):
                yield self._records[at], tensor

    def tensor(self, record: TensorRecord, name: str = "") -> Tensor | Skip:
        """Return the tensor of a record, the same one each time, or why it is not read.

        Raises:
            CorruptFileError: its shape and its data do not agree.
            UnsafeFileError: its data lie outside the model's folder.
            ReadError: its external file is missing.
        """
        if record.at not in self._made:
            self._made[record.at] = self._make(record, name or record.name)
            self._records[record.at] = record
        return self._made[record.at]

    def sparse(self, record: SparseRecord, name: str = "") -> Tensor | Skip:
        """Return a sparse tensor as a dense one, filled in when it is asked for."""
        name = name or record.values.name
        values, indices = self.tensor(record.values, name), self.tensor(record.indices, name)
        if isinstance(values, Skip):
            return values
        if isinstance(indices, Skip) or indices.dtype != "int64" or len(values.shape) != 1:
            raise CorruptFileError(f"sparse tensor {name!r} has indices or values of a wrong type")
        dims, n = record.dims, values.size
        total = element_count(name, dims)
        if indices.shape not in ((n,), (n, len(dims))):
            raise CorruptFileError(f"sparse tensor {name!r} has {n} values, but indices of shape {indices.shape}")
        if total > MOST_ELEMENTS:
            return Skip(name, f"sparse tensor of {total} elements, more than are filled in")
        kind = loaded_dtype(values.dtype)

        def load() -> Array:
            at = indices.load()
            if at.ndim == 2:
                places = np.array(dims, np.int64)
                if n and not bool(((at >= 0) & (at < places)).all()):
                    raise CorruptFileError(f"sparse tensor {name!r} has an index outside its shape")
                at = np.ravel_multi_index(tuple(at.T), dims) if n else at[:, 0]
            elif n and not (at.min() >= 0 and at.max() < total):
                raise CorruptFileError(f"sparse tensor {name!r} has an index outside its shape")
            dense = np.zeros(total, kind)
            dense[at] = values.load()
            return dense.reshape(dims)

        storage = f"{values.storage}:sparse{dims}"
        self.sparse_ones[storage] = record
        return Tensor(name, dims, values.dtype, load, storage)

    def _make(self, record: TensorRecord, name: str) -> Tensor | Skip:
        total = element_count(name, record.dims)
        if record.kind == _STRING:
            return Skip(name, "a tensor of strings")
        if record.kind not in DTYPES:
            return Skip(name, f"element type {record.kind} of ONNX is not read")
        if record.segmented:
            return Skip(name, "a tensor stored in segments is not read")
        dtype = DTYPES[record.kind]
        if record.external is not None:
            return self._make_external(record, name, dtype, total)
        if record.raw is not None and (record.raw[1] > record.raw[0] or not record.typed):
            start, stop = record.raw
            _check_length(name, stop - start, _byte_length(dtype, total))
            return _plain(self.file, "", start, name, dtype, record.dims, total)
        return self._make_typed(record, name, dtype, total)

    def _make_external(self, record: TensorRecord, name: str, dtype: str, total: int) -> Tensor:
        said = record.external or {}
        location = said.get("location", "")
        wanted = _byte_length(dtype, total)
        offset = _natural(name, said.get("offset", "0"))
        _check_length(name, _natural(name, said.get("length", str(wanted))), wanted)
        if not wanted:
            return Tensor(name, record.dims, dtype, lambda: np.zeros(record.dims, loaded_dtype(dtype)))
        file = self.open(name, location)
        file.view(offset, wanted, f"tensor {name!r} in {location}")
        return _plain(file, location, offset, name, dtype, record.dims, total)

    def open(self, name: str, location: str) -> MappedFile:
        """Return an external file beside the model; raises as `tensor` does."""
        if location in self._external:
            return self._external[location]
        if not location:
            raise CorruptFileError(f"tensor {name!r} lies in an external file without a name")
        posix, windows = PurePosixPath(location), PureWindowsPath(location)
        if "\0" in location or posix.is_absolute() or windows.anchor or ".." in windows.parts:
            raise UnsafeFileError(f"tensor {name!r} lies outside the model's folder: {location!r}")
        refuse_interrupted(self.file.path.parent)
        path = self.file.path.parent.joinpath(*windows.parts if "\\" in location else posix.parts)
        try:
            if not path.is_file():
                raise ReadError(f"external data file {location!r} (tensor {name!r}) is missing")
            file = MappedFile(path)
        except (OSError, ValueError) as error:
            raise ReadError(f"external data file {location!r} cannot be read: {error}") from None
        except CorruptFileError:
            raise CorruptFileError(f"external data file {location!r} (tensor {name!r}) is empty") from None
        self._external[location] = file
        return file

    def _make_typed(self, record: TensorRecord, name: str, dtype: str, total: int) -> Tensor:
        number = TYPED_FIELD.get(record.kind, 5)
        spans = record.typed.get(number, ())
        strays = [n for n in record.typed if n != number]
        if strays and not spans:
            raise CorruptFileError(f"tensor {name!r} of type {dtype} has its data in field {strays[0]}, not {number}")
        width = {4: 4, 10: 8}.get(number, 0)
        found = 0
        for span in spans:
            if span.wire != BYTES:
                found += span.numbers
            elif width:
                _check_length(name, (span.stop - span.start) % width, 0)
                found += (span.stop - span.start) // width
            else:
                found += varint_count(self.message.buffer[span.start : span.stop])
        per_word = 8 // PACKED_BITS.get(dtype, 8)  # small numbers go by bytes, one byte a word
        wanted = total * 2 if dtype.startswith("complex") else -(-total // per_word)
        if found != wanted:
            raise CorruptFileError(f"tensor {name!r} of shape {record.dims} needs {wanted} numbers, but has {found}")
        if width and len(spans) == 1 and spans[0].wire == BYTES:
            return _plain(self.file, "", spans[0].start, name, dtype, record.dims, total)
        storage = f"@{spans[0].start}:field{number}" if spans else ""
        load = _typed_loader(self.message, spans, number, dtype, record.dims, total)
        return Tensor(name, record.dims, dtype, load, storage)


def _natural(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise CorruptFileError(f"tensor {name!r} has an external offset or length that is no number: {text[:40]!r}")
    return int(text)


def _byte_length(dtype: str, total: int) -> int:
    if dtype in PACKED_BITS:
        return -(-total * PACKED_BITS[dtype] // 8)
    return total * numpy_dtype(dtype).itemsize


def _check_length(name: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise CorruptFileError(f"tensor {name!r} needs {wanted} bytes, but has {found}")


def _plain(file: MappedFile, label: str, at: int, name: str, dtype: str, dims: tuple[int, ...], total: int) -> Tensor:
    """Return a tensor whose values lie in a file as they are."""
    length = _byte_length(dtype, total)

    def release() -> None:
        file.release(at, length)

    if dtype in PACKED_BITS:

        def unpack() -> Array:
            return _unpack(file.array(at, "uint8", (length,), name), dtype, total).reshape(dims)

        return Tensor(name, dims, dtype, unpack, f"{label}@{at}:{dtype}", release=release)

    def load() -> Array:
        return file.array(at, dtype, dims, name)

    return Tensor(name, dims, dtype, load, f"{label}@{at}", release=release)


def _unpack(packed: Array, dtype: str, total: int) -> Array:
    """Return sub-byte values, low bits first, as int8, uint8 or float32."""
    bits = PACKED_BITS[dtype]
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    values = ((packed[:, None] >> shifts) & np.uint8((1 << bits) - 1)).reshape(-1)[:total]
    if dtype == "float4_e2m1fn":
        return np.asarray(_FLOAT4[values])
    if dtype.startswith("u"):
        return values
    half = np.int8(1 << (bits - 1))
    return np.asarray((values.view(np.int8) ^ half) - half)


def _typed_loader(
    message: Message, spans: tuple[Span, ...], number: int, dtype: str, dims: tuple[int, ...], total: int
) -> Callable[[], Array]:
    """Return how to decode values that lie in a typed field of TensorProto."""

    def load() -> Array:
        words = [_words(message, span, number) for span in spans]
        flat = np.concatenate(words) if words else np.zeros(0, np.uint64)
        if dtype in PACKED_BITS:
            return _unpack(flat.astype(np.uint8), dtype, total).reshape(dims)
        kind = numpy_dtype(dtype)
        if number in (4, 10):
            return flat.view(kind).reshape(dims)
        if kind.kind == "b":
            return np.asarray(flat != 0).reshape(dims)
        # integers, and the bits of small floats: the low bytes of each word
        return np.asarray(flat.astype(f"<u{kind.itemsize}").view(kind).reshape(dims))

    return load


def _words(message: Message, span: Span, number: int) -> Array:
    width = {FIXED32: 4, FIXED64: 8}.get(span.wire, {4: 4, 10: 8}.get(number, 0))
    octets = message.buffer[span.start : span.stop]
    if not width:
        if span.wire == BYTES:
            return varints(octets)
        return np.array([v for _, _, v, _, _ in Message(message.buffer, span.start - 1, span.stop)], np.uint64)
    if span.wire == BYTES:
        return np.frombuffer(octets, f"<f{width}")
    rows = np.frombuffer(message.buffer[span.start - 1 : span.stop], np.uint8).reshape(span.numbers, width + 1)
    return np.ascontiguousarray(rows[:, 1:]).view(f"<f{width}").reshape(-1)


def made(name: str, value: object, dtype: str) -> Tensor:
    """Return a number or a tuple of numbers as a tensor."""
    array = np.array(value, numpy_dtype(dtype))
    return Tensor(name, array.shape, dtype, lambda: array)
