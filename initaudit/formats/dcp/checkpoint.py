"""A distributed checkpoint, from what its .metadata says of every tensor and every chunk of it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from initaudit.errors import CorruptFileError, ReadError, UnsafeFileError, UnsupportedError
from initaudit.formats.beside import neighbours
from initaudit.formats.dcp import METADATA
from initaudit.formats.dcp.chunks import Chunk, assembled
from initaudit.formats.dcp.files import Files
from initaudit.formats.dcp.shards import sharded_headers
from initaudit.formats.interrupted import refuse_interrupted
from initaudit.formats.mapped import MappedFile
from initaudit.formats.sharded import inside
from initaudit.formats.torch.model import build
from initaudit.formats.torch.pickle import Unpickler
from initaudit.formats.torch.pickle_values import Record
from initaudit.formats.torch.storage import checked_shape
from initaudit.formats.torch.tensor import Found, Lost, Rebuilder, dtype_name
from initaudit.types import Model, Tensor

_MOST_CHUNKS = 2_000_000
_LONGEST_PATH = 100  # keys on the way to a tensor


@dataclass(slots=True)
class Entry:
    """One tensor of the checkpoint."""

    path: tuple[str, ...]  # the keys that lead to it
    found: Found
    chunks: tuple[Chunk, ...] = ()  # what it is made of


def read(path: Path) -> Model:
    """Return the tensors of a checkpoint, under the names that their training program gave them.

    Raises:
        CorruptFileError: the metadata is damaged, or contradicts the files.
        ReadError: files are missing, or half replaced, or there are no tensors.
        UnsafeFileError: a file lies outside the folder.
    """
    folder = path if path.is_dir() else path.parent
    refuse_interrupted(folder)
    files = Files(folder)
    names: set[str] = set()
    entries = entries_of(folder, files, names)
    detail = f"distributed checkpoint, {files.told()}" if files.opened else "distributed checkpoint in safetensors"
    model = build(_tree(entries), names, str(path), "dcp", detail, _Tensors())
    config, skipped = neighbours(folder / METADATA)
    return replace(model, config={**config, **model.config}, skipped=(*model.skipped, *skipped))


def entries_of(folder: Path, files: Files, names: set[str]) -> list[Entry]:
    """Return the tensors of a checkpoint; the names of classes that its metadata mentions are added to `names`.

    Raises:
        CorruptFileError: the metadata is damaged, or contradicts the files.
        ReadError: files are missing, or there are no tensors.
        UnsafeFileError: a file lies outside the folder.
    """
    if (folder / METADATA).is_file():
        entries = _pickled(folder / METADATA, files, names)
    else:
        entries = [Entry((name,), found, chunks) for name, (found, chunks) in sharded_headers(folder).items()]
    if not entries:
        raise ReadError("a distributed checkpoint that holds no tensors")
    return entries


class _Tensors(Rebuilder):
    """Takes the tensors of the tree for what they are."""

    def __init__(self) -> None:
        super().__init__(lambda data: None)

    def tensor(self, value: object) -> Found | None:
        """Return the tensor itself."""
        return value if isinstance(value, (Tensor, Lost)) else None


def _tree(entries: list[Entry]) -> dict[str, Any]:
    """Return the nested dicts that were flattened into the checkpoint's names."""
    root: dict[str, Any] = {}
    for entry in entries:
        branch = root
        for at, key in enumerate(entry.path):
            if at == len(entry.path) - 1:
                while key in branch:
                    key += "'"  # noqa: PLW2901
                branch[key] = entry.found
            else:
                below = branch.setdefault(key, {})
                if not isinstance(below, dict):  # a tensor and something below it
                    branch.setdefault(".".join(entry.path[at:]), entry.found)
                    break
                branch = below
    return root


# -- the pickle


def _pickled(path: Path, files: Files, names: set[str]) -> list[Entry]:
    file = MappedFile(path)
    pickle = Unpickler(file.view(0, file.size))
    value = pickle.load()
    names.update(pickle.globals)
    state = value.state if isinstance(value, Record) else None
    if not isinstance(state, dict) or not isinstance(state.get("state_dict_metadata"), dict):
        raise CorruptFileError("its .metadata is no metadata of a distributed checkpoint")
    stored = _stored(state.get("storage_data"))
    paths = state.get("planner_data")
    entries: list[Entry] = []
    count = 0
    for name, kind in state["state_dict_metadata"].items():
        if not isinstance(name, str):
            raise CorruptFileError("a tensor whose name is no text")
        if not isinstance(kind, Record) or not kind.name.endswith(".TensorStorageMetadata"):
            entries.append(Entry(_path(paths, name), None))  # type: ignore[arg-type]
            continue
        fields = _fields(kind)
        chunks = fields.get("chunks")
        if not isinstance(chunks, list):
            raise CorruptFileError(f"tensor {name!r} without its chunks")
        count += len(chunks)
        if count > _MOST_CHUNKS:
            raise UnsafeFileError(f"more than {_MOST_CHUNKS} chunks")
        entries.append(Entry(_path(paths, name), *_tensor(name, fields, chunks, stored, files)))
    return entries


def _path(paths: object, name: str) -> tuple[str, ...]:
    """Return the keys that a flattened name stands for."""
    keys = paths.get(name) if isinstance(paths, dict) else None
    if isinstance(keys, tuple) and 0 < len(keys) <= _LONGEST_PATH and all(isinstance(key, (str, int)) for key in keys):
        return tuple(str(key) for key in keys)
    return (name,)


def _fields(record: object) -> dict[Any, Any]:
    state = record.state if isinstance(record, Record) else None
    if not isinstance(state, dict):
        raise CorruptFileError("its .metadata has an entry without content")
    return state


def _stored(storage: object) -> dict[tuple[str, tuple[int, ...]], dict[Any, Any]]:
    """Return where each chunk is, by tensor and by the chunk's offsets in it."""
    if not isinstance(storage, dict):
        raise CorruptFileError("its .metadata does not say where the tensors are")
    places: dict[tuple[str, tuple[int, ...]], dict[Any, Any]] = {}
    for key, value in storage.items():
        index = _fields(key)
        name, offset = index.get("fqn"), index.get("offset")
        if isinstance(name, str) and isinstance(offset, tuple):
            places[name, checked_shape(offset, "offset")] = _fields(value)
    return places


def _tensor(
    name: str, fields: dict[Any, Any], chunks: list[Any], stored: dict[tuple[str, tuple[int, ...]], dict[Any, Any]],
    files: Files,
) -> tuple[Found, tuple[Chunk, ...]]:  # fmt: skip
    properties = fields.get("properties")
    state = properties.state if isinstance(properties, Record) else None
    if isinstance(state, dict):  # before torch 2.1
        state = (state.get("dtype"),)
    if not isinstance(state, tuple) or not state:
        raise CorruptFileError(f"tensor {name!r} without its element type")
    shape, dtype = checked_shape(fields.get("size"), "size"), dtype_name(state[0])
    found: list[Chunk] = []
    for chunk in chunks:
        told = _fields(chunk)
        offsets, sizes = checked_shape(told.get("offsets"), "offset"), checked_shape(told.get("sizes"), "size")
        place = stored.get((name, offsets))
        if place is None:
            raise CorruptFileError(f"the chunk of tensor {name!r} at {offsets} is nowhere in its storage_data")
        try:
            found.append(Chunk(offsets, sizes, _chunk(place, sizes, dtype, name, files)))
        except UnsupportedError as error:
            return Lost(error.reason), ()
    return assembled(name, shape, dtype, found), tuple(found)


def _chunk(place: dict[Any, Any], sizes: tuple[int, ...], dtype: str, name: str, files: Files) -> Tensor:
    file, offset, length = place.get("relative_path"), place.get("offset"), place.get("length")
    if not isinstance(file, str) or type(offset) is not int or type(length) is not int or offset < 0 or length < 0:
        raise CorruptFileError(f"tensor {name!r} has a chunk without file, offset and length")
    transforms = place.get("transform_descriptors")
    if transforms:
        how = ", ".join(str(step)[:40] for step in transforms) if isinstance(transforms, (list, tuple)) else "?"
        raise UnsupportedError(f"its chunks are transformed ({how}), which is not read yet")
    found = files.tensor(inside(file), offset, length)
    if found.shape != sizes or found.dtype != dtype:
        raise CorruptFileError(
            f"tensor {name!r} has a chunk of {found.dtype} {list(found.shape)} in {file}, "
            f"where its .metadata has {dtype} {list(sizes)}"
        )
    return found
