"""The probe and the plots from the command line and in Python: when it runs, what it says, on what stream."""

import json
import shlex
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

import initaudit
from initaudit import signals
from initaudit.errors import UsageError
from initaudit.types import Severity
from tests.running import INITAUDIT
from tests.test_cli import BROKEN, FIXTURES, HEALTHY, cli, refused

__all__ = ["cli"]  # a fixture


def document(result) -> dict:
    code, out, err = result
    assert (code, err) in ((0, ""), (1, "")), err
    return json.loads(out)


@pytest.fixture
def probed(monkeypatch):
    """Whether the probe was asked for, call by call; nothing is run."""
    asked = []
    real = signals.judged

    def judged(whole, *, probe, **settings):
        asked.append(probe)
        return real(whole, probe=False, **settings)

    monkeypatch.setattr("initaudit.audit.signals.judged", judged)
    return asked


def net() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


def test_probe_measures_a_graph_in_a_file(cli):
    report = document(cli("check", HEALTHY, "--probe", "--format", "json"))
    assert {row["signal_by"] for row in report["layers"]} == {"probe"}
    assert all(row["forward_variance"] > 0 and row["relative_gradient"] > 0 for row in report["layers"])
    assert report["summary"]["probe"]["why"] is None
    assert report["summary"]["probe"]["inputs"] > 1
    out = " ".join(cli("check", HEALTHY, "--probe")[1].split())
    assert "measured on" in out


def test_theory_predicts_where_nothing_is_run(cli):
    report = document(cli("check", HEALTHY, "--format", "json"))
    assert {row["signal_by"] for row in report["layers"]} == {"theory"}
    assert {row["theory"] is None for row in report["layers"]} == {True}
    summary = report["summary"]
    assert (summary["probe"], summary["agreement"], summary["risk"]["by"]) == (None, None, "theory")
    both = document(cli("check", HEALTHY, "--probe", "--format", "json"))
    assert both["summary"]["risk"]["by"] == "probe"
    assert both["summary"]["agreement"]["forward_variance"]["layers"] == 6
    assert [row["theory"]["forward_variance"] for row in both["layers"]] == [
        row["forward_variance"] for row in report["layers"]
    ]


def test_a_deep_net_that_does_not_train_is_told_with_its_cure():
    torch.manual_seed(0)
    layers = [part for _ in range(24) for part in (nn.Linear(64, 64), nn.ReLU())]
    for probe in (False, True):
        report = initaudit.check(nn.Sequential(*layers, nn.Linear(64, 10)), torch.zeros(2, 64), probe=probe)
        assert report.verdict == "unhealthy"
        assert report.risk.value > 0.9
        told = {f.rule: f for f in report.findings}
        fading = told["INI501"]
        assert fading.severity is Severity.ERROR
        assert fading.evidence["by"] == ("probe" if probe else "theory")
        assert 0.1 < fading.evidence["factor"] < 0.25  # a third of the weight's variance, half by the rectifier
        assert 2 <= fading.evidence["depth"] < 16
        assert "by he" in fading.remedy


def test_a_seed_gives_the_same_bytes_and_another_seed_other_figures(cli):
    one, again, other = (
        cli("check", HEALTHY, "--probe", "--seed", seed, "--jobs", jobs, "--format", "json")[1]
        for seed, jobs in ((3, 1), (3, 2), (4, 1))
    )
    assert one == again
    assert one != other


def test_a_file_is_judged_statically_and_data_turns_the_probe_on(probed, cli, tmp_path):
    np.save(tmp_path / "batch.npy", np.ones((2, 3, 16, 16), np.float32))
    for arguments, wanted in (
        ((), False), (("--probe",), True), (("--no-probe",), False), (("--data", tmp_path / "batch.npy"), True)
    ):  # fmt: skip
        for command in ("check", "show"):
            cli(command, HEALTHY, *arguments)
            assert probed.pop() is wanted
    for command in ("check", "show"):
        line = refused(cli(command, HEALTHY, "--no-probe", "--data", "batch.npy"))
        assert "--data and --no-probe contradict each other" in line


def test_a_module_with_example_inputs_is_probed_unless_told_otherwise(probed):
    x = torch.zeros(2, 6)
    for arguments, settings, wanted in (
        ((net(),), {}, False),
        ((net(), x), {}, True),
        ((net(), x), {"probe": False}, False),
        ((net(),), {"probe": True}, True),
        ((net(),), {"data": x}, True),
        ((), {"model": net, "example_inputs": x}, True),
        ((HEALTHY,), {}, False),
        ((HEALTHY,), {"probe": True}, True),
    ):
        initaudit.check(*arguments, **settings)
        assert probed.pop() is wanted, (arguments, settings)
    with pytest.raises(UsageError):
        initaudit.check(net(), data=x, probe=False)


def test_the_values_of_example_inputs_do_not_matter_and_data_do():
    def variance(**settings) -> list[float | None]:
        report = initaudit.check(net(), **settings)
        return [m.signal.forward_variance if m.signal else None for m in report.measured]

    drawn = variance(example_inputs=torch.zeros(4, 6))
    assert all(value is not None and value > 0 for value in drawn)
    assert drawn == variance(example_inputs=torch.ones(4, 6))
    given = variance(example_inputs=torch.zeros(4, 6), data=100 * torch.randn(16, 6))
    assert given[0] > 100 * drawn[0]


def test_where_the_probe_cannot_run_the_report_says_why(cli):
    code, out, err = cli("check", FIXTURES / "faults.safetensors", "--probe")
    assert (code, err) == (cli("check", FIXTURES / "faults.safetensors")[0], "")
    assert "the probe: there is no graph to run" in " ".join(out.split())
    report = document(cli("check", FIXTURES / "faults.safetensors", "--probe", "--format", "json"))
    assert "no graph" in report["summary"]["probe"]["why"]
    assert {row["signal_by"] for row in report["layers"]} == {None}


def test_a_long_probe_is_announced_on_stderr_under_v(cli, monkeypatch):
    monkeypatch.setattr(signals, "_SLOW", 0.0)
    code, out, err = cli("check", HEALTHY, "--probe", "-v")
    assert code == 0
    assert err.startswith(f"initaudit: {HEALTHY}: probing: about ")
    assert err.count("\n") == 1
    assert "probing" not in out
    assert cli("check", HEALTHY, "--probe")[2] == ""


def test_show_draws_signal_and_gradient(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = cli("show", HEALTHY, "--probe")
    assert code == 0
    assert "measured" in out
    assert "predicted" in out
    assert "signal: variance across inputs, 6 layers" in out
    assert "gradient over weight, of one input, 6 layers" in out
    drawn = out[out.index("log scale") :]
    assert max(map(len, drawn.splitlines())) <= 80
    assert "\x1b" not in out
    assert "to draw: there is no graph" in cli("show", FIXTURES / "faults.pt")[1]


@pytest.mark.parametrize("width", [80, 160])
def test_a_probed_page_fits_its_width_and_has_no_colour_in_a_pipe(cli, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    for path in (BROKEN, HEALTHY):
        _, out, _ = cli("check", path, "--probe", "-v")
        assert max(map(len, out.splitlines())) <= width
        assert "\x1b" not in out


def test_plots_survive_a_terminal_of_ascii_and_a_reader_that_leaves_early():
    environment = "PYTHONIOENCODING=ascii NO_COLOR=1 COLUMNS=80"
    command = f"{environment} {INITAUDIT} show {shlex.quote(HEALTHY)}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    drawn = done.stdout[done.stdout.index("log scale") :]
    assert drawn.isascii()
    assert "\\u" not in drawn
    assert ". predicted" in drawn
    shell = f"{INITAUDIT} show {shlex.quote(HEALTHY)} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["0"]
    assert done.stderr == ""
