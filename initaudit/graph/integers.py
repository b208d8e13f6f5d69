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
_PRODUCTS = {  # op -> plain op, places of input, weight, scale (-1: multiplied in later), zero point and bias
    "conv_integer": ("conv", 0, 1, -1, 3, -1), "matmul_integer": ("matmul", 0, 1, -1, 3, -1),
    "matmul_integer_to_float": ("matmul", 0, 1, 3, 5, 6), "dynamic_quantize_matmul": ("matmul", 0, 1, 2, 3, 4),
}  # fmt: skip
_MAY_CLIP = frozenset({"conv", "conv_transpose", "gemm", "matmul", "add", "sub", "batch_norm"})
_STEPS = frozenset({"cast", "identity", "reshape", "unsqueeze", "squeeze", "floor", "round", "div", "mul"})
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

    names = tuple(dict.fromkeys(n for t in (weight, scale, zero) if t is not None for n in (t.name, *t.parts)))
    return replace(weight, dtype="float32", load=load, parts=names)


def plain(graph: Graph) -> Graph:
    """Return the graph with operators on integers as plain ones; itself if there are none."""
    ops = {node.op for node in graph.nodes}
    if not any(op in _POINTWISE or op in _PRODUCTS or family(op) == "quant" or op.startswith("q_") for op in ops):
        return graph
    return _Plain(graph).run()


class _Plain:
    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.constants = dict(graph.constants)
        self.makers: dict[str, str] = {}  # value -> the op that makes it
        self.nodes: list[Node] = []
        self.tables = self._tables()
        self.producer = {name: node for node in graph.nodes for name in node.outputs if name}
        self.readers: dict[str, list[Node]] = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.readers.setdefault(name, []).append(node)
        self.dropped: set[str] = set()  # values whose nodes were taken into another one

    def run(self) -> Graph:
        for node in self.graph.nodes:
            self._node(node)
        return replace(self.graph, nodes=tuple(self.nodes), constants=self.constants)

    def _tables(self) -> dict[str, tuple[str, str]]:
        """Return scale and zero point of the values that are looked up in integer tables, as their readers say."""
        out: dict[str, tuple[str, str]] = {}
        for node in self.graph.nodes:
            if node.op == "quantize_linear" and len(node.inputs) > 1 and node.outputs:
                out[node.outputs[0]] = (node.inputs[1], (*node.inputs, "")[2])
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
        if node.outputs and node.outputs[0] in self.dropped:
            return
        if node.op in _PRODUCTS and node.outputs and self._product(node):
            return
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
            joined = tuple(self._real(node, place, 0) for place in range(2, len(node.inputs), 3))
            self._emit(replace(node, op="concat", inputs=joined))
        elif node.op == "q_linear_where" and len(node.inputs) > 5:
            arguments = [node.inputs[0], self._real(node, 1, 0), self._real(node, 4, 0)]
            self._emit(replace(node, op="where", inputs=tuple(arguments)))
        elif (
            node.op in ("quantize_linear", "dequantize_linear") and node.inputs and node.inputs[0] not in self.constants
        ):
            clips = node.op == "quantize_linear" and self._clips(node, 2)
            clips = clips and self.makers.get(node.inputs[0]) in _MAY_CLIP
            self._emit(replace(node, op="relu" if clips else "identity", inputs=node.inputs[:1], attrs={}))
        elif node.op == "dynamic_quantize_linear" and node.inputs:
            self._emit(replace(node, op="identity", outputs=node.outputs[:1]))
        elif node.op == "gather" and node.outputs and node.outputs[0] in self.tables:
            scale, zero = self.tables[node.outputs[0]]
            self._emit(replace(node, inputs=(self._named(node.inputs[0], scale, zero, 0), *node.inputs[1:])))
        else:
            self._emit(node)

    def _product(self, node: Node) -> bool:
        """Emit a product of integers as one of real numbers, if the scale of its weight is known."""
        op, source, place, scale_at, zero_at, bias_at = _PRODUCTS[node.op]

        def at(k: int) -> str:
            return node.inputs[k] if 0 <= k < len(node.inputs) else ""

        raw = self.graph.constants.get(at(place))
        if raw is None or len(raw.shape) < 2 or raw.is_float:
            return False
        axis = 0 if op == "conv" else -1
        scale, bias, chain = at(scale_at), at(bias_at), [node.outputs[0]]
        if scale_at < 0:
            scale, bias, chain = self._later_scale(node.outputs[0], raw.shape[axis])
            if scale in self.producer[chain[-1]].inputs:
                scale = self._without(scale, self.tables.get(at(source), ("", ""))[0])
        real = self._named(at(place), scale, at(zero_at), axis)
        if real == at(place):
            return False
        self.dropped.update(chain[1:])
        arguments = (at(source), real, bias) if bias and op == "conv" else (at(source), real)
        out = f"{chain[-1]}#before" if bias and op != "conv" else chain[-1]
        self._emit(Node(op, arguments, (out,), node.attrs, node.name))
        if out != chain[-1]:
            self._emit(Node("add", (out, bias), (chain[-1],), {}, node.name))
        return True

    def _later_scale(self, out: str, units: int) -> tuple[str, str, list[str]]:
        """Return the scale of a product of integers, the bias added before, and the values up to where it comes in.

        The scale may be a factor of what the product is multiplied by (the other is the input's own, known only when
        the model runs), and a bias may be added in integers, divided by the scale for that.
        """
        bias, chain = "", [out]
        while len(chain) < 8:
            readers = self.readers.get(chain[-1], [])
            if len(readers) != 1 or chain[-1] in self.graph.outputs or not readers[0].outputs:
                break
            node = readers[0]
            others = [name for name in node.inputs if name != chain[-1]]
            chain.append(node.outputs[0])
            if node.op == "mul" and len(others) == 1:
                return self._behind(others[0], units, "mul"), bias, chain
            if node.op == "add" and len(others) == 1:
                bias = self._behind(others[0], units, "div")
                if not bias:
                    break
            elif node.op not in ("cast", "identity", "reshape"):
                break
        return "", "", [out]

    def _without(self, name: str, factor: str) -> str:
        """Return a scale divided by that of the input: integers are multiplied by both, here by their product."""
        product, known = self.graph.constants.get(name), self.graph.constants.get(factor)
        if product is None or known is None or known.size != 1 or name == factor:
            return name

        def load() -> Array:
            out: Array = product.load() / known.load().reshape(())
            return out

        self.constants[f"{name}#weight"] = replace(product, load=load)
        return f"{name}#weight"

    def _behind(self, name: str, units: int, through: str) -> str:
        """Return the real constant, one number or one per unit, that a value is made of."""
        todo = [name]
        found = ""
        for _ in range(16):
            if not todo:
                break
            at = todo.pop()
            tensor = self.graph.constants.get(at)
            if tensor is not None:
                fits = tensor.is_float and tensor.size in ((1, units) if through == "mul" else (units,))
                if fits and (not found or tensor.size > 1):
                    found = at
            elif at in self.producer and self.producer[at].op in _STEPS:
                node = self.producer[at]
                todo += node.inputs[: None if node.op == "mul" and through == "mul" else 1]
        return found

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
        tensor, scale = self.graph.constants.get(name), self.constants.get(scale_name)
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
