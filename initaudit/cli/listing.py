"""What prints a table and judges nothing: rules, explain, schemes, activations."""

from __future__ import annotations

from typing import Annotated

import typer

from initaudit.cli.streams import emit


def rules() -> None:
    """List the rules: code, name, severity, what each finds."""
    from initaudit import rules as package  # noqa: PLC0415

    emit("".join(f"{r.code}  {r.name:<24}  {r.severity.label:<7}  {r.title}\n" for r in package.catalogue()))


def explain(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="Code or name, as INI101 or not-finite.")],
) -> None:
    """Tell what a rule finds, why it matters, how it is measured and when to ignore it."""
    from initaudit import audit  # noqa: PLC0415

    for found in audit.select([rule]):
        settings = "".join(f"\n    {key} = {value}" for key, value in found.settings.items())
        emit(f"{found.code} {found.name} ({found.severity.label})\n\n{found.doc}\n")
        emit(f"\n## Settings\n{settings.lstrip(chr(10)) or '    none'}\n\n")


def schemes() -> None:
    """List the initializers that are recognised."""
    from initaudit import schemes as table  # noqa: PLC0415

    emit("".join(f"{line}\n" for line in table.listing()))


def activations() -> None:
    """List the activations that are known, with their gains."""
    from initaudit import activations as table  # noqa: PLC0415

    emit("".join(f"{line}\n" for line in table.listing()))
