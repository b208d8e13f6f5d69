"""Graphs written as lines: "y = add x bias", attributes in braces as key=value."""

from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np

from initaudit.types import Graph, Model, Node, Tensor


def constant(name: str, values: Any, **fields: Any) -> Tensor:
    array = np.asarray(values, np.float32) if not hasattr(values, "dtype") else values
    return Tensor(name, array.shape, str(array.dtype), lambda: array, **fields)


def graph(text: str, outputs: str = "y", inputs: str = "x", **constants: Any) -> Graph:
    nodes = []
    for line in text.strip().splitlines():
        left, right = line.split("=", 1)
        attrs = {}
        if found := re.search(r"\{(.*)\}", right):
            attrs = {
                k.strip(): ast.literal_eval(v) for k, v in re.findall(r"(\w+)=(\[[^\]]*\]|'[^']*'|[^,]+)", found[1])
            }
            right = right[: found.start()]
        op, *names = right.split()
        names = ["" if name == "_" else name for name in names]
        nodes.append(Node(op, tuple(names), tuple(left.split()), attrs, f"n{len(nodes)}"))
    tensors = {name: value if isinstance(value, Tensor) else constant(name, value) for name, value in constants.items()}
    return Graph(tuple(nodes), dict.fromkeys(inputs.split()), tuple(outputs.split()), tensors)


def model(text: str, outputs: str = "y", inputs: str = "x", **constants: Any) -> Model:
    made = graph(text, outputs, inputs, **constants)
    return Model("model.onnx", "onnx", "opset 17", tuple(made.constants.values()), made)


def w(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
