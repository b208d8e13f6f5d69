"""New values in the data files beside an ONNX model."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

from initaudit import formats
from initaudit.edits import FilePlan
from initaudit.errors import UnsafeFileError, UnsupportedError
from initaudit.formats.writing import stage
from tests.formats.onnx_edits import applied, changed, drawn, edit, named, opened, shaped
from tests.formats.onnx_files import model, save, value, weights

NODES = [helper.make_node("MatMul", ["x", "a"], ["t"]), helper.make_node("MatMul", ["t", "b"], ["y"])]
X = np.ones((2, 4), np.float32)


def _model() -> onnx.ModelProto:
    return shaped(model(NODES, {"a": weights(4, 3), "b": weights(3, 5, 1)}, inputs=(value("x", [2, 4]),)), 2, 5)


def _saved(folder: Path, *, together: bool = True) -> Path:
    path = folder / "model.onnx"
    where = "weights.bin" if together else None
    onnx.save_model(
        _model(), path, save_as_external_data=True, all_tensors_to_one_file=together, location=where, size_threshold=0
    )
    return path


def _outside(tensor: onnx.TensorProto, where: str, at: int, length: int | None = None) -> None:
    """Let a tensor lie in a file beside the model."""
    set_external_data(tensor, where, at, len(tensor.raw_data) if length is None else length)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL


def _into(plans: tuple[FilePlan, ...], folder: Path) -> Path:
    """Write all files of a model under their own names into another folder."""
    folder.mkdir()
    first, *_ = [applied(plan, folder / plan.path.name) for plan in plans]
    return first


def test_only_the_data_file_changes(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    mine, data = formats.plan(path, [edit(named(formats.read(path), "b"))])
    assert (mine.path, mine.patches) == (path, ())
    assert data.path == tmp_path / "weights.bin"
    entry = {e.key: e.value for e in onnx.load(path, load_external_data=False).graph.initializer[1].external_data}
    out = _into((mine, data), tmp_path / "out")
    low, high = changed(data.path, out.parent / "weights.bin")
    assert int(entry["offset"]) <= low < high <= int(entry["offset"]) + 60
    np.testing.assert_allclose(opened(out, {"x": X})[0], X @ weights(4, 3) @ drawn((3, 5)), rtol=1e-5)


def test_each_tensor_in_a_file_of_its_own(tmp_path: Path) -> None:
    path = _saved(tmp_path, together=False)
    plans = formats.plan(path, [edit(named(formats.read(path), "b"))])
    assert {plan.path.name: len(plan.patches) for plan in plans} == {"model.onnx": 0, "a": 0, "b": 1}
    out = _into(plans, tmp_path / "out")
    np.testing.assert_allclose(opened(out, {"x": X})[0], X @ weights(4, 3) @ drawn((3, 5)), rtol=1e-5)


@pytest.mark.parametrize("name", ["model.fixed.onnx.data", "b", "sub/with spaces and a very long name " + "x" * 120])
def test_data_files_may_be_called_otherwise(tmp_path: Path, name: str) -> None:
    path = _saved(tmp_path)
    before = path.read_bytes(), (tmp_path / "weights.bin").read_bytes()
    mine, data = formats.plan(path, [edit(named(formats.read(path), "a"))])
    assert mine.named is not None
    (tmp_path / name).parent.mkdir(exist_ok=True)
    applied(data, tmp_path / name)
    out = applied(mine.named({data.path: name}), tmp_path / "model.fixed.onnx")
    was, now = onnx.load(path, load_external_data=False), onnx.load(out, load_external_data=False)
    for tensor in now.graph.initializer:
        assert [e.value for e in tensor.external_data if e.key == "location"] == [name]
        tensor.external_data[0].value = "weights.bin"
    assert was == now
    np.testing.assert_allclose(opened(out, {"x": X})[0], X @ drawn((4, 3)) @ weights(3, 5, 1), rtol=1e-5)
    assert before == (path.read_bytes(), (tmp_path / "weights.bin").read_bytes())
    np.testing.assert_array_equal(named(formats.read(out), "a").load(), drawn((4, 3)))


def test_names_and_values_stored_anew_change_together(tmp_path: Path) -> None:
    proto = _model()
    half = helper.make_tensor("h", TensorProto.FLOAT16, [60], np.zeros(60), raw=False)
    constant = numpy_helper.from_array(weights(3, 5, 4), "c")
    proto.graph.initializer.append(half)
    proto.graph.node.append(helper.make_node("Constant", [], ["k"], value=constant))
    _outside(proto.graph.node[-1].attribute[0].t, "constants.bin", 0)
    (tmp_path / "constants.bin").write_bytes(constant.raw_data)
    path = tmp_path / "model.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    read = formats.read(path)
    mine, *data = formats.plan(path, [edit(named(read, name), seed) for seed, name in enumerate(("a", "h", "k"))])
    assert sorted(plan.path.name for plan in data) == ["constants.bin", "weights.bin"]
    for plan in data:
        applied(plan, tmp_path / f"new.{plan.path.name}")
    assert mine.named is not None
    out = applied(mine.named({plan.path: f"new.{plan.path.name}" for plan in data}), tmp_path / "out.onnx")
    onnx.checker.check_model(str(out))
    again = formats.read(out)
    for seed, name in enumerate(("a", "h", "k")):
        tensor = named(again, name)
        assert tensor.storage.startswith("new.") == (name != "h")
        np.testing.assert_array_equal(tensor.load(), drawn(tensor.shape, seed))


def test_two_spellings_of_one_file_are_one_plan(tmp_path: Path) -> None:
    proto = _model()
    held = b"".join(tensor.raw_data for tensor in proto.graph.initializer)
    (tmp_path / "sub").mkdir()
    (tmp_path / "w.bin").write_bytes(held)
    for tensor, where, at in zip(proto.graph.initializer, ("w.bin", "./w.bin"), (0, 48), strict=True):
        _outside(tensor, where, at)
    path = save(proto, tmp_path)
    read = formats.read(path)
    mine, data = formats.plan(path, [edit(named(read, "a"), 1), edit(named(read, "b"), 2)])
    assert applied(data, tmp_path / "n.bin").read_bytes() == b"".join(
        drawn(shape, seed).astype(np.float32).tobytes() for shape, seed in (((4, 3), 1), ((3, 5), 2))
    )
    assert mine.named is not None
    out = applied(mine.named({data.path: "n.bin"}), tmp_path / "out.onnx")
    np.testing.assert_array_equal(named(formats.read(out), "b").load(), drawn((3, 5), 2))


def test_a_checksum_goes_with_what_it_was_of(tmp_path: Path) -> None:
    proto = _model()
    for tensor in proto.graph.initializer:
        (tmp_path / tensor.name).write_bytes(tensor.raw_data)
        _outside(tensor, tensor.name, 0)
        tensor.external_data.add(key="checksum", value="0" * 40)
    path = save(proto, tmp_path)
    mine, *_ = formats.plan(path, [edit(named(formats.read(path), "a"))])
    out = applied(mine, tmp_path / "out.onnx")
    now = onnx.load(out, load_external_data=False)
    assert [[e.key for e in t.external_data] for t in now.graph.initializer] == [
        ["location", "offset", "length"],
        ["location", "offset", "length", "checksum"],
    ]
    proto.graph.initializer[0].external_data.pop()
    assert now == proto


def _at(folder: Path, where: str, offsets: tuple[int, int]) -> Path:
    proto = _model()
    for tensor, at in zip(proto.graph.initializer, offsets, strict=True):
        _outside(tensor, where, at)
    return save(proto, folder)


def test_ranges_that_overlap_change_alone_but_not_together(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(bytes(100))
    path = _at(tmp_path, "w.bin", (0, 20))
    a, b = (named(formats.read(path), name) for name in "ab")
    assert len(formats.plan(path, [edit(b)])[1].patches) == 1
    with pytest.raises(UnsupportedError, match="overlap"):
        formats.plan(path, [edit(a), edit(b)])


def test_tensors_that_share_their_bytes_are_patched_once(tmp_path: Path) -> None:
    proto = shaped(
        model([helper.make_node("Add", ["a", "b"], ["y"])], {"a": weights(), "b": weights()}, inputs=()), 4, 3
    )
    (tmp_path / "w.bin").write_bytes(weights().tobytes())
    for tensor in proto.graph.initializer:
        _outside(tensor, "w.bin", 0)
    path = save(proto, tmp_path)
    read = formats.read(path)
    plans = formats.plan(path, [edit(named(read, "a")), edit(named(read, "b"))])
    assert len(plans[1].patches) == 1
    np.testing.assert_array_equal(opened(_into(plans, tmp_path / "out"), {})[0], 2 * drawn((4, 3)))


def test_data_in_the_models_own_file_are_refused(tmp_path: Path) -> None:
    path = _at(tmp_path, "model.onnx", (0, 0))
    with pytest.raises(UnsupportedError, match="the model's own file"):
        formats.plan(path, [edit(named(formats.read(path), "a"))])


@pytest.mark.parametrize("where", ["../w.bin", "/etc/hostname", "sub\\..\\..\\w.bin"])
def test_data_outside_of_the_folder_are_never_touched(tmp_path: Path, where: str) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(200))
    path = _at(tmp_path / "inner", where, (0, 48))
    with pytest.raises(UnsafeFileError):
        formats.plan(path, [])


def test_data_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "blob").write_bytes(bytes(108))
    (tmp_path / "w.bin").symlink_to("blobs/blob")
    path = _at(tmp_path, "w.bin", (0, 48))
    _, data = formats.plan(path, [edit(named(formats.read(path), "a"))])
    assert data.path == tmp_path / "w.bin"  # what becomes of the link is up to whoever writes


def test_a_model_of_more_than_two_gigabytes(tmp_path: Path) -> None:
    size = 3 << 30
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(size)
    held = TensorProto(name="big", data_type=TensorProto.FLOAT, dims=[size // 4 - 6], raw_data=b"")
    tail = TensorProto(name="tail", data_type=TensorProto.FLOAT, dims=[6], raw_data=b"")
    proto = model([helper.make_node("Identity", ["tail"], ["y"])], inputs=())
    for tensor, at, length in ((held, 0, size - 24), (tail, size - 24, 24)):
        _outside(tensor, "w.bin", at, length)
        proto.graph.initializer.append(tensor)
    path = save(shaped(proto, 6), tmp_path)
    tracemalloc.start()
    try:
        _, data = formats.plan(path, [edit(named(formats.read(path), "tail"))])
        (patch,) = data.patches
        assert (patch.start, patch.stop) == (size - 24, size)
        assert bytes(patch.data()) == drawn((6,)).astype(np.float32).tobytes()
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert (tmp_path / "w.bin").stat().st_blocks < 1000


# -- with the stage that all formats share


@pytest.mark.parametrize("folder", [".", "elsewhere"])
def test_a_result_beside_or_elsewhere_leaves_the_old_model_alone(tmp_path: Path, folder: str) -> None:
    path = _saved(tmp_path)
    before = {file: file.read_bytes() for file in (path, tmp_path / "weights.bin")}
    (tmp_path / folder).mkdir(exist_ok=True)
    target = tmp_path / folder / "model.fixed.onnx"
    with stage(path, [edit(named(formats.read(path), "a"))], target) as staged:
        np.testing.assert_array_equal(named(formats.read(staged.path), "a").load(), drawn((4, 3)))
        staged.commit()
    for file, held in before.items():
        assert file.read_bytes() == held
    np.testing.assert_allclose(opened(target, {"x": X})[0], X @ drawn((4, 3)) @ weights(3, 5, 1), rtol=1e-5)
    np.testing.assert_allclose(opened(path, {"x": X})[0], X @ weights(4, 3) @ weights(3, 5, 1), rtol=1e-5)


def test_in_place_only_the_data_file_is_another(tmp_path: Path) -> None:
    path = _saved(tmp_path)
    before, was = path.read_bytes(), path.stat()
    with stage(path, [edit(named(formats.read(path), "a"))], in_place=True) as staged:
        staged.commit()
    assert path.read_bytes() == before
    assert path.stat().st_mtime_ns == was.st_mtime_ns
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model.onnx", "weights.bin"]
    np.testing.assert_allclose(opened(path, {"x": X})[0], X @ drawn((4, 3)) @ weights(3, 5, 1), rtol=1e-5)
