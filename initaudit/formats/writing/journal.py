"""Files that take their final names together: all of them, or none, whatever happens in between.

    ROOT/.initaudit-<16 hex digits>/    a stage: new files under new/, the replaced ones (further links) under old/
    ROOT/.initaudit-journal             while files are renamed: which stage, which new file goes where

The new files are complete and on the disk before the journal is, the journal before the first rename. So a journal
that is whole means that every new file was ready: whoever finds it renames those that are left. One that was cut off
means that nothing was renamed. Every step may be done twice. A journal comes from the disk, so it is believed only as
far as its own folder: it names files in the stage and files in ROOT, no others.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath

from initaudit.errors import WriteError
from initaudit.formats.interrupted import JOURNAL, PREFIX
from initaudit.formats.writing.copying import sha256, sync, sync_folder
from initaudit.formats.writing.interrupts import deferred

NEW = "new"
_OLD = "old"
_LOCK = "lock"
_NAME = re.compile(re.escape(PREFIX) + "[0-9a-f]{16}")
_SOON = 60  # seconds in which a program that makes a stage has locked it
_LONGEST = 64 << 20  # bytes of a journal


@dataclass(frozen=True, slots=True)
class Move:
    """A file that gets its final name."""

    new: str  # where it lies, from the stage
    final: str  # where it goes, from the root
    old: str = ""  # a further link to the file that it replaces, from the stage
    fresh: bool = False  # it replaces none
    written: str = ""  # sha256 of the new file
    read: str = ""  # sha256 of the one that it was made of


class Stage:
    """A folder for files that are not there yet. It is locked as long as the program runs that made it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.path = root / f"{PREFIX}{secrets.token_hex(8)}"
        self.path.mkdir(mode=0o700)
        self.new = self.path / NEW
        try:
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
            os.write(self._lock, f"{platform.node()} {os.getpid()}".encode())
            _try_lock(self._lock)
            self.new.mkdir()
        except OSError:
            shutil.rmtree(self.path, ignore_errors=True)
            raise

    def remove(self) -> None:
        """Take the folder away, with all that is left in it."""
        with deferred():
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            if self.path.exists():  # some systems keep a file that is open, and with it the folder
                shutil.rmtree(self.path, ignore_errors=True)

    def rename(self, moves: Sequence[Move], *, over: bool) -> None:
        """Give the new files their final names.

        Args:
            moves: where they lie and where they go; the rest is filled in here.
            over: files that are there may be replaced.

        Raises:
            WriteError: it could not be done, and all is as it was; or there is another rename that was interrupted.
        """
        with deferred():
            if len(moves) == 1:
                self._rename_one(moves[0], over=over)
            elif moves:
                self._rename_all(moves, over=over)

    def _rename_one(self, move: Move, *, over: bool) -> None:
        final = self.root / move.final
        new = self.path / move.new
        if new.is_dir():
            _sync_tree(new)
        if over:
            new.replace(final)
        else:
            _put_if_free(new, final)
        with suppress(OSError):  # it is in place, for good or until a crash brings the old one back
            sync_folder(final.parent)

    def _rename_all(self, moves: Sequence[Move], *, over: bool) -> None:
        if not over:
            for move in moves:
                if os.path.lexists(self.root / move.final):
                    raise WriteError(f"{move.final} has come to exist meanwhile")
        kept = self._keep_old(moves)
        _sync_tree(self.path)
        journal = self.root / JOURNAL
        try:
            with journal.open("xb") as file:
                file.write(_text(self.path.name, kept, undo=False))
                file.flush()
                sync(file.fileno())
        except FileExistsError:
            raise WriteError(
                "another repair in this folder is being finished, or was interrupted: run it again"
            ) from None
        except OSError as error:
            try:
                journal.unlink(missing_ok=True)
            except OSError:
                raise self._half(error) from error
            raise
        try:
            sync_folder(self.root)
            _forward(self.root, self.path, kept)
        except OSError as error:
            self._undo(kept, error)
            raise
        try:
            _finish(self.root)
        except OSError as error:
            raise self._half(error) from error

    def _keep_old(self, moves: Sequence[Move]) -> list[Move]:
        """Link the files that will be replaced into the stage; without them there is a way forward only."""
        (self.path / _OLD).mkdir()
        kept: list[Move] = []
        for at, move in enumerate(moves):
            old, fresh = f"{_OLD}/{at}", not os.path.lexists(self.root / move.final)
            try:
                os.link(self.root / move.final, self.path / old, follow_symlinks=False)
            except (OSError, NotImplementedError):
                old = ""
            kept.append(replace(move, old=old, fresh=fresh))
        return kept

    def _undo(self, moves: Sequence[Move], error: OSError) -> None:
        """Put the replaced files back; if that fails too, the journal stays, for the next run to finish."""
        replaced = [move for move in moves if not (self.path / move.new).exists()]
        if any(not move.old and not move.fresh for move in replaced):
            raise self._half(error) from error
        try:
            draft = self.path / "undo"
            with draft.open("wb") as file:
                file.write(_text(self.path.name, moves, undo=True))
                file.flush()
                sync(file.fileno())
            draft.replace(self.root / JOURNAL)
            sync_folder(self.root)
            _back(self.root, self.path, moves)
            _finish(self.root)
        except OSError:
            raise self._half(error) from error

    def _half(self, error: OSError) -> WriteError:
        self.remove = _keep  # type: ignore[method-assign]
        os.close(self._lock)
        return HalfWrittenError(f"{error.strerror or error}; not all files are in place, run the same again to finish")


class HalfWrittenError(WriteError):
    """Files were renamed, but not all, and the journal waits for the next run."""


def _keep() -> None:
    """Leave the stage where it is: the journal needs it."""


# -- the journal


def _text(stage: str, moves: Sequence[Move], *, undo: bool) -> bytes:
    body = json.dumps({"stage": stage, "undo": undo, "moves": [asdict(move) for move in moves]}).encode()
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body


def _parse(root: Path) -> tuple[Path, list[Move], bool] | None:
    """Return what a journal says, None if it is not whole.

    Raises:
        WriteError: it is whole, but names files that are none of its business.
    """
    if (root / JOURNAL).is_symlink() or not (root / JOURNAL).is_file():
        raise WriteError(f"{JOURNAL} is not one that was written here; remove it", str(root))
    with (root / JOURNAL).open("rb") as file:
        digest, _, body = file.read(_LONGEST).partition(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest:
        return None
    try:
        told = json.loads(body)
        stage, undo, moves = told["stage"], told["undo"], [Move(**move) for move in told["moves"]]
        fits = bool(_NAME.fullmatch(stage)) and not (root / stage).is_symlink()
        fits = fits and all(_below(root / stage, move.new, NEW) for move in moves)
        fits = fits and all(_below(root / stage, move.old, _OLD) for move in moves if move.old)
        fits = fits and all(_below(root, move.final) for move in moves)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        fits = False
    if not fits:
        raise WriteError(f"{JOURNAL} is not one that was written here; remove it", str(root))
    return root / stage, moves, bool(undo)


def _below(folder: Path, name: str, top: str = "") -> bool:
    """Whether a name leads to a place inside a folder, over no link."""
    parts = PurePosixPath(name).parts
    if not parts or PurePosixPath(name).is_absolute() or ".." in parts or (top and parts[0] != top):
        return False
    return not any(folder.joinpath(*parts[:count]).is_symlink() for count in range(1, len(parts)))


def _forward(root: Path, stage: Path, moves: Sequence[Move]) -> None:
    """Rename what has not been renamed."""
    for move in moves:
        new = stage / move.new
        if os.path.lexists(new):
            new.replace(root / move.final)
    for folder in {(root / move.final).parent for move in moves}:
        sync_folder(folder)


def _back(root: Path, stage: Path, moves: Sequence[Move]) -> None:
    """Give the replaced files their names again."""
    for move in moves:
        if move.old and (stage / move.old).exists():
            (stage / move.old).replace(root / move.final)  # which does nothing if it was never replaced
        elif move.fresh and not os.path.lexists(stage / move.new):
            (root / move.final).unlink(missing_ok=True)
    for folder in {(root / move.final).parent for move in moves}:
        sync_folder(folder)


def _finish(root: Path) -> None:
    (root / JOURNAL).unlink()
    with suppress(OSError):  # should the journal come back after a crash, it will be found fulfilled
        sync_folder(root)


def _fulfilled(root: Path, moves: Sequence[Move], undo: bool) -> bool:
    """Whether the files are what the journal wants them to be."""
    for move in moves:
        wanted, file = move.read if undo else move.written, root / move.final
        if undo and move.fresh:
            if os.path.lexists(file):
                return False
        elif not wanted or not file.is_file() or sha256(file) != wanted:
            return False
    return True


def _put_if_free(new: Path, final: Path) -> None:
    """Rename a file or folder unless there is something of that name."""
    try:
        if not new.is_dir():  # a folder has no second name
            os.link(new, final, follow_symlinks=False)  # unlike rename, it never replaces
            return
    except FileExistsError:
        pass
    except (OSError, NotImplementedError):  # a file system without links
        pass
    if os.path.lexists(final):
        raise WriteError(f"{final.name} has come to exist meanwhile")
    new.rename(final)


def _sync_tree(folder: Path) -> None:
    """Wait until all names below a folder are on the disk."""
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            sync_folder(path)
    sync_folder(folder)
    sync_folder(folder.parent)


# -- after a crash


def recover(root: Path) -> tuple[str, ...]:
    """Finish, or undo, what a program that is no more began in a folder; return what was done, a line each.

    Raises:
        WriteError: a program that runs is at it, or it cannot be done.
    """
    done: list[str] = []
    if os.path.lexists(root / JOURNAL):
        done.append(_recover(root))
    try:
        stages = [path for path in root.iterdir() if _NAME.fullmatch(path.name) and not path.is_symlink()]
    except OSError:
        return tuple(done)
    for stage in stages:
        with suppress(OSError), _dead(stage) as dead:
            if dead:
                shutil.rmtree(stage, ignore_errors=True)
    return tuple(done)


def _recover(root: Path) -> str:
    told = _parse(root)
    if told is None:
        (root / JOURNAL).unlink(missing_ok=True)
        return f"{root}: an interrupted repair had changed nothing yet"
    stage, moves, undo = told
    if not stage.is_dir():
        if not _fulfilled(root, moves, undo):
            why = "is gone, and without it an interrupted repair cannot be finished: restore the files and remove"
            raise WriteError(f"{stage.name} {why} {JOURNAL}", str(root))
        _finish(root)
        return f"{root}: an interrupted repair had been finished"
    try:
        with _dead(stage) as dead:
            if not dead:
                raise WriteError("another repair is putting its files in place here", str(root))
            (_back if undo else _forward)(root, stage, moves)
            _finish(root)
    except OSError as error:
        why = f"an interrupted repair cannot be finished: {error.strerror or error}"
        raise WriteError(why, str(root)) from error
    return f"{root}: " + ("took back a repair that had failed" if undo else "finished a repair that was interrupted")


# -- locks


def _try_lock(number: int) -> bool | None:
    """Return whether the lock was free and is now ours; None if the file system has no locks."""
    try:
        import fcntl  # noqa: PLC0415  Windows has none
    except ImportError:
        return None
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


@contextmanager
def _dead(stage: Path) -> Iterator[bool]:
    """Tell whether the program that made a stage is no more, and keep others from it as long as that matters."""
    try:
        number = os.open(stage / _LOCK, os.O_RDWR)
    except FileNotFoundError:  # half made, perhaps right now, or half removed
        yield time.time() - stage.stat().st_mtime > _SOON
        return
    try:
        free = _try_lock(number)
        yield _gone(os.read(number, 1000).decode(errors="replace")) if free is None else free
    finally:
        os.close(number)


def _gone(told: str) -> bool:
    """Whether a process of this machine, told as "host number", has ended."""
    host, _, number = told.rpartition(" ")
    if host != platform.node() or not number.isdigit():
        return False
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
