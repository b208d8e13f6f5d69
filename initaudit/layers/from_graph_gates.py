"""What multiplies a signal: which of two factors is the gate, what is a mask, what shifts that a scale came before."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import prod

from initaudit.graph.view import FAR, View
from initaudit.layers.from_graph_adapters import before
from initaudit.layers.from_graph_fate import Ends
from initaudit.layers.from_graph_found import Found
from initaudit.layers.from_graph_origin import PRODUCTS, SAME, SUMS, Origins
from initaudit.types import Node

_BOUNDED = frozenset({"sigmoid", "hardsigmoid", "softmax", "logsigmoid"})
ASKS = frozenset({"greater", "less", "equal", "greater_or_equal", "less_or_equal", "not"})  # yes or no for each


class Gates(Origins):
    """Products of two signals, and the sums that belong to them."""

    def __init__(self, view: View, founds: Iterable[Found], low_rank: Collection[int] = ()) -> None:
        super().__init__(view, founds, low_rank)
        self._shifts: dict[int, str] = {}

    def gating(self, name: str, other: str) -> Ends:
        """Return what the first factor of a product is to the other one."""
        if self.made_from(other, name):
            return Ends.SELF
        mine, theirs = self.gateness(name), self.gateness(other)
        if self.made_from(name, other) or (max(mine, theirs) < 3 and self._one_weight_later(name, other)):
            return Ends.GATES
        if max(mine, theirs) < 3 and self._one_weight_later(other, name):
            return Ends.GATED
        if mine == theirs:
            mine, theirs = int(self._normed(other)), int(self._normed(name))  # a norm's output is the signal
        if mine == theirs:
            mine, theirs = self._size(other), self._size(name)  # one number for many is the gate
        return Ends.GATES if mine > theirs else Ends.GATED if theirs > mine else Ends.PRODUCT

    def _size(self, name: str) -> int:
        """Return the number of elements of a value, 0 where that is not known."""
        shape = self.view.graph.shapes.get(name)
        return 0 if shape is None or None in shape else prod(n for n in shape if n is not None)

    def ungated(self, factors: Sequence[str]) -> list[str]:
        """Return those of two factors that are not the gate on the other one."""
        a, b = factors
        kept = [one for one, other in ((a, b), (b, a)) if self.gating(one, other) is not Ends.GATES]
        return kept or [a, b]

    def _one_weight_later(self, name: str, other: str) -> bool:
        """Whether one weight makes `name` out of the signal that `other` is a piece of, and so is a gate on it."""
        mine, theirs = self.near(name), self.near(other)
        if not theirs or mine.bit_count() != 1 or not self.made_from(name, self.whole(other)):
            return False
        return all(self.near(found.source) == theirs for found in self.layers.get(mine.bit_length() - 1, ()))

    def gateness(self, name: str) -> int:
        """How much a factor looks like the gate: 3 a bounded activation, 2 another one, 1 one number per channel."""
        score = 0
        for _ in range(8):
            if name not in self.view.producer:
                return score
            node = self.view.nodes[self.view.producer[name]]
            kind = self.family(node)
            if node.op in _BOUNDED:
                return 3
            if kind == "activation":
                return 2 if node.op != "exp" else score
            moving = self.view.moving(node)
            if node.op in ("unsqueeze", "expand") or (node.op in SUMS and len(moving) == 1 and kind == "elementwise"):
                score = max(score, int(self._per_channel(node)))
            elif node.op not in SAME | {"split", "slice", "gather", "mul"}:
                return score
            if len(moving) != 1:
                return score
            name = node.inputs[moving[0]]
        return score

    def _per_channel(self, node: Node) -> bool:
        if node.op in ("unsqueeze", "expand"):
            return True
        constants = [self.view.constant(i) for i in node.inputs if i in self.view.fixed]
        return all(c is not None and c.size == 1 for c in constants)

    def _normed(self, name: str) -> bool:
        """Whether a value is what a norm makes, moved at most."""
        for _ in range(FAR):
            if name not in self.view.producer:
                break
            node = self.view.nodes[self.view.producer[name]]
            if self.family(node) == "norm":
                return True
            if node.op not in SAME:
                break
            name = node.inputs[0]
        return False

    def conditional(self, signal: str, scale: str) -> bool:
        """Whether a product is of a norm's output and a scale made by a weight in the place of the norm's own."""
        return self._normed(signal) and scale in self.live and self.gateness(scale) < 3

    # ---- masks

    def masks(self, name: str, out: str) -> bool:
        """Whether a factor is an input of the graph that says for each place whether, or how much, it counts."""
        return self.statistic(name, out) or (name not in self.live and self._multiplies_only(name))

    def statistic(self, name: str, out: str) -> bool:
        """Whether a sum only moves a signal by a number for many places that was worked out from the graph's inputs."""
        return name not in self.live and 0 < self._size(name) < self._size(out)

    def _multiplies_only(self, name: str) -> bool:
        """Whether the inputs that a factor is made of do nothing but multiply signals and answer conditions."""
        view = self.view
        inputs, todo, seen = [], [name], {name}
        while todo and len(seen) < FAR:
            at = todo.pop()
            if at not in view.producer:
                inputs.append(at)
                continue
            fresh = [one for one in view.nodes[view.producer[at]].inputs if one not in view.fixed and one not in seen]
            seen.update(fresh)
            todo += fresh
        todo, seen = inputs, set(inputs)
        while todo and len(seen) < FAR:
            at = todo.pop()
            if at in view.outputs:
                return False
            for use in view.readers(at):
                node = view.nodes[use.node]
                if node.op in ASKS or (node.op == "where" and use.position == 0):
                    continue
                with_signal = any(one in self.live for one in node.inputs)
                if with_signal and node.op in PRODUCTS:
                    continue
                if with_signal or self.family(node) not in ("move", "elementwise", "activation", "quant"):
                    return False
                todo += [one for one in node.outputs if one not in seen]
                seen.update(node.outputs)
        return True

    # ---- shifts

    def shifted(self, index: int) -> str:
        """Return the scaled signal that a sum only shifts, "" where it is another sum.

        Scale and shift are made by one weight each from the same value, which no last weight of the signal reads.
        """
        if index not in self._shifts:
            self._shifts[index] = self._shifted(self.view.nodes[index])
        return self._shifts[index]

    def _shifted(self, node: Node) -> str:
        if node.op not in ("add", "sub") or len(node.inputs) != 2:
            return ""
        for scaled, shift in (node.inputs, node.inputs[::-1]):
            by = self.only(shift)
            if by is None or scaled not in self.live:
                continue
            at = next((one for one in self.chain(scaled) if self._multiplied(one)), "")
            pair = self.view.nodes[self.view.producer[at]].inputs if at else ()
            for signal, scale in (pair, pair[::-1]) if len(pair) == 2 else ():
                maker = self.only(scale)
                if maker is None or maker is by or self.gating(scale, signal) is not Ends.GATES:
                    continue
                source = before(self.view, by.source)
                lasts = [found for node in self._nodes(self.near(signal)) for found in self.layers[node]]
                own = any(before(self.view, found.source) == source for found in lasts)
                if lasts and not own and before(self.view, maker.source) == source:
                    return scaled
        return ""

    def _multiplied(self, name: str) -> bool:
        node = self.view.nodes[self.view.producer[name]] if name in self.view.producer else None
        return node is not None and node.op == "mul" and len(self.view.moving(node)) == 2

    def only(self, name: str) -> Found | None:
        """Return the weight whose output a value is, moved, scaled or shifted."""
        bits = self.near(name)
        founds = self.layers.get(bits.bit_length() - 1, []) if bits.bit_count() == 1 else []
        return founds[0] if len(founds) == 1 and founds[0].out in self.chain(name) else None

    def _nodes(self, bits: int) -> list[int]:
        nodes = []
        while bits:
            nodes.append(bits.bit_length() - 1)
            bits ^= 1 << nodes[-1]
        return nodes
