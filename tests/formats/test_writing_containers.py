"""New values in safetensors, sharded models, folders and distributed checkpoints."""

from __future__ import annotations

import json
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from initaudit import formats
from initaudit.dtypes import numpy_dtype
from initaudit.edits import Edit
from initaudit.errors import ReadError, UnsupportedError
from initaudit.formats import writing
from initaudit.types import Array, Tensor
from tests.formats.models_on_disk import edit, edits, held, sharded, single, values


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def drawn(tensors: Sequence[Tensor], seed: int = 1) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {tensor.name: rng.normal(size=tensor.shape) for tensor in tensors}


def fixed(path: Path, new: dict[str, Array], target: Path | None = None) -> Path:
    """Write new values for some tensors, see that just these are read back, and return where."""
    model = formats.read(path)
    old = {tensor.name: np.array(tensor.load()) for tensor in model.tensors}
    changes = [Edit(tensor, lambda n=tensor.name: new[n]) for tensor in model.tensors if tensor.name in new]  # type: ignore[misc]
    assert len(changes) == len(new)
    with writing.stage(path, changes, target) as staged:
        shown = values(staged.path)
        staged.commit()
    got = values(staged.target)
    for name, value in got.items():
        want = new[name].astype(value.dtype) if name in new else old[name]
        np.testing.assert_array_equal(value.view(f"V{value.itemsize}"), want.view(f"V{value.itemsize}"), err_msg=name)
        np.testing.assert_array_equal(value.view(f"V{value.itemsize}"), shown[name].view(f"V{value.itemsize}"))
    return staged.target


# -- safetensors


@pytest.mark.parametrize(
    ("code", "dtype"),
    [
        ("F64", "float64"), ("F32", "float32"), ("F16", "float16"), ("BF16", "bfloat16"),
        ("F8_E4M3", "float8_e4m3fn"), ("F8_E5M2", "float8_e5m2"),
    ],
)  # fmt: skip
def test_every_type_of_safetensors_gets_the_nearest_values(tmp_path: Path, code: str, dtype: str) -> None:
    width = numpy_dtype(dtype).itemsize
    header: dict[str, Any] = {"__metadata__": {"format": "pt", "note": "kept"}}
    for at, name in enumerate("abc"):
        header[name] = {"dtype": code, "shape": [5, 3], "data_offsets": [at * 15 * width, (at + 1) * 15 * width]}
    text = json.dumps(header).encode()
    file = tmp_path / "m.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text + bytes(45 * width))
    new = drawn([tensor for tensor in formats.read(file).tensors if tensor.name == "b"])
    target = fixed(file, new)
    old, got = file.read_bytes(), target.read_bytes()
    start = 8 + len(text) + 15 * width
    assert got[:start] == old[:start]
    assert got[start + 15 * width :] == old[start + 15 * width :]
    assert got[start : start + 15 * width] == new["b"].astype(numpy_dtype(dtype)).tobytes()


def test_the_official_library_opens_the_result(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    new = drawn(formats.read(file).tensors)
    held_now = safetensors.numpy.load_file(fixed(file, new))
    for name, value in new.items():
        np.testing.assert_array_equal(held_now[name], value.astype("f4"))


@pytest.mark.parametrize("dtype", ["i8", "u1", "?"])
def test_integers_are_refused(tmp_path: Path, dtype: str) -> None:
    safetensors.numpy.save_file({"n": np.ones(3, dtype)}, tmp_path / "m.safetensors")
    with pytest.raises(UnsupportedError, match=r"n: element type .* whole numbers"):
        formats.plan(tmp_path / "m.safetensors", edits(tmp_path / "m.safetensors"))


def test_a_tensor_of_another_type_than_the_file_has(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    tensor = formats.read(file).tensors[0]
    with pytest.raises(ReadError, match="has changed"):
        formats.plan(file, [edit(replace(tensor, dtype="float16"))])
    with pytest.raises(ReadError, match="has changed"):
        formats.plan(file, [edit(replace(tensor, storage="@3"))])


# -- sharded


def test_a_shard_that_nothing_changes_in_is_the_same_file(tmp_path: Path) -> None:
    index = sharded(tmp_path / "m")
    new = drawn([tensor for tensor in formats.read(index).tensors if "layer2" in tensor.name])
    fixed(index, new)
    old, got = held(tmp_path / "m"), held(tmp_path / "m.fixed")
    assert [name for name in old if old[name] != got[name]] == ["model-00002-of-00003.safetensors"]


def test_every_file_of_the_model_is_in_the_plan(tmp_path: Path) -> None:
    index = sharded(tmp_path / "m")
    plans = formats.plan(tmp_path / "m", edits(index, "layer1.weight"))
    assert [plan.path.name for plan in plans] == [
        "model.safetensors.index.json",
        "model-00001-of-00003.safetensors",
        "model-00002-of-00003.safetensors",
        "model-00003-of-00003.safetensors",
    ]
    assert [len(plan.patches) for plan in plans] == [0, 1, 0, 0]


def test_shards_of_torch(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    places = {}
    for number in (1, 2):
        shared = torch.randn(4, 3)
        held_in = {f"l{number}.weight": shared, f"l{number}.tied": shared, f"l{number}.bias": torch.randn(4).half()}
        torch.save(held_in, tmp_path / f"pytorch_model-0000{number}-of-00002.bin")
        places |= dict.fromkeys(held_in, f"pytorch_model-0000{number}-of-00002.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    model = formats.read(index)
    (change,) = [tensor for tensor in model.tensors if tensor.name == "l2.weight"]
    with writing.stage(index, [edit(change)], tmp_path.parent / f"{tmp_path.name}.out") as staged:
        staged.commit()
    new = torch.load(staged.target.parent / "pytorch_model-00002-of-00002.bin", weights_only=True)
    assert (new["l2.weight"] == 0.5).all()
    assert new["l2.tied"].data_ptr() == new["l2.weight"].data_ptr()
    with zipfile.ZipFile(staged.target.parent / "pytorch_model-00002-of-00002.bin") as archive:
        assert archive.testzip() is None


def test_one_shard_by_itself(tmp_path: Path) -> None:
    index = sharded(tmp_path / "m")
    shard = index.parent / "model-00001-of-00003.safetensors"
    target = fixed(shard, drawn([formats.read(shard).tensors[0]]))
    assert target == index.parent / "model-00001-of-00003.fixed.safetensors"


# -- folders


def test_the_file_of_a_folder_that_is_read_is_the_one_that_changes(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    single(folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    fixed(folder, drawn([formats.read(folder).tensors[1]]))
    old, got = held(folder), held(tmp_path / "m.fixed")
    assert {name for name in old if old[name] != got[name]} == {"model.safetensors"}


# -- distributed checkpoints


def checkpoint(folder: Path) -> Path:
    torch: Any = pytest.importorskip("torch")
    dcp: Any = pytest.importorskip("torch.distributed.checkpoint")
    net = torch.nn.Sequential(torch.nn.Linear(8, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 2))
    dcp.save({"model": net.state_dict(), "step": 3}, checkpoint_id=folder, no_dist=True)
    return folder


def test_dcp_is_loaded_by_torch_with_the_new_values(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "ckpt")
    import torch
    import torch.distributed.checkpoint as dcp

    new = drawn([tensor for tensor in formats.read(folder).tensors if tensor.name in ("0.weight", "2.bias")])
    target = fixed(folder, new)
    old: Any = {"model": {}, "step": 0}
    for name, value in (("0.weight", (4, 8)), ("2.bias", (2,)), ("2.weight", (2, 4)), ("1.running_mean", (4,))):
        old["model"][name] = torch.zeros(value)
    got: Any = {"model": {name: value.clone() for name, value in old["model"].items()}, "step": 0}
    dcp.load(old, checkpoint_id=folder, no_dist=True)
    dcp.load(got, checkpoint_id=target, no_dist=True)
    for name, value in got["model"].items():
        want = torch.from_numpy(new[name]).float() if name in new else old["model"][name]
        assert torch.equal(value, want), name
    assert got["step"] == 3


def test_dcp_changes_the_values_and_their_checksums_only(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "ckpt")
    tensor = next(tensor for tensor in formats.read(folder).tensors if tensor.name == "0.weight")
    target = fixed(folder, drawn([tensor]))
    old, got = held(folder), held(target)
    assert [name for name in old if old[name] != got[name]] == ["__0_0.distcp"]
    before, after = (np.frombuffer(files["__0_0.distcp"], "u1") for files in (old, got))
    assert len(before) == len(after)
    assert np.count_nonzero(before != after) <= tensor.size * 4 + 12


@pytest.mark.parametrize(
    "boxes",
    [
        [((0, 0), (3, 4)), ((3, 0), (3, 2)), ((3, 2), (3, 2))],
        [((0, 0), (6, 1)), ((0, 1), (6, 3))],
        [((0, 0), (6, 4))],
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_rank_gets_its_part(tmp_path: Path, boxes: Any, dtype: str) -> None:
    torch: Any = pytest.importorskip("torch")
    from tests.formats import test_dcp

    folder = test_dcp.sharded(tmp_path / "ckpt", torch.randn(6, 4).to(getattr(torch, dtype)), boxes)
    target = fixed(folder, drawn(formats.read(folder).tensors))
    assert len(list(target.glob("*.distcp"))) == len(boxes)
    for place in target.glob("*.distcp"):
        assert place.read_bytes()[:5] == b"other"
    with writing.stage(folder, edits(folder), in_place=True) as staged:
        staged.commit()
    assert (values(folder)["w"].astype("f4") == 0.5).all()


def test_a_view_of_a_tensor_of_several_chunks(tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    from tests.formats import test_dcp

    folder = test_dcp.sharded(tmp_path / "ckpt", torch.randn(6, 4), [((0, 0), (3, 4)), ((3, 0), (3, 4))])
    whole = formats.read(folder).tensors[0]
    want = np.array(whole.load())
    column = replace(whole, shape=(6,), offset=1, strides=(4,))
    with writing.stage(folder, [edit(column)], in_place=True) as staged:
        staged.commit()
    want[:, 1] = 0.5
    np.testing.assert_array_equal(values(folder)["w"], want)


def test_the_metadata_leads_to_the_folder(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "ckpt")
    with writing.stage(folder / ".metadata", edits(folder, "0.weight")) as staged:
        staged.commit()
    assert staged.target == tmp_path / "ckpt.fixed" / ".metadata"
    assert (values(staged.target)["0.weight"] == 0.5).all()


def test_safetensors_that_ranks_wrote_side_by_side(tmp_path: Path) -> None:
    torch: Any = pytest.importorskip("torch")
    pytest.importorskip("safetensors.torch")
    from tests.formats import test_dcp

    parts = [{"w": (torch.randn(3, 4), [0, 0]), "b": (torch.randn(2), [0])}, {"w": (torch.randn(2, 4), [3, 0])}]
    folder = test_dcp.ranks(tmp_path / "ckpt", parts)
    fixed(folder, drawn([tensor for tensor in formats.read(folder).tensors if tensor.name == "w"]))
    old, got = held(folder), held(tmp_path / "ckpt.fixed")
    assert sum(old[name] != got[name] for name in old) == 2
