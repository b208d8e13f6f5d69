"""What a file format has to offer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from initaudit.edits import Edit, FilePlan
from initaudit.types import Model


@dataclass(frozen=True, slots=True)
class Format:
    """A kind of file or folder that can be read.

    `sniff(path, head)` looks at the content: `head` is the first 4096 bytes (empty for a folder), and the file may be
    opened for more (a zip archive is known by its end). `read(path)` raises ReadError or UnsupportedError with a short
    cause and no path. `order` breaks ties: lower is asked first. `plan(path, edits)` says which bytes of which files
    change; it raises UnsupportedError, with why, for an edit that the format has no room for.
    """

    name: str
    about: str  # one line for docs: what is read
    sniff: Callable[[Path, bytes], bool]
    read: Callable[[Path], Model]
    order: int = 50
    plan: Callable[[Path, Sequence[Edit]], tuple[FilePlan, ...]] | None = None  # None: read only
