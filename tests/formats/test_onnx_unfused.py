"""Operators that ONNX Runtime fused, taken apart."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from initaudit.formats import read
from initaudit.layers import infer
from initaudit.types import Graph, Role


def graph(path: Path, op: str, extra: tuple[str, ...] = (), nhwc: bool = False, **attributes: Any) -> Graph:
    conv = "Conv" in op
    shape = (8, 8, 3, 3) if conv else (8, 8)
    weight = numpy_helper.from_array(np.random.default_rng(0).standard_normal(shape).astype(np.float32), "w")
    bias = numpy_helper.from_array(np.zeros(8, np.float32), "b")
    if conv:
        attributes |= {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    node = helper.make_node(op, ["x", "w", "b", *extra], ["y"], domain="com.microsoft", **attributes)
    wide = ([1, 6, 6, 8] if nhwc else [1, 8, 6, 6]) if conv else [1, 8]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, wide) for name in "xy")
    made = helper.make_graph([node], "g", [x], [y], [weight, bias])
    sets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(helper.make_model(made, opset_imports=sets).SerializeToString())
    found = read(path).graph
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("op", "attributes", "ops"),
    [
        ("FusedGemm", {"activation": "Relu", "transB": 1}, ["gemm", "relu"]),
        ("FusedGemm", {"activation": "LeakyRelu", "activation_alpha": 0.5}, ["gemm", "leaky_relu"]),
        ("FusedConv", {"activation": "HardSigmoid", "activation_params": [0.2, 0.5]}, ["conv", "hardsigmoid"]),
        ("FusedConv", {}, ["conv"]),
        ("NhwcFusedConv", {"activation": "Relu", "nhwc": True}, ["transpose", "conv", "transpose", "relu"]),
        ("NhwcConv", {"nhwc": True}, ["transpose", "conv", "transpose"]),
        ("GemmFastGelu", {}, ["matmul", "fast_gelu"]),
    ],
)
def test_a_fused_operator_becomes_plain_ones(
    tmp_path: Path, op: str, attributes: dict[str, Any], ops: list[str]
) -> None:
    nodes = graph(tmp_path / "m.onnx", op, **attributes).nodes
    assert [node.op for node in nodes] == ops
    assert nodes[-1].outputs == ("y",)
    assert all(a.outputs[0] == b.inputs[0] for a, b in pairwise(nodes))


def test_parameters_go_with_the_activation(tmp_path: Path) -> None:
    nodes = graph(tmp_path / "m.onnx", "FusedConv", activation="LeakyRelu", activation_params=[0.25]).nodes
    assert dict(nodes[-1].attrs) == {"alpha": 0.25}
    assert not any(name.startswith("activation") for name in nodes[0].attrs)


def test_what_a_convolution_is_added_to_makes_it_the_end_of_a_branch(tmp_path: Path) -> None:
    nodes = graph(tmp_path / "m.onnx", "FusedConv", ("x",), activation="Relu").nodes
    assert [node.op for node in nodes] == ["conv", "add", "relu"]
    (a,), _ = infer(read(tmp_path / "m.onnx"))
    assert (a.role, a.activation, a.bias and a.bias.name) == (Role.BRANCH_END, "relu", "b")
