"""`initaudit diff` on the command line."""

import json

import pytest

from tests.test_cli import refused
from tests.test_cli_fix import cli

__all__ = ["cli"]


def test_diff_is_0_for_equal_1_for_different_2_for_neither(cli):
    assert cli("diff", "faults.pt", "faults.safetensors")[0] == 0
    code, out, err = cli("diff", "broken.onnx", "healthy.onnx")
    assert (code, err) == (1, "")
    assert "different: 5 changed, 7 equal" in out
    assert "gone: x INI103 all-zero fc2" in out
    refused(cli("diff", "faults.pt", "missing.pt"))
    refused(cli("diff", "faults.pt"))
    refused(cli("diff", "faults.pt", "faults.pt", "-q", "-v"))


def test_diff_as_json(cli):
    code, out, _ = cli("diff", "broken.onnx", "healthy.onnx", "--format", "json")
    told = json.loads(out)
    assert (code, told["schema"], told["differs"], told["equal"]) == (1, "initaudit.diff/1", True, 7)
    assert [m["verdict"] for m in told["models"]] == ["unhealthy", "healthy"]
    nan = next(one for one in told["changed"] if one["name"] == "conv1.weight")
    assert nan["largest"] is None
    assert nan["nonfinite"] == [9, 0]


def test_diff_tells_how_many_values_were_not_finite(cli):
    out = cli("diff", "broken.onnx", "healthy.onnx")[1]
    (row,) = [line for line in out.splitlines() if "conv1.weight" in line]
    assert " nan " in row
    assert "9 > 0" in row
    assert "nan" not in cli("diff", "healthy.onnx", "healthy.onnx")[1]


@pytest.mark.parametrize("width", [80, 160])
def test_diff_fits_its_width(cli, monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    out = cli("diff", "broken.onnx", "healthy.onnx", "-v")[1]
    assert max(map(len, out.splitlines())) <= width


def test_diff_of_what_cannot_be_compared_is_2(cli, monkeypatch):
    from initaudit.errors import UnsupportedError
    from initaudit.repair import diffing

    def refuse(*_):
        raise UnsupportedError("packed")

    monkeypatch.setattr(diffing, "_measured", refuse)
    code, _, err = cli("diff", "faults.pt", "faults.safetensors")
    assert code == 2
    assert "26 tensors were not compared" in err
