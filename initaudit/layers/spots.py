"""Where in a graph a layer's values are found: its pre-activation, its weight, and the activation behind it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from initaudit.graph.fuse import fuse
from initaudit.graph.integers import plain
from initaudit.graph.view import View, sound
from initaudit.layers.from_graph_found import RESHAPES
from initaudit.layers.from_graph_weights import weights
from initaudit.types import Graph, Layer, Node

_FAR = 12  # nodes between a weight and the activation that follows it
_NO_FUNCTION = frozenset({"glu", "composite"})  # of one number


@dataclass(frozen=True, slots=True)
class Bend:
    """The activation that follows a layer: its name, the value that goes in, and the one that comes out."""

    name: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Place:
    """A layer in the graph."""

    nodes: tuple[int, ...]  # of the view: where its weight meets the data
    outs: tuple[str, ...]  # its pre-activations, bias included, one per use
    constants: tuple[str, ...]  # values that hold its weight
    bend: Bend | None = None


class Places:
    """The places of layers in a graph."""

    def __init__(self, graph: Graph) -> None:
        self.view = View(fuse(plain(sound(graph))))
        self.founds = tuple(weights(self.view))
        self._known: dict[object, list[int]] = {}  # a weight's identity or name -> places in founds
        for at, found in enumerate(self.founds):
            for key in {found.weight.identity, (found.weight.name, found.weight.size)}:
                self._known.setdefault(key, []).append(at)
        self._values = tuple(self.view.graph.constants)
        self._named: dict[str, list[int]] = {}  # a tensor's name -> places of the values that are it
        self._stored: dict[str, list[int]] = {}  # its storage -> the same
        for at, tensor in enumerate(self.view.graph.constants.values()):
            self._named.setdefault(tensor.name, []).append(at)
            if tensor.is_float:
                self._stored.setdefault(tensor.storage, []).append(at)

    def of(self, layer: Layer) -> Place:
        """Return where a layer is; a place without nodes where it is not known."""
        keys = (layer.weight.identity, (layer.weight.name, layer.weight.size))
        places = sorted({at for key in keys for at in self._known.get(key, ())})
        own = [f for at in places if (f := self.founds[at]).kind == layer.kind]
        moving = [f for f in own if f.source not in self.view.fixed]
        own = moving or own
        constants = self._constants(layer)
        if own:
            outs = tuple(dict.fromkeys(f.out for f in own))
            bend = self._bend(outs[0], own[0].node)
            return Place(tuple(dict.fromkeys(f.node for f in own)), outs, constants, bend)
        meetings = [(at, out) for name in constants for at, _, out in self.meetings(name)]
        first = meetings[:1]
        return Place(tuple(at for at, _ in first), tuple(out for _, out in first), constants)

    def meetings(self, name: str) -> Iterator[tuple[int, int, str]]:
        """Yield node, position of the operand and output where a constant, perhaps changed alone, meets the data."""
        todo, seen = [name], {name}
        found: list[tuple[int, int, str]] = []
        while todo and len(seen) < 100:
            for use in self.view.readers(todo.pop(0)):
                node = self.view.nodes[use.node]
                if self.view.moving(node):
                    found.append((use.node, use.position, node.outputs[0]))
                else:
                    todo += [out for out in node.outputs if out not in seen]
                    seen.update(node.outputs)
        yield from sorted(found)

    def _constants(self, layer: Layer) -> tuple[str, ...]:
        names = {layer.weight.name, *layer.weight.parts}
        own = sorted({at for name in names for at in self._named.get(name, ())})
        if not own and layer.weight.storage:
            own = self._stored.get(layer.weight.storage, [])
        return tuple(self._values[at] for at in own)

    def _bend(self, out: str, maker: int) -> Bend | None:
        if self.view.family(self.view.nodes[maker]) == "norm":
            return None
        name = out
        for _ in range(_FAR):
            readers = [self.view.nodes[use.node] for use in self.view.readers(name)]
            bends = [n for n in readers if self.view.family(n) == "activation" and n.inputs[0] == name]
            if len(bends) == 1 and bends[0].op not in _NO_FUNCTION:
                return Bend(bends[0].op, name, bends[0].outputs[0])
            if len(readers) != 1 or not self._passes(readers[0], name):
                return None
            name = readers[0].outputs[0]
        return None

    def _passes(self, node: Node, name: str) -> bool:
        """Whether a node hands on each unit by itself: a bias, a norm, a move."""
        if not node.inputs or (node.inputs[0] != name and node.op != "add"):
            return False
        alone = len(self.view.moving(node)) == 1
        return alone and (node.op == "add" or node.op in RESHAPES or self.view.family(node) == "norm")


def reached(view: View, starts: Sequence[int], goals: frozenset[int]) -> int | None:
    """Return the first of some nodes, in order of execution, that values of other nodes reach; None if none is."""
    todo = set(starts)
    seen = set(starts)
    while todo:
        at = min(todo)
        todo.discard(at)
        if at in goals and at not in starts:
            return at
        for name in view.nodes[at].outputs:
            for use in view.readers(name):
                if use.node not in seen:
                    seen.add(use.node)
                    todo.add(use.node)
    return None
