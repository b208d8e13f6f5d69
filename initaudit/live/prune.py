"""What a pass computed for nobody, taken out of its graph."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from initaudit.torch_ops.bind import refs
from initaudit.types import Graph, Node


def pruned(graph: Graph) -> Graph:
    """Return a graph without what leads to none of its outputs: answers to questions, masks that were not needed.

    A computation that reads parameters of its own stays, wherever its result goes: an auxiliary loss that the module
    keeps for itself.
    """
    made: dict[str, int] = {name: at for at, node in enumerate(graph.nodes) for name in node.outputs if name}
    alive = _before(graph.nodes, made, (made[name] for name in graph.outputs if name in made))
    own = {name for name, tensor in graph.constants.items() if not tensor.buffer}
    read = {name for at in alive for name in graph.nodes[at].inputs} & own
    more: set[int] = set()
    reached: set[str] = set()
    for at, node in enumerate(graph.nodes):
        if at not in alive and (own.intersection(node.inputs) - read or reached.intersection(node.inputs)):
            more.add(at)
            reached.update(name for name in node.outputs if name)
    alive |= _before(graph.nodes, made, more)
    if len(alive) == len(graph.nodes):
        return graph
    nodes = tuple(node for at, node in enumerate(graph.nodes) if at in alive)
    used = {name for node in nodes for name in _uses(node)} | set(graph.outputs)
    kept = used | {name for node in nodes for name in node.outputs}
    return replace(
        graph,
        nodes=nodes,
        constants={name: tensor for name, tensor in graph.constants.items() if name in used},
        shapes={name: shape for name, shape in graph.shapes.items() if name in kept},
    )


def _before(nodes: tuple[Node, ...], made: dict[str, int], start: Iterable[int]) -> set[int]:
    """Return the nodes that some nodes depend on, and these themselves."""
    found: set[int] = set()
    todo = list(start)
    while todo:
        at = todo.pop()
        if at in found:
            continue
        found.add(at)
        todo += [made[name] for name in _uses(nodes[at]) if name in made]
    return found


def _uses(node: Node) -> set[str]:
    """Return the values that a node takes, those that only its call speaks of included."""
    call = node.call
    more = [*refs(call.args), *refs(call.kwargs)] if call is not None else []
    return {*node.inputs, *(ref.name for ref in more)}
