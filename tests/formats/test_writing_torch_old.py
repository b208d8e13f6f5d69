"""New values in files of torch.save before 1.6, and in plain pickles."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from initaudit import formats
from initaudit.edits import Edit
from initaudit.errors import UnsupportedError
from tests.formats.torch_edits import (
    changed_bytes,
    checksums,
    drawn,
    edited,
    framed,
    lying,
    made,
    named,
    redrawn,
    sound,
)
from tests.formats.torch_files import Call, rezip, save

torch: Any = pytest.importorskip("torch")


def values() -> dict[str, Any]:
    torch.manual_seed(0)
    x = torch.randn(6, 8)
    return {
        "full": x, "part": x[1:4, ::2], "t": torch.randn(5, 4).t(), "half": torch.randn(3, 7).half(),
        "bf": torch.randn(12).bfloat16(), "c": torch.randn(4, 2, dtype=torch.cfloat),
        "step": torch.tensor(3),
    }  # fmt: skip


@pytest.mark.parametrize("whole", [False, True])
def test_legacy_file(tmp_path: Path, whole: bool) -> None:
    old = values()
    value = {"model": old, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}} if whole else old
    path = save(value, tmp_path / "model.pt", legacy=True)
    target, new = redrawn(path, ["part", "t", "half", "bf", "c"])
    found = torch.load(target, weights_only=True)
    found = found["model"] if whole else found
    for name, new_values in new.items():
        assert torch.equal(found[name], torch.tensor(new_values).to(old[name].dtype))
    want = old["full"].clone()
    want[1:4, ::2] = torch.tensor(new["part"])
    assert torch.equal(found["full"], want) and found["step"] == 3
    data = path.read_bytes()
    tensors = named(path)
    touched = set().union(*(lying(data, tensors[name]) for name in ("full", "half", "bf", "c")))
    flat = data.index(old["t"].t().contiguous().numpy().tobytes())
    assert changed_bytes(path, target) <= touched | set(range(flat, flat + 80))


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
def test_legacy_file_of_any_pickle_protocol(tmp_path: Path, protocol: int) -> None:
    old = {**values(), "row": torch.randn(1, 300).expand(3, 300)}  # the last has no room for other values
    path = tmp_path / "model.pt"
    torch.save(old, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
    target, new = redrawn(path, ["t", "row"])
    with target.open("rb") as file:  # strict about frames, as torch is not
        for _ in range(5):
            reader = pickle._Unpickler(file)  # type: ignore[attr-defined]
            reader.persistent_load = lambda pid: pid[1](pid[4])
            reader.load()
    found = torch.load(target, weights_only=False)
    assert set(found) == set(old)
    for name, value in found.items():
        assert torch.equal(value, torch.tensor(new[name]).to(value.dtype) if name in new else old[name])


def test_legacy_module(tmp_path: Path) -> None:
    path = save(torch.nn.LSTM(4, 3), tmp_path / "model.pt", legacy=True)
    target, new = redrawn(path, ["weight_hh_l0"])
    found = torch.load(target, weights_only=False)
    assert torch.equal(found.weight_hh_l0, torch.tensor(new["weight_hh_l0"]).float())
    touched = lying(path.read_bytes(), named(path)["weight_hh_l0"])
    assert changed_bytes(path, target) <= touched


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickled_tensors_hold_files_of_their_own(tmp_path: Path, protocol: int) -> None:
    old = {"big": torch.randn(40, 50), "small": torch.randn(3, 4), "bf": torch.randn(9).bfloat16()}
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps(old, protocol))
    target, new = redrawn(path, list(old), "edited.pkl")
    for name, value in pickle.loads(target.read_bytes()).items():
        assert torch.equal(value, torch.tensor(new[name]).to(value.dtype))
    data = path.read_bytes()
    if protocol > 2:  # before, bytes are written as text
        touched = set().union(*(lying(data, tensor) for tensor in named(path).values()))
        assert changed_bytes(path, target) <= touched


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("inside", [False, True], ids=["pickle", "zip"])
def test_arrays(tmp_path: Path, protocol: int, inside: bool) -> None:
    """Up to protocol 2 their bytes are written as text, so that new ones take more or less room."""
    rng = np.random.default_rng(0)
    old = {
        "w": rng.standard_normal((40, 50)).astype("f4"), "b": rng.standard_normal(5), "again": rng.standard_normal(7),
        "f": np.asfortranarray(rng.standard_normal((4, 3)).astype("f2")), "count": np.arange(4),
        "swapped": rng.standard_normal(6).astype(">f4"),
    }  # fmt: skip
    path = tmp_path / "model.pkl"
    if inside:
        if protocol > 2:
            pytest.skip("torch.save takes protocol 2")
        torch.save({"tensor": torch.randn(9), "other": torch.randn(5, 5), **old}, path, pickle_protocol=2)
    else:
        path.write_bytes(pickle.dumps(old, protocol))
    names = ["w", "b", "f", "swapped"] + (["tensor"] if inside else [])
    target, new = redrawn(path, names, "edited.pkl")
    found = torch.load(target, weights_only=False) if inside else pickle.loads(target.read_bytes())
    for name, value in old.items():
        wanted = new[name].astype(value.dtype) if name in new else value
        assert np.array_equal(found[name], wanted) and found[name].dtype.kind == value.dtype.kind, name
        assert found[name].flags.f_contiguous == value.flags.f_contiguous
    if inside:
        assert torch.equal(found["tensor"], torch.tensor(new["tensor"]).float())
        assert torch.equal(found["other"], torch.load(path, weights_only=False)["other"])
        assert sound(target)
    elif protocol > 2:
        data = path.read_bytes()
        touched = {
            byte
            for at in (old[n].tobytes("A") for n in new)
            for byte in range(data.index(at), data.index(at) + len(at))
        }
        assert changed_bytes(path, target) <= touched


@pytest.mark.parametrize("seed", range(5))
def test_alignment_survives_a_longer_pickle(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "model.pt"
    torch.save({"w": np.zeros(30 + seed), "t": torch.randn(9), "u": torch.randn(3, 3)}, path)
    bits = np.random.default_rng(seed).standard_normal(30 + seed)
    target = edited(path, {"w": bits})
    assert sound(target) and target.stat().st_size != path.stat().st_size
    data = target.read_bytes()
    for name in ("t", "u"):
        content = torch.load(path, weights_only=False)[name].numpy().tobytes()
        assert data.index(content) % 64 == 0
    found = torch.load(target, weights_only=False, mmap=True)
    assert np.array_equal(found["w"], bits)


def test_array_used_twice_is_written_once(tmp_path: Path) -> None:
    one = np.random.default_rng(0).standard_normal((3, 4))
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"a": one, "b": one}, 4))
    target, new = redrawn(path, ["a", "b"][:1], "edited.pkl")
    found = pickle.loads(target.read_bytes())
    assert found["a"] is found["b"] and np.array_equal(found["a"], new["a"])


def test_array_of_a_single_byte(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"a": np.ones(1, ml_dtypes.float8_e4m3fn), "b": np.ones((2, 2))}, 4))
    tensor = named(path)["a"]
    with pytest.raises(UnsupportedError, match="single byte"):
        formats.plan(path, [Edit(tensor, lambda: drawn(tensor))])


@pytest.mark.parametrize("protocol", [2, 4])
def test_archives_inside_a_pickle(tmp_path: Path, protocol: int) -> None:
    """Bytes that torch would load, each a zip archive with checksums of its own."""
    old = {"a": torch.randn(30, 40), "b": torch.randn(3, 4)}

    def tensor(value: Any) -> Any:
        out = io.BytesIO()
        torch.save(value.untyped_storage(), out)
        storage = Call(torch.storage._load_from_bytes, out.getvalue())
        shown: tuple[Any, ...] = (0, tuple(value.shape), value.stride(), False, OrderedDict(), torch.float32)
        return Call(torch._utils._rebuild_tensor_v3, storage, *shown)

    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({name: tensor(value) for name, value in old.items()}, protocol))
    target, new = redrawn(path, ["a", "b"], "edited.pkl")
    data, after = path.read_bytes(), target.read_bytes()
    if protocol == 4:
        touched = set().union(*(lying(data, tensor) for tensor in named(path).values()))
        starts = [data.index(b"PK\x03\x04"), data.index(b"PK\x03\x04", data.index(b"PK\x05\x06"))]
        ends = [data.index(b"PK\x05\x06", start) + 22 for start in starts]
        inner = [checksums(data[s:e], touched, s) for s, e in zip(starts, ends, strict=True)]
        assert changed_bytes(data, after) <= touched | inner[0] | inner[1] and all(len(one) == 8 for one in inner)
        for start, end in zip(starts, ends, strict=True):
            (tmp_path / "inner.pt").write_bytes(after[start:end])
            assert sound(tmp_path / "inner.pt")
    for name, value in new.items():
        assert np.array_equal(named(target)[name].load(), value.astype("f4"))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("size", [40, 200, 40000])
def test_packed_archive_inside_a_pickle(tmp_path: Path, protocol: int, size: int) -> None:
    """Its storage is stored anew, so it becomes longer, and so does the string that it is."""
    out = io.BytesIO()
    torch.save(torch.zeros(size).untyped_storage(), out)
    storage = Call(torch.storage._load_from_bytes, rezip(out.getvalue(), method=zipfile.ZIP_DEFLATED))
    tensor = Call(torch._utils._rebuild_tensor_v3, storage, 0, (size,), (1,), False, {}, torch.float32)
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"a": tensor, "b": np.ones(3), "c": "end"}, protocol))
    target, new = redrawn(path, ["a"], "edited.pkl")
    assert target.stat().st_size > path.stat().st_size
    assert framed(target.read_bytes()) == (protocol > 3)
    found = pickle.loads(target.read_bytes())
    assert torch.equal(found["a"], torch.tensor(new["a"]).float())
    assert np.array_equal(found["b"], np.ones(3)) and found["c"] == "end"


def test_views_that_disagree_are_refused(tmp_path: Path) -> None:
    x = torch.randn(4, 6)
    path = save({"a": x, "b": x[1]}, tmp_path / "model.pt", legacy=True)
    tensors = named(path)
    edits = [Edit(tensors["a"], lambda: np.zeros((4, 6))), Edit(tensors["b"], lambda: np.ones(6))]
    with pytest.raises(UnsupportedError, match="differ"):
        made(formats.plan(path, edits)[0])
