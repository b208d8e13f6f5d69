"""What is left over by fusing and yet bends a signal: bounds, choices and gates that are no known function of it."""

from __future__ import annotations

from initaudit.layers.from_graph_origin import Origins
from initaudit.types import Node

_STRAIGHT = frozenset({"add", "sub", "sum", "mean", "mul", "div", "neg", "cast", "identity", "expand"})
_ALONG = frozenset({"cast", "identity", "expand", "non_zero", "transpose"})  # the places of a mask are as good as it
_NUMBERS = frozenset({"max", "min", "pow"})  # of a signal and a number they are known functions or reach a norm
_CURVED = frozenset({"reduce_log_sum", "reduce_log_sum_exp", "reduce_prod", "reduce_sum_square", "cumprod"})
_FEW = 8
_MOST = 60  # values between a signal and a gate that is a function of each of its elements


def bends(origins: Origins, name: str, node: Node, position: int) -> bool:
    """Whether a node that fusing left over makes of each element something that is not told.

    Args:
        origins: of the graph.
        name: the signal.
        node: reads it; an elementwise operation, or one over an axis.
        position: as which of its inputs.
    """
    if node.op in _CURVED:
        return True
    if node.op in ("reduce_max", "reduce_min"):
        return _of_joined(origins, node)
    others = [other for k, other in enumerate(node.inputs) if other and k != position]
    if node.op in _NUMBERS:
        return not all(_number(origins, other) for other in others)
    if node.op == "div" and position == 1:
        return node.inputs[0] in origins.view.fixed and not _number(origins, node.inputs[0])
    if node.op == "where":
        return position > 0 and elementwise_of(origins, node.inputs[0], name)
    if node.op == "scatter_nd":
        return position == 0 and any(elementwise_of(origins, other, name) for other in node.inputs[1:2])
    return False


def elementwise_of(origins: Origins, name: str, signal: str) -> bool:
    """Whether a value is made of each element of a signal by itself, and not only scaled and shifted."""
    view = origins.view
    ends = {signal, *origins.chain(signal)}
    todo: list[tuple[str, bool]] = [(name, False)]
    seen = set(todo)
    while todo and len(seen) < _MOST:
        at, bent = todo.pop()
        if at in ends and (bent or at != name):
            if bent:
                return True
            continue
        index = view.producer.get(at, -1)
        if index < 0 or index in origins.layers or at in view.fixed:
            continue
        node = view.nodes[index]
        kind = origins.family(node)
        if kind not in ("elementwise", "activation") and node.op not in _ALONG:
            continue
        bent = bent or node.op not in _STRAIGHT
        for one in node.inputs:
            if one and (one, bent) not in seen:
                seen.add((one, bent))
                todo.append((one, bent))
    return False


def _number(origins: Origins, name: str) -> bool:
    tensor = origins.view.constant(name)
    return tensor is not None and tensor.size == 1


def _of_joined(origins: Origins, node: Node) -> bool:
    """Whether the largest is taken of values that were joined for it: of a signal and zero, it is a rectifier."""
    made = origins.view.producer.get(node.inputs[0], -1)
    axes = node.attrs.get("axes")
    if axes is None and len(node.inputs) > 1:
        tensor = origins.view.constant(node.inputs[1])
        axes = tensor.load().ravel().tolist() if tensor is not None and tensor.size < _FEW else None
    if made < 0 or origins.view.nodes[made].op != "concat" or not isinstance(axes, (tuple, list)):
        return False
    rank = len(origins.view.graph.shapes.get(node.inputs[0]) or ())
    axis = origins.view.nodes[made].attrs.get("axis", 0)
    return len(axes) == 1 and isinstance(axis, int) and (axes[0] == axis or (rank > 0 and (axes[0] - axis) % rank == 0))
