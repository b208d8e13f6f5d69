"""Rows that make an orthogonal matrix whole again beside rows that are kept, the same bits on every machine.

Where a matrix has no more rows than columns, rows in the orthogonal complement of those that are kept. Where it has
more, its columns are to be orthonormal: M'M = 1 - K'K for the missing rows M and the kept ones K. If the right side is
of a rank that so few rows can have, as where K is a part of such a matrix, M is a factor of it, turned at random. Else
no rows do it, and M has independent normal entries of the size that rows of such a matrix have.

Products are sums of whole multiples of a power of two with less than 53 bits (see orthogonal), taken in one order; all
else is done entry by entry.
"""

from __future__ import annotations

import math

import numpy as np

from initaudit.draws.orthogonal import orthonormal, product
from initaudit.types import Array

_INNER = 256  # terms that one exact product may sum
_BLOCK = 128  # rows made orthonormal at once
_PASSES = 3  # over a block: each squares what the one before left over
_NOTHING = 1e-12  # of a row's square, below which nothing is left of it beside the rows before
_CLOSE = 0.01  # of the squared gain: what rounding to a short type may leave


def completed(rng: np.random.Generator, kept: Array, missing: int, gain: float = 1.0) -> Array:
    """Return the rows (missing, columns) that make a matrix (semi-)orthogonal beside the rows (count, columns) kept.

    Args:
        rng: what they are drawn from.
        kept: rows as they are stored, scaled by the gain.
        missing: how many rows there are to be.
        gain: all singular values of the whole.
    """
    rows, columns = len(kept) + missing, kept.shape[1]
    if not kept.size or not missing:
        return np.asarray(gain * orthonormal(rng, 1, missing, columns)[0])
    kept = np.asarray(kept, np.float64) / (gain or 1.0)
    made = _beside(rng, kept, missing) if rows <= columns else _factor(rng, kept, missing)
    if made is None:
        made = rng.standard_normal((missing, columns)) / math.sqrt(rows)
    return np.asarray(gain * made)


def _beside(rng: np.random.Generator, kept: Array, missing: int) -> Array:
    """Return orthonormal rows in the orthogonal complement, uniform over all of them (Haar)."""
    basis = np.zeros((len(kept) + missing, kept.shape[1]))
    basis[: len(kept)] = kept
    _straightened(basis, 0, len(kept))
    basis[len(kept) :] = rng.standard_normal((missing, kept.shape[1]))
    _straightened(basis, len(kept), len(basis))
    return basis[len(kept) :]


def _straightened(basis: Array, start: int, stop: int) -> None:
    """Make rows orthonormal to each other and to all before them, in place; what depends on these becomes zero."""
    for at in range(start, stop, _BLOCK):
        block = basis[at : min(at + _BLOCK, stop)]
        for _ in range(_PASSES):
            if at:
                block -= _times(_times(block, basis[:at].T), basis[:at])
            block[...] = _times(_whitening(_times(block, block.T)), block)


def _whitening(gram: Array) -> Array:
    """Return the triangular matrix that makes rows with these products orthonormal, by elimination without a sum."""
    left, made = gram.copy(), np.eye(len(gram))
    for n in range(len(gram)):
        pivot = left[n, n]
        if not pivot > _NOTHING * gram[n, n]:
            made[n] = 0.0
            continue
        factors = left[n + 1 :, n, None] / pivot
        left[n + 1 :] -= factors * left[n]
        made[n + 1 :] -= factors * made[n]
        made[n] /= math.sqrt(pivot)
    return made


def _factor(rng: np.random.Generator, kept: Array, missing: int) -> Array | None:
    """Return M with M'M = 1 - K'K, turned at random; None where so few rows cannot have it.

    Source: Higham 2009, "Cholesky factorization", for the pivots.
    """
    columns = kept.shape[1]
    left = np.eye(columns) - _times(kept.T, kept)
    made = np.zeros((missing, columns))
    for row in made:
        at = int(np.argmax(left.diagonal()))
        pivot = left[at, at]
        if not pivot > _NOTHING:
            break
        row[...] = left[at] / math.sqrt(pivot)
        left -= row[:, None] * row
    if np.abs(left).max(initial=0.0) > _CLOSE:
        return None
    return _times(orthonormal(rng, 1, missing, missing)[0], made)


def _times(a: Array, b: Array) -> Array:
    """Return a product whose sums have one order."""
    made = np.zeros((len(a), b.shape[1]))
    for at in range(0, a.shape[1], _INNER):
        made += product(a[None, :, at : at + _INNER], b[None, at : at + _INNER])[0]
    return made
