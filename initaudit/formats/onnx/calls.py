"""How much a graph comes to once its functions are inlined: counted first, since it may double with every call."""

from __future__ import annotations

from initaudit.errors import CorruptFileError, UnsupportedError
from initaudit.formats.onnx.order import subgraphs
from initaudit.formats.onnx.records import GraphRecord, ModelRecord, NodeRecord

_MOST_INLINED = 1 << 19  # nodes with their inputs, outputs and attributes
_MOST_CALLS = 64

Key = tuple[str, str, str]


def function_key(node: NodeRecord) -> Key:
    """Return what a function would be called that this node calls."""
    return node.domain, node.op, node.overload


def weigh(node: NodeRecord) -> int:
    """Return how much inlining a node adds: itself, its inputs, outputs and attributes."""
    return 1 + len(node.inputs) + len(node.outputs) + len(node.attributes)


def check_call(key: Key, calls: tuple[Key, ...]) -> None:
    """Refuse a call inside of `calls` that goes in a circle or too deep."""
    if key in calls:
        raise CorruptFileError(f"function {key[1][:80]!r} calls itself")
    if len(calls) >= _MOST_CALLS:
        raise CorruptFileError(f"functions call each other more than {_MOST_CALLS} deep")


def check_inlined(total: int) -> None:
    """Refuse a graph that comes to more than is inlined."""
    if total > _MOST_INLINED:
        raise UnsupportedError(
            f"functions that come to more than {_MOST_INLINED} nodes, inputs and outputs when inlined"
        )


def check_calls(model: ModelRecord) -> None:
    """Refuse functions that come to too much when they are inlined, before any is.

    Raises:
        CorruptFileError: a function calls itself, or they call each other too deep.
        UnsupportedError: they come to too much.
    """
    if model.functions:
        check_inlined(_called(model, model.graph, (), {}))


def _called(model: ModelRecord, graph: GraphRecord, calls: tuple[Key, ...], known: dict[Key, int]) -> int:
    """Return what the functions that a graph calls come to; the graph itself included where it is one's body."""
    total = len(graph.initializers) + len(graph.sparse) + len(graph.shapes) if calls else 0
    for node in graph.nodes:
        if calls:
            total += weigh(node)
        for inner in subgraphs(node.attributes):
            total += _called(model, inner, calls, known)
        key = function_key(node)
        if key not in model.functions:
            continue
        check_call(key, calls)
        if key not in known:
            known[key] = _called(model, model.functions[key].body, (*calls, key), known)
        total += known[key]
    return total
