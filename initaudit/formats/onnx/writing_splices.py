"""Pieces of a protobuf file replaced by pieces of another length: what that does to the messages around them.

Every message that holds another one starts with its length, so each message around a splice gets a new one, which may
itself take more bytes or fewer.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from initaudit.edits import Patch
from initaudit.errors import CorruptFileError, UnsupportedError
from initaudit.formats.onnx.protobuf import BYTES, Message, varint

_MOST = (1 << 31) - 1  # bytes; no protobuf library reads a longer message


class Frame(NamedTuple):
    """A message inside another one: its length stands at [prefix, start), its fields lie at [start, stop)."""

    prefix: int
    start: int
    stop: int


class Splice(NamedTuple):
    """Bytes [start, stop) that `size` others replace, all of them inside of the frames, outermost first."""

    start: int
    stop: int
    size: int
    data: Callable[[], bytes | bytearray | memoryview]
    frames: tuple[Frame, ...]


class Piece(NamedTuple):
    """One field with all its bytes: tag at `begin`, payload at [start, stop)."""

    number: int
    wire: int
    begin: int
    start: int
    stop: int


def pieces(message: Message) -> Iterator[Piece]:
    """Yield the fields of a message with the bytes of their tags."""
    begin = message.start
    for number, wire, _, start, stop in message:
        yield Piece(number, wire, begin, start, stop)
        begin = stop


def frame(message: Message, piece: Piece) -> Frame:
    """Return the message that a field holds."""
    _, prefix = varint(message.buffer, piece.begin, message.stop)
    return Frame(prefix, piece.start, piece.stop)


def frames(message: Message, starts: Iterable[int]) -> dict[int, tuple[Frame, ...]]:
    """Return the frames around and with each of the messages that start at these bytes, outermost first.

    Raises:
        CorruptFileError: no message starts there.
    """
    found: dict[int, tuple[Frame, ...]] = {}
    wanted = sorted(set(starts))
    _descend(message, wanted, (), found)
    lost = [at for at in wanted if at not in found]
    if lost:
        raise CorruptFileError(f"no message starts at byte {lost[0]}")
    return found


def _descend(
    message: Message, wanted: Sequence[int], around: tuple[Frame, ...], found: dict[int, tuple[Frame, ...]]
) -> None:
    at = 0
    for piece in pieces(message):
        if at == len(wanted):
            return
        if piece.wire != BYTES or wanted[at] > max(piece.stop - 1, piece.start):
            continue
        here = (*around, frame(message, piece))
        if wanted[at] == piece.start:
            found[piece.start] = here
            at += 1
        end = bisect_left(wanted, piece.stop, at)
        if end > at:
            _descend(message.nested(piece.start, piece.stop), wanted[at:end], here, found)
            at = end


def spliced(splices: Iterable[Splice], size: int) -> list[Patch]:
    """Return the patches of splices, those of the lengths around them included, in no order.

    Raises:
        UnsupportedError: the file, `size` bytes long, would grow beyond what protobuf takes.
    """
    patches: list[Patch] = []
    growth: dict[Frame, int] = {}
    depths: dict[Frame, int] = {}
    total = 0
    for one in splices:
        patches.append(Patch(one.start, one.stop, one.data))
        delta = one.size - (one.stop - one.start)
        depths.update((around, depth) for depth, around in enumerate(one.frames))
        if one.frames:
            growth[one.frames[-1]] = growth.get(one.frames[-1], 0) + delta
        else:
            total += delta
    parents = {inner: outer for one in splices for outer, inner in zip(one.frames, one.frames[1:], strict=False)}
    for around in sorted(depths, key=lambda f: -depths[f]):
        delta = growth.get(around, 0)
        if not delta:
            continue
        prefix = encoded(around.stop - around.start + delta)
        patches.append(Patch(around.prefix, around.start, _constant(prefix)))
        delta += len(prefix) - (around.start - around.prefix)
        outer = parents.get(around)
        if outer is None:
            total += delta
        else:
            growth[outer] = growth.get(outer, 0) + delta
    if total > 0 and size + total > _MOST:
        raise UnsupportedError(
            f"stored anew, the weights would make a file of {size + total} bytes, and ONNX ends at {_MOST}"
        )
    return patches


def _constant(data: bytes) -> Callable[[], bytes]:
    return lambda: data


def encoded(value: int) -> bytes:
    r"""Return a number as a varint.

    >>> encoded(1), encoded(300)
    (b'\x01', b'\xac\x02')
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def tagged(number: int, payload: bytes) -> bytes:
    """Return a field of bytes."""
    return encoded(number << 3 | BYTES) + encoded(len(payload)) + payload


def changed(
    message: Message, around: tuple[Frame, ...], new: Mapping[int, tuple[int, Callable[[], bytes]] | None], first: int
) -> list[Splice]:
    """Return the splices that take fields out of a message, and put others in the place of the first of each number.

    Args:
        message: the message.
        around: its frames, its own last.
        new: by number of the fields to take out, what comes instead: size and bytes of one whole field; None: nothing.
        first: number of the field behind which new fields stand whose number the message does not have.
    """
    out: list[Splice] = []
    done: set[int] = set()
    behind = message.start
    for piece in pieces(message):
        if piece.number == first:
            behind = piece.stop
        if piece.number not in new:
            continue
        made = new[piece.number] if piece.number not in done else None
        done.add(piece.number)
        size, data = made or (0, bytes)
        out.append(Splice(piece.begin, piece.stop, size, data, around))
    for number, made in new.items():
        if number not in done and made is not None:
            out.append(Splice(behind, behind, *made, around))
    return out
