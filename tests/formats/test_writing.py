"""Staging, targets and what is left on the disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import threading
from pathlib import Path

import numpy as np
import pytest

from initaudit import formats
from initaudit.edits import Edit, FilePlan, Patch
from initaudit.errors import ReadError, UnsupportedError, UsageError, WriteError
from initaudit.formats import interrupted, writing
from initaudit.formats.writing import targets
from initaudit.formats.writing.copying import write_copy
from tests.formats.models_on_disk import edits, held, names, sharded, single, values


def sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# -- one file


def test_nothing_but_the_stage_folder_is_there_before_commit_and_not_even_that_afterwards(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    before = held(tmp_path)
    with writing.stage(file, edits(file, "a.weight")) as staged:
        assert staged.target == tmp_path / "m.fixed.safetensors"
        assert staged.path.parent.parent.parent == tmp_path
        assert staged.path.name == staged.target.name
        assert (values(staged.path)["a.weight"] == 0.5).all()
        assert {path.name for path in tmp_path.iterdir() if not path.name.startswith(".initaudit-")} == set(before)
        inputs, outputs = staged.inputs, staged.outputs
        staged.commit()
        assert staged.committed
    assert set(held(tmp_path)) == {"m.safetensors", "m.fixed.safetensors"}
    assert held(tmp_path)["m.safetensors"] == before["m.safetensors"]
    assert inputs == {str(file): sha(file)}
    assert outputs == {str(staged.target): sha(staged.target)}


def test_only_the_bytes_of_the_edited_tensor_differ(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    (change,) = edits(file, "b.weight")
    with writing.stage(file, [change]) as staged:
        staged.commit()
    old, new = (np.frombuffer(path.read_bytes(), "u1") for path in (file, staged.target))
    start = int(change.tensor.storage.removeprefix("@"))
    stop = start + 16 * 8 * 4
    assert len(old) == len(new)
    np.testing.assert_array_equal(old[:start], new[:start])
    np.testing.assert_array_equal(old[stop:], new[stop:])
    np.testing.assert_array_equal(new[start:stop].view("f4"), np.full(128, 0.5, "f4"))


def test_without_commit_or_on_an_error_all_is_as_before(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    before = held(tmp_path)
    with writing.stage(file, edits(file)):
        pass
    assert held(tmp_path) == before
    with pytest.raises(KeyboardInterrupt), writing.stage(file, edits(file), in_place=True):
        raise KeyboardInterrupt
    assert held(tmp_path) == before
    too_large = edits(file, value=1e300)
    with pytest.raises(UnsupportedError, match=r"m\.safetensors: .*float32 holds"), writing.stage(file, too_large):
        pass
    assert held(tmp_path) == before
    assert names(tmp_path) == ["m.safetensors"]


def test_ctrl_c_while_copying_leaves_nothing(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), writing.stage(file, edits(file), in_place=True, progress=stop):
        pass
    assert names(tmp_path) == ["m.safetensors"]


@pytest.mark.skipif(os.name == "nt", reason="no such signal")
def test_sigterm_takes_the_stage_folder_away_and_ends_the_program(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    with pytest.raises(SystemExit) as left, writing.stage(file, edits(file)):
        os.kill(os.getpid(), signal.SIGTERM)
    assert left.value.code == 128 + signal.SIGTERM
    assert names(tmp_path) == ["m.safetensors"]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_in_another_thread(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")

    def work() -> None:
        with writing.stage(file, edits(file)) as staged:
            staged.commit()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert names(tmp_path) == ["m.fixed.safetensors", "m.safetensors"]


def test_progress_ends_at_the_size_of_the_file(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    told: list[tuple[int, int]] = []
    with writing.stage(file, edits(file), progress=lambda done, total: told.append((done, total))):
        pass
    size = file.stat().st_size
    assert told[-1] == (size, size)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_the_config_beside_the_model_is_there_for_the_second_look(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "out").mkdir()
    with writing.stage(file, edits(file), tmp_path / "out" / "n.safetensors") as staged:
        assert formats.read(staged.path).config == {"model_type": "bert"}
        staged.commit()
    assert names(tmp_path / "out") == ["n.safetensors"]


def test_a_splice_moves_what_follows_and_the_seal_sees_the_new_file(tmp_path: Path) -> None:
    source = tmp_path / "a"
    source.write_bytes(b"0123456789")
    patches = (Patch(0, 0, lambda: b"<"), Patch(2, 5, lambda: b"xy"), Patch(9, 10, lambda: b"zzz"))

    def seal(file: object) -> None:
        file.seek(6)  # type: ignore[attr-defined]
        file.write(b"S")  # type: ignore[attr-defined]

    copied = write_copy(FilePlan(source, patches, seal), tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"<01xy5S78zzz"
    assert (copied.read, copied.written) == (sha(source), sha(tmp_path / "b"))
    copied = write_copy(FilePlan(source, patches), tmp_path / "c")
    assert (tmp_path / "c").read_bytes() == b"<01xy5678zzz"
    assert copied.written == sha(tmp_path / "c")


@pytest.mark.skipif(not hasattr(os, "sched_yield"), reason="holes in files are told by POSIX systems")
def test_holes_stay_holes_and_the_end_is_kept(tmp_path: Path) -> None:
    source = tmp_path / "a"
    with source.open("wb") as file:
        file.write(b"head")
        file.truncate(50 << 20)
    if source.stat().st_blocks * 512 >= source.stat().st_size:
        pytest.skip("the file system has no holes")
    copied = write_copy(FilePlan(source, (Patch(30 << 20, (30 << 20) + 2, lambda: b"ab"),)), tmp_path / "b")
    assert (tmp_path / "b").stat().st_size == 50 << 20
    assert (tmp_path / "b").stat().st_blocks * 512 < 20 << 20
    assert copied.written == sha(tmp_path / "b")
    assert (copied.read) == sha(source)


# -- targets


@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        ("ckpt.pt", "ckpt.fixed.pt"), ("model.onnx", "model.fixed.onnx"), ("x.pth.tar", "x.pth.fixed.tar"),
        ("weights", "weights.fixed"),
    ],
)  # fmt: skip
def test_names_beside_a_file(tmp_path: Path, name: str, fixed: str) -> None:
    single(tmp_path / name)
    assert writing.default_target(tmp_path / name) == tmp_path / fixed


def test_names_beside_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = sharded(tmp_path / "model")
    assert writing.default_target(tmp_path / "model") == tmp_path / "model.fixed"
    assert writing.default_target(index) == tmp_path / "model.fixed"
    monkeypatch.chdir(tmp_path / "model")
    assert writing.default_target(".") == tmp_path / "model.fixed"
    assert writing.default_target("model.safetensors.index.json") == tmp_path / "model.fixed"


def test_an_existing_target_is_replaced_by_force_only(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    target = tmp_path / "out.safetensors"
    target.write_text("mine")
    with pytest.raises(UsageError, match="exists already"), writing.stage(file, edits(file), target):
        pass
    assert target.read_text() == "mine"
    with writing.stage(file, edits(file), target, force=True) as staged:
        staged.commit()
    assert (values(target)["a.weight"] == 0.5).all()
    assert names(tmp_path) == ["m.safetensors", "out.safetensors"]


def test_a_target_that_comes_to_exist_meanwhile_is_left_alone(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    with pytest.raises(WriteError, match="meanwhile"), writing.stage(file, edits(file)) as staged:
        staged.target.write_text("mine")
        staged.commit()
    assert staged.target.read_text() == "mine"


@pytest.mark.parametrize("force", [True, False])
def test_targets_that_are_refused(tmp_path: Path, force: bool) -> None:
    file = single(tmp_path / "m.safetensors")
    (tmp_path / "link").symlink_to(file)
    index = sharded(tmp_path / "model")
    (tmp_path / "plain").write_text("")
    cases: list[tuple[Path, Path, str]] = [
        (file, file, "--in-place"),
        (file, tmp_path / "link", "--in-place"),
        (file, tmp_path / "model", "is a folder"),
        (file, tmp_path / "nowhere" / "x", "does not exist"),
        (index, tmp_path / "model", "--in-place"),
        (index, tmp_path / "plain", "is a file"),
        (tmp_path / "model", index, "--in-place"),
        (tmp_path / "model", tmp_path, "exists already|holds what"),
    ]
    before = held(tmp_path)
    for path, target, why in cases:
        with pytest.raises(UsageError, match=why), writing.stage(path, edits(path), target, force=force):
            pass
    with pytest.raises(UsageError, match="exclude"), writing.stage(file, [], tmp_path / "y", in_place=True):
        pass
    assert held(tmp_path) == before


def test_a_link_as_target_keeps_pointing_at_the_new_file(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    (tmp_path / "latest").symlink_to("real.safetensors")
    with writing.stage(file, edits(file), tmp_path / "latest") as staged:
        staged.commit()
    assert (tmp_path / "latest").is_symlink()
    assert (values(tmp_path / "real.safetensors")["a.weight"] == 0.5).all()


@pytest.mark.skipif(os.name == "nt", reason="no modes")
def test_a_new_file_has_the_mode_of_the_old_one_less_the_umask(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    changes = edits(file)
    file.chmod(0o464)
    before = os.umask(0o027)
    try:
        with writing.stage(file, changes) as staged:
            staged.commit()
    finally:
        os.umask(before)
    assert staged.target.stat().st_mode & 0o777 == 0o440


# -- folders


def test_a_folder_becomes_a_folder_with_all_its_files(tmp_path: Path) -> None:
    index = sharded(tmp_path / "model")
    (tmp_path / "model" / "runs").mkdir()
    (tmp_path / "model" / "runs" / "log").write_text("x")
    (tmp_path / "model" / ".gitattributes").write_text("y")
    before = held(tmp_path / "model")
    with writing.stage(tmp_path / "model", edits(index, "layer2.weight")) as staged:
        assert (values(staged.path)["layer2.weight"] == 0.5).all()
        staged.commit()
    assert staged.target == tmp_path / "model.fixed"
    assert staged.notes == ("folders in it are not copied: runs; copy those that the model is loaded with",)
    assert held(tmp_path / "model") == before
    after = held(staged.target)
    assert set(after) == set(before) - {"runs/log"}
    assert [name for name in after if after[name] != before[name]] == ["model-00002-of-00003.safetensors"]
    assert names(tmp_path) == ["model", "model.fixed"]
    assert set(staged.outputs) == {str(staged.target / name) for name in after}
    assert all(sha(Path(path)) == digest for path, digest in (staged.outputs | staged.inputs).items())


def test_an_index_leads_to_a_folder_and_is_read_there(tmp_path: Path) -> None:
    index = sharded(tmp_path / "model")
    with writing.stage(index, edits(index, "layer2.weight"), tmp_path / "out") as staged:
        assert staged.path.name == index.name
        staged.commit()
    assert staged.target == tmp_path / "out" / index.name
    got, old = values(staged.target), values(index)
    assert (got.pop("layer2.weight") == 0.5).all()
    for name, value in got.items():
        np.testing.assert_array_equal(value, old[name])


def test_an_earlier_result_is_replaced_file_by_file_and_nothing_else_is_lost(tmp_path: Path) -> None:
    index = sharded(tmp_path / "model")
    with writing.stage(index, edits(index, value=0.5)) as staged:
        staged.commit()
    with pytest.raises(UsageError, match="exists already"), writing.stage(index, edits(index)):
        pass
    with writing.stage(index, edits(index, value=0.25), force=True) as staged:
        staged.commit()
    assert all((value == 0.25).all() for value in values(tmp_path / "model.fixed").values())
    (tmp_path / "model.fixed" / "diary.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"diary\.txt"), writing.stage(index, edits(index), force=True):
        pass
    assert (tmp_path / "model.fixed" / "diary.txt").read_text() == "mine"


def test_shards_in_a_folder_below(tmp_path: Path) -> None:
    index = sharded(tmp_path / "model")
    (tmp_path / "model" / "parts").mkdir()
    for file in (tmp_path / "model").glob("model-*"):
        file.rename(tmp_path / "model" / "parts" / file.name)
    index.write_text(index.read_text().replace('"model-', '"parts/model-'))
    (tmp_path / "model" / "parts" / "notes").write_text("no part of it")
    with writing.stage(index, edits(index)) as staged:
        staged.commit()
    assert all((value == 0.5).all() for value in values(staged.target).values())
    assert "parts/notes" not in held(tmp_path / "model.fixed")
    with writing.stage(index, edits(index, value=0.25), in_place=True) as staged:
        assert all((value == 0.25).all() for value in values(staged.path).values())
        staged.commit()
    assert all((value == 0.25).all() for value in values(index).values())
    assert "parts/notes" in held(tmp_path / "model")


# -- in place


@pytest.mark.skipif(os.name == "nt", reason="no modes")
def test_in_place_keeps_mode_and_attributes_and_changes_the_time(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    file.chmod(0o640)
    os.utime(file, (1e9, 1e9))
    try:
        os.setxattr(file, "user.note", b"kept")
        marked = True
    except (OSError, AttributeError):
        marked = False
    old = file.stat()
    with writing.stage(file, edits(file), in_place=True) as staged:
        assert staged.target == file
        staged.commit()
    new = file.stat()
    assert (new.st_mode, new.st_uid, new.st_gid) == (old.st_mode, old.st_uid, old.st_gid)
    assert new.st_mtime > old.st_mtime
    assert not marked or os.getxattr(file, "user.note") == b"kept"
    assert names(tmp_path) == ["m.safetensors"]


def test_in_place_through_a_link_keeps_the_link(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "here").mkdir()
    file = single(tmp_path / "store" / "real.bin")
    link = tmp_path / "here" / "m.safetensors"
    link.symlink_to("../store/real.bin")
    with writing.stage(link, edits(link), in_place=True) as staged:
        assert (values(staged.path)["a.weight"] == 0.5).all()
        staged.commit()
    assert link.is_symlink()
    assert not file.is_symlink()
    assert (values(file)["a.weight"] == 0.5).all()
    assert names(tmp_path / "here") == ["m.safetensors"]
    assert names(tmp_path / "store") == ["real.bin"]


def test_in_place_shows_the_whole_folder_and_writes_only_what_changes(tmp_path: Path) -> None:
    index = sharded(tmp_path / "model")
    folder = tmp_path / "model"
    before = held(folder)
    kept = (folder / "model-00001-of-00003.safetensors").stat().st_ino
    changes = edits(folder, "layer2.weight", "layer3.bias")
    with writing.stage(folder, changes, in_place=True) as staged:
        shown = formats.read(staged.path)
        assert shown.config == {"model_type": "bert"}
        assert len(shown.tensors) == 6
        staged.commit()
    after = held(folder)
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"model-00002-of-00003.safetensors", "model-00003-of-00003.safetensors"}
    assert (folder / "model-00001-of-00003.safetensors").stat().st_ino == kept
    assert set(after) == set(before)
    assert set(staged.outputs) == {str(folder / name) for name in changed}
    assert index.exists()


def test_what_others_rely_on_is_not_changed_in_place(tmp_path: Path) -> None:
    cache = tmp_path / "models--x"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots" / "abc").mkdir(parents=True)
    single(cache / "blobs" / "0123")
    link = cache / "snapshots" / "abc" / "model.safetensors"
    link.symlink_to("../../blobs/0123")
    with pytest.raises(UsageError, match=r"cache.*-o"), writing.stage(link, edits(link), in_place=True):
        pass
    with pytest.raises(UsageError, match=r"cache.*-o"), writing.stage(link.parent, edits(link), in_place=True):
        pass
    with writing.stage(link, edits(link), tmp_path / "out.safetensors") as staged:
        staged.commit()
    assert not staged.target.is_symlink()
    file = single(tmp_path / "m.safetensors")
    os.link(file, tmp_path / "other")
    with pytest.raises(UsageError, match="2 names"), writing.stage(file, edits(file), in_place=True):
        pass


def test_shards_that_are_links_out_of_the_folder_are_not_changed_together(tmp_path: Path) -> None:
    index = sharded(tmp_path / "model")
    (tmp_path / "far").mkdir()
    shard = tmp_path / "model" / "model-00001-of-00003.safetensors"
    shutil.move(shard, tmp_path / "far")
    shard.symlink_to(tmp_path / "far" / shard.name)
    with pytest.raises(UsageError, match="another folder"), writing.stage(index, edits(index), in_place=True):
        pass
    one = edits(index, "layer1.weight")
    with writing.stage(index, one, in_place=True) as staged:
        staged.commit()
    assert shard.is_symlink()
    assert (values(index)["layer1.weight"] == 0.5).all()


@pytest.mark.skipif(os.name == "nt", reason="no modes")
def test_a_read_only_file_is_not_replaced(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    changes = edits(file)
    file.chmod(0o444)
    with pytest.raises(WriteError, match="read-only"), writing.stage(file, changes, in_place=True):
        pass
    with writing.stage(file, changes) as staged:
        staged.commit()
    assert (values(staged.target)["a.weight"] == 0.5).all()


def test_a_file_that_changes_meanwhile_is_left_as_it_is(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    with pytest.raises(WriteError, match="has changed"), writing.stage(file, edits(file), in_place=True) as staged:
        single(file, seed=7)
        staged.commit()
    single(tmp_path / "same", seed=7)
    assert file.read_bytes() == (tmp_path / "same").read_bytes()


# -- trouble


def test_too_little_space_is_told_before_anything_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = single(tmp_path / "m.safetensors")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 700))
    why = r"needs 1\.\d+ KB and 700 bytes are free: .* missing"
    with pytest.raises(WriteError, match=why), writing.stage(file, edits(file)):
        pass
    assert names(tmp_path) == ["m.safetensors"]


@pytest.mark.skipif(os.name == "nt" or (hasattr(os, "geteuid") and os.geteuid() == 0), reason="root may write anywhere")
def test_a_read_only_folder(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    changes = edits(file)
    tmp_path.chmod(0o555)
    try:
        for in_place in (True, False):
            with pytest.raises(WriteError), writing.stage(file, changes, in_place=in_place):
                pass
    finally:
        tmp_path.chmod(0o755)
    assert names(tmp_path) == ["m.safetensors"]


def test_a_format_that_is_only_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = single(tmp_path / "m.safetensors")
    changes = edits(file)
    monkeypatch.setattr(formats, "_identify", lambda path: formats.Format("x", "", lambda *a: True, formats.read))
    with pytest.raises(UnsupportedError, match="x files are read, but not written"), writing.stage(file, changes):
        pass


def test_a_file_that_is_not_the_one_that_was_read(tmp_path: Path) -> None:
    file = single(tmp_path / "m.safetensors")
    changes = edits(file)
    single(file, ["other"])
    with pytest.raises(ReadError, match="has changed"), writing.stage(file, changes, in_place=True):
        pass


def test_stages_are_not_taken_for_models_and_not_copied(tmp_path: Path) -> None:
    index = sharded(tmp_path / "model")
    left = tmp_path / "model" / f"{interrupted.PREFIX}{'0' * 16}" / "new"
    left.mkdir(parents=True)
    single(left / "model.safetensors")
    assert len(formats.read(tmp_path / "model").tensors) == 6
    with writing.stage(index, edits(index)) as staged:
        staged.commit()
    assert not [name for name in held(tmp_path / "model.fixed") if name.startswith(".")]


def test_layouts_name_the_order_in_which_files_appear(tmp_path: Path) -> None:
    """External data first, then the model that names them: under a new name in the same folder, the old elsewhere."""
    model, data, more = tmp_path / "m.onnx", tmp_path / "m.onnx.data", tmp_path / "w.bin"
    for file in (model, data, more):
        file.write_bytes(b"x")
    (tmp_path / "out").mkdir()
    asked: list[dict[Path, str]] = []

    def named(names: object) -> FilePlan:
        asked.append(dict(names))  # type: ignore[call-overload]
        return FilePlan(model, ())

    plans = [FilePlan(model, (), None, named), FilePlan(data, (Patch(0, 1, lambda: b"y"),)), FilePlan(more, ())]
    same = targets.beside(model, plans, tmp_path / "n.onnx", force=False)
    assert [part.final for part in same.parts] == ["n.onnx.data", "n.onnx"]
    assert dict(same.links) == {"w.bin": more}
    assert asked == [{data: "n.onnx.data"}]
    far = targets.beside(model, plans, tmp_path / "out" / "n.onnx", force=False)
    assert [part.final for part in far.parts] == ["m.onnx.data", "w.bin", "n.onnx"]
    assert len(asked) == 1
    (tmp_path / "out" / "w.bin").write_bytes(b"someone's")
    far = targets.beside(model, plans, tmp_path / "out" / "n.onnx", force=False)
    assert [part.final for part in far.parts] == ["m.onnx.data", "n.onnx.data", "n.onnx"]
    assert asked[1:] == [{more: "n.onnx.data"}]


def test_new_data_never_take_the_name_of_the_old(tmp_path: Path) -> None:
    model, data = tmp_path / "m.old.onnx", tmp_path / "m.onnx.data"
    model.write_bytes(b"x")
    data.write_bytes(b"x")
    plans = [
        FilePlan(model, (), None, lambda names: FilePlan(model, ())),
        FilePlan(data, (Patch(0, 1, lambda: b"y"),)),
    ]
    layout = targets.beside(model, plans, tmp_path / "m.onnx", force=True)
    assert [part.final for part in layout.parts] == ["m.onnx.1.data", "m.onnx"]


def test_edits_of_tensors_that_are_views(tmp_path: Path) -> None:
    from dataclasses import replace

    file = single(tmp_path / "m.safetensors")
    whole = next(tensor for tensor in formats.read(file).tensors if tensor.name == "a.weight")
    old = np.array(whole.load())
    part = replace(whole, shape=(4, 8), offset=8 * 8)
    with writing.stage(file, [Edit(part, lambda: np.ones((4, 8)))], in_place=True) as staged:
        staged.commit()
    want = old.copy()
    want[8:12] = 1
    np.testing.assert_array_equal(values(file)["a.weight"], want)
