"""`initaudit fix` on the command line: codes, streams, files, refusals."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.running import runner
from tests.test_cli import refused

FIXTURES = Path(__file__).parent.parent / "fixtures"


@pytest.fixture
def cli(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("broken.onnx", "healthy.onnx", "faults.pt", "faults.safetensors"):
        shutil.copy(FIXTURES / name, tmp_path)
    return runner(monkeypatch, capsys)


def files() -> set[str]:
    return {path.name for path in Path().iterdir()}


def test_a_file_is_repaired_beside_the_original_and_the_repair_is_told(cli):
    before = Path("broken.onnx").read_bytes()
    code, out, err = cli("fix", "broken.onnx")
    assert (code, err) == (0, "")
    assert Path("broken.onnx").read_bytes() == before
    for said in (
        "conv1", "he", "INI101", "error > ok", "4 layers drawn again, written to broken.fixed.onnx",
        "audited again: healthy", "next: initaudit diff broken.onnx broken.fixed.onnx",
    ):  # fmt: skip
        assert said in out
    assert cli("check", "broken.fixed.onnx")[0] == 0


def test_nothing_to_fix_is_0_and_writes_nothing(cli):
    before = files()
    code, out, err = cli("fix", "healthy.onnx")
    assert (code, err) == (0, "")
    assert "nothing to fix" in out
    assert files() == before


def test_a_dry_run_is_1_and_writes_nothing(cli):
    before = files()
    code, out, _ = cli("fix", "faults.pt", "--dry-run")
    assert code == 1
    assert "dry run, nothing written: 5 layers would be drawn again" in out
    assert "warning > ok" in out
    assert files() == before
    assert cli("fix", "healthy.onnx", "--dry-run")[0] == 0


def test_a_worse_result_is_1_and_writes_nothing(cli):
    before = files()
    code, out, _ = cli("fix", "healthy.onnx", "--all", "--scheme", "normal:std=5")
    assert code == 1
    assert "nothing written: the result is worse" in out
    assert "worse: " in out
    assert files() == before


def test_a_layer_still_at_fault_is_1_and_written(cli):
    code, out, _ = cli("fix", "broken.onnx", "--layers", "fc2", "--scheme", "zeros")
    assert code == 1
    assert "still at fault: fc2" in out
    assert "next: initaudit check broken.fixed.onnx" in out
    assert Path("broken.fixed.onnx").exists()


def test_an_error_that_is_left_is_1(cli, monkeypatch):
    code, out, _ = cli("fix", "broken.onnx", "--layers", "conv1", "-o", "some.onnx")
    assert (code, Path("some.onnx").exists()) == (1, True)
    assert "left: error INI103" in out
    from initaudit.edits import Plan
    from initaudit.repair import planning

    monkeypatch.setattr(planning, "plan", lambda *_, **__: Plan(()))
    code, out, _ = cli("fix", "broken.onnx")
    assert code == 1
    assert "nothing that drawing weights again would cure, nothing written: unhealthy" in out


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_a_repair_that_an_interrupted_one_left_is_told(cli, monkeypatch, quiet):
    from initaudit.formats import writing

    monkeypatch.setattr(writing, "recover", lambda _: ("finished a repair that was interrupted",))
    assert "finished a repair that was interrupted" in cli("fix", "healthy.onnx", *quiet)[1]


def test_json_and_the_manifest_are_one_document(cli):
    code, out, err = cli("fix", "faults.safetensors", "--format", "json", "--manifest", "m.json")
    assert (code, err) == (0, "")
    told = json.loads(out)
    assert told["schema"] == "initaudit.repair/1"
    assert Path("m.json").read_text() == out
    assert told["output"]["path"] == "faults.fixed.safetensors"
    assert set(told["output"]["sha256"]) == {"faults.fixed.safetensors"}
    assert told["summary"]["exit_code"] == 0


def test_quiet_is_one_line(cli):
    assert cli("fix", "broken.onnx", "-q")[1].count("\n") == 1
    assert cli("fix", "healthy.onnx", "-q")[1].count("\n") == 1


@pytest.mark.parametrize("width", [80, 160])
def test_the_report_fits_its_width_and_has_no_colour_in_a_pipe(cli, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for arguments in (["broken.onnx", "-v"], ["faults.pt", "--scheme", "orthogonal:gain=1.41421356", "--all"]):
        _, out, _ = cli("fix", *arguments)
        assert max(map(len, out.splitlines())) <= width
        assert "\x1b" not in out


def test_an_existing_target_is_refused_but_with_force(cli):
    assert cli("fix", "broken.onnx")[0] == 0
    assert "--force" in refused(cli("fix", "broken.onnx"))
    assert cli("fix", "broken.onnx", "--dry-run")[0] == 1
    assert cli("fix", "broken.onnx", "--force")[0] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["missing.pt"], ["broken.onnx", "faults.pt"], ["."], ["-"], ["broken.onnx", "-o", "x.onnx", "--in-place"],
        ["broken.onnx", "--layers", "fc1", "--all"], ["broken.onnx", "-q", "-v"], ["broken.onnx", "-o", "-"],
        ["broken.onnx", "-o", "broken.onnx"], ["broken.onnx", "-o", "no/x.onnx"], ["broken.onnx", "-o", "folder"],
        ["broken.onnx", "-o", "/dev/full"], ["broken.onnx", "-o", "healthy.onnx"], ["pipe"],
        ["broken.onnx", "-o", "pipe"], ["broken.onnx", "--scheme", "nonsense"], ["broken.onnx", "--scheme", "he:std=1"],
        ["broken.onnx", "--layers", "nothing*"], ["broken.onnx", "--format", "yaml"], ["broken.onnx", "--seed", "-1"],
        ["broken.onnx", "--manifest", "no/m.json"], ["broken.onnx", "--manifest", "faults.pt"],
        ["broken.onnx", "--emit-code", "no/init.py"], ["broken.onnx", "--emit-code", "x.py", "--dry-run"],
        ["broken.onnx", "--manifest", "m.json", "--dry-run"], ["broken.onnx", "--manifest", "-"],
        ["broken.onnx", "-o", "q.onnx", "--manifest", "q.onnx"], ["broken.onnx", "--manifest", "broken.fixed.onnx"],
        ["broken.onnx", "-o", "q.onnx", "--manifest", "folder/../q.onnx", "--force"],
        ["broken.onnx", "-o", "e.py", "--emit-code", "e.py"],
        ["broken.onnx", "--emit-code", "f.py", "--manifest", "f.py"],
        ["broken.onnx", "--manifest", "train.py"], ["broken.onnx", "--emit-code", "train.py"],
        ["broken.onnx", "--emit-code", "dangling.py"], ["broken.onnx", "--manifest", "batch.npy", "--force"],
        ["broken.onnx", "--data", "batch.npy", "--manifest", "batch.npy", "--force"],
        ["broken.onnx", "--data", "batch.npy", "-o", "batch.npy", "--force"],
        ["broken.onnx", "--data", "missing.npy"], ["broken.onnx", "--data", "faults.pt", "--no-probe"],
        ["broken.onnx", "--select", "INI9"], ["broken.onnx", "--jobs", "0"], ["broken.onnx", "--model", "a:b"],
        ["faults.pt", "--scheme", "lsuv"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_cannot_be_done_is_one_line_and_2_and_changes_nothing(cli, arguments):
    Path("folder").mkdir()
    os.mkfifo("pipe")
    Path("train.py").write_text("print('mine')")
    Path("dangling.py").symlink_to("nowhere.py")
    np.save("batch.npy", np.ones((4, 3, 16, 16), np.float32))
    before = {name: os.lstat(name).st_mtime_ns for name in files()}
    refused(cli("fix", *arguments))
    assert {name: os.lstat(name).st_mtime_ns for name in files()} == before


def test_any_name_will_do(cli):
    for name in ("with spaces ü 日本.onnx", "nosuffix", ".hidden", "-dash.onnx", "a.b.onnx"):
        shutil.copy("broken.onnx", name)
        assert cli("fix", "-q", "--", name)[0] == 0
    assert files() >= {
        "with spaces ü 日本.fixed.onnx", "nosuffix.fixed", ".hidden.fixed", "-dash.fixed.onnx", "a.b.fixed.onnx",
    }  # fmt: skip


def test_commands_to_type_next_are_quoted(cli):
    shutil.copy("broken.onnx", "it's mine.onnx")
    out = cli("fix", "it's mine.onnx")[1]
    assert """next: initaudit diff 'it'"'"'s mine.onnx' 'it'"'"'s mine.fixed.onnx'""" in out


def test_check_names_the_command_that_cures(cli):
    assert "cure: initaudit fix broken.onnx\n" in cli("check", "broken.onnx")[1]
    report = json.loads(cli("check", "faults.pt", "--activation", "relu", "--format", "json")[1])
    cures = {f["rule"]: f["fix"] for f in report["findings"]}
    assert cures["INI101"] == "initaudit fix faults.pt --activation relu"
    assert cures["INI301"] is None  # an info: nothing that fix would touch
    assert all(f["remedy"].startswith(f["fix"]) for f in report["findings"] if f["fix"])


def test_what_check_names_is_what_cures(cli):
    report = json.loads(cli("check", "broken.onnx", "--format", "json")[1])
    for command in {f["fix"] for f in report["findings"] if f["fix"]}:
        assert cli(*command.split()[1:])[0] == 0
    assert cli("check", "broken.fixed.onnx")[0] == 0


def test_an_activation_that_is_assumed_is_said_to_be(cli):
    note = "is assumed, relu as a rule: --activation NAME"
    assert note in " ".join(cli("fix", "faults.pt", "--dry-run")[1].split())
    assert note not in " ".join(cli("fix", "faults.pt", "--dry-run", "--activation", "tanh")[1].split())
    assert note not in " ".join(cli("fix", "faults.pt", "--dry-run", "--scheme", "xavier")[1].split())
    assert note not in " ".join(cli("fix", "broken.onnx", "--dry-run")[1].split())


def test_a_failure_of_the_second_audit_names_the_original(cli, monkeypatch):
    from initaudit.errors import ReadError
    from initaudit.repair import fixing

    def fail(self, path, before):
        raise ReadError("Cannot allocate memory", str(path))

    monkeypatch.setattr(fixing.Judge, "second", fail)
    err = refused(cli("fix", "broken.onnx"))
    assert "initaudit: broken.onnx: " in err
    assert ".initaudit-" not in err
