"""initaudit tells whether the weights you are about to train can be trained.

import initaudit
report = initaudit.check("model.onnx")
for finding in report.findings:
    ...
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from initaudit.version import __version__

if TYPE_CHECKING:
    from initaudit.types import Report

__all__ = ["__version__", "check"]


def check(
    path: str | os.PathLike[str],
    *,
    activation: str | None = None,
    select: str | Sequence[str] = (),
    ignore: str | Sequence[str] = (),
    layers: str | Sequence[str] = (),
    jobs: int | None = None,
) -> Report:
    """Return the report on a model file or folder.

    Args:
        path: an ONNX graph, a torch.save file, a safetensors file, or a folder with one of these.
        activation: what follows the weights where the file does not say, in torch.nn.functional's spelling.
        select: codes, prefixes or names of the rules to run; all where empty.
        ignore: rules to leave out.
        layers: shell patterns on layer names; the other layers are neither listed nor judged.
        jobs: threads that measure, at least 1; all cores where None.

    Raises:
        InitauditError: the model could not be read, or an argument names nothing (see initaudit.errors).
    """
    # Importing the package stays free of everything else.
    from initaudit import activations, audit  # noqa: PLC0415
    from initaudit.errors import UsageError  # noqa: PLC0415

    if not isinstance(path, str | os.PathLike):
        raise UsageError(f"check takes the path of a file or folder, not a {type(path).__name__}: save the model first")
    if jobs is not None and jobs < 1:
        raise UsageError(f"jobs is at least 1, not {jobs}")
    return audit.audit_path(
        Path(path),
        activation=activations.named(activation) if activation is not None else None,
        chosen=audit.select(_words(select), _words(ignore)),
        only=_words(layers),
        jobs=jobs,
    )


def _words(given: str | Sequence[str]) -> list[str]:
    return [given] if isinstance(given, str) else list(given)
