"""The command line, run in this process."""

import shlex
import sys

import pytest

from initaudit.cli import main

INITAUDIT = f"{shlex.quote(sys.executable)} -m initaudit"  # for a shell


def runner(monkeypatch, capsys):
    """Return what runs a command on a page of 100 columns and returns its exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "100")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["initaudit", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        out = capsys.readouterr()
        return stop.value.code, out.out, out.err

    return run
