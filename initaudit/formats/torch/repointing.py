"""The call in a pickle that makes a tensor, told to take another storage; no other instruction changes.

Only where a text or a storage that makes way was to be used again, its next use makes it anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from initaudit.dtypes import numpy_dtype
from initaudit.errors import UnsupportedError
from initaudit.formats.torch.changes import Work
from initaudit.formats.torch.pickle_trace import Made, Span, Tracer
from initaudit.formats.torch.storage import Storage
from initaudit.formats.torch.tensor import torch_function
from initaudit.strides import contiguous
from initaudit.types import Global, Tensor

_REBUILD = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")


def refusal(tensor: Tensor, why: str) -> UnsupportedError:
    """Return why a tensor without room for its values cannot be stored anew."""
    return UnsupportedError(f"{tensor.name} repeats the same values in the file (a stride of 0), {why}")


def nbytes(tensor: Tensor) -> int:
    """Return how many bytes a tensor takes that repeats nothing."""
    return tensor.size * numpy_dtype(tensor.dtype).itemsize


class Rewriting:
    """Changes to the arguments of calls."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        self._new: dict[Span, bytes] = {}
        self._moved: list[tuple[int, bytes]] = []  # what is remembered by a number, to be made where it is next used

    def left_over(self, tensors: Sequence[tuple[Storage, Tensor]]) -> list[object]:
        """Return where the storages are that only these tensors use."""
        ours = {made.spans[0][0] for storage, tensor in tensors for made in _calls(self._tracer, storage, tensor)}
        used = [one.storage for at, one in self._tracer.pids.items() if at not in ours]
        keys = {_key(one) for one in used if isinstance(one, Storage)}
        return list(dict.fromkeys(storage.place for storage, _ in tensors if _key(storage) not in keys))

    def repoint(self, storage: Storage, tensor: Tensor, key: str | None) -> None:
        """Let the calls that make a tensor from a storage take all of another one, of that key; None: of the same.

        Raises:
            UnsupportedError: there is none, or one that cannot be changed alone.
        """
        calls = list(_calls(self._tracer, storage, tensor))
        if not calls:
            raise refusal(tensor, "and is not made by a call of its own")
        numel = tensor.size if storage.dtype == tensor.dtype else nbytes(tensor)
        for made in calls:
            self._repoint(made, tensor, key, numel)

    def _repoint(self, made: Made, tensor: Tensor, key: str | None, numel: int) -> None:
        tracer, whole = self._tracer, made.spans[0]
        pid = tracer.pids.get(whole[0])
        if pid is None:  # made by an earlier call, and remembered
            told = [one for one in tracer.pids.values() if one.storage is made.values[0]]
            if not told or tracer.data[whole[0]] not in b"hj":
                raise refusal(tensor, "and the call that makes it takes a storage that cannot be told from others")
            self._new[whole] = _persistent(told[0].values, key or str(told[0].values[2]), numel, tensor)
        else:
            self._in_place(pid, whole, tensor, key or str(pid.values[2]), numel)
        _, offset, _, strides = made.spans[:4]
        self._free((made.spans[-1][1], made.at), offset, strides, tensor=tensor)
        self._new[offset] = _integer(0)
        self._new[strides] = _numbers(contiguous(tensor.shape)) + self._puts(strides)

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
                raise refusal(tensor, "and its storage is remembered in a way that cannot be changed")
        self._new[name] = text(key) + self._puts(name)
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
            raise refusal(tensor, "and what it is made of is used elsewhere too")

    def _puts(self, span: Span) -> bytes:
        """Return the instructions that remember something between two bytes."""
        return b"".join(bytes(self._tracer.data[slice(*at)]) for at, _ in self._tracer.puts if _within(at, span))


def _within(inner: Span, outer: Span) -> bool:
    return outer[0] <= inner[0] < outer[1]


def _persistent(values: tuple[Any, ...], key: str, numel: int, tensor: Tensor) -> bytes:
    """Return the instructions that name a storage, remembering nothing."""
    match values:
        case (str(kind), Global(cls), _, str(location), int(), *rest) if rest in ([], [None]):
            module, _, name = cls.rpartition(".")
            made = (text(kind), f"c{module}\n{name}\n".encode(), text(key), text(location), _integer(numel))
            return b"(" + b"".join(made) + b"N" * len(rest) + b"tQ"
    raise refusal(tensor, "and its storage is named in an unknown way")


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


def text(value: str) -> bytes:
    """Return the instruction that makes a text."""
    raw = value.encode()
    return b"X" + len(raw).to_bytes(4, "little") + raw


def _key(storage: Storage) -> str:
    return storage.name.rpartition("/")[2]


def _calls(tracer: Tracer, storage: Storage, tensor: Tensor) -> Iterator[Made]:
    """Yield the calls that make a tensor, one for each time it was saved."""
    for record, made in tracer.calls:
        match made.values:
            case (Storage() as taken, int(offset), tuple(size), tuple(strides), *_):
                same = storage.place == taken.place and offset == tensor.offset
                if same and size == tensor.shape and strides == tensor.strides and torch_function(record) in _REBUILD:
                    yield made
