"""Sums of weights over classes of units, exact whatever their order.

Two units are tied only if their sums are equal, and rounding must neither join nor part them. So a weight is written as
whole numbers of 20 bits at fixed places, and multiplied with three random whole numbers per class, each of 20 bits:
products and sums of 4096 of them stay below 2^53, where float64 is exact, and a matrix product does the work. Two
different vectors of sums over classes agree in all the products by chance with a probability of about 2^-60.
"""

from __future__ import annotations

import numpy as np

from initaudit.symmetry.labels import chained, mix
from initaudit.types import Array

_BITS = 20
_RANDOM = 20
_COLUMNS = 3
_CHUNK = 1 << 21  # elements of a weight at a time
_LONG = 1 << 12  # terms of a sum that surely stays exact
_FAR = 40  # places from which powers of two no longer fit a number
_U = np.uint64


class NotFinite(Exception):  # noqa: N818  not an error: such a weight has no sums
    """A weight holds NaN or infinity."""


def projected(weight: Array, labels: Array) -> Array:
    """Return a label for every row of a stack of weights and every set of labels.

    Args:
        weight: (stack, rows, terms), real numbers of any kind.
        labels: (sets, stack, terms), uint64: which class each term belongs to.

    Returns:
        (sets, stack, rows), uint64: equal where the sums over each class are equal.

    Raises:
        NotFinite: the weight holds NaN or infinity.
    """
    stack, rows, terms = weight.shape
    sets = len(labels)
    out = np.zeros((sets, stack, rows), _U)
    if not weight.size:
        return out
    deep = max(1, _CHUNK // (rows * terms))
    high = max(1, _CHUNK // min(terms, _LONG)) if deep == 1 else rows
    for s in range(0, stack, deep):
        factors = _factors(labels[:, s : s + deep])
        for r in range(0, rows, high):
            out[:, s : s + deep, r : r + high] = _labels(_sums(weight[s : s + deep, r : r + high], factors), sets)
    return out


def _factors(labels: Array) -> Array:
    """Return (stack, terms, sets x columns) random whole numbers, equal for equal labels."""
    column = mix(np.arange(1, _COLUMNS + 1, dtype=_U))
    random = chained(labels.transpose(1, 2, 0)[..., None], column) >> _U(64 - _RANDOM)
    return (random.astype(np.float64) - 2.0 ** (_RANDOM - 1)).reshape(*labels.shape[1:], -1)


def _sums(weight: Array, factors: Array) -> dict[int, Array]:
    """Return whole numbers T_s with sum over s of T_s 2^(20 s) = weight @ factors."""
    sums: dict[int, Array] = {}
    for start in range(0, weight.shape[2], _LONG):
        part = weight[:, :, start : start + _LONG].astype(np.float64)
        own = factors[:, start : start + _LONG]
        largest = max(float(part.max()), -float(part.min()))
        if not np.isfinite(largest):
            raise NotFinite
        place = _place(largest)
        while largest:
            digits = np.ldexp(part, -_BITS * place) if abs(place) > _FAR else part * 2.0 ** (-_BITS * place)
            np.trunc(digits, out=digits)
            found = np.rint(digits @ own).astype(np.int64)
            sums[place] = sums[place] + found if place in sums else found
            if abs(place) > _FAR:
                digits = np.ldexp(digits, _BITS * place)
            else:
                digits *= 2.0 ** (_BITS * place)
            part -= digits
            largest = max(float(part.max()), -float(part.min()))
            place = min(place - 1, _place(largest))
    return sums


def _place(largest: float) -> int:
    """Return the first place where a number has a digit that is not zero, or one above."""
    return int(np.ceil(np.frexp(largest)[1] / _BITS)) - 1


def _labels(sums: dict[int, Array], sets: int) -> Array:
    """Return (sets, stack, rows) labels of the numbers that whole numbers at several places stand for."""
    if not sums:
        return np.zeros((), _U)
    shape = next(iter(sums.values())).shape
    total, negative = _digits(sums, shape)
    other, _ = _digits({place: -value for place, value in sums.items()}, shape)
    with np.errstate(over="ignore"):
        found = np.where(negative, mix(other) + _U(1), total).reshape(*shape[:-1], sets, _COLUMNS)
        column = mix(np.arange(_COLUMNS, dtype=_U))
        return np.moveaxis(mix(np.asarray(np.sum(mix(found + column), axis=-1, dtype=_U))), -1, 0)


def _digits(sums: dict[int, Array], shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Return a label of the digits of each number, and whether it is negative."""
    carry = np.zeros(shape, np.int64)
    out = np.zeros(shape, _U)
    low, high = min(sums), max(sums)
    place = low
    while place <= high + 4:  # what is carried beyond the highest: a sum is below 2^63
        if place not in sums and not carry.any():
            later = [p for p in sums if p > place]
            place = min(later) if later else high + 5
            continue
        now = carry + sums.get(place, 0)
        digit = now & ((1 << _BITS) - 1)
        carry = now >> _BITS
        with np.errstate(over="ignore"):
            own = mix(digit.astype(_U) + (_U((place + 2048) & 0xFFFF) << _U(32)))
            out += np.where(digit == 0, _U(0), own)
        place += 1
    return out, carry < 0
