"""Readers: from a path to a Model, by content and never by suffix, running nothing that the file contains.

Each module here that defines a `Format` adds one; this one finds them, chooses, and is the border where whatever goes
wrong on a hostile file becomes one line that says what and where.
"""

from __future__ import annotations

import stat
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TypeVar

from initaudit.edits import Edit, FilePlan
from initaudit.errors import CorruptFileError, InitauditError, ReadError, UnknownFormatError, UnsupportedError
from initaudit.formats.base import Format
from initaudit.formats.beside import neighbours
from initaudit.formats.unknown import describe
from initaudit.registry import members
from initaudit.types import Model

T = TypeVar("T")

HEAD = 4096  # bytes of a file that every sniff sees
_LONGEST = 500  # characters of a reason; names in a file can be megabytes long
_LONGEST_NAME = 4000  # characters

_SPECIAL = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
    (stat.S_ISBLK, "a block device"),
)


@cache
def formats() -> tuple[Format, ...]:
    """Return every format, in the order in which they are asked."""
    return tuple(sorted(members(sys.modules[__name__], Format), key=lambda one: one.order))


def read(path: str | Path) -> Model:
    """Return the model in a file or folder, with the configuration that lies beside it.

    Raises:
        ReadError: there is nothing to read, or the content is damaged or not known.
        UnsupportedError: the content is known, but not read yet.
    """
    model = read_part(path)
    where = Path(path)
    if where.is_dir():
        return model
    config, skipped = neighbours(where)
    return replace(model, config={**config, **model.config}, skipped=(*model.skipped, *skipped))


def read_part(path: str | Path) -> Model:
    """Return what one file or folder holds by itself; as `read`, but looking at nothing beside it."""
    return _guarded(path, lambda where: _sane(replace(_identify(where).read(where), path=str(path))))


def _sane(model: Model) -> Model:
    """Refuse names that no program writes: whatever reads numbers out of a name may count on their having an end."""
    longest = max((len(tensor.name) for tensor in model.tensors), default=0)
    if longest > _LONGEST_NAME:
        raise CorruptFileError(f"a tensor's name has {longest} characters")
    return model


def identify(path: str | Path) -> Format:
    """Return the format that claims a file or folder; raises as `read` does."""
    return _guarded(path, _identify)


def plan(path: str | Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    """Return which bytes of which files change when tensors of a file or folder get new values; nothing is written.

    Raises:
        UnsupportedError: the format is only read, or has no room for an edit; the reason says why.
        ReadError: the content has changed since it was read.
    """

    def work(where: Path) -> tuple[FilePlan, ...]:
        one = _identify(where)
        if one.plan is None:
            raise UnsupportedError(f"{one.name} files are read, but not written")
        return one.plan(where, edits)

    return _guarded(path, work)


def _guarded(path: str | Path, work: Callable[[Path], T]) -> T:
    """Return work's result; turn every failure into one of ours, on one line and with the path."""
    formats()  # imports every reader: a fault in one of ours must not look like a fault of the file
    try:
        return work(_checked(path))
    except InitauditError as error:
        raise type(error)(_line(error.reason), error.path or _line(str(path))) from error.__cause__
    except OSError as error:
        raise ReadError(_line(error.strerror or str(error)), _line(str(path))) from error
    except Exception as error:
        short = f"the content broke the reader: {type(error).__name__} {error}".rstrip()
        raise CorruptFileError(_line(short), _line(str(path))) from error


def _checked(path: str | Path) -> Path:
    """Return the path if there is something at it that can be read without waiting for anyone."""
    spelled = str(path)
    if spelled in {"", "-"} or "\0" in spelled:
        raise ReadError("standard input is not read; pass a file" if spelled == "-" else "no such file or folder")
    where = Path(path)
    mode = where.stat().st_mode
    for is_special, what in _SPECIAL:
        if is_special(mode):
            raise ReadError(f"is {what}, not a file")
    return where


def _identify(path: Path) -> Format:
    head = b""
    if not path.is_dir():
        with path.open("rb") as file:
            head = file.read(HEAD)
        if not head:
            raise CorruptFileError("the file is empty")
    for one in formats():
        if one.sniff(path, head):
            return one
    known = ", ".join(one.about for one in formats() if one.about)
    raise UnknownFormatError(describe(path, head, known))


def _line(text: str) -> str:
    """Return text as one printable line of bearable length: names and paths come from strangers."""
    clean = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: _LONGEST + 1])
    return clean if len(clean) <= _LONGEST else clean[: _LONGEST - 3] + "..."
