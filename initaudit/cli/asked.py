"""What several commands make of their options."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

from initaudit.cli.streams import complain
from initaudit.errors import InitauditError, ReadError, UsageError
from initaudit.types import Model


def split(words: list[str] | None) -> list[str]:
    """Return words that were given one by one or with commas between."""
    return [word.strip() for given in words or () for word in given.split(",")]


def refuse_both(quiet: bool, verbose: bool) -> None:
    """Refuse --quiet with --verbose.

    Raises:
        UsageError: both are given.
    """
    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other")


def meant_by(
    paths: list[str], model: str | None, arch: str | None, inputs: list[str] | None, data: str | None
) -> Callable[[], Model] | None:
    """Return what builds the module of --model or --arch, once; None without these. Data tell the shapes of inputs.

    Raises:
        UsageError: the options contradict each other.
    """
    if model is not None and arch is not None:
        raise UsageError("--model and --arch contradict each other")
    if model is None and arch is None:
        if inputs:
            raise UsageError("--input says what --model or --arch is fed with; give one of these")
        if not paths:
            raise UsageError("give a PATH, --model or --arch")
        return None
    from initaudit import audit  # noqa: PLC0415

    def build() -> Model:
        with redirect_stdout(sys.stderr):  # stdout is the report's, whatever someone's code prints
            return audit.built(model, arch, inputs=inputs or (), weights=not paths, data=data)

    return cache(build)


def same_options(
    model: str | None, arch: str | None, inputs: list[str] | None, names: str | None, activation: str | None
) -> str:
    """Return the options that say what a model is, as they would be typed again."""
    given = [("--model", model), ("--arch", arch), *(("--input", one) for one in inputs or ())]
    given += [("--names", names), ("--activation", activation)]
    return " ".join(f"{option} {shlex.quote(value)}" for option, value in given if value is not None)


def refuse_idle_data(data: str | None, probe: bool | None, *, used: bool = False) -> None:
    """Refuse data that nothing would be done with, or that are not there.

    Args:
        data: the file.
        probe: whether the probe runs, None: where there are data.
        used: something other than the probe uses them.

    Raises:
        UsageError: nothing uses them.
        ReadError: there is no such file.
    """
    if data is not None and probe is False and not used:
        raise UsageError("--data and --no-probe contradict each other")
    if data is not None and not Path(data).exists():
        raise ReadError("No such file or directory", data)


def notice_to(path: str, quiet: bool, verbose: bool) -> Callable[[str], None] | None:
    """Return what tells a person, before it starts, what will take a while."""
    person = sys.stderr is not None and sys.stderr.isatty() and not quiet
    return (lambda line: complain(f"{path}: {line}")) if person or verbose else None


def refuse_model(output: str, paths: list[str]) -> None:
    """Keep a slip of the keyboard from replacing a model by its report.

    Raises:
        UsageError: the output is one of the models, or looks like one.
    """
    target = Path(output)
    if output == "-" or not target.is_file():
        return
    from initaudit import formats  # noqa: PLC0415

    inside = any(Path(path).is_dir() and target.resolve().is_relative_to(Path(path).resolve()) for path in paths)
    same = any(Path(path).exists() and target.samefile(path) for path in paths)
    if not same and not inside:
        try:
            formats.identify(target)
        except InitauditError:
            return
    raise UsageError("a report does not replace a model or a file beside it; choose another file", output)
