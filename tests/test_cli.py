"""Exit codes and streams of the command line, run in this process."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.running import INITAUDIT, runner

FIXTURES = Path(__file__).parent.parent / "fixtures"
BROKEN, HEALTHY = str(FIXTURES / "broken.onnx"), str(FIXTURES / "healthy.onnx")


@pytest.fixture
def cli(monkeypatch, capsys):
    return runner(monkeypatch, capsys)


def refused(result) -> str:
    code, out, err = result
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def test_broken_exits_1_and_its_healthy_twin_0(cli):
    code, out, err = cli("check", BROKEN)
    assert (code, err) == (1, "")
    for rule in ("INI101", "INI103", "INI104", "INI201", "INI301"):
        assert rule in out
    code, out, err = cli("check", HEALTHY)
    assert (code, err) == (0, "")
    assert "healthy: 0 errors, 0 warnings, 0 infos; 100 % of parameters judged" in out


def test_fail_on_decides_the_code_in_every_format(cli):
    for form in ("console", "json"):
        assert cli("check", BROKEN, "--format", form, "--select", "INI301")[0] == 0
        assert cli("check", BROKEN, "--format", form, "--select", "INI301", "--fail-on", "info")[0] == 1
        assert cli("check", BROKEN, "--format", form, "--fail-on", "never")[0] == 0


def test_json_of_one_path_is_an_object_and_of_several_an_array(cli):
    code, out, _ = cli("check", HEALTHY, "--format", "json")
    report = json.loads(out)
    assert (code, report["schema"], report["summary"]["verdict"]) == (0, "initaudit.report/1", "healthy")
    code, out, err = cli("check", BROKEN, "no/such.pt", HEALTHY, "--format", "json")
    assert code == 2
    assert [r["summary"]["verdict"] for r in json.loads(out)] == ["unhealthy", "healthy"]
    assert err.count("\n") == 1


def test_the_same_input_gives_the_same_bytes_whatever_the_number_of_threads(cli):
    one = cli("check", BROKEN, "--format", "json", "--jobs", 1)[1]
    assert one == cli("check", BROKEN, "--format", "json", "--jobs", 4)[1]
    assert str(Path.cwd()) not in one or BROKEN.startswith("/")


def test_bad_input_is_one_line_and_exit_2(cli, tmp_path):
    empty = tmp_path / "empty.pt"
    empty.touch()
    text = tmp_path / "notes.onnx"
    text.write_text("these are no weights\n" * 50)
    sparse = tmp_path / "zeros.safetensors"
    with sparse.open("wb") as file:
        file.truncate(10 * 2**30)
    for path in (tmp_path / "missing.pt", tmp_path, empty, text, sparse):
        assert str(path) in refused(cli("check", path))
    assert "standard input" in refused(cli("check", "-"))


def test_bad_usage_is_one_line_and_exit_2(cli):
    assert "no rule is called 'INI999'" in refused(cli("check", BROKEN, "--select", "INI999"))
    assert "no activation 'rellu'" in refused(cli("check", BROKEN, "--activation", "rellu"))
    assert "--format" in refused(cli("check", BROKEN, "--format", "yaml"))
    assert "no layer is called" in refused(cli("check", BROKEN, "--layers", "nothing*"))
    refused(cli("check"))
    refused(cli("explain", "INI9"))
    refused(cli("nonsense"))
    refused(cli("check", BROKEN, "-q", "-v"))


def test_no_arguments_is_help_but_no_clean_pass(cli):
    code, out, _ = cli()
    assert code == 2
    assert "check" in out


def test_layers_takes_several_globs(cli):
    out = cli("check", HEALTHY, "--layers", "conv1,fc*", "--layers", "head", "--format", "json")[1]
    assert [row["name"] for row in json.loads(out)["layers"]] == ["conv1", "fc1", "fc2", "head"]


def test_layers_restricts_rows_and_findings(cli):
    code, out, _ = cli("check", BROKEN, "--layers", "conv*", "--format", "json")
    report = json.loads(out)
    assert [row["name"] for row in report["layers"]] == ["conv1", "conv2", "conv3"]
    assert {f["layer"] for f in report["findings"]} <= {"conv1", "conv2", "conv3"}
    assert code == 1


def test_output_goes_to_a_file_whole_or_not_at_all(cli, tmp_path):
    target = tmp_path / "report.json"
    assert cli("check", HEALTHY, "--format", "json", "--output", target)[:2] == (0, "")
    assert json.loads(target.read_text())["summary"]["errors"] == 0
    assert "not written" in refused(cli("check", HEALTHY, "--output", tmp_path / "no" / "where.txt"))
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_report_never_replaces_a_model(cli, tmp_path):
    model = tmp_path / "model.pt"
    model.write_bytes((FIXTURES / "faults.pt").read_bytes())
    (tmp_path / "link").symlink_to(model)
    before = model.read_bytes()
    for target in (model, tmp_path / "link"):
        assert "does not replace a model" in refused(cli("check", HEALTHY, "--output", target))
    assert "does not replace a model" in refused(cli("check", model, "--output", model))
    assert model.read_bytes() == before


def test_a_bare_checkpoint_says_what_would_settle_its_capped_findings(cli):
    out = " ".join(cli("check", FIXTURES / "faults.pt")[1].split())
    assert "audit an ONNX export" in out
    assert "--activation NAME" in out


@pytest.mark.parametrize("width", [80, 160])
def test_the_console_report_fits_its_width_and_has_no_colour_in_a_pipe(cli, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for path in (BROKEN, str(FIXTURES / "faults.pt")):
        _, out, _ = cli("check", path, "-v")
        assert max(map(len, out.splitlines())) <= width
        assert "\x1b" not in out


def test_quiet_says_only_what_is_wrong_on_one_line_however_long_the_path(cli, tmp_path):
    deep = tmp_path / ("a" * 120)
    deep.mkdir()
    shutil.copy(HEALTHY, deep)
    for path in (HEALTHY, deep / "healthy.onnx"):
        assert cli("check", path, "-q")[1].count("\n") == 1


def test_rules_explain_schemes_activations_and_version(cli):
    assert "INI101  not-finite" in cli("rules")[1]
    assert "## Why it matters" in cli("explain", "not-finite")[1]
    assert "he" in cli("schemes")[1]
    assert "gelu" in cli("activations")[1]
    assert cli("--version")[1].startswith("initaudit ")


def test_show_lists_every_weight_and_judges_nothing(cli):
    code, out, _ = cli("show", BROKEN)
    assert code == 0
    assert "conv3" in out


def test_a_reader_that_leaves_early_changes_nothing():
    shell = f"{INITAUDIT} check {shlex.quote(BROKEN)} -v | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["1"]
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["{} > /dev/full", "{} >&-", "{} 2>&-", "PYTHONIOENCODING=ascii {}"])
def test_streams_that_fail_leave_no_traceback(shell, tmp_path):
    command = shell.format(f"{INITAUDIT} check {shlex.quote(BROKEN)}")
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr


def test_check_imports_neither_torch_nor_onnxruntime():
    for path in (BROKEN, FIXTURES / "faults.pt", FIXTURES / "faults.safetensors"):
        code = (
            f"import sys; sys.argv = ['initaudit', 'check', {str(path)!r}, '-q']\n"
            "from initaudit.cli import main\n"
            "try: main()\n"
            "except SystemExit: pass\n"
            "print(sorted({'torch', 'onnx', 'onnxruntime', 'safetensors'} & set(sys.modules)))"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]", done.stdout
