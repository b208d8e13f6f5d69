"""The report contract: keys, types, and plain JSON whatever the numbers."""

import json
from dataclasses import replace

import numpy as np

from initaudit.freedom import Cause, Freedom, LayerFreedom, ParameterFreedom
from initaudit.reporters import reporters
from initaudit.reporters.base import Style
from initaudit.types import Attending, Graph, Risk, Severity, Signal, Signals, Symptom
from tests.build import he, layer, report

LAYER_KEYS = {
    "name", "kind", "weight", "bias", "shape", "dtype", "groups", "fan_in", "fan_out", "activation", "evidence",
    "units", "effective_width", "mean", "std", "min", "max", "zeros", "nonfinite", "expected", "variance_ratio",
    "identified",    "forward_variance", "relative_gradient", "verdict", "wake", "ties",
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
    assert set(made) == {"schema", "tool", "source", "model", "layers", "symmetry", "findings", "skipped", "summary"}
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


def freed(found: Freedom | None, **fields):
    """A report on layers fc0, fc1, ... with what is told of their units and weights."""
    count = 2 if found is None else len(found.layers)
    made = report(*(layer(f"fc{k}", he(8, 8, k)) for k in range(count)))
    still = {p.name: p for p in (found.parameters if found else ())}
    rows = [
        replace(m, freedom=found.layers[k] if found else None, movement=still.get(m.layer.weight.name))
        for k, m in enumerate(made.measured)
    ]
    graph = Graph((), {}, (), {f"%{k}": m.layer.weight for k, m in enumerate(made.measured)})
    return replace(made, model=replace(made.model, graph=graph, **fields), measured=tuple(rows), freedom=found)


def test_effective_width_wake_and_ties_of_each_layer():
    tied = LayerFreedom("fc0", 8, 5, ((0, 3), (1, 2, 7)), "fc0", nearly=((4, 5),), breaks=("dropout 0.1",))
    flipped = LayerFreedom("fc1", 8, 8, twins=((0, 1),))
    asleep = ParameterFreedom("fc1.weight", 64, 2, ((2, 64),))
    dead = ParameterFreedom("fc2.weight", 64, 0, dead=64, cause=Cause.ZEROS, blocked_by=("fc2.weight", "fc3.weight"))
    found = Freedom((tied, flipped, LayerFreedom("fc2", 8, 8), None), (asleep, dead), ("sort",), 2, 2)
    made = plain(freed(found))
    rows = made["layers"]
    assert [row["effective_width"] for row in rows] == [5, 8, 8, None]
    assert [row["wake"] for row in rows] == [1, 2, 0, 1]
    assert [row["ties"] is None for row in rows] == [False, False, True, True]
    assert rows[0]["ties"] == {
        "start": "fc0", "breaks": ["dropout 0.1"], "classes": [[0, 3], [1, 2, 7]], "nearly": [[4, 5]], "twins": [],
        "counts": {"classes": {"sets": 2, "units": 5}, "nearly": {"sets": 1, "units": 2},
                   "twins": {"sets": 0, "units": 0}},
    }  # fmt: skip
    assert (rows[1]["ties"]["twins"], rows[1]["ties"]["start"]) == ([[0, 1]], None)
    symmetry = made["symmetry"]
    assert (symmetry["why"], symmetry["unread"], symmetry["steps"]) == (None, ["sort"], 2)
    assert symmetry["parameters"] == [
        {"name": "fc1.weight", "size": 64, "wake": 2, "late": [{"step": 2, "elements": 64}], "dead": 0, "cancelled": 0,
         "cause": None, "blocked_by": []},
        {"name": "fc2.weight", "size": 64, "wake": 0, "late": [], "dead": 64, "cancelled": 0, "cause": "zeros",
         "blocked_by": ["fc2.weight", "fc3.weight"]},
    ]  # fmt: skip


def test_without_a_graph_and_where_it_is_open_nothing_is_known_to_move():
    for made in (freed(None), freed(Freedom((None,) * 2), source="inferred", other=(Graph((), {}, (), {}),))):
        assert {row["wake"] for row in plain(made)["layers"]} == {None}
    assert plain(freed(None))["symmetry"] is None


def test_many_ties_are_cut_and_counted():
    huge = LayerFreedom("fc0", 1000, 100, tuple(tuple(range(100 * k, 100 * k + 100)) for k in range(100)), "fc0")
    ties = plain(freed(Freedom((huge,))))["layers"][0]["ties"]
    assert (len(ties["classes"]), {len(units) for units in ties["classes"]}) == (64, {64})
    assert ties["counts"]["classes"] == {"sets": 100, "units": 10000}
