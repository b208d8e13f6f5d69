"""What goes to stdout, stderr and files, and the bar that shows how far a long piece of work is."""

from __future__ import annotations

import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import TextIO

from initaudit.errors import WriteError
from initaudit.reporters.base import Style, printable

Step = Callable[[str, int, int], None]  # what is being done, how much of it, of how much


def emit(text: str) -> None:
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


def complain(message: str) -> None:
    """Write one line to stderr."""
    if sys.stderr is not None:
        with suppress(OSError):
            _tolerate(sys.stderr)
            sys.stderr.write(f"initaudit: {' '.join(message.split())}\n")


def width() -> int:
    """Columns of the terminal; 100 where there is none, as in a log file."""
    return max(40, shutil.get_terminal_size((100, 24)).columns)


def style_of(output: str, *, verbosity: int, many: bool) -> Style:
    """Return how a report is written to an output."""
    terminal = output == "-" and sys.stdout is not None and sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
    return Style(width(), terminal and not os.environ.get("NO_COLOR"), verbosity, many)


def write(text: str, output: str) -> None:
    """Write a report to stdout or, whole or not at all, to a file."""
    if output == "-":
        emit(text)
        return
    with aside(text, output) as put:
        put()


@contextmanager
def aside(text: str, output: str) -> Iterator[Callable[[], None]]:
    """Write text to a file beside the output and yield what puts it there, whole; without that it goes away.

    Raises:
        WriteError: it cannot be written.
    """
    import tempfile  # noqa: PLC0415  loads random, hashlib and more

    target = Path(output)
    temporary: Path | None = None

    def put() -> None:
        try:
            if temporary is None:
                target.write_text(text, encoding="utf-8", errors="backslashreplace")
            else:
                temporary.replace(target)
        except OSError as error:
            raise _unwritten(error, output) from None

    try:
        if not target.exists() or target.is_file():  # else /dev/stderr, a named pipe: nothing to rename onto
            try:
                with tempfile.NamedTemporaryFile(
                    "w", encoding="utf-8", errors="backslashreplace", dir=target.parent, prefix=f".{target.name}.",
                    delete=False,
                ) as file:  # fmt: skip
                    temporary = Path(file.name)
                    file.write(text)
                umask = os.umask(0)
                os.umask(umask)
                temporary.chmod(0o666 & ~umask)
            except OSError as error:
                raise _unwritten(error, output) from None
        yield put
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _unwritten(error: OSError, output: str) -> WriteError:
    return WriteError(f"the report was not written: {error.strerror}", output)


def check_file(output: str) -> None:
    """Refuse a place where no file can be written, before work is done for it.

    Raises:
        WriteError: it is a folder, lies in none, or nobody may write there.
    """
    target = Path(output)
    if target.is_dir():
        raise WriteError("is a folder; name a file", output)
    if not target.parent.is_dir():
        raise WriteError("no such folder", str(target.parent))
    if not os.access(target.parent if not target.exists() or target.is_file() else target, os.W_OK):
        raise WriteError("there is no right to write here", output)


@contextmanager
def progress_of(first: str, quiet: bool) -> Iterator[Step | None]:
    """Yield what draws a bar on a terminal once the work has taken two seconds; None where nobody would see it.

    Args:
        first: what is being done until someone says otherwise.
        quiet: nobody wants to know.
    """
    if quiet or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    bar = Progress(console=Console(stderr=True), transient=True)
    task = bar.add_task(printable(first), total=None)
    late = Timer(2, bar.start)  # also where nobody calls back, as while a module is built and run
    late.daemon = True
    late.start()

    def step(what: str, done: int, total: int) -> None:
        bar.update(task, description=printable(what), completed=done, total=total or None)

    try:
        yield step
    finally:
        late.cancel()
        bar.stop()
