"""Who makes and who reads each value of a graph, and which values move with the input."""

from __future__ import annotations

from dataclasses import dataclass, replace

from initaudit.graph.moved import joined, moved
from initaudit.ops import family
from initaudit.types import Graph, Node, Tensor

_SHAPES = frozenset({"shape", "size"})
_OTHERS = frozenset({  # moves whose result is not their first input alone
    "concat", "scatter", "scatter_elements", "scatter_nd", "scatter_add", "index_put", "index_add",
})  # fmt: skip
_FEWER = frozenset({"reshape", "expand", "batch_norm"})  # from torch: a shape is an attribute, a scale may be absent


FAR = 200  # steps along a chain; a loop's values lead back to themselves
_LEAST = {  # inputs without which an op is none
    **dict.fromkeys(("add", "sub", "mul", "div", "pow", "greater", "less", "equal"), 2),
    **dict.fromkeys(("gemm", "matmul", "linear", "gather", "prelu", "reshape", "expand", "conv", "conv_transpose"), 2),
    **dict.fromkeys(("embedding", "lstm", "gru", "rnn", "batch_norm", "matmul_integer", "conv_integer"), 2),
    **dict.fromkeys(("where", "deform_conv", "attention"), 3),
    **dict.fromkeys(("qlinear_conv", "qlinear_matmul", "qattention"), 5),
}


def sound(graph: Graph) -> Graph:
    """Return the graph without nodes that make nothing, and with ops that lack inputs as "malformed"."""
    nodes = []
    for node in graph.nodes:
        if not any(node.outputs):
            continue
        least = _LEAST.get(node.op, 0 if family(node.op) in ("source", "other") else 1)
        if node.op in _FEWER and node.call is not None:
            least = 1
        whole = len(node.inputs) >= least and all(node.inputs[: min(least, 2)])
        nodes.append(node if whole else replace(node, op="malformed"))
    return replace(graph, nodes=tuple(nodes))


@dataclass(frozen=True, slots=True)
class Use:
    """One reading of a value: by which node, as which of its inputs."""

    node: int
    position: int


class View:
    """An index over a graph; what it tells does not change after it is made."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: tuple[Node, ...] = graph.nodes
        self.producer: dict[str, int] = {}
        self.uses: dict[str, list[Use]] = {}
        self.fixed: set[str] = set(graph.constants)  # values that do not move with the data
        self.origin: dict[str, str] = {name: name for name in graph.constants}  # moved copies of one constant
        self.outputs = frozenset(graph.outputs)
        self._oriented: dict[str, Tensor | None] = {}
        for index, node in enumerate(graph.nodes):
            for position, name in enumerate(node.inputs):
                if name and node.op not in _SHAPES:
                    self.uses.setdefault(name, []).append(Use(index, position))
            for name in node.outputs:
                self.producer[name] = index
            if node.op in _SHAPES or all(not name or name in self.fixed for name in node.inputs):
                self.fixed.update(node.outputs)
                first = node.inputs[0] if node.inputs else ""
                if first in self.origin and family(node.op) == "move" and node.op not in _OTHERS:
                    for name in node.outputs[:1]:
                        self.origin[name] = self.origin[first]

    def constant(self, name: str) -> Tensor | None:
        """Return the tensor of a constant, or of a constant that was only moved, expanded or cast."""
        origin = self.origin.get(name) if name else None
        return self.graph.constants[origin] if origin is not None else None

    def oriented(self, name: str) -> Tensor | None:
        """Return a constant as an operator finds it: turned, reshaped or cut, where nodes do that to it."""
        if name not in self._oriented:
            chain: list[tuple[str, Node]] = []
            at = name
            while at not in self.graph.constants and at in self.producer and len(chain) < FAR:
                node = self.nodes[self.producer[at]]
                if node.call is None or not node.inputs or node.op in _OTHERS:
                    break
                chain.append((at, node))
                at = node.inputs[0]
            tensor = self.graph.constants.get(at) or self._joined(at)
            for output, node in reversed(chain):
                tensor = moved(node, output, tensor) if tensor is not None else None
            self._oriented[name] = tensor
        made = self._oriented[name]
        return made if made is not None else self.constant(name)

    def _joined(self, name: str) -> Tensor | None:
        """Return an operator that was put together from several constants."""
        node = self.nodes[self.producer[name]] if name in self.producer else None
        if node is None or node.op != "concat" or node.call is None or "new_axis" in node.attrs:
            return None
        parts = [self.oriented(one) for one in node.inputs if one in self.fixed]
        known = [one for one in parts if one is not None and len(one.shape) > 1 and one.is_float]
        axis = node.attrs.get("axis", 0)
        if len(known) < len(node.inputs) or not isinstance(axis, int):
            return None
        return joined(known, axis)

    def readers(self, name: str) -> list[Use]:
        """Return the uses of a value in execution order; asking for its shape is none."""
        return self.uses.get(name, [])

    def family(self, node: Node) -> str:
        """Return the family of a node; what fusing named is an activation unless it is a norm or softmax."""
        kind = family(node.op)
        return "activation" if node.attrs.get("fused") and kind not in ("norm", "softmax") else kind

    def moving(self, node: Node) -> list[int]:
        """Return the positions of the inputs that move with the data."""
        return [k for k, name in enumerate(node.inputs) if name and name not in self.fixed]
