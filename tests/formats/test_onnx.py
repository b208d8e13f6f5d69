from __future__ import annotations

import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from initaudit.errors import CorruptFileError, InitauditError, ReadError, UnsafeFileError, UnsupportedError
from initaudit.formats.onnx import FORMAT
from initaudit.types import Model
from tests.formats.onnx_files import model, read, save, sniffed, value, weights


def small() -> onnx.ModelProto:
    """A model with something of everything: typed data, a branch, a function, a folded chain."""
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0])
    branch = [
        helper.make_graph([helper.make_node("Add", ["h", "typed"], ["b"])], "then", [], [value("b")]),
        helper.make_graph([helper.make_node("Relu", ["h"], ["b"])], "else", [], [value("b")]),
    ]
    function = helper.make_function(
        "local", "twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    proto = model(
        [
            helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "wt"], ["h"], name="/fc/MatMul"),
            helper.make_node("If", ["c"], ["j"], then_branch=branch[0], else_branch=branch[1]),
            helper.make_node("twice", ["j"], ["y"], domain="local"),
        ],
        {"w": weights(3, 4), "c": np.array(True)},
        functions=[function],
        opsets=[helper.make_opsetid("", 17), helper.make_opsetid("local", 1)],
        producer_name="pytorch",
        producer_version="2.6",
    )
    proto.graph.initializer.append(typed)
    return proto


def test_a_model_is_read_whole(tmp_path: Path) -> None:
    found = read(small(), tmp_path)
    assert (found.format, found.detail) == ("onnx", "opset 17, producer 'pytorch 2.6'")
    assert [t.name for t in found.tensors] == ["w", "c", "typed"]
    assert found.graph is not None
    assert [n.op for n in found.graph.nodes] == ["matmul", "add", "relu", "phi", "add"]
    assert found.graph.nodes[0].name == "/fc/MatMul"
    assert found.graph.inputs == {"x": (1, 4)}
    assert found.graph.constants["wt"].shape == (4, 3)
    assert found.skipped == ()


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = small().SerializeToString()
    path = tmp_path / "cut.onnx"
    valid = []
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        sniffed(path)
        try:
            FORMAT.read(path)
        except CorruptFileError as error:
            assert "\n" not in str(error)
        else:
            valid.append(length)
    assert len(valid) <= 3  # between the fields that follow the graph and the operator set
    for length in valid:
        prefix = onnx.load_model_from_string(whole[:length])
        assert prefix.graph.node
        assert prefix.opset_import


def test_flipped_bytes_are_read_or_refused(tmp_path: Path) -> None:
    whole = small().SerializeToString()
    draw = random.Random(0)
    path = tmp_path / "flipped.onnx"
    read_anyway = 0
    for _ in range(600):
        damaged = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 4))):
            damaged[draw.randrange(len(damaged))] = draw.choice((draw.randrange(256), 0, 0x7F, 0xFF))
        path.write_bytes(damaged)
        sniffed(path)
        try:
            found = FORMAT.read(path)
            assert found.graph is not None
            for tensor in (*found.tensors, *found.graph.constants.values()):
                assert tensor.size > 1 << 20 or tensor.load().shape == tensor.shape
        except (ReadError, UnsupportedError):
            continue
        read_anyway += 1
    assert read_anyway > 40


def _zeros(path: Path) -> None:
    with path.open("wb") as file:
        os.truncate(file.fileno(), 10 << 30)


def _zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")


_OTHERS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "zeros": _zeros,
    "text": lambda path: path.write_text("a readme, \x08\x07 and so on\n" * 50),
    "colon": lambda path: path.write_text(": colons are the tag of a graph : : :\n" * 50),
    "newline": lambda path: path.write_text("\n\n\nimport torch\n" * 50),
    "backspace": lambda path: path.write_text("\x08\x07 bell" * 50),
    "json": lambda path: path.write_text('{"a": 1}'),
    "zip": _zip,
    "pickle": lambda path: path.write_bytes(pickle.dumps({"a": [1, 2, 3]})),
    "old pickle": lambda path: path.write_bytes(pickle.dumps({"a": [1, 2, 3]}, 0)),
    "array": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "tensor": lambda path: path.write_bytes(onnx.numpy_helper.from_array(weights(), "w").SerializeToString()),
    "graph": lambda path: path.write_bytes(small().graph.SerializeToString()),
    "safetensors": lambda path: path.write_bytes((100).to_bytes(8, "little") + b'{"a":{}}' + b" " * 92),
}


@pytest.mark.parametrize("kind", list(_OTHERS))
def test_other_files_are_not_recognised(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "other.onnx"
    _OTHERS[kind](path)
    assert not sniffed(path)


def test_a_download_that_broke_off_is_still_recognised(tmp_path: Path) -> None:
    path = tmp_path / "part.onnx"
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights(4, 3000)})
    path.write_bytes(proto.SerializeToString()[:9000])
    assert sniffed(path)
    with pytest.raises(CorruptFileError, match="end at 9000"):
        FORMAT.read(path)


@pytest.mark.parametrize("opset", [6, 9, 13, 18, 24])
def test_operator_sets(opset: int, tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])], opsets=[helper.make_opsetid("", opset)])
    assert read(proto, tmp_path).detail == f"opset {opset}"


def test_an_operator_set_spelled_out_or_foreign(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Scaler", ["h"], ["y"], domain="ai.onnx.ml")],
        opsets=[helper.make_opsetid("ai.onnx.ml", 3), helper.make_opsetid("ai.onnx", 15)],
    )
    found = read(proto, tmp_path)
    assert found.detail == "opset 15"
    assert found.graph is not None
    assert [n.op for n in found.graph.nodes] == ["relu", "ai.onnx.ml::scaler"]


def test_below_ir_4_weights_are_inputs_too(tmp_path: Path) -> None:
    proto = model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": weights()},
        inputs=(value("x", [None, 4]), value("w", [4, 3])),
        ir_version=3,
    )
    found = read(proto, tmp_path)
    assert found.graph is not None
    assert found.graph.inputs == {"x": (None, 4)}
    assert list(found.graph.constants) == ["w"]


def test_a_model_without_an_operator_set(tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["y"])])
    del proto.opset_import[:]
    with pytest.raises(CorruptFileError, match="operator set"):
        FORMAT.read(save(proto, tmp_path))
    proto.ir_version = 2
    assert read(proto, tmp_path).detail == "opset 1"


# ---- external data


def external(folder: Path, location: str, payload: bytes | None, **extra: str) -> Model:
    proto = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights()})
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, text in {"location": location, **extra}.items():
        tensor.external_data.add(key=key, value=text)
    if payload is not None:
        (folder / location).parent.mkdir(exist_ok=True)
        (folder / location).write_bytes(payload)
    return FORMAT.read(save(proto, folder))


def test_external_data(tmp_path: Path) -> None:
    w = weights()
    payload = b"\0" * 4096 + w.tobytes()
    (found,) = external(tmp_path, "sub/w.bin", payload, offset="4096", length="48").tensors
    assert found.storage == "sub/w.bin@4096"
    np.testing.assert_array_equal(found.load(), w)
    found.release()
    np.testing.assert_array_equal(found.load(), w)
    (found,) = external(tmp_path, "whole.bin", w.tobytes()).tensors
    np.testing.assert_array_equal(found.load(), w)


def test_external_data_in_several_files_as_onnx_writes_them(tmp_path: Path) -> None:
    arrays = {name: weights(40, 30, seed) for seed, name in enumerate("abc")}
    proto = model([helper.make_node("Sum", ["x", *arrays], ["y"])], arrays)
    path = tmp_path / "model.onnx"
    onnx.save_model(proto, str(path), save_as_external_data=True, all_tensors_to_one_file=False, size_threshold=0)
    found = FORMAT.read(path)
    assert len({t.storage for t in found.tensors}) == 3
    for tensor in found.tensors:
        np.testing.assert_array_equal(tensor.load(), arrays[tensor.name])


def test_two_initializers_over_the_same_external_bytes_are_tied(tmp_path: Path) -> None:
    proto = model([helper.make_node("Sum", ["x", "a", "b", "c"], ["y"])], dict.fromkeys("abc", weights()))
    for tensor, offset in zip(proto.graph.initializer, ("0", "0", "48"), strict=True):
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="w.bin")
        tensor.external_data.add(key="offset", value=offset)
    (tmp_path / "w.bin").write_bytes(weights(8, 3).tobytes())
    a, b, c = FORMAT.read(save(proto, tmp_path)).tensors
    assert a.identity == b.identity != c.identity


@pytest.mark.parametrize(
    "location", ["/etc/passwd", "../w.bin", "sub/../../w.bin", "..\\w.bin", "C:\\w.bin", "\\\\host\\w.bin", "a\0b"]
)
def test_external_data_outside_the_folder_are_refused(location: str, tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(weights().tobytes())
    (tmp_path / "sub").mkdir()
    with pytest.raises(UnsafeFileError):
        external(tmp_path / "sub", location, None)


@pytest.mark.parametrize(
    ("payload", "extra", "reason"),
    [
        (None, {}, r"'w\.bin' \(tensor 'w'\) is missing"),
        (b"", {}, "empty"),
        (b"\0" * 47, {}, "ends at 47"),
        (b"\0" * 48, {"offset": "1"}, "ends at 48"),
        (b"\0" * 48, {"length": "40"}, "needs 48 bytes, but has 40"),
        (b"\0" * 48, {"offset": "-4"}, "no number"),
        (b"\0" * 48, {"offset": "0x10"}, "no number"),
        (b"\0" * 48, {"offset": "9" * 30}, "no number"),
    ],
)
def test_external_data_that_do_not_fit(
    payload: bytes | None, extra: dict[str, str], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ReadError, match=reason):
        external(tmp_path, "w.bin", payload, **extra)


def test_external_data_in_a_folder_or_pipe_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for location in ("folder", "pipe"):
        with pytest.raises(InitauditError):
            external(tmp_path, location, None)


# ---- order and names


def test_nodes_out_of_order_are_sorted(tmp_path: Path) -> None:
    branch = helper.make_graph([helper.make_node("Neg", ["h"], ["b"])], "b", [], [value("b")])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch),  # reads h inside
        helper.make_node("Relu", ["g"], ["h"]),
        helper.make_node("MatMul", ["x", "w"], ["g"]),
    ]
    found = read(model(nodes, {"w": weights(), "c": np.array(True)}), tmp_path)
    assert found.graph is not None
    assert [n.op for n in found.graph.nodes] == ["matmul", "relu", "neg", "neg", "phi"]


@pytest.mark.parametrize(
    ("nodes", "reason"),
    [
        ([("Add", ["x", "b"], ["a"]), ("Relu", ["a"], ["b"]), ("Relu", ["b"], ["y"])], "circle"),
        ([("Relu", ["nowhere"], ["y"])], "nothing makes"),
        ([("Relu", ["x"], ["h"])], "nothing makes the value 'y'"),
        ([("Relu", ["x"], ["y"]), ("Neg", ["x"], ["y"])], "two nodes"),
        ([("Relu", ["x"], ["x"]), ("Neg", ["x"], ["y"])], "two nodes|circle"),
        ([("", ["x"], ["y"])], "no operator"),
    ],
)
def test_graphs_that_cannot_run_are_refused(
    nodes: list[tuple[str, list[str], list[str]]], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(CorruptFileError, match=reason):
        FORMAT.read(save(model([helper.make_node(*n) for n in nodes]), tmp_path))
