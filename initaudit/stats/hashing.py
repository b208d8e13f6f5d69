"""Hashes of units that are equal exactly where the units are, computed in any order.

The hash of a unit is the sum over its positions of (mixed bits of the value) x (odd multiplier of the position)
modulo 2^64: a multilinear hash, so boxes of a tensor can be added up in any order, for rows and columns in the same
pass. The multiplier of a position is a(index of the other side) * c(kernel position) whichever side is hashed; the rows
of a matrix therefore hash like the columns of its transpose.
"""

from __future__ import annotations

from functools import cache, lru_cache

import numpy as np

from initaudit.types import Array

_BASE = {"o": 0, "i": 0, "k": 1 << 40, "unit": 1 << 41}  # where each kind of position draws its multipliers from
_TABLE = 1 << 20  # multipliers kept; those beyond are made when asked for
_BATCH = 1 << 14  # words worked on at a time, in cache
_MIX32 = np.uint32(0x9E3779B1)
_MIX64 = np.uint64(0x9E3779B97F4A7C15)


def scramble(values: Array) -> Array:
    """SplitMix64's output function: a bijection of uint64 without visible structure."""
    z = values + _MIX64
    shifted = np.empty_like(z)
    for bits, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= np.right_shift(z, np.uint64(bits), out=shifted)
        z *= np.uint64(factor)
    z ^= np.right_shift(z, np.uint64(31), out=shifted)
    return np.asarray(z)


def _fresh(start: int, stop: int, base: int) -> Array:
    made = np.empty(stop - start, np.uint64)
    for at in range(start, stop, _BATCH):
        some = scramble(np.arange(at + base, min(at + _BATCH, stop) + base, dtype=np.uint64))
        np.bitwise_or(some, np.uint64(1), out=made[at - start :][: len(some)])
    if start == 0 < stop:
        made[0] = 1  # so that an absent axis and one of extent 1 are the same
    return made


@lru_cache(maxsize=8)
def _table(size: int, base: int) -> Array:
    return _fresh(0, size, base)


def multipliers(start: int, stop: int, label: str) -> Array:
    """Return the odd multipliers of positions start to stop of a label; o and i share theirs."""
    base = _BASE[label]
    if stop > _TABLE:
        return _fresh(start, stop, base)
    return _table(max(4096, 1 << (stop - 1).bit_length()), base)[start:stop]


def mix(bits: Array, spare: Array, out: Array) -> None:
    """Spread the bits of each value over a word, zero to zero, into `out` (uint64); `spare` is as wide as `bits`."""
    if bits.dtype.itemsize == 4:
        hashed, shifted = spare[0], spare[1]
        np.multiply(bits, _MIX32, out=hashed)
        np.right_shift(hashed, np.uint32(16), out=shifted)
        np.bitwise_xor(hashed, shifted, out=hashed)
        np.copyto(out, hashed)
    else:
        np.multiply(bits, _MIX64, out=out)
        np.right_shift(out, np.uint64(32), out=spare[0])
        np.bitwise_xor(out, spare[0], out=out)


@cache
def _salt(shape: tuple[int, ...]) -> int:
    salt = np.uint64(0)
    for extent in shape:
        salt = scramble(np.array([salt ^ np.uint64(extent)]))[0]
    return int(salt)


def digest(hashes: Array, shape: tuple[int, ...]) -> int:
    """Hash the hashes of all units, in order, with the shape they make up."""
    total = _salt(shape)
    for start in range(0, len(hashes), _TABLE):
        some = hashes[start : start + _TABLE]
        total += int(np.einsum("i,i->", some, multipliers(start, start + len(some), "unit")))
    return total & (2**64 - 1)
