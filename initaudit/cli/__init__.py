"""The command line: options in, text and an exit code out.

Exit codes of all commands: 0 all is well; 1 it is not: findings at or above --fail-on, models that differ, a repair
that is worse, still at fault or only pending; 2 it could not do its work, with one line on stderr that says what and
where.
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
    epilog="Exit codes: 0 all is well; 1 it is not: findings (check), something worse or left at fault (fix), models"
    " that differ (diff); 2 the work could not be done, with one line that says why.",
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


# The list of commands has room for some fifty characters each; a docstring's first line is longer.
for _command, _brief in (
    (check, "Judge the weights of a checkpoint or graph."),
    (fix, "Draw again what is wrong, and nothing else."),
    (show, "List every weight; signal and gradient by depth."),
    (diff, "Compare two models tensor by tensor."),
    (rules, "List the rules and what each finds."),
    (explain, "Tell what a rule finds and why it matters."),
    (schemes, "List the initializers that are recognised."),
    (activations, "List the activations, with their gains."),
):
    app.command(short_help=_brief)(_command)


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
