"""What goes round: weights that take the state they made the step before, in a loop or one written out."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from initaudit.layers.from_graph_found import Found
from initaudit.layers.from_graph_tags import Tag
from initaudit.layers.from_graph_walk import Walk

_PIECES = frozenset({"gather", "slice", "split", "chunk", "unbind", "scan_slice"})
_MOST = 400
_STEPS = 3  # uses of a weight, each on what the one before made, that make a recurrence


class Reach:
    """Which weights every value is made from, however far back."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.above: dict[str, int] = {}
        for index, node in enumerate(walk.view.nodes):
            bits = 1 << index if index in walk.flow.layers else 0
            for name in node.inputs:
                bits |= self.above.get(name, 0)
            if bits:
                for name in node.outputs:
                    self.above[name] = bits


def recurrent_tags(walk: Walk, reach: Reach) -> Iterator[tuple[Found, Tag]]:
    """Yield the hidden-to-hidden weights of recurrences that no recurrent op holds."""
    founds = [found for here in walk.flow.layers.values() for found in here if found.kind in ("linear", "conv")]
    view = walk.view
    rounds = {
        name: 0
        for index, node in enumerate(view.nodes)
        if node.op == "phi"
        for name in node.outputs
        if any(view.producer.get(one, -1) >= index for one in node.inputs)
    }
    for name in rounds:
        for one in view.nodes[view.producer[name]].inputs:
            rounds[name] |= reach.above.get(one, 0)
    uses: dict[object, list[Found]] = {}
    for found in founds:
        uses.setdefault(found.weight.identity, []).append(found)
        if any(bits >> found.node & 1 and _reaches(walk, found.source, name) for name, bits in rounds.items()):
            yield found, Tag.RECURRENT
    for mine in uses.values():
        mine.sort(key=lambda found: found.node)
        chained = [(a, b) for a, b in pairwise(mine) if reach.above.get(b.source, 0) >> a.node & 1]
        if len(mine) < _STEPS or len(chained) < len(mine) - 1:
            continue
        cut = [_fed(walk, reach, a, b) for a, b in chained]
        if any(len(view.readers(base)) >= len(mine) for base in frozenset.intersection(*cut)):
            yield from ((found, Tag.RECURRENT) for found in mine)


def _reaches(walk: Walk, name: str, goal: str) -> bool:
    """Whether a value is made from another without a weight in between."""
    return goal in walk.back(name, lambda index: _all(walk, index)).seen


def _all(walk: Walk, index: int) -> list[str] | None:
    return None if index in walk.flow.layers else [name for name in walk.view.nodes[index].inputs if name]


def _fed(walk: Walk, reach: Reach, before: Found, after: Found) -> frozenset[str]:
    """Return the values of which a piece comes in between two uses of a weight."""
    view = walk.view
    bases: set[str] = set()
    todo, seen = [after.source], {after.source}
    while todo and len(seen) < _MOST:
        at = todo.pop()
        index = view.producer.get(at, -1)
        if index <= before.node:
            continue
        for name in view.nodes[index].inputs:
            if not name or name in seen or name in view.fixed:
                continue
            seen.add(name)
            if reach.above.get(name, 0) >> before.node & 1:
                todo.append(name)
            else:
                bases |= _cut_from(walk, name)
    return frozenset(bases)


def _cut_from(walk: Walk, name: str) -> set[str]:
    """Return the value that another one is a piece of, over a weight perhaps."""
    view = walk.view
    for _ in range(20):
        index = view.producer.get(name, -1)
        if index < 0:
            break
        node = view.nodes[index]
        if node.op in _PIECES:
            return {node.inputs[0], *(out for out in node.outputs if len(node.outputs) > 1)}
        here = walk.flow.layers.get(index)
        data = [here[0].source] if here else [one for one in walk.data(node) if one not in view.fixed]
        if len(data) != 1:
            break
        name = data[0]
    return set()
