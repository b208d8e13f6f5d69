"""What ties tell of zeros: a sum over elements that are all equal is zero only if each of them is.

A norm subtracts the mean of what it is about, and so does its gradient; so does that of a softmax. Where all units of
that are tied nothing is left.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from initaudit.symmetry.combining import added
from initaudit.symmetry.engine import Given, Value, Walk, Weight
from initaudit.symmetry.labels import Labels, row
from initaudit.symmetry.zones import Grad, lined
from initaudit.types import Array


class Alike:
    """The labels of values and of gradients, stable ones or those of the first step."""

    def __init__(self, values: Mapping[str, Value | None], grads: Mapping[str, Sequence[Given]]) -> None:
        self.values = values
        self.grads = grads

    def _gradient(self, name: str) -> Labels | None:
        given = self.grads.get(name, ())
        if not given or not all(isinstance(one, Labels) for one in given):
            return None
        return added([one for one in given if isinstance(one, Labels)])

    def value(self, name: str, axes: Iterable[int]) -> Array:
        """Return where all elements along axes are tied; those axes stay, of one entry."""
        found = self.values.get(name)
        found = found.labels() if isinstance(found, Weight) else found
        return np.zeros((), bool) if found is None else _alike(found, axes)

    def gradient(self, name: str, axes: Iterable[int]) -> Array:
        """Return where all gradients along axes are equal; those axes stay, of one entry."""
        found = self._gradient(name)
        return np.zeros((), bool) if found is None else _alike(found, axes)

    def units(self, name: str, axis: int) -> Array:
        """Return labels of gradients along an axis, of all that is along the others; none where they are not known."""
        found = self._gradient(name)
        if found is None or any(found.free[k] for k in found.span(axis)):
            return np.zeros(0, np.uint64)
        whole = found.dense(axis)
        span = whole.span(axis)
        others = [k for k in range(whole.data.ndim) if k not in span]
        return np.asarray(row(np.moveaxis(whole.data, span.start, 0).reshape(whole.data.shape[span.start], -1), 1)[:, 0]
                          if others else whole.data)  # fmt: skip

    def settled(self, name: str, g: Grad) -> Grad:
        """Return a gradient without what sums to zero over equals, which is zero."""
        labels = None if g.none else self._gradient(name)
        if labels is None or labels.rank != len(g.shape):
            return g
        live, sums = g.live, dict(g.sums)
        even = g.even | {a for a in range(labels.rank) if _alike(labels, [a]).all()}
        for axes, where in g.sums:
            rest, own = axes - even, where
            if rest == axes:
                rest, own = frozenset(), where & lined(_alike(labels, axes), len(g.shape))
            if rest:
                sums[rest] = sums.get(rest, np.zeros_like(own)) | own
            else:
                live = live & ~own
        return Grad(live, g.shape, tuple(sums.items()), even, g.cancelled, g.reach)


class First:
    """Labels before the first split: what is equal at the first step, whether or not it stays so."""

    def __init__(self) -> None:
        self.alike: Alike | None = None

    def see(self, walk: Walk) -> bool:
        """Keep the labels of the first way up and down; to be called after each way up."""
        if walk.rounds == 1:
            self.alike = Alike(walk.values, {})
        elif walk.rounds == 2 and self.alike is not None:
            self.alike = Alike(self.alike.values, walk.grads)
        return False


def _alike(labels: Labels, axes: Iterable[int]) -> Array:
    own = sorted({a % labels.rank for a in axes})
    atoms = [k for a in own for k in labels.span(a)]
    shape = labels.shape
    if 0 in shape or any(shape[a] == 1 for a in own):  # one of a batch, in the example: there may be more
        return np.zeros((), bool)
    if any(labels.free[k] and labels.sizes[k] > 1 for k in atoms):
        return np.zeros((), bool)
    data = labels.data
    first = data
    for k in atoms:
        first = first.take([0], k)
    same = np.asarray((data == first).all(tuple(atoms), keepdims=True))
    out, wide = [], list(same.shape)
    for a in range(labels.rank):
        span = labels.span(a)
        if all(same.shape[k] == 1 for k in span):
            out.append(1)
            continue
        for k in span:
            wide[k] = labels.sizes[k]
        out.append(math.prod(labels.sizes[k] for k in span))
    return np.broadcast_to(same, wide).reshape(out)
