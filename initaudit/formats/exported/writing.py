"""Archives of torch.export.save: which bytes change when tensors get new values."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from initaudit.dtypes import numpy_dtype
from initaudit.edits import Edit, FilePlan
from initaudit.errors import CorruptFileError, UnsupportedError
from initaudit.formats.exported import file
from initaudit.formats.exported.records import view
from initaudit.formats.exported.weights import MAX_JSON
from initaudit.formats.torch import expanded, writing
from initaudit.formats.torch.pickle_places import Places
from initaudit.formats.torch.storage import Member, Storage
from initaudit.formats.torch.zip_changes import ArchiveWork
from initaudit.strides import contiguous
from initaudit.types import Tensor

_NUMBER = re.compile(r"\d+$")
_SPACE = re.compile(r"[ \t\n\r]*")

Span = tuple[int, int]


def plan(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    """Return what changes in an archive of torch.export.save."""
    contents = file.contents(path)
    anew = partial(_store_anew, contents.tables)
    return (writing.work(edits, contents.storages, Places(), anew=anew).file_plan(path),)


def _store_anew(tables: Sequence[tuple[str, str]], archive: ArchiveWork, wanted: list[tuple[Storage, Edit]]) -> None:
    """Give tensors that have no room for new values (a stride of 0) members of their own, and say so in the tables.

    Raises:
        UnsupportedError: no table has the tensor.
    """
    if archive.archive.stem is not None:  # a torch.save file inside
        expanded.store_anew(archive, wanted)
        return
    left = dict(enumerate(wanted))
    taken = set(archive.archive.members)
    for member, folder in tables:
        text = archive.archive.read(member, MAX_JSON).decode()
        table = _object(text, _object(text, 0)["config"][0])
        files: dict[int, str] = {}  # new ones, by the edit they are for
        for name, (start, _) in table.items():
            entry = _object(text, start)
            for index, (storage, edit) in enumerate(wanted):
                if _shows(json.loads(text[slice(*table[name])]), name, folder, storage, edit.tensor):
                    if index not in files:
                        files[index] = _free_name(folder, storage, taken)
                        _add(archive, files[index], storage, edit)
                    _rewrite(archive, member, text, entry, files[index].removeprefix(folder), edit.tensor)
                    left.pop(index, None)
    for _, edit in left.values():
        raise UnsupportedError(f"{edit.tensor.name} {writing.NO_ROOM}, and no table of the archive tells of it alone")


def _shows(entry: Mapping[str, Any], name: str, folder: str, storage: Storage, tensor: Tensor) -> bool:
    """Whether an entry of a table is of a tensor that looks at a storage in this way."""
    place = storage.place[0] if storage.place else None
    if not isinstance(place, Member) or place.name != f"{folder}{entry.get('path_name')}" or not entry["tensor_meta"]:
        return False
    seen = view(entry["tensor_meta"], name)
    return (seen.offset, tuple(seen.shape), tuple(seen.strides)) == (tensor.offset, tensor.shape, tensor.strides)


def _free_name(folder: str, storage: Storage, taken: set[str]) -> str:
    """Return the name of a member that there is not yet: weight_12 after weight_11."""
    assert storage.place is not None and isinstance(storage.place[0], Member)
    stem = _NUMBER.sub("", storage.place[0].name.removeprefix(folder))
    number = 0
    while f"{folder}{stem}{number}" in taken:
        number += 1
    name = f"{folder}{stem}{number}"
    taken.add(name)
    return name


def _add(archive: ArchiveWork, name: str, storage: Storage, edit: Edit) -> None:
    length = edit.tensor.size * numpy_dtype(edit.tensor.dtype).itemsize
    archive.add(name, length, partial(expanded.content, edit, storage.big_endian))


def _rewrite(
    archive: ArchiveWork, member: str, text: str, entry: Mapping[str, Span], name: str, tensor: Tensor
) -> None:
    """Let an entry of a table tell of another member, all of which is the tensor."""
    seen = _object(text, entry["tensor_meta"][0])
    strides = [{"as_int": step} for step in contiguous(tensor.shape)]
    changes: list[tuple[Span, object]] = [(entry["path_name"], name), (seen["strides"], strides)]
    if "storage_offset" in seen:
        changes.append((seen["storage_offset"], {"as_int": 0}))
    for (start, stop), value in changes:
        new = json.dumps(value).encode()
        at, behind = len(text[:start].encode()), len(text[:stop].encode())
        archive.member(member).put(at, new, old=behind - at)


def _object(text: str, at: int) -> dict[str, Span]:
    """Return where in a JSON text the values of an object are, by key.

    Raises:
        CorruptFileError: there is no object.
    """
    decode = json.JSONDecoder().raw_decode
    found: dict[str, Span] = {}

    def sign(at: int, wanted: str) -> int:
        at = _SPACE.match(text, at).end()  # type: ignore[union-attr]
        if text[at : at + 1] not in tuple(wanted):
            raise CorruptFileError(f"a table of weights without {wanted[0]!r} at character {at}")
        return at

    at = sign(at, "{") + 1
    while text[sign(at, '",}')] != "}":
        at = sign(at, '",')
        at = sign(at + 1, '"') if text[at] == "," else at
        key, at = decode(text, at)
        start = _SPACE.match(text, sign(at, ":") + 1).end()  # type: ignore[union-attr]
        _, at = decode(text, start)
        found[key] = start, at
    return found
