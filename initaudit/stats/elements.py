"""Elements of every dtype as float32 or float64 with their bits, one box at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from initaudit.errors import UnsupportedError
from initaudit.stats.layout import CHUNK
from initaudit.types import Array

_HALF = np.int32(-0x7000_0001)  # 0x8fffffff: drops the copies of the sign that widening int16 left in the exponent
_HALF_BIAS = np.float32(2.0**112)


@dataclass(frozen=True, slots=True)
class Word:
    """A float type that boxes are worked on in, and the layout of its bits."""

    float: np.dtype[Any]
    uint: np.dtype[Any]
    magnitude: int  # all bits but the sign
    infinity: int  # bits of +inf: everything above is NaN
    shift: int  # leaves the exponent and three bits of the mantissa
    bins: int

    @cache  # noqa: B019  there are two of them
    def edges(self) -> Array:
        """Return the base-2 logarithms of the edges of the histogram's bins, the first being the least number."""
        bits = np.arange(self.bins + 1, dtype=self.uint) << self.uint.type(self.shift)
        logs = np.log2(np.maximum(bits, self.uint.type(1)).view(self.float).astype(np.float64))
        logs[-1] = np.finfo(self.float).maxexp  # where infinity begins
        return np.asarray(logs)


WORD32 = Word(np.dtype("f4"), np.dtype("u4"), 0x7FFF_FFFF, 0x7F80_0000, 20, 2040)
WORD64 = Word(np.dtype("f8"), np.dtype("u8"), (1 << 63) - 1, 0x7FF << 52, 49, 0x7FF << 3)


class Scratch(threading.local):
    """Buffers of one box, made once per thread and reused for every box."""

    @cached_property
    def value(self) -> Array:
        """For the working copy."""
        return np.empty(CHUNK, np.float64)

    @cached_property
    def square(self) -> Array:
        """For the squares."""
        return np.empty(CHUNK, np.float64)

    @cached_property
    def bits(self) -> Array:
        """For the magnitudes."""
        return np.empty(CHUNK, np.uint64)

    @cached_property
    def spare(self) -> Array:
        """For intermediate bits."""
        return np.empty((2, CHUNK), np.uint64)

    @cached_property
    def hash(self) -> Array:
        """For the mixed bits."""
        return np.empty(CHUNK, np.uint64)

    @cached_property
    def flag(self) -> Array:
        """For comparisons."""
        return np.empty(CHUNK, np.bool_)


SCRATCH = Scratch()


@dataclass(frozen=True, slots=True)
class Elements:
    """How the elements of a stored dtype become floats.

    float16, bfloat16, the 8-bit floats and integers up to 16 bits are exact in float32, wider ones are worked on in
    float64. Hashes are of the working copy's bits, so equal values agree across those dtypes; 64-bit integers, which
    float64 cannot hold, are hashed by their own bits.
    """

    word: Word
    least: int  # magnitude bits of the smallest normal number of the stored dtype; 0 where there are no subnormals
    epsilon: float  # relative distance between numbers of the stored dtype
    read: Callable[[Array, Array], None] | None  # fills a buffer; None: the working type itself
    raw: bool = False

    def load(self, box: Array) -> tuple[Array, Array]:
        """Return the box as a contiguous array of the working type, and the bits to hash."""
        if self.read is None and box.flags.c_contiguous and box.flags.aligned:
            return box, box.reshape(-1).view(self.word.uint)
        out = SCRATCH.value.view(self.word.float)[: box.size].reshape(box.shape)
        if self.read is None:
            np.copyto(out, box)
        else:
            self.read(box, out)
        bits = np.ascontiguousarray(box).reshape(-1) if self.raw else out.reshape(-1)
        return out, bits.view(self.word.uint)


def elements(array: Array) -> tuple[Array, Elements]:
    """Return the array as one of real numbers (complex ones get a last axis of two), and how to read it.

    Raises:
        UnsupportedError: its elements are no numbers.
    """
    dtype = array.dtype
    if dtype.kind == "c":
        part = np.dtype(f"{dtype.byteorder}f{dtype.itemsize // 2}")
        array = array[..., None].view(part)
        dtype = part
    if dtype == np.float32 and dtype.isnative:
        return array, Elements(WORD32, 0x0080_0000, 2.0**-23, None)
    if dtype == np.float64 and dtype.isnative:
        return array, Elements(WORD64, 1 << 52, 2.0**-52, None)
    if dtype == np.float16:
        return array, Elements(WORD32, _bits32(2.0**-14), 2.0**-10, _half if dtype.isnative else _cast)
    if dtype.kind == "f" and dtype.itemsize in (4, 8):
        if dtype.itemsize == 4:
            return array, Elements(WORD32, 0x0080_0000, 2.0**-23, _cast)
        return array, Elements(WORD64, 1 << 52, 2.0**-52, _cast)
    if dtype.kind in "iub":
        if dtype.itemsize == 1:
            return array, Elements(WORD32, 0, 0.0, _lookup(dtype))
        if dtype.itemsize == 2:
            return array, Elements(WORD32, 0, 0.0, _cast)
        return array, Elements(WORD64, 0, 0.0, _cast, raw=dtype.itemsize == 8 and dtype.isnative)
    if dtype.kind in "Vf" and dtype.names is None and dtype.itemsize <= 2:
        try:
            least, epsilon = _limits(dtype)
        except (ValueError, TypeError):
            raise UnsupportedError(f"elements of type {dtype} are not measured") from None
        return array, Elements(WORD32, _bits32(least), epsilon, _lookup(dtype) if dtype.itemsize == 1 else _cast)
    raise UnsupportedError(f"elements of type {dtype} are not measured")


def _bits32(value: float) -> int:
    return int(np.float32(value).view(np.uint32))


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    """Return the smallest normal number and the relative spacing of one of ml_dtypes' types."""
    import ml_dtypes  # noqa: PLC0415  costs 20 ms, and an array of its types has imported it

    try:
        limits = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
    except ValueError:
        ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
        return 0.0, 0.0
    return float(limits.smallest_normal), float(limits.eps)


def _cast(box: Array, out: Array) -> None:
    np.copyto(out, box, casting="unsafe")


def _half(box: Array, out: Array) -> None:
    """Widen float16 by moving its bits: numpy's own cast takes five times as long."""
    wide = out.view(np.int32)
    np.copyto(wide, box.view(np.int16))
    np.left_shift(wide, 13, out=wide)
    np.bitwise_and(wide, _HALF, out=wide)
    np.multiply(out, _HALF_BIAS, out=out)
    if np.max(np.abs(out), initial=0.0) >= 65536.0:  # infinities and NaN have become numbers
        np.copyto(out, box)


def _lookup(dtype: np.dtype[Any]) -> Callable[[Array, Array], None]:
    codes = np.arange(256, dtype=np.uint8)
    table = (codes != 0).astype(np.float32) if dtype.kind == "b" else codes.view(dtype).astype(np.float32)

    def read(box: Array, out: Array) -> None:
        np.take(table, box.view(np.uint8), out=out, mode="clip")

    return read
