"""ExportedProgram (.pt2): what looks like an archive of torch.export.save is read by `file`, loaded only then."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from initaudit.edits import Edit, FilePlan
from initaudit.formats.base import Format
from initaudit.formats.zip_names import zip_names
from initaudit.types import Model

_PROGRAM = re.compile(r"(?:^|/)models/[^/]+\.json$")
_SIGNS = ("archive_format", "archive_version", ".data/version")  # beside models/ in every archive of this kind
_FIRST = "serialized_exported_program.json"  # the layout of torch 2.1 to 2.6


def _sniff(path: Path, head: bytes) -> bool:
    if not head.startswith(b"PK\x03\x04"):
        return False
    names = zip_names(path)
    if _FIRST in names:
        return True
    programs = [name for name in names if _PROGRAM.search(name)]
    stems = {name[: name.rfind("models/")] for name in programs}
    return any(f"{stem}{sign}" in names for stem in stems for sign in _SIGNS)


def _read(path: Path) -> Model:
    from initaudit.formats.exported import file  # noqa: PLC0415  most runs never see such a file

    return file.read(path)


def _plan(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    from initaudit.formats.exported import writing  # noqa: PLC0415

    return writing.plan(path, edits)


FORMAT = Format("exported", "ExportedProgram (.pt2) of torch.export.save, graph included", _sniff, _read, 10, _plan)
