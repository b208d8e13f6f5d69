"""Kinds of model files that are recognised but not read yet, each with what to do instead.

A row is the kind, how its content is told, and the way out. Rows of `_SURE` rest on a magic number or on the members
of an archive or folder and are asked before every reader; rows of `_LIKELY` rest on the first fields of a format
without a magic number and are asked after them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from initaudit.errors import UnsupportedError
from initaudit.formats.base import Format
from initaudit.formats.zip_names import zip_names
from initaudit.types import Model

_STATE = "save the model's state_dict with torch.save or as safetensors"
_EXPORT = "export it to ONNX, or convert the weights to safetensors"


@dataclass(frozen=True, slots=True)
class Content:
    """What can be told of a file or folder without reading it."""

    head: bytes  # first 4096 bytes; empty for a folder
    names: frozenset[str]  # members of a zip archive below its top folder, of a tar's start, or of a folder
    suffix: str

    def has(self, *wanted: str) -> bool:
        """Whether all of these members are there; one that ends in / stands for anything below it."""
        return all(any(n == w or (w.endswith("/") and n.startswith(w)) for n in self.names) for w in wanted)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of model file that is not read."""

    what: str
    told: Callable[[Content], bool]
    instead: str


def _starts(*magics: bytes) -> Callable[[Content], bool]:
    return lambda content: content.head.startswith(magics)


def _at_four(*magics: bytes) -> Callable[[Content], bool]:
    return lambda content: content.head[4:8] in magics


def _matches(pattern: bytes) -> Callable[[Content], bool]:
    compiled = re.compile(pattern, re.DOTALL)
    return lambda content: compiled.match(content.head) is not None


def _zip(*wanted: str) -> Callable[[Content], bool]:
    return lambda content: content.head[:2] == b"PK" and content.has(*wanted)


def _compiled(content: Content) -> bool:
    return _zip("data/aotinductor/")(content) and not content.has("models/")  # beside a program, that one is read


def _folder(*wanted: str) -> Callable[[Content], bool]:
    return lambda content: not content.head and content.has(*wanted)


def _tar(content: Content) -> bool:
    return content.head[257:262] == b"ustar"


def _endings(*suffixes: str) -> Callable[[Content], bool]:
    return lambda content: not content.head and all(any(n.endswith(s) for n in content.names) for s in suffixes)


def _bytecode(content: Content) -> bool:
    return content.head[:2] == b"PK" and content.has("bytecode.pkl") and not content.has("code/")


def _npz(content: Content) -> bool:
    return content.head[:2] == b"PK" and bool(content.names) and all(n.endswith(".npy") for n in content.names)


_VARINT = rb"[\x80-\xff]{0,9}[\x00-\x7f]"
_WORD = rb"[A-Za-z0-9_.\-/:]"

_SURE = (
    Kind(
        "a TorchScript archive from before torch 1.3", _zip("model.json", "code/"),
        f"{_STATE}: torch.jit.load(PATH).state_dict()",
    ),
    Kind("a TorchScript archive without code", _bytecode, f"{_STATE} of the model it was made from"),
    Kind("a compiled model (AOTInductor)", _compiled, f"{_STATE} of the model it was made from"),
    Kind("a torch.package archive", _zip(".data/extern_modules"), _STATE),
    Kind("a Keras model (.keras)", _zip("config.json", "model.weights.h5"), _EXPORT),
    Kind("a TorchServe archive (.mar)", _zip("MAR-INF/MANIFEST.json"), "unpack it and pass the weights inside"),
    Kind("a numpy archive (.npz)", _npz, "save the arrays with safetensors.numpy.save_file"),
    Kind("a numpy array (.npy)", _starts(b"\x93NUMPY"), "save it with safetensors.numpy.save_file"),
    Kind("an HDF5 file, as Keras writes (.h5)", _starts(b"\x89HDF\r\n\x1a\n"), _EXPORT),
    Kind("a GGUF file", _starts(b"GGUF"), "pass the checkpoint that it was converted from"),
    Kind("a GGML file", _starts(b"lmgg", b"tjgg", b"fmgg", b"algg"), "pass the checkpoint that it was converted from"),
    Kind("a TensorFlow Lite model", _at_four(b"TFL3"), "export the model it was converted from to ONNX"),
    Kind("a model in ONNX Runtime's own format (.ort)", _at_four(b"ORTM"), "pass the .onnx file it was made from"),
    Kind("an ExecuTorch program (.pte)", _at_four(b"ET12", b"ET13"), f"{_STATE} of the model it was made from"),
    Kind("a TensorRT engine", _starts(b"ptrt", b"ftrt"), "pass the ONNX file it was built from"),
    Kind("a StableHLO module", _starts(b"ML\xefR"), "save the parameters as safetensors"),
    Kind("an MXNet parameter file", _starts(b"\x12\x01" + bytes(6)), "export the model to ONNX"),
    Kind("an ncnn model", _starts(b"7767517\n"), "pass the model it was converted from"),
    Kind("an OpenVINO model", _matches(rb"\s*<\?xml[^>]*>\s*<net\s"), "pass the model it was converted from"),
    Kind("a shard of a distributed checkpoint (DCP)", lambda content: content.suffix == ".distcp", "pass its folder"),
    Kind(
        "a distributed checkpoint (DCP) without its .metadata", _endings(".distcp"),
        "copy that file too, the index of all tensors",
    ),
    Kind("a TensorFlow SavedModel", _folder("saved_model.pb"), "export it to ONNX with tf2onnx"),
    Kind("a TensorFlow SavedModel", _matches(rb"\x08\x01\x12" + _VARINT + rb"\x0a" + _VARINT + rb"\x12"), _EXPORT),
    Kind("a TensorFlow checkpoint", _endings(".index", ".data-00000-of-00001"), _EXPORT),
    Kind("a Core ML model", _matches(rb"\x08[\x01-\x20]\x12" + _VARINT + rb"\x0a" + _VARINT + rb"\x0a"), _EXPORT),
    Kind("a Core ML package", _folder("Manifest.json", "Data"), "pass the model it was converted from"),
    Kind("an Orbax checkpoint", _folder("_CHECKPOINT_METADATA"), "save the parameters as safetensors"),
    Kind("an Orbax checkpoint", _folder("manifest.ocdbt"), "save the parameters as safetensors"),
    Kind(
        "a torch.save file from before version 0.1.10 (tar)", lambda content: _tar(content) and content.has("sys_info"),
        "load it with a torch that reads it, and save it again",
    ),
    Kind("a tar archive", _tar, "unpack it and pass the file inside"),
)  # fmt: skip

_LIKELY = (
    Kind(
        "a TensorFlow graph", _matches(rb"\x0a" + _VARINT + rb"\x0a." + _WORD + rb"+\x12.[A-Z]\w+[\x1a\x22\x2a\x32]"),
        "export it to ONNX with tf2onnx",
    ),
    Kind("a Caffe model", _matches(rb"\x0a." + _WORD + rb"+\xa2\x06"), "convert it to ONNX"),
    Kind("a Paddle program", _matches(rb"\x0a" + _VARINT + rb"\x08\x00\x10"), "export it to ONNX with paddle2onnx"),
    Kind(
        "a msgpack file, as Flax writes", _matches(rb"(?:[\x81-\x8f]|\xde..)(?:[\xa1-\xbf]|\xd9.)" + _WORD + rb"+"),
        "save the parameters as safetensors",
    ),
)  # fmt: skip


def _content(path: Path, head: bytes) -> Content:
    names: tuple[str, ...] = ()
    if not head:
        names = tuple(entry.name for entry in path.iterdir())
    elif head[:2] == b"PK":
        names = _below_top(zip_names(path))
    elif head[257:262] == b"ustar":
        names = tuple(head[at : at + 100].partition(b"\0")[0].decode("utf-8", "replace") for at in range(0, 4096, 512))
    return Content(head, frozenset(names), path.suffix)


def _below_top(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names without the one folder that all are in, as torch's archives have it."""
    tops = {name.partition("/")[0] for name in names}
    below = tuple(name.partition("/")[2] for name in names)
    return below if len(tops) == 1 and all(below) else names


def _find(kinds: tuple[Kind, ...], path: Path, head: bytes) -> Kind | None:
    content = _content(path, head)
    return next((kind for kind in kinds if kind.told(content)), None)


def _format(name: str, kinds: tuple[Kind, ...], order: int) -> Format:
    def read(path: Path) -> Model:
        head = b""
        if not path.is_dir():
            with path.open("rb") as file:
                head = file.read(4096)
        kind = _find(kinds, path, head)
        assert kind is not None, "read is called on what sniff claimed"
        raise UnsupportedError(f"{kind.what} is not read yet; {kind.instead}")

    return Format(name, "", lambda path, head: _find(kinds, path, head) is not None, read, order)


SURE = _format("refused", _SURE, order=5)
LIKELY = _format("refused", _LIKELY, order=90)
