"""Distributed checkpoints: one process, several, other people's, damaged."""

from __future__ import annotations

import io
import pickle
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from initaudit import formats
from initaudit.errors import CorruptFileError, InitauditError, ReadError, UnsafeFileError, UnsupportedError
from initaudit.types import Model
from tests.formats.torch_files import differing

torch: Any = pytest.importorskip("torch")
dcp: Any = pytest.importorskip("torch.distributed.checkpoint")
meta: Any = pytest.importorskip("torch.distributed.checkpoint.metadata")
Boxes = list[tuple[tuple[int, ...], tuple[int, ...]]]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def saved(state: Any, folder: Path) -> Path:
    dcp.save(state, checkpoint_id=folder, no_dist=True)
    return folder


def sharded(
    folder: Path, value: Any, boxes: Boxes, *, name: str = "w", edit: Callable[[Any], None] | None = None
) -> Path:
    """Write one tensor as several ranks would, each a box of it in a file of its own."""
    from torch.distributed.checkpoint.filesystem import _StorageInfo

    folder.mkdir(parents=True, exist_ok=True)
    chunks, places = [], {}
    for rank, (at, size) in enumerate(boxes):
        piece = value[tuple(slice(a, a + s) for a, s in zip(at, size, strict=True))].clone()
        buffer = io.BytesIO()
        torch.save(piece, buffer)
        (folder / f"__{rank}_0.distcp").write_bytes(b"other" + buffer.getvalue())
        chunks.append(meta.ChunkStorageMetadata(torch.Size(at), torch.Size(size)))
        place = _StorageInfo(f"__{rank}_0.distcp", 5, len(buffer.getvalue()))
        places[meta.MetadataIndex(name, at)] = place
    properties = meta.TensorProperties(dtype=value.dtype)
    whole = meta.Metadata({name: meta.TensorStorageMetadata(properties, value.size(), chunks)}, None, places)
    if edit is not None:
        edit(whole)
    (folder / ".metadata").write_bytes(pickle.dumps(whole))
    return folder


def refusal(path: Path) -> InitauditError:
    with pytest.raises(InitauditError) as caught:
        formats.read(path)
    assert "broke the reader" not in str(caught.value)
    return caught.value


def net() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4))


def test_state_dict(tmp_path: Path) -> None:
    state = net().state_dict()
    state["2.weight"] = state["2.weight"].to(torch.bfloat16)
    folder = saved(state, tmp_path / "ckpt")
    for path in (folder, folder / ".metadata"):
        model = formats.read(path)
        assert model.format == "dcp"
        assert model.detail == "distributed checkpoint, 1 file with 4 chunks, state_dict"
        assert differing(model, state) == [] and len(model.tensors) == 4
        assert model.skipped == ()


def test_training_checkpoint(tmp_path: Path) -> None:
    model = net()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    state = {"model": model.state_dict(), "optim": optimizer.state_dict(), "step": 3, "rng": torch.get_rng_state()}
    found = formats.read(saved(state, tmp_path / "ckpt"))
    assert found.detail.endswith("state_dict under 'model'")
    assert differing(found, model.state_dict()) == [] and len(found.tensors) == 4
    assert {skip.name: skip.why for skip in found.skipped} == {
        "optim": "optimizer state, no weights of the model", "rng": "state of a random number generator",
    }  # fmt: skip


def test_configuration_beside_it(tmp_path: Path) -> None:
    folder = saved(net().state_dict(), tmp_path / "ckpt")
    (folder / "config.json").write_text('{"model_type": "bert", "hidden_act": "gelu"}')
    assert formats.read(folder).config["hidden_act"] == "gelu"


ROWS: Boxes = [((0, 0), (3, 6)), ((3, 0), (3, 6)), ((6, 0), (1, 6))]
COLUMNS: Boxes = [((0, 0), (7, 2)), ((0, 2), (7, 4))]
GRID: Boxes = [((0, 0), (4, 3)), ((0, 3), (4, 3)), ((4, 0), (3, 3)), ((4, 3), (3, 3))]


@pytest.mark.parametrize("boxes", [ROWS, COLUMNS, GRID, ROWS[::-1], [((0, 0), (7, 6)), ((7, 0), (0, 6))]])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int64"])
def test_shards_along_any_axis(tmp_path: Path, boxes: Boxes, dtype: str) -> None:
    value = torch.arange(42).reshape(7, 6).to(getattr(torch, dtype))
    model = formats.read(sharded(tmp_path / "ckpt", value, boxes))
    assert differing(model, {"w": value}) == []
    assert model.detail.startswith(f"distributed checkpoint, {len(boxes)} files with {len(boxes)} chunks")


def test_what_two_ranks_saved_is_one_model(tmp_path: Path) -> None:
    value = torch.randn(6, 4)
    folder = sharded(tmp_path / "ckpt", value, [((0, 0), (3, 4)), ((3, 0), (3, 4))], name="model.layers.0.weight")
    (tensor,) = formats.read(folder).tensors
    assert tensor.name == "model.layers.0.weight"
    assert np.array_equal(tensor.load(), value.numpy())


@pytest.mark.parametrize(
    ("boxes", "reason"),
    [
        (ROWS[:2], "some are missing"),
        ([*ROWS, ((1, 0), (1, 6))], "overlap"),
        ([((0, 0), (4, 6)), ((3, 0), (4, 6))], "overlap"),
        ([((0, 0), (7, 3)), ((0, 2), (7, 4))], "overlap"),
    ],
)
def test_boxes_that_do_not_fit(tmp_path: Path, boxes: Boxes, reason: str) -> None:
    value = torch.arange(42.0).reshape(7, 6)
    assert reason in refusal(sharded(tmp_path / "ckpt", value, boxes)).reason


def _place(whole: Any, **changes: Any) -> None:
    place = next(iter(whole.storage_data.values()))
    for key, value in changes.items():
        setattr(place, key, value)


def _entry(whole: Any) -> Any:
    return whole.state_dict_metadata["w"]


WRONG: dict[str, tuple[Callable[[Any], None], type[InitauditError], str]] = {
    "file outside": (lambda m: _place(m, relative_path="../x.distcp"), UnsafeFileError, "outside its folder"),
    "absolute file": (lambda m: _place(m, relative_path="/etc/passwd"), UnsafeFileError, "outside its folder"),
    "no such file": (lambda m: _place(m, relative_path="__9_0.distcp"), ReadError, "missing from the folder"),
    "short": (lambda m: _place(m, length=40), CorruptFileError, "chunk at byte 5"),
    "beyond the file": (lambda m: _place(m, offset=10**9), CorruptFileError, "the file ends"),
    "negative": (lambda m: _place(m, offset=-5), CorruptFileError, "without file, offset and length"),
    "elsewhere": (lambda m: _place(m, offset=6), CorruptFileError, "chunk at byte 6"),
    "nowhere": (lambda m: m.storage_data.clear(), CorruptFileError, "nowhere in its storage_data"),
    "other size": (lambda m: setattr(_entry(m), "size", torch.Size([7, 7])), CorruptFileError, "some are missing"),
    "smaller": (lambda m: setattr(_entry(m), "size", torch.Size([6, 6])), CorruptFileError, "has a chunk of"),
    "other rank": (lambda m: setattr(_entry(m), "size", torch.Size([42])), CorruptFileError, "axes"),
    "other dtype": (lambda m: setattr(_entry(m).properties, "dtype", torch.int32), CorruptFileError, "int32"),
    "no chunks": (lambda m: _entry(m).chunks.clear(), CorruptFileError, "some are missing"),
    "no storage": (lambda m: setattr(m, "storage_data", None), CorruptFileError, "does not say where"),
    "no tensors": (lambda m: m.state_dict_metadata.clear(), ReadError, "no tensors"),
}


@pytest.mark.parametrize("what", WRONG)
def test_metadata_that_lies(tmp_path: Path, what: str) -> None:
    edit, kind, reason = WRONG[what]
    value = torch.arange(42.0).reshape(7, 6)
    error = refusal(sharded(tmp_path / "ckpt", value, ROWS, edit=edit))
    assert isinstance(error, kind) and reason in error.reason


def test_transformed_chunks_are_told(tmp_path: Path) -> None:
    folder = sharded(
        tmp_path / "ckpt", torch.ones(7, 6), ROWS, edit=lambda m: _place(m, transform_descriptors=["zstd"])
    )
    assert "zstd" in refusal(folder).reason


def test_metadata_is_never_run(tmp_path: Path) -> None:
    folder = saved(net().state_dict(), tmp_path / "ckpt")
    mark = tmp_path / "ran"
    evil = f"cos\nsystem\n(S'touch {mark}'\ntR.".encode()
    (folder / ".metadata").write_bytes(b"\x80\x02" + b"ctorch.distributed.checkpoint.metadata\nMetadata\n0" + evil)
    refusal(folder)
    assert not mark.exists()


def test_metadata_cut_off_or_changed_anywhere(tmp_path: Path) -> None:
    folder = sharded(tmp_path / "ckpt", torch.ones(7, 6), ROWS)
    whole = (folder / ".metadata").read_bytes()
    for length in range(0, len(whole), 3):
        (folder / ".metadata").write_bytes(whole[:length])
        refusal(folder)
    for place in range(0, len(whole), 7):
        (folder / ".metadata").write_bytes(whole[:place] + bytes([whole[place] ^ 0x15]) + whole[place + 1 :])
        try:
            formats.read(folder)
        except InitauditError as error:
            assert "broke the reader" not in str(error), place


def test_parts_of_a_checkpoint(tmp_path: Path) -> None:
    folder = saved(net().state_dict(), tmp_path / "ckpt")
    (shard,) = folder.glob("*.distcp")
    error = refusal(shard)
    assert isinstance(error, UnsupportedError) and "pass its folder" in error.reason
    (folder / ".metadata").unlink()
    error = refusal(folder)
    assert isinstance(error, UnsupportedError) and "without its .metadata" in error.reason


# --- safetensors of several ranks


def ranks(folder: Path, parts: list[dict[str, tuple[Any, list[int]]]]) -> Path:
    import json

    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for rank, part in enumerate(parts, 1):
        told = {name: {"saved_offsets": offsets} for name, (_, offsets) in part.items()}
        save_file(
            {name: tensor.contiguous() for name, (tensor, _) in part.items()},
            folder / f"shard-{rank:05d}-model-00001-of-00001.safetensors",
            {"DCP_SHARDING_INFO": json.dumps(told), "DCP_VERSION": "1.0", "format": "pt"},
        )
    return folder


def test_safetensors_of_two_ranks(tmp_path: Path) -> None:
    value, bias = torch.randn(6, 4), torch.randn(6)
    parts = [
        {"w": (value[:4], [0, 0]), "b": (bias, [0])},
        {"w": (value[4:], [4, 0])},
    ]
    model: Model = formats.read(ranks(tmp_path / "ckpt", parts))
    assert differing(model, {"w": value, "b": bias}) == []
    assert model.detail == "distributed checkpoint in safetensors, state_dict"


def test_safetensors_of_ranks_that_do_not_fit(tmp_path: Path) -> None:
    value = torch.randn(6, 4)
    gap = ranks(tmp_path / "gap", [{"w": (value[:2], [0, 0])}, {"w": (value[4:], [4, 0])}])
    assert "some are missing" in refusal(gap).reason
    rank = ranks(tmp_path / "rank", [{"w": (value[:2], [0])}])
    assert "begins at [0]" in refusal(rank).reason


def test_what_torch_writes_for_huggingface(tmp_path: Path) -> None:
    storage = pytest.importorskip("torch.distributed.checkpoint.hf_storage")
    state = net().state_dict()
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder, split in ((whole, False), (parts, True)):
        writer = storage.HuggingFaceStorageWriter(str(folder), save_distributed=split)
        dcp.save(state, storage_writer=writer, no_dist=True)
        assert differing(formats.read(folder), state) == []
    shutil.rmtree(whole)
