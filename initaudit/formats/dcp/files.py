"""The files of a distributed checkpoint: archives of torch.save one after another, each a tensor."""

from __future__ import annotations

import io
from pathlib import Path

from initaudit.errors import CorruptFileError, ReadError, UnsupportedError
from initaudit.formats.mapped import MappedFile
from initaudit.formats.torch.archive import Archive, load
from initaudit.formats.torch.tensor import Lost, Rebuilder
from initaudit.types import Tensor


class Window(io.RawIOBase):
    """A part of a file, as a source of bytes and as a file of its own."""

    def __init__(self, file: MappedFile, offset: int, length: int) -> None:
        super().__init__()
        file.view(offset, length, "a chunk")
        self._file = file
        self._start = offset
        self._at = 0
        self.size = length

    def view(self, offset: int, length: int, what: str = "data") -> memoryview:
        """Return `length` bytes from `offset`, or raise CorruptFileError."""
        if offset < 0 or length < 0 or offset + length > self.size:
            raise CorruptFileError(f"{what} at byte {offset} needs {length} bytes, but the chunk has {self.size}")
        return self._file.view(self._start + offset, length, what)

    def release(self, offset: int, length: int) -> None:
        """Let go of these bytes in memory."""
        self._file.release(self._start + offset, length)

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Move to a place in the part."""
        self._at = max(0, offset + (0, self._at, self.size)[whence])
        return self._at

    def tell(self) -> int:
        """Return the place in the part."""
        return self._at

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes, all that are left if no number is given."""
        left = max(0, self.size - self._at)
        count = left if size is None or size < 0 else min(size, left)
        found = bytes(self.view(self._at, count))
        self._at += count
        return found


class Files:
    """The files of one folder, each mapped once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.opened: dict[str, MappedFile] = {}
        self.chunks = 0
        self.windows: dict[str, tuple[str, int, Window]] = {}  # what storage names begin with -> file, place, bytes

    def told(self) -> str:
        """Return how many there are."""
        count = len(self.opened)
        return f"{count} file{'s' * (count > 1)} with {self.chunks} chunk{'s' * (self.chunks > 1)}"

    def tensor(self, name: str, offset: int, length: int) -> Tensor:
        """Return the tensor that was saved at a place in a file.

        Raises:
            ReadError: there is no such file.
            CorruptFileError: there is no tensor at that place.
            UnsupportedError: it is none that can be read.
        """
        file = self.opened.get(name)
        if file is None:
            if not (self._folder / name).is_file():
                raise ReadError(f"the file {name} of the checkpoint is missing from the folder")
            file = self.opened[name] = MappedFile(self._folder / name)
        self.chunks += 1
        try:
            window = Window(file, offset, length)
            prefix = f"{name}:{offset}/"
            loaded = load(Archive(window, window), prefix)  # type: ignore[arg-type]
            self.windows[prefix] = name, offset, window
        except CorruptFileError as error:
            raise CorruptFileError(f"chunk at byte {offset} of {name}: {error.reason}") from None
        found = Rebuilder(_no_nested).tensor(loaded.value)
        if isinstance(found, Lost):
            raise UnsupportedError(found.why)
        if found is None:
            raise CorruptFileError(f"chunk at byte {offset} of {name} holds no tensor")
        return found


def _no_nested(data: bytes | memoryview) -> object:
    raise UnsupportedError("a torch file inside a chunk")
