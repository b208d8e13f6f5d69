"""The command line: options in, text and an exit code out.

Exit codes of all commands: 0 nothing at or above --fail-on; 1 findings; 2 it could not do its work, with one line on
stderr that says what and where.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from functools import cache
from pathlib import Path
from threading import Timer
from typing import Annotated, Any, NoReturn, TextIO

import typer

from initaudit import reporters
from initaudit.errors import InitauditError, UsageError, WriteError
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
    VerboseOption,
)
from initaudit.reporters.base import Style
from initaudit.types import Model, Report, Severity
from initaudit.version import __version__

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Tells whether the weights you are about to train can be trained.",
    epilog="Exit codes: 0 nothing at or above --fail-on, 1 findings, 2 the work could not be done.",
)


def _version(wanted: bool) -> None:
    if wanted:
        _emit(f"initaudit {__version__}\n")
        raise typer.Exit(0)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
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
    if quiet and verbose:
        raise UsageError("--quiet and --verbose contradict each other")
    _refuse_idle_data(data, probe)
    from initaudit import activations, audit  # noqa: PLC0415  numpy is not needed for --help

    paths = paths or []
    _refuse_model(output, paths)
    chosen = audit.select(_split(select), _split(ignore))
    activation = activations.named(activation) if activation is not None else None
    meant = _meant(paths, model, arch, input)
    twin = audit.named_by(names) if names is not None else None
    reports: list[Report] = []
    failed = False
    for path in paths or [model or arch or ""]:
        try:
            with _progress(path, quiet, building=meant is not None) as progress:
                settings: dict[str, Any] = {
                    "activation": activation, "chosen": chosen, "only": _split(layers), "jobs": jobs,
                    "progress": progress, "names": twin,
                    "probe": data is not None if probe is None else probe, "data": data, "seed": seed,
                    "notice": _notice(path, quiet, verbose),
                }  # fmt: skip
                if paths:
                    reports.append(audit.audit_path(path, meant=meant, **settings))
                elif meant is not None:
                    reports.append(audit.audit_model(meant(), **settings))
        except InitauditError as error:
            failed = True
            _complain(str(error.at(path)))
        except Exception:  # a bug of ours on one file does not take the others' reports with it
            failed = True
            traceback.print_exc()
            _complain(f"{path}: internal error, please report it")
    if reports or len(paths) > 1:
        style = _style(output, verbosity=verbose - quiet, many=len(paths) > 1)
        _write(reporters.reporters()[format.value].render(reports, style), output)
    raise typer.Exit(2 if failed else _code(reports, fail_on))


@app.command()
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
) -> None:
    """List every weight with its distribution, and draw signal and gradient against depth, without judging."""
    from initaudit import activations, audit  # noqa: PLC0415
    from initaudit.reporters import plot  # noqa: PLC0415
    from initaudit.reporters.table import distributions  # noqa: PLC0415

    _refuse_idle_data(data, probe)
    if activation is not None:
        activation = activations.named(activation)
    meant = _meant([path] if path else [], model, arch, input)
    name = path or model or arch or ""
    with _progress(name, quiet=False, building=meant is not None) as progress:
        settings: dict[str, Any] = {
            "activation": activation, "chosen": (), "only": _split(layers), "jobs": jobs, "progress": progress,
            "names": audit.named_by(names) if names is not None else None,
            "probe": data is not None if probe is None else probe, "data": data, "seed": seed,
            "notice": _notice(name, quiet=False, verbose=False),
        }  # fmt: skip
        try:
            if path is None and meant is not None:
                report = audit.audit_model(meant(), **settings)
            else:
                report = audit.audit_path(name, meant=meant, **settings)
        except InitauditError as error:
            raise error.at(name) from None
    drawn = plot.plots(report, _width(), plot.ink(sys.stdout.encoding if sys.stdout is not None else None))
    _emit("\n".join((*distributions(report, _width()), "", *drawn)).rstrip() + "\n")


def _meant(
    paths: list[str], model: str | None, arch: str | None, inputs: list[str] | None
) -> Callable[[], Model] | None:
    """Return what builds the module of --model or --arch, once; None without these.

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
            return audit.built(model, arch, inputs=inputs or (), weights=not paths)

    return cache(build)


@app.command()
def rules() -> None:
    """List the rules: code, name, severity, what each finds."""
    from initaudit import rules as package  # noqa: PLC0415

    _emit("".join(f"{r.code}  {r.name:<24}  {r.severity.label:<7}  {r.title}\n" for r in package.catalogue()))


@app.command()
def explain(
    rule: Annotated[str, typer.Argument(metavar="RULE", help="Code or name, as INI101 or not-finite.")],
) -> None:
    """Tell what a rule finds, why it matters, how it is measured and when to ignore it."""
    from initaudit import audit  # noqa: PLC0415

    for found in audit.select([rule]):
        settings = "".join(f"\n    {key} = {value}" for key, value in found.settings.items())
        _emit(f"{found.code} {found.name} ({found.severity.label})\n\n{found.doc}\n")
        _emit(f"\n## Settings\n{settings.lstrip(chr(10)) or '    none'}\n\n")


@app.command()
def schemes() -> None:
    """List the initializers that are recognised."""
    from initaudit import schemes as table  # noqa: PLC0415

    _emit("".join(f"{line}\n" for line in table.listing()))


@app.command()
def activations() -> None:
    """List the activations that are known, with their gains."""
    from initaudit import activations as table  # noqa: PLC0415

    _emit("".join(f"{line}\n" for line in table.listing()))


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="initaudit", standalone_mode=False)
        code = code if len(sys.argv) > 1 else 2  # nothing was asked for: help, but no clean pass
    except InitauditError as error:
        _complain(str(error))
        code = 2
    except _ClickError as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "initaudit"
        _complain(f"{error.format_message()} Try '{command} --help'.")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        _complain("interrupted")
        code = 2
    except Exception:
        # A bug of ours: the traceback stays visible, and the exit code still says that the work was not done.
        traceback.print_exc()
        code = 2
    raise SystemExit(code or 0)


_ClickError: Any = typer.BadParameter.__mro__[2]  # typer carries click inside since 0.2x; before that it was its own


def _emit(text: str) -> None:
    """Write to stdout; a reader that has gone (`| head`, `>&-`) changes nothing about what was found.

    Raises:
        WriteError: what is behind stdout cannot take it, as a full disk.
    """
    if sys.stdout is None:
        return
    try:
        _tolerate(sys.stdout)
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise WriteError(f"the report was not written: {error.strerror}", "stdout") from None


def _tolerate(stream: TextIO) -> None:
    """Spell out what the stream's encoding lacks: names in a file may be in any script."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def _complain(message: str) -> None:
    if sys.stderr is not None:
        with suppress(OSError):
            _tolerate(sys.stderr)
            sys.stderr.write(f"initaudit: {' '.join(message.split())}\n")


def _split(words: list[str] | None) -> list[str]:
    return [word.strip() for given in words or () for word in given.split(",")]


def _code(reports: list[Report], fail_on: FailOn) -> int:
    if any(r.crashed for r in reports):
        return 2
    if fail_on is FailOn.NEVER:
        return 0
    return int(any(f.severity >= Severity[fail_on.name] for r in reports for f in r.findings))


def _refuse_idle_data(data: str | None, probe: bool | None) -> None:
    if data is not None and probe is False:
        raise UsageError("--data and --no-probe contradict each other")


def _notice(path: str, quiet: bool, verbose: bool) -> Callable[[str], None] | None:
    """Return what tells a person, before it starts, what will take a while."""
    person = sys.stderr is not None and sys.stderr.isatty() and not quiet
    return (lambda line: _complain(f"{path}: {line}")) if person or verbose else None


def _width() -> int:
    """Columns of the terminal; 100 where there is none, as in a log file."""
    return max(40, shutil.get_terminal_size((100, 24)).columns)


def _style(output: str, *, verbosity: int, many: bool) -> Style:
    terminal = output == "-" and sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return Style(_width(), terminal and not os.environ.get("NO_COLOR"), verbosity, many)


def _refuse_model(output: str, paths: list[str]) -> None:
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
    raise UsageError("a report does not replace a model or a file beside it; choose another --output", output)


def _write(text: str, output: str) -> None:
    """Write a report to stdout or, whole or not at all, to a file."""
    if output == "-":
        _emit(text)
        return
    import tempfile  # noqa: PLC0415  loads random, hashlib and more

    target = Path(output)
    temporary = ""
    try:
        if target.exists() and not target.is_file():  # /dev/stderr, a named pipe: nothing to rename onto
            target.write_text(text, encoding="utf-8", errors="backslashreplace")
            return
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="backslashreplace", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            temporary = file.name
            file.write(text)
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(target)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise WriteError(f"the report was not written: {error.strerror}", output) from None


@contextmanager
def _progress(path: str, quiet: bool, building: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Yield a callback that draws a bar on a terminal once the work has taken two seconds."""
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(f"building {path}" if building else Path(path).name, total=None)
    start, shown = time.monotonic(), False
    late = Timer(2, bar.start) if building else None  # nobody calls back while a module is built and run
    if late is not None:
        late.daemon = True
        late.start()

    def advance(done: int, total: int) -> None:
        nonlocal shown
        if not shown and time.monotonic() - start > 2:
            bar.start()
            shown = True
        if shown:
            bar.update(task, description=Path(path).name, completed=done, total=total)

    try:
        yield advance
    finally:
        if late is not None:
            late.cancel()
        bar.stop()
