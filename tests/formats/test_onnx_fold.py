from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from initaudit.audit import audit_path
from initaudit.types import Array, Graph, Tensor
from tests.formats.onnx_files import model, read, save, value, weights

W = weights(6, 4)
CUBE = weights(2, 12).reshape(2, 3, 4)


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def graph_of(nodes: list[onnx.NodeProto], arrays: dict[str, Array], folder: Path, opset: int = 17) -> Graph:
    last = [name for name in nodes[-1].output if name]
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    found = read(model(nodes, arrays, outputs=tuple(last), opsets=opsets), folder).graph
    assert found is not None
    return found


def folded(
    op: str, arrays: list[Array], folder: Path, opset: int = 17, outputs: int = 1, **attrs: Any
) -> tuple[Tensor, ...]:
    """Return what the reader makes of a node of constants, after holding it against onnx's own evaluator."""
    names = [f"i{k}" for k in range(len(arrays))]
    made = [f"o{k}" for k in range(outputs)]
    node = helper.make_node(op, names, made, **attrs)
    known = dict(zip(names, arrays, strict=True))
    found = graph_of([node], known, folder, opset)
    assert found.nodes == ()
    stored = [numpy_helper.from_array(a, n) for n, a in known.items()]
    alone = helper.make_graph([node], "g", [], [value(name) for name in made], stored)
    expected = ReferenceEvaluator(helper.make_model(alone, opset_imports=[helper.make_opsetid("", opset)])).run(
        None, {}
    )
    for name, right in zip(made, expected, strict=True):
        tensor = found.constants[name]
        loaded = tensor.load()
        assert (tensor.shape, loaded.shape, loaded.dtype) == (right.shape, right.shape, right.dtype)
        assert tensor.dtype == str(right.dtype)
        np.testing.assert_allclose(loaded, right, rtol=1e-6)
    return tuple(found.constants[name] for name in made)


_MOVES: list[tuple[str, list[Array], int, dict[str, Any]]] = [
    ("Identity", [W], 17, {}),
    ("Transpose", [W], 17, {}),
    ("Transpose", [CUBE], 17, {"perm": [1, 2, 0]}),
    ("Reshape", [W, ints(2, -1, 3)], 17, {}),
    ("Reshape", [W, ints(0, 2, 2)], 17, {}),
    ("Flatten", [CUBE], 17, {}),
    ("Flatten", [CUBE], 17, {"axis": -1}),
    ("Flatten", [CUBE], 17, {"axis": 0}),
    ("Squeeze", [W[None, :, None], ints(0, 2)], 17, {}),
    ("Squeeze", [W[None]], 17, {}),
    ("Squeeze", [W[None]], 11, {"axes": [0]}),
    ("Unsqueeze", [W, ints(0, -1)], 17, {}),
    ("Unsqueeze", [W], 11, {"axes": [1]}),
    ("Slice", [W, ints(1), ints(5)], 17, {}),
    ("Slice", [W, ints(-2, 1), ints(2**62, 3), ints(0, 1)], 17, {}),
    ("Slice", [W, ints(-1), ints(-(2**62)), ints(0), ints(-2)], 17, {}),
    ("Slice", [W, ints(4), ints(2)], 17, {}),
    ("Slice", [W], 9, {"starts": [1], "ends": [3], "axes": [1]}),
    ("Expand", [W[:, None], ints(2, 1, 3, 1)], 17, {}),
    ("Gather", [CUBE, np.array(-1)], 17, {"axis": 1}),
]
_COMPUTED: list[tuple[str, list[Array], int, dict[str, Any]]] = [
    ("Cast", [W], 17, {"to": TensorProto.FLOAT16}),
    ("Cast", [W], 17, {"to": TensorProto.INT32}),
    ("Concat", [W, W[:2]], 17, {"axis": 0}),
    ("Concat", [W, W[:, :1], W], 17, {"axis": -1}),
    ("Add", [W, W[0]], 17, {}),
    ("Mul", [W, np.float32(2) + W[:, :1]], 17, {}),
    ("Div", [ints(7, -7, 8), ints(2, 2, -3)], 17, {}),
    ("Sqrt", [np.abs(W)], 17, {}),
    ("ReduceL2", [W], 17, {"axes": [1]}),
    ("ReduceSum", [W, ints(0)], 17, {"keepdims": 0}),
    ("ReduceMean", [CUBE], 17, {"axes": [0, 2]}),
    ("Where", [W > 0, W, -W], 17, {}),
    ("Gather", [ints(3, 4, 5), ints(2, 0)], 17, {}),
    ("ScatterND", [CUBE, np.array([[1, 2], [0, -1]]), weights(2, 4)], 17, {}),
    ("ScatterND", [W, np.array([[3]]), weights(1, 4)], 17, {}),
    ("Shape", [CUBE], 17, {"start": 1}),
    ("ConstantOfShape", [ints(3, 2)], 17, {}),
    ("ConstantOfShape", [ints(2)], 17, {"value": helper.make_tensor("v", TensorProto.INT64, [1], [7])}),
]


def _label(case: object) -> str | None:
    return case if isinstance(case, str) else None


@pytest.mark.parametrize(("op", "arrays", "opset", "attrs"), _MOVES, ids=_label)
def test_what_moves_values_stays_a_view(
    op: str, arrays: list[Array], opset: int, attrs: dict[str, Any], tmp_path: Path
) -> None:
    (found,) = folded(op, arrays, tmp_path, opset, **attrs)
    assert found.name == "i0"
    assert found.storage.startswith("@")
    assert found.storage.removeprefix("@").isdigit()
    flat = arrays[0].ravel()
    if found.size:
        at = np.lib.stride_tricks.as_strided(
            flat[found.offset :],
            found.shape,
            [4 * s for s in found.strides or [s // 4 for s in np.empty(found.shape, np.float32).strides]],
        )
        np.testing.assert_array_equal(at, found.load())


@pytest.mark.parametrize(("op", "arrays", "opset", "attrs"), _COMPUTED, ids=_label)
def test_what_computes_is_worked_out_when_it_is_loaded(
    op: str, arrays: list[Array], opset: int, attrs: dict[str, Any], tmp_path: Path
) -> None:
    folded(op, arrays, tmp_path, opset, **attrs)


@pytest.mark.parametrize(("opset", "arrays", "attrs"), [
    (17, [W, ints(1, 2, 3)], {}), (11, [W], {"split": [1, 2, 3]}), (17, [W], {}), (18, [W], {"num_outputs": 3}),
])  # fmt: skip
def test_split(opset: int, arrays: list[Array], attrs: dict[str, Any], tmp_path: Path) -> None:
    parts = folded("Split", arrays, tmp_path, opset, outputs=3, **attrs)
    assert len({p.storage for p in parts}) == 1
    assert [p.offset for p in parts] == np.cumsum([0, *[p.size for p in parts[:-1]]]).tolist()


_X = np.arange(-12, 12, dtype=np.int8).reshape(6, 4)


@pytest.mark.parametrize(("scale", "zero", "attrs"), [
    (np.float32(0.5), np.int8(3), {}),
    (np.float32(0.5), None, {}),
    (np.abs(W[0]), np.arange(4, dtype=np.int8), {"axis": 1}),
    (np.abs(W[:, 0]), np.arange(6, dtype=np.int8), {"axis": 0}),
    (np.abs(W[:3]), np.ones((3, 4), np.int8), {"axis": 0, "block_size": 2}),
])  # fmt: skip
def test_dequantised_weights(scale: Array, zero: Array | None, attrs: dict[str, Any], tmp_path: Path) -> None:
    arrays = [_X, np.asarray(scale), *([] if zero is None else [np.asarray(zero)])]
    (found,) = folded("DequantizeLinear", arrays, tmp_path, 21, **attrs)
    assert (found.name, found.is_float) == ("i0", True)


def test_a_chain_keeps_the_name_and_the_storage_of_its_source(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Identity", ["w"], ["a"]),
        helper.make_node("Transpose", ["a"], ["b"]),
        helper.make_node("Unsqueeze", ["b", "axes"], ["c"]),
        helper.make_node("Squeeze", ["c", "axes"], ["d"]),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
    ]
    found = graph_of(nodes, {"w": W, "axes": ints(0)}, tmp_path)
    assert [n.inputs for n in found.nodes] == [("x", "d")]
    assert found.constants["a"] == found.constants["w"]
    assert found.constants["d"].identity == found.constants["b"].identity
    assert found.constants["d"].name == "w"
    assert found.constants["d"].storage == found.constants["w"].storage
    np.testing.assert_array_equal(found.constants["d"].load(), W.T)


def test_equal_recipes_are_tied(tmp_path: Path) -> None:
    nodes = [helper.make_node("Cast", ["w"], [name], to=TensorProto.DOUBLE) for name in "ab"]
    nodes.append(helper.make_node("Sum", ["x", "a", "b"], ["y"]))
    found = graph_of(nodes, {"w": W}, tmp_path)
    assert found.constants["a"].identity == found.constants["b"].identity != found.constants["w"].identity


def test_a_derived_tensor_is_named_after_the_largest_it_comes_from(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mul", ["g", "v"], ["w"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    found = graph_of(nodes, {"g": W[:, :1], "v": W}, tmp_path)
    assert found.constants["w"].name == "v"


@pytest.mark.parametrize(("op", "arrays", "attrs"), [
    ("Reshape", [W, ints(5, 5)], {}),
    ("Reshape", [W, ints(-1, -1)], {}),
    ("Transpose", [W], {"perm": [0, 0]}),
    ("Transpose", [W], {"perm": [0, 1, 2]}),
    ("Squeeze", [W, ints(0)], {}),
    ("Unsqueeze", [W, ints(9)], {}),
    ("Slice", [W, ints(0, 1), ints(1)], {}),
    ("Slice", [W, ints(0), ints(1), ints(0), ints(0)], {}),
    ("Concat", [W, CUBE], {"axis": 0}),
    ("Expand", [W, ints(5, 5)], {}),
    ("Expand", [W, ints(1 << 40, 1, 1)], {}),
    ("ConstantOfShape", [ints(1 << 40)], {}),
    ("ConstantOfShape", [ints(-1)], {}),
    ("Cast", [W], {"to": 99}),
    ("Add", [W, W[:, :3]], {}),
    ("Add", [W, W.astype(np.float64)], {}),
    ("DequantizeLinear", [W, W], {}),
    ("Gather", [W, ints(99)], {}),
    ("ScatterND", [W, np.array([[6]]), weights(1, 4)], {}),
    ("ScatterND", [W, np.array([[1]]), weights(1, 3)], {}),
    ("ScatterND", [W, np.array([[1]]), weights(1, 4)], {"reduction": "add"}),
    ("Gather", [W, ints(0, 1)], {}),
    ("MatMul", [W, W.T], {}),
    ("Softmax", [W], {}),
])  # fmt: skip
def test_what_does_not_fit_stays_in_the_graph(
    op: str, arrays: list[Array], attrs: dict[str, Any], tmp_path: Path
) -> None:
    names = [f"i{k}" for k in range(len(arrays))]
    found = graph_of([helper.make_node(op, names, ["o"], **attrs)], dict(zip(names, arrays, strict=True)), tmp_path)
    assert len(found.nodes) == 1
    assert "o" not in found.constants


def test_a_derived_tensor_knows_all_that_it_comes_from(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["k"], ["k32"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["q", "k32", "k32", "zeros"], ["w"], axis=0),
        helper.make_node("Mul", ["w", "one"], ["half"]),
        helper.make_node("Transpose", ["half"], ["t"]),
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    arrays = {"q": W, "k": W.astype(np.float16), "one": np.float32(0.5), "shape": ints(2, 4)}
    found = graph_of(nodes, arrays, tmp_path).constants
    assert found["t"].parts == found["w"].parts == ("q", "k", "zeros")
    assert found["k32"].parts == found["q"].parts == ()


def test_a_long_chain_is_not_folded_to_its_end(tmp_path: Path) -> None:
    nodes = [helper.make_node("Neg", [f"v{k}"], [f"v{k + 1}"]) for k in range(3000)]
    large = weights(20, 30)
    found = graph_of(nodes, {"v0": large}, tmp_path)
    assert 60 < 3000 - len(found.nodes) < 300
    for tensor in found.constants.values():
        np.testing.assert_array_equal(np.abs(tensor.load()), np.abs(large))


def test_arithmetic_on_small_values_is_folded_however_long(tmp_path: Path) -> None:
    step = [("Add", ["v{}", "v{}"]), ("Sub", ["v{}", "one"])]
    nodes = [
        helper.make_node(op, [name.format(k) for name in names], [f"v{k + 1}"])
        for k, (op, names) in enumerate(step * 1000)
    ]
    nodes.append(helper.make_node("Reshape", ["w", "v2000"], ["y"]))
    found = graph_of(nodes, {"v0": ints(1, 1), "one": ints(1, 1), "w": weights(1, 1)}, tmp_path)
    assert found.nodes == ()
    assert found.constants["v2000"].load().tolist() == [1, 1]


@pytest.mark.parametrize("extent", [1, 1000])
def test_a_chain_that_doubles_is_read_at_once(extent: int, tmp_path: Path) -> None:
    """Every level joins a tensor with itself and keeps the first half: 40 levels would load the first 2^40 times."""
    nodes = []
    for k in range(40):
        nodes.append(helper.make_node("Concat", [f"v{k}", f"v{k}"], [f"twice{k}"], axis=0))
        nodes.append(helper.make_node("Slice", [f"twice{k}", "start", "stop"], [f"v{k + 1}"]))
    nodes.append(helper.make_node("Reshape", ["x", "v40"], ["y"]))
    values = np.arange(7, 7 + extent)
    found = graph_of(nodes, {"v0": values, "start": ints(0), "stop": ints(extent)}, tmp_path)
    assert ("v40" in found.constants) == (extent == 1)
    for name, tensor in found.constants.items():
        if name.startswith("v"):
            np.testing.assert_array_equal(tensor.load(), values)


def test_a_shape_that_takes_long_to_work_out_is_not(tmp_path: Path) -> None:
    """Adding up a thousand million numbers is no way to say how long an axis is."""
    nodes = [
        helper.make_node(
            "ConstantOfShape", ["huge"], ["ones"], value=helper.make_tensor("v", TensorProto.INT64, [1], [1])
        ),
        helper.make_node("ReduceSum", ["ones"], ["sum"]),
        helper.make_node("Reshape", ["w", "sum"], ["y"]),
    ]
    found = graph_of(nodes, {"huge": ints(1 << 30), "w": W}, tmp_path)
    assert [n.op for n in found.nodes] == ["reduce_sum", "reshape"]


def test_what_is_made_of_hundreds_of_tensors_is_folded(tmp_path: Path) -> None:
    """A chain of joins is no chain of loads: each part is loaded once."""
    names = [f"w{k}" for k in range(256)]
    found = graph_of([helper.make_node("Concat", names, ["y"], axis=0)], dict.fromkeys(names, W), tmp_path)
    assert found.constants["y"].parts == tuple(names)
    np.testing.assert_array_equal(found.constants["y"].load(), np.tile(W, (256, 1)))


def test_weights_packed_by_blocks(tmp_path: Path) -> None:
    K, N, block = 40, 6, 16
    blocks = -(-K // block)
    draw = np.random.default_rng(0)
    levels = draw.integers(0, 16, (N, blocks * block)).astype(np.uint8)
    packed = (levels[:, ::2] | levels[:, 1::2] << 4).reshape(N, blocks, block // 2)
    scales = draw.random(N * blocks).astype(np.float32)
    zeros = draw.integers(0, 16, (N, blocks + blocks % 2)).astype(np.uint8)
    packed_zeros = (zeros[:, ::2] | zeros[:, 1::2] << 4).ravel()
    attrs = {"K": K, "N": N, "bits": 4, "block_size": block, "domain": "com.microsoft"}
    for offsets in (packed_zeros, None):
        names = ["x", "w", "s", *([] if offsets is None else ["z"])]
        node = helper.make_node("MatMulNBits", names, ["y"], **attrs)
        arrays = {"w": packed, "s": scales, **({} if offsets is None else {"z": offsets})}
        found = graph_of([node], arrays, tmp_path)
        (plain,) = found.nodes
        assert plain.op == "matmul"
        real = found.constants[plain.inputs[1]]
        middle = np.full((N, blocks), 8) if offsets is None else zeros[:, :blocks]
        expected = levels.reshape(N, blocks, block) - middle[..., None].astype(np.float32)
        expected *= scales.reshape(N, blocks, 1)
        np.testing.assert_allclose(real.load(), expected.reshape(N, -1)[:, :K].T, rtol=1e-6)
        assert (real.name, real.shape) == ("w", (K, N))


def test_a_quantised_lstm(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    w, r = (draw.integers(-99, 99, (1, rows, 12)).astype(np.int8) for rows in (5, 3))
    scale = draw.random((1, 12)).astype(np.float32)
    zero = np.zeros((1, 12), np.int8)
    names = ["x", "w", "r", "b", "", "", "", "", "ws", "z", "rs", "z"]
    node = helper.make_node("DynamicQuantizeLSTM", names, ["y"], domain="com.microsoft", hidden_size=3)
    arrays = {"w": w, "r": r, "ws": scale, "rs": scale, "z": zero, "b": np.zeros((1, 24), np.float32)}
    found = graph_of([node], arrays, tmp_path)
    (plain,) = found.nodes
    assert (plain.op, plain.inputs[3:]) == ("lstm", ("b", "", "", "", ""))
    for name, ints_ in zip(plain.inputs[1:3], (w, r), strict=True):
        np.testing.assert_allclose(found.constants[name].load(), (ints_ * scale[:, None]).transpose(0, 2, 1), rtol=1e-6)


def test_what_a_weight_is_joined_from_counts_as_judged(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Concat", ["q", "k", "v"], ["joined"], axis=0),
        helper.make_node("Concat", ["qb", "kb", "vb"], ["bias"], axis=0),
        helper.make_node("Gemm", ["x", "joined", "bias"], ["y"], transB=1),
    ]
    arrays = {name: weights(rows, 40, rows) for name, rows in (("q", 48), ("k", 32), ("v", 16))}
    arrays |= {f"{name}b": weights(1, len(array))[0] for name, array in list(arrays.items())}
    arrays["unread"] = weights(5, 5)
    report = audit_path(save(model(nodes, arrays, inputs=(value("x", [1, 40]),)), tmp_path))
    assert [m.layer.weight.shape for m in report.measured] == [(96, 40)]
    assert report.coverage == (96 * 41) / (96 * 41 + 25)
    assert [(s.name, s.why) for s in report.skipped] == [("unread", "no node reads it")]
