"""safetensors: eight bytes of length, a JSON header, then the tensors back to back.

    <u64 n> {"__metadata__": {"format": "pt"}, "w": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]}} ...

The header is held to the same rules as by the official library (no gap, no overlap, nothing left over), so a file
that this module reads is one that trainers read too. `Tensor.storage` is "@" and the tensor's first byte in its file.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from initaudit.edits import Edit, FilePlan
from initaudit.errors import CorruptFileError, ReadError, UnsupportedError
from initaudit.formats.base import Format
from initaudit.formats.json_text import json_object
from initaudit.formats.mapped import MappedFile
from initaudit.formats.patching import element_patches, in_order
from initaudit.naming import STATISTICS
from initaudit.types import Model, Skip, Tensor

_LENGTH = 8  # bytes of the length in front of the header
_LIMIT = 100_000_000  # bytes of header; the official library's limit
_MOST_AXES = 32  # what every supported numpy can hold
_MOST_EXTENT = 1 << 31  # numpy multiplies the extents of empty arrays too
_MOST_BITS = 1 << 66  # above the address space; multiplying on would only cost time

_DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
_BITS = {
    "F64": 64, "F32": 32, "F16": 16, "BF16": 16,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "I64": 64, "I32": 32, "I16": 16, "I8": 8, "U64": 64, "U32": 32, "U16": 16, "U8": 8,
    "BOOL": 8, "C64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class _Entry(NamedTuple):
    """What the header says of one tensor; the range counts from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def sniff(path: Path, head: bytes) -> bool:
    """Whether a brace follows a length; a file cut off before that is told by its name."""
    if len(head) <= _LENGTH:
        return len(head) > 0 and path.suffix == ".safetensors"
    return head[_LENGTH] == ord("{") and 0 in head[:_LENGTH]


def read(path: Path) -> Model:
    """Return the tensors of one file, in the order of their bytes.

    Raises:
        CorruptFileError: the header contradicts itself or the file.
        ReadError: it holds no tensors.
        UnsupportedError: it holds none of a type that can be read.
    """
    file = MappedFile(path)
    header, start = _header(file)
    free_text = _metadata(header)
    tensors: list[Tensor] = []
    skipped: list[Skip] = []
    at = 0
    for entry in _ordered(header):
        _follows(entry, at)
        at = entry.end
        why = _unreadable(entry)
        if why:
            skipped.append(Skip(entry.name, why))
        else:
            tensors.append(_tensor(file, start, entry))
    _covered(at, file.size - start)
    if not header:
        raise ReadError("holds no tensors" + (", only metadata" if free_text else ""))
    if not tensors:
        raise UnsupportedError(f"none of its {len(skipped)} tensors can be read; {skipped[0].name}: {skipped[0].why}")
    return Model(str(path), "safetensors", _detail(free_text), tuple(tensors), skipped=tuple(skipped))


def metadata(path: Path) -> dict[str, str]:
    """Return the free text in a file's header.

    Raises:
        CorruptFileError: the header contradicts itself or the file.
    """
    return _metadata(_header(MappedFile(path))[0])


def plan(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    """Return which bytes change.

    Raises:
        ReadError: the file is not the one that the tensors were read from.
        UnsupportedError: an element type cannot take new values.
    """
    file = MappedFile(path)
    header, start = _header(file)
    _metadata(header)
    entries = {start + entry.begin: entry for entry in _ordered(header) if entry.end > entry.begin}
    by_start: dict[int, list[Edit]] = {}
    for edit in edits:
        tensor = edit.tensor
        if not tensor.size:
            continue
        entry = entries.get(int(tensor.storage.removeprefix("@") or -1))
        if entry is None or _DTYPES.get(entry.dtype) != tensor.dtype:
            raise ReadError(f"tensor {tensor.name!r} is not where it was read: the file has changed")
        by_start.setdefault(start + entry.begin, []).append(edit)
    patches = (
        element_patches(file, first, entries[first].end - entries[first].begin, found)
        for first, found in by_start.items()
    )
    return (FilePlan(path, in_order(chain.from_iterable(patches))),)


FORMAT = Format("safetensors", "safetensors files", sniff, read, order=10, plan=plan)


def _header(file: MappedFile) -> tuple[dict[str, Any], int]:
    """Return the header's object and the byte where the tensors begin."""
    if file.size < _LENGTH:
        raise CorruptFileError(f"cut off: {file.size} bytes, and the length of the header alone takes {_LENGTH}")
    length = int.from_bytes(file.view(0, _LENGTH), "little")
    if length > _LIMIT:
        raise CorruptFileError(f"its header would be {length} bytes long; safetensors allows {_LIMIT}")
    if _LENGTH + length > file.size:
        raise CorruptFileError(f"cut off: the header ends at byte {_LENGTH + length}, the file at {file.size}")
    text = bytes(file.view(_LENGTH, length))
    if not text.startswith(b"{"):
        raise CorruptFileError("its header does not start with {")
    return json_object(text, "its header"), _LENGTH + length


def _metadata(header: dict[str, Any]) -> dict[str, str]:
    """Take the free text out of the header."""
    metadata = header.pop("__metadata__", None)
    if metadata is None:
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CorruptFileError("__metadata__ is not a map of strings to strings")
    return metadata


def _detail(metadata: dict[str, str]) -> str:
    framework = metadata.get("format", "")
    return f"written for {framework}" if framework.isalnum() and len(framework) < 20 else ""


def _ordered(header: dict[str, Any]) -> list[_Entry]:
    """Return every tensor's entry, each sound by itself, in the order of their bytes."""
    entries = [_entry(name, value) for name, value in header.items()]
    entries.sort(key=lambda entry: (entry.begin, entry.end))  # stable: empty tensors keep the header's order
    return entries


def _entry(name: str, value: object) -> _Entry:
    if not isinstance(value, dict):
        raise CorruptFileError(f"tensor {name!r} is not described by an object")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise CorruptFileError(f"tensor {name!r} has half a character in its name") from None
    for key in ("dtype", "shape", "data_offsets"):
        if key not in value:
            raise CorruptFileError(f"tensor {name!r} has no {key}")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str):
        raise CorruptFileError(f"tensor {name!r} has a dtype that is not a string")
    if not _naturals(shape):
        raise CorruptFileError(f"tensor {name!r} has a shape that is not a list of whole numbers")
    if not _naturals(offsets) or len(offsets) != 2:
        raise CorruptFileError(f"tensor {name!r} has data_offsets that are not two whole numbers")
    begin, end = offsets
    if end < begin:
        raise CorruptFileError(f"tensor {name!r} ends at {end}, before it begins at {begin}")
    if dtype in _BITS:
        bits = _BITS[dtype]
        for extent in shape:
            bits *= extent
            if bits >= _MOST_BITS:
                raise CorruptFileError(f"tensor {name!r} has a shape of more bytes than any file holds")
        if bits % 8:
            raise CorruptFileError(f"tensor {name!r} of {dtype} {shape} does not fill whole bytes")
        if bits // 8 != end - begin:
            raise CorruptFileError(
                f"tensor {name!r} of {dtype} {shape} needs {bits // 8} bytes, data_offsets give {end - begin}"
            )
    return _Entry(name, dtype, tuple(shape), begin, end)


def _naturals(value: object) -> bool:
    # type() and not isinstance: JSON's true is an int to Python
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 1 << 63 for n in value)


def _follows(entry: _Entry, at: int) -> None:
    name, begin = entry.name, entry.begin
    if begin < at:
        raise CorruptFileError(f"tensor {name!r} at bytes {begin} to {entry.end} of the data overlaps the one before")
    if begin > at:
        raise CorruptFileError(f"{begin - at} bytes of the data before tensor {name!r} belong to no tensor")


def _covered(needed: int, held: int) -> None:
    if needed > held:
        raise CorruptFileError(f"cut off: the tensors need {needed} bytes after the header, the file has {held}")
    if needed < held:
        raise CorruptFileError(f"{held - needed} bytes after the last tensor belong to no tensor")


def _unreadable(entry: _Entry) -> str:
    """Return why a sound tensor cannot be read, or nothing."""
    if entry.dtype not in _DTYPES:
        known = "packs several values into a byte, which is not read yet" if entry.dtype in _BITS else "is not known"
        return f"element type {entry.dtype} {known}"
    if len(entry.shape) > _MOST_AXES:
        return f"{len(entry.shape)} axes, and at most {_MOST_AXES} are read"
    if 0 in entry.shape and max(entry.shape) > _MOST_EXTENT:
        return f"empty, with an axis of {max(entry.shape)}"
    return ""


def _tensor(file: MappedFile, start: int, entry: _Entry) -> Tensor:
    name, shape, dtype = entry.name, entry.shape, _DTYPES[entry.dtype]
    first, length = start + entry.begin, entry.end - entry.begin
    return Tensor(
        name,
        shape,
        dtype,
        partial(file.array, first, dtype, shape, name),
        storage=f"@{first}" if length else "",  # two empty tensors in one place are not tied
        buffer=name.endswith(STATISTICS),
        release=partial(file.release, first, length),
    )
