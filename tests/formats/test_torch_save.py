from __future__ import annotations

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from initaudit.errors import CorruptFileError, ReadError, UnsafeFileError, UnsupportedError
from initaudit.formats.torch import LEGACY, PICKLE, ZIP, files
from initaudit.formats.torch import legacy as old_format
from initaudit.formats.torch.archive import Archive
from initaudit.formats.torch.storage import Blob
from tests.formats.torch_files import Call, differing, raw, read, rezip, save, saved, tensors

torch = pytest.importorskip("torch")
BOTH = pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])


def blob(value: Any, *, legacy: bool = False) -> bytes:
    out = io.BytesIO()
    torch.save(value, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


def varied() -> dict[str, Any]:
    torch.manual_seed(0)
    x = torch.randn(6, 8)
    c = torch.randn(3, 3, dtype=torch.complex64)
    return {
        "full": x, "again": x, "transposed": x.t(), "sliced": x[1:, ::2], "expanded": x[:1].expand(5, 8),
        "last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last), "scalar": torch.tensor(3.0),
        "empty": torch.empty(0, 4), "double": torch.randn(3, dtype=torch.float64), "half": torch.randn(3, 3).half(),
        "bf16": torch.randn(3, 3).bfloat16(), "complex": c, "conj": c.conj(),
        "neg": torch.randn(3, dtype=torch.cfloat).conj().imag,
        "flags": torch.tensor([True, False]), "index": torch.arange(3), "u16": torch.arange(4).to(torch.uint16),
        "f8": torch.randn(4, 6).to(torch.float8_e4m3fn), "f8part": torch.randn(4, 6).to(torch.float8_e5m2)[1:, 2:4],
        "coo": x.relu().to_sparse(), "hybrid": torch.randn(4, 5, 2).relu().to_sparse(2),
        "csr": x.relu().to_sparse_csr(), "csc": x.relu().to_sparse_csc(), "bsr": x.relu().to_sparse_bsr((2, 4)),
        "bsc": x.relu().to_sparse_bsc((2, 4)), "parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }  # fmt: skip


def quantised() -> dict[str, Any]:
    x = torch.randn(4, 5)
    scales, zeros = torch.rand(4) + 0.1, torch.arange(4)
    return {
        "q": torch.quantize_per_tensor(x, 0.1, 3, torch.quint8),
        "q32": torch.quantize_per_tensor(x, 0.001, 0, torch.qint32),
        "channel": torch.quantize_per_channel(x, scales, zeros, 0, torch.qint8),
    }


@BOTH
@pytest.mark.filterwarnings("ignore")
def test_every_layout_and_dtype_has_torch_s_values(tmp_path: Path, legacy: bool) -> None:
    expected = varied() | quantised()
    model = saved(expected, tmp_path, legacy=legacy)
    assert differing(model, expected) == []
    assert model.skipped == ()
    assert model.detail == ("legacy archive, state_dict" if legacy else "zip archive, state_dict")


@BOTH
@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.filterwarnings("ignore")
def test_any_pickle_protocol(tmp_path: Path, protocol: int, legacy: bool) -> None:
    path, value = tmp_path / "model.pt", varied()
    torch.save(value, path, pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    model = read(path)
    assert model.detail == ("legacy archive, state_dict" if legacy else "zip archive, state_dict")
    assert not differing(model, value)


@BOTH
def test_ties_views_and_strides_are_told(tmp_path: Path, legacy: bool) -> None:
    found = tensors(saved(varied(), tmp_path, legacy=legacy))
    assert found["full"].identity == found["again"].identity
    assert found["full"].storage == found["transposed"].storage == found["sliced"].storage
    assert found["full"].identity != found["transposed"].identity
    assert (found["sliced"].offset, found["sliced"].strides) == (8, (8, 2))
    assert found["full"].strides is None
    assert found["conj"].identity != found["complex"].identity


@BOTH
def test_loaded_arrays_are_read_only_views(tmp_path: Path, legacy: bool) -> None:
    found = tensors(saved(varied(), tmp_path, legacy=legacy))
    for name in ("full", "transposed", "sliced", "bf16", "f8"):
        array = found[name].load()
        assert not array.flags.writeable
        assert not array.flags.owndata
        found[name].release()
        assert np.array_equal(array, found[name].load())


@BOTH
def test_big_endian_files(tmp_path: Path, legacy: bool) -> None:
    values = {"f": torch.randn(3, 4), "d": torch.randn(2, dtype=torch.float64), "c": torch.randn(2, dtype=torch.cfloat),
              "b": torch.randn(4).bfloat16(), "i": torch.arange(3)}  # fmt: skip
    data, sizes = blob(values, legacy=legacy), (4, 8, 4, 2, 8)
    if legacy:
        out = bytearray(data)
        for width, value in zip(sizes, values.values(), strict=True):
            old = struct.pack("<q", value.numel()) + raw(value)
            at = data.index(old)
            out[at : at + 8] = struct.pack(">q", value.numel())
            out[at + 8 : at + len(old)] = np.frombuffer(raw(value), f"<u{width}").byteswap().tobytes()
        data = bytes(out)
    else:

        def swap(name: str, content: bytes) -> bytes:
            if name.endswith("/byteorder"):
                return b"big"
            if "/data/" in name:
                return np.frombuffer(content, f"<u{sizes[int(name.rpartition('/')[2])]}").byteswap().tobytes()
            return content

        data = rezip(data, swap)
    path = tmp_path / "big.pt"
    path.write_bytes(data)
    assert differing(read(path), values) == []


def test_compressed_archives_and_any_stem(tmp_path: Path) -> None:
    values = {"w": torch.randn(30, 40), "t": torch.randn(3, 3).t()}
    path = tmp_path / "x.zip"
    path.write_bytes(rezip(blob(values), method=zipfile.ZIP_DEFLATED))
    assert differing(read(path), values) == []
    with zipfile.ZipFile(io.BytesIO(blob(values))) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(f"deep/er/{name.partition('/')[2]}", old.read(name))
    assert differing(read(path), values) == []


def test_archives_of_more_than_4_gigabytes(tmp_path: Path) -> None:
    values = {"a": torch.randn(3, 4), "b": torch.randn(2, 2)}
    path = tmp_path / "large.pt"
    with zipfile.ZipFile(io.BytesIO(blob(values))) as old, path.open("wb") as file, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            if name.endswith("/data/1"):
                new.start_dir += 5 << 30  # a hole, where another storage would lie
            with new.open(name, "w", force_zip64=True) as member:
                member.write(old.read(name))
    assert path.stat().st_size > 5 << 30
    assert differing(read(path), values) == []


def test_views_of_old_files(tmp_path: Path) -> None:
    """Files of torch 0.1 to 0.3 name a part of a storage in the persistent id."""
    whole = np.arange(12, dtype="<f4")

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return value.args if isinstance(value, Call) and value.func == "storage" else None

    out = io.BytesIO()
    rebuild = torch._utils._rebuild_tensor
    root = Call("storage", "storage", torch.FloatStorage, "7", "cpu", 12, None)
    part = Call("storage", "storage", torch.FloatStorage, "7", "cpu", 12, ("8", 4, 6))
    value = {"all": Call(rebuild, root, 0, (3, 4), (4, 1)), "part": Call(rebuild, part, 1, (2, 2), (2, 1))}
    for item in (old_format.MAGIC, 1001, {"little_endian": True}, value, ["7"]):
        Pickler(out, 2).dump(item)
    path = tmp_path / "old.pth"
    path.write_bytes(out.getvalue() + struct.pack("<q", 12) + whole.tobytes())
    found = tensors(read(path))
    assert found["all"].load().tolist() == whole.reshape(3, 4).tolist()
    assert found["part"].load().tolist() == whole[5:9].reshape(2, 2).tolist()
    assert found["part"].storage == found["all"].storage


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_pickles_of_tensors_hold_whole_torch_files(tmp_path: Path, protocol: int) -> None:
    x = torch.randn(3, 4)
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"a": x, "b": x.t(), "p": torch.nn.Parameter(x)}, protocol))
    model = read(path)
    assert differing(model, {"a": x, "b": x.t(), "p": x}) == []
    assert model.format == "pickle"
    assert tensors(model)["a"].identity == tensors(model)["a"].identity != tensors(model)["b"].identity


@pytest.mark.parametrize("protocol", range(6))
def test_plain_pickles_of_numpy_arrays(tmp_path: Path, protocol: int) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "c": rng.normal(size=(30, 40)).astype("f4"), "f": np.asfortranarray(rng.normal(size=(3, 5))),
        "big": rng.normal(size=7).astype(">f4"), "turned": rng.normal(size=(4, 3, 2)).transpose(1, 2, 0),
        "ints": np.arange(5), "flags": np.array([True, False]), "small": np.zeros((2, 0), "f2"),
    }  # fmt: skip
    path = tmp_path / "x.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "names": np.array(["a"]), "lr": np.float64(0.1)}, protocol))
    found = tensors(read(path))
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert np.array_equal(found[name].load(), array), name
    assert found["ints"].buffer
    assert not found["c"].buffer


@pytest.mark.filterwarnings("ignore")
def test_values_that_are_not_in_the_file_are_told(tmp_path: Path) -> None:
    x = torch.randn(2, 2)
    utils = torch._utils
    wrapper = (torch.nn.Parameter, torch.float32, (4, 2), (2, 1), 0, torch.strided, "cpu", False)
    whole = (torch.nn.Parameter, torch.float32, (2, 2), (2, 1), 0, torch.strided, "cpu", False)
    from_type, cls = torch._tensor._rebuild_from_type_v2, torch.nn.Parameter
    model = saved(
        {
            "w": x, "meta": torch.empty(2, 2, device="meta"), "nested": Call(utils._rebuild_nested_tensor, x, x, x, x),
            "shard": Call(from_type, utils._rebuild_wrapper_subclass, cls, wrapper, {"_local_tensor": x}),
            "local": Call(from_type, utils._rebuild_wrapper_subclass, cls, whole, {"_local_tensor": x}),
            "slots": Call(from_type, utils._rebuild_wrapper_subclass, cls, whole, ({}, {"_local_tensor": x})),
            "other": Call(from_type, torch.relu, cls, (x,), {}),
            "parts": Call(from_type, utils._rebuild_wrapper_subclass, cls, whole, {"q": x, "scale": x}),
            "huge": x[:1, :1].expand(2**20, 2**20),
            "sparse": torch.sparse_coo_tensor(torch.zeros(2, 1, dtype=torch.long), torch.ones(1), (2**20, 2**20)),
        },
        tmp_path,
    )  # fmt: skip
    assert differing(model, {"w": x, "local": x, "slots": x}) == []
    assert {skip.name for skip in model.skipped} == {"meta", "nested", "shard", "other", "parts", "huge", "sparse"}
    assert all(skip.why and "\n" not in skip.why for skip in model.skipped)


@BOTH
def test_cut_short_at_every_byte(tmp_path: Path, legacy: bool) -> None:
    data = blob({"w": torch.randn(3, 4), "b": torch.randn(3)}, legacy=legacy)
    path = tmp_path / "cut.pt"
    reader = files.read_legacy if legacy else files.read_zip
    ends = range(1, len(data)) if legacy else [*range(1, 200), *range(200, len(data), 7)]  # all its ends miss alike
    for end in ends:
        path.write_bytes(data[:end])
        with pytest.raises(CorruptFileError) as caught:
            reader(path)
        assert "\n" not in caught.value.reason


@pytest.mark.parametrize("kind", ["zip", "deflated", "legacy", "pickle"])
def test_damage_is_refused_or_read_but_never_escapes(tmp_path: Path, kind: str) -> None:
    value = varied() | {"n": np.arange(3.0)}
    data = {
        "zip": lambda: blob(value), "deflated": lambda: rezip(blob(value), method=zipfile.ZIP_DEFLATED),
        "legacy": lambda: blob(value, legacy=True), "pickle": lambda: pickle.dumps(value),
    }[kind]()  # fmt: skip
    reader = {"legacy": files.read_legacy, "pickle": files.read_pickle}.get(kind, files.read_zip)
    rng = np.random.default_rng(1)
    path = tmp_path / "damaged.pt"
    outcomes = set()
    for _ in range(150):
        damaged = bytearray(data)
        for at in rng.integers(0, min(len(data), 5000), rng.integers(1, 4)):
            damaged[at] = rng.integers(256)
        path.write_bytes(damaged)
        try:
            for tensor in reader(path).tensors:
                tensor.load()
            outcomes.add("read")
        except (ReadError, UnsupportedError) as error:
            assert "\n" not in error.reason
            outcomes.add("refused")
    assert "refused" in outcomes


def test_contradictions_are_found(tmp_path: Path) -> None:
    data = blob({"w": torch.randn(2, 3)})
    pickled = {
        "numel": (b"K\x06t", b"K\x60t"),
        "shape": (b"K\x02K\x03\x86", b"K\x02K\x30\x86"),
        "key": (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"),
        "class": (b"FloatStorage", b"FlaotStorage"),
    }
    for name, (old, new) in pickled.items():
        path = tmp_path / f"{name}.pt"
        changed = rezip(data, lambda n, c, o=old, w=new: c.replace(o, w) if n.endswith("data.pkl") else c)  # type: ignore[misc]
        assert changed != rezip(data), name
        path.write_bytes(changed)
        with pytest.raises((CorruptFileError, UnsupportedError)):
            read(path)


def test_zip_bombs_are_refused(tmp_path: Path) -> None:
    data = blob({"w": torch.randn(2, 3)})
    path = tmp_path / "bomb.pt"
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            if name.endswith("/data/0"):
                with new.open(name, "w") as member:
                    for _ in range(20):
                        member.write(bytes(1 << 24))
            else:
                new.writestr(name, old.read(name))
    with pytest.raises(UnsafeFileError, match="would grow"):
        read(path)


def test_only_archives_of_torch_save_are_claimed(tmp_path: Path) -> None:
    def claims(data: bytes) -> list[str]:
        path = tmp_path / "x"
        path.write_bytes(data)
        return [f.name for f in (ZIP, LEGACY, PICKLE) if f.sniff(path, data[:4096])]

    def archive(*names: str) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            for name in names:
                file.writestr(name, b"")
        return out.getvalue()

    x = {"w": torch.zeros(2, 2)}
    assert claims(blob(x)) == ["torch"]
    assert claims(blob(x)[:-30]) == ["torch"]
    assert claims(blob(x, legacy=True)) == ["torch-legacy", "pickle"]
    assert claims(pickle.dumps(x)) == claims(pickle.dumps(x, 0)) == ["pickle"]
    assert claims(archive("m/data.pkl", "m/constants.pkl", "m/code/x.py")) == []
    assert claims(archive("m/models/model.json", "m/archive_format")) == []
    assert claims(archive("a.npy")) == []
    assert claims(blob(x) + blob(x)) == []  # several in a row: one could be read, the others would be lost
    for text in (
        b"class Foo:\n    pass\n", b"(c) 2020 somebody\n", b"{}", b"[1, 2]", b"cos\n", bytes(100), b"\x93NUMPY", b"]\n",
        b"import os\n", b"c" * 50, b"(" + b"a b\n" * 9, b"]]]]",
    ):  # fmt: skip
        assert claims(text) == [], text


def test_members_lie_where_the_archive_says(tmp_path: Path) -> None:
    data = bytearray(blob({"w": torch.randn(2, 3)}))
    archive = Archive(Blob(bytes(data)), io.BytesIO(bytes(data)))
    name = f"{archive.stem}data/0"
    assert bytes(Blob(bytes(data)).view(archive.locate(name), 24)) == archive.read(name, 100)
    data[archive.members[name].header_offset] = 0
    with pytest.raises(CorruptFileError, match="no member"):
        Archive(Blob(bytes(data)), io.BytesIO(bytes(data))).locate(name)


def test_bytes_behind_the_end_are_told(tmp_path: Path) -> None:
    path = save({"w": torch.zeros(2, 2)}, tmp_path / "x.pt", legacy=True)
    path.write_bytes(path.read_bytes() + b"more")
    assert [skip.why for skip in read(path).skipped] == ["4 bytes after the end of what torch.load would read"]
