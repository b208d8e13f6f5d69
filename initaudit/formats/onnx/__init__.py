"""ONNX: what can begin like a ModelProto is looked at closely by `file`, and only then is that loaded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from initaudit.edits import Edit, FilePlan
from initaudit.formats.base import Format
from initaudit.types import Model

_KNOWN = (b"\x80", b"PK\x03\x04", b"\x1f\x8b", b"\x89HDF")  # pickles and archives: no field of a ModelProto


def _sniff(path: Path, head: bytes) -> bool:
    if len(head) < 4 or head.startswith(_KNOWN):
        return False
    from initaudit.formats.onnx import file  # noqa: PLC0415  a tenth of the time of checking a small file

    return file.sniff(path, head)


def _read(path: Path) -> Model:
    from initaudit.formats.onnx import file  # noqa: PLC0415

    return file.read(path)


def _plan(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    from initaudit.formats.onnx import writing  # noqa: PLC0415

    return writing.plan(path, edits)


FORMAT = Format("onnx", "ONNX (.onnx, with external data beside it)", _sniff, _read, order=40, plan=_plan)
