"""Archives that lie about where their members are get no new values, and nothing outside a tensor is ever written."""

from __future__ import annotations

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from initaudit import formats
from initaudit.edits import Edit
from initaudit.errors import CorruptFileError, InitauditError, UnsupportedError
from tests.formats import exported_files
from tests.formats.torch_edits import changed_bytes, drawn, made, named
from tests.formats.torch_files import rezip, save

torch: Any = pytest.importorskip("torch")


def archive(folder: Path) -> tuple[Path, dict[str, int]]:
    """Return an archive of two tensors, and where the directory has the entry of each member."""
    torch.manual_seed(0)
    path = save({"a": torch.randn(40), "b": torch.randn(40)}, folder / "model.pt")
    data = path.read_bytes()
    with zipfile.ZipFile(path) as opened:
        at, infos = opened.start_dir, opened.infolist()
    places: dict[str, int] = {}
    for info in infos:
        places[info.filename] = at
        at += 46 + sum(struct.unpack_from("<HHH", data, at + 28))
    return path, places


def plan(path: Path, name: str = "a") -> bytes:
    tensor = named(path)[name]
    return made(formats.plan(path, [Edit(tensor, lambda: drawn(tensor))])[0])


def patched(path: Path, at: int, form: str, *values: int) -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, at, *values)
    path.write_bytes(bytes(data))


def test_two_members_in_one_place(tmp_path: Path) -> None:
    path, places = archive(tmp_path)
    place = struct.unpack_from("<I", path.read_bytes(), places["model/data/1"] + 42)[0]
    patched(path, places["model/data/0"] + 42, "<I", place)
    for name in "ab":
        with pytest.raises(CorruptFileError, match="overlaps"):
            plan(path, name)


@pytest.mark.parametrize("reach", ["next", "directory", "pickle"])
def test_a_member_that_reaches_into_something_else(tmp_path: Path, reach: str) -> None:
    path, places = archive(tmp_path)
    data = path.read_bytes()
    name = "model/data.pkl" if reach == "pickle" else "model/data/1"
    size = len(data) - 200 - data.index(b"PK\x03\x04", 1) if reach == "directory" else 700
    patched(path, places[name] + 20, "<II", size, size)
    with pytest.raises(InitauditError):
        plan(path, "a" if reach == "pickle" else "b")


def test_a_size_that_header_and_directory_tell_differently(tmp_path: Path) -> None:
    path, _ = archive(tmp_path)
    path.write_bytes(rezip(path.read_bytes()))
    with zipfile.ZipFile(path) as opened:
        at = opened.getinfo("model/data/0").header_offset
    patched(path, at + 18, "<II", 16, 16)
    with pytest.raises(CorruptFileError, match="another size"):
        plan(path)


def test_two_members_of_one_name(tmp_path: Path) -> None:
    path, _ = archive(tmp_path)
    with zipfile.ZipFile(path, "a") as opened, pytest.warns(UserWarning, match="Duplicate"):
        opened.writestr("model/data/0", b"\0" * 160)
    with pytest.raises(CorruptFileError, match="the same name"):
        plan(path)


@pytest.mark.parametrize("flags", [1, 0])
def test_encrypted_or_packed_in_an_odd_way(tmp_path: Path, flags: int) -> None:
    path, places = archive(tmp_path)
    tensor = named(path)["a"]
    patched(path, places["model/data/0"] + (8 if flags else 10), "<H", 1 if flags else 12)
    with pytest.raises(UnsupportedError, match="encrypted" if flags else "compressed by method 12"):
        formats.plan(path, [Edit(tensor, lambda: drawn(tensor))])


def test_two_archives_one_after_the_other(tmp_path: Path) -> None:
    """torch.load would read the last one; which of them is meant, nothing tells."""
    path, _ = archive(tmp_path)
    tensor = named(path)["a"]
    path.write_bytes(2 * path.read_bytes())
    with pytest.raises(InitauditError):
        formats.plan(path, [Edit(tensor, lambda: drawn(tensor))])


@pytest.mark.parametrize("target", ["model_weights_config.json", "../../models/model.json"])
def test_a_weight_that_is_the_table_of_weights(tmp_path: Path, target: str) -> None:
    parts = exported_files.members()
    table = json.loads(parts["m/data/weights/model_weights_config.json"])
    table["config"]["b.weight"]["path_name"] = target
    table["config"]["b.weight"]["tensor_meta"] = exported_files.meta((2, 2))
    parts["m/data/weights/model_weights_config.json"] = exported_files.dumped(table)
    path = exported_files.write(tmp_path, parts)
    with pytest.raises(CorruptFileError):
        plan(path, "b.weight")


def test_random_damage_never_moves_a_patch(tmp_path: Path) -> None:
    """Whatever bytes of the bookkeeping are flipped: refused, or the same bytes are written as ever."""
    path, places = archive(tmp_path)
    whole = path.read_bytes()
    tensor = named(path)["a"]
    allowed = changed_bytes(whole, plan(path))
    content = tensor.load().tobytes()
    start = whole.index(content)
    directory = min(places.values())
    rng = np.random.default_rng(0)
    refused = 0
    values = drawn(tensor)
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 3)):
            at = int(rng.integers(directory, len(data)) if rng.random() < 0.7 else rng.integers(start - 200, start))
            data[at] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(data))
        try:
            (one,) = formats.plan(path, [Edit(tensor, lambda: values)])
            new = made(one)
        except InitauditError:
            refused += 1
            continue
        places_changed = changed_bytes(bytes(data), new)
        inside = set(range(start, start + len(content)))
        assert len(places_changed - inside) <= 12
        assert (places_changed - inside) <= allowed | set(range(start - 200, start)) | set(range(directory, len(data)))
    assert refused > 50
