"""TorchScript archives: which bytes change when tensors get new values."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from initaudit.edits import Edit, FilePlan
from initaudit.formats.torch import script, writing
from initaudit.formats.torch.files import collector_paused
from initaudit.formats.torch.pickle_places import Places


def plan(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    """Return what changes in a TorchScript archive."""
    places = Places()
    with collector_paused():
        return writing.plan(path, edits, script.storages(path, places.unpickler), places)
