"""Distributed checkpoints with new values: which bytes of which files change.

An edit of a tensor that lies in one piece goes there. One of a tensor of several chunks is made on the whole tensor,
and each chunk gets its box of that. The sizes and places in the metadata stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from initaudit.dtypes import numpy_dtype
from initaudit.edits import Edit, FilePlan
from initaudit.errors import ReadError, UnsupportedError
from initaudit.formats import safetensors
from initaudit.formats.dcp import METADATA
from initaudit.formats.dcp.checkpoint import Entry, entries_of
from initaudit.formats.dcp.chunks import Chunk
from initaudit.formats.dcp.files import Files
from initaudit.formats.patching import check_writable, rewritten
from initaudit.formats.torch import writing as torch_writing
from initaudit.formats.torch.archive import Archive, load
from initaudit.formats.torch.changes import Work
from initaudit.formats.torch.pickle_places import Places
from initaudit.types import Array, Tensor


def plan(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    """Return what becomes of each file of a checkpoint.

    Raises:
        ReadError: the files are not those that the tensors were read from.
        UnsupportedError: a tensor cannot take new values, or a compressed chunk has no room for them.
    """
    folder = path if path.is_dir() else path.parent
    files = Files(folder)
    entries = entries_of(folder, files, set())
    pieces = _pieces(edits, entries)
    if (folder / METADATA).is_file():
        return (FilePlan(folder / METADATA, ()), *_archives(folder, files, pieces))
    return _safetensors(folder, entries, pieces)


def _pieces(edits: Sequence[Edit], entries: Sequence[Entry]) -> list[Edit]:
    """Return the edits by what lies in one piece."""
    single = {chunk.tensor.storage: chunk for entry in entries for chunk in entry.chunks if len(entry.chunks) == 1}
    several = {
        entry.found.storage: entry for entry in entries if isinstance(entry.found, Tensor) and len(entry.chunks) > 1
    }
    found: list[Edit] = []
    whole: dict[str, list[Edit]] = {}
    for edit in edits:
        check_writable(edit.tensor)
        if edit.tensor.storage in several:
            whole.setdefault(edit.tensor.storage, []).append(edit)
        elif edit.tensor.storage in single or not edit.tensor.size:
            found.append(edit)
        else:
            raise ReadError(f"tensor {edit.tensor.name!r} is not where it was read: the checkpoint has changed")
    last = _Last()
    for storage, together in whole.items():
        tensor = several[storage].found
        assert isinstance(tensor, Tensor)
        made = partial(last.get, storage, partial(_remade, tensor, together))
        found += [Edit(replace(chunk.tensor, name=tensor.name), partial(_box, made, chunk))
                  for chunk in several[storage].chunks]  # fmt: skip
    return found


class _Last:
    """Keeps one tensor, for its chunks are written one after another where the files allow it."""

    def __init__(self) -> None:
        self._held: tuple[str, Array] | None = None

    def get(self, name: str, make: Callable[[], Array]) -> Array:
        """Return a tensor, made if it is not the one that was asked for last."""
        if self._held is None or self._held[0] != name:
            self._held = None  # before the next one takes memory
            self._held = name, make()
        return self._held[1]


def _remade(tensor: Tensor, edits: Sequence[Edit]) -> Array:
    """Return a tensor of several chunks with its edits."""
    raw = np.ascontiguousarray(tensor.load()).reshape(-1).view(np.uint8)
    return np.frombuffer(rewritten(raw.data, edits), numpy_dtype(tensor.dtype)).reshape(tensor.shape)


def _box(whole: Callable[[], Array], chunk: Chunk) -> Array:
    return whole()[tuple(slice(at, at + size) for at, size in zip(chunk.offsets, chunk.sizes, strict=True))]


def _archives(folder: Path, files: Files, pieces: Sequence[Edit]) -> list[FilePlan]:
    """Return the plans of files of archives."""
    by_window: dict[str, list[Edit]] = {}
    for piece in pieces:
        if piece.tensor.size:
            storage = piece.tensor.storage
            by_window.setdefault(storage[: storage.rindex("/data/") + 1], []).append(piece)
    works = {name: Work() for name in files.opened}
    for prefix, edits in by_window.items():
        name, offset, window = files.windows[prefix]
        places = Places()
        archive = Archive(window, window)  # type: ignore[arg-type]
        storages = load(archive, prefix, places.unpickler).storages
        work = torch_writing.work(edits, storages, places, window)
        if work.growth:
            raise UnsupportedError(f"{edits[0].tensor.name}: compressed, and its chunk in {name} has no room for more")
        works[name].include(work, offset)
    return [work.file_plan(folder / name) for name, work in works.items()]


def _safetensors(folder: Path, entries: Sequence[Entry], pieces: Sequence[Edit]) -> tuple[FilePlan, ...]:
    """Return the plans of safetensors that ranks wrote side by side."""
    by_file: dict[str, list[Edit]] = {
        chunk.tensor.storage.partition(":")[0]: [] for entry in entries for chunk in entry.chunks
    }
    for piece in pieces:
        file, _, inner = piece.tensor.storage.partition(":")
        if piece.tensor.size:
            by_file[file].append(replace(piece, tensor=replace(piece.tensor, storage=inner)))
    return tuple(one for file, edits in by_file.items() for one in safetensors.plan(folder / file, edits))
