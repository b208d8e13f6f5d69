"""Walks along a signal: back to the weights that make it, on to the weights that take it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from initaudit.layers.from_graph_flow import Flow
from initaudit.layers.from_graph_found import Found
from initaudit.layers.from_graph_origin import JOINS, PRODUCTS, SKIP_NORMS, SUMS
from initaudit.types import Node

_MOST = 400  # values in one walk
WRITES = frozenset({"scatter", "scatter_elements", "scatter_nd", "index_put", "index_add", "scatter_add"})

Step = Callable[[int], "list[str] | None"]  # from a node to the values the walk goes on with; None ends it


@dataclass(slots=True)
class Back:
    """What a walk back has met."""

    makers: list[Found] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)  # values it did not pass: inputs, constants, other nodes' outputs
    nodes: list[int] = field(default_factory=list)  # passed
    seen: set[str] = field(default_factory=set)


class Walk:
    """Walks over the graph of a Flow."""

    def __init__(self, flow: Flow, founds: Iterable[Found]) -> None:
        self.flow = flow
        self.view = flow.view
        self.made: dict[str, list[Found]] = {}
        self.learned: dict[int, list[Found]] = {}  # scales and shifts of no op, by the node where they meet the signal
        for here in flow.layers.values():
            for found in here:
                for name in dict.fromkeys((found.out, *self.view.nodes[found.node].outputs)):
                    self.made.setdefault(name, []).append(found)
        for found in founds:
            if found.kind == "parameter":
                self.learned.setdefault(found.node, []).append(found)

    def family(self, index: int) -> str:
        """Return the family of a node's op."""
        return self.flow.family(self.view.nodes[index])

    def signals(self, node: Node) -> list[str]:
        """Return the inputs that come from a weight, each once."""
        return list(dict.fromkeys(name for name in node.inputs if name in self.flow.live))

    def data(self, node: Node) -> list[str]:
        """Return the inputs of a node whose values its output holds: not the indices, sizes and conditions."""
        if node.op in JOINS:
            return [name for name in node.inputs[node.op == "where" :] if name]
        if node.op in WRITES:
            return [name for name in (*node.inputs[:1], *node.inputs[2:][-1:]) if name]
        kind = self.flow.family(node)
        if kind in ("move", "norm", "activation", "pool", "reduce", "quant", "softmax"):
            return [name for name in node.inputs[: 2 if node.op in SKIP_NORMS else 1] if name]
        return [name for name in node.inputs if name]

    def carried(self, index: int, also: tuple[str, ...] = ("norm", "pool", "reduce")) -> list[str] | None:
        """Return the signals that a node moves or scales, or treats as a family of `also` does; None for others."""
        node = self.view.nodes[index]
        kind = self.flow.family(node)
        if kind in ("move", "quant") or kind in also:
            return [name for name in self.data(node) if name in self.flow.live]
        if kind == "elementwise":
            inputs = self.signals(node)
            return inputs if len(inputs) == 1 else None
        return None

    def back(self, name: str, step: Step, most: int = _MOST) -> Back:
        """Walk back from a value to the weights that make it, past the nodes that `step` goes on from."""
        met = Back()
        todo = [name]
        met.seen.add(name)
        while todo and len(met.seen) < most:
            at = todo.pop()
            if at in self.made:
                met.makers += [f for f in self.made[at] if all(f is not other for other in met.makers)]
                continue
            index = self.view.producer.get(at, -1)
            further = step(index) if index >= 0 and at in self.flow.live else None
            if further is None:
                met.ends.append(at)
                continue
            met.nodes.append(index)
            for one in further:
                if one not in met.seen:
                    met.seen.add(one)
                    todo.append(one)
        return met

    def on(self, name: str, passes: Callable[[int, str], bool], most: int = _MOST) -> tuple[list[Found], set[int]]:
        """Walk on from a value to the first weights that take it; also return the nodes that `passes` let through."""
        found: list[Found] = []
        nodes: set[int] = set()
        todo, seen = [name], {name}
        while todo and len(seen) < most:
            at = todo.pop()
            for use in self.view.readers(at):
                here = [f for f in self.flow.layers.get(use.node, ()) if f.source == at]
                if here or use.node in self.flow.layers:
                    found += [f for f in here if all(f is not other for other in found)]
                    continue
                if not passes(use.node, at):
                    continue
                nodes.add(use.node)
                for out in self.view.nodes[use.node].outputs:
                    if out and out not in seen:
                        seen.add(out)
                        todo.append(out)
        return found, nodes

    # ---- sums

    def stream(self, name: str, others: Iterable[str]) -> str:
        """Return the fork that both an operand of a sum and one of the others come from, "" where it is no skip path.

        What lies between the fork and the sum may rearrange, pool, scale or normalise, but no weight.
        """
        return next((fork for other in others if other != name and (fork := self.flow.past(name, other))), "")

    def operands(self, index: int) -> list[str]:
        """Return the signals that a sum adds, learned streams among them, but no low-rank additions."""
        node = self.view.nodes[index]
        if node.op not in SUMS and node.op not in SKIP_NORMS:
            return []
        inputs = node.inputs[:2] if node.op in SKIP_NORMS else node.inputs
        flow = self.flow
        met = [
            name
            for name in dict.fromkeys(inputs)
            if name in flow.live or name in flow.raw or flow.bit.get(self.view.origin.get(name, name))
        ]
        met = [name for name in met if name not in flow.raw or not flow.statistic(name, node.outputs[0])]
        return [name for name in met if not flow.low_rank(name)] or met

    def logits(self, index: int) -> bool:
        """Whether what a node makes goes into a softmax alone: what it adds is a mask or a bias of positions."""
        name = self.view.nodes[index].outputs[0]
        for _ in range(6):
            readers = self.view.readers(name)
            kinds = {self.family(use.node) for use in readers}
            if kinds == {"softmax"}:
                return True
            if len(readers) != 1 or not kinds <= {"move", "elementwise"}:
                return False
            name = self.view.nodes[readers[0].node].outputs[0]
        return False

    def factors(self, index: int) -> list[str]:
        """Return the signals that a product multiplies."""
        node = self.view.nodes[index]
        return self.signals(node) if node.op in PRODUCTS else []
