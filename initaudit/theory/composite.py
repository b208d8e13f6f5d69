"""Functions without a name: what fusing put into one node is worked out again from the nodes it was made of."""

from __future__ import annotations

import numpy as np

from initaudit.errors import InitauditError
from initaudit.graph.evaluate import POINTWISE
from initaudit.graph.numbers import Numbers
from initaudit.theory.activate import applied, numeric, returned
from initaudit.theory.engine import Case, Step, Unread, op
from initaudit.types import Array, Graph, Node

_MOST = 200  # nodes of one function


class Parts:
    """The graph as it was before fusing."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._makers = {name: node for node in graph.nodes for name in node.outputs if name}
        self._order = {id(node): k for k, node in enumerate(graph.nodes)}
        self._numbers = Numbers(graph)
        for node in graph.nodes:
            self._numbers.learn(node)

    def chain(self, root: str, end: str) -> list[Node]:
        """Return the nodes from one value to another, in execution order. Raises Unread."""
        inside: dict[int, Node] = {}
        todo, seen = [end], {root}
        while todo:
            name = todo.pop()
            if name in seen or not name:
                continue
            seen.add(name)
            if self._numbers[name] is not None:
                continue
            node = self._makers.get(name)
            if node is None or node.op not in POINTWISE or len(inside) > _MOST:
                raise Unread
            inside[self._order[id(node)]] = node
            todo += node.inputs
        return [inside[k] for k in sorted(inside)]

    def run(self, chain: list[Node], root: str, x: Array) -> Array:
        """Return the value at the end of a chain for values at its root."""
        values: dict[str, Array] = {root: x}
        for node in chain:
            given: list[Array] = []
            for name in node.inputs:
                one = values.get(name) if name in values else self._numbers.operand(node, name) if name else np.zeros(0)
                if one is None:
                    raise Unread
                given.append(one)
            values[node.outputs[0]] = np.asarray(POINTWISE[node.op](given, node.attrs), np.float64)
        return np.broadcast_to(values[chain[-1].outputs[0]], x.shape) if chain else x


@op("composite")
def _composite(c: Case) -> Step:
    parts = c.walk.parts
    if parts is None or c.attrs.get("constant"):
        raise Unread
    root, end = c.name(0), c.node.outputs[0]
    chain = parts.chain(root, end)
    probe = parts.run(chain, root, np.linspace(-3, 3, 7))
    if not np.isfinite(probe).all():
        raise Unread

    def run(v: Array) -> Array:
        try:
            out: Array = parts.run(chain, root, v)
        except InitauditError as error:
            raise Unread from error
        return out

    x = c.kernel(0)
    function = numeric(f"composite {id(parts)} {end}", run)
    out, made = applied(x, function)
    return Step((out,), lambda d: {0: returned(x, made, d[0]) if d[0] is not None else None})
