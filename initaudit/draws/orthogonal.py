"""Matrices with orthonormal columns, uniform over all of them (Haar), the same bits on every machine.

LAPACK's QR gives other bits with two threads than with one, and others again on another processor, since floating sums
depend on their order. So the reflections of Householder's QR are drawn directly: the QR of a normal matrix, with the
signs of R's diagonal taken out, is a product of reflections at independent normal vectors. They are rounded to whole
numbers, which leaves each an exact reflection, and multiplied up in blocks, of which every factor is cut into pieces
that are whole multiples of a power of two. No sum of products then needs more than 53 bits: it is exact in any order,
and BLAS may do it as it likes.

Source: Stewart 1980, "The efficient generation of random orthogonal matrices", section 3; Schreiber & Van Loan 1989 for
the blocks; Ozaki et al. 2012 for the cuts.
"""

from __future__ import annotations

import math

import numpy as np

from initaudit.types import Array

_BLOCK = 128  # reflections applied at once
_LENGTH = 20  # log2 of the longest a vector gets


def orthonormal(rng: np.random.Generator, count: int, rows: int, columns: int) -> Array:
    """Return `count` matrices (count, rows, columns) with orthonormal rows or columns, whichever are fewer.

    Singular values are 1 within 1e-11.
    """
    long, short = max(rows, columns), min(rows, columns)
    if not count * short:
        return np.zeros((count, rows, columns))
    made = _columns(rng, count, long, short)
    return made if rows >= columns else made.transpose(0, 2, 1)


def turned(base: Array, rng: np.random.Generator) -> Array:
    """Return another matrix of this kind from one: its rows in another order, rows and columns with other signs.

    Uniform (Haar) itself if `base` is, for permutations and signs are orthogonal; but not independent of it. It takes a
    hundredth of the time of a new one.
    """
    rows, columns = base.shape
    made = base[rng.permutation(rows)]
    made *= rng.choice((-1.0, 1.0), (rows, 1))
    made *= rng.choice((-1.0, 1.0), columns)
    return made


def _columns(rng: np.random.Generator, count: int, long: int, short: int) -> Array:
    """Apply the reflections to the first columns of the identity, the last one first."""
    vectors, signs = _reflections(rng, count, long, short)
    made = np.zeros((count, long, short))
    diagonal = np.arange(short)
    made[:, diagonal, diagonal] = signs
    fine = 62 - math.ceil(math.log2(long) / 2)
    for start in reversed(range(0, short, _BLOCK)):
        v = vectors[:, start:, start : start + _BLOCK]
        turned = np.ascontiguousarray(v.transpose(0, 2, 1))
        part = made[:, start:, start:]  # the columns before are still those of the identity, zero from here on
        high = _rounded(part, 31)
        seen = np.matmul(turned, high) + np.matmul(turned, _rounded(part - high, fine))
        high, low = _cut(product(_inverse(np.matmul(turned, v)), seen), 1, 26)
        part -= np.matmul(v, high)
        part -= np.matmul(v, low)
    return made


def _reflections(rng: np.random.Generator, count: int, long: int, short: int) -> tuple[Array, Array]:
    """Return whole-numbered vectors, one a column with zeros above the diagonal, and the sign each column ends with."""
    grid = 2.0 ** (_LENGTH - 1 - math.ceil(math.log2(math.sqrt(long) + 6)))
    v = np.tril(np.rint(rng.standard_normal((count, long, short)) * grid))
    diagonal = np.arange(short)
    first = v[:, diagonal, diagonal]
    length = np.maximum(np.rint(np.sqrt(np.square(v).sum(axis=1))), 1.0)
    away = np.where(first < 0, -1.0, 1.0)
    v[:, diagonal, diagonal] = first + away * length
    v *= np.ldexp(1.0, _LENGTH - 1 - np.frexp(length)[1])[:, None, :]  # all about as long: nothing drowns in a sum
    return v, -away


def _inverse(gram: Array) -> Array:
    """Return T of the product of a block's reflections, 1 - V T V', by substitution without a sum."""
    left = np.triu(gram)
    diagonal = np.arange(gram.shape[-1])
    left[:, diagonal, diagonal] /= 2
    made = np.zeros_like(left)
    made[:, diagonal, diagonal] = 1.0
    for n in reversed(diagonal):
        made[:, n] /= left[:, n, n, None]
        made[:, :n] -= left[:, :n, n, None] * made[:, n, None]
    return made


def _rounded(values: Array, bits: int) -> Array:
    """Return the nearest multiples of 2^-bits."""
    return np.asarray(np.rint(values * 2.0**bits) * 2.0**-bits)


def _cut(values: Array, axis: int, bits: int) -> tuple[Array, Array]:
    """Return two addends of `bits` bits each, counted from the largest entry along an axis."""
    top = np.frexp(np.abs(values).max(axis=axis, keepdims=True))[1]
    high = np.rint(np.ldexp(values, bits - top))
    low = np.rint(np.ldexp(np.ldexp(values, bits - top) - high, bits))
    return np.ldexp(high, top - bits), np.ldexp(low, top - 2 * bits)


def product(a: Array, b: Array) -> Array:
    """Return the products of stacked matrices, cut to 44 bits each: up to 256 terms add up exactly, in any order."""
    (a_high, a_low), (b_high, b_low) = _cut(a, 2, 22), _cut(b, 1, 22)
    return np.asarray(np.matmul(a_high, b_high) + (np.matmul(a_high, b_low) + np.matmul(a_low, b_high)))
