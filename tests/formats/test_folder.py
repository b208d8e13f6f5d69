import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from initaudit import formats
from initaudit.errors import (
    CorruptFileError,
    InitauditError,
    ReadError,
    UnknownFormatError,
    UnsafeFileError,
    UnsupportedError,
)

BERT = {"model_type": "bert", "hidden_act": "gelu"}
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 438000173\n"


def save(path: Path, *names: str) -> Path:
    """Write a safetensors file whose tensors are filled with their place in the list."""
    path.parent.mkdir(exist_ok=True)
    arrays = {name: np.full((2, 3), place, "f4") for place, name in enumerate(names or ("w",))}
    safetensors.numpy.save_file(arrays, path, metadata={"format": "pt"})
    return path


def save_json(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def save_sharded(
    folder: Path, shards: Mapping[str, tuple[str, ...]], index: str = "model.safetensors.index.json"
) -> Path:
    for shard, names in shards.items():
        save(folder / shard, *names)
    places = {name: shard for shard, names in shards.items() for name in names}
    return save_json(folder / index, {"metadata": {"total_size": 1}, "weight_map": places})


TWO = {"model-00001-of-00002.safetensors": ("a", "b"), "model-00002-of-00002.safetensors": ("c", "d")}


def save_torch(path: Path, *names: str) -> Path:
    """Write a torch file whose tensors all share one storage."""
    import torch

    one = torch.ones(2, 3)
    torch.save(dict.fromkeys(names, one), path)
    return path


# --- folders


@pytest.mark.parametrize(
    "name", ["model", "diffusion_pytorch_model", "adapter_model", "model.fp16", "diffusion_pytorch_model.fp16", "any"]
)
def test_one_file_in_a_folder(tmp_path: Path, name: str) -> None:
    save(tmp_path / f"{name}.safetensors", "w", "b")
    save_json(tmp_path / "config.json", BERT)
    model = formats.read(tmp_path)
    assert (model.path, model.format) == (str(tmp_path), "safetensors")
    assert model.detail == f"{name}.safetensors, written for pt"
    assert {t.name for t in model.tensors} == {"w", "b"}
    assert model.config == BERT
    assert model.skipped == ()


def test_a_trainers_checkpoint(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors")
    for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "random_states_0.pkl"):
        save(tmp_path / name)  # readable, and yet no model
    for name in ("README.md", "vocab.txt", "trainer_state.json", "generation_config.json"):
        (tmp_path / name).write_text("{}")
    model = formats.read(tmp_path)
    assert model.detail == "model.safetensors, written for pt"
    assert [t.name for t in model.tensors] == ["w"]


def test_a_file_without_a_suffix_is_found_by_content(tmp_path: Path) -> None:
    save(tmp_path / "weights-of-mine")
    (tmp_path / "notes").write_text("hello")
    assert formats.read(tmp_path).detail.startswith("weights-of-mine")


def test_the_same_model_in_several_formats_is_read_once(tmp_path: Path) -> None:
    save_torch(tmp_path / "pytorch_model.bin", "w")
    assert formats.read(tmp_path).format == "torch"
    assert formats.read(tmp_path).detail.startswith("pytorch_model.bin, ")
    save(tmp_path / "model.safetensors")
    (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    (tmp_path / "flax_model.msgpack").write_bytes(b"\x81\xa6params")
    model = formats.read(tmp_path)
    assert model.detail == "model.safetensors, written for pt, not read: pytorch_model.bin"
    assert {skip.name for skip in model.skipped} == {"tf_model.h5", "flax_model.msgpack"}
    assert "HDF5" in " ".join(skip.why for skip in model.skipped)


def test_a_variant_beside_the_model(tmp_path: Path) -> None:
    save(tmp_path / "model.fp16.safetensors")
    save(tmp_path / "model.safetensors")
    assert formats.read(tmp_path).detail == "model.safetensors, written for pt, not read: model.fp16.safetensors"


def test_a_whole_file_beside_shards_of_it(tmp_path: Path) -> None:
    save_sharded(tmp_path, TWO)
    save(tmp_path / "model.safetensors")
    assert formats.read(tmp_path).detail.endswith("not read: model.safetensors.index.json")


def test_several_models(tmp_path: Path) -> None:
    save(tmp_path / "last.ckpt")
    save(tmp_path / "epoch=3.ckpt")
    with pytest.raises(ReadError, match=r"2 model files, pass one of them: epoch=3.ckpt, last.ckpt"):
        formats.read(tmp_path)


def test_two_files_of_one_name(tmp_path: Path) -> None:
    save(tmp_path / "net.safetensors")
    save(tmp_path / "net.pt")
    with pytest.raises(ReadError, match=r"2 files of one model, pass one of them: net.pt, net.safetensors"):
        formats.read(tmp_path)


def test_shards_without_their_index(tmp_path: Path) -> None:
    save_sharded(tmp_path, TWO).unlink()
    with pytest.raises(ReadError, match=r"2 shards of a model, but not the index.json"):
        formats.read(tmp_path)


def test_nothing_in_it(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match="no model file in this folder") as caught:
        formats.read(tmp_path)
    assert str(caught.value) == f"{tmp_path}: no model file in this folder"
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model").mkdir()
    with pytest.raises(UnknownFormatError, match="no model file in this folder"):
        formats.read(tmp_path)


def test_models_further_down_are_named(tmp_path: Path) -> None:
    (tmp_path / "snapshots" / "4d7a").mkdir(parents=True)
    save(tmp_path / "snapshots" / "4d7a" / "model.safetensors")
    with pytest.raises(UnknownFormatError, match=r"below it there are some: snapshots/4d7a$"):
        formats.read(tmp_path)


def test_only_what_is_not_read_yet(tmp_path: Path) -> None:
    (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(UnsupportedError, match="HDF5") as caught:
        formats.read(tmp_path)
    assert caught.value.path.endswith("tf_model.h5")


def test_a_clone_without_lfs(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(POINTER)
    with pytest.raises(UnknownFormatError, match="git lfs pull") as caught:
        formats.read(tmp_path)
    assert caught.value.path == str(tmp_path / "model.safetensors")


def test_links_as_in_the_hub_cache(tmp_path: Path) -> None:
    blob = save(tmp_path / "blobs" / "4d7a")
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(blob)
    assert len(formats.read(folder).tensors) == 1


def test_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    with pytest.raises(UnknownFormatError, match="no model file"):
        formats.read(tmp_path)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "model.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptFileError, match="cut off") as caught:
        formats.read(tmp_path)
    assert caught.value.path == str(path)


# --- configuration


def test_a_files_neighbour(tmp_path: Path) -> None:
    path = save(tmp_path / "model.safetensors")
    assert formats.read(path).config == {}
    save_json(tmp_path / "config.json", {"colour": "blue"})
    assert formats.read(path).config == {}, "any program may have a config.json"
    assert formats.read(tmp_path).config == {"colour": "blue"}
    save_json(tmp_path / "config.json", BERT)
    assert formats.read(path).config == BERT
    save_json(tmp_path / "config.json", {"_class_name": "UNet2DModel", "act_fn": "silu"})
    assert formats.read(path).config["act_fn"] == "silu"


@pytest.mark.parametrize("name", ["adapter_model.safetensors", ""])
def test_an_adapter(tmp_path: Path, name: str) -> None:
    save(tmp_path / "adapter_model.safetensors", "lora_A", "lora_B")
    save_json(tmp_path / "adapter_config.json", {"peft_type": "LORA", "r": 4})
    assert formats.read(tmp_path / name).config == {"adapter": {"peft_type": "LORA", "r": 4}}


def test_a_model_beside_an_adapters_configuration(tmp_path: Path) -> None:
    save(tmp_path / "model.safetensors")
    save_json(tmp_path / "adapter_config.json", {"peft_type": "LORA"})
    assert formats.read(tmp_path).config == {}


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b""])
def test_a_damaged_configuration_is_skipped_with_a_reason(tmp_path: Path, content: bytes) -> None:
    path = save(tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(content)
    for model in (formats.read(tmp_path), formats.read(path)):
        assert model.config == {}
        assert [skip.name for skip in model.skipped] == ["config.json"]


# --- diffusers


def test_a_pipeline_names_its_parts(tmp_path: Path) -> None:
    save_json(
        tmp_path / "model_index.json", {"_class_name": "P", "unet": ["d", "U"], "vae": ["d", "V"], "sched": ["d", "S"]}
    )
    (tmp_path / "sched").mkdir()
    save(tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    save(tmp_path / "vae" / "diffusion_pytorch_model.safetensors")
    with pytest.raises(UnsupportedError, match=r"pass one of its folders: unet, vae$"):
        formats.read(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(UnsupportedError, match=r"pass one of its folders: unet, vae$"):
        formats.read(tmp_path)


def test_a_pipeline_without_weights(tmp_path: Path) -> None:
    save_json(tmp_path / "model_index.json", {"unet": ["d", "U"]})
    with pytest.raises(ReadError, match="none of its folders holds weights"):
        formats.read(tmp_path)


# --- shards


@pytest.mark.parametrize(
    "index", ["model.safetensors.index.json", "diffusion_pytorch_model.safetensors.index.fp16.json"]
)
def test_shards_by_folder_and_by_index(tmp_path: Path, index: str) -> None:
    path = save_sharded(tmp_path, TWO, index)
    save_json(tmp_path / "config.json", BERT)
    for model in (formats.read(tmp_path), formats.read(path)):
        assert [t.name for t in model.tensors] == ["a", "b", "c", "d"]
        assert [t.load()[0, 0] for t in model.tensors] == [0, 1, 0, 1]
        assert len({t.identity for t in model.tensors}) == 4
        assert model.tensors[2].storage.startswith("model-00002-of-00002.safetensors:@")
        assert model.format == "safetensors"
        assert "2 shards, written for pt" in model.detail
        assert model.config == BERT


def test_tensors_stand_in_the_order_of_the_index(tmp_path: Path) -> None:
    save_sharded(tmp_path, TWO)
    places = {"d": "model-00002-of-00002.safetensors", "a": "./model-00001-of-00002.safetensors"}
    model = formats.read(save_json(tmp_path / "model.safetensors.index.json", {"weight_map": places}))
    assert [t.name for t in model.tensors] == ["d", "a"]
    assert {skip.name: skip.why for skip in model.skipped} == {
        "b": "in shard model-00001-of-00002.safetensors, but not in the index",
        "c": "in shard model-00002-of-00002.safetensors, but not in the index",
    }


def test_torch_shards_and_their_ties(tmp_path: Path) -> None:
    save_torch(tmp_path / "pytorch_model-00001-of-00002.bin", "a", "b")
    save_torch(tmp_path / "pytorch_model-00002-of-00002.bin", "c")
    places = {"a": 1, "b": 1, "c": 2}
    shards = {name: f"pytorch_model-0000{n}-of-00002.bin" for name, n in places.items()}
    save_json(tmp_path / "pytorch_model.bin.index.json", {"weight_map": shards})
    model = formats.read(tmp_path)
    assert model.format == "torch"
    assert model.detail.startswith("pytorch_model.bin.index.json, 2 shards, ")
    a, b, c = model.tensors
    assert a.identity == b.identity, "one storage in one shard"
    assert a.identity != c.identity, "storage 0 of another shard is another storage"


def test_one_shard_by_itself_says_so(tmp_path: Path) -> None:
    save_sharded(tmp_path, TWO)
    model = formats.read(tmp_path / "model-00002-of-00002.safetensors")
    assert [t.name for t in model.tensors] == ["c", "d"]
    assert "shard 2 of 2" in model.skipped[0].why


def test_missing_shards(tmp_path: Path) -> None:
    path = save_sharded(tmp_path, TWO)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ReadError, match=r"1 of its 2 shards missing from the folder: model-00002-of-00002.safetensors"):
        formats.read(path)


def test_a_tensor_missing_from_its_shard(tmp_path: Path) -> None:
    path = save_sharded(tmp_path, TWO)
    save(tmp_path / "model-00002-of-00002.safetensors", "c")
    with pytest.raises(CorruptFileError, match=r"promises tensor 'd' in model-00002-of-00002.safetensors"):
        formats.read(path)


@pytest.mark.parametrize(
    "shard",
    [
        "../model.safetensors",
        "/etc/passwd",
        "a/../../m",
        "..",
        "C:\\m.bin",
        "\\\\host\\share\\m",
        "..\\m.bin",
        "a\\..\\..\\m",
    ],
)
def test_a_shard_outside_the_folder(tmp_path: Path, shard: str) -> None:
    save(tmp_path / "model.safetensors")
    (tmp_path / "in").mkdir()
    path = save_json(tmp_path / "in" / "model.safetensors.index.json", {"weight_map": {"w": shard}})
    with pytest.raises((UnsafeFileError, CorruptFileError), match=r"outside its folder|no file name"):
        formats.read(path)


@pytest.mark.parametrize("shard", ["", ".", "a\0b", "a\nb"])
def test_a_shard_that_is_no_name(tmp_path: Path, shard: str) -> None:
    path = save_json(tmp_path / "model.safetensors.index.json", {"weight_map": {"w": shard}})
    with pytest.raises(CorruptFileError, match="no file name"):
        formats.read(path)


def test_an_index_that_leads_in_a_circle(tmp_path: Path) -> None:
    name = "model.safetensors.index.json"
    with pytest.raises(CorruptFileError, match="holds no tensors itself"):
        formats.read(save_json(tmp_path / name, {"weight_map": {"w": name}}))
    (tmp_path / "sub").mkdir()
    with pytest.raises(CorruptFileError, match="holds no tensors itself"):
        formats.read(save_json(tmp_path / name, {"weight_map": {"w": "sub"}}))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"weight_map": {}}, "lists no tensors"),
        ({"weight_map": ["a"]}, "not a map of tensor names"),
        ({"weight_map": {"a": 1}}, "not a map of tensor names"),
        ({"metadata": {}}, "not a map of tensor names"),
    ],
)
def test_an_index_that_is_none(tmp_path: Path, content: object, says: str) -> None:
    with pytest.raises(ReadError, match=says):
        formats.read(save_json(tmp_path / "model.safetensors.index.json", content))


def test_a_name_given_twice(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors.index.json"
    path.write_text('{"weight_map": {"a": "x", "a": "y"}}')
    with pytest.raises(CorruptFileError, match="'a' stands twice"):
        formats.read(path)


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    save_sharded(tmp_path, TWO)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    shard.write_bytes(POINTER)
    with pytest.raises(InitauditError, match="git lfs pull") as caught:
        formats.read(tmp_path)
    assert caught.value.path == str(shard)
    assert str(caught.value).count(str(tmp_path)) == 1


def test_an_index_cut_off_anywhere(tmp_path: Path) -> None:
    path = save_sharded(tmp_path, TWO)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        for place in (path, tmp_path):
            with pytest.raises(ReadError) as caught:
                formats.read(place)
            assert len(str(caught.value).splitlines()) == 1
