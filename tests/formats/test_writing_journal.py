"""Journals and stages of other programs, other people, and file systems that can do less."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from initaudit import formats
from initaudit.errors import ReadError, WriteError
from initaudit.formats import interrupted, writing
from initaudit.formats.writing import journal
from tests.formats.crashes import DONE, FAILED, HALF, Steps, after_fix, fixing, in_child, one, stages
from tests.formats.models_on_disk import edits, held, names, sharded, values

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "_SOON", -1)  # a stage that is not locked yet may belong to a program that runs


def test_a_program_that_still_runs_keeps_its_stage(tmp_path: Path) -> None:
    path = one(tmp_path / "m")
    with writing.stage(path, edits(path, "a.weight"), tmp_path / "m" / "x") as first:
        assert in_child(fixing(path, "b.weight", target=tmp_path / "m" / "y")) == DONE
        assert len(stages(tmp_path / "m")) == 1
        first.commit()
    assert names(tmp_path / "m") == ["m.safetensors", "x", "y"]


def test_a_commit_of_another_program_that_still_runs_is_not_disturbed(tmp_path: Path) -> None:
    index = sharded(tmp_path / "m")
    with writing.stage(index, edits(index), in_place=True) as staged:
        folder = staged.path.parent.parent
        moves = [journal.Move("new/config.json", "config.json")]
        (index.parent / interrupted.JOURNAL).write_bytes(journal._text(folder.name, moves, undo=False))
        assert in_child(lambda: writing.recover(index)) == FAILED
        with pytest.raises(WriteError, match="another repair"):
            staged.commit()
    (index.parent / interrupted.JOURNAL).unlink()


def test_a_lock_that_the_file_system_does_not_have_falls_back_on_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "_try_lock", lambda number: None)
    stage = journal.Stage(tmp_path)
    assert journal.recover(tmp_path) == ()
    assert stage.path.exists()
    dead = journal.Stage(tmp_path)
    gone = os.fork()
    if not gone:
        os._exit(0)
    os.waitpid(gone, 0)
    host = (dead.path / "lock").read_text().partition(" ")[0]
    (dead.path / "lock").write_text(f"{host} {gone}")
    journal.recover(tmp_path)
    assert not dead.path.exists()
    (stage.path / "lock").write_text(f"elsewhere {gone}")
    journal.recover(tmp_path)
    assert stage.path.exists()
    stage.remove()


@pytest.mark.parametrize(
    "moves",
    [
        [{"new": "new/x", "final": "../victim"}],
        [{"new": "new/x", "final": "/tmp/victim"}],
        [{"new": "../../victim", "final": "x"}],
        [{"new": "new/../../../victim", "final": "x"}],
        [{"new": "new/x", "final": "link/victim"}],
        [{"new": "new/x", "final": "x", "old": "../../victim"}],
        [{"new": "new/x", "final": ""}],
        [{"new": "new/x"}],
        [{"new": 7, "final": "x"}],
        "nothing",
    ],
)
def test_a_journal_from_a_stranger_moves_nothing_out_of_its_folder(tmp_path: Path, moves: object) -> None:
    import hashlib

    root = tmp_path / "model"
    stage = root / f"{interrupted.PREFIX}{'a' * 16}"
    (stage / "new").mkdir(parents=True)
    (stage / "new" / "x").write_text("evil")
    (stage / "lock").write_text("")
    (root / "link").symlink_to(tmp_path)
    (tmp_path / "victim").write_text("mine")
    body = json.dumps({"stage": stage.name, "undo": False, "moves": moves}).encode()
    (root / interrupted.JOURNAL).write_bytes(hashlib.sha256(body).hexdigest().encode() + b"\n" + body)
    with pytest.raises(WriteError, match="not one that was written here"):
        journal.recover(root)
    assert (tmp_path / "victim").read_text() == "mine"


@pytest.mark.parametrize("stage", ["../elsewhere", ".", "/tmp", ".initaudit-zz", "link"])
def test_a_journal_names_only_a_stage_beside_it(tmp_path: Path, stage: str) -> None:
    root = tmp_path / "model"
    root.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (root / interrupted.JOURNAL).write_bytes(journal._text(stage, [journal.Move("new/x", "x")], undo=False))
    with pytest.raises(WriteError, match="not one that was written here"):
        journal.recover(root)


def test_a_stage_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("mine")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / f"{interrupted.PREFIX}{'b' * 16}").symlink_to(tmp_path / "precious")
    journal.recover(tmp_path / "model")
    assert (tmp_path / "precious" / "file").read_text() == "mine"


def test_a_journal_that_was_cut_off_means_that_nothing_was_renamed(tmp_path: Path) -> None:
    index = sharded(tmp_path / "m")
    text = journal._text(f"{interrupted.PREFIX}{'0' * 16}", [journal.Move("new/a", "a")], undo=False)
    for length in range(0, len(text), 7):
        (index.parent / interrupted.JOURNAL).write_bytes(text[:length])
        assert "changed nothing yet" in writing.recover(index)[0]
        assert stages(index.parent) == []


def test_files_that_cannot_be_linked_are_renamed_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*args: object, **kwargs: object) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    index = sharded(tmp_path / "m")
    fixing(index)()
    assert all((value == np.float32(0.5)).all() for value in values(index).values())
    fixing(one(tmp_path / "n"), target=tmp_path / "n" / "new")()
    assert names(tmp_path / "n") == ["m.safetensors", "new"]


def test_without_links_a_failing_rename_leaves_a_journal_and_the_next_run_finishes(tmp_path: Path) -> None:
    new = after_fix(sharded, tmp_path / "new")
    index = sharded(tmp_path / "m")
    work = fixing(index)

    def limited() -> None:
        Steps(0, failures=10_000, only="link").install()
        Steps(1, only="replace").install()
        work()

    assert in_child(limited) == HALF
    with pytest.raises(ReadError, match="initaudit fix"):
        formats.read(index)
    assert "finished" in writing.recover(index)[0]
    assert held(index.parent) == new
