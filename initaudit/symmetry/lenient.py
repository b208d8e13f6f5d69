"""The two weaker kinds of ties: those that rounding hides, and twins; looked for where there is a sign of them.

Random weights have neither, and to say so takes one look at each: units that are nearly tied, or twins, begin at a
weight with two rows that are nearly proportional, if nothing is tied before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from initaudit.errors import InitauditError
from initaudit.freedom import LayerFreedom
from initaudit.graph.view import View
from initaudit.ops import family
from initaudit.symmetry import gauging, gauging_products  # noqa: F401  they fill the table
from initaudit.symmetry.close import alike
from initaudit.symmetry.engine import Unread, Use, Walk, Weight
from initaudit.symmetry.exact import NotFinite
from initaudit.symmetry.labels import TooMany
from initaudit.symmetry.nearly import Nearly
from initaudit.symmetry.twins import Twins, regauged
from initaudit.types import Layer

Rows = Sequence[LayerFreedom | None]
Sets = tuple[tuple[int, ...], ...]
Told = Callable[[Walk, Sequence[Layer]], Rows]


def lenient(walk: Walk, layers: Sequence[Layer], made: Rows, told: Told) -> Rows:
    """Return the freedom of layers with the sets of units that are nearly tied, and those that are twins.

    Args:
        walk: the exact one, run.
        layers: whose units to tell.
        made: what the exact walk told of them.
        told: what another walk tells of them.
    """
    try:
        return _looked(walk, layers, made, told)
    except (InitauditError, TooMany, NotFinite, Unread, MemoryError):  # numbers that cannot be read or held
        return made


def _looked(walk: Walk, layers: Sequence[Layer], made: Rows, told: Told) -> Rows:
    if all(one is None for one in made):
        return made
    hints = list(_hints(walk))
    near_, twin = (any(hint[k] for hint in hints) for k in (0, 1))
    tied = any(one is not None and one.width < one.units for one in made)
    graph, frozen = walk.view.graph, walk.frozen
    out = list(made)
    if near_ or twin or tied:
        near = _sets(Nearly(View(graph), frozen), layers, made, told)
        out = [
            one if one is None else replace(one, nearly=_beyond(sets, one.classes))
            for one, sets in zip(made, near, strict=True)
        ]
    other = regauged(graph) if twin else None
    if other is None:
        return out
    twins = _sets(Twins(View(other), frozen), layers, out, told)
    return [
        one if one is None else replace(one, twins=_beyond(sets, (*one.classes, *one.nearly)))
        for one, sets in zip(out, twins, strict=True)
    ]


def _sets(walk: Nearly, layers: Sequence[Layer], known: Rows, told: Told) -> list[Sets]:
    """Return for each layer the sets of units that a walk leaves together; nothing where it tells no more."""

    def enough(walk: Walk) -> bool:
        found = told(walk, layers)
        return all(
            new is None or old is None or new.width >= old.nearly_width for new, old in zip(found, known, strict=True)
        )

    if not walk.settle(enough):
        return [()] * len(known)
    return [() if new is None else new.classes for new in told(walk, layers)]


def _beyond(sets: Sets, known: Sets) -> Sets:
    """Return the sets that are not among those known."""
    return tuple(one for one in sets if one not in known)


def _hints(walk: Walk) -> Iterator[tuple[bool, bool]]:
    """Yield for each weight whether two of its rows may be nearly equal, and whether two may be multiples."""
    seen = set()
    for use in walk.uses:
        node = walk.view.nodes[use.node]
        name = node.inputs[use.place]
        weight = walk.values.get(name)
        mixes = family(node.op) == "weighted"  # what scales units that differ leaves them so
        if mixes and isinstance(weight, Weight) and (name, use.axes) not in seen:
            seen.add((name, use.axes))
            yield _hint(weight, use)


def _hint(weight: Weight, use: Use) -> tuple[bool, bool]:
    own = [axis for axis, _ in use.axes] or [0]
    rest = [axis for axis in range(len(weight.shape)) if axis not in own]
    rows = math.prod(weight.shape[a] for a in own)
    terms = math.prod(weight.shape[a] for a in rest)
    if rows < 2 or not rest:
        return False, False
    if terms == 1:
        return True, True
    try:
        numbers = weight.numbers()
    except (Unread, NotFinite):
        return False, False
    return alike(numbers.transpose([*own, *rest]).reshape(rows, terms))
