"""ONNX files for the tests of its reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from initaudit.formats.onnx import FORMAT
from initaudit.types import Array, Model

MAIN = [helper.make_opsetid("", 17)]


def value(name: str, shape: Any = None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def model(
    nodes: list[onnx.NodeProto],
    initializers: dict[str, Array] | None = None,
    *,
    inputs: tuple[Any, ...] = (value("x", [1, 4]),),
    outputs: tuple[str, ...] = ("y",),
    opsets: Any = None,
    **fields: Any,
) -> onnx.ModelProto:
    stored = [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()]
    graph = helper.make_graph(nodes, "g", list(inputs), [value(name) for name in outputs], stored)
    return helper.make_model(graph, opset_imports=opsets or MAIN, ir_version=fields.pop("ir_version", 8), **fields)


def save(proto: onnx.ModelProto, folder: Path, name: str = "model.onnx") -> Path:
    path = folder / name
    path.write_bytes(proto.SerializeToString())
    return path


def sniffed(path: Path) -> bool:
    with path.open("rb") as file:
        return FORMAT.sniff(path, file.read(4096))


def read(proto: onnx.ModelProto, folder: Path) -> Model:
    path = save(proto, folder)
    assert sniffed(path)
    return FORMAT.read(path)


def weights(rows: int = 4, columns: int = 3, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)
