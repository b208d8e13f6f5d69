"""The member names of a zip archive, and nothing else of it: enough to tell what kind of archive it is."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

DIRECTORY_LIMIT = 64 << 20  # bytes; the directory of a checkpoint of 100,000 tensors stays below 20 MB
_TAIL = 22 + 65535  # the end record and the longest comment behind it
_END, _END64, _LOCATOR, _ENTRY = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"


def zip_names(path: Path) -> tuple[str, ...]:
    """Return the names in an archive's directory; none if it has no sound one."""
    with path.open("rb") as file:
        try:
            start, length = directory(file)
        except struct.error:
            return ()
        if length > DIRECTORY_LIMIT:
            return ()
        file.seek(start)
        return tuple(_names(file.read(length)))


def directory(file: IO[bytes]) -> tuple[int, int]:
    """Return where an archive's directory starts and how long it claims to be; (0, 0) if there is none."""
    size = file.seek(0, 2)
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    end = tail.rfind(_END)
    if end < 0 or end + 22 > len(tail):
        return 0, 0
    length, start = struct.unpack_from("<II", tail, end + 12)
    if 0xFFFFFFFF in (length, start):
        locator = tail[max(0, end - 20) : end]
        if locator[:4] != _LOCATOR:
            return 0, 0
        file.seek(struct.unpack_from("<Q", locator, 8)[0] & (1 << 62) - 1)
        record = file.read(56)
        if record[:4] != _END64:
            return 0, 0
        length, start = struct.unpack_from("<QQ", record, 40)
    return (start, length) if start + length <= size else (0, 0)


def _names(entries: bytes) -> Iterator[str]:
    at = 0
    while entries[at : at + 4] == _ENTRY and at + 46 <= len(entries):
        name, extra, comment = struct.unpack_from("<HHH", entries, at + 28)
        yield entries[at + 46 : at + 46 + name].decode("utf-8", "replace")
        at += 46 + name + extra + comment
