"""Labels of the output units of each weight: of what it makes, its bias included."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from initaudit.symmetry.combining import listed, reshaped
from initaudit.symmetry.engine import Unread, Use, Walk, Weight
from initaudit.symmetry.labels import ZERO, Labels, TooMany, dense, even, numbered
from initaudit.symmetry.products import forgotten
from initaudit.symmetry.shares import placed
from initaudit.types import Array


def rows(walk: Walk) -> dict[str, list[Labels]]:
    """Return, by name of a constant, labels that together label its rows, on its own axes, free along its terms.

    They are zero where a use takes no part of it.
    """
    out: dict[str, list[Labels]] = {}
    for use in walk.uses:
        try:
            name = walk.view.nodes[use.node].inputs[use.place]
            weight = walk.values.get(name) or walk.value(name)
            found = [] if weight is None else list(_own(walk, name, _rows(walk, use, weight.shape)))
        except (Unread, TooMany, LookupError, ValueError):
            continue
        for name, labels in found:
            out.setdefault(name, []).append(labels)
    return out


def _own(walk: Walk, name: str, labels: Labels) -> Iterator[tuple[str, Labels]]:
    """Yield the constants that a value was turned, cut or joined from, and what labels of its rows say of theirs."""
    if name in walk.view.graph.constants:
        yield name, labels
        return
    at = walk.view.producer.get(name)
    if at is None:
        return
    node = walk.view.nodes[at]
    if isinstance(walk.values.get(name), Weight):
        given = [labels if out == name else even((), ZERO) for out in node.outputs]
        for place, found in walk.steps[at].back(given).items():
            yield from _own(walk, node.inputs[place], placed(found))
        return
    if (own := _source(walk, name, labels.shape)) is not None:
        yield own, labels


def _source(walk: Walk, name: str, shape: Sequence[int]) -> str | None:
    """Return the parameter that a weight is computed from: the nearest of its shape stands for it."""
    near, seen = [name], set()
    while near:
        found = [one for one in near if one in walk.view.graph.constants and _shape(walk, one) == shape]
        if found:
            return found[0]
        seen.update(near)
        makers = [walk.view.producer[one] for one in near if one in walk.view.producer]
        inputs = [one for at in makers for one in walk.view.nodes[at].inputs]
        near = [one for one in dict.fromkeys(inputs) if one and one not in seen and one in walk.view.fixed]
    return None


def _shape(walk: Walk, name: str) -> tuple[int, ...] | None:
    value = walk.values.get(name) or walk.value(name)
    return value.shape if value is not None else None


def _rows(walk: Walk, use: Use, shape: Sequence[int]) -> Labels:
    if use.units is not None:
        out = dense(use.units)
        while out.rank < len(shape):
            out = out.added(out.rank, shape[out.rank], free=True)
        return out
    value = walk.values[_with_bias(walk, use.out)]
    if not isinstance(value, Labels):
        raise Unread
    kept = {axis % value.rank: own for own, axis in use.axes}
    order = [axis for axis in range(value.rank) if axis in kept]
    for axis in reversed(range(value.rank)):
        if axis not in kept:
            value = forgotten(value, axis)
    if use.groups > 1:  # (group, units of it) where the weight has (group, terms), units of it
        units = value.dense(0).data.reshape(use.groups, 1, -1)
        wide = (use.groups, shape[0] // use.groups, units.shape[2])
        spread = Labels(units, wide, (False,) * 3, (1,) * 3)
        out = reshaped(spread, (shape[0], units.shape[2]))
        for size in shape[2:]:
            out = out.added(out.rank, size, free=True)
        return out
    letters = [kept[axis] for axis in order]
    for own in range(len(shape)):
        if own not in letters:
            value = value.added(value.rank, shape[own], free=True)
            letters.append(own)
    return value.permuted([letters.index(own) for own in range(len(shape))])


def _with_bias(walk: Walk, name: str) -> str:
    """Return the value with the bias added, where a node of its own does that."""
    readers = walk.view.readers(name)
    if len(readers) == 1:
        node = walk.view.nodes[readers[0].node]
        others = [n for n in node.inputs if n != name]
        if node.op == "add" and len(others) == 1 and others[0] in walk.view.fixed:
            made, own = walk.values.get(node.outputs[0]), walk.values.get(name)
            if isinstance(made, Labels) and isinstance(own, Labels) and made.shape == own.shape:
                return node.outputs[0]
    return name


def units(found: Sequence[Labels], axes: str, shape: Sequence[int], groups: int = 1) -> Array:
    """Return one label per output unit of a weight, in the order of its stack and output axes as stored."""
    at = axes.find("i")
    if groups > 1 and 0 <= at < axes.find("o") and shape[at] % groups == 0:  # the units of a group are along its terms
        shape = (*shape[:at], groups, shape[at] // groups, *shape[at + 1 :])
        found, axes = [reshaped(label, shape) for label in found], f"{axes[:at]}s{axes[at:]}"
    own = [k for k, a in enumerate(axes) if a in "so" and shape[k] > 1]
    # A use that sums over units tells them apart by where they stand alone; another says what they make.
    telling = [one for one in found if not any(one.is_free(k) for k in own)] or found
    label = listed([_narrowed(label, axes) for label in telling], "units")
    wide = [n for a, n in zip(axes, shape, strict=True) if a in "so"]
    if math.prod(label.shape) != math.prod(wide):
        raise Unread
    out: Array = label.flat(label.shape).reshape(-1)
    return np.where(out == 0, numbered(ZERO.reshape(1), 0, out.size), out)  # what nothing reads is told apart


def _narrowed(label: Labels, axes: str) -> Labels:
    """Return labels of units only: of all that is said of each along the other axes, zero where that is nothing."""
    for axis in reversed(range(len(axes))):
        if axes[axis] not in "so":
            silent = (label.data == 0).all(tuple(label.span(axis)))
            label = forgotten(label, axis)
            label = label.with_data(np.where(silent, ZERO, label.data))
    return label
