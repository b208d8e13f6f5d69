"""A zip archive's own bookkeeping, byte by byte: which fields say where a member is, how long, and its checksum."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from initaudit.errors import CorruptFileError, UnsupportedError
from initaudit.formats.torch.archive import Archive
from initaudit.formats.torch.storage import Source

_FULL2, _FULL4 = 0xFFFF, 0xFFFFFFFF
_DESCRIPTOR = 1 << 3  # flag: sizes and checksum stand behind the data
_TAIL = 22 + 65535
_BEFORE = "a zip archive with something before it is read, but not written"


@dataclass(frozen=True, slots=True)
class Number:
    """An unsigned integer in the bookkeeping."""

    at: int
    width: int  # bytes
    value: int

    def bytes(self, value: int) -> bytes:
        """Return another value as it would be written here.

        Raises:
            UnsupportedError: it has no room.
        """
        if value >= (1 << 8 * self.width) - (self.width < 8):
            raise UnsupportedError(f"the archive has no room to say that something is {value} bytes long or far")
        return value.to_bytes(self.width, "little")


@dataclass(frozen=True, slots=True)
class Entry:
    """One member, as the directory at the end has it."""

    name: str
    at: int  # of the entry in the directory
    flags: int
    method: Number
    checksum: Number
    packed: Number  # size as stored
    size: Number
    header: Number  # where its local header is


@dataclass(frozen=True, slots=True)
class Local:
    """One member, where its data are."""

    method: Number
    late: bool  # whether size and checksum are told behind the data
    checksum: Number
    sizes: tuple[Number, Number] | None  # packed, unpacked; None where they only stand behind the data
    extra_length: Number
    padding: int | None  # where the extra field is that torch aligns the data with
    start: int  # of the data
    stop: int
    behind: tuple[Number, Number, Number] | None  # checksum, packed and unpacked size behind the data


@dataclass(frozen=True, slots=True)
class Ending:
    """The directory as a whole."""

    start: int  # of the directory
    stop: int
    starts: tuple[Number, ...]  # where it is said where it starts
    sizes: tuple[Number, ...]
    counts: tuple[Number, ...]
    locator: Number | None  # where the zip64 end record is


class Parts:
    """The bookkeeping of an archive.

    Raises:
        CorruptFileError: it contradicts itself.
        UnsupportedError: the archive does not begin where its source does.
    """

    def __init__(self, archive: Archive) -> None:
        self.source: Source = archive.source
        self.ending = _ending(self.source)
        entries = _entries(self.source, self.ending, list(archive.members))
        for info, entry in zip(archive.members.values(), entries, strict=True):
            if (entry.header.value, entry.packed.value) != (info.header_offset, info.compress_size):
                raise UnsupportedError(_BEFORE)
        self.by_name = {entry.name: entry for entry in entries}
        self.order = sorted(entries, key=lambda entry: entry.header.value)
        reached = 0
        for entry in self.order:
            if entry.header.value < reached:
                raise CorruptFileError(f"{entry.name} overlaps the member before it")
            reached = self._stop(entry)
        if reached > self.ending.start:
            raise CorruptFileError(f"{self.order[-1].name} overlaps the directory of the archive")

    def _stop(self, entry: Entry) -> int:
        head = bytes(self.source.view(entry.header.value, 30, f"header of {entry.name}"))
        if head[:4] != b"PK\x03\x04":
            raise CorruptFileError(f"no member {entry.name} at byte {entry.header.value}")
        name, extra = struct.unpack_from("<HH", head, 26)
        return entry.header.value + 30 + int(name) + int(extra) + entry.packed.value

    def local(self, entry: Entry) -> Local:
        """Return the fields around the data of a member."""
        at = entry.header.value
        head = bytes(self.source.view(at, 30))
        method, checksum = _number(head, at, 8, 2), _number(head, at, 14, 4)
        packed, size, extra = _number(head, at, 18, 4), _number(head, at, 22, 4), _number(head, at, 28, 2)
        flags, names, extras = struct.unpack_from("<6xH18xHH", head)
        start = at + 30 + names + extras
        stop = start + entry.packed.value
        fields = _extras(self.source, start - extras, start)
        wide = fields.get(1)
        if wide is not None and wide[1] >= 16:
            raw = bytes(self.source.view(wide[0], 16))
            if size.value == _FULL4:
                size = _number(raw, wide[0], 0, 8)
            if packed.value == _FULL4:
                packed = _number(raw, wide[0], 8, 8)
        told = packed.value == entry.packed.value and size.value == entry.size.value
        later = flags & _DESCRIPTOR and packed.value == size.value == 0
        if not told and not later:
            raise CorruptFileError(f"{entry.name} has another size in its header than in the directory")
        behind = self._behind(entry, stop) if flags & _DESCRIPTOR else None
        padding = fields[0x4246][0] - 4 if 0x4246 in fields else None
        sizes = None if later and not told else (packed, size)
        late = bool(flags & _DESCRIPTOR)
        return Local(method, late, checksum, sizes, extra, padding, start, stop, behind)

    def _behind(self, entry: Entry, stop: int) -> tuple[Number, Number, Number] | None:
        """Return the fields of the data descriptor, None where there is none that fits."""
        raw = bytes(self.source.view(stop, min(24, self.source.size - stop)))
        for signature in (b"PK\x07\x08", b""):
            for width in (4, 8):
                first = len(signature)
                fields = [(first, 4), (first + 4, width), (first + 4 + width, width)]
                if raw[:first] != signature or len(raw) < first + 4 + 2 * width:
                    continue
                checksum, packed, size = (_number(raw, stop, where, n) for where, n in fields)
                if (checksum.value, packed.value, size.value) == (
                    entry.checksum.value, entry.packed.value, entry.size.value,
                ):  # fmt: skip
                    return checksum, packed, size
        return None


def _number(raw: bytes, base: int, at: int, width: int) -> Number:
    return Number(base + at, width, int.from_bytes(raw[at : at + width], "little"))


def _extras(source: Source, start: int, stop: int) -> dict[int, tuple[int, int]]:
    """Return where the content of each extra field is and how long it is."""
    raw = bytes(source.view(start, stop - start))
    found: dict[int, tuple[int, int]] = {}
    at = 0
    while at + 4 <= len(raw):
        kind, length = struct.unpack_from("<HH", raw, at)
        if at + 4 + length > len(raw):
            break
        found.setdefault(kind, (start + at + 4, length))
        at += 4 + length
    return found


def _ending(source: Source) -> Ending:
    base = max(0, source.size - _TAIL)
    tail = bytes(source.view(base, source.size - base))
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or at + 22 > len(tail):
        raise CorruptFileError("a zip archive without its end")
    counts = [_number(tail, base, at + 8, 2), _number(tail, base, at + 10, 2)]
    sizes, starts = [_number(tail, base, at + 12, 4)], [_number(tail, base, at + 16, 4)]
    locator = None
    if at >= 20 and tail[at - 20 : at - 16] == b"PK\x06\x07":
        locator = _number(tail, base, at - 12, 8)
        record = bytes(source.view(locator.value, 56, "the end of a zip archive"))
        if record[:4] != b"PK\x06\x06":
            raise CorruptFileError("a zip archive without its end")
        counts = [*(n for n in counts if n.value != _FULL2), *(_number(record, locator.value, n, 8) for n in (24, 32))]
        sizes = [*(n for n in sizes if n.value != _FULL4), _number(record, locator.value, 40, 8)]
        starts = [*(n for n in starts if n.value != _FULL4), _number(record, locator.value, 48, 8)]
    if any(len({number.value for number in numbers}) > 1 for numbers in (counts, sizes, starts)):
        raise CorruptFileError("a zip archive whose two ends differ")
    start, stop = starts[0].value, starts[0].value + sizes[0].value
    if stop > (locator.value if locator else base + at):
        raise CorruptFileError("a zip archive whose directory reaches beyond its end")
    return Ending(start, stop, tuple(starts), tuple(sizes), tuple(counts), locator)


def _entries(source: Source, ending: Ending, names: list[str]) -> list[Entry]:
    raw = bytes(source.view(ending.start, ending.stop - ending.start, "the directory"))
    base = ending.start
    found: list[Entry] = []
    at = 0
    while at < len(raw):
        if raw[at : at + 4] != b"PK\x01\x02" or at + 46 > len(raw):
            raise UnsupportedError(_BEFORE)
        flags, name, extras, comment = struct.unpack_from("<8xH18xHHH", raw, at)
        method, checksum = _number(raw, base, at + 10, 2), _number(raw, base, at + 16, 4)
        packed, size, header = (_number(raw, base, at + where, 4) for where in (20, 24, 42))
        behind = at + 46 + name
        wide = _extras(source, base + behind, base + behind + extras).get(1)
        if wide is not None:
            place, left = wide
            numbers = []
            for number in (size, packed, header):
                if number.value == _FULL4 and left >= 8:
                    number, place, left = _number(raw, base, place - base, 8), place + 8, left - 8  # noqa: PLW2901
                numbers.append(number)
            size, packed, header = numbers
        if len(found) == len(names):
            raise CorruptFileError("two members of the archive have the same name")
        found.append(Entry(names[len(found)], base + at, flags, method, checksum, packed, size, header))
        at = behind + extras + comment
    if at != len(raw) or len(found) != len(names) or ending.counts[0].value not in (len(found), len(found) & _FULL2):
        raise CorruptFileError("a zip archive with more or fewer members than it says")
    return found
