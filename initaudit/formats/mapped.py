"""A file as bounds-checked arrays, without reading it."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

import numpy as np

from initaudit.dtypes import numpy_dtype
from initaudit.errors import CorruptFileError
from initaudit.types import Array


class MappedFile:
    """One memory-mapped file; arrays taken from it are views that cost nothing until they are touched."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            self.size = file.seek(0, 2)
            if self.size == 0:
                raise CorruptFileError("the file is empty")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def view(self, offset: int, length: int, what: str = "data") -> memoryview:
        """Return `length` bytes from `offset`.

        Raises:
            CorruptFileError: they do not lie inside the file.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CorruptFileError(f"{what} at byte {offset} needs {length} bytes, but the file ends at {self.size}")
        return memoryview(self._map)[offset : offset + length]

    def array(self, offset: int, dtype: str, shape: tuple[int, ...], what: str = "data") -> Array:
        """Return a read-only contiguous array of `shape` (C order) that starts at byte `offset`."""
        kind: np.dtype[Any] = numpy_dtype(dtype)
        count = int(np.prod(shape, dtype=object)) if shape else 1
        return np.frombuffer(self.view(offset, count * kind.itemsize, what), kind, count).reshape(shape)

    def release(self, offset: int, length: int) -> None:
        """Let the system drop these pages from this process, so that memory stays flat over a long file."""
        if not hasattr(mmap, "MADV_DONTNEED"):
            return
        page = mmap.PAGESIZE
        start = -(-offset // page) * page
        stop = (offset + length) // page * page
        if stop > start:
            self._map.madvise(mmap.MADV_DONTNEED, start, stop - start)
