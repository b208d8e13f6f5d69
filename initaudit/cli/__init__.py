"""The command line: options in, text and an exit code out.

Exit codes of all commands: 0 nothing at or above --fail-on; 1 findings; 2 it could not do its work, with one line on
stderr that says what and where.
"""

from __future__ import annotations

import sys
import traceback
from typing import Annotated, Any, NoReturn

import typer

from initaudit.cli.checking import check, show
from initaudit.cli.differing import diff
from initaudit.cli.listing import activations, explain, rules, schemes
from initaudit.cli.repairing import fix
from initaudit.cli.streams import complain, emit
from initaudit.errors import InitauditError
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
        emit(f"initaudit {__version__}\n")
        raise typer.Exit(0)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


for _command in (check, fix, show, diff, rules, explain, schemes, activations):
    app.command()(_command)


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="initaudit", standalone_mode=False)
        code = code if len(sys.argv) > 1 else 2  # nothing was asked for: help, but no clean pass
        if code == _INTERRUPTED:
            raise KeyboardInterrupt
    except InitauditError as error:
        complain(str(error))
        code = 2
    except _ClickError as error:
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "initaudit"
        complain(f"{error.format_message()} Try '{command} --help'.")
        code = 2
    except (KeyboardInterrupt, typer.Abort):
        complain("interrupted")
        code = 2
    except Exception:
        # A bug of ours: the traceback stays visible, and the exit code still says that the work was not done.
        traceback.print_exc()
        code = 2
    raise SystemExit(code or 0)


_INTERRUPTED = 130  # what typer makes of Ctrl-C; no command of ours ends with it
_ClickError: Any = typer.BadParameter.__mro__[2]  # typer carries click inside since 0.2x; before that it was its own
