"""New values for weights that nodes of an ONNX graph make out of what the file stores."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from initaudit import formats
from initaudit.edits import Edit
from initaudit.errors import UnsupportedError
from initaudit.formats.onnx.derivations import Derivations
from initaudit.layers import infer
from initaudit.types import Array, Tensor
from tests.formats.onnx_edits import changed, drawn, edit, named, opened, shaped, written
from tests.formats.onnx_files import MAIN, model, save, value, weights

INTS = np.int64


def _node(op: str, inputs: list[str], outputs: list[str], **attributes: object) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, **attributes)


def _file(
    folder: Path, nodes: list[onnx.NodeProto], held: dict[str, Array], *shape: int, opsets: object = None
) -> Path:
    return save(shaped(model(nodes, held, inputs=(), opsets=opsets), *shape), folder)


def _shown(path: Path, name: str) -> Tensor:
    read = formats.read(path)
    assert read.graph is not None
    return read.graph.constants[name]


VIEWS = {
    "transposed": ([_node("Transpose", ["w"], ["y"], perm=[1, 0])], {}, (3, 4)),
    "reshaped": ([_node("Reshape", ["w", "s"], ["y"])], {"s": np.array([2, 6], INTS)}, (2, 6)),
    "sliced": (
        [_node("Slice", ["w", "a", "b"], ["y"])],
        {"a": np.array([1, 0], INTS), "b": np.array([4, 2], INTS)},
        (3, 2),
    ),
    "backwards": (
        [_node("Slice", ["w", "a", "b", "c", "d"], ["y"])],
        {"a": np.array([3], INTS), "b": np.array([-9], INTS), "c": np.array([0], INTS), "d": np.array([-2], INTS)},
        (2, 3),
    ),
    "second part": ([_node("Split", ["w"], ["t", "y"], axis=1)], {"s": np.array([1, 2], INTS)}, (4, 2)),
    "one row": ([_node("Gather", ["w", "i"], ["y"])], {"i": np.array(2, INTS)}, (3,)),
    "turned and reshaped": (
        [_node("Transpose", ["w"], ["t"], perm=[1, 0]), _node("Reshape", ["t", "s"], ["y"])],
        {"s": np.array([2, 6], INTS)},
        (2, 6),
    ),
    "joined": ([_node("Concat", ["w", "v"], ["y"], axis=0)], {"v": weights(2, 3, 5)}, (6, 3)),
    "stacked": (
        [
            _node("Unsqueeze", ["w", "n"], ["a"]),
            _node("Unsqueeze", ["v", "n"], ["b"]),
            _node("Concat", ["a", "b"], ["y"], axis=0),
        ],
        {"v": weights(4, 3, 5), "n": np.array([0], INTS)},
        (2, 4, 3),
    ),
    "gates in another order": (
        [
            _node("Split", ["w"], ["i", "f", "g", "o"], axis=0),
            _node("Concat", ["i", "o", "f", "g"], ["t"], axis=0),
            _node("Unsqueeze", ["t", "n"], ["y"]),
        ],
        {"n": np.array([0], INTS)},
        (1, 4, 3),
    ),
    "written into": (
        [_node("ScatterND", ["w", "i", "v"], ["y"])],
        {"i": np.array([[1], [3]], INTS), "v": weights(2, 3, 5)},
        (4, 3),
    ),
}


@pytest.mark.parametrize("how", list(VIEWS))
def test_what_only_moves_values_is_written_through(tmp_path: Path, how: str) -> None:
    nodes, more, shape = VIEWS[how]
    if how == "second part":
        nodes = [_node("Split", ["w", "s"], ["t", "y"], axis=1)]
    path = _file(tmp_path, nodes, {"w": weights(), **more}, *shape)
    tensor = _shown(path, "y")
    assert tensor.shape == shape
    out = written(path, [edit(tensor)])
    assert out.stat().st_size == path.stat().st_size
    np.testing.assert_array_equal(opened(out, {})[0], drawn(shape))
    np.testing.assert_array_equal(_shown(out, "y").load(), drawn(shape))


def test_a_cast_is_undone_in_the_type_that_is_stored(tmp_path: Path) -> None:
    path = _file(tmp_path, [_node("Cast", ["w"], ["y"], to=1)], {"w": weights().astype(np.float16)}, 4, 3)
    out = written(path, [edit(_shown(path, "y"))])
    assert out.stat().st_size == path.stat().st_size
    np.testing.assert_array_equal(opened(out, {})[0], drawn((4, 3)))


def test_parts_that_an_edit_does_not_touch_keep_their_bits(tmp_path: Path) -> None:
    odd = np.frombuffer(np.array([0x7FA12345, 0x7FC00001, 0x80000000], np.uint32).tobytes(), np.float32)
    held = {"a": odd.reshape(1, 3), "b": weights(2, 3), "c": np.vstack([odd, odd])}
    nodes = [_node("Concat", ["a", "b", "c"], ["t"], axis=0), _node("Slice", ["t", "s", "e"], ["y"])]
    path = _file(tmp_path, nodes, {**held, "s": np.array([1], INTS), "e": np.array([4], INTS)}, 3, 3)
    out = written(path, [edit(_shown(path, "y"))])
    now = {t.name: t.raw_data for t in onnx.load(out).graph.initializer}
    assert now["a"] == held["a"].tobytes()
    assert now["b"] == drawn((3, 3))[:2].astype(np.float32).tobytes()
    assert now["c"] == drawn((3, 3))[2:].astype(np.float32).tobytes() + odd.tobytes()


def test_two_views_of_one_weight_are_written_together(tmp_path: Path) -> None:
    nodes = [
        _node("Split", ["w"], ["a", "b"], axis=0),
        _node("Mul", ["a", "x"], ["t"]),
        _node("Add", ["t", "b"], ["y"]),
    ]
    path = save(shaped(model(nodes, {"w": weights()}, inputs=(value("x", [2, 3]),)), 2, 3), tmp_path)
    out = written(path, [edit(_shown(path, "a"), 1), edit(_shown(path, "b"), 2)])
    x = np.full((2, 3), 2, np.float32)
    np.testing.assert_array_equal(opened(out, {"x": x})[0], drawn((2, 3), 1) * 2 + drawn((2, 3), 2))


# -- stored anew


@pytest.mark.parametrize("fill", [None, 0.5])
def test_a_filled_weight_becomes_a_constant(tmp_path: Path, fill: float | None) -> None:
    attributes = {} if fill is None else {"value": helper.make_tensor("v", 1, [1], [fill])}
    nodes = [_node("ConstantOfShape", ["s"], ["w"], name="fills", doc_string="kept", **attributes)]
    nodes.append(_node("Transpose", ["w"], ["y"], perm=[1, 0]))
    path = _file(tmp_path, nodes, {"s": np.array([4, 3], INTS), "other": weights()}, 3, 4)
    out = written(path, [edit(_shown(path, "y"))])
    np.testing.assert_array_equal(opened(out, {})[0], drawn((3, 4)))
    was, now = onnx.load(path), onnx.load(out)
    made = now.graph.node[0]
    assert (made.op_type, made.name, made.doc_string, list(made.input)) == ("Constant", "fills", "kept", [])
    assert list(now.graph.initializer) == list(was.graph.initializer)
    assert list(now.graph.node[1:]) == list(was.graph.node[1:])


def test_half_of_a_filled_weight_keeps_the_fill(tmp_path: Path) -> None:
    nodes = [_node("ConstantOfShape", ["s"], ["w"], value=helper.make_tensor("v", 1, [1], [0.5]))]
    nodes += [_node("Split", ["w"], ["a", "b"], axis=0), _node("Concat", ["b", "a"], ["y"], axis=0)]
    path = _file(tmp_path, nodes, {"s": np.array([4, 3], INTS)}, 4, 3)
    out = written(path, [edit(_shown(path, "b"))])
    np.testing.assert_array_equal(opened(out, {})[0], np.vstack([drawn((2, 3)), np.full((2, 3), 0.5)]))


def test_a_number_repeated_by_expand_becomes_a_constant(tmp_path: Path) -> None:
    nodes = [
        _node("Expand", ["one", "s"], ["w"]),
        _node("Mul", ["w", "x"], ["t"]),
        _node("Add", ["t", "one"], ["y"]),
    ]
    held = {"one": np.ones(1, np.float32), "s": np.array([5], INTS)}
    path = save(shaped(model(nodes, held, inputs=(value("x", [5]),)), 5), tmp_path)
    tensor = _shown(path, "w")
    assert (tensor.name, tensor.shape) == ("w", (5,))
    out = written(path, [edit(tensor)])
    np.testing.assert_array_equal(opened(out, {"x": np.full(5, 2, np.float32)})[0], drawn((5,)) * 2 + 1)
    assert onnx.load(out).graph.initializer == onnx.load(path).graph.initializer


@pytest.mark.parametrize("turned", [False, True])
def test_a_repeated_row_becomes_a_constant_where_it_is_used(tmp_path: Path, turned: bool) -> None:
    nodes = [_node("Expand", ["row", "s"], ["w"]), _node("Transpose", ["w"], ["y"], perm=[1, 0])]
    path = _file(tmp_path, nodes, {"row": weights(1, 3), "s": np.array([4, 3], INTS)}, 3, 4)
    tensor = _shown(path, "y" if turned else "w")
    assert 0 in (tensor.strides or ())
    out = written(path, [edit(tensor)])
    np.testing.assert_array_equal(opened(out, {})[0], drawn((3, 4)) if turned else drawn((4, 3)).T)
    half = replace(tensor, shape=(3, 2))
    with pytest.raises(UnsupportedError, match="one stored value is used in several places"):
        formats.plan(path, [edit(half)])


def test_a_filled_weight_in_a_function_and_in_a_subgraph(tmp_path: Path) -> None:
    shape = numpy_helper.from_array(np.array([2, 3], INTS))
    fill = [_node("Constant", [], ["s"], value=shape), _node("ConstantOfShape", ["s"], ["w"])]
    function = helper.make_function("own", "Plus", ["a"], ["b"], [*fill, _node("Add", ["a", "w"], ["b"])], MAIN)
    branch = helper.make_graph(fill, "then", [], [value("w", [2, 3])])
    other = helper.make_graph([_node("Identity", ["k"], ["u"])], "else", [], [value("u", [2, 3])])
    nodes = [
        _node("Plus", ["x"], ["p"], domain="own"),
        _node("If", ["c"], ["q"], then_branch=branch, else_branch=other),
        _node("Add", ["p", "q"], ["y"]),
    ]
    inputs = (value("x", [2, 3]), value("c", [], TensorProto.BOOL))
    opsets = [*MAIN, helper.make_opsetid("own", 1)]
    proto = model(nodes, {"k": weights(2, 3)}, inputs=inputs, opsets=opsets, functions=[function])
    path = save(shaped(proto, 2, 3), tmp_path)
    read = formats.read(path)
    filled = [t for t in read.tensors if t.is_float and t.name != "k"]
    assert len(filled) == 2
    out = written(path, [edit(t, i) for i, t in enumerate(filled)])
    x = np.zeros((2, 3), np.float32)
    got = opened(out, {"x": x, "c": np.array(True)})[0]
    np.testing.assert_array_equal(got, drawn((2, 3), 0) + drawn((2, 3), 1))


def test_a_file_that_would_outgrow_protobuf_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, [_node("ConstantOfShape", ["s"], ["y"])], {"s": np.array([1 << 29], INTS)}, 1 << 29)
    with pytest.raises(UnsupportedError, match="ONNX ends at"):
        formats.plan(path, [edit(_shown(path, "y"))])


# -- refused


def test_what_is_computed_has_no_way_back(tmp_path: Path) -> None:
    path = _file(tmp_path, [_node("Mul", ["a", "b"], ["y"])], {"a": weights(), "b": weights(seed=2)}, 4, 3)
    with pytest.raises(UnsupportedError, match="worked out from a, b by mul, which has no way back"):
        formats.plan(path, [edit(_shown(path, "y"))])


def test_a_part_that_is_computed_is_refused_only_where_it_is_touched(tmp_path: Path) -> None:
    nodes = [
        _node("Mul", ["b", "b"], ["c"]),
        _node("Concat", ["a", "c"], ["t"], axis=0),
        _node("Split", ["t"], ["u", "v"], axis=0),
        _node("Concat", ["u", "v"], ["y"], axis=0),
    ]
    path = _file(tmp_path, nodes, {"a": weights(), "b": weights(seed=2)}, 8, 3)
    out = written(path, [edit(_shown(path, "u"))])
    np.testing.assert_array_equal(opened(out, {})[0][:4], drawn((4, 3)))
    with pytest.raises(UnsupportedError, match="by mul"):
        formats.plan(path, [edit(_shown(path, "v"))])


def test_integers_are_no_weights(tmp_path: Path) -> None:
    path = _file(tmp_path, [_node("Cast", ["w"], ["y"], to=1)], {"w": np.ones((4, 3), np.int8)}, 4, 3)
    with pytest.raises(UnsupportedError, match="whole numbers"):
        formats.plan(path, [edit(named(formats.read(path), "w"))])
    with pytest.raises(UnsupportedError, match="whole numbers"):
        formats.plan(path, [edit(_shown(path, "y"))])


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    held = {"q": np.ones((4, 3), np.int8), "s": np.full((), 0.1, np.float32)}
    path = _file(tmp_path, [_node("DequantizeLinear", ["q", "s"], ["y"])], held, 4, 3)
    with pytest.raises(UnsupportedError, match="q: is quantised"):
        formats.plan(path, [edit(_shown(path, "y"))])


def test_weights_of_operators_on_integers_are_refused(tmp_path: Path) -> None:
    held = {"s": np.full((), 0.1, np.float32), "z": np.zeros((), np.uint8), "q": np.ones((4, 3), np.int8)}
    held |= {"qs": np.full((), 0.1, np.float32), "qz": np.zeros((), np.int8)}
    nodes = [
        _node("QuantizeLinear", ["x", "s", "z"], ["a"]),
        _node("QLinearMatMul", ["a", "s", "z", "q", "qs", "qz", "s", "z"], ["b"]),
        _node("DequantizeLinear", ["b", "s", "z"], ["y"]),
    ]
    path = save(model(nodes, held, inputs=(value("x", [1, 4]),)), tmp_path)
    layers, _ = infer(formats.read(path))
    weight = next(layer.weight for layer in layers if layer.kind == "linear")
    with pytest.raises(UnsupportedError, match="q: is quantised"):
        formats.plan(path, [edit(weight)])
    with pytest.raises(UnsupportedError, match="q: is quantised"):
        Derivations.of(formats.read(path)).origins(weight)


def test_a_tensor_of_another_file_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, [_node("Identity", ["w"], ["y"])], {"w": weights()}, 4, 3)
    stray = Tensor("w", (4, 3), "float32", weights, "@7")
    with pytest.raises(UnsupportedError, match="does not lie in the file"):
        formats.plan(path, [edit(stray)])


# -- layers


def test_every_direction_and_gate_of_an_lstm_is_found(tmp_path: Path) -> None:
    held = {"w": weights(2 * 16, 5).reshape(2, 16, 5), "wt": weights(2 * 16, 5, 9).reshape(16, 5, 2)}
    held |= {"r": weights(2 * 16, 4, 1).reshape(2, 16, 4), "b": weights(2, 32, 2)}
    nodes = [
        _node("Transpose", ["wt"], ["turned"], perm=[2, 0, 1]),
        _node("LSTM", ["x", "w", "r", "b"], ["t"], hidden_size=4, direction="bidirectional"),
        _node("LSTM", ["x", "turned", "r", "b"], ["u"], hidden_size=4, direction="bidirectional"),
        _node("Add", ["t", "u"], ["y"]),
    ]
    path = save(shaped(model(nodes, held, inputs=(value("x", [3, 1, 5]),)), 3, 2, 1, 4), tmp_path)
    layers, _ = infer(formats.read(path))
    tensors: dict[object, Tensor] = {}
    for layer in layers:
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                tensors.setdefault(tensor.identity, tensor)
    assert len(tensors) == 10
    edits = [edit(tensor, seed) for seed, tensor in enumerate(tensors.values())]
    out = written(path, edits)
    opened(out)
    again = [t for layer in infer(formats.read(out))[0] for t in (layer.weight, layer.bias) if t is not None]
    for one in edits:
        (found,) = {t.identity: t for t in again if t.identity == one.tensor.identity}.values()
        np.testing.assert_array_equal(found.load(), one.values())


def test_tied_weights_are_patched_once(tmp_path: Path) -> None:
    nodes = [
        _node("Gather", ["w", "i"], ["e"]),
        _node("Transpose", ["w"], ["t"], perm=[1, 0]),
        _node("MatMul", ["e", "t"], ["y"]),
    ]
    path = save(
        shaped(model(nodes, {"w": weights(6, 3)}, inputs=(value("i", [2], TensorProto.INT64),)), 2, 6), tmp_path
    )
    tensor = _shown(path, "w")
    out = written(path, [edit(tensor), Edit(_shown(path, "t"), lambda: drawn((6, 3)).T)])
    low, high = changed(path, out)
    assert high - low <= 72
    new = drawn((6, 3))
    np.testing.assert_array_equal(opened(out, {"i": np.array([4, 1])})[0], new[[4, 1]] @ new.T)
