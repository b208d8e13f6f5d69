"""Rows of a table, looked up by ids: embeddings of tokens and positions, tables of biases."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from initaudit.theory.engine import Case, Grads, Step, Unread, op
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Atom, Axis, Back, Kernel
from initaudit.theory.weights import Weight
from initaudit.types import Array


@op("embedding")
def _embedding(c: Case) -> Step:
    return looked_up(c, 0, 1)


def looked_up(c: Case, table: int, index: int) -> Step:
    """Return rows of a table.

    Ids that move with the data are drawn uniformly, so that two of them are one with probability 1 / rows; fixed ids are
    looked at.

    Raises:
        Unread: the table moves, or the shape of the ids is not known.
    """
    weight = c.weight(table)
    if len(weight.shape) != 2:
        raise Unread
    rows, units = weight.shape
    moves = c.moves(index)
    values = None if moves else c.values(index)
    shape = tuple(values.shape) if values is not None else _shape(c, len(weight.shape))
    axes: list[Axis] = []
    extents: list[int] = []
    for a, n in enumerate(shape):
        if (a == 0 and len(shape) > 1) or (a == 0 and moves):
            axes.append((Atom(BATCH, n),))
        elif n > 1:
            axes.append((Atom(PLACE, n, len(extents)),))
            extents.append(n)
        else:
            axes.append(())
    axes.append((Atom(UNIT, units),) if units > 1 else ())
    grid = Grid(tuple(extents), (0,) * len(extents))
    variance = weight.random
    same = 1 / max(1, rows)  # of two ids
    if moves:
        own = grid.peak(variance * (1 - same))
        shared = grid.full(variance * same)
        twice = same
    else:
        twice = _twice(values) if values is not None else 0.0
        own = grid.full(0.0)
        shared = grid.full(variance * twice)
        shared[0] = variance
    out = Kernel(tuple(axes), grid, own, shared, weight.centre, 1 / max(1, units))

    def down(d: Grads) -> Mapping[int, Back | None]:
        back = d[0]
        if back is not None:
            _learn(c, weight, grid, back, float(units), same if moves else None, twice)
        return {}

    return Step((out,), down)


def _learn(c: Case, weight: Weight, grid: Grid, back: Back, units: float, chance: float | None, twice: float) -> None:
    """Tell the gradient of the table: that of a row is the sum over the places where its id stands."""
    counts = grid.counts * units
    one = grid.full(twice)
    one[0] = 1.0
    if chance is None:  # every input looks at the same rows
        c.learn(weight, *back.met(counts, one, one, 0 * one))
        return
    cross = grid.full(chance)
    c.learn(weight, *back.met(counts, one, cross, one - cross))


def _shape(c: Case, rank: int) -> tuple[int, ...]:
    """Return the shape of the ids. Raises Unread."""
    shape = c.shape()
    if shape is None:
        given = c.walk.shape_of(c.name(1))
        shape = None if given is None else (*given, None)
    if shape is None or len(shape) < rank - 1:
        raise Unread
    sizes = [16 if n is None else n for n in shape[:-1]]
    if shape and shape[0] is None:
        sizes[0] = 2
    return tuple(int(n) for n in sizes)


def _twice(values: Array) -> float:
    """Return the share of pairs of two places with the same id."""
    ids = values.ravel()
    if len(ids) < 2:
        return 1.0
    _, counts = np.unique(ids, return_counts=True)
    pairs = float(np.sum(counts.astype(np.float64) * (counts - 1)))
    return pairs / (len(ids) * (len(ids) - 1.0))


@op("embedding_bag")
def _bag(c: Case) -> Step:
    table, index = (0, 1) if not c.moves(0) else (1, 0)
    weight = c.weight(table)
    shape = c.shape()
    if len(weight.shape) != 2 or shape is None:
        raise Unread
    rows, units = weight.shape
    ids = c.walk.view.graph.inputs.get(c.name(index)) or c.walk.view.graph.shapes.get(c.name(index))
    many = float(ids[-1] or 1) if ids is not None and len(ids) > 1 else 1.0
    mean = c.attrs.get("mode") not in ("sum", 0)
    size = 1 / many if mean else many
    same = 1 / max(1, rows)
    inputs = int(shape[0] or 2)
    grid = Grid()
    out = Kernel(
        ((Atom(BATCH, inputs),), (Atom(UNIT, units),)), grid, grid.full(weight.random * size * (1 - same)),
        grid.full(weight.random * same * (1 if mean else many**2)), weight.centre * (1 if mean else many), 1 / units,
    )  # fmt: skip

    def down(d: Grads) -> Mapping[int, Back | None]:
        back = d[0]
        if back is not None:
            cross = grid.full(same * (1.0 if mean else many**2))
            full = grid.full(size)
            c.learn(weight, *back.met(grid.full(0.0) + units * grid.peak(1.0), full, cross, full - cross))
        return {}

    return Step((out,), down)
