import io
import os
import pickle
import socket
import struct
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from initaudit import formats
from initaudit.errors import CorruptFileError, InitauditError, ReadError, UnknownFormatError, UnsupportedError
from initaudit.formats.base import Format
from initaudit.types import Model


def zipped(*names: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in names:
            archive.writestr(name, b"content of " + name.encode())
    return made.getvalue()


def tarred(*names: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in names:
            archive.addfile(tarfile.TarInfo(name))
    return made.getvalue()


def npz() -> bytes:
    made = io.BytesIO()
    np.savez(made, a=np.ones(3), b=np.ones(2))
    return made.getvalue()


def npy() -> bytes:
    made = io.BytesIO()
    np.save(made, np.ones(3))
    return made.getvalue()


def refusal(path: Path | str) -> InitauditError:
    """Return what reading raises, having checked that it is one line with the path in it once."""
    with pytest.raises(InitauditError) as caught:
        formats.read(path)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert text.isprintable()
    assert text.count(str(path)) == 1 or not str(path).isprintable()
    return caught.value


# --- what is no file


def test_nothing_there(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "no.pt").reason
    assert "Not a directory" in refusal(_write(tmp_path / "a", b"x") / "b").reason


@pytest.mark.parametrize(("path", "says"), [("-", "standard input"), ("a\0b", "no such file")])
def test_no_path_at_all(path: str, says: str) -> None:
    with pytest.raises(ReadError, match=says):
        formats.read(path)


def test_the_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(ReadError, match="no such file"):
        formats.read("")


def test_special_files_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    begin = time.perf_counter()
    os.mkfifo(tmp_path / "pipe")
    assert "a named pipe" in refusal(tmp_path / "pipe").reason
    assert "a character device" in refusal("/dev/zero").reason
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("a.sock")
        assert "a socket" in refusal("a.sock").reason
    assert time.perf_counter() - begin < 1


def test_links_in_a_circle_and_names_too_long(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert type(refusal(tmp_path / "a")) is ReadError
    assert type(refusal(tmp_path / ("x" * 300))) is ReadError


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "m.pt", b"x")

    def locked(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", locked)  # root may open everything, so chmod would prove nothing
    assert refusal(path).reason == "Permission denied"


def test_a_path_cannot_break_the_line(tmp_path: Path) -> None:
    path = tmp_path / "a\nb\x1b[31m"
    path.write_text("hello")
    assert "\\n" in str(refusal(path))


# --- what is no model


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


UNKNOWN = {
    b"hello world\n": "a text file",
    "Grüße".encode() * 1000: "a text file",
    b"\n<!DOCTYPE html>\n<html>": "a web page, saved instead",
    b"<html><head>": "a web page, saved instead",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 43800\n": "git-lfs pointer to 43800 bytes",
    b"\x1f\x8b\x08\x00": "gunzip",
    b"\x28\xb5\x2f\xfd\x00": "unzstd",
    b'{"a": 1}': "a JSON file",
    b"Entry not found": "an error message of a download",
    b"\0": "only zero bytes; a download that never finished",
    b"\0" * 100_000: "only zero bytes, wherever looked",
    b"\0" * 5000 + b"x" * 5000: "it starts with zero bytes",
    b"\x7fELF\x02": "an ELF program",
    b"\x00\x9c\x17\xff\xfe": "it starts with 00 9c 17 ff fe",
    zipped("a.txt", "b.txt"): "no checkpoint of torch",
}


@pytest.mark.parametrize("content", UNKNOWN, ids=list(UNKNOWN.values()))
def test_what_nobody_knows_is_described(tmp_path: Path, content: bytes) -> None:
    error = refusal(_write(tmp_path / "model.bin", content))
    assert isinstance(error, UnknownFormatError)
    assert UNKNOWN[content] in error.reason
    assert "; " in error.reason, "what it is, and what to do or what is read instead"
    if "initaudit reads" in error.reason:
        assert "safetensors" in error.reason


def test_the_suffix_decides_nothing(tmp_path: Path) -> None:
    path = _write(tmp_path / "weights.jpeg", safetensors.numpy.save({"w": np.ones(2, "f4")}))
    assert formats.read(path).format == "safetensors"


def test_a_configuration_instead_of_its_weights(tmp_path: Path) -> None:
    error = refusal(_write(tmp_path / "config.json", b'{"model_type": "bert"}'))
    assert error.reason == "a JSON file with no weights in it; pass its folder, or the file of weights beside it"


def test_reading_imports_no_framework(tmp_path: Path) -> None:
    path = _write(tmp_path / "m.safetensors", safetensors.numpy.save({"w": np.ones(2, "f4")}))
    code = (
        "import sys; from initaudit import formats; formats.read(sys.argv[1]).tensors[0].load();"
        "print({'torch', 'onnx', 'onnxruntime', 'safetensors'} & set(sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(formats.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_empty_file(tmp_path: Path) -> None:
    assert refusal(_write(tmp_path / "m.onnx", b"")).reason == "the file is empty"


def test_ten_gigabytes_of_zeros(tmp_path: Path) -> None:
    path = tmp_path / "zeros.pt"
    with path.open("wb") as file:
        file.truncate(10 << 30)
    formats.formats()
    begin = time.perf_counter()
    assert "only zero bytes" in refusal(path).reason
    assert time.perf_counter() - begin < 0.5


# --- known, but not read

_GRAPH_DEF = b"\x0a\x1c\x0a\x01x\x12\x0bPlaceholder\x2a\x0a\x0a\x05dtype\x12\x010"
REFUSED: dict[str, bytes] = {
    "a TorchScript archive from before torch 1.3": zipped("m/model.json", "m/code/m.py", "m/tensors/0"),
    "a TorchScript archive without code": zipped("m/data.pkl", "m/bytecode.pkl"),
    "a torch.package archive": zipped("p/.data/extern_modules", "p/a/b.pkl"),
    "a compiled model (AOTInductor)": zipped("m/data/aotinductor/model/a.so", "m/version"),
    "a Keras model": zipped("metadata.json", "config.json", "model.weights.h5"),
    "a numpy archive": npz(),
    "a numpy array": npy(),
    "an HDF5 file": b"\x89HDF\r\n\x1a\n" + bytes(90),
    "a GGUF file": b"GGUF\x03\0\0\0",
    "a TensorFlow Lite model": b"\x1c\0\0\0TFL3",
    "a model in ONNX Runtime's own format": b"\x1c\0\0\0ORTM",
    "an ExecuTorch program": b"\x1c\0\0\0ET12",
    "a TensorRT engine": b"ptrt\0\0",
    "an OpenVINO model": b'<?xml version="1.0"?>\n<net name="m" version="11">',
    "a TensorFlow SavedModel": b"\x08\x01\x12\x85\x02\x0a\x80\x02\x12\x30",
    "a TensorFlow graph": _GRAPH_DEF,
    "a Core ML model": b"\x08\x05\x12\x40\x0a\x10\x0a\x05image",
    "a msgpack file": b"\x81\xa6params\x82\xa5dense",
    "a Caffe model": b"\x0a\x05lenet\xa2\x06\x10",
    "before version 0.1.10": tarred("sys_info", "pickle", "tensors", "storages"),
    "a tar archive": tarred("model_config.yaml", "model_weights.ckpt"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_known_but_not_read(tmp_path: Path, what: str) -> None:
    error = refusal(_write(tmp_path / "model.bin", REFUSED[what]))
    assert isinstance(error, UnsupportedError)
    assert what in error.reason
    assert " is not read yet; " in error.reason


def test_single_array_archive(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", w=np.ones(2))
    assert "numpy archive" in refusal(tmp_path / "a.npz").reason


@pytest.mark.parametrize(
    ("files", "what"),
    [
        (("saved_model.pb", "variables/variables.index"), "a TensorFlow SavedModel"),
        (("__1_0.distcp", "__0_0.distcp"), "a distributed checkpoint (DCP) without its .metadata"),
        (("Manifest.json", "Data/x"), "a Core ML package"),
        (("ckpt-1.index", "ckpt-1.data-00000-of-00001", "checkpoint"), "a TensorFlow checkpoint"),
        (("_CHECKPOINT_METADATA", "manifest.ocdbt"), "an Orbax checkpoint"),
    ],
)
def test_folders_known_but_not_read(tmp_path: Path, files: tuple[str, ...], what: str) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    error = refusal(tmp_path)
    assert isinstance(error, UnsupportedError)
    assert what in error.reason


def test_what_torch_itself_writes(tmp_path: Path) -> None:
    import torch
    import torch.package

    with torch.package.PackageExporter(tmp_path / "package.pt") as exporter:
        exporter.save_pickle("a", "b.pkl", {"x": 1})
    assert "torch.package" in refusal(tmp_path / "package.pt").reason


# --- the border


def _stub(read: Callable[[Path], Model]) -> tuple[Format, ...]:
    return (Format("stub", "stubs", lambda path, head: head.startswith(b"STUB"), read),)


@pytest.mark.parametrize(
    "thrown",
    [
        MemoryError(),
        RecursionError("maximum depth"),
        struct.error("unpack"),
        KeyError("x"),
        pickle.UnpicklingError("y\nz"),
    ],
    ids=lambda thrown: type(thrown).__name__,
)
def test_whatever_a_reader_throws_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, thrown: Exception
) -> None:
    def read(path: Path) -> Model:
        raise thrown

    monkeypatch.setattr(formats, "formats", lambda: _stub(read))
    error = refusal(_write(tmp_path / "m", b"STUB"))
    assert isinstance(error, CorruptFileError)
    assert type(thrown).__name__ in error.reason
    assert error.__cause__ is thrown


def test_the_user_may_still_interrupt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> Model:
        raise KeyboardInterrupt

    monkeypatch.setattr(formats, "formats", lambda: _stub(read))
    with pytest.raises(KeyboardInterrupt):
        formats.read(_write(tmp_path / "m", b"STUB"))


def test_reasons_are_printable_and_short_and_keep_their_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(path: Path) -> Model:
        raise UnsupportedError("op \x1b[31m\n" + "x" * 10_000_000 + "\ud800")

    monkeypatch.setattr(formats, "formats", lambda: _stub(read))
    error = refusal(_write(tmp_path / "m", b"STUB"))
    assert isinstance(error, UnsupportedError)
    assert len(error.reason) < 1000


def test_formats_are_asked_in_order() -> None:
    orders = [one.order for one in formats.formats()]
    assert orders == sorted(orders)
    assert {"safetensors", "sharded", "folder", "refused"} <= {one.name for one in formats.formats()}


@pytest.mark.parametrize("content", [b"PK\x05\x06" + b"\xff" * 18, b"PK\x03\x04" + b"PK\x05\x06" + b"\xff" * 18, b"PK"])
def test_zip_directories_that_lie(tmp_path: Path, content: bytes) -> None:
    refusal(_write(tmp_path / "m.pt", content))


def test_zip_cut_off_or_changed_anywhere(tmp_path: Path) -> None:
    whole = REFUSED["a TorchScript archive without code"]
    path = tmp_path / "m.pt"
    for length in range(1, len(whole)):
        refusal(_write(path, whole[:length]))
    directory = whole.index(b"PK\x01\x02")
    for place in range(directory, len(whole)):
        refusal(_write(path, whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]))
