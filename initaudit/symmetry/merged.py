"""Parameters that an exporter wrote once because they start equal.

torch's ONNX exporters keep one initializer for all tensors of one shape with the same values: zero biases, norm scales
of one, whole layers that are constant. Trained from there they are parameters of their own. A tensor that is drawn at
random and stands for several is shared by the model itself; one that holds a single number throughout is taken to have
been merged. What is told of its units is told of the first that reads it, whose name it has; what is told of its
movement holds for all.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np

from initaudit.types import Graph, Tensor

Identity = tuple[str, int, tuple[int, ...], tuple[int, ...] | None]


@dataclass(frozen=True, slots=True)
class Own(Tensor):
    """One of the parameters that a tensor of a file stands for."""

    of: Identity | None = None


def parted(graph: Graph) -> Graph:
    """Return a graph in which each reader of a constant tensor of one number has a tensor of its own."""
    constants = dict(graph.constants)
    keys = {name: tensor.identity for name, tensor in constants.items()}
    read = Counter(keys[name] for node in graph.nodes for name in node.inputs if name in keys)
    several = {key: _even(constants[name]) for name, key in keys.items() if read[key] > 1}
    if not any(several.values()):
        return graph
    seen: Counter[Identity] = Counter()
    nodes = []
    for node in graph.nodes:
        inputs = list(node.inputs)
        for place, name in enumerate(inputs):
            key = keys.get(name)
            if key is None or not several.get(key):
                continue
            if seen[key]:
                inputs[place] = f"{name}@{seen[key]}"
                constants[inputs[place]] = _own(constants[name], seen[key])
            seen[key] += 1
        nodes.append(replace(node, inputs=tuple(inputs)))
    return replace(graph, nodes=tuple(nodes), constants=constants)


def original(tensor: Tensor) -> Identity:
    """Return the identity that a tensor has in the file."""
    return tensor.of if isinstance(tensor, Own) and tensor.of is not None else tensor.identity


def _even(tensor: Tensor) -> bool:
    if not tensor.is_float or tensor.buffer or not tensor.size:
        return False
    values = np.asarray(tensor.load())
    first = values.reshape(-1)[:1]
    if bool((values.reshape(-1)[-1:] != first).any()):  # mostly enough, and nearly free
        return False
    return bool((values == first.reshape((1,) * values.ndim)).all())


def _own(tensor: Tensor, number: int) -> Own:
    own = replace(tensor, storage=f"{tensor.storage or tensor.name}@{number}")
    return Own(
        own.name, own.shape, own.dtype, own.load, own.storage, own.offset, own.strides, own.buffer, own.release,
        own.parts, tensor.identity,
    )  # fmt: skip
