"""New values for tensors that lie in a file as plain runs of elements: which bytes become which.

    edits of one storage -> spans of bytes, merged where views overlap -> one Patch of the same length each

What lies between the elements of a strided view keeps its bytes. Values are asked for only when a patch is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

from initaudit.dtypes import numpy_dtype
from initaudit.edits import Edit, Patch
from initaudit.errors import CorruptFileError, UnsupportedError
from initaudit.strides import strides_of
from initaudit.types import Array, Tensor

_NUMPY = {"float64", "float32", "float16", "complex64", "complex128"}  # numpy rounds to these to nearest even
_NARROW = {"bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"}
_BLOCK = 1 << 20  # elements that are rounded at a time


class Source(Protocol):
    """The original bytes; a MappedFile is one."""

    def view(self, offset: int, length: int, what: str = "data") -> memoryview:
        """Return `length` bytes from `offset`, or raise CorruptFileError."""


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes of a storage, counted from its first, from the first to behind the last element of some edits."""

    start: int
    stop: int
    edits: tuple[Edit, ...]


def element_patches(
    source: Source, start: int, nbytes: int, edits: Sequence[Edit], *, big_endian: bool = False
) -> tuple[Patch, ...]:
    """Return the patches for edits of tensors that share one storage: ascending, disjoint, of unchanged length.

    Args:
        source: gives the original bytes, `start` counting from its first.
        start: byte where element 0 of the storage lies (a tensor's offset and strides count from there).
        nbytes: length of the storage.
        edits: all that change it.
        big_endian: how its elements lie.

    Raises:
        UnsupportedError: the element type cannot take new values. When a patch's data are asked for: a value has no
            finite place in that type, or views of the same element disagree.
        CorruptFileError: a tensor reaches beyond the storage.
    """
    spans = _spans(edits)
    for span in spans:
        if span.start < 0 or span.stop > nbytes:
            names = span.edits[0].tensor.name
            raise CorruptFileError(f"{names} reaches byte {span.stop} of a storage of {nbytes}")
    return tuple(
        Patch(start + span.start, start + span.stop, partial(_data, source, start, span, big_endian)) for span in spans
    )


def rewritten(raw: bytes | memoryview, edits: Sequence[Edit], *, big_endian: bool = False) -> bytearray:
    """Return a whole storage with its edits made, for encodings where it cannot be changed in place.

    Raises:
        UnsupportedError: an edit cannot be made, as in `element_patches`.
        CorruptFileError: a tensor reaches beyond the storage.
    """
    data = bytearray(raw)
    for patch in element_patches(_Held(raw), 0, len(data), edits, big_endian=big_endian):
        data[patch.start : patch.stop] = patch.data()
    return data


def in_order(patches: Iterable[Patch]) -> tuple[Patch, ...]:
    """Return the patches of several storages by where they lie.

    Raises:
        UnsupportedError: two of them overlap.
    """
    found = sorted(patches, key=lambda patch: (patch.start, patch.stop))
    for before, after in pairwise(found):
        if before.stop > after.start:
            raise UnsupportedError(f"two storages overlap at byte {after.start}, and both would change")
    return tuple(found)


def check_writable(tensor: Tensor) -> None:
    """Refuse a tensor whose element type cannot hold new weights.

    Raises:
        UnsupportedError: with why.
    """
    dtype = tensor.dtype
    if dtype in _NUMPY or dtype in _NARROW:
        return
    if dtype == "float8_e8m0fnu":
        why = "holds powers of two only, which scale other numbers"
    elif dtype.startswith(("qint", "quint")):
        why = "is quantised: new values would need a new scale too; fix the model before it is quantised"
    elif dtype.startswith(("int", "uint", "bool")):
        why = "holds whole numbers, not weights"
    else:
        why = "packs values in a way that is not written"
    raise UnsupportedError(f"{tensor.name}: element type {dtype} {why}")


def cast(tensor: Tensor, values: Array) -> Array:
    """Return values as contiguous little-endian elements of a tensor's type, rounded to nearest, ties to even.

    Raises:
        UnsupportedError: the type cannot hold them, or their shape is another.
    """
    check_writable(tensor)
    if values.shape != tensor.shape:
        raise UnsupportedError(f"{tensor.name}: new values of shape {list(values.shape)} for {list(tensor.shape)}")
    if (values.dtype.kind == "c") != tensor.dtype.startswith("complex"):
        kinds = "complex", "real"
        new, old = kinds if values.dtype.kind == "c" else kinds[::-1]
        raise UnsupportedError(f"{tensor.name}: {new} values for a tensor of {old} numbers ({tensor.dtype})")
    kind = numpy_dtype(tensor.dtype)
    flat = np.ascontiguousarray(values).reshape(-1)
    if flat.dtype == kind:
        return flat.reshape(tensor.shape)
    out = np.empty(flat.shape, kind)
    for at in range(0, flat.size, _BLOCK):
        block = flat[at : at + _BLOCK]
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            done = (_odd(block) if tensor.dtype in _NARROW else block).astype(kind)
        lost = np.isfinite(block) & ~np.isfinite(done.astype(_wide(kind)))
        if lost.any():
            most = np.abs(block[lost]).max()
            raise UnsupportedError(f"{tensor.name}: a new value of size {most:.4g} is more than {tensor.dtype} holds")
        out[at : at + _BLOCK] = done
    return out.reshape(tensor.shape)


def _odd(values: Array) -> Array:
    """Round float64 to float32, to the odd neighbour where inexact: rounding that once more is then exact.

    Boldo & Melquiond 2008, "Emulation of FMA and correctly rounded sums", theorem 3. ml_dtypes goes through float32.
    """
    near = values.astype(np.float32)
    if values.dtype.itemsize <= near.dtype.itemsize:
        return near
    exact = near.astype(values.dtype)
    beyond = np.abs(exact) > np.abs(values)
    near[beyond] = np.nextafter(near[beyond], np.float32(0))
    bits: Array = near.view(np.uint32)
    bits[(exact != values) & np.isfinite(values)] |= 1
    return near


def _wide(kind: np.dtype[Any]) -> np.dtype[Any]:
    """Return a type of numpy's own that holds all values of another."""
    return kind if kind.kind in "fc" else np.dtype(np.float32)


# -- spans


def _spans(edits: Sequence[Edit]) -> list[Span]:
    """Return the byte ranges of edits, those that overlap in one."""
    found: list[tuple[int, int, Edit]] = []
    for edit in edits:
        check_writable(edit.tensor)
        if edit.tensor.size:
            found.append((*_reach(edit.tensor), edit))
    found.sort(key=lambda one: one[:2])
    spans: list[Span] = []
    for start, stop, edit in found:
        if spans and start < spans[-1].stop:
            last = spans[-1]
            spans[-1] = Span(last.start, max(last.stop, stop), (*last.edits, edit))
        else:
            spans.append(Span(start, stop, (edit,)))
    return spans


def _reach(tensor: Tensor) -> tuple[int, int]:
    """Return the first byte of a tensor in its storage and the one behind its last."""
    steps = [(extent - 1) * step for extent, step in zip(tensor.shape, strides_of(tensor), strict=True)]
    low = tensor.offset + sum(step for step in steps if step < 0)
    high = tensor.offset + sum(step for step in steps if step > 0)
    width = numpy_dtype(tensor.dtype).itemsize
    return low * width, (high + 1) * width


# -- bytes


def _data(source: Source, start: int, span: Span, big_endian: bool) -> bytearray | memoryview:
    """Return the new bytes of a span."""
    whole = span.edits[0].tensor
    if len(span.edits) == 1 and whole.strides is None:
        return _units(whole, span.edits[0].values(), big_endian).reshape(-1).view(np.uint8).data
    data = bytearray(source.view(start + span.start, span.stop - span.start, whole.name))
    for edit in span.edits:
        _window(data, span, edit.tensor)[...] = _units(edit.tensor, edit.values(), big_endian)
    for edit in span.edits if len(span.edits) > 1 or _repeats(whole) else ():
        # what was written last is everywhere; whoever wanted another value there would not get it
        if not np.array_equal(_window(data, span, edit.tensor), _units(edit.tensor, edit.values(), big_endian)):
            raise UnsupportedError(f"{edit.tensor.name}: elements that share a place in the file would differ")
    return data


def _repeats(tensor: Tensor) -> bool:
    """Whether two elements may lie in one place."""
    along = sorted((abs(step), extent) for step, extent in zip(strides_of(tensor), tensor.shape, strict=True))
    reach = 0
    for step, extent in along:
        if extent > 1:
            if step <= reach:
                return True
            reach += step * (extent - 1)
    return False


def _units(tensor: Tensor, values: Array, big_endian: bool) -> Array:
    """Return values as whole numbers of the width of one element, in the byte order of the file.

    numpy refuses views with strides of the types of ml_dtypes, and compares no NaN as equal; a complex number is two.
    """
    done = cast(tensor, values)
    width = done.dtype.itemsize
    if done.dtype.kind == "c":
        width //= 2
    units: Array = np.atleast_1d(done).view(f"u{width}").reshape(*tensor.shape, -1)
    return units.byteswap() if big_endian and width > 1 else units


def _window(data: bytearray, span: Span, tensor: Tensor) -> Array:
    """Return the elements of a tensor in the bytes of its span, as `_units` has them."""
    kind = numpy_dtype(tensor.dtype)
    parts = 2 if kind.kind == "c" else 1
    width = kind.itemsize // parts
    steps = (*(step * kind.itemsize for step in strides_of(tensor)), width)
    at = tensor.offset * kind.itemsize - span.start
    return np.ndarray((*tensor.shape, parts), f"u{width}", data, at, steps)


class _Held:
    """Bytes in memory, as a source."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._data = memoryview(data)

    def view(self, offset: int, length: int, what: str = "data") -> memoryview:
        """Return a part."""
        return self._data[offset : offset + length]
