"""Tensors that repeat their storage (a stride of 0) have no room for values of their own: they are stored anew.

A member with the new values is added to the archive, and the one call in data.pkl that makes the tensor takes another
storage, offset and strides. No other instruction of the pickle changes, except where a text that is replaced was to be
used again: its next use then spells it out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from initaudit.edits import Edit
from initaudit.formats.patching import cast
from initaudit.formats.torch import legacy, script_stem
from initaudit.formats.torch.archive import Archive, load_pickle
from initaudit.formats.torch.changes import Change, Work
from initaudit.formats.torch.pickle import MakeUnpickler, Unpickler
from initaudit.formats.torch.pickle_trace import Tracer
from initaudit.formats.torch.repointing import Rewriting, nbytes, refusal, text
from initaudit.formats.torch.storage import Member, Source, Storage
from initaudit.formats.torch.zip_changes import ArchiveWork
from initaudit.types import Array, Tensor

_MOST = 1 << 28  # elements that a tensor without room may have


def repeats(tensor: Tensor) -> bool:
    """Whether a tensor shows the same elements of its storage several times along an axis."""
    return tensor.strides is not None and any(
        step == 0 and extent > 1 for step, extent in zip(tensor.strides, tensor.shape, strict=True)
    )


def narrowed(edit: Edit) -> Edit | None:
    """Return the edit of each element once, None if the new values are not the same wherever an element repeats.

    Raises:
        UnsupportedError: there are too many of them.
    """
    tensor = edit.tensor
    if tensor.size > _MOST:
        raise refusal(tensor, f"and {tensor.size} values are too many to be stored anew")
    values = edit.values()
    first = tuple(slice(0, 1) if step == 0 else slice(None) for step in tensor.strides or ())
    once = values[first]
    if not np.array_equal(np.broadcast_to(once, values.shape), values):
        return None
    return Edit(replace(tensor, shape=once.shape), lambda: once)


def store_anew(archive: ArchiveWork, wanted: list[tuple[Storage, Edit]]) -> None:
    """Give tensors of an archive, which have no room for their new values, storages of their own.

    Raises:
        UnsupportedError: the pickle makes one in a way that cannot be changed without changing something else.
    """
    for member, folder in _pickles(archive.archive, wanted[0][1].tensor):
        here = [(storage, edit) for storage, edit in wanted if _member(storage).startswith(folder)]
        if here:
            _anew(archive, member, folder, here)
        wanted = [one for one in wanted if one not in here]
    if wanted:
        raise refusal(wanted[0][1].tensor, "and is not among those of the archive's pickles")


def _pickles(archive: Archive, tensor: Tensor) -> list[tuple[str, str]]:
    """Return the pickles of an archive, and the folder of each with the storages."""
    stem = archive.stem
    if stem is not None:
        return [(f"{stem}data.pkl", f"{stem}data/")]
    stem = script_stem(tuple(archive.members))
    if stem is None:
        raise refusal(tensor, "and this kind of archive takes no new storages")
    both = [(f"{stem}{name}.pkl", f"{stem}{name}/") for name in ("data", "constants")]
    return [(member, folder) for member, folder in both if member in archive.members]


def _member(storage: Storage) -> str:
    place = storage.place[0] if storage.place else None
    return place.name if isinstance(place, Member) else ""


def _anew(archive: ArchiveWork, member: str, folder: str, wanted: list[tuple[Storage, Edit]]) -> None:
    """Give tensors that one pickle makes storages of their own."""
    tracer = _traced(archive.archive, member, folder)
    rewriting = Rewriting(tracer)
    key = _free_key(name.removeprefix(folder) for name in archive.archive.members if name.startswith(folder))
    for storage, edit in wanted:
        rewriting.repoint(storage, edit.tensor, str(key))
        archive.add(f"{folder}{key}", nbytes(edit.tensor), partial(content, edit, storage.big_endian))
        key += 1
    rewriting.write(archive.member(member))


def _free_key(keys: Iterable[str]) -> int:
    """Return the number from which on there are no storages yet."""
    return max([-1, *(int(key) for key in keys if key.isdecimal() and len(key) < 18)]) + 1


def store_anew_in_legacy(work: Work, source: Source, wanted: list[tuple[Storage, Edit]]) -> None:
    """Do the same in a file of torch.save before 1.6: its storages lie one after another behind a list of their names.

    torch reads no storage there that no tensor uses: one that would be left over makes way for the new one.

    Raises:
        UnsupportedError: as above, or it is no such file.
    """
    if not legacy.begins(source.view(0, min(source.size, legacy.LOOK))):
        raise refusal(wanted[0][1].tensor, "and has no room for others")
    tracers: list[Tracer] = []
    roots = legacy.load(source, "", _collecting(tracers)).storages
    value, names = tracers[3:]
    end = max(root.place[1] + root.nbytes for root in roots.values() if root.place)
    rewriting = Rewriting(value)
    key = _free_key(name.removeprefix("storage/") for name in roots)
    left = rewriting.left_over([(storage, edit.tensor) for storage, edit in wanted])
    for storage, edit in wanted:
        assert storage.place is not None
        start, stop = storage.place[1] - 8, storage.place[1] + storage.nbytes
        if storage.place in left:
            left.remove(storage.place)
            rewriting.repoint(storage, edit.tensor, None)
        else:
            rewriting.repoint(storage, edit.tensor, str(key))
            work.put(names.end - 1, text(str(key)) + b"a", old=0)  # appended to the list just before its end
            start = stop = end
            key += 1
        numel = edit.tensor.size if storage.dtype == edit.tensor.dtype else nbytes(edit.tensor)
        length = numel.to_bytes(8, "big" if storage.big_endian else "little")
        work.put(start, length, old=min(8, stop - start))
        start = min(start + 8, stop)
        work.changes.append(Change(start, stop, nbytes(edit.tensor), partial(content, edit, storage.big_endian)))
    rewriting.write(work)


def _traced(archive: Archive, member: str, folder: str) -> Tracer:
    made: list[Tracer] = []
    load_pickle(archive, member, (folder,), "", _collecting(made))
    return made[0]


def _collecting(made: list[Tracer]) -> MakeUnpickler:
    def tracer(*args: Any) -> Unpickler:
        made.append(Tracer(*args))
        return made[-1]

    return tracer


def content(edit: Edit, big_endian: bool) -> bytes:
    """Return the new values of a tensor as the bytes of a storage of its own."""
    made: Array = cast(edit.tensor, edit.values()).reshape(-1)
    width = made.dtype.itemsize // (2 if made.dtype.kind == "c" else 1)
    units: Array = made.view(f"u{width}")
    return (units.byteswap() if big_endian and width > 1 else units).tobytes()
