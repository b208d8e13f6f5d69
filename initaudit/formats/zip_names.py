"""The member names of a zip archive, and nothing else of it: enough to tell what kind of archive it is."""

from __future__ import annotations

import struct
from pathlib import Path

_TAIL = 22 + 65535  # the end record and the longest comment behind it
_DIRECTORY_LIMIT = 64 << 20  # bytes; a checkpoint of 100,000 tensors stays below 20 MB
_END, _END64, _LOCATOR, _ENTRY = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02"


def zip_names(path: Path) -> tuple[str, ...]:
    """Return the names in an archive's directory; none if it has no sound one."""
    try:
        return _names(path)
    except (struct.error, IndexError):
        return ()


def _names(path: Path) -> tuple[str, ...]:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        base = max(0, size - _TAIL)
        file.seek(base)
        tail = file.read()
        end = tail.rfind(_END)
        if end < 0:
            return ()
        length, start = struct.unpack_from("<II", tail, end + 12)
        if 0xFFFFFFFF in (length, start):
            locator = end - 20
            if tail[max(0, locator) : end][:4] != _LOCATOR:
                return ()
            file.seek(struct.unpack_from("<Q", tail, locator + 8)[0] & (1 << 62) - 1)
            record = file.read(56)
            if record[:4] != _END64:
                return ()
            length, start = struct.unpack_from("<QQ", record, 40)
        if length > _DIRECTORY_LIMIT or start + length > size:
            return ()
        file.seek(start)
        directory = file.read(length)
    names: list[str] = []
    at = 0
    while directory[at : at + 4] == _ENTRY:
        name, extra, comment = struct.unpack_from("<HHH", directory, at + 28)
        names.append(directory[at + 46 : at + 46 + name].decode("utf-8", "replace"))
        at += 46 + name + extra + comment
    return tuple(names)
