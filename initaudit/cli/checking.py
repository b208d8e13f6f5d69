"""`initaudit check` and `initaudit show`."""

from __future__ import annotations

import sys
import traceback
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from initaudit import reporters
from initaudit.cli.asked import meant_by, notice_to, refuse_both, refuse_idle_data, refuse_model, same_options, split
from initaudit.cli.streams import Step, complain, emit, progress_of, style_of, width, write
from initaudit.errors import InitauditError, UsageError
from initaudit.options import (
    CONSOLE,
    ActivationOption,
    ArchOption,
    DataOption,
    FailOn,
    FailOnOption,
    FormatOption,
    IgnoreOption,
    InputOption,
    JobsOption,
    LayersOption,
    ModelOption,
    NamesOption,
    OutputOption,
    Paths,
    ProbeOption,
    QuietOption,
    SeedOption,
    SelectOption,
    SymmetryOption,
    VerboseOption,
)
from initaudit.types import Report, Severity


def check(
    paths: Paths = None,
    model: ModelOption = None,
    arch: ArchOption = None,
    input: InputOption = None,
    names: NamesOption = None,
    format: FormatOption = CONSOLE,
    output: OutputOption = "-",
    fail_on: FailOnOption = FailOn.ERROR,
    select: SelectOption = None,
    ignore: IgnoreOption = None,
    layers: LayersOption = None,
    activation: ActivationOption = None,
    jobs: JobsOption = None,
    probe: ProbeOption = None,
    data: DataOption = None,
    seed: SeedOption = 0,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Judge the weights of a checkpoint or graph."""
    refuse_both(quiet, verbose)
    refuse_idle_data(data, probe)
    from initaudit import activations, audit  # noqa: PLC0415  numpy is not needed for --help

    paths = paths or []
    refuse_model(output, paths)
    chosen = audit.select(split(select), split(ignore))
    activation = activations.named(activation) if activation is not None else None
    meant = meant_by(paths, model, arch, input, data)
    twin = audit.named_by(names) if names is not None else None
    told = same_options(model, arch, input, names, activation)
    reports: list[Report] = []
    failed = False
    for path in paths or [model or arch or ""]:
        try:
            with progress_of(_first(path, meant), quiet) as step:
                settings: dict[str, Any] = {
                    "activation": activation, "chosen": chosen, "only": split(layers), "jobs": jobs,
                    "progress": step and partial(_step, step, Path(path).name), "names": twin,
                    "probe": data is not None if probe is None else probe, "data": data, "seed": seed,
                    "notice": notice_to(path, quiet, verbose),
                }  # fmt: skip
                if paths:
                    found = audit.audit_path(path, meant=meant, **settings)
                    reports.append(replace(found, options=told))
                elif meant is not None:
                    reports.append(audit.audit_model(meant(), **settings))
        except InitauditError as error:
            failed = True
            complain(str(error.at(path)))
        except Exception:  # a bug of ours on one file does not take the others' reports with it
            failed = True
            traceback.print_exc()
            complain(f"{path}: internal error, please report it")
    if reports or len(paths) > 1:
        style = style_of(output, verbosity=verbose - quiet, many=len(paths) > 1)
        write(reporters.reporters()[format.value].render(reports, style), output)
    raise typer.Exit(2 if failed else _code(reports, fail_on))


def show(
    path: Annotated[str | None, typer.Argument(metavar="PATH", help="File or folder, as for check.")] = None,
    model: ModelOption = None,
    arch: ArchOption = None,
    input: InputOption = None,
    names: NamesOption = None,
    layers: LayersOption = None,
    activation: ActivationOption = None,
    jobs: JobsOption = None,
    probe: ProbeOption = None,
    data: DataOption = None,
    seed: SeedOption = 0,
    symmetry: SymmetryOption = False,
) -> None:
    """List every weight with its distribution, and draw signal and gradient against depth, without judging."""
    from initaudit import activations, audit  # noqa: PLC0415
    from initaudit.reporters import plot  # noqa: PLC0415
    from initaudit.reporters.table import distributions  # noqa: PLC0415

    if symmetry and probe:
        raise UsageError("--symmetry is decided on the graph, without a batch; leave --probe out")
    refuse_idle_data(data, probe if not symmetry or model or arch else False)
    if activation is not None:
        activation = activations.named(activation)
    meant = meant_by([path] if path else [], model, arch, input, data)
    name = path or model or arch or ""
    with progress_of(_first(name, meant), quiet=False) as step:
        settings: dict[str, Any] = {
            "activation": activation, "chosen": (), "only": split(layers), "jobs": jobs,
            "progress": step and partial(_step, step, Path(name).name),
            "names": audit.named_by(names) if names is not None else None,
            "probe": data is not None if probe is None else probe, "data": data, "seed": seed,
            "notice": notice_to(name, quiet=False, verbose=False),
        }  # fmt: skip
        try:
            if path is None and meant is not None:
                report = audit.audit_model(meant(), **settings)
            else:
                report = audit.audit_path(name, meant=meant, **settings)
        except InitauditError as error:
            raise error.at(name) from None
    if symmetry:
        raise typer.Exit(_freedom(report, name, only=bool(split(layers))))
    drawn = plot.plots(report, width(), plot.ink(sys.stdout.encoding if sys.stdout is not None else None))
    emit("\n".join((*distributions(report, width()), "", *drawn)).rstrip() + "\n")


def _code(reports: list[Report], fail_on: FailOn) -> int:
    if any(r.crashed for r in reports):
        return 2
    if fail_on is FailOn.NEVER:
        return 0
    return int(any(f.severity >= Severity[fail_on.name] for r in reports for f in r.findings))


def _freedom(report: Report, name: str, *, only: bool) -> int:
    """Tell which units stay tied and which parameters sleep or never move; return the exit code."""
    from initaudit.reporters import freedom  # noqa: PLC0415

    failed = next((s.why for s in report.skipped if s.name == "symmetry"), "") if report.freedom is None else ""
    emit(freedom.render(report, style_of("-", verbosity=0, many=False), only=only))
    if failed:
        complain(f"{name}: {failed}")
    return 2 if failed else 0


def _step(step: Step, name: str, done: int, total: int) -> None:
    """Show how much is measured, or that ties are looked for, which tells no share."""
    step(name if total else f"{name}: ties", done, total)


def _first(path: str, meant: object) -> str:
    """Say what is done first: a module is built before anything is read."""
    return Path(path).name if meant is None else f"building {path}"
