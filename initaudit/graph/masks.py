"""Numbers written where a mask holds: exporters spell it as a list of the places and a scatter."""

from __future__ import annotations

from dataclasses import replace

from initaudit.types import Graph, Node

_COPIES = frozenset({"expand", "reshape", "identity", "cast", "tile", "unsqueeze", "squeeze"})
_FAR = 8


def choose(graph: Graph) -> Graph:
    """Return the graph with `where` for every scatter of one number to all places of a mask."""
    makers = {name: node for node in graph.nodes for name in node.outputs if name}
    made = {k: where for k, node in enumerate(graph.nodes) if (where := _where(graph, makers, node)) is not None}
    if not made:
        return graph
    before = {name for node in graph.nodes for name in node.inputs}
    needed = set(graph.outputs)
    kept: list[Node] = []
    for k in range(len(graph.nodes) - 1, -1, -1):
        node = made.get(k, graph.nodes[k])
        if any(name in needed or name not in before for name in node.outputs):  # what listed the places is gone
            kept.append(node)
            needed.update(node.inputs)
    return replace(graph, nodes=tuple(reversed(kept)))


def _where(graph: Graph, makers: dict[str, Node], node: Node) -> Node | None:
    if node.op != "scatter_nd" or node.call is not None or len(node.inputs) != 3:
        return None
    if node.attrs.get("reduction", "none") not in ("none", b"none"):
        return None
    data, places, value = node.inputs
    turned = makers.get(places)
    listed = makers.get(turned.inputs[0]) if turned is not None and turned.op == "transpose" else None
    for _ in range(_FAR):
        if value in graph.constants or value not in makers or makers[value].op not in _COPIES:
            break
        value = makers[value].inputs[0]
    tensor = graph.constants.get(value)
    if listed is None or listed.op != "non_zero" or tensor is None or tensor.size != 1:
        return None
    return Node("where", (listed.inputs[0], value, data), node.outputs, node.attrs, node.name)
