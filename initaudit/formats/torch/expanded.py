"""Tensors that repeat their storage (a stride of 0) have no room for values of their own: they are stored anew.

A member with the new values is added to the archive, and the one call in data.pkl that makes the tensor takes another
storage, offset and strides. No other instruction of the pickle changes, except where a text that is replaced was to be
used again: its next use then spells it out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from initaudit.dtypes import numpy_dtype
from initaudit.edits import Edit
from initaudit.errors import UnsupportedError
from initaudit.formats.patching import cast
from initaudit.formats.torch.archive import Archive, load_pickle
from initaudit.formats.torch.changes import Work
from initaudit.formats.torch.pickle import Unpickler
from initaudit.formats.torch.pickle_trace import Made, Span, Tracer
from initaudit.formats.torch.storage import Member, Storage, c_strides
from initaudit.formats.torch.tensor import torch_function
from initaudit.formats.torch.zip_changes import ArchiveWork
from initaudit.types import Array, Tensor

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
    """Give tensors of an archive of torch.save, which have no room for their new values, storages of their own.

    Raises:
        UnsupportedError: the pickle makes one in a way that cannot be changed without changing something else.
    """
    stem = archive.archive.stem
    if stem is None:
        raise _refusal(wanted[0][1].tensor, "and this kind of archive takes no new storages")
    tracer = _traced(archive.archive, stem)
    tensor = wanted[0][1].tensor
    if tracer.framed:
        raise _refusal(tensor, "and the pickle is written in frames")
    targets: list[_Target] = []
    for storage, edit in wanted:
        key = _new_key(archive.archive, stem, targets[-1].key if targets else -1)
        length = edit.tensor.size * numpy_dtype(edit.tensor.dtype).itemsize
        numel = edit.tensor.size if storage.dtype == edit.tensor.dtype else length
        found = [_target(tracer, made, edit.tensor, key, numel) for made in _calls(tracer, storage, edit.tensor)]
        if not found:
            raise _refusal(edit.tensor, "and is not made by a call of its own")
        targets += found
        archive.add(f"{stem}data/{key}", length, partial(_content, edit, storage.big_endian))
    _rewrite(tracer, archive.member(f"{stem}data.pkl"), targets)


def _refusal(tensor: Tensor, why: str) -> UnsupportedError:
    return UnsupportedError(f"{tensor.name} repeats the same values in the file (a stride of 0), {why}")


def _traced(archive: Archive, stem: str) -> Tracer:
    made: list[Tracer] = []

    def tracer(*args: Any) -> Unpickler:
        made.append(Tracer(*args))
        return made[-1]

    load_pickle(archive, f"{stem}data.pkl", (f"{stem}data/",), "", tracer)
    return made[0]


def _new_key(archive: Archive, stem: str, last: int) -> int:
    """Return the number of a storage that there is not yet."""
    keys = (name.removeprefix(f"{stem}data/") for name in archive.members)
    return max([last, *(int(key) for key in keys if key.isdecimal() and len(key) < 16)]) + 1


def _content(edit: Edit, big_endian: bool) -> bytes:
    """Return the new values of a tensor as the bytes of a storage of its own."""
    made: Array = cast(edit.tensor, edit.values()).reshape(-1)
    width = made.dtype.itemsize // (2 if made.dtype.kind == "c" else 1)
    units: Array = made.view(f"u{width}")
    return (units.byteswap() if big_endian and width > 1 else units).tobytes()


# -- the pickle


@dataclass(frozen=True, slots=True)
class _Target:
    """A call that makes a tensor: the bytes of its arguments, and what they become."""

    key: int
    name: Span  # the storage's
    numel: Span
    offset: Span
    strides: Span
    new_numel: int
    new_strides: tuple[int, ...]


def _calls(tracer: Tracer, storage: Storage, tensor: Tensor) -> Iterator[Made]:
    """Yield the calls that make a tensor, one for each time it was saved."""
    for record, made in tracer.calls:
        match made.values:
            case (Storage(place=(Member() as member, 0)), int(offset), tuple(size), tuple(strides), *_):
                same = storage.place == (member, 0) and offset == tensor.offset
                if same and size == tensor.shape and strides == tensor.strides and torch_function(record) in _REBUILD:
                    yield made


def _target(tracer: Tracer, made: Made, tensor: Tensor, key: int, numel: int) -> _Target:
    pid = tracer.pids.get(made.spans[0][0])
    if pid is None or len(pid.spans) < 5:
        raise _refusal(tensor, "and the call that makes it takes a storage made elsewhere")
    strides = c_strides(tensor.shape)
    target = _Target(key, pid.spans[2], pid.spans[4], made.spans[1], made.spans[3], numel, strides)
    own = [(pid.spans[-1][1], pid.at), (made.spans[-1][1], made.at), target.numel, target.offset, target.strides]
    named = tracer.remembered(target.name)
    moved = any(number in tracer.gets for number in named) and (len(named) > 1 or tracer.numbered)
    if moved or any(number in tracer.gets for span in own for number in tracer.remembered(span)):
        raise _refusal(tensor, "and what it is made of is used elsewhere too")
    return target


def _rewrite(tracer: Tracer, work: Work, targets: list[_Target]) -> None:
    """Change the arguments of the calls."""
    replaced = [target.name for target in targets]
    for target in targets:
        _put(tracer, work, target.numel, _integer(target.new_numel))
        _put(tracer, work, target.offset, _integer(0))
        _put(tracer, work, target.strides, _numbers(target.new_strides))
        text = _text(str(target.key))
        again = [number for number in tracer.remembered(target.name) if number in tracer.gets]
        uses = sorted(span for number in again for span in tracer.gets[number] if span not in replaced)
        if not uses:
            _put(tracer, work, target.name, text)
            continue
        start, stop = target.name
        work.put(start, text, old=stop - start)
        start, stop = uses[0]
        work.put(start, bytes(tracer.data[slice(*target.name)]), old=stop - start)


def _put(tracer: Tracer, work: Work, span: Span, new: bytes) -> None:
    """Replace an expression, remembering the new one as the old one was."""
    kept = b"".join(bytes(tracer.data[at[0] : at[1]]) for at, _ in tracer.puts if span[0] <= at[0] < span[1])
    work.put(span[0], new + kept, old=span[1] - span[0])


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
