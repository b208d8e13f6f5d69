"""The order of ONNX nodes: files should list them in execution order, and some do not."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence

from initaudit.errors import CorruptFileError
from initaudit.formats.onnx.records import AttributeRecord, GraphRecord, NodeRecord


def subgraphs(attributes: Sequence[AttributeRecord]) -> Iterator[GraphRecord]:
    """Yield the graphs that a node carries."""
    for attribute in attributes:
        values = attribute.value if isinstance(attribute.value, tuple) else (attribute.value,)
        for value in values:
            if isinstance(value, GraphRecord):
                yield value


def needs(node: NodeRecord) -> set[str]:
    """Return the names that a node reads, those that its subgraphs take from outside included."""
    names = {name for name in node.inputs if name}
    for graph in subgraphs(node.attributes):
        names |= _free(graph)
    return names


def _free(graph: GraphRecord) -> set[str]:
    wanted = {name for name in graph.outputs if name}
    own = set(graph.inputs)
    own.update(t.name for t in graph.initializers)
    own.update(s.values.name for s in graph.sparse)
    for node in graph.nodes:
        wanted |= needs(node)
        own.update(node.outputs)
    return wanted - own


def ordered(nodes: Sequence[NodeRecord]) -> Sequence[NodeRecord]:
    """Return the nodes so that each comes after those whose outputs it reads; unchanged where that holds already.

    Raises:
        CorruptFileError: they read each other in a circle, or two make the same value.
    """
    maker: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in node.outputs:
            if name and maker.setdefault(name, index) != index:
                raise CorruptFileError(f"two nodes make the value {name!r}")
    wanted = [{maker[name] for name in needs(node) if name in maker} for node in nodes]
    if all(max(before, default=-1) < index for index, before in enumerate(wanted)):
        return nodes
    readers: list[list[int]] = [[] for _ in nodes]
    missing = [len(before) for before in wanted]
    for index, before in enumerate(wanted):
        for other in before:
            readers[other].append(index)
    ready = [index for index, count in enumerate(missing) if count == 0]
    order: list[NodeRecord] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(nodes[index])
        for reader in readers[index]:
            missing[reader] -= 1
            if missing[reader] == 0:
                heapq.heappush(ready, reader)
    if len(order) < len(nodes):
        stuck = next(i for i, count in enumerate(missing) if count)
        raise CorruptFileError(f"the nodes read each other in a circle, at {nodes[stuck].op} {nodes[stuck].name!r}")
    return order
