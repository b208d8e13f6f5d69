"""The report contract: keys, types, and plain JSON whatever the numbers."""

import json
from dataclasses import replace

import numpy as np

from initaudit.reporters import reporters
from initaudit.reporters.base import Style
from initaudit.types import Attending, Risk, Severity, Signal, Signals, Symptom
from tests.build import he, layer, report

LAYER_KEYS = {
    "name", "kind", "weight", "bias", "shape", "dtype", "groups", "fan_in", "fan_out", "activation", "evidence",
    "units", "effective_width", "mean", "std", "min", "max", "zeros", "nonfinite", "expected", "variance_ratio",
    "identified",    "forward_variance", "relative_gradient", "verdict",
}  # fmt: skip


def rendered(*layers) -> dict:
    return plain(report(*layers))


def plain(made) -> dict:
    return json.loads(reporters()["json"].render([made], Style()), parse_constant=lambda c: 1 / 0)


def judged(probed=(), predicted=(), risk=None):
    """A report on three layers with rows of the probe and of theory."""
    made = report(*(layer(f"fc{k}", he(16, 16, k)) for k in range(3)))
    rows = [
        replace(m, probed=(*probed, None, None, None)[k], predicted=(*predicted, None, None, None)[k])
        for k, m in enumerate(made.measured)
    ]
    return replace(
        made,
        measured=tuple(rows),
        probe=Signals((), (Attending("block", 0.5, 1.0),), inputs=8, macs=1e6) if probed else None,
        theory=Signals((), by="theory", unread=("Foo",), folded=True) if predicted else None,
        risk=risk,
    )


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


def test_signal_is_the_probes_and_else_theorys():
    probed = (Signal(forward_variance=1.0, relative_gradient=0.1, common=3.0, contrast=2.0, tied=0.0), None, None)
    predicted = (Signal(forward_variance=4.0, relative_gradient=0.1), Signal(second_moment=2.0), None)
    made = plain(judged(probed, predicted))
    first, second, third = made["layers"]
    assert (first["signal_by"], second["signal_by"], third["signal_by"]) == ("probe", "theory", None)
    assert (first["forward_variance"], first["common"], first["contrast"], first["tied"]) == (1, 3, 2, 0)
    assert first["theory"] == {"forward_variance": 4, "relative_gradient": 0.1}
    assert (second["forward_variance"], second["second_moment"], second["theory"]) == (None, 2, None)
    assert {third[key] for key in ("forward_variance", "relative_gradient", "dead", "gate", "behind_gate")} == {None}
    theory, probe = made["summary"]["theory"], made["summary"]["probe"]
    assert (theory["unread"], theory["folded"], theory["why"]) == (["Foo"], True, None)
    assert (probe["inputs"], probe["attention"][0]["entropy"]) == (8, 0.5)
    agreement = made["summary"]["agreement"]
    assert agreement["forward_variance"] == {"layers": 1, "median": 4, "worst": 4, "worst_layer": "fc0"}
    assert agreement["relative_gradient"]["worst"] == 1
    assert agreement["disagreement"] is None


def test_summary_holds_the_risk_and_its_symptoms():
    symptom = Symptom("vanishing-signal", 0.9, 1e-9, ("fc0", "fc2"), 0.1, 3.0, severity=Severity.WARNING)
    told = judged((), (Signal(), None, None), Risk(0.97, "theory", (symptom,), "they differ"))
    assert plain(told)["summary"]["risk"]["value"] is None  # batch norms are merged there
    made = plain(replace(told, theory=replace(told.theory, folded=False)))
    assert made["summary"]["risk"] == {
        "value": 0.97, "by": "theory",
        "symptoms": [
            {"kind": "vanishing-signal", "severity": "warning", "risk": 0.9, "value": 1e-9, "layers": ["fc0", "fc2"],
             "factor": 0.1, "depth": 3, "capped": None},
        ],
    }  # fmt: skip
    assert made["summary"]["agreement"] is None
    bare = plain(judged())["summary"]
    assert {bare[key] for key in ("risk", "probe", "theory", "agreement")} == {None}
    assert bare["verdict"] == "healthy"


def test_signals_that_are_not_finite_are_null_and_compare_with_nothing():
    bad = Signal(forward_variance=float("inf"), relative_gradient=float("nan"))
    made = plain(judged((bad, Signal(forward_variance=0.0), None), (Signal(forward_variance=1.0),) * 3))
    assert made["layers"][0]["forward_variance"] is None
    assert made["summary"]["agreement"] is None
