"""Files of torch.save and pickle: what begins like one is looked at closely by `files`, loaded only then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from initaudit.edits import Edit, FilePlan
from initaudit.formats.base import Format
from initaudit.formats.zip_names import zip_names
from initaudit.types import Model

OLD_PICKLE = b"(}])c"  # first bytes of protocols 0 and 1; later ones begin with 0x80


def _sniff_zip(path: Path, head: bytes) -> bool:
    if not head.startswith(b"PK\x03\x04"):
        return False
    from initaudit.formats.torch import files  # noqa: PLC0415  a fifth of the time of checking a small file

    return files.sniff_zip(path, head)


def _sniff_script(path: Path, head: bytes) -> bool:
    return head.startswith(b"PK\x03\x04") and script_stem(zip_names(path)) is not None


def script_stem(names: tuple[str, ...]) -> str | None:
    """Return what stands before "data.pkl" in a TorchScript archive; None if it is none."""
    stems = {name[: name.index("code/")] for name in names if name.startswith("code/") or "/code/" in name}
    return next((name[:-8] for name in names if name.endswith("data.pkl") and name[:-8] in stems), None)


def _sniff_legacy(path: Path, head: bytes) -> bool:
    if not head.startswith((b"\x80", b"L")):
        return False
    from initaudit.formats.torch import files  # noqa: PLC0415

    return files.sniff_legacy(path, head)


def _sniff_pickle(path: Path, head: bytes) -> bool:
    if not head or head[0] not in (0x80, *OLD_PICKLE):
        return False
    from initaudit.formats.torch import files  # noqa: PLC0415

    return files.sniff_pickle(path, head)


def _read_zip(path: Path) -> Model:
    from initaudit.formats.torch import files  # noqa: PLC0415

    return files.read_zip(path)


def _plan_zip(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    from initaudit.formats.torch import writing  # noqa: PLC0415

    return writing.plan_zip(path, edits)


def _read_script(path: Path) -> Model:
    from initaudit.formats.torch import script  # noqa: PLC0415

    return script.read(path)


def _plan_script(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    from initaudit.formats.torch import script_writing  # noqa: PLC0415

    return script_writing.plan(path, edits)


def _read_legacy(path: Path) -> Model:
    from initaudit.formats.torch import files  # noqa: PLC0415

    return files.read_legacy(path)


def _plan_legacy(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    from initaudit.formats.torch import writing  # noqa: PLC0415

    return writing.plan_legacy(path, edits)


def _read_pickle(path: Path) -> Model:
    from initaudit.formats.torch import files  # noqa: PLC0415

    return files.read_pickle(path)


def _plan_pickle(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    from initaudit.formats.torch import writing  # noqa: PLC0415

    return writing.plan_pickle(path, edits)


SCRIPT = Format("torchscript", "TorchScript archives (torch.jit.save)", _sniff_script, _read_script, 15, _plan_script)
ZIP = Format("torch", "torch.save, zip archives (.pt, .pth, .bin, .ckpt)", _sniff_zip, _read_zip, 20, _plan_zip)
LEGACY = Format("torch-legacy", "torch.save before 1.6 (.pt, .pth)", _sniff_legacy, _read_legacy, 30, _plan_legacy)
PICKLE = Format(
    "pickle", "plain pickles of tensors or numpy arrays (.pkl)", _sniff_pickle, _read_pickle, 80, _plan_pickle
)
