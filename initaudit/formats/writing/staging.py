"""Staging: a folder with the new files of a model under their final names, until they are put in place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from initaudit import formats
from initaudit.edits import Edit
from initaudit.errors import InitauditError, UsageError, WriteError
from initaudit.formats.interrupted import PREFIX
from initaudit.formats.writing import journal, targets
from initaudit.formats.writing.copying import signature, space, write_copy
from initaudit.formats.writing.interrupts import deferred, terminable
from initaudit.formats.writing.targets import Layout

Progress = Callable[[int, int], None]  # bytes copied, bytes in all

_UNITS = ("bytes", "KB", "MB", "GB", "TB")


class Staged:
    """New files that wait for `commit`.

    `path` is read like any model, and is what will be at `target`; `inputs` and `outputs` give the sha256 of the files
    that were copied and of what became of them, by path; `notes` are lines for the reader.
    """

    def __init__(self, layout: Layout, stage: journal.Stage) -> None:
        self.path = stage.new / layout.shown
        self.target = layout.result
        self.notes = layout.notes
        self.inputs: dict[str, str] = {}
        self.outputs: dict[str, str] = {}
        self.committed = False
        self._layout = layout
        self._stage = stage
        self._seen: dict[Path, tuple[int, int, int, int]] = {}

    def commit(self) -> None:
        """Put the new files in place.

        Raises:
            WriteError: it could not be done, or a file of the model has changed since; nothing was written.
        """
        layout = self._layout
        try:
            for path, seen in self._seen.items():
                if signature(path.stat()) != seen:
                    raise WriteError("the file has changed while it was repaired; nothing was written", str(path))
            for part in layout.parts if not layout.whole else ():
                (layout.root / part.final).parent.mkdir(parents=True, exist_ok=True)
            self._stage.rename(self._moves(), over=layout.over)
        except OSError as error:
            raise _refusal(error, layout.root) from error
        self.committed = True

    def discard(self) -> None:
        """Throw the new files away, if they are not in place yet."""
        self._stage.remove()

    def fill(self, progress: Progress | None) -> None:
        """Write the new files."""
        layout = self._layout
        sizes = {part.plan.path: space(part.plan.path) for part in layout.parts}
        _check_space(layout.root, sum(sizes.values()))
        total, done = sum(path.stat().st_size for path in sizes), 0

        def tick(count: int) -> None:
            nonlocal done
            done += count
            if progress is not None:
                progress(done, total)

        for name, file in layout.links.items():
            place = self._stage.new / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file, file.is_dir())
        for part in layout.parts:
            place = self._stage.new / part.staged
            place.parent.mkdir(parents=True, exist_ok=True)
            try:
                copied = write_copy(part.plan, place, tick, alike=layout.alike)
            except InitauditError as error:
                raise error.at(str(part.plan.path)) from None
            final = layout.root / layout.whole / part.final
            self.inputs[str(part.plan.path)] = copied.read
            self.outputs[str(final)] = copied.written
            self._seen[part.plan.path] = copied.seen

    def _moves(self) -> list[journal.Move]:
        layout = self._layout
        if layout.whole:
            return [journal.Move(journal.NEW, layout.whole)]
        return [
            journal.Move(
                f"{journal.NEW}/{part.staged}",
                part.final,
                written=self.outputs[str(layout.root / part.final)],
                read=self.inputs[str(part.plan.path)] if layout.alike else "",
            )
            for part in layout.parts
        ]


@contextmanager
def stage(
    path: str | Path,
    edits: Sequence[Edit],
    target: str | Path | None = None,
    *,
    in_place: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Iterator[Staged]:
    """Stage a model with new values for some tensors; see `initaudit.formats.writing.stage`."""
    where = Path(path)
    if in_place and target is not None:
        raise UsageError("a target and --in-place exclude each other")
    try:
        recover(where)
        plans = formats.plan(where, edits)
        if in_place:
            layout = targets.in_place(where, plans)
        else:
            layout = targets.beside(
                where, plans, targets.default_target(where) if target is None else Path(target), force=force
            )
        journal.recover(layout.root)
    except OSError as error:
        raise _refusal(error, where) from error
    except InitauditError as error:
        raise error.at(str(path)) from error.__cause__
    with terminable():
        folder: journal.Stage | None = None
        try:
            try:
                with deferred():  # or a signal would leave a folder that nobody knows of
                    folder = journal.Stage(layout.root)
                staged = Staged(layout, folder)
                staged.fill(progress)
            except OSError as error:
                raise _refusal(error, layout.root) from error
            yield staged
        finally:
            if folder is not None:
                folder.remove()


def recover(path: str | Path) -> tuple[str, ...]:
    """Finish or undo what was left half done to a model; see `initaudit.formats.writing.recover`."""
    where = Path(path)
    try:
        folders = {where.resolve()} if where.is_dir() else {where.parent.resolve(), where.resolve().parent}
    except (OSError, ValueError, RuntimeError):  # a path that leads nowhere is for the reader to refuse
        return ()
    try:
        return tuple(line for folder in sorted(folders) if folder.is_dir() for line in journal.recover(folder))
    except OSError as error:
        raise _refusal(error, where) from error


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise WriteError(
            f"needs {_told(needed)} and {_told(free)} are free: {_told(needed - free)} missing", str(folder)
        )


def _told(count: float) -> str:
    """Return a number of bytes as people read it."""
    unit = 0
    while count >= 1000 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.3g} {_UNITS[unit]}"


def _refusal(error: OSError, path: Path) -> WriteError:
    """Return what the system said, as a refusal of ours."""
    where = os.fspath(error.filename) if isinstance(error.filename, (str, bytes, os.PathLike)) else path
    # of a file in the stage, the name would mean nothing to anyone
    shown = str(path) if PREFIX in str(where) else str(where)
    return WriteError(f"{error.strerror or error}; nothing was written", shown)
