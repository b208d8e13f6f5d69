"""Gated linear units that were written out: one half of a value times the sigmoid of the other half."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from initaudit.types import Graph, Node

_END = 1 << 40  # where exporters put the end of a slice that has none


def gate(graph: Graph) -> Graph:
    """Return the graph with split, sigmoid and product as one `glu`, where nothing else reads what lies between."""
    producer = {name: k for k, node in enumerate(graph.nodes) for name in node.outputs if name}
    readers: dict[str, list[int]] = {}
    for k, node in enumerate(graph.nodes):
        for name in node.inputs:
            readers.setdefault(name, []).append(k)
    made: dict[int, Node] = {}
    gone: set[int] = set()
    for k, node in enumerate(graph.nodes):
        if node.op != "mul" or len(node.inputs) != 2:
            continue
        for signal, bounded in (node.inputs, node.inputs[::-1]):
            at = producer.get(bounded, -1)
            if at < 0 or graph.nodes[at].op != "sigmoid" or bounded in graph.outputs or signal in graph.outputs:
                continue
            other = graph.nodes[at].inputs[0]
            if readers[bounded] != [k] or readers[signal] != [k] or readers[other] != [at] or other in graph.outputs:
                continue
            halves = _halves(graph, producer, signal, other)
            if halves is not None:
                whole, axis, cuts = halves
                scope = {"@scope": node.attrs["@scope"]} if "@scope" in node.attrs else {}
                made[k] = Node("glu", (whole,), node.outputs, {"axis": axis, "fused": True, **scope}, node.name)
                gone |= {at, *cuts}
                break
    if not made:
        return graph
    nodes = (made.get(k, node) for k, node in enumerate(graph.nodes) if k not in gone)
    return replace(graph, nodes=tuple(nodes))


def _halves(
    graph: Graph, producer: dict[str, int], first: str, second: str
) -> tuple[str, int | None, tuple[int, ...]] | None:
    """Return what two values are the halves of, along which axis, and the nodes that cut it."""
    a, b = producer.get(first, -1), producer.get(second, -1)
    if a < 0 or b < 0:
        return None
    one, other = graph.nodes[a], graph.nodes[b]
    if a == b:
        told = one.op == "split" and one.outputs == (first, second) and _even(graph, one)
        return (one.inputs[0], one.attrs.get("axis", 0), (a,)) if told else None
    if one.op != "slice" or other.op != "slice" or one.inputs[0] != other.inputs[0]:
        return None
    if (
        min(len(one.inputs), len(other.inputs)) > 3
        and one.inputs[2] in producer
        and (one.inputs[2], one.inputs[3]) == (other.inputs[1], other.inputs[3])
    ):
        return _told_by_shape(graph, one, other, a, b)
    mine, theirs = _span(graph, one), _span(graph, other)
    if mine is None or theirs is None:
        return None
    axis, start, middle = mine
    shape = graph.shapes.get(one.inputs[0]) or ()
    whole = shape[axis] if axis < len(shape) else None
    again, begin, end = theirs
    wide = end if end < _END else whole
    if whole is not None and wide is not None:
        wide = min(wide, whole)
        begin = begin + whole if begin < 0 else begin
        middle = middle + whole if middle < 0 else middle
    if axis != again or start != 0 or begin != middle or middle <= 0 or wide not in (None, 2 * middle):
        return None
    return one.inputs[0], axis, (a, b)


def _told_by_shape(
    graph: Graph, one: Node, other: Node, a: int, b: int
) -> tuple[str, int | None, tuple[int, ...]] | None:
    """Read slices whose bounds are worked out while it runs: they meet, and nothing else of the whole is read."""
    whole = one.inputs[0]
    uses = {k for k, node in enumerate(graph.nodes) if whole in node.inputs and node.op not in ("shape", "size")}
    start, axis = (graph.constants.get(one.inputs[k]) for k in (1, 3))
    if uses != {a, b} or start is None or axis is None or start.size != 1 or axis.size != 1:
        return None
    return (whole, int(np.ravel(axis.load())[0]), (a, b)) if not np.ravel(start.load())[0] else None


def _even(graph: Graph, node: Node) -> bool:
    """Whether a split gives equal pieces, as far as the graph says."""
    sizes: Any = node.attrs.get("split")
    if sizes is None and node.call is None and len(node.inputs) > 1:
        tensor = graph.constants.get(node.inputs[1])
        sizes = None if tensor is None else tuple(np.asarray(tensor.load()).ravel().tolist())
    return not isinstance(sizes, (tuple, list)) or len(set(sizes)) == 1


def _span(graph: Graph, node: Node) -> tuple[int, int, int] | None:
    """Return axis, start and end of what a slice keeps of its only cut axis; -1 axes need the shape."""
    rank = len(graph.shapes.get(node.inputs[0]) or ())
    index = node.attrs.get("index")
    if isinstance(index, tuple):
        if any(i is None or not (i is Ellipsis or isinstance(i, slice)) for i in index):
            return None
        gap = next((k for k, i in enumerate(index) if i is Ellipsis), len(index))
        cut = [(k, i) for k, i in enumerate(index) if isinstance(i, slice) and i != slice(None)]
        if len(cut) != 1 or cut[0][1].step not in (None, 1):
            return None
        place, part = cut[0]
        axis = place if place < gap else place - len(index)
        bounds = (part.start or 0, _END if part.stop is None else part.stop)
    else:
        given = [graph.constants.get(name) for name in node.inputs[1:]]
        if len(given) < 3 or any(tensor is None or tensor.size != 1 for tensor in given):
            return None
        start, end, axis, *step = (int(np.asarray(t.load()).ravel()[0]) for t in given if t is not None)
        if step not in ([], [1]):
            return None
        bounds = (start, end)
    if axis < 0 and rank:
        axis += rank
    return (axis, *bounds) if all(isinstance(n, int) for n in bounds) else None
