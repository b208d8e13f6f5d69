"""Values of a graph that are one known number throughout: constants, what is filled with one, and copies of these."""

from __future__ import annotations

from typing import Any

import numpy as np

from initaudit.errors import InitauditError
from initaudit.types import Array, Graph, Node, Tensor

PICKS = frozenset({
    "max", "min", "where", "clip", "greater", "less", "greater_or_equal", "less_or_equal", "equal",
})  # fmt: skip
_COPIES = frozenset({
    "expand", "reshape", "view", "flatten", "tile", "squeeze", "unsqueeze", "transpose", "slice", "split", "identity",
    "dropout", "contiguous",
})  # fmt: skip
_MOST_READ = 1 << 22


class Numbers:
    """The known numbers of a graph; nodes are shown to it in execution order."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._one: dict[str, Array | None] = {}
        self._filled: dict[str, Array | None] = {}

    def __getitem__(self, name: str) -> Array | None:
        """Return the number that a value is throughout, an empty array for a constant without values, else None."""
        if name not in self._one:
            tensor = self.graph.constants.get(name)
            value = None
            if tensor is not None and (tensor.size == 1 or (tensor.size > 1 and _spread(tensor))):
                value = first(tensor)
            elif tensor is not None and tensor.size == 0:
                value = np.zeros(0)
            self._one[name] = value
        return self._one[name]

    def __setitem__(self, name: str, value: Array) -> None:
        self._one[name] = value

    def operand(self, node: Node, name: str) -> Array | None:
        """Return the number that a value is for a node.

        A stored tensor may be a scale that only now is one everywhere; what picks between values is another matter: a
        bound of one value acts as that number, whoever made it.
        """
        value = self[name]
        if value is not None or node.op not in PICKS or name not in self.graph.constants:
            return value
        if name not in self._filled:
            one = filling(self.graph.constants[name])
            self._filled[name] = None if one is None else np.asarray(one)
        return self._filled[name]

    def learn(self, node: Node) -> bool:
        """Take note of a node that makes one known number throughout; return whether it does."""
        value: Array | None = None
        if node.op == "source":
            given = node.attrs.get("value")
            value = np.asarray(given) if isinstance(given, (bool, int, float)) else None
        elif node.op == "constant_of_shape":
            value = _attribute(node.attrs.get("value"))
        elif node.op in _COPIES and node.inputs:
            value = self[node.inputs[0]]
        if value is None or value.size != 1:
            return False
        for name in node.outputs:
            self._one[name] = value
        return True


def first(tensor: Tensor) -> Array:
    """Return the first value of a tensor, as a number."""
    values: Array = np.asarray(tensor.load()).ravel()[:1].reshape(())
    return values if values.dtype.kind in "biuf" else values.astype(np.float64)


def _spread(tensor: Tensor) -> bool:
    """Whether a tensor is one stored number, expanded."""
    return tensor.strides is not None and all(
        step == 0 or extent == 1 for step, extent in zip(tensor.strides, tensor.shape, strict=True)
    )


def filling(tensor: Tensor) -> float | None:
    """Return the one number that all values are, None where they differ or are too many to look at."""
    if not 0 < tensor.size <= _MOST_READ:
        return None
    try:
        values = np.asarray(tensor.load())
    except InitauditError:  # the rules will say so, in one place
        return None
    return float(values.flat[0]) if bool(np.all(values == values.flat[0])) else None


def _attribute(value: Any) -> Array | None:
    if value is None:
        return np.zeros(())
    if isinstance(value, Tensor):
        return first(value) if value.size == 1 else None
    return np.asarray(value).reshape(()) if np.size(value) == 1 else None
