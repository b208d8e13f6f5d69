"""What the uses of one weight say of its gradient, each use perhaps of a part of it: experts or gates in one tensor.

A use tells several labels that together label the gradient, along rows and along terms. Uses of disjoint parts are
one: an element's gradient comes from the one that it takes part in.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from initaudit.symmetry.combining import added, aligned, combined, joined
from initaudit.symmetry.labels import Labels

_MOST = 1 << 22  # entries of what is laid side by side; above, parts are told apart

Given = Labels | Sequence[Labels]


class Share(list[Labels]):
    """Labels that together label a gradient, the last of them zero where nothing is used, if only a part is."""

    def __init__(self, factors: Iterable[Labels], support: Labels | None = None) -> None:
        self.factors = tuple(factors)
        self.support = support
        super().__init__([*self.factors, *([] if support is None else [support])])


def share(given: Given) -> Share:
    """Return the gradient of one use."""
    if isinstance(given, Share):
        return given
    return Share([given] if isinstance(given, Labels) else given)


def moved_back(given: Given, down: Callable[[Labels], Labels], support: Labels | None = None) -> Share:
    """Return a share in what a weight was taken from: where its elements stand there, and that all else has none."""
    own = share(given)
    found = None if own.support is None else down(own.support)
    if support is not None:
        found = support if found is None else masked(found, support)
    return Share([down(f) for f in own.factors], found)


def masked(x: Labels, support: Labels) -> Labels:
    """Return labels that are zero where another is."""
    given, mask = aligned([x, support])
    return joined([given, mask], np.where(mask.data == 0, np.zeros((), np.uint64), given.data))


def placed(given: Given) -> Labels:
    """Return one label per element for a share; zero where it has no part."""
    own = share(given)
    label = own.factors[0] if len(own.factors) == 1 else combined(own.factors, "placed")
    return label if own.support is None else masked(label, own.support)


def merged(given: Sequence[Given]) -> Share:
    """Return all that the uses of a weight say of its gradient."""
    groups: list[list[Share]] = []
    for one in map(share, given):
        for group in groups:
            if one.support is not None and all(_apart(one, other) for other in group):
                group.append(one)
                break
        else:
            groups.append([one])
    found = [whole for group in groups for whole in _united(group)]
    if len(found) == 1:
        return found[0]
    return Share([label for one in found for label in one])


def _apart(one: Share, other: Share) -> bool:
    if one.support is None or other.support is None or len(one.factors) != len(other.factors):
        return False
    a, b = aligned([one.support, other.support])
    return not bool(((a.data != 0) & (b.data != 0)).any())


def _united(group: Sequence[Share]) -> Sequence[Share]:
    if len(group) == 1:
        return group
    supports = [one.support for one in group if one.support is not None]
    factors: list[Labels] = []
    for given in zip(*(one.factors for one in group), strict=True):
        parts = aligned(given)
        if all(p.free == parts[0].free and np.array_equal(p.data, parts[0].data) for p in parts):
            factors.append(given[0])
            continue
        wide = aligned([*given, *supports])
        if math.prod(max(p.data.shape[k] for p in wide) for k in range(wide[0].data.ndim)) > _MOST:
            return group
        factors.append(added([masked(f, s) for f, s in zip(given, supports, strict=True)]))
    union = added(supports)
    return [Share(factors, None if bool(union.data.all()) else union)]
