"""Archives of torch.export.save: which bytes change when tensors get new values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from initaudit.edits import Edit, FilePlan
from initaudit.formats.exported import file
from initaudit.formats.torch import writing
from initaudit.formats.torch.pickle_places import Places


def plan(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    """Return what changes in an archive of torch.export.save."""
    return writing.plan(path, edits, file.storages(path), Places())
