"""The report contract: keys, types, and plain JSON whatever the numbers."""

import json

import numpy as np

from initaudit.reporters import reporters
from initaudit.reporters.base import Style
from initaudit.types import Severity
from tests.build import he, layer, report

LAYER_KEYS = {
    "name", "kind", "weight", "bias", "shape", "dtype", "groups", "fan_in", "fan_out", "activation", "evidence",
    "units", "effective_width", "mean", "std", "min", "max", "zeros", "nonfinite", "expected", "variance_ratio",
    "identified",    "forward_variance", "relative_gradient", "verdict",
}  # fmt: skip


def rendered(*layers) -> dict:
    return json.loads(reporters()["json"].render([report(*layers)], Style()), parse_constant=lambda c: 1 / 0)


def test_the_contract_holds():
    made = rendered(layer("fc1", he(16, 8)), layer("fc2", np.zeros((4, 16), np.float32)))
    assert set(made) == {"schema", "tool", "source", "model", "layers", "findings", "skipped", "summary"}
    assert {"name", "version"} == set(made["tool"])
    assert {"path", "format", "graph"} <= set(made["source"])
    assert {"parameters", "tensors", "layers", "state"} <= set(made["model"])
    assert {"errors", "warnings", "infos", "verdict", "coverage"} <= set(made["summary"])
    for row in made["layers"]:
        assert set(row) >= LAYER_KEYS
        assert isinstance(row["fan_in"], int)
    assert [row["verdict"] for row in made["layers"]] == ["ok", "error"]
    (finding,) = made["findings"]
    assert set(finding) >= {"rule", "name", "severity", "layer", "tensor", "message", "evidence", "remedy"}
    assert (finding["severity"], made["summary"]["verdict"]) == ("error", "unhealthy")


def test_values_that_are_not_finite_are_null():
    w = he(16, 8)
    w[0] = np.nan
    w[1] = np.inf
    constant = np.ones((4, 4), np.float32)
    made = rendered(layer("fc1", w), layer("fc2", constant))
    assert made["layers"][0]["nonfinite"] == 16
    assert made["layers"][1]["kurtosis"] is None


def test_several_paths_are_an_array_even_when_one_is_left():
    one = report(layer("fc", he(16, 8)))
    assert isinstance(json.loads(reporters()["json"].render([one], Style(many=True))), list)
    assert json.loads(reporters()["json"].render([], Style(many=True))) == []


def test_a_suspect_model_has_warnings_only():
    w = he(16, 8)
    w[3] = 0
    made = rendered(layer("fc", w))
    assert made["summary"]["verdict"] == "suspect"
    assert {f["severity"] for f in made["findings"]} == {Severity.WARNING.label}


def test_fans_are_at_least_one_and_any_name_is_plain_ascii():
    up = layer("up\u00e9\ud800", np.ones((1, 4, 4, 4), np.float32), "conv_transpose", "iokk", stride=(8, 8))
    text = reporters()["json"].render([report(up)], Style())
    assert text.isascii()
    assert json.loads(text)["layers"][0]["fan_in"] == 1
