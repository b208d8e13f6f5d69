"""Scales of normalisations, and learned slopes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np

from initaudit.graph.view import View
from initaudit.layers.from_graph_found import RESHAPES, THROUGH, Found, computed, follow, learned
from initaudit.types import Node, Role, Tensor

_FILLED_IN = re.compile(r"(.*/?Constant(_\d+)?_output_\d+|val_\d+)$")  # exporters' filling

# ---- norms and slopes


def norm_at(scale: int, shift: int, *extra: int) -> Callable[[View, int, Node], Iterator[Found]]:
    """Read a norm whose scale, shift and further tensors are at these inputs."""

    def read(view: View, index: int, node: Node) -> Iterator[Found]:
        def at(place: int) -> Tensor | None:
            return learned(view, node.inputs[place]) if 0 <= place < len(node.inputs) else None

        weight = at(scale)
        out = node.outputs[0]
        filled_in = weight is not None and _FILLED_IN.match(weight.name) and _all_ones(weight)
        if weight is not None and not filled_in and (node.op != "instance_norm" or not _all_ones(weight)):
            found = _norm(node, index, weight, out)
            found.bias = at(shift)
            found.extra = tuple(t for t in map(at, extra) if t is not None)
            yield found
            return
        plain = weight
        after = _affine_after(view, out)
        if after is not None:
            factor, bias, end = after
            found = _norm(node, index, factor, end)
            found.bias = bias
            if plain is not None:
                found.claimed += [t.name for t in map(view.constant, node.inputs[1:3]) if t is not None]
            if any(u for u in _one_plus(view, factor)):
                found.reasons.append("applied as 1 + weight")
            yield found
        elif plain is not None and not _FILLED_IN.match(plain.name):
            found = _norm(node, index, plain, out)
            found.bias = at(shift)
            found.extra = tuple(t for t in map(at, extra) if t is not None)
            yield found

    return read


def _norm(node: Node, index: int, weight: Tensor, out: str) -> Found:
    axes = "o" * len(weight.shape)
    found = Found(index, "norm", weight, axes, node.inputs[0], out, role=Role.NORM)
    found.reasons.append(f"scale of {node.op}")
    return found


def _all_ones(tensor: Tensor) -> bool:
    return tensor.size <= 65536 and bool(np.all(np.asarray(tensor.load()).astype(np.float64) == 1.0))


def _affine_after(view: View, name: str) -> tuple[Tensor, Tensor | None, str] | None:
    """Return the vectors that the normalised value is multiplied by and shifted by, and the value after that."""
    at = follow(view, name, RESHAPES)
    for start in dict.fromkeys((name, at)):
        readers = view.readers(start)
        if len(readers) != 1 or view.nodes[readers[0].node].op != "mul":
            continue
        node = view.nodes[readers[0].node]
        other = node.inputs[1 - readers[0].position]
        weight = learned(view, other)
        if weight is None and other in view.fixed:
            weight = next(iter(computed(view, other)), None)
        if weight is None or weight.size < 2:
            continue
        end = node.outputs[0]
        bias = None
        further = follow(view, end, THROUGH)
        uses = view.readers(further)
        if len(uses) == 1 and view.nodes[uses[0].node].op == "add":
            add = view.nodes[uses[0].node]
            bias = learned(view, add.inputs[1 - uses[0].position])
            if bias is not None and bias.size == weight.size:
                end = add.outputs[0]
            else:
                bias = None
        return weight, bias, end
    return None


def _one_plus(view: View, weight: Tensor) -> Iterator[bool]:
    """Yield True where the weight is used as 1 + weight."""
    for name, tensor in view.graph.constants.items():
        if tensor is weight:
            for use in view.readers(name):
                node = view.nodes[use.node]
                other = view.constant(node.inputs[1 - use.position]) if node.op == "add" else None
                if other is not None and other.size == 1 and float(np.asarray(other.load()).ravel()[0]) == 1.0:
                    yield True


def prelu(view: View, index: int, node: Node) -> Iterator[Found]:
    """Read the slope of a PReLU."""
    slope = learned(view, node.inputs[1]) if len(node.inputs) > 1 else None
    if slope is not None:
        found = Found(index, "prelu", slope, "o" * len(slope.shape), node.inputs[0], node.outputs[0])
        found.role = Role.OTHER
        found.reasons.append("slope of a PReLU")
        yield found
