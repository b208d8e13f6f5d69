"""`initaudit fix`."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import typer

from initaudit.cli.asked import meant_by, notice_to, refuse_both, refuse_idle_data, split
from initaudit.cli.places import refuse_clashes, refuse_written
from initaudit.cli.streams import aside, emit, progress_of, style_of
from initaudit.edits import Repair
from initaudit.errors import InitauditError, UsageError
from initaudit.options import (
    ActivationOption,
    AllOption,
    ArchOption,
    DryOption,
    EmitOption,
    FixDataOption,
    FixLayersOption,
    FixPath,
    FixSeedOption,
    ForceOption,
    IgnoreOption,
    InPlaceOption,
    InputOption,
    JobsOption,
    ManifestOption,
    ModelOption,
    NamesOption,
    ProbeOption,
    QuietOption,
    RepairFormat,
    RepairFormatOption,
    SchemeOption,
    SelectOption,
    TargetOption,
    VerboseOption,
)


def fix(
    path: FixPath = None,
    scheme: SchemeOption = "auto",
    output: TargetOption = None,
    in_place: InPlaceOption = False,
    layers: FixLayersOption = None,
    all: AllOption = False,
    dry_run: DryOption = False,
    manifest: ManifestOption = None,
    emit_code: EmitOption = None,
    seed: FixSeedOption = 0,
    force: ForceOption = False,
    format: RepairFormatOption = RepairFormat.CONSOLE,
    data: FixDataOption = None,
    model: ModelOption = None,
    arch: ArchOption = None,
    input: InputOption = None,
    names: NamesOption = None,
    activation: ActivationOption = None,
    select: SelectOption = None,
    ignore: IgnoreOption = None,
    jobs: JobsOption = None,
    probe: ProbeOption = None,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Draw again what is wrong, and nothing else; write it beside the original, and audit it again."""
    if path is None:
        raise UsageError("give a PATH: the file or folder to repair")
    lsuv = scheme.strip().lower().partition(":")[0] == "lsuv"
    records = {name: file for name, file in (("--manifest", manifest), ("--emit-code", emit_code)) if file is not None}
    refuse_both(quiet, verbose)
    _refuse_contradictions(output, in_place, layers, all, dry_run, records)
    refuse_idle_data(data, probe, used=lsuv)
    from initaudit import activations, audit  # noqa: PLC0415  numpy is not needed for --help
    from initaudit.formats import writing  # noqa: PLC0415
    from initaudit.repair import manifest as record  # noqa: PLC0415
    from initaudit.repair.fixing import Judge, Wish, pending  # noqa: PLC0415
    from initaudit.reporters import repair as told  # noqa: PLC0415

    written = emit_code is None or output is not None or in_place
    try:
        target = Path(output or writing.default_target(path)) if written and not in_place else None
    except InitauditError as error:
        raise error.at(path) from error.__cause__
    read = {"--data": data, "--names": names, "--model": (model or "").partition(":")[0] or None}
    refuse_clashes(path, target, records, read, force=force)
    meant = meant_by([path], model, arch, input, data)
    twin = audit.named_by(names) if names is not None else None
    settings: dict[str, Any] = {
        "activation": activations.named(activation) if activation is not None else None,
        "chosen": audit.select(split(select), split(ignore)),
        "jobs": jobs,
        "probe": data is not None if probe is None else probe,
        "data": data if probe is not False else None,
        "seed": seed,
        "notice": notice_to(path, quiet, verbose),
    }
    wish = Wish(scheme, tuple(split(layers)), all, seed, force, data, dry_run)
    style = style_of("-", verbosity=verbose - quiet, many=False)
    with ExitStack() as stack:
        with progress_of(f"building {path}" if meant is not None else Path(path).name, quiet) as step:
            judge = Judge(meant, twin, settings, step) if step is not None else Judge(meant, twin, settings)
            try:
                opened = pending(path, wish, judge, output=output, in_place=in_place, written=written)
                waiting = stack.enter_context(opened)
            except InitauditError as error:
                raise error.at(path) from error.__cause__
        done = waiting.repair
        # What can fail comes before the model is in its place: a report that nobody can take, a file beside it.
        code = _code(done) if emit_code is not None else ""
        kept = [(code, emit_code), (record.text(done) if manifest is not None else "", manifest)]
        refuse_written(records.values(), [*done.inputs, *done.outputs])
        puts = [stack.enter_context(aside(text, name)) for text, name in kept if text and name is not None]
        if format is RepairFormat.JSON:
            start, end = record.text(done)[:1], record.text(done)[1:]
        else:
            start = told.opening(done, style)
            end = told.closing(done, style, code=(emit_code or "") if code else "")
        emit(start)
        waiting.commit()
        for put in puts:
            put()
    emit(end)
    raise typer.Exit(2 if done.before.crashed else done.code)


def _code(done: Repair) -> str:
    """Return the code that does the same; none if nothing is to be done or it got worse."""
    if done.worse or not done.plan.recipes:
        return ""
    from initaudit.repair import emitting  # noqa: PLC0415

    names = [tensor.name for tensor in done.before.model.tensors]
    return emitting.emit(done.plan, source=done.before.model.path, names=names, reached=done.reached)


def _refuse_contradictions(
    output: str | None, in_place: bool, layers: list[str] | None, every: bool, dry: bool, records: Iterable[str]
) -> None:
    if output is not None and in_place:
        raise UsageError("--output and --in-place contradict each other")
    if layers and every:
        raise UsageError("--layers and --all contradict each other")
    for option in records if dry else ():
        instead = "; --format json prints the same" if option == "--manifest" else ""
        raise UsageError(f"--dry-run writes nothing: leave {option} away{instead}")
    if output in {"-", ""}:
        raise UsageError("a model is not written to standard output; name a file")
