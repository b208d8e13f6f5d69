"""initaudit tells whether the weights you are about to train can be trained.

import initaudit
report = initaudit.check("model.onnx")
for finding in report.findings:
    ...
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from initaudit.version import __version__

if TYPE_CHECKING:
    from initaudit.types import Report

__all__ = ["__version__", "check"]


def check(
    path: str | Path,
    *,
    activation: str | None = None,
    select: Sequence[str] = (),
    ignore: Sequence[str] = (),
    layers: str | None = None,
    jobs: int | None = None,
) -> Report:
    """Return the report on a model file or folder.

    Args:
        path: an ONNX graph, a torch.save file, a safetensors file, or a folder with one of these.
        activation: what follows the weights where the file does not say, in torch.nn.functional's spelling.
        select: codes, prefixes or names of the rules to run; all where empty.
        ignore: rules to leave out.
        layers: shell pattern on layer names; the others are neither listed nor judged.
        jobs: threads that measure; all cores where None.

    Raises:
        InitauditError: the model could not be read, or an argument names nothing (see initaudit.errors).
    """
    from initaudit import audit  # noqa: PLC0415  importing the package stays free of everything else

    chosen = audit.select(select, ignore)
    return audit.audit_path(path, activation=activation, chosen=chosen, only=layers, jobs=jobs)
