"""The variance of every weighted node of an ONNX file, by onnxruntime with further outputs, without initaudit.

A node counts whose operand is an initializer, perhaps turned, cast or passed on: Conv, ConvTranspose, Gemm, MatMul,
Einsum, and Gather from a table. Where the only reader of a product adds an initializer of as many numbers as there are
units, that is its bias and the sum is measured. LSTM, GRU and RNN nodes are unrolled by hand from their inputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]
PLACES = {"Conv": (1,), "ConvTranspose": (1,), "Gemm": (0, 1), "MatMul": (0, 1), "Einsum": (0, 1), "Gather": (0,)}
SAME = frozenset({"Identity", "Transpose", "Cast", "Reshape", "Squeeze", "Unsqueeze", "DequantizeLinear"})
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True, slots=True)
class Seen:
    """One product: of which initializer, which part of it, at which use."""

    weight: str
    part: str
    use: int
    variance: float


def look(path: Path, inputs: Mapping[str, Array]) -> list[Seen]:
    """Run a file on batches of the size that it takes and return what each weighted node makes, in its order."""
    model = onnx.load(str(path))
    wanted = list(_wanted(model.graph))
    recurrent = [node for node in model.graph.node if node.op_type in GATES]
    outside = {o.name for o in model.graph.output} | {i.name for i in model.graph.input}
    names = dict.fromkeys([name for _, name in wanted] + [name for n in recurrent for name in n.input[:4] if name])
    held = {i.name for i in model.graph.initializer}
    for name in names:
        if name not in outside and name not in held:
            model.graph.output.append(onnx.helper.make_empty_tensor_value_info(name))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"])
    values: dict[str, list[Array]] = {name: [] for name in names}
    for feed in _batches(session, inputs):
        fetch = [name for name in names if name not in held and name not in feed]
        for name, value in zip(fetch, session.run(fetch, feed), strict=True):
            values[name].append(value)
        for name in names:
            if name in feed:
                values[name].append(feed[name])
    uses: dict[str, int] = {}
    seen = []
    for weight, name in wanted:
        uses[weight] = uses.get(weight, 0) + 1
        every = np.concatenate([v.astype(np.float64).ravel() for v in values[name]])
        seen.append(Seen(weight, "", uses[weight], float(every.var())))
    held_values = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer if i.name in names}
    for node in recurrent:
        constants = [held_values[n] if n in held_values else values[n][0] for n in node.input[1:4] if n]
        behind = [_source(model.graph, name) for name in node.input[1:3]]
        seen += _recurrent(node, behind, constants, values[node.input[0]])
    return seen


def _batches(session: Any, inputs: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    """Cut inputs into batches of the size that the file takes."""
    shape = session.get_inputs()[0].shape
    names = [i.name for i in session.get_inputs()]
    arrays = dict(zip(names, inputs.values(), strict=True))
    count = len(next(iter(arrays.values())))
    size = shape[0] if isinstance(shape[0], int) else count
    for start in range(0, count - size + 1, size):
        yield {name: value[start : start + size] for name, value in arrays.items()}


def _wanted(graph: Any) -> Iterator[tuple[str, str]]:
    """Yield the initializer behind each product, and the value to measure."""
    sizes = {i.name: tuple(i.dims) for i in graph.initializer if i.data_type in (1, 10, 11, 16)}
    makers = {out: node for node in graph.node for out in node.output}
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)

    def behind(name: str) -> str:
        while name not in sizes and name in makers and makers[name].op_type in SAME:
            name = makers[name].input[0]
        return name if name in sizes and len(sizes[name]) > 1 else ""

    for node in graph.node:
        own = [w for at in PLACES.get(node.op_type, ()) if at < len(node.input) and (w := behind(node.input[at]))]
        if len(own) != 1 or (node.op_type == "Gather" and not _rows(node, sizes[own[0]])):
            continue
        out = node.output[0]
        after = readers.get(out, [])
        if node.op_type in ("MatMul", "Einsum") and len(after) == 1 and after[0].op_type == "Add":
            other = next(name for name in after[0].input if name != out)
            out = after[0].output[0] if len(sizes.get(other, (0, 0))) == 1 else out
        yield own[0], out


def _rows(node: Any, shape: tuple[int, ...]) -> bool:
    """Whether rows of a table are looked up, no matrices of a stack."""
    return len(shape) == 2 and not any(a.name == "axis" and a.i for a in node.attribute)


def _source(graph: Any, name: str) -> str:
    """Return the largest initializer that a value is made of."""
    sizes = {i.name: int(np.prod(i.dims)) for i in graph.initializer if i.data_type in (1, 10, 11, 16)}
    makers = {out: node for node in graph.node for out in node.output}
    todo, found = [name], []
    while todo:
        at = todo.pop()
        if at in sizes:
            found.append(at)
        elif at in makers:
            todo += [one for one in makers[at].input if one]
    return max(found, key=sizes.__getitem__, default=name)


def _recurrent(node: Any, behind: list[str], constants: list[Array], xs: list[Array]) -> Iterator[Seen]:
    attrs = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    w, r = (one.astype(np.float64) for one in constants[:2])
    bias = constants[2].astype(np.float64) if len(constants) > 2 else np.zeros((len(w), 2 * w.shape[1]))
    for d in range(len(w)):
        back = d == 1 or attrs.get("direction") == b"reverse"
        own = [_unrolled(node.op_type, attrs, x.astype(np.float64), (w[d], r[d], bias[d]), back) for x in xs]
        for name, products in zip(behind, zip(*own, strict=True), strict=True):
            gates = np.split(np.concatenate([p.reshape(-1, p.shape[-1]) for p in products]), GATES[node.op_type], -1)
            for k, gate in enumerate(gates):
                yield Seen(name, f"{d}.{k}", 1, float(gate.var()))


def _unrolled(
    kind: str, attrs: Mapping[str, Any], x: Array, held: tuple[Array, Array, Array], back: bool
) -> tuple[Array, Array]:
    """Return the products of both matrices at all steps."""
    w, r, bias = held
    hidden = r.shape[1]
    given_bias, own_bias = np.split(bias, 2)
    h, c = np.zeros((x.shape[1], hidden)), np.zeros((x.shape[1], hidden))
    given, own = x @ w.T, []
    sigmoid = lambda v: 1 / (1 + np.exp(-v))  # noqa: E731
    for t in reversed(range(len(x))) if back else range(len(x)):
        product = h @ r.T
        a, b = given[t] + given_bias, product + own_bias
        if kind == "LSTM":
            i, o, f, g = np.split(a + b, 4, -1)
            c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
            h = sigmoid(o) * np.tanh(c)
        elif kind == "GRU":
            (az, ar, an), (bz, br, bn) = np.split(a, 3, -1), np.split(b, 3, -1)
            reset, z = sigmoid(ar + br), sigmoid(az + bz)
            if not attrs.get("linear_before_reset", 0):
                inner = (reset * h) @ r[2 * hidden :].T
                product = np.concatenate([product[:, : 2 * hidden], inner], -1)
                new = np.tanh(an + inner + own_bias[2 * hidden :])
            else:
                new = np.tanh(an + reset * bn)
            h = (1 - z) * new + z * h
        else:
            h = np.maximum(a + b, 0) if b"Relu" in attrs.get("activations", ()) else np.tanh(a + b)
        own.append(product)
    return given, np.stack(own)
