"""A system that fails at whatever moment: the old files or the new ones, never a mixture."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from initaudit.formats import interrupted, writing
from initaudit.formats.writing import journal
from tests.formats.crashes import DONE, FAILED, HALF, KILLED, Steps, after_fix, fixing, in_child, one, runs, stages
from tests.formats.models_on_disk import held, names, sharded

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_SOON", -1)  # a stage that is not locked yet may belong to a program that runs


@pytest.mark.parametrize("failures", [1, 10_000])
def test_one_file_and_a_system_that_fails_at_every_step(tmp_path: Path, failures: int) -> None:
    new = after_fix(one, tmp_path / "new")
    codes = set()
    for step, path, old in runs(tmp_path, one):
        work = fixing(path)
        code = in_child(
            lambda work=work, step=step: (Steps(step, failures=failures).install(), work())  # type: ignore[misc]
        )
        assert code in (DONE, FAILED), step
        codes.add(code)
        got = path.read_bytes()
        assert got in (old["m.safetensors"], new["m.safetensors"]), step
        assert (code == DONE) == (got == new["m.safetensors"]), step
        if failures == 1 and code == FAILED:
            assert names(path.parent) == ["m.safetensors"], step
        writing.recover(path)
        assert names(path.parent) == ["m.safetensors"], step
    assert codes == {DONE, FAILED}


@pytest.mark.parametrize("failures", [1, 2, 10_000])
def test_several_files_and_a_system_that_fails_at_every_step(tmp_path: Path, failures: int) -> None:
    new = after_fix(sharded, tmp_path / "new")
    codes = set()
    for step, index, old in runs(tmp_path, sharded):
        work = fixing(index)
        code = in_child(
            lambda work=work, step=step: (Steps(step, failures=failures).install(), work())  # type: ignore[misc]
        )
        assert code in (DONE, FAILED, HALF), step
        codes.add(code)
        now = {name: data for name, data in held(index.parent).items() if not name.startswith(".")}
        if code == DONE:
            assert now == new, step
        if code == FAILED:
            assert now == old, step
        if code == HALF or now not in (old, new):
            assert interrupted.JOURNAL in names(index.parent)
        writing.recover(index)
        assert held(index.parent) in (old, new), step
        assert stages(index.parent) == []
    assert codes >= {DONE, FAILED}


def test_one_rename_that_fails_is_taken_back(tmp_path: Path) -> None:
    for step in range(3):
        index = sharded(tmp_path / f"m{step}")
        before, work = held(index.parent), fixing(index)
        code = in_child(
            lambda work=work, step=step: (Steps(step, only="replace").install(), work())  # type: ignore[misc]
        )
        assert code == FAILED
        assert held(index.parent) == before
        assert names(index.parent) == sorted(before)


def test_killed_while_taking_back(tmp_path: Path) -> None:
    """The second rename fails, and the program is killed at every step behind that."""

    def failing_then_killed(work: Callable[[], None], at: int) -> None:
        failing = Steps(1, only="replace").install()
        Steps(at, kill=True, after=failing).install()
        work()

    new = after_fix(sharded, tmp_path / "new")
    step, codes = 0, []
    while not codes or codes[-1] == KILLED:
        index = sharded(tmp_path / f"m{step}")
        old, work = held(index.parent), fixing(index)
        codes.append(in_child(lambda work=work, step=step: failing_then_killed(work, step)))  # type: ignore[misc]
        writing.recover(index)
        assert held(index.parent) in (old, new), step
        assert stages(index.parent) == []
        step += 1
    assert codes[-1] == FAILED


@pytest.mark.skipif(not hasattr(signal, "SIGXFSZ"), reason="no limit for the size of files")
@pytest.mark.parametrize("make", [one, sharded])
def test_a_disk_that_is_full_in_the_middle_of_a_file(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    import resource

    path = make(tmp_path / "m")
    before, work = held(path.parent), fixing(path)

    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))
        work()

    assert in_child(full) == FAILED
    assert held(path.parent) == before
    assert stages(path.parent) == []
