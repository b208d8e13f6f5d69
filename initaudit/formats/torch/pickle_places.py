"""Where in a pickle its byte strings are written, and how: what is needed to write others in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from initaudit.errors import UnsupportedError
from initaudit.formats.torch.changes import Bytes
from initaudit.formats.torch.pickle import Buffer, MakeUnpickler, Unpickler

_PREFIX = {b"B": 4, b"C": 1, b"\x8e": 8, b"\x96": 8, b"T": 4, b"U": 1}  # bytes of the length before the content
_LONGER = {b"C": b"B", b"U": b"T", b"B": b"\x8e"}
_TEXT = {b"X": 4, b"\x8c": 1, b"\x8d": 8}
_LINES = (b"S", b"V")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a byte string is written."""

    origin: object  # of the pickle
    at: int  # its instruction
    start: int  # its content
    stop: int
    code: bytes  # the instruction
    encoding: str = ""  # of the text that it was made of; empty for bytes as they are

    @property
    def plain(self) -> bool:
        """Whether the bytes are there as they are."""
        return not self.encoding and self.code in _PREFIX

    def encoded(self, data: Bytes) -> bytes:
        """Return an instruction that makes these bytes.

        Raises:
            UnsupportedError: they were text, and nothing tells how it became bytes.
        """
        if self.code == b"S":
            return b"S" + repr(bytes(data))[1:].encode() + b"\n"
        if self.plain:
            code = self.code if len(data) < 1 << 8 * _PREFIX[self.code] else _LONGER[self.code]
            return code + len(data).to_bytes(_PREFIX[code], "little") + data
        if not self.encoding:
            raise UnsupportedError("values that are written as text, without their encoding")
        text = bytes(data).decode(self.encoding)
        if self.code == b"V":
            return b"V" + _raw_unicode(text) + b"\n"
        raw = text.encode("utf-8", "surrogatepass")
        return self.code + len(raw).to_bytes(_TEXT[self.code], "little") + raw


def _raw_unicode(text: str) -> bytes:
    for sign in ("\\", "\0", "\n", "\r", "\x1a"):
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode("raw-unicode-escape")


@dataclass(frozen=True, slots=True)
class Frame:
    """A part of a pickle whose length is told ahead."""

    origin: object  # of the pickle
    at: int  # the length, eight bytes
    start: int
    stop: int


@dataclass(slots=True)
class Places:
    """The byte strings of all pickles of a file by the object that the reader made of them."""

    found: dict[int, tuple[object, Place]] = field(default_factory=dict)
    frames: list[Frame] = field(default_factory=list)

    @property
    def unpickler(self) -> MakeUnpickler:
        """What reads a pickle and notes its byte strings here."""
        return partial(_Noting, self)

    def note(self, value: object, place: Place) -> None:
        """Remember where a value is written."""
        if isinstance(value, (bytes, bytearray, memoryview, str)) and len(value) > 1:  # shorter ones are shared
            self.found[id(value)] = value, place

    def find(self, value: object) -> Place | None:
        """Return where a value is written."""
        known = self.found.get(id(value))
        return known[1] if known is not None else None


class _Noting(Unpickler):
    """Reads a pickle and notes where its byte strings are."""

    def __init__(
        self, places: Places, data: Buffer, start: int = 0, persistent: Callable[[object], object] | None = None,
        origin: object = None,
    ) -> None:  # fmt: skip
        super().__init__(data, start, persistent, origin)
        self._places = places

    def framed(self) -> None:
        """Run the instruction that tells a length ahead."""
        at = self.pos
        self.check_frame()
        stop = self.pos + int.from_bytes(self.data[at : at + 8], "little")
        self._places.frames.append(Frame(self.origin, at, self.pos, stop))

    def noted(self, code: bytes, operation: Callable[[Unpickler], object]) -> None:
        """Run an instruction that makes a string."""
        at = self.pos - 1
        operation(self)
        prefix = _PREFIX.get(code, _TEXT.get(code, 0))
        place = Place(self.origin, at, at + 1 + prefix, self.pos, code)
        self._places.note(self.stack[-1], place)

    def call(self, func: object, args: object, kwargs: dict[object, object] | None = None) -> object:
        """Note bytes that are made of a text."""
        value = super().call(func, args, kwargs)
        if isinstance(value, bytes) and isinstance(args, tuple) and len(args) == 2 and isinstance(args[1], str):
            place = self._places.find(args[0])
            if place is not None and place.code in (*_TEXT, b"V"):
                self._places.note(value, replace(place, encoding=args[1]))
        return value


def _noting(code: bytes, operation: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda unpickler: unpickler.noted(code, operation)


def _table() -> Sequence[Callable[[Any], object] | None]:
    table = list(Unpickler.table)
    for code in (*_PREFIX, *_TEXT, *_LINES):
        operation = table[code[0]]
        assert operation is not None
        table[code[0]] = _noting(code, operation)
    table[0x95] = _Noting.framed
    return table


_Noting.table = _table()
