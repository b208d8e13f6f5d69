"""`initaudit diff`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from initaudit.cli.asked import refuse_both
from initaudit.cli.streams import complain, emit, progress_of, style_of
from initaudit.options import (
    ActivationOption,
    JobsOption,
    QuietOption,
    RepairFormat,
    RepairFormatOption,
    VerboseOption,
)


def diff(
    first: Annotated[str, typer.Argument(metavar="A", help="File or folder, as for check.")],
    second: Annotated[str, typer.Argument(metavar="B", help="The other one, of any format.")],
    format: RepairFormatOption = RepairFormat.CONSOLE,
    activation: ActivationOption = None,
    jobs: JobsOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Compare two models tensor by tensor: exit code 0 if all are equal, 1 if not, 2 if that cannot be said."""
    refuse_both(quiet, verbose)
    from initaudit import activations  # noqa: PLC0415
    from initaudit.repair import diffing, steps  # noqa: PLC0415
    from initaudit.reporters import difference  # noqa: PLC0415

    named = activations.named(activation) if activation is not None else None
    with progress_of(Path(first).name, quiet) as step:
        found = diffing.diff(first, second, activation=named, jobs=jobs, step=step or steps.silent)
    if format is RepairFormat.JSON:
        emit(difference.text(found))
    else:
        emit(difference.render(found, style_of("-", verbosity=verbose - quiet, many=False)))
    if found.uncompared and not found.differs:
        first_skip = found.uncompared[0]
        complain(f"{first}: {len(found.uncompared)} tensors were not compared: {first_skip.name}: {first_skip.why}")
        raise typer.Exit(2)
    raise typer.Exit(int(found.differs))
