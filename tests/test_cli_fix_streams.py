"""`initaudit fix` where its report finds no reader, and where it is told to stop."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from initaudit.repair import fixing
from tests.running import INITAUDIT
from tests.test_cli import refused
from tests.test_cli_fix import FIXTURES, cli, files

__all__ = ["cli"]


def shell(line: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = line.format(f"{INITAUDIT} fix broken.onnx")
    path = str(FIXTURES.parent)
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": path, **env},
    )  # fmt: skip


def test_a_report_that_cannot_be_written_writes_no_model(cli):
    done = shell("{} --format json > /dev/full")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "broken.fixed.onnx" not in files()


@pytest.mark.parametrize("line", ["{} | head -1", "{} >&-", "{} 2>&-", "PYTHONIOENCODING=ascii {}"])
def test_a_reader_that_leaves_changes_nothing_about_the_repair(cli, line):
    done = shell(f"set -o pipefail; {line}")
    assert done.returncode == 0
    assert done.stderr == ""
    assert "broken.fixed.onnx" in files()


def test_ctrl_c_is_one_line_and_leaves_nothing_behind(cli, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    before = files()
    monkeypatch.setattr(fixing.Judge, "second", interrupted)
    assert "interrupted" in refused(cli("fix", "broken.onnx"))
    assert files() == before


@pytest.mark.parametrize(("number", "dry"), [(signal.SIGINT, ""), (signal.SIGTERM, ""), (signal.SIGTERM, "--dry-run")])
def test_a_signal_while_the_copy_is_looked_at_leaves_nothing_behind(cli, number, dry):
    code = (
        f"import sys, time; sys.argv = ['initaudit', 'fix', 'broken.onnx', *{dry.split()!r}]\n"
        "from initaudit.cli import main\nfrom initaudit.repair import fixing\n"
        "def slow(*_):\n    open('ready', 'w').close()\n    time.sleep(60)\n"
        "fixing.Judge.second = slow\nmain()"
    )
    before = files()
    Path("temporary").mkdir()
    env = {**os.environ, "PYTHONPATH": str(FIXTURES.parent), "TMPDIR": str(Path("temporary").resolve())}
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, env=env) as running:
        for _ in range(600):
            if Path("ready").exists():
                break
            time.sleep(0.05)
        assert any(name.startswith(".initaudit") for name in files()) or list(Path("temporary").iterdir())
        running.send_signal(number)
        _, err = running.communicate(timeout=30)
    assert "Traceback" not in err
    if number is signal.SIGINT:
        assert (running.returncode, err) == (2, "initaudit: interrupted\n")
    assert running.returncode == (2 if number is signal.SIGINT else 128 + number)
    assert files() == before | {"ready", "temporary"}
    assert list(Path("temporary").iterdir()) == []
