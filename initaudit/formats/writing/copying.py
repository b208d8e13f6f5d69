"""One file written as another: copied piece by piece, the patches in their places, sums taken on the way.

Memory stays flat whatever the size of the file; a patch is made when its turn comes.
"""

from __future__ import annotations

import errno
import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from initaudit.edits import FilePlan
from initaudit.errors import CorruptFileError, WriteError

_BLOCK = 4 << 20  # bytes
_NOT_A_FILE = {errno.EINVAL, errno.ENOTSUP, errno.EBADF}

Tick = Callable[[int], None]  # told how many bytes more have been copied


@dataclass(frozen=True, slots=True)
class Copied:
    """What was read and written."""

    read: str  # sha256
    written: str  # sha256
    seen: tuple[int, int, int, int]  # `signature` of the file that was read


def signature(stat: os.stat_result) -> tuple[int, int, int, int]:
    """Return what changes when a file is written or replaced: device, inode, size, time of the last change (ns)."""
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns


def write_copy(plan: FilePlan, target: Path, tick: Tick = lambda count: None, *, alike: bool = False) -> Copied:
    """Write the file that a plan makes of another, and see that it is on the disk.

    Args:
        plan: what changes.
        target: the new file; there is none of that name.
        tick: told how many bytes more have been copied.
        alike: give it the owner, the whole mode and the extended attributes of the original too.

    Raises:
        WriteError: the original was cut short meanwhile.
        CorruptFileError: patches are out of order, or reach beyond the original.
        UnsupportedError: a patch cannot be made.
        OSError: of the system, as it came.
    """
    with plan.path.open("rb", buffering=0) as source:
        stat = os.fstat(source.fileno())
        # in the mode of the original, less what the umask takes; the open file stays writable even if that says 0444
        mode = stat.st_mode & 0o777
        number = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        with os.fdopen(number, "w+b") as out:
            copy = _Copy(source, out, tick, sparse=_stored(stat) < stat.st_size)
            for patch in plan.patches:
                if not copy.at <= patch.start <= patch.stop <= stat.st_size:
                    raise CorruptFileError(f"a patch of bytes {patch.start} to {patch.stop}, out of order or beyond")
                copy.keep(patch.start - copy.at)
                copy.put(patch.data(), patch.stop - patch.start)
            copy.keep(stat.st_size - copy.at)
            out.truncate()  # to the position, which a hole at the end may have moved beyond what was written
            out.flush()
            if plan.seal is not None:
                plan.seal(out)
                out.flush()
            written = copy.written() if plan.seal is None else _sum(out)
            if alike:
                _take_over(plan.path, target)
            sync(out.fileno())
        return Copied(copy.read.hexdigest(), written, signature(stat))


class _Copy:
    """A copy under way."""

    def __init__(self, source: BinaryIO, out: BinaryIO, tick: Tick, *, sparse: bool) -> None:
        self.at = 0  # bytes of the source that are done
        self.read = hashlib.sha256()
        self._source = source
        self._out = out
        self._tick = tick
        self._sparse = sparse
        self._buffer = memoryview(bytearray(_BLOCK))
        self._wrote: hashlib._Hash | None = None  # None until the copies part, for then two sums are needed

    def written(self) -> str:
        """Return the sum of what was written."""
        return (self._wrote or self.read).hexdigest()

    def keep(self, count: int) -> None:
        """Copy bytes as they are."""
        while count:
            block = self._next(count)
            if self._wrote is not None:
                self._wrote.update(block)
            if self._sparse and not np.frombuffer(block, np.uint8).any():
                self._out.seek(len(block), os.SEEK_CUR)
            else:
                self._out.write(block)
            count -= len(block)

    def put(self, data: bytes | bytearray | memoryview, instead: int) -> None:
        """Write bytes in place of others."""
        if self._wrote is None:
            self._wrote = self.read.copy()
        while instead:
            instead -= len(self._next(instead))
        self._wrote.update(data)
        self._out.write(data)

    def _next(self, most: int) -> memoryview:
        count: int = self._source.readinto(self._buffer[:most])  # type: ignore[attr-defined]
        if not count:
            raise WriteError("the file was cut short while it was copied")
        block = self._buffer[:count]
        self.read.update(block)
        self.at += count
        self._tick(count)
        return block


def sha256(path: Path) -> str:
    """Return the sum of a file."""
    with path.open("rb") as file:
        return _sum(file)


def _sum(file: BinaryIO) -> str:
    found = hashlib.sha256()
    file.seek(0)
    while block := file.read(_BLOCK):
        found.update(block)
    return found.hexdigest()


def _stored(stat: os.stat_result) -> int:
    """Return the bytes that a file takes on the disk, as far as the system tells."""
    return stat.st_blocks * 512 if hasattr(stat, "st_blocks") else stat.st_size


def space(path: Path) -> int:
    """Return the bytes that a copy of a file will take."""
    stat = path.stat()
    return min(_stored(stat), stat.st_size)


def _take_over(original: Path, copy: Path) -> None:
    """Give a copy the owner, mode and extended attributes of the original, as far as the system allows."""
    stat = original.stat()
    if hasattr(os, "chown"):
        with suppress(OSError):
            os.chown(copy, stat.st_uid, stat.st_gid)
    copy.chmod(stat.st_mode & 0o7777)  # after the owner, whose change takes the set-id bits away
    if hasattr(os, "listxattr"):
        with suppress(OSError):
            for name in os.listxattr(original):
                with suppress(OSError):  # those of the system are not ours to set
                    os.setxattr(copy, name, os.getxattr(original, name))


def sync(number: int) -> None:
    """Wait until an open file is on the disk."""
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415  Windows has none

        with suppress(OSError):
            fcntl.fcntl(number, fcntl.F_FULLFSYNC)  # fsync alone leaves it in the drive
            return
    os.fsync(number)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if sys.platform == "win32":
        return
    number = os.open(folder, os.O_RDONLY)
    try:
        sync(number)
    except OSError as error:
        if error.errno not in _NOT_A_FILE:  # some file systems cannot, and need not
            raise
    finally:
        os.close(number)
