"""A strict, lazy reader of the protobuf wire format: fields with absolute byte offsets, nothing copied.

    message = Message(file.view(0, file.size), 0, file.size)
    for number, wire, value, start, stop in message.fields({1: VARINT, 7: BYTES}):
        inner = message.nested(start, stop)

The payload of a field lies in bytes [start, stop) of the buffer; `value` is that of a varint, and 0 otherwise.
Source: https://protobuf.dev/programming-guides/encoding
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from initaudit.errors import CorruptFileError

if TYPE_CHECKING:
    from initaudit.types import Array

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
PACKABLE = -1  # in a schema: a repeated number, which may come packed or one by one
MAX_DEPTH = 100  # what protobuf's own readers allow
_MAX_TAG = 1 << 32
_LONG_VARINT = 10  # bytes; a 64-bit number needs no more

Field = tuple[int, int, int, int, int]  # number, wire type, varint value, start, stop


def varint(buffer: memoryview, at: int, stop: int) -> tuple[int, int]:
    """Return the unsigned number that starts at byte `at`, and the byte after it.

    Raises:
        CorruptFileError: it does not end before `stop`, or has more than 64 bits.
    """
    result = shift = 0
    first = at
    while at < stop:
        byte = buffer[at]
        at += 1
        result |= (byte & 0x7F) << shift
        if byte < 0x80:
            if result >> 64:
                raise CorruptFileError(f"the number at byte {first} has more than 64 bits")
            return result, at
        shift += 7
        if shift == 7 * _LONG_VARINT:
            raise CorruptFileError(f"the number at byte {first} has more than 64 bits")
    raise CorruptFileError(f"the number at byte {first} is cut off at byte {stop}")


def signed(value: int) -> int:
    """Return the two's complement reading of an unsigned 64-bit number."""
    return value - (1 << 64) if value >> 63 else value


class Message:
    """One message: a range of bytes in a buffer, read field by field."""

    __slots__ = ("buffer", "depth", "start", "stop")

    def __init__(self, buffer: memoryview, start: int, stop: int, depth: int = 0) -> None:
        self.buffer = buffer
        self.start = start
        self.stop = stop
        self.depth = depth

    def __iter__(self) -> Iterator[Field]:
        """Yield every field in file order.

        Raises:
            CorruptFileError: a field number of 0, an unknown wire type, or a field that does not fit.
        """
        buffer, at, stop = self.buffer, self.start, self.stop
        while at < stop:
            begin = at
            tag = buffer[at]
            at += 1
            if tag >= 0x80:
                tag, at = varint(buffer, begin, stop)
            wire = tag & 7
            value = 0
            if wire in (BYTES, VARINT):
                if at >= stop:
                    raise CorruptFileError(f"the field at byte {begin} is cut off at byte {stop}")
                start = at
                value = buffer[at]
                at += 1
                if value >= 0x80:
                    value, at = varint(buffer, start, stop)
                if wire == BYTES:
                    start = at
                    at += value
                    value = 0
            elif wire == FIXED32:
                start = at
                at += 4
            elif wire == FIXED64:
                start = at
                at += 8
            else:
                raise CorruptFileError(f"the field at byte {begin} has wire type {wire}, which no model file uses")
            if tag < 8 or tag >= _MAX_TAG:
                raise CorruptFileError(f"the field at byte {begin} has number {tag >> 3}")
            if at > stop:
                raise CorruptFileError(f"the field at byte {begin} needs bytes up to {at}, but they end at {stop}")
            yield tag >> 3, wire, value, start, at

    def fields(self, schema: Mapping[int, int]) -> Iterator[Field]:
        """Yield the fields that `schema` (number to wire type) knows; others are passed over.

        Raises:
            CorruptFileError: as when iterating, or a known field has another wire type.
        """
        for field in self:
            wanted = schema.get(field[0])
            if wanted is None:
                continue
            if wanted not in (field[1], PACKABLE):
                raise CorruptFileError(
                    f"field {field[0]} at byte {field[3]} has wire type {field[1]} instead of {wanted}"
                )
            yield field

    def nested(self, start: int, stop: int) -> Message:
        """Return the message in bytes [start, stop) of the same buffer.

        Raises:
            CorruptFileError: it is nested too deeply.
        """
        if self.depth >= MAX_DEPTH:
            raise CorruptFileError(f"messages are nested more than {MAX_DEPTH} deep at byte {start}")
        return Message(self.buffer, start, stop, self.depth + 1)

    def text(self, start: int, stop: int) -> str:
        """Return a string field; bytes that are no UTF-8 are shown as escapes."""
        return str(self.buffer[start:stop], "utf-8", "backslashreplace")


def varint_count(packed: memoryview) -> int:
    """Return how many numbers a packed field holds.

    Raises:
        CorruptFileError: the last one is cut off.
    """
    octets = np.frombuffer(packed, np.uint8)
    if octets.size and octets[-1] >= 0x80:
        raise CorruptFileError("a packed field ends inside a number")
    return int(np.count_nonzero(octets < 0x80))


def varints(packed: memoryview) -> Array:
    """Return the unsigned 64-bit numbers of a packed field.

    Raises:
        CorruptFileError: one is cut off or too long.
    """
    octets = np.frombuffer(packed, np.uint8)
    ends = np.flatnonzero(octets < 0x80)
    if octets.size and (not ends.size or ends[-1] != octets.size - 1):
        raise CorruptFileError("a packed field ends inside a number")
    starts = np.empty_like(ends)
    starts[:1] = 0
    starts[1:] = ends[:-1] + 1
    lengths = ends - starts + 1
    longest = int(lengths.max(initial=0))
    if longest > _LONG_VARINT:
        raise CorruptFileError("a packed field holds a number of more than 64 bits")
    values = np.zeros(ends.size, np.uint64)
    for position in range(longest):
        here = np.flatnonzero(lengths > position)
        part = (octets[starts[here] + position] & np.uint8(0x7F)).astype(np.uint64)
        values[here] |= part << np.uint64(7 * position)
    return values
