"""A pickle read while keeping track of which of its bytes make which value: for changing the arguments of one call."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from initaudit.formats.torch.pickle import Buffer, Unpickler
from initaudit.formats.torch.pickle_values import Record

_TUPLES = {b"\x85": 1, b"\x86": 2, b"\x87": 3}
_PUTS, _GETS = (b"q", b"r", b"p", b"\x94"), (b"h", b"j", b"g")

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Made:
    """A tuple, and which bytes make each of its elements; `at` is the instruction that takes it."""

    values: tuple[Any, ...]
    spans: tuple[Span, ...]
    at: int
    storage: object = None  # what it names, if it is a persistent id


class Tracer(Unpickler):
    """Notes the calls, the persistent ids, and what is remembered and used again."""

    def __init__(
        self, data: Buffer, start: int = 0, persistent: Callable[[object], object] | None = None, origin: object = None
    ) -> None:
        super().__init__(data, start, persistent, origin)
        self.calls: list[tuple[Record, Made]] = []
        self.pids: dict[int, Made] = {}  # by the byte where the id begins
        self.puts: list[tuple[Span, int]] = []  # what is remembered where, under which number
        self.gets: dict[int, list[Span]] = {}  # by that number
        self.numbered = False  # whether what is remembered has its number from the order
        self._starts: list[int] = []
        self._marks: list[tuple[list[int], int]] = []
        self._tuples: dict[int, tuple[object, tuple[Span, ...]]] = {}

    def step(self, code: bytes, operation: Callable[[Any], object]) -> None:
        """Run an instruction and keep the tracks of its values."""
        at, marks = self.pos - 1, len(self.marks)
        spans = self._elements(code, at)
        taken = self.stack[-1] if code in b"RQ" and self.stack else None
        operation(self)
        if len(self.marks) > marks:
            self._marks.append((self._starts, at))
            self._starts = []
            return
        begin = at
        if len(self.marks) < marks:
            self._starts, begin = self._marks.pop()
        if len(self.stack) > len(self._starts):
            self._starts.append(begin)
        del self._starts[len(self.stack) :]
        if spans is not None:
            self._tuples[id(self.stack[-1])] = self.stack[-1], spans
        elif code in _PUTS:
            self.puts.append(((at, self.pos), self._number(code, at)))
        elif code in _GETS:
            self.gets.setdefault(self._number(code, at), []).append((at, self.pos))
        elif isinstance(taken, tuple) and id(taken) in self._tuples:
            made = Made(taken, self._tuples[id(taken)][1], at, self.stack[-1])
            if code == b"Q":
                self.pids[self._starts[-1]] = made
            elif isinstance(self.stack[-1], Record):
                self.calls.append((self.stack[-1], made))

    def remembered(self, span: Span) -> list[int]:
        """Return the numbers under which something is remembered between two bytes."""
        return [number for (start, _), number in self.puts if span[0] <= start < span[1]]

    def _elements(self, code: bytes, at: int) -> tuple[Span, ...] | None:
        if code == b"t":
            starts = self._starts
        elif code in _TUPLES:
            starts = self._starts[-_TUPLES[code] :]
        else:
            return None
        return tuple(zip(starts, [*starts[1:], at], strict=True))

    def _number(self, code: bytes, at: int) -> int:
        if code in b"qh":
            return int(self.data[at + 1])
        if code in b"rj":
            return int(struct.unpack_from("<I", self.data, at + 1)[0])
        if code in b"pg":
            return int(bytes(self.data[at + 1 : self.pos]))
        self.numbered = True
        return len(self.memo) - 1


def _tracing(code: bytes, operation: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda unpickler: unpickler.step(code, operation)


def _table() -> Sequence[Callable[[Any], object] | None]:
    return [
        None if operation is None else _tracing(bytes([code]), operation)
        for code, operation in enumerate(Unpickler.table)
    ]


Tracer.table = _table()
