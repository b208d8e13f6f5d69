"""Tensors that repeat their storage (a stride of 0) have no room for values of their own: they are stored anew.

A member with the new values is added to the archive, and the one call in data.pkl that makes the tensor takes another
storage, offset and strides. No other instruction of the pickle changes, except where a text that is replaced was to be
used again: its next use then spells it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from initaudit.dtypes import numpy_dtype
from initaudit.edits import Edit
from initaudit.errors import UnsupportedError
from initaudit.formats.patching import cast
from initaudit.formats.torch import script_stem
from initaudit.formats.torch.archive import Archive, load_pickle
from initaudit.formats.torch.changes import Work
from initaudit.formats.torch.pickle import Unpickler
from initaudit.formats.torch.pickle_trace import Made, Span, Tracer
from initaudit.formats.torch.storage import Member, Storage, c_strides
from initaudit.formats.torch.tensor import torch_function
from initaudit.formats.torch.zip_changes import ArchiveWork
from initaudit.types import Array, Global, Tensor

_MOST = 1 << 28  # elements that a tensor without room may have
_REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")


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
        raise _refusal(tensor, f"and {tensor.size} values are too many to be stored anew")
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
        raise _refusal(wanted[0][1].tensor, "and is not among those of the archive's pickles")


def _pickles(archive: Archive, tensor: Tensor) -> list[tuple[str, str]]:
    """Return the pickles of an archive, and the folder of each with the storages."""
    stem = archive.stem
    if stem is not None:
        return [(f"{stem}data.pkl", f"{stem}data/")]
    stem = script_stem(tuple(archive.members))
    if stem is None:
        raise _refusal(tensor, "and this kind of archive takes no new storages")
    both = [(f"{stem}{name}.pkl", f"{stem}{name}/") for name in ("data", "constants")]
    return [(member, folder) for member, folder in both if member in archive.members]


def _member(storage: Storage) -> str:
    place = storage.place[0] if storage.place else None
    return place.name if isinstance(place, Member) else ""


def _anew(archive: ArchiveWork, member: str, folder: str, wanted: list[tuple[Storage, Edit]]) -> None:
    """Give tensors that one pickle makes storages of their own."""
    tracer = _traced(archive.archive, member, folder)
    if tracer.framed:
        raise _refusal(wanted[0][1].tensor, "and the pickle is written in frames")
    rewriting = _Rewriting(tracer)
    key = -1
    for storage, edit in wanted:
        tensor = edit.tensor
        key = _new_key(archive.archive, folder, key)
        length = tensor.size * numpy_dtype(tensor.dtype).itemsize
        numel = tensor.size if storage.dtype == tensor.dtype else length
        calls = list(_calls(tracer, storage, tensor))
        if not calls:
            raise _refusal(tensor, "and is not made by a call of its own")
        for made in calls:
            rewriting.repoint(made, tensor, str(key), numel)
        archive.add(f"{folder}{key}", length, partial(content, edit, storage.big_endian))
    rewriting.write(archive.member(member))


def _refusal(tensor: Tensor, why: str) -> UnsupportedError:
    return UnsupportedError(f"{tensor.name} repeats the same values in the file (a stride of 0), {why}")


def _traced(archive: Archive, member: str, folder: str) -> Tracer:
    made: list[Tracer] = []

    def tracer(*args: Any) -> Unpickler:
        made.append(Tracer(*args))
        return made[-1]

    load_pickle(archive, member, (folder,), "", tracer)
    return made[0]


def _new_key(archive: Archive, folder: str, last: int) -> int:
    """Return the number of a storage that there is not yet."""
    keys = (name.removeprefix(folder) for name in archive.members if name.startswith(folder))
    return max([last, *(int(key) for key in keys if key.isdecimal() and len(key) < 16)]) + 1


def content(edit: Edit, big_endian: bool) -> bytes:
    """Return the new values of a tensor as the bytes of a storage of its own."""
    made: Array = cast(edit.tensor, edit.values()).reshape(-1)
    width = made.dtype.itemsize // (2 if made.dtype.kind == "c" else 1)
    units: Array = made.view(f"u{width}")
    return (units.byteswap() if big_endian and width > 1 else units).tobytes()


# -- the pickle


def _calls(tracer: Tracer, storage: Storage, tensor: Tensor) -> Iterator[Made]:
    """Yield the calls that make a tensor, one for each time it was saved."""
    for record, made in tracer.calls:
        match made.values:
            case (Storage(place=(Member() as member, 0)), int(offset), tuple(size), tuple(strides), *_):
                same = storage.place == (member, 0) and offset == tensor.offset
                if same and size == tensor.shape and strides == tensor.strides and torch_function(record) in _REBUILD:
                    yield made


class _Rewriting:
    """Changes to the arguments of calls."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._new: dict[Span, bytes] = {}
        self._moved: list[tuple[int, bytes]] = []  # what is remembered by a number, to be made where it is next used

    def repoint(self, made: Made, tensor: Tensor, key: str, numel: int) -> None:
        """Let a call that makes a tensor take all of another storage."""
        tracer, whole = self._tracer, made.spans[0]
        pid = tracer.pids.get(whole[0])
        if pid is None:  # made by an earlier call, and remembered
            told = [one for one in tracer.pids.values() if one.storage is made.values[0]]
            if not told or tracer.data[whole[0]] not in b"hj":
                raise _refusal(tensor, "and the call that makes it takes a storage that cannot be told from others")
            self._new[whole] = _persistent(told[0].values, key, numel, tensor)
        else:
            self._in_place(pid, whole, tensor, key, numel)
        _, offset, _, strides = made.spans[:4]
        self._free((made.spans[-1][1], made.at), offset, strides, tensor=tensor)
        self._new[offset] = _integer(0)
        self._new[strides] = _numbers(c_strides(tensor.shape)) + self._puts(strides)

    def _in_place(self, pid: Made, whole: Span, tensor: Tensor, key: str, numel: int) -> None:
        """Name another storage where one is named."""
        tracer = self._tracer
        name, count = pid.spans[2], pid.spans[4]
        self._free((pid.spans[-1][1], pid.at), count, tensor=tensor)
        old = _persistent(pid.values, str(pid.values[2]), pid.values[4], tensor)
        for span, made in ((name, bytes(tracer.data[slice(*name)])), ((pid.at, whole[1]), old)):
            for number in tracer.remembered(span):
                again = made if span == name else made + self._puts(span)
                self._moved.append((number, again))
            if tracer.numbered and any(number in tracer.gets for number in tracer.remembered(span)):
                raise _refusal(tensor, "and its storage is remembered in a way that cannot be changed")
        self._new[name] = _text(key) + self._puts(name)
        self._new[count] = _integer(numel)

    def write(self, work: Work) -> None:
        """Add what becomes of the pickle."""
        for number, made in self._moved:
            uses = [span for span in self._tracer.gets.get(number, ()) if span not in self._new]
            if uses:
                self._new[min(uses)] = made
        for span, new in self._new.items():
            work.put(span[0], new, old=span[1] - span[0])

    def _free(self, *spans: Span, tensor: Tensor) -> None:
        """See that what is made between some bytes is not used again."""
        if any(number in self._tracer.gets for span in spans for number in self._tracer.remembered(span)):
            raise _refusal(tensor, "and what it is made of is used elsewhere too")

    def _puts(self, span: Span) -> bytes:
        """Return the instructions that remember something between two bytes."""
        return b"".join(bytes(self._tracer.data[slice(*at)]) for at, _ in self._tracer.puts if _within(at, span))


def _within(inner: Span, outer: Span) -> bool:
    return outer[0] <= inner[0] < outer[1]


def _persistent(values: tuple[Any, ...], key: str, numel: int, tensor: Tensor) -> bytes:
    """Return the instructions that name a storage, remembering nothing."""
    match values:
        case (str(kind), Global(cls), _, str(location), *rest) if len(rest) == 1 and type(numel) is int:
            module, _, name = cls.rpartition(".")
            made = (_text(kind), f"c{module}\n{name}\n".encode(), _text(key), _text(location), _integer(numel))
            return b"(" + b"".join(made) + b"tQ"
    raise _refusal(tensor, "and its storage is named in an unknown way")


def _integer(value: int) -> bytes:
    if value < 1 << 8:
        return b"K" + value.to_bytes(1, "little")
    if value < 1 << 16:
        return b"M" + value.to_bytes(2, "little")
    if value < 1 << 31:
        return b"J" + value.to_bytes(4, "little")
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + len(raw).to_bytes(1, "little") + raw


def _numbers(values: tuple[int, ...]) -> bytes:
    made = b"".join(_integer(value) for value in values)
    if not 0 < len(values) < 4:
        return b"(" + made + b"t"
    return made + (b"\x85", b"\x86", b"\x87")[len(values) - 1]


def _text(value: str) -> bytes:
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw
