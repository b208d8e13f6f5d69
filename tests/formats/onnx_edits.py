"""Edits of ONNX files for the tests of their writer: made, applied to copies, and looked at by other readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from initaudit import formats
from initaudit.edits import Edit, FilePlan
from initaudit.formats.onnx.writing_splices import encoded, tagged
from initaudit.types import Array, Model, Tensor


def drawn(shape: tuple[int, ...], seed: int = 7) -> Array:
    """Values that every floating-point type holds exactly."""
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(np.float64) / 4


def edit(tensor: Tensor, seed: int = 7) -> Edit:
    return Edit(tensor, lambda: drawn(tensor.shape, seed))


def named(model: Model, name: str) -> Tensor:
    """The tensor of a file by its name, or the value of the graph that is called so."""
    assert model.graph is not None
    return next((t for t in model.tensors if t.name == name), None) or model.graph.constants[name]


def value(model: Model, name: str) -> Tensor:
    assert model.graph is not None
    return model.graph.constants[name]


def applied(plan: FilePlan, out: Path) -> Path:
    """Write what a plan makes of its file; everything outside its patches is copied."""
    old, new, at = plan.path.read_bytes(), bytearray(), 0
    for patch in plan.patches:
        assert at <= patch.start <= patch.stop <= len(old)
        new += old[at : patch.start] + bytes(patch.data())
        at = patch.stop
    out.write_bytes(new + old[at:])
    return out


def written(path: Path, edits: Sequence[Edit], out: str = "out.onnx") -> Path:
    """Write a model that lies in one file beside the old one."""
    (plan,) = formats.plan(path, edits)
    return applied(plan, path.parent / out)


def opened(path: Path, feeds: Mapping[str, Array] | None = None) -> list[Array]:
    """Check a model as onnx and ONNX Runtime do; its outputs, where there is something to feed it."""
    onnx.checker.check_model(str(path), full_check=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return [np.asarray(a) for a in session.run(None, dict(feeds))] if feeds is not None else []


def changed(old: Path, new: Path) -> tuple[int, int]:
    """The range of bytes in which two files of equal length differ."""
    a, b = (np.frombuffer(path.read_bytes(), np.uint8) for path in (old, new))
    assert a.size == b.size
    at = np.flatnonzero(a != b)
    return int(at.min()), int(at.max()) + 1


def shaped(proto: onnx.ModelProto, *shape: int, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """The model with a shape for its one output, without which the checker refuses it."""
    (output,) = proto.graph.output
    output.CopyFrom(helper.make_tensor_value_info(output.name, kind, shape))
    return proto


def with_initializers(
    nodes: Sequence[onnx.NodeProto], tensors: Sequence[bytes], outputs: Mapping[str, Sequence[int]]
) -> bytes:
    """A model whose initializers are the TensorProtos given, byte for byte."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()]
    graph = helper.make_graph(list(nodes), "g", [], values).SerializeToString()
    graph += b"".join(tagged(5, tensor) for tensor in tensors)
    model = helper.make_model(onnx.GraphProto(), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model.ClearField("graph")
    return bytes(model.SerializeToString() + tagged(7, graph))


def head(name: str, kind: int, dims: Sequence[int]) -> bytes:
    """The fields of a TensorProto that are not its values."""
    return b"".join(b"\x08" + encoded(d) for d in dims) + b"\x10" + encoded(kind) + tagged(8, name.encode())
