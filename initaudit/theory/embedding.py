"""Rows of a table, looked up by ids: embeddings of tokens and positions, tables of biases."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from initaudit.theory.engine import BATCH as BATCHES
from initaudit.theory.engine import Case, Grads, Step, Unread, common, op
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Atom, Axis, Back, Kernel
from initaudit.theory.weights import Weight
from initaudit.types import Array

_CHANCE = 6.0  # standard deviations
_FAR = 12


@op("embedding")
def _embedding(c: Case) -> Step:
    return looked_up(c, 0, 1)


def looked_up(c: Case, table: int, index: int) -> Step:
    """Return rows of a table.

    Ids that move with the data are drawn uniformly, so that two of them are one with probability 1 / rows; fixed ids
    are looked at.

    Raises:
        Unread: the table moves, or the shape of the ids is not known.
    """
    weight = c.weight(table)
    if len(weight.shape) < 2:
        raise Unread
    rows, units = weight.shape[0], math.prod(weight.shape[1:])
    moves = c.moves(index)
    values = c.values(index) if not moves else computed_ids(c, index)
    moves = moves and values is None
    shape = tuple(values.shape) if values is not None else _shape(c, len(weight.shape) - 1)
    axes: list[Axis] = []
    extents: list[int] = []
    for a, n in enumerate(shape):
        if a == 0 and (len(shape) > 1 or (moves and n in _batches(c))):
            axes.append((Atom(BATCH, n),))
        elif n > 1:
            axes.append((Atom(PLACE, n, len(extents)),))
            extents.append(n)
        else:
            axes.append(())
    axes += [(Atom(UNIT, n),) if n > 1 else () for n in weight.shape[1:]]
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
        shared = grid.full(max(variance * twice, _common(c, table, values, weight)))
        shared[0] = variance
    out = Kernel(tuple(axes), grid, own, shared, weight.centre, 1 / max(1, units))

    def down(d: Grads) -> Mapping[int, Back | None]:
        back = d[0]
        if back is not None:
            _learn(c, weight, grid, back, float(units), same if moves else None, twice)
        return {}

    return Step((out,), down)


def _batches(c: Case) -> set[int]:
    """Return the first extents of the graph's inputs."""
    return {BATCHES if s[0] is None else s[0] for s in c.walk.view.graph.inputs.values() if s}


def _common(c: Case, table: int, values: Array | None, weight: Weight) -> float:
    """Return what the rows that fixed ids choose have in common, where it is more than chance."""
    numbers = c.walk.weights.numbers(c.name(table))
    if values is None or numbers is None or numbers.ndim != 2 or values.size < 2 or values.dtype.kind not in "iu":
        return 0.0
    rows = numbers[values.ravel().astype(np.int64) % len(numbers)].astype(np.float64) - weight.centre
    far = common(rows)
    return far if abs(far) > _CHANCE * weight.random / (len(rows) * math.sqrt(rows.shape[1])) else 0.0


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


def computed_ids(c: Case, index: int) -> Array | None:
    """Return ids that move with the data in name only: positions counted from a mask, or rows of a constant buffer."""
    name = c.name(index)
    shape = c.shape()
    for _ in range(_FAR):
        at = c.walk.view.producer.get(name)
        if at is None:
            return None
        node = c.walk.view.nodes[at]
        if node.op == "cumsum":
            counted = shape[:-1] if shape is not None else c.walk.shape_of(node.inputs[0])
            if not counted or any(n is None for n in counted):
                return None
            extents = [int(n or 0) for n in counted]
            return np.broadcast_to(np.arange(extents[-1]), extents)
        if node.op in ("gather", "gather_elements", "gather_nd") and node.inputs[0] in c.walk.view.fixed:
            table = c.walk.values(node.inputs[0])
            if table is None or not table.size or not bool(np.all(table == table.flat[0])) or shape is None:
                return None
            return np.full([int(n or 1) for n in shape[:-1]], table.flat[0])
        moving = c.walk.view.moving(node)
        if not moving:
            return None
        name = node.inputs[moving[0]]
    return None


def _shape(c: Case, width: int) -> tuple[int, ...]:
    """Return the shape of the ids, of which each stands for `width` axes. Raises Unread."""
    shape = c.shape()
    if shape is None:
        given = c.walk.shape_of(c.name(1))
        shape = None if given is None else (*given, *(None,) * width)
    if shape is None or len(shape) < width:
        raise Unread
    sizes = [16 if n is None else n for n in shape[:-width]]
    if sizes and shape[0] is None:
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
