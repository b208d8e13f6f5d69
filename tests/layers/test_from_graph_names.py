from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from initaudit.layers import infer
from initaudit.types import Graph, Model, Node
from tests.graph.build import constant, w


def model(nodes: list[Node], **constants: Any) -> Model:
    held = {name: constant(name, values) for name, values in constants.items()}
    graph = Graph(tuple(nodes), {"x": None}, (nodes[-1].outputs[0],), held)
    return Model("m.onnx", "onnx", "", tuple(held.values()), graph)


def names(made: Model) -> dict[str, str]:
    return {layer.weight.name: layer.name for layer in infer(made)[0]}


def reason(made: Model) -> str:
    return next(r for r in infer(made)[0][0].reasons if r.startswith("named after"))


def test_the_exported_call_names_the_weight() -> None:
    said = {"@scope": "m.attn", "@parameters": ("m.attn.qkv.weight",)}
    made = model([Node("matmul", ("x", "val_12"), ("y",), said)], val_12=w(4, 8))
    assert names(made) == {"val_12": "m.attn.qkv"}
    assert reason(made) == "named after the parameter of the exported call; stored as val_12"


def test_a_call_with_weight_and_bias() -> None:
    said = {"@scope": "m.attn", "@parameters": ("m.attn.in_proj_weight", "m.attn.in_proj_bias")}
    nodes = [Node("matmul", ("x", "val_1"), ("a",), said), Node("add", ("a", "val_2"), ("y",), said)]
    assert names(model(nodes, val_1=w(4, 8), val_2=w(8)))["val_1"] == "m.attn.in_proj_weight"


def test_a_call_that_only_takes_the_bias_by_name() -> None:
    said = {"@scope": "m.mixer", "@parameters": ("m.mixer.conv1d.bias",)}
    made = model([Node("conv", ("x", "unsqueeze_1"), ("y",), said)], unsqueeze_1=w(4, 8, 3))
    assert names(made) == {"unsqueeze_1": "m.mixer.conv1d"}


def test_two_weights_in_one_call_are_not_told_apart() -> None:
    said = {"@scope": "m", "@parameters": ("m.a.weight", "m.b.weight")}
    made = model([Node("matmul", ("x", "val_1"), ("y",), said)], val_1=w(4, 8))
    assert names(made) == {"val_1": "m"}


def test_the_bias_that_kept_its_name_names_the_weight() -> None:
    nodes = [Node("matmul", ("x", "onnx::MatMul_7"), ("a",), {}, "/m/attn/MatMul"),
             Node("add", ("a", "m.attn.qkv.bias"), ("y",), {}, "/m/attn/Add")]  # fmt: skip
    made = model(nodes, **{"onnx::MatMul_7": w(4, 8), "m.attn.qkv.bias": w(8)})
    assert names(made)["onnx::MatMul_7"] == "m.attn.qkv"
    assert reason(made) == "named after m.attn.qkv.bias; stored as onnx::MatMul_7"


def test_a_bias_that_an_exporter_merged_with_equal_ones_names_nothing_elsewhere() -> None:
    nodes = []
    at = "x"
    for place in ("m/a", "m/b"):
        end = f"{place}_out"
        nodes += [Node("matmul", (at, f"onnx::{place}"), (f"{place}_1",), {}, f"/{place}/MatMul"),
                  Node("add", (f"{place}_1", "m.a.bias"), (end,), {}, f"/{place}/Add")]  # fmt: skip
        at = end
    made = model(nodes, **{"onnx::m/a": w(4, 4), "onnx::m/b": w(4, 4, seed=1), "m.a.bias": w(4)})
    found = names(made)
    assert (found["onnx::m/a"], found["onnx::m/b"]) == ("m.a", "m.b")


def test_a_bias_that_two_weights_of_its_module_use_names_neither() -> None:
    nodes = [Node("matmul", ("x", "onnx::q"), ("q",), {}, "/m/MatMul"),
             Node("add", ("q", "m.q.bias"), ("qb",), {}, "/m/Add"),
             Node("matmul", ("qb", "onnx::k"), ("k",), {}, "/m/MatMul_1"),
             Node("add", ("k", "m.q.bias"), ("y",), {}, "/m/Add_1")]  # fmt: skip
    found = names(model(nodes, **{"onnx::q": w(4, 4), "onnx::k": w(4, 4, seed=1), "m.q.bias": w(4)}))
    assert (found["onnx::q"], found["onnx::k"]) == ("m", "m_1")


def test_a_parameter_without_a_name_keeps_that_of_the_file() -> None:
    nodes = [Node("conv", ("x", "conv.weight"), ("a",)), Node("add", ("a", "expand"), ("y",), {"@scope": "m.pos"})]
    found = names(model(nodes, **{"conv.weight": w(8, 8, 3), "expand": w(1, 8, 5)}))
    assert found == {"conv.weight": "conv", "expand": "m.pos.expand"}


def test_scopes_of_tensorflow_and_of_an_optimizer() -> None:
    nodes = [Node("matmul", ("x", "const_fold_opt__9"), ("a",), {}, "StatefulPartitionedCall/model/dense/MatMul"),
             Node("matmul", ("a", "onnx::MatMul_1"), ("y",), {}, "/head/MatMul/MatMulAddFusion/")]  # fmt: skip
    found = names(model(nodes, **{"const_fold_opt__9": w(4, 4), "onnx::MatMul_1": w(4, 4, seed=1)}))
    assert list(found.values()) == ["StatefulPartitionedCall/model/dense", "head"]


@pytest.mark.parametrize("dynamo", [False, True])
def test_what_torch_exports(tmp_path: Path, dynamo: bool) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("onnxscript" if dynamo else "onnx")
    from initaudit import formats

    class Attention(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.qkv = torch.nn.Linear(8, 24)
            self.out = torch.nn.Linear(8, 8, bias=False)

        def forward(self, x: Any) -> Any:
            fused = torch.nn.functional.linear(x, self.qkv.weight, self.qkv.bias)
            q, k, v = fused.chunk(3, -1)
            return torch.nn.functional.linear(torch.softmax(q @ k.transpose(1, 2), -1) @ v, self.out.weight)

    class Net(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.attn = Attention()
            self.rnn = torch.nn.LSTM(8, 6, num_layers=2, batch_first=True)
            self.head = torch.nn.Linear(6, 3, bias=False)

        def forward(self, x: Any) -> Any:
            return self.head(self.rnn(self.attn(x))[0])

    path = tmp_path / "net.onnx"
    options: dict[str, Any] = {"external_data": False, "verbose": False} if dynamo else {}
    torch.onnx.export(Net().eval(), (torch.randn(2, 5, 8),), str(path), dynamo=dynamo, **options)
    found = {layer.name for layer in infer(formats.read(path))[0]}
    assert {"attn.qkv", "head", *(f"rnn.weight_{which}_l{n}" for which in ("ih", "hh") for n in (0, 1))} <= found
    assert ("attn.out" in found) is dynamo  # of a bare function, the older exporter's node only names the module
