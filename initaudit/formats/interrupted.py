"""What tells a reader that files are being replaced, or that a program was stopped while it did so."""

from __future__ import annotations

import os
from pathlib import Path

from initaudit.errors import ReadError

PREFIX = ".initaudit-"  # of all that a repair leaves in a folder for a while; readers of folders pass over it
JOURNAL = f"{PREFIX}journal"


def refuse_interrupted(folder: Path) -> None:
    """Refuse to read files of which some have been replaced and others not yet.

    Raises:
        ReadError: there is a journal in the folder.
    """
    if os.path.lexists(folder / JOURNAL):
        raise ReadError(
            "a repair was interrupted while its files were put in place: run initaudit fix again to finish it"
        )
