"""What each value of a graph is made from: weights right before it, forks above it, inputs that were only moved."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import prod

from initaudit.graph.view import FAR, View
from initaudit.layers.from_graph_found import Found, signal
from initaudit.types import Node

SUMS = frozenset({"add", "sub", "sum", "mean"})
SKIP_NORMS = frozenset({"skip_layer_norm", "skip_rms_norm"})  # a sum and the norm after it
PRODUCTS = frozenset({"mul", "div"})
SAME = frozenset({"reshape", "flatten", "transpose", "squeeze", "unsqueeze", "cast", "identity", "dropout", "view"})
PIECES = frozenset({"split", "slice", "chunk", "gather"})

JOINS = frozenset({"concat", "where", "phi", "sequence_construct", "concat_from_sequence"})
_LONG = 40  # values in a chain
_SHAPES = frozenset({"shape", "size"})  # whose output holds nothing of the signal


class Origins:
    """Where every value that moves comes from; one pass over the nodes from first to last."""

    def __init__(self, view: View, founds: Iterable[Found], low_rank: Collection[int] = ()) -> None:
        self.view = view
        self.layers: dict[int, list[Found]] = {}
        for found in founds:
            if found.role is None or found.kind in ("embedding", "lstm", "gru", "rnn") or found.parts:
                self.layers.setdefault(found.node, []).append(found)
        self.into = {(found.node, found.source) for found in founds}
        self.adapters = 0  # bits of the nodes of low-rank additions
        for node, here in self.layers.items():
            if all(id(found) in low_rank for found in here):
                self.adapters |= 1 << node
        self.live: set[str] = set()  # made by a weight
        self.raw: set[str] = set()  # an input of the graph, moved or scaled, but no mask or position made of one
        self.above: dict[str, int] = {}  # bits of the forks a value comes from
        self.bit: dict[str, int] = {}
        self.sources: dict[str, int] = {}  # bits of the weights a value comes from without another one in between
        self._forward()

    def _forward(self) -> None:
        view = self.view
        self.raw.update(view.graph.inputs)
        for index, node in enumerate(view.nodes):
            kind = self.family(node)
            carries = kind in ("move", "pool", "norm", "activation", "reduce") and node.op not in ("cast", "cast_like")
            carries = carries or node.op in SUMS or node.op in PRODUCTS
            if carries and any(name in self.raw for name in node.inputs[: None if node.op == "concat" else 2]):
                self.raw.update(node.outputs)
            meets = node.op in SUMS or node.op in PRODUCTS or node.op in SKIP_NORMS
            for part in node.inputs if meets else ():
                if part in view.fixed:
                    self._learned_stream(part)
                    continue
                whole = self.whole(part)
                for name in dict.fromkeys((part, whole, *self.chain(part))):
                    if (len(view.readers(name)) > 1 or name == whole != part) and name not in self.bit:
                        self.bit[name] = 1 << len(self.bit)
                        self.above[name] = self.above.get(name, 0)
            if index in self.layers or (node.op not in _SHAPES and any(name in self.live for name in node.inputs)):
                self.live.update(node.outputs)
        for index, node in enumerate(view.nodes):
            if node.op in _SHAPES:
                continue
            here = 1 << index if index in self.layers else 0
            if not here:
                for name in node.inputs:
                    here |= self.sources.get(name, 0)
            if here:
                for name in node.outputs:
                    self.sources[name] = here
            bits = 0
            for name in node.inputs:
                bits |= self.above.get(name, 0) | self.bit.get(name, 0)
            if bits:
                for name in node.outputs:
                    self.above[name] = bits

    def _learned_stream(self, name: str) -> None:
        """Mark a value that does not move with the data but is read as a signal: a class token, learned queries."""
        base = self.view.origin.get(name, name)
        if not base or base in self.bit:
            return
        if base not in self.view.graph.constants:
            if signal(self.view, base):
                self.bit[base] = 1 << len(self.bit)
            return
        todo, seen = [base], {base}
        while todo and len(seen) < FAR:
            for use in self.view.readers(todo.pop()):
                node = self.view.nodes[use.node]
                kind = self.view.family(node)
                if node.op == "concat" or (use.position == 0 and kind in ("norm", "weighted")):
                    self.bit[base] = 1 << len(self.bit)
                    return
                if kind == "move" and use.position == 0:
                    todo += [out for out in node.outputs if out not in seen]
                    seen.update(node.outputs)

    def family(self, node: Node) -> str:
        """Return the family of a node; an einsum of one operand only moves."""
        alone = node.op == "einsum" and len(node.inputs) == 1
        return "move" if alone else self.view.family(node)

    def made_from(self, name: str, fork: str) -> bool:
        """Whether a value is made from another one that is part of a sum or a product (others are not followed)."""
        return bool(self.above.get(name, 0) & self.bit.get(fork, 0))

    def whole(self, name: str) -> str:
        """Return the value that this one is a piece or a rearrangement of."""
        for _ in range(FAR):
            if name not in self.view.producer:
                break
            node = self.view.nodes[self.view.producer[name]]
            if node.op not in SAME | PIECES or node.inputs[0] in self.view.fixed:
                break
            name = node.inputs[0]
        return name

    def chain(self, name: str) -> list[str]:
        """Return a value and those before it that differ in order, size or scale alone, nearest first.

        They are moved, pooled, normalised, or scaled and shifted by what does not move with the data.
        """
        values = [name]
        while name in self.view.producer and len(values) < _LONG:
            node = self.view.nodes[self.view.producer[name]]
            kind = self.family(node)
            if node.op in PIECES and not self._most(node):
                break
            if kind in ("move", "pool", "quant", "norm") and node.op not in JOINS | SKIP_NORMS:
                name = node.inputs[0]
            elif node.op in PRODUCTS or node.op in SUMS:
                moving = self.view.moving(node)
                if len(moving) != 1:
                    break
                name = node.inputs[moving[0]]
            else:
                break
            if name in self.view.fixed or not name:
                break
            values.append(name)
        return values

    def _most(self, node: Node) -> bool:
        """Whether what is cut out is more than half of the whole: the inner part, as where nothing was padded."""
        part, whole = (self.view.graph.shapes.get(one) for one in (node.outputs[0], node.inputs[0]))
        if part is None or whole is None or None in part or None in whole:
            return False
        return 2 * prod(n for n in part if n is not None) > prod(n for n in whole if n is not None)

    def past(self, name: str, other: str, deep: bool = True) -> str:
        """Return the value that `name` is a way past another operand of a sum from, "" where it is none."""
        chain = self.chain(name)
        base = self.view.origin.get(name, name)
        found = next((one for one in dict.fromkeys((base, *chain)) if self.made_from(other, one)), "")
        node = self.view.nodes[self.view.producer[chain[-1]]] if chain[-1] in self.view.producer else None
        if found or not deep or node is None or node.op not in SUMS or len(node.inputs) != 2:
            return found
        for a, b in (node.inputs, node.inputs[::-1]):  # two branches one after the other, from one fork
            if self.past(a, b, deep=False):
                return self.past(a, other, deep=False)
        return ""

    def near(self, name: str) -> int:
        """Return the bits of the weights right before a value, low-rank additions left out."""
        return self.sources.get(name, 0) & ~self.adapters

    def low_rank(self, name: str) -> bool:
        """Whether a value comes from nothing but low-rank additions."""
        sources = self.sources.get(name, 0)
        return bool(sources) and not sources & ~self.adapters
