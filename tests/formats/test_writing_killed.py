"""A program that is killed at whatever moment leaves the old files or the new ones, never a mixture."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from initaudit import formats
from initaudit.errors import ReadError
from initaudit.formats import interrupted, writing
from initaudit.formats.writing import journal
from tests.formats.crashes import DONE, KILLED, Steps, after_fix, count_steps, fixing, in_child, one, runs, stages
from tests.formats.models_on_disk import held, names, sharded

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_SOON", -1)  # a stage that is not locked yet may belong to a program that runs


def test_one_file_killed_at_every_step_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    new = after_fix(one, tmp_path / "new")
    seen = set()
    for step, path, old in runs(tmp_path, one):
        work = fixing(path)
        code = in_child(lambda work=work, step=step: (Steps(step, kill=True).install(), work()))  # type: ignore[misc]
        assert code == KILLED, step
        got = path.read_bytes()
        assert got in (old["m.safetensors"], new["m.safetensors"]), step
        seen.add(got)
        assert interrupted.JOURNAL not in names(path.parent)
        assert writing.recover(path) == ()
        assert names(path.parent) == ["m.safetensors"], step
    assert len(seen) == 2


def test_several_files_killed_at_every_step_are_all_old_or_all_new_after_recovery(tmp_path: Path) -> None:
    new = after_fix(sharded, tmp_path / "new")
    halves, told = 0, set()
    for step, index, old in runs(tmp_path, sharded):
        work = fixing(index)
        code = in_child(lambda work=work, step=step: (Steps(step, kill=True).install(), work()))  # type: ignore[misc]
        assert code == KILLED, step
        folder = index.parent
        now = {name: data for name, data in held(folder).items() if not name.startswith(".")}
        if now not in (old, new):
            halves += 1
            for path in (index, folder):
                with pytest.raises(ReadError, match=r"interrupted.*initaudit fix"):
                    formats.read(path)
        lines = writing.recover(index)
        told |= {line.partition(": ")[2] for line in lines}
        assert held(folder) in (old, new), step
        assert stages(folder) == [], step
        assert len(formats.read(folder).tensors) == 6
        assert writing.recover(index) == ()
    assert halves >= 2
    assert told >= {"finished a repair that was interrupted"}


def test_killed_while_finishing_what_was_killed(tmp_path: Path) -> None:
    new = after_fix(sharded, tmp_path / "new")

    def half(folder: Path) -> Path:
        index = sharded(folder)
        work = fixing(index)
        assert in_child(lambda: (Steps(1, kill=True, only="replace").install(), work())) == KILLED  # type: ignore[misc]
        assert interrupted.JOURNAL in names(folder)
        return index

    index = half(tmp_path / "count")
    steps = count_steps(lambda: writing.recover(index))
    assert steps > 5
    for step in range(steps):
        index = half(tmp_path / f"at{step}")
        code = in_child(lambda index=index, step=step: (Steps(step, kill=True).install(), writing.recover(index)))  # type: ignore[misc]
        assert code == KILLED
        writing.recover(index)
        assert held(index.parent) == new, step


def test_a_new_folder_killed_at_every_step_is_there_or_not(tmp_path: Path) -> None:
    first = sharded(tmp_path / "m")
    target = tmp_path / "out"
    whole = held(tmp_path / "m")
    steps = count_steps(fixing(first, target=target))
    complete = held(target)
    shutil.rmtree(target)
    there = 0
    for step in range(steps):
        journal.recover(tmp_path)
        work = fixing(first, target=target)
        code = in_child(lambda work=work, step=step: (Steps(step, kill=True).install(), work()))  # type: ignore[misc]
        assert code == KILLED
        assert held(tmp_path / "m") == whole
        if target.exists():
            there += 1
            assert held(target) == complete, step
            shutil.rmtree(target)
    assert 0 < there < steps
    fixing(first, target=target)()
    assert names(tmp_path) == ["m", "out"]


def test_files_are_on_the_disk_before_they_take_their_names(tmp_path: Path) -> None:
    index = sharded(tmp_path / "m")
    work = fixing(index)

    def watched() -> None:
        synced: set[int] = set()
        renamed: list[str] = []
        real_fsync, real_replace = os.fsync, os.replace
        root = index.parent

        def fsync(number: int) -> None:
            real_fsync(number)
            synced.add(os.fstat(number).st_ino)

        def replace(old: str, new: str) -> None:
            assert Path(old).stat().st_ino in synced
            stage = next(root.glob(f"{interrupted.PREFIX}?*[0-9a-f]"))
            assert (root / interrupted.JOURNAL).stat().st_ino in synced
            renamed.append(new)
            for folder in (root, stage, stage / "new", stage / "old"):
                assert folder.stat().st_ino in synced or len(renamed) > 1, folder
            real_replace(old, new)
            synced.discard(root.stat().st_ino)

        os.fsync, os.replace = fsync, replace  # type: ignore[assignment]
        work()
        assert len(renamed) == 3
        assert root.stat().st_ino in synced

    assert in_child(watched) == DONE
