"""What becomes of a run of bytes: pieces of it replaced, checksums mended; one run may lie inside another.

From the storage to the archive member or pickle that holds it, and so on, up to the patches and the seal of a file.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from operator import attrgetter
from pathlib import Path
from typing import BinaryIO

from initaudit.edits import FilePlan, Patch
from initaudit.errors import CorruptFileError

_CHUNK = 8 << 20
Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Change:
    """Bytes [start, stop) make way for `length` others."""

    start: int
    stop: int
    length: int
    data: Callable[[], Bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Checksum:
    """The CRC-32 of what becomes of the bytes [start, stop), kept in fields of four bytes."""

    start: int
    stop: int
    fields: tuple[int, ...]


class Work:
    """What becomes of one run of bytes; every position is one before the changes."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.checksums: list[Checksum] = []  # those of inner runs first

    @property
    def growth(self) -> int:
        """How many bytes longer it becomes."""
        return sum(change.length - (change.stop - change.start) for change in self.changes)

    def put(self, start: int, new: bytes, old: int | None = None) -> None:
        """Replace `old` bytes, as many as the new ones unless told, from `start`."""
        self.changes.append(Change(start, start + (len(new) if old is None else old), len(new), lambda: new))

    def include(self, inner: Work, at: int) -> None:
        """Take over the work on a run that lies in this one from byte `at`."""
        for one in inner.changes:
            self.changes.append(Change(one.start + at, one.stop + at, one.length, one.data))
        for check in inner.checksums:
            fields = tuple(place + at for place in check.fields)
            self.checksums.append(Checksum(check.start + at, check.stop + at, fields))

    def ordered(self) -> list[Change]:
        """Return the changes by where they are.

        Raises:
            CorruptFileError: two of them meet: tensors that overlap in a way that no program writes.
        """
        self.changes.sort(key=attrgetter("start", "stop"))
        for before, after in pairwise(self.changes):
            if before.stop > after.start:
                raise CorruptFileError(f"what is to change overlaps at byte {after.start}")
        return self.changes

    def rendered(self, raw: Bytes) -> bytearray:
        """Return what becomes of these bytes."""
        out = bytearray()
        done = 0
        for change in self.ordered():
            out += raw[done : change.start]
            out += change.data()
            done = change.stop
        out += raw[done:]
        moved = self._moved()
        for check in self.checksums:
            value = zlib.crc32(memoryview(out)[moved(check.start) : moved(check.stop)]).to_bytes(4, "little")
            for place in check.fields:
                at = moved(place)
                out[at : at + 4] = value
        return out

    def file_plan(self, path: Path) -> FilePlan:
        """Return the work as the plan of a file."""
        patches = tuple(Patch(change.start, change.stop, change.data) for change in self.ordered())
        moved = self._moved()
        checks = [
            Checksum(moved(check.start), moved(check.stop), tuple(moved(place) for place in check.fields))
            for check in self.checksums
        ]
        return FilePlan(path, patches, (lambda file: _seal(file, checks)) if checks else None)

    def _moved(self) -> Callable[[int], int]:
        """Return what tells where a byte outside the changes comes to lie."""
        changes = self.ordered()
        stops = [change.stop for change in changes]
        grown = list(accumulate((change.length - (change.stop - change.start) for change in changes), initial=0))
        return lambda place: place + grown[bisect_right(stops, place)]


def _seal(file: BinaryIO, checks: list[Checksum]) -> None:
    """Mend checksums in a file whose bytes are in place."""
    for check in checks:
        file.seek(check.start)
        left, value = check.stop - check.start, 0
        while left:
            piece = file.read(min(left, _CHUNK))
            if not piece:
                raise OSError("the file ended while its checksum was computed")
            value = zlib.crc32(piece, value)
            left -= len(piece)
        for place in check.fields:
            file.seek(place)
            file.write(value.to_bytes(4, "little"))
