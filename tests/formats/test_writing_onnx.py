"""New values in ONNX files, by how the old ones are encoded."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from initaudit import formats
from initaudit.edits import Edit
from initaudit.errors import UnsupportedError
from initaudit.formats.onnx.protobuf import Message
from initaudit.formats.onnx.writing_splices import Splice, encoded, frames, spliced, tagged
from initaudit.types import Array
from tests.formats.onnx_edits import (
    applied,
    changed,
    drawn,
    edit,
    head,
    named,
    opened,
    shaped,
    with_initializers,
    written,
)
from tests.formats.onnx_files import MAIN, model, save, value, weights

IDENTITY = [helper.make_node("Identity", ["w"], ["y"])]
KINDS = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}


def _numpy(dtype: str) -> np.dtype[np.generic]:
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


def _raw(name: str, values: Array, dtype: str) -> bytes:
    return head(name, KINDS[dtype], values.shape) + tagged(9, values.astype(_numpy(dtype)).tobytes())


def _typed(name: str, values: Array, dtype: str, *, packed: bool = True) -> bytes:
    flat = values.astype(_numpy(dtype)).reshape(-1)
    if dtype in ("float32", "float64"):
        number, wire = (4, 5) if dtype == "float32" else (10, 1)
        items = [one.tobytes() for one in flat]
    else:
        number, wire = 5, 0
        items = [encoded(int(bits)) for bits in flat.view(np.uint16)]
    data = tagged(number, b"".join(items))
    if not packed:
        data = b"".join(encoded(number << 3 | wire) + item for item in items)
    return head(name, KINDS[dtype], values.shape) + data


def _pieces(name: str, values: Array, dtype: str) -> bytes:
    """Float data in two packed fields, with the name between them and one number alone at the end."""
    flat = values.astype(np.float32).reshape(-1)
    fields = tagged(4, flat[:2].tobytes()) + tagged(8, name.encode()) + tagged(4, flat[2:-1].tobytes())
    return head("", 1, values.shape) + fields + b"\x25" + flat[-1:].tobytes()


def _file(folder: Path, tensors: list[bytes], names: list[str]) -> Path:
    shapes = {
        f"{name}_out": tuple(onnx.TensorProto.FromString(tensor).dims)
        for name, tensor in zip(names, tensors, strict=True)
    }
    nodes = [helper.make_node("Cast", [name], [f"{name}_out"], to=1) for name in names]
    path = folder / "model.onnx"
    path.write_bytes(with_initializers(nodes, tensors, shapes))
    return path


@pytest.mark.parametrize("dtype", list(KINDS))
def test_raw_data_change_where_they_lie(tmp_path: Path, dtype: str) -> None:
    old = drawn((5, 3), 1)
    path = _file(tmp_path, [_raw("w", old, dtype), _raw("v", old + 1, dtype)], ["w", "v"])
    out = written(path, [edit(named(formats.read(path), "w"))])
    start = path.read_bytes().find(old.astype(_numpy(dtype)).tobytes())
    low, high = changed(path, out)
    assert start <= low < high <= start + old.size * _numpy(dtype).itemsize
    np.testing.assert_array_equal(opened(out, {})[0], drawn((5, 3)))
    np.testing.assert_array_equal(np.asarray(named(formats.read(out), "v").load(), np.float64), old + 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("packed", [True, False])
def test_typed_numbers_of_fixed_width_change_where_they_lie(tmp_path: Path, dtype: str, packed: bool) -> None:
    old = drawn((4, 3), 1)
    path = _file(tmp_path, [_typed("w", old, dtype, packed=packed), _raw("v", old, dtype)], ["w", "v"])
    out = written(path, [edit(named(formats.read(path), "w"))])
    assert out.stat().st_size == path.stat().st_size
    np.testing.assert_array_equal(opened(out, {})[0], drawn((4, 3)))
    was, now = onnx.load(path), onnx.load(out)
    np.testing.assert_array_equal(numpy_helper.to_array(now.graph.initializer[0]), drawn((4, 3)))
    for proto in (was, now):
        proto.graph.initializer[0].ClearField("float_data" if dtype == "float32" else "double_data")
    assert was == now


def test_a_field_in_pieces_keeps_what_lies_between(tmp_path: Path) -> None:
    path = _file(tmp_path, [_pieces("w", drawn((3, 3), 1), "float32")], ["w"])
    out = written(path, [edit(named(formats.read(path), "w"))])
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(out).graph.initializer[0]), drawn((3, 3)))
    assert onnx.load(out).graph.initializer[0].name == "w"
    assert out.stat().st_size == path.stat().st_size


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("packed", [True, False])
def test_varints_are_stored_anew_as_raw_data(tmp_path: Path, dtype: str, packed: bool) -> None:
    old = np.zeros((6, 10))  # one byte each: the tensor grows, and its length takes a byte more
    other = drawn((2, 2), 1)
    path = _file(tmp_path, [_typed("v", other, dtype), _typed("w", old, dtype, packed=packed)], ["v", "w"])
    out = written(path, [edit(named(formats.read(path), "w"))])
    np.testing.assert_array_equal(opened(out, {})[1], drawn((6, 10)))
    was, now = onnx.load(path), onnx.load(out)
    assert now.graph.initializer[0] == was.graph.initializer[0]
    assert now.graph.initializer[1].raw_data == drawn((6, 10)).astype(_numpy(dtype)).tobytes()
    for proto in (was, now):
        proto.graph.initializer[1].ClearField("int32_data")
        proto.graph.initializer[1].ClearField("raw_data")
    assert was == now
    again = tmp_path / "again"
    again.mkdir()
    assert written(out, [edit(named(formats.read(out), "w"))], "again/out.onnx").read_bytes() == out.read_bytes()


def test_unknown_fields_and_metadata_stay(tmp_path: Path) -> None:
    unknown = tagged(3000, b"what nobody knows") + b"\xc0\xbb\x01\x05"
    tensor = _typed("w", np.zeros((60,)), "float16") + unknown
    path = _file(tmp_path, [tensor], ["w"])
    path.write_bytes(path.read_bytes() + tagged(14, tagged(1, b"key") + tagged(2, b"text")) + unknown)
    out = written(path, [edit(named(formats.read(path), "w"))])
    assert out.read_bytes().count(unknown) == 2
    assert [(p.key, p.value) for p in onnx.load(out).metadata_props] == [("key", "text")]
    assert out.read_bytes().endswith(unknown)


def test_lengths_all_around_a_varint_in_a_subgraph_are_mended(tmp_path: Path) -> None:
    def branch(name: str, fill: float) -> onnx.GraphProto:
        held = helper.make_tensor(name, TensorProto.FLOAT16, [60], np.full(60, fill), raw=False)
        node = helper.make_node("Cast", [name], [f"{name}_y"], to=1)
        return helper.make_graph([node], name, [], [value(f"{name}_y", [60])], [held])

    node = helper.make_node("If", ["c"], ["y"], then_branch=branch("a", 0), else_branch=branch("b", 1))
    path = save(shaped(model([node], inputs=(value("c", [], TensorProto.BOOL),)), 60), tmp_path)
    out = written(path, [edit(named(formats.read(path), "a"))])
    np.testing.assert_array_equal(opened(out, {"c": np.array(True)})[0], drawn((60,)))
    np.testing.assert_array_equal(opened(out, {"c": np.array(False)})[0], np.ones(60))


def test_a_constant_in_a_function_changes_once_for_all_calls(tmp_path: Path) -> None:
    held = helper.make_tensor("held", TensorProto.FLOAT16, [60], np.zeros(60), raw=False)
    body = [helper.make_node("Constant", [], ["h"], value=held), helper.make_node("Cast", ["h"], ["w"], to=1),
            helper.make_node("Add", ["a", "w"], ["b"])]  # fmt: skip
    function = helper.make_function("own", "Plus", ["a"], ["b"], body, MAIN)
    nodes = [helper.make_node("Plus", ["x"], ["t"], domain="own"), helper.make_node("Plus", ["t"], ["y"], domain="own")]
    proto = model(
        nodes, inputs=(value("x", [60]),), opsets=[*MAIN, helper.make_opsetid("own", 1)], functions=[function]
    )
    path = save(shaped(proto, 60), tmp_path)
    read = formats.read(path)
    out = written(path, [edit(read.tensors[0])])
    np.testing.assert_array_equal(opened(out, {"x": np.zeros(60, np.float32)})[0], 2 * drawn((60,)))


@pytest.mark.parametrize("attribute", ["value_float", "value_floats", "value"])
def test_constants_of_every_kind_change_where_they_lie(tmp_path: Path, attribute: str) -> None:
    given = {"value_float": 0.5, "value_floats": [0.5, -1.5, 2.5], "value": numpy_helper.from_array(weights(), "t")}
    node = helper.make_node("Constant", [], ["w"], **{attribute: given[attribute]})
    shape = {"value_float": (), "value_floats": (3,), "value": (4, 3)}[attribute]
    path = save(shaped(model([node, *IDENTITY], inputs=()), *shape), tmp_path)
    tensor = named(formats.read(path), "w")
    out = written(path, [edit(tensor)])
    assert out.stat().st_size == path.stat().st_size
    np.testing.assert_array_equal(opened(out, {})[0], drawn(tensor.shape))


def test_a_number_that_is_left_out_is_put_in(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["w"], value_float=0.5)
    node.attribute[0].ClearField("f")
    path = save(model([node, *IDENTITY], inputs=()), tmp_path)
    tensor = named(formats.read(path), "w")
    out = written(path, [Edit(tensor, lambda: np.array(1.25))])
    assert onnx.load(out).graph.node[0].attribute[0].f == 1.25


def _sparse(name: str) -> onnx.SparseTensorProto:
    values = helper.make_tensor(name, TensorProto.FLOAT, [2], [1.0, 2.0])
    return helper.make_sparse_tensor(values, helper.make_tensor("at", TensorProto.INT64, [2], [1, 5]), [3, 4])


def test_a_sparse_initializer_becomes_a_dense_one(tmp_path: Path) -> None:
    proto = model(IDENTITY, {"other": weights()}, inputs=())
    proto.graph.sparse_initializer.append(_sparse("w"))
    path = save(shaped(proto, 3, 4), tmp_path)
    out = written(path, [edit(named(formats.read(path), "w"))])
    now = onnx.load(out)
    assert not now.graph.sparse_initializer
    assert [t.name for t in now.graph.initializer] == ["other", "w"]
    np.testing.assert_array_equal(opened(out, {})[0], drawn((3, 4)))


def test_a_sparse_constant_becomes_a_dense_one(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["w"], doc_string="kept")
    node.attribute.append(helper.make_attribute("sparse_value", _sparse("held")))
    path = save(shaped(model([node, *IDENTITY], inputs=()), 3, 4), tmp_path)
    out = written(path, [edit(named(formats.read(path), "w"))])
    np.testing.assert_array_equal(opened(out, {})[0], drawn((3, 4)))
    assert onnx.load(out).graph.node[0].doc_string == "kept"


def test_weights_that_are_inputs_too_are_written(tmp_path: Path) -> None:
    path = save(model(IDENTITY, {"w": weights()}, inputs=(value("w", [4, 3]),), ir_version=3), tmp_path)
    out = written(path, [edit(named(formats.read(path), "w"))])
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(out).graph.initializer[0]), drawn((4, 3)))
    assert changed(path, out)[1] - changed(path, out)[0] <= 48


def test_nothing_is_asked_for_before_it_is_written(tmp_path: Path) -> None:
    def refuse() -> Array:
        raise AssertionError("asked for too early")

    path = _file(tmp_path, [_raw("a", drawn((3,), 1), "float32"), _typed("b", drawn((3,), 1), "float16")], ["a", "b"])
    (plan,) = formats.plan(path, [Edit(t, refuse) for t in formats.read(path).tensors])
    assert plan.patches


def test_no_edits_change_nothing(tmp_path: Path) -> None:
    path = save(model(IDENTITY, {"w": weights()}, inputs=()), tmp_path)
    (plan,) = formats.plan(path, [])
    assert plan.patches == ()
    assert applied(plan, tmp_path / "out.onnx").read_bytes() == path.read_bytes()


def test_what_has_no_room_in_the_type_is_refused(tmp_path: Path) -> None:
    path = _file(tmp_path, [_typed("w", drawn((3,), 1), "float16")], ["w"])
    (plan,) = formats.plan(path, [Edit(named(formats.read(path), "w"), lambda: np.full(3, 1e6))])
    with pytest.raises(UnsupportedError, match="more than float16 holds"):
        applied(plan, tmp_path / "out.onnx")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_mix_of_encodings_takes_any_edits(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("mix")
    names = [f"w{i}" for i in range(data.draw(st.integers(1, 5)))]
    tensors, old = [], {}
    for seed, name in enumerate(names):
        dtype = data.draw(st.sampled_from(list(KINDS)))
        shape = tuple(data.draw(st.lists(st.integers(1, 9), min_size=0, max_size=3)))
        old[name] = drawn(shape, seed)
        how = data.draw(st.sampled_from(["raw", "packed", "single"]))
        tensors.append(
            _raw(name, old[name], dtype) if how == "raw" else _typed(name, old[name], dtype, packed=how == "packed")
        )
    path = _file(folder, tensors, names)
    edited = data.draw(st.sets(st.sampled_from(names)))
    read = formats.read(path)
    out = written(path, [edit(named(read, name), 99) for name in sorted(edited)])
    again = formats.read(out)
    for name, values in old.items():
        expected = drawn(values.shape, 99) if name in edited else values
        np.testing.assert_array_equal(np.asarray(named(again, name).load(), np.float64), expected)
    was, now = onnx.load(path), onnx.load(out)
    for proto in (was, now):
        for tensor in proto.graph.initializer:
            if tensor.name in edited:
                for field in ("raw_data", "float_data", "int32_data", "double_data"):
                    tensor.ClearField(field)
    assert was == now


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=4), st.lists(st.integers(0, 300), min_size=1, max_size=4))
def test_lengths_are_right_however_far_messages_grow_or_shrink(old: list[int], new: list[int]) -> None:
    inner = b"".join(tagged(9, bytes(n)) for n in old)
    whole = tagged(3, b"before") + tagged(7, tagged(1, tagged(5, inner))) + tagged(4, b"behind")
    message = Message(memoryview(whole), 0, len(whole))
    at = whole.index(inner) if inner else 0
    around = frames(message, [at])[at]
    made = b"".join(tagged(9, bytes([1] * n)) for n in new)
    patches = sorted(
        spliced([Splice(at, at + len(inner), len(made), lambda: made, around)], len(whole)), key=lambda p: p.start
    )
    out, done = b"", 0
    for patch in patches:
        out += whole[done : patch.start] + bytes(patch.data())
        done = patch.stop
    assert out + whole[done:] == tagged(3, b"before") + tagged(7, tagged(1, tagged(5, made))) + tagged(4, b"behind")
