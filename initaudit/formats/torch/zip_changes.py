"""What becomes of a zip archive when members of it change: their bytes, and the bookkeeping that tells of them."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache, partial

from initaudit.errors import UnsupportedError
from initaudit.formats.torch.archive import Archive
from initaudit.formats.torch.changes import Bytes, Change, Checksum, Work
from initaudit.formats.torch.zip_parts import Entry, Local, Number, Parts

_ALIGNMENT = 64  # bytes; where torch begins the data of a member, unless the archive tells otherwise
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_UTF8 = 0x800
_MAX = 0xFFFFFFFF


class ArchiveWork:
    """Collects what becomes of the members of an archive."""

    def __init__(self, archive: Archive) -> None:
        self.archive = archive
        self.parts = Parts(archive)
        self.members: dict[str, Work] = {}
        self._new: list[tuple[str, int, Callable[[], Bytes]]] = []

    def member(self, name: str) -> Work:
        """Return the work on the content of a member, as it is once decompressed."""
        return self.members.setdefault(name, Work())

    def add(self, name: str, length: int, data: Callable[[], Bytes]) -> None:
        """Add a member behind the others."""
        self._new.append((name, length, data))

    def done(self) -> Work:
        """Return what becomes of the archive.

        Raises:
            CorruptFileError: the bookkeeping of a member contradicts that of the archive.
            UnsupportedError: a size or place has no room.
        """
        work = Work()
        moved = 0
        aligned = self._alignment()
        for entry in self.parts.order:
            if moved:
                work.put(entry.header.at, entry.header.bytes(entry.header.value + moved))
                if moved % aligned:
                    moved += self._realign(work, entry, -moved % aligned)
            if entry.name in self.members and self.members[entry.name].changes:
                moved += self._change(work, entry, self.members[entry.name])
        self._finish(work, moved, aligned)
        return work

    def _alignment(self) -> int:
        """Return the alignment that the archive was written with."""
        for name in self.archive.members:
            if name.endswith(".storage_alignment"):
                told = self.archive.read(name, 64)
                return max(1, int(told)) if told.isdigit() else _ALIGNMENT
        return _ALIGNMENT

    def _realign(self, work: Work, entry: Entry, more: int) -> int:
        """Let the padding before the data of a member grow; return by how much it does."""
        local = self.parts.local(entry)
        if local.padding is None or local.extra_length.value + more > 0xFFFF:
            return 0
        length = int.from_bytes(self.parts.source.view(local.padding + 2, 2), "little") + more
        work.put(local.extra_length.at, local.extra_length.bytes(local.extra_length.value + more))
        work.put(local.padding, b"FB" + length.to_bytes(2, "little") + b"Z" * more, old=4)
        return more

    def _change(self, work: Work, entry: Entry, inner: Work) -> int:
        """Add what becomes of one member; return by how much it grows."""
        local = self.parts.local(entry)
        name, old = entry.name, entry.size.value
        new = old + inner.growth
        if entry.method.value == zipfile.ZIP_STORED:
            work.include(inner, local.start)
        else:
            content = partial(_anew, self.archive, name, inner)
            work.changes.append(Change(local.start, local.stop, new, content))
            for method in (local.method, entry.method):
                work.put(method.at, method.bytes(zipfile.ZIP_STORED))
        self._resize(work, entry, local, new)
        own_is_empty = local.late and local.checksum.value == 0
        fields = [entry.checksum, *([] if own_is_empty else [local.checksum]), *(local.behind or ())[:1]]
        work.checksums.append(Checksum(local.start, local.stop, tuple(field.at for field in fields)))
        return new - entry.packed.value

    def _resize(self, work: Work, entry: Entry, local: Local, new: int) -> None:
        """Say everywhere how long a member is now."""
        places = [entry.packed, entry.size, *(local.sizes or ()), *(local.behind or ())[1:]]
        if any(number.value != new for number in places):
            if local.late and local.behind is None:
                raise UnsupportedError(f"the size of {entry.name} is nowhere near its data")
            for number in places:
                work.put(number.at, number.bytes(new))

    def _finish(self, work: Work, moved: int, aligned: int) -> None:
        """Add new members, and what the directory says of itself."""
        ending = self.parts.ending
        directory = 0
        for name, length, data in self._new:
            at = ending.start + moved
            raw = name.encode()
            padding = -(at + _LOCAL.size + len(raw) + 4) % aligned
            extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
            if length >= _MAX:
                raise UnsupportedError("a tensor that has no room in the file would need more than 4 GB for its own")
            checked = cache(partial(_checked, data, name, length))
            size = _LOCAL.size + len(raw) + len(extra) + length
            work.changes.append(Change(ending.start, ending.start, size, partial(_local, raw, extra, checked)))
            entry = len(_central(raw, length, at, lambda: (b"", 0)))
            work.changes.append(Change(ending.stop, ending.stop, entry, partial(_central, raw, length, at, checked)))
            moved += size
            directory += entry
        if moved:
            _put_all(work, ending.starts, moved)
        if directory:
            _put_all(work, ending.sizes, directory)
            _put_all(work, ending.counts, len(self._new))
        if ending.locator is not None and moved + directory:
            _put_all(work, (ending.locator,), moved + directory)


def _put_all(work: Work, numbers: tuple[Number, ...], more: int) -> None:
    for number in numbers:
        work.put(number.at, number.bytes(number.value + more))


def _anew(archive: Archive, name: str, inner: Work) -> bytearray:
    """Return a compressed member, decompressed and changed."""
    return inner.rendered(archive.inflate(name))


def _checked(data: Callable[[], Bytes], name: str, length: int) -> tuple[Bytes, int]:
    made = data()
    if len(made) != length:
        raise ValueError(f"{name} has {len(made)} bytes, not {length}")
    return made, zlib.crc32(made)


def _local(name: bytes, extra: bytes, checked: Callable[[], tuple[Bytes, int]]) -> bytes:
    data, checksum = checked()
    head = _LOCAL.pack(b"PK\x03\x04", 0, _UTF8, 0, 0, 0, checksum, len(data), len(data), len(name), len(extra))
    return b"".join((head, name, extra, data))


def _central(name: bytes, length: int, at: int, checked: Callable[[], tuple[Bytes, int]]) -> bytes:
    checksum = checked()[1]
    extra, version = (struct.pack("<HHQ", 1, 8, at), 45) if at >= _MAX else (b"", 0)
    head = _CENTRAL.pack(
        b"PK\x01\x02", version, version, _UTF8, 0, 0, 0, checksum, length, length, len(name), len(extra), 0, 0, 0, 0,
        min(at, _MAX),
    )  # fmt: skip
    return head + name + extra
