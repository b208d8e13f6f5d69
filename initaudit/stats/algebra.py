"""Is a weight of rank 1, is it orthogonal: asked only of weights whose norms make it plausible."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from initaudit.stats.layout import Layout
from initaudit.types import Array

SMALLEST = 8  # units on both sides below which rank 1 says nothing
_SAMPLE = 16  # vectors looked at before the rest
_SIDE = 2048  # largest Gram matrix
_LENGTH = 1 << 17  # random vectors much longer than this are near enough orthogonal
_WORK = 1 << 35  # most multiplications spent on the Gram matrices of one tensor
_EVEN = 0.01  # orthogonal vectors have norms this equal
_PLAUSIBLE = 0.05  # a sample further from orthogonal than this settles it
_PANEL = 256  # vectors of the longer side taken at a time
_TILE = 64  # products of 64 x 64 x 64 are done by BLAS in the calling thread


@dataclass(frozen=True, slots=True)
class Operator:
    """One (out, in * kernel) matrix, or a block of its output units, as a view."""

    array: Array  # output axes first
    outs: int  # how many of them
    shape: tuple[int, int]
    square: Array  # per output unit
    columns: Array | None  # per input unit; not known for a block

    def vectors(self, index: Array, transposed: bool = False) -> Array:
        """Copy some rows, or some columns, into a float64 matrix."""
        n = self.outs
        lead = self.array.shape[n:] if transposed else self.array.shape[:n]
        view = np.moveaxis(self.array, range(n), range(-n, 0)) if transposed else self.array
        if not lead:
            return view.reshape(1, -1)[index].astype(np.float64)
        return view[np.unravel_index(index, lead)].reshape(len(index), -1).astype(np.float64)


def operators(walk: Layout, array: Array, rows: Array, columns: Array) -> Iterator[Operator]:
    """Take a tensor apart into its stacked and grouped operators; the squares are in canonical order."""
    view = walk.view(array).transpose(walk.stored)
    labels = [walk.axes[n].label for n in walk.stored]
    lead = sum(label in "sg" for label in labels)
    o, i = walk.outs, walk.ins
    shape, outs = (o, i * walk.kernel), labels.count("o")
    for n, index in enumerate(np.ndindex(*view.shape[:lead])):
        yield Operator(view[index], outs, shape, rows[n * o : (n + 1) * o], columns[n * i : (n + 1) * i])


def blocks(found: Iterable[Operator], parts: int) -> Iterator[Operator]:
    """Cut operators into the parts that lie side by side along their output units."""
    for operator in found:
        yield from _cut(operator, parts)


def _cut(operator: Operator, parts: int) -> Iterator[Operator]:
    o, m = operator.shape
    size, lead = o // parts, operator.array.shape[: operator.outs]
    for n in range(parts):
        if lead[0] == parts:
            block, outs = operator.array[n], operator.outs - 1
        else:  # parts along more than one axis
            block, outs = operator.array.reshape(o, *operator.array.shape[operator.outs :])[n * size :][:size], 1
        yield Operator(block, outs, (size, m), operator.square[n * size : (n + 1) * size], None)


def rank_one(found: Iterable[Operator], epsilon: float) -> bool:
    """Whether every operator that is not zero is a column times a row, up to the rounding of its dtype.

    The part of all rows that is orthogonal to the longest one, in the Frobenius norm and relative to the whole, bounds
    the second singular value over the first.
    """
    tolerance = max(1e-5, epsilon)
    some = False
    for operator in found:
        alive = np.flatnonzero(operator.square)
        if not len(alive):
            continue
        some = True
        longest = alive[np.argmax(operator.square[alive])]
        scale = math.sqrt(operator.square[longest])
        if not 0 < scale < math.inf:
            return False
        direction = operator.vectors(np.asarray([longest]))[0] / scale
        direction /= math.sqrt(float(np.einsum("i,i->", direction, direction)))
        budget = tolerance**2 * float(np.sum(operator.square / scale**2))
        sample = alive[_sample(len(alive))]
        if _residue(operator, sample, direction, scale) > budget:
            return False
        step = max(1, (1 << 18) // operator.shape[1])
        rest = 0.0
        for start in range(0, len(alive), step):
            rest += _residue(operator, alive[start : start + step], direction, scale)
            if rest > budget:
                return False
    return some


def _residue(operator: Operator, index: Array, direction: Array, scale: float) -> float:
    x = operator.vectors(index) / scale
    x -= np.einsum("ij,j->i", x, direction)[:, None] * direction
    return float(np.einsum("ij,ij->", x, x))


def orthogonality(found: Iterable[Operator]) -> float:
    """Return the worst max |G/g - I| of the smaller Gram matrices; nan where one of them is plainly not orthogonal."""
    worst, work = math.nan, 0
    for operator in found:
        side, length = min(operator.shape), max(operator.shape)
        work += side * side * length
        if not 2 <= side <= _SIDE or length > _LENGTH or work > _WORK or not _plausible(operator):
            return math.nan
        worst = float(np.fmax(worst, _deviation(operator)))
    return worst


def _sample(count: int) -> Array:
    size = min(count, _SAMPLE)
    return np.arange(size) * count // size


def _plausible(operator: Operator) -> bool:
    o, m = operator.shape
    square = operator.square if o <= m else operator.columns
    if square is not None:
        low, high = float(square.min()), float(square.max())
        if not 0 < low <= high < math.inf or math.sqrt(high / low) - 1 > _EVEN:
            return False
    side = min(o, m)
    index = _sample(side)
    x = operator.vectors(index, transposed=o > m)
    gram = np.einsum("ik,jk->ij", x, x)
    g = float(np.mean(np.diagonal(gram)))
    return g > 0 and float(np.abs(gram / g - np.eye(len(index))).max()) < _PLAUSIBLE


def _deviation(operator: Operator) -> float:
    """Sum up the Gram matrix over panels of the longer side, tile by tile."""
    o, m = operator.shape
    side, length = min(o, m), max(o, m)
    scale = math.sqrt(float(operator.square.sum()) / side)
    blocks = -(-side // _TILE)
    gram = [np.zeros((blocks - n, _TILE, _TILE), np.float32) for n in range(blocks)]
    panel = np.zeros((_PANEL, blocks * _TILE), np.float32)
    for start in range(0, length, _PANEL):
        index = np.arange(start, min(start + _PANEL, length))
        panel[: len(index), :side] = operator.vectors(index, transposed=o <= m) / scale
        panel[len(index) :] = 0
        tiles = panel.reshape(_PANEL // _TILE, _TILE, blocks, _TILE).transpose(0, 2, 1, 3)
        for n in range(blocks):
            for k in range(_PANEL // _TILE):
                gram[n] += np.matmul(tiles[k, n:].transpose(0, 2, 1), tiles[k, n])
    worst = 0.0
    for n in range(blocks):
        own = np.arange(min(_TILE, side - n * _TILE))
        gram[n][0, own, own] -= 1
        worst = max(worst, float(np.abs(gram[n]).max()))
    return worst
