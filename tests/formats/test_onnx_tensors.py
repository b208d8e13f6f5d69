from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from initaudit.errors import CorruptFileError
from initaudit.formats.onnx import FORMAT
from initaudit.formats.onnx.tensors import DTYPES
from initaudit.types import Array, Skip, Tensor
from tests.formats.onnx_files import model, read, save, weights

_KINDS = sorted(DTYPES)
_SHAPE = (5, 3)  # an odd count: sub-byte types end inside a byte


def stored(tensor: onnx.TensorProto, folder: Path) -> Tensor:
    proto = model([helper.make_node("Add", ["x", "t"], ["y"])])
    tensor.name = "t"
    proto.graph.initializer.append(tensor)
    (found,) = read(proto, folder).tensors
    return found


def numbers(kind: int) -> Array:
    values = np.arange(math.prod(_SHAPE), dtype=np.float64).reshape(_SHAPE)
    name = DTYPES[kind]
    if name == "bool":
        return values % 2 == 0
    if name in ("uint4", "float4_e2m1fn", "int4", "uint2", "int2"):
        return values % (2 if name.startswith("int") else 4)
    if name.startswith("uint") or name == "float8_e8m0fnu":
        return np.exp2(values % 6)
    return values - 7


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("kind", _KINDS, ids=DTYPES.get)
def test_every_dtype(kind: int, raw: bool, tmp_path: Path) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    values = numbers(kind).astype(dtype)
    if raw:
        tensor = numpy_helper.from_array(values)
        assert tensor.raw_data
    else:
        flat = values.ravel()
        tensor = helper.make_tensor("t", kind, _SHAPE, flat.tolist() if values.dtype.kind != "V" else flat)
        assert not tensor.raw_data
    found = stored(tensor, tmp_path)
    loaded = found.load()
    assert (found.dtype, found.shape, loaded.shape) == (DTYPES[kind], _SHAPE, _SHAPE)
    np.testing.assert_array_equal(loaded.astype(np.complex128), numpy_helper.to_array(tensor).astype(np.complex128))
    np.testing.assert_array_equal(loaded.astype(np.complex128), values.astype(np.complex128))


def _one_by_one(tensor: onnx.TensorProto, number: int, wire: int) -> bytes:
    """Return the bytes of a tensor with a packed field written as single ones, as old writers do."""
    field = {4: "float_data", 5: "int32_data", 7: "int64_data", 10: "double_data"}[number]
    values = list(getattr(tensor, field))
    bare = onnx.TensorProto()
    bare.CopyFrom(tensor)
    bare.ClearField(field)
    body = bare.SerializeToString()
    for item in values:
        single = onnx.TensorProto()
        getattr(single, field).append(item)
        packed = single.SerializeToString()  # tag, length, payload
        body += bytes([number << 3 | wire]) + packed[2:]
    return body


@pytest.mark.parametrize(
    ("kind", "number", "wire"),
    [(TensorProto.FLOAT, 4, 5), (TensorProto.INT8, 5, 0), (TensorProto.INT64, 7, 0), (TensorProto.DOUBLE, 10, 1)],
)
def test_numbers_that_are_not_packed(kind: int, number: int, wire: int, tmp_path: Path) -> None:
    values = [1, -2, 3, 100, -128, 0]
    tensor = helper.make_tensor("t", kind, [2, 3], values)
    body = _one_by_one(tensor, number, wire)
    proto = model([helper.make_node("Relu", ["x"], ["y"])])
    graph = proto.graph.SerializeToString() + b"\x2a" + bytes([len(body)]) + body
    proto.ClearField("graph")
    path = tmp_path / "model.onnx"
    length = len(graph)
    path.write_bytes(proto.SerializeToString() + b"\x3a" + bytes([length & 0x7F | 0x80, length >> 7]) + graph)
    (found,) = FORMAT.read(path).tensors
    np.testing.assert_array_equal(found.load().ravel(), values)
    np.testing.assert_array_equal(numpy_helper.to_array(onnx.load(str(path)).graph.initializer[0]).ravel(), values)


def test_values_are_a_view_of_the_file_at_the_place_it_says(tmp_path: Path) -> None:
    w = weights(40, 30)
    path = save(model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": w}), tmp_path)
    (found,) = FORMAT.read(path).tensors
    at = int(found.storage.removeprefix("@"))
    assert path.read_bytes()[at : at + w.nbytes] == w.tobytes()
    loaded = found.load()
    assert not loaded.flags.owndata
    assert not loaded.flags.writeable


def test_scalars_and_empty_tensors(tmp_path: Path) -> None:
    for values in (np.float32(3), np.zeros((0, 4), np.float32), np.zeros((4, 0), np.int64)):
        found = stored(numpy_helper.from_array(np.asarray(values)), tmp_path)
        assert found.load().shape == found.shape == values.shape


@pytest.mark.parametrize("flat", [True, False])
def test_sparse_initializers(flat: bool, tmp_path: Path) -> None:
    indices = np.array([1, 5, 11]) if flat else np.array([[0, 1], [1, 1], [2, 3]])
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("s", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]),
        helper.make_tensor("i", TensorProto.INT64, indices.shape, indices.ravel()),
        [3, 4],
    )
    proto = model([helper.make_node("Add", ["x", "s"], ["y"])])
    proto.graph.sparse_initializer.append(sparse)
    (found,) = read(proto, tmp_path).tensors
    dense = np.zeros((3, 4), np.float32)
    dense.ravel()[[1, 5, 11]] = [1, 2, 3]
    assert found.name == "s"
    np.testing.assert_array_equal(found.load(), dense)
    proto.graph.sparse_initializer[0].indices.int64_data[0] = 12
    (found,) = read(proto, tmp_path).tensors
    with pytest.raises(CorruptFileError, match="outside"):
        found.load()


def test_constants_of_every_kind(tmp_path: Path) -> None:
    dense = numpy_helper.from_array(weights(), "inner")
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("s", TensorProto.FLOAT, [1], [2.0]),
        helper.make_tensor("i", TensorProto.INT64, [1], [2]),
        [4],
    )
    attributes = {
        "value": dense, "sparse_value": sparse, "value_float": 0.5, "value_floats": [1.0, 2.0], "value_int": 3,
        "value_ints": [1, 2, 3], "value_string": "text", "value_strings": ["a", "b"],
    }  # fmt: skip
    nodes = [helper.make_node("Constant", [], [f"c_{key}"], **{key: item}) for key, item in attributes.items()]
    found = read(model([*nodes, helper.make_node("Sum", ["x", "c_value"], ["y"])]), tmp_path)
    assert found.graph is not None
    assert [t.name for t in found.tensors] == [
        "c_value", "c_sparse_value", "c_value_float", "c_value_floats", "c_value_ints"
    ]  # fmt: skip
    constants = {name: (t.dtype, t.load().tolist()) for name, t in found.graph.constants.items()}
    assert constants.pop("c_value")[1] == weights().tolist()
    assert constants == {
        "c_sparse_value": ("float32", [0, 0, 2, 0]),
        "c_value_float": ("float32", 0.5),
        "c_value_floats": ("float32", [1, 2]),
        "c_value_int": ("int64", 3),
        "c_value_ints": ("int64", [1, 2, 3]),
    }


def test_what_is_not_read_is_told(tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])])
    proto.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [2], [b"a", b"b"]))
    future = proto.graph.initializer.add(name="future", data_type=99, dims=[2], raw_data=b"ab")
    assert future.name
    found = read(proto, tmp_path)
    assert found.tensors == ()
    assert found.skipped == (
        Skip("words", "a tensor of strings"),
        Skip("future", "element type 99 of ONNX is not read"),
    )


@pytest.mark.parametrize(
    "tensor",
    [
        TensorProto(dims=[3], data_type=1, raw_data=b"\0" * 11),
        TensorProto(dims=[3], data_type=1, raw_data=b"\0" * 16),
        TensorProto(dims=[3], data_type=1),
        TensorProto(dims=[-3], data_type=1),
        TensorProto(dims=[3], data_type=1, float_data=[1, 2]),
        TensorProto(dims=[3], data_type=1, int32_data=[1, 2, 3]),
        TensorProto(dims=[3], data_type=14, float_data=[1, 2, 3]),
        TensorProto(dims=[3], data_type=10, int32_data=[1, 2]),
        TensorProto(dims=[3], data_type=22, int32_data=[1]),
        TensorProto(dims=[1 << 40, 1 << 40], data_type=1, raw_data=b""),
        TensorProto(dims=[0, 1 << 62], data_type=1, raw_data=b""),
        TensorProto(dims=[1] * 40, data_type=1, raw_data=b"\0" * 4),
    ],
    ids=lambda t: str(t).replace("\n", " ")[:60],
)
def test_shape_and_data_must_agree(tensor: onnx.TensorProto, tmp_path: Path) -> None:
    with pytest.raises(CorruptFileError):
        stored(tensor, tmp_path)
