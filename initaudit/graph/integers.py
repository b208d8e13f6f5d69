"""Integer arithmetic as the arithmetic on real numbers that it stands for.

Quantised files say x_q, scale, zero point wherever a number is meant. Here operators on integers become the plain ones,
their constants real numbers, and the steps between integers and real numbers vanish; what clips at zero stays as relu.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from initaudit.ops import family
from initaudit.types import Array, Graph, Node, Tensor

# op -> plain op, then the places of its arguments, each with scale and zero point next to it, and of the output's scale
_POINTWISE = {
    "q_linear_add": ("add", (0, 3), 6), "q_linear_mul": ("mul", (0, 3), 6), "q_linear_sigmoid": ("sigmoid", (0,), 3),
    "q_linear_leaky_relu": ("leaky_relu", (0,), 3), "q_linear_softmax": ("softmax", (0,), 3),
    "q_linear_reduce_mean": ("reduce_mean", (0,), 3), "qlinear_average_pool": ("average_pool", (0,), 3),
    "qlinear_global_average_pool": ("global_average_pool", (0,), 3), "qlinear_matmul": ("matmul", (0, 3), 6),
    "qlinear_conv": ("conv", (0, 3), 6), "qgemm": ("gemm", (0, 3), 7),
}  # fmt: skip
_BIAS = {"qlinear_conv": 8, "qgemm": 6}
_MAY_CLIP = frozenset({"conv", "conv_transpose", "gemm", "matmul", "add", "sub", "batch_norm"})
_LOWEST = {"uint8": 0, "int8": -128, "uint16": 0, "int16": -32768}


def scaled(weight: Tensor, scale: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    """Return a quantised tensor as the real numbers it stands for."""

    def spread(values: Array, rank: int) -> Array:
        if values.size == 1:
            return values.reshape(())
        shape = [1] * rank
        shape[axis if axis >= 0 else axis + rank] = values.size
        return values.reshape(shape)

    def load() -> Array:
        values = np.asarray(weight.load()).astype(np.float32)
        if zero is not None:
            values = values - spread(np.asarray(zero.load()).astype(np.float32), values.ndim)
        out: Array = values * spread(np.asarray(scale.load()).astype(np.float32), values.ndim)
        return out

    names = tuple(t.name for t in (weight, scale, zero) if t is not None)
    return replace(weight, dtype="float32", load=load, parts=names)


def plain(graph: Graph) -> Graph:
    """Return the graph with operators on integers as plain ones; itself if there are none."""
    if not any(node.op in _POINTWISE or family(node.op) == "quant" or node.op.startswith("q_") for node in graph.nodes):
        return graph
    return _Plain(graph).run()


class _Plain:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants = dict(graph.constants)
        self.makers: dict[str, str] = {}  # value -> the op that makes it
        self.nodes: list[Node] = []
        self.tables = self._tables()

    def run(self) -> Graph:
        for node in self.graph.nodes:
            self._node(node)
        return replace(self.graph, nodes=tuple(self.nodes), constants=self.constants)

    def _tables(self) -> dict[str, tuple[str, str]]:
        """Return scale and zero point of the values that are looked up in integer tables, as their readers say."""
        out: dict[str, tuple[str, str]] = {}
        for node in self.graph.nodes:
            places: Sequence[int] = _POINTWISE[node.op][1] if node.op in _POINTWISE else ()
            for place in (0,) if node.op == "dequantize_linear" else places:
                if place + 1 < len(node.inputs):
                    out.setdefault(node.inputs[place], (node.inputs[place + 1], (*node.inputs, "")[place + 2]))
        return out

    def _emit(self, node: Node) -> None:
        self.nodes.append(node)
        for name in node.outputs:
            self.makers[name] = node.op

    def _node(self, node: Node) -> None:
        if node.op in _POINTWISE and len(node.inputs) > _POINTWISE[node.op][1][-1] + 1 and node.outputs:
            op, places, out = _POINTWISE[node.op]
            arguments = [self._real(node, place, self._axis(node, place)) for place in places]
            if node.op in _BIAS and len(node.inputs) > _BIAS[node.op] and node.inputs[_BIAS[node.op]]:
                arguments.append(self._bias(node))
            clips = op in _MAY_CLIP and self._clips(node, out + 1)
            made = f"{node.outputs[0]}#before" if clips else node.outputs[0]
            self._emit(Node(op, tuple(arguments), (made,), node.attrs, node.name))
            if clips:
                self._emit(Node("relu", (made,), node.outputs[:1], {}, node.name))
        elif node.op == "q_linear_concat" and len(node.inputs) > 2:
            places = range(2, len(node.inputs), 3)
            self._emit(replace(node, op="concat", inputs=tuple(self._real(node, place, 0) for place in places)))
        elif node.op == "q_linear_where" and len(node.inputs) > 5:
            arguments = [node.inputs[0], self._real(node, 1, 0), self._real(node, 4, 0)]
            self._emit(replace(node, op="where", inputs=tuple(arguments)))
        elif (
            node.op in ("quantize_linear", "dequantize_linear") and node.inputs and node.inputs[0] not in self.constants
        ):
            clips = node.op == "quantize_linear" and self._clips(node, 2)
            clips = clips and self.makers.get(node.inputs[0]) in _MAY_CLIP
            self._emit(replace(node, op="relu" if clips else "identity", inputs=node.inputs[:1], attrs={}))
        elif node.op == "gather" and node.outputs and node.outputs[0] in self.tables:
            scale, zero = self.tables[node.outputs[0]]
            self._emit(replace(node, inputs=(self._named(node.inputs[0], scale, zero, 0), *node.inputs[1:])))
        else:
            self._emit(node)

    def _axis(self, node: Node, place: int) -> int:
        """Return the axis of the weight's output units, along which scales may differ."""
        return 0 if node.op == "qlinear_conv" or (node.op == "qgemm" and node.attrs.get("transB")) else -1

    def _clips(self, node: Node, place: int) -> bool:
        """Whether the output's zero point is the lowest number there is: what is below zero becomes zero."""
        zero = self.graph.constants.get(node.inputs[place]) if place < len(node.inputs) else None
        if zero is None:
            return place >= len(node.inputs) or not node.inputs[place]  # absent: zero, of unsigned numbers
        return zero.size == 1 and int(np.asarray(zero.load()).ravel()[0]) == _LOWEST.get(zero.dtype)

    def _real(self, node: Node, place: int, axis: int) -> str:
        scale, zero = (*node.inputs, "", "")[place + 1 : place + 3]
        return self._named(node.inputs[place], scale, zero, axis)

    def _named(self, name: str, scale_name: str, zero_name: str, axis: int) -> str:
        """Return the value itself, or for an integer constant the name of the real one in its place."""
        tensor, scale = self.graph.constants.get(name), self.graph.constants.get(scale_name)
        if tensor is None or scale is None or tensor.is_float:
            return name
        if scale.size > 1 and (not tensor.shape or scale.size != tensor.shape[axis]):
            return name
        real = f"{name}#real"
        self.constants[real] = scaled(tensor, scale, self.graph.constants.get(zero_name), axis)
        return real

    def _bias(self, node: Node) -> str:
        """Return the name of the bias as real numbers: its scale is that of the input times that of the weight."""
        name = node.inputs[_BIAS[node.op]]
        tensor = self.graph.constants.get(name)
        x, w = self.graph.constants.get(node.inputs[1]), self.graph.constants.get(node.inputs[4])
        if tensor is None or x is None or w is None or x.size != 1 or w.size not in (1, tensor.size):
            return name

        def load() -> Array:
            product: Array = x.load().astype(np.float32).reshape(()) * w.load().astype(np.float32).reshape(-1)
            out: Array = tensor.load().astype(np.float32) * product
            return out

        real = f"{name}#real"
        self.constants[real] = replace(tensor, dtype="float32", load=load, parts=(tensor.name, x.name, w.name))
        return real
