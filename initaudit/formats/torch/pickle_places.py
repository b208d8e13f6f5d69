"""Where in a pickle its byte strings are written, and how: what is needed to write others in their place."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from initaudit.errors import UnsupportedError
from initaudit.formats.torch.changes import Bytes
from initaudit.formats.torch.pickle import Buffer, MakeUnpickler, Unpickler

_PREFIX = {b"B": 4, b"C": 1, b"\x8e": 8, b"\x96": 8, b"T": 4, b"U": 1}  # bytes of the length before the content
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
    framed: bool = False  # a length before it, with other things in it, would change too

    @property
    def plain(self) -> bool:
        """Whether the bytes are there as they are."""
        return not self.encoding and self.code in _PREFIX

    def encoded(self, data: Bytes) -> bytes:
        """Return the instruction that makes these bytes.

        Raises:
            UnsupportedError: it would be longer in a place where there is no room.
        """
        if not self.encoding and self.code != b"S":
            raise UnsupportedError("values that are written as text, without their encoding")
        if self.code == b"S":
            made = b"S" + repr(bytes(data))[1:].encode() + b"\n"
        elif self.code == b"V":
            made = b"V" + _raw_unicode(bytes(data).decode(self.encoding)) + b"\n"
        else:
            raw = bytes(data).decode(self.encoding).encode("utf-8", "surrogatepass")
            made = self.code + len(raw).to_bytes(_TEXT[self.code], "little") + raw
        if self.framed and len(made) != self.stop - self.at:
            raise UnsupportedError("values that are written as text in a framed pickle have no room for others")
        return made


def _raw_unicode(text: str) -> bytes:
    for sign in ("\\", "\0", "\n", "\r", "\x1a"):
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text.encode("raw-unicode-escape")


@dataclass(slots=True)
class Places:
    """The byte strings of all pickles of a file by the object that the reader made of them."""

    found: dict[int, tuple[object, Place]] = field(default_factory=dict)

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
        self._framed = False

    def framed(self) -> None:
        """Run the instruction that tells a length ahead."""
        self.check_frame()
        self._framed = True

    def noted(self, code: bytes, operation: Callable[[Unpickler], object]) -> None:
        """Run an instruction that makes a string."""
        at = self.pos - 1
        operation(self)
        prefix = _PREFIX.get(code, _TEXT.get(code, 0))
        place = Place(self.origin, at, at + 1 + prefix, self.pos, code, framed=self._framed)
        self._places.note(self.stack[-1], place)

    def call(self, func: object, args: object, kwargs: dict[object, object] | None = None) -> object:
        """Note bytes that are made of a text."""
        value = super().call(func, args, kwargs)
        if isinstance(value, bytes) and isinstance(args, tuple) and len(args) == 2 and isinstance(args[1], str):
            place = self._places.find(args[0])
            if place is not None and place.code in (*_TEXT, b"V"):
                made = Place(place.origin, place.at, place.start, place.stop, place.code, args[1], place.framed)
                self._places.note(value, made)
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
