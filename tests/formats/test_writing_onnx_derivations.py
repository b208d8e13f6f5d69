"""Which stored tensors of an ONNX file new values of a derived weight go to."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from initaudit import formats
from initaudit.edits import Edit
from initaudit.errors import ReadError, UnsupportedError
from initaudit.formats.interrupted import JOURNAL
from initaudit.formats.onnx.derivations import Derivations
from initaudit.types import Array, Tensor
from tests.formats.onnx_edits import drawn, edit, opened, shaped, value, written
from tests.formats.onnx_files import model, save, weights


def _file(folder: Path, nodes: list[onnx.NodeProto], held: dict[str, Array], *shape: int) -> Path:
    return save(shaped(model(nodes, held, inputs=()), *shape), folder)


def _norm(kind: str) -> list[onnx.NodeProto]:
    """Nodes that make w = g v / |v| of v and g."""
    length = [helper.make_node("ReduceL2", ["v"], ["n"], axes=[1, 2], keepdims=1)]
    if kind == "by hand":
        length = [
            helper.make_node("Mul", ["v", "v"], ["s"]),
            helper.make_node("ReduceSum", ["s", "a"], ["t"], keepdims=1),
            helper.make_node("Sqrt", ["t"], ["n"]),
        ]
    if kind == "divided last":
        return [*length, helper.make_node("Mul", ["v", "g"], ["u"]), helper.make_node("Div", ["u", "n"], ["w"])]
    return [*length, helper.make_node("Div", ["g", "n"], ["f"]), helper.make_node("Mul", ["v", "f"], ["w"])]


def _normed(folder: Path, kind: str, dtype: type) -> Path:
    held = {"v": drawn((6, 3, 2), 1).astype(dtype) + dtype(0.25), "g": np.ones((6, 1, 1), dtype)}
    if kind == "by hand":
        held["a"] = np.array([1, 2])
    return _file(folder, [*_norm(kind), helper.make_node("Cast", ["w"], ["y"], to=1)], held, 6, 3, 2)


@pytest.mark.parametrize("kind", ["by its norm", "by hand", "divided last"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_weight_norm_is_undone_whatever_nodes_make_it(tmp_path: Path, kind: str, dtype: type) -> None:
    path = _normed(tmp_path, kind, dtype)
    tensor = value(formats.read(path), "w")
    assert tensor.parts
    new = np.random.default_rng(3).standard_normal((6, 3, 2))
    out = written(path, [Edit(tensor, lambda: new)])
    close = {np.float32: 1e-6, np.float16: 2e-3, ml_dtypes.bfloat16: 2e-2}[dtype]
    np.testing.assert_allclose(np.asarray(value(formats.read(out), "y").load()), new, rtol=close, atol=close)
    held = {t.name: numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer}
    np.testing.assert_allclose(held["g"].reshape(-1), np.sqrt(np.square(new).sum((1, 2))), rtol=max(close, 1e-5))
    assert out.stat().st_size == path.stat().st_size


def test_rows_of_zeros_under_weight_norm_are_no_nan(tmp_path: Path) -> None:
    path = _normed(tmp_path, "by its norm", np.float32)
    new = drawn((6, 3, 2))
    new[2] = 0
    out = written(path, [Edit(value(formats.read(path), "w"), lambda: new)])
    np.testing.assert_allclose(opened(out, {})[0], new, rtol=1e-6)


def test_units_of_a_normed_weight_that_are_not_edited_keep_their_bits(tmp_path: Path) -> None:
    path = _normed(tmp_path, "by its norm", np.float32)
    tensor = value(formats.read(path), "w")
    some = Tensor(tensor.name, (2, 3, 2), tensor.dtype, tensor.load, tensor.storage, 12, None, parts=tensor.parts)
    out = written(path, [Edit(some, lambda: drawn((2, 3, 2)))])
    was, now = ({t.name: numpy_helper.to_array(t) for t in onnx.load(p).graph.initializer} for p in (path, out))
    kept = [0, 1, 4, 5]
    for name in ("v", "g"):
        np.testing.assert_array_equal(now[name][kept], was[name][kept])
    np.testing.assert_allclose(opened(out, {})[0][2:4], drawn((2, 3, 2)), atol=1e-6)


@pytest.mark.parametrize("held", [{"v": weights(), "g": weights(4, 1, 1)}, {"v": weights(), "g": weights(seed=2)}])
def test_other_products_are_not_taken_for_weight_norm(tmp_path: Path, held: dict[str, Array]) -> None:
    path = _file(tmp_path, [helper.make_node("Mul", ["v", "g"], ["y"])], held, 4, 3)
    with pytest.raises(UnsupportedError, match="no way back"):
        formats.plan(path, [edit(value(formats.read(path), "y"))])


def test_origins_are_told_in_order_with_what_of_them_is_shown(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Split", ["w", "s"], ["i", "f"], axis=0),
        helper.make_node("Concat", ["f", "v", "i"], ["t"], axis=0),
        helper.make_node("Cast", ["t"], ["u"], to=11),
        helper.make_node("Unsqueeze", ["u", "n"], ["y"]),
    ]
    held = {"w": weights(), "v": weights(2, 3), "s": np.array([1, 3]), "n": np.array([0])}
    path = save(model(nodes, held, inputs=()), tmp_path)
    read = formats.read(path)
    known = Derivations.of(read)
    found = known.origins(value(read, "y"))
    assert [(t.name, t.shape, t.offset) for t in found] == [("w", (3, 3), 3), ("v", (2, 3), 0), ("w", (1, 3), 0)]
    stored = next(t for t in read.tensors if t.name == "w")
    assert known.origins(stored) == (stored,)


def test_what_has_no_origin_says_why(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["a", "b"], ["y"]), helper.make_node("DequantizeLinear", ["q", "s"], ["d"])]
    held = {"a": weights(), "b": weights(), "q": np.ones((4, 3), np.int8), "s": np.full((), 0.1, np.float32)}
    read = formats.read(save(model(nodes, held, inputs=()), tmp_path))
    known = Derivations.of(read)
    for name, why in (("y", "worked out from a, b by add"), ("d", "quantised"), ("q", "whole numbers")):
        with pytest.raises(UnsupportedError, match=why):
            known.origins(value(read, name))
    with pytest.raises(UnsupportedError, match="does not lie in the file"):
        known.origins(Tensor("w", (2,), "float32", weights, "elsewhere@3"))


def test_new_values_are_asked_for_only_when_they_are_written(tmp_path: Path) -> None:
    nodes = [helper.make_node("Concat", ["a", "b"], ["y"], axis=0)]
    read = formats.read(save(model(nodes, {"a": weights(), "b": weights()}, inputs=()), tmp_path))
    asked: list[int] = []

    def values() -> Array:
        asked.append(1)
        return drawn((8, 3))

    first, second = Derivations.of(read).split([Edit(value(read, "y"), values)])
    assert not asked
    np.testing.assert_array_equal(np.vstack([first.values(), second.values()]), drawn((8, 3)))
    assert len(asked) == 1


def test_a_model_of_several_files_is_not_read_halfway_through_a_repair(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    proto = shaped(model([helper.make_node("Identity", ["w"], ["y"])], {"w": weights()}, inputs=()), 4, 3)
    (tmp_path / JOURNAL).write_text("{}")
    save(proto, tmp_path)
    formats.read(path)  # one file is replaced at once
    onnx.save_model(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    with pytest.raises(ReadError, match="interrupted"):
        formats.read(path)
