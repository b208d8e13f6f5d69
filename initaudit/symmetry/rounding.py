"""How far rounding moves numbers: steps of a dtype, also of a shorter one that numbers went through."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from initaudit.types import Array

STEPS = 2.0  # how far apart two numbers are that are each off by a step
_BITS = {2: 10, 4: 23, 8: 52}  # of the mantissa, by bytes of a float
STEP = {7: 2.0**-7, 10: 2.0**-9, 23: 2.0**-22, 52: 2.0**-49}  # one neighbour in bfloat16, two elsewhere, by such bits
_NAMED = {"float16": 10, "bfloat16": 7, "float32": 23, "float64": 52}
_ROUND = 4  # mantissa bits that a number may have by choice: 0.25, 1.5, 0.375
_SAMPLE = 24  # numbers that tell what a row went through


def precision(dtype: np.dtype[Any]) -> float:
    """Return a step of a dtype, as a share of the number; of one that holds no fractions, or is very short, zero."""
    bits = _BITS.get(dtype.itemsize, 0) if dtype.kind == "f" else _NAMED.get(dtype.name, 0)
    return STEP.get(bits, 0.0)


def step_of(dtype: str) -> float:
    """Return a step of a dtype as torch spells it, at least what sums in float64 are exact to."""
    return STEP[_NAMED.get(dtype, 52)]


def grain(values: Array) -> Array:
    """Return the step of each number: of its dtype, or of a coarser one that it went through.

    That is told by numbers that fit the coarser one though they are not round: then all that fit it went through it.

    Args:
        values: (rows, terms); each row has its own history.
    """
    out = np.full(values.shape, precision(values.dtype))
    for kept, whole, bits in _coarser(values):
        one = whole.dtype.type
        fits = (whole & one((1 << (bits - kept)) - 1)) == 0
        told = fits & ((whole & one((1 << (bits - _ROUND)) - 1)) != 0)
        out[fits & told.any(-1, keepdims=True)] = STEP[kept]
    return out


def _coarser(values: Array) -> Iterator[tuple[int, Array, int]]:
    """Yield the mantissa bits of each dtype that floats may have come from, with their bits and how many they have."""
    if values.dtype.kind == "f" and values.dtype.itemsize in (4, 8):
        whole = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
        bits = _BITS[values.dtype.itemsize]
        yield from ((kept, whole, bits) for kept in (23, 10, 7) if kept < bits)


def coarsest(values: Array) -> float:
    """Return a step that is none too small for any row or column of a weight, told by a few numbers of each."""
    out = precision(values.dtype)
    if not values.size:
        return out
    table = values.reshape(-1, values.shape[-1]) if values.ndim < 3 or len(values) < _SAMPLE else values
    table = table.reshape(len(table), -1)
    for axis in (0, 1):
        some = np.take(table, np.unique(np.linspace(0, table.shape[axis] - 1, _SAMPLE).astype(int)), axis)
        for kept, whole, bits in _coarser(some):
            fits = (whole & whole.dtype.type((1 << (bits - kept)) - 1)) == 0
            if (2 * np.count_nonzero(fits, axis=axis) > some.shape[axis]).any():
                out = max(out, STEP[kept])
    return out


def linked(values: Array, groups: Array, least: float, *, strict: bool) -> tuple[Array, bool]:
    """Return for each number the place of the first one of its group that it is nearly equal to, by way of others.

    Also whether some are so only by way of others.

    Args:
        values: numbers of a float dtype, one axis.
        groups: those of different groups are never equal.
        least: the smallest step to reckon with.
        strict: numbers that are joined only by way of others stay as they are.
    """
    wide = values.astype(np.float64)
    own = np.arange(len(wide))
    eps = np.maximum(grain(values[:, None])[:, 0], least)
    order = np.lexsort((wide, groups))
    ranked, kinds, step = wide[order], groups[order], eps[order]
    floor = 2.0**-14 if values.dtype == np.float16 else 2.0**-126  # below it steps grow no smaller
    size = np.maximum(np.abs(ranked), floor)
    reach = STEPS * np.maximum(step[1:], step[:-1]) * np.maximum(size[1:], size[:-1])
    apart = (kinds[1:] != kinds[:-1]) | ~(ranked[1:] - ranked[:-1] <= reach)
    starts = np.flatnonzero(np.concatenate(([True], apart)))
    ends = np.concatenate((starts[1:], [len(order)]))
    chain = np.repeat(np.arange(len(starts)), ends - starts)
    widest = np.maximum.reduceat(step, starts) * np.maximum(size[starts], size[ends - 1])
    narrow = ranked[ends - 1] - ranked[starts] <= STEPS * widest
    firsts = np.minimum.reduceat(order, starts)
    if strict:
        equal = np.flatnonzero(np.concatenate(([True], (ranked[1:] != ranked[:-1]) | (kinds[1:] != kinds[:-1]))))
        same = np.repeat(np.minimum.reduceat(order, equal), np.diff(np.concatenate((equal, [len(order)]))))
        own[order] = np.where(narrow[chain], firsts[chain], same)
    else:
        own[order] = firsts[chain]
    return own, not bool(narrow.all())
