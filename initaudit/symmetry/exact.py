"""Labels of sums of weights over classes of units, exact whatever their order.

Two units are tied only if their sums are equal, and rounding must neither join nor part them. Of a class of one unit
the sum is the weight itself: its bits are mixed and multiplied with a random odd number that the class gives. Of a
larger class the weights are written as whole numbers at fixed places and added, which int64 does exactly; what they sum
to is mixed and multiplied likewise. The products of all classes are added in integers, so that their order does not
matter. Two different vectors of sums get one label by chance with a probability of about 2^-60.

How many units each class has is not told by the label of a sum: who compares sums compares the labels of all their
terms too, so that a class of one is never compared with a larger one.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from initaudit.symmetry.labels import chained, mix
from initaudit.types import Array

_BITS = 48  # from place to place of whole numbers
_DIGITS = (1 << _BITS) - 1
_SAFE = 61  # bits of a sum of whole numbers: with what is carried it stays below 2^63
_SLICE = 1 << 13  # terms at a time
_BLOCK = 1 << 16  # elements of a weight at a time: what fits a processor's cache
_FAR = 900  # places in bits from which powers of two no longer fit a number
_U = np.uint64
_ODD = _U(0x9E3779B97F4A7C15)
_NEGATIVE = _U(0xC2B2AE3D27D4EB4F)
_WHOLE = 2**53  # whole numbers up to here are float64 too


class NotFinite(Exception):  # noqa: N818  not an error: such a weight has no sums
    """A weight holds NaN or infinity, or numbers that float64 does not hold."""


def projected(weight: Array, labels: Array) -> Array:
    """Return a label for every row of a stack of weights and every set of labels.

    Args:
        weight: (stack, rows, terms), real numbers of any kind.
        labels: (sets, stack, terms), uint64: which class each term belongs to.

    Returns:
        (sets, stack, rows), uint64: of sets with the same labels, equal where the sums over each class are equal.

    Raises:
        NotFinite: the weight holds NaN or infinity.
    """
    stack, rows, _ = weight.shape
    out = np.zeros((len(labels), stack, rows), _U)
    if not weight.size:
        return out
    if weight.dtype.kind not in "fiubV" or (weight.dtype.itemsize > 4 and not _fits(weight)):
        raise NotFinite
    factors = chained(labels, np.ones((), _U)) | _U(1)
    order = np.argsort(labels, axis=-1, kind="stable")
    ranked = np.take_along_axis(labels, order, -1)
    first = np.ones(labels.shape, bool)
    first[..., 1:] = ranked[..., 1:] != ranked[..., :-1]
    alone = first.copy()
    alone[..., :-1] &= first[..., 1:]
    tied = ~alone.all(-1)
    if tied.any():
        single = np.zeros(labels.shape, bool)
        np.put_along_axis(single, order, alone, -1)
        _add_bits(weight, np.where(single, factors, _U(0)), out)
        for k, s in np.argwhere(tied):
            where = order[k, s][~alone[k, s]]  # the terms of larger classes, class by class
            starts = np.flatnonzero(first[k, s][~alone[k, s]])
            _add_sums(weight[s], where, starts, factors[k, s][where[starts]], out[k, s])
    else:
        _add_bits(weight, factors, out)
    return mix(out)


def _fits(weight: Array) -> bool:
    """Whether float64 holds all numbers."""
    if weight.dtype.kind in "iu":
        return bool(int(weight.max()) <= _WHOLE and int(weight.min()) >= -_WHOLE)
    return weight.dtype.itemsize == 8


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Yield pieces of an array of three axes, as long as can be along the last."""
    long = min(shape[2], _BLOCK)
    high = min(shape[1], max(1, _BLOCK // long))
    deep = min(shape[0], max(1, _BLOCK // (long * high)))
    for s in range(0, shape[0], deep):
        for r in range(0, shape[1], high):
            for t in range(0, shape[2], long):
                yield slice(s, s + deep), slice(r, r + high), slice(t, t + long)


def _add_bits(weight: Array, factors: Array, out: Array) -> None:
    """Add the mixed bits of each weight times the factor of its term: in (sets, stack, rows)."""
    turned = abs(weight.strides[2]) > abs(weight.strides[1])  # then the rows lie next to each other
    if turned:
        weight = weight.transpose(0, 2, 1)
    room = np.empty(_BLOCK, np.float64), np.empty(_BLOCK, _U)
    for at in _blocks(weight.shape):
        s, r, t = (at[0], at[2], at[1]) if turned else at
        bits = _mixed(weight[at], room)
        for k, own in enumerate(factors):
            if own[s, t].any():
                out[k, s, r] += np.einsum("str,st->sr" if turned else "srt,st->sr", bits, own[s, t])


def _mixed(part: Array, room: tuple[Array, Array]) -> Array:
    """Return the bits of numbers as float64, each mixed with all others of its own; -0.0 is 0.0."""
    x, spare = (one[: part.size].reshape(part.shape) for one in room)
    np.add(part, 0.0, out=x, dtype=np.float64, casting="unsafe")
    if not np.isfinite(x).all():
        raise NotFinite
    bits = x.view(_U)
    np.multiply(bits, _ODD, out=bits)
    np.right_shift(bits, _U(32), out=spare)
    np.bitwise_xor(bits, spare, out=bits)
    return bits


# ---- larger classes


def _add_sums(weight: Array, where: Array, starts: Array, factors: Array, out: Array) -> None:
    """Add the mixed sum over each class times its factor: in (rows,).

    Args:
        weight: (rows, terms).
        where: which terms, class by class.
        starts: where in these each class starts.
        factors: of the classes.
        out: added to.
    """
    turned = abs(weight.strides[1]) > abs(weight.strides[0])
    room = np.empty(_BLOCK, np.float64), np.empty(_BLOCK, np.float64), np.empty(_BLOCK, np.int64)
    high = max(1, _BLOCK // min(len(where), _SLICE))
    for r in range(0, len(weight), high):
        part = weight[r : r + high]
        told = _told(_sums(part.T if turned else part, where, starts, 0 if turned else 1, room))
        if told is not None:
            out[r : r + high] += np.einsum("tr,t->r" if turned else "rt,t->r", told, factors)


def _sums(part: Array, where: Array, starts: Array, axis: int, room: tuple[Array, Array, Array]) -> dict[int, Array]:
    """Return whole numbers T_s with sum over s of T_s 2^(48 s) the sums over classes."""
    sums: dict[int, Array] = {}
    ends = np.append(starts[1:], len(where))
    for begin in range(0, len(where), _SLICE):
        end = min(begin + _SLICE, len(where))
        taken = np.take(part, where[begin:end], axis)
        rest, whole, running = (one[: taken.size].reshape(taken.shape) for one in room)
        np.copyto(rest, taken, casting="unsafe")
        here = np.flatnonzero((starts < end) & (ends > begin))
        last = np.minimum(ends[here], end) - begin - 1  # term of each class
        count = int(np.diff(last, prepend=-1).max())
        largest = _largest(rest)
        while largest:
            place = _place(largest, count)
            _scaled(rest, -_BITS * place, whole)
            np.trunc(whole, out=whole)
            np.copyto(running, whole, casting="unsafe")
            np.cumsum(running, axis, out=running)  # may pass 2^63 and come round: the differences do not
            found = np.diff(running.take(last, axis), axis=axis, prepend=0)
            if len(here) == len(starts) and place not in sums:
                sums[place] = found
            else:
                shape = [len(starts) if k == axis else n for k, n in enumerate(found.shape)]
                sums.setdefault(place, np.zeros(shape, np.int64))[(slice(None),) * axis + (here,)] += found
            _scaled(whole, _BITS * place, whole)
            np.subtract(rest, whole, out=rest)
            largest = _largest(rest)
        if end < len(where):
            _carried(sums)
            top = max(sums, default=0)
            if sums and int(np.abs(sums[top]).max()) > _DIGITS:
                sums[top + 1] = sums[top] >> _BITS
                sums[top] &= _DIGITS
    return sums


def _largest(x: Array) -> float:
    largest = max(float(x.max()), -float(x.min()))
    if not np.isfinite(largest):
        raise NotFinite
    return largest


def _place(largest: float, count: int) -> int:
    """Return the lowest place at which so many numbers as large as this add up to less than 2^62."""
    exponent = int(np.frexp(largest)[1]) + (count - 1).bit_length()
    return -((_SAFE - exponent) // _BITS)


def _scaled(x: Array, bits: int, out: Array) -> None:
    if abs(bits) > _FAR:
        np.ldexp(x, bits, out=out)
    else:
        np.multiply(x, 2.0**bits, out=out)


def _carried(sums: dict[int, Array]) -> None:
    """Bring all whole numbers but the last below 2^48; the last is negative where the sum is."""
    place = min(sums, default=0)
    while place < max(sums, default=place):
        over = sums[place] >> _BITS
        sums[place] &= _DIGITS
        sums[place + 1] = sums[place + 1] + over if place + 1 in sums else over
        place += 1


def _told(sums: dict[int, Array]) -> Array | None:
    """Return a label of each number that whole numbers at several places stand for, 0 for zero; None for no numbers."""
    if not sums:
        return None
    _carried(sums)
    top = max(sums)
    negative = sums[top] < 0
    if len(sums) == 1:
        np.abs(sums[top], out=sums[top])
    elif negative.any():
        for place, digits in sums.items():
            sums[place] = np.where(negative, -digits, digits)
        _carried(sums)
    sums[top + 1] = sums[top] >> _BITS
    sums[top] &= _DIGITS
    total = negative * _NEGATIVE
    for place, digits in sums.items():
        total += digits.view(_U) * (mix(np.full(1, place + 512, _U)) | _U(1))
    np.multiply(total, _ODD, out=total)
    total ^= total >> _U(32)
    return total
