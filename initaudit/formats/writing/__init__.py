"""New values on the way into a file: written aside, shown to whoever wants to look, then put in place or thrown away.

    plan -> layout (targets) -> stage folder with the new files under their final names -> look at it -> commit

Until `commit` nothing but the stage folder has changed, and that goes with the program. `commit` renames: the old
files or the new ones are there at any moment, and where there are several, a journal sees to it that a later run
finishes what a crash cut short. All of it is imported when something is written, for most runs only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from initaudit.edits import Edit

if TYPE_CHECKING:
    from initaudit.formats.writing.staging import Progress, Staged

__all__ = ["Staged", "default_target", "recover", "stage"]


def stage(
    path: str | Path,
    edits: Sequence[Edit],
    target: str | Path | None = None,
    *,
    in_place: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> AbstractContextManager[Staged]:
    """Write a model with new values for some tensors, in files that nobody sees before `commit`.

    Args:
        path: file or folder that the model was read from.
        edits: what becomes new.
        target: file or folder to write, `default_target(path)` if nobody says.
        in_place: the files take the places of the old ones.
        force: files at `target` may be replaced.
        progress: told bytes copied, and bytes in all.

    Raises:
        UsageError: the target exists already or does not fit the model, or the model cannot be changed in place.
        UnsupportedError: an edit has no room in the format; a value has none in the element type.
        ReadError: the model is not what it was when the tensors were read.
        WriteError: the files cannot be written: no space, no rights.
    """
    from initaudit.formats.writing import staging  # noqa: PLC0415  only those who write need it

    return staging.stage(path, edits, target, in_place=in_place, force=force, progress=progress)


def recover(path: str | Path) -> tuple[str, ...]:
    """Finish or undo what a program that was killed left half done to a model; return what was done, a line each.

    Raises:
        WriteError: it cannot be done, or another program is at it right now.
    """
    from initaudit.formats.writing import staging  # noqa: PLC0415

    return staging.recover(path)


def default_target(path: str | Path) -> Path:
    """Return where a repaired model goes if nobody says: ckpt.fixed.pt, model.fixed.onnx, folder.fixed.

    Raises:
        ReadError: there is nothing at `path` that could be repaired.
    """
    from initaudit.formats.writing import targets  # noqa: PLC0415

    return targets.default_target(path)
