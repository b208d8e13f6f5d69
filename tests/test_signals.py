"""Theory, probe and risk in one flow: whose figures stand, and what a failure of one of them costs."""

from dataclasses import replace

import pytest

from initaudit import audit as flow
from initaudit import signals
from initaudit.errors import UsageError
from initaudit.types import Audit, Graph, Model, Risk, Severity, Signal, Signals, Symptom
from tests.build import audit, he, layer, tensor

GRAPH = Graph((), {}, (), {})


@pytest.fixture
def whole() -> Audit:
    made = audit(layer("fc1", he(8, 8)), layer("fc2", he(8, 8, 1)))
    return replace(made, model=replace(made.model, graph=GRAPH))


@pytest.fixture
def told(monkeypatch):
    """Theory and risk that say what a test wants."""

    def say(*rows: Signal, why: str = "", risk: Risk | None = None) -> None:
        monkeypatch.setattr(
            signals.theory, "predict", lambda graph, measured, examples: Signals(rows, by="theory", why=why)
        )
        monkeypatch.setattr(signals.risk, "judge", lambda audit: risk)

    say(Signal(forward_variance=1.0), Signal())
    return say


def fails(*arguments, **settings):
    raise ValueError("no\nidea")


def test_a_row_that_says_nothing_is_none(whole, told):
    made, crashes = signals.judged(whole, probe=False)
    assert [m.predicted for m in made.measured] == [Signal(forward_variance=1.0), None]
    assert (made.theory.by, crashes) == ("theory", ())


def test_without_a_graph_nothing_is_predicted_and_a_probe_says_why(whole, told):
    bare = replace(whole, model=replace(whole.model, graph=None))
    made, _ = signals.judged(bare, probe=True)
    assert made.theory is None
    assert "no graph to run" in made.probe.why
    assert [s.name for s in made.skipped] == ["probe"]


def test_where_the_probe_cannot_run_theory_stands(whole, told, monkeypatch):
    refused = Signals((Signal(), Signal()), why="too large to run")
    monkeypatch.setattr(signals, "_run", lambda *_: refused)
    made, crashes = signals.judged(whole, probe=True)
    assert made.measured[0].signal == Signal(forward_variance=1.0)
    assert (made.skipped[-1].why, crashes) == ("too large to run", ())


def test_a_failure_of_ours_costs_its_own_part_only(whole, told, monkeypatch):
    monkeypatch.setattr(signals.theory, "predict", fails)
    monkeypatch.setattr(signals, "_run", fails)
    monkeypatch.setattr(signals.risk, "judge", fails)
    made, crashes = signals.judged(whole, probe=True)
    assert [c.partition(" ")[0] for c in crashes] == ["theory", "probe", "risk"]
    assert crashes[0] == "theory failed: ValueError: no idea"
    assert [s.why for s in made.skipped] == list(crashes)
    assert len(made.measured) == 2


def test_a_wrong_argument_is_no_failure_of_ours(whole, told, monkeypatch):
    def refuses(*_):
        raise UsageError("the data do not fit")

    monkeypatch.setattr(signals, "_run", refuses)
    with pytest.raises(UsageError):
        signals.judged(whole, probe=True)


def test_the_report_of_a_failed_part_still_judges_and_says_that_it_failed(told, monkeypatch):
    monkeypatch.setattr(signals.risk, "judge", fails)
    zero = he(8, 8) * 0
    model = Model("model.onnx", "onnx", "", (tensor("fc1.weight", zero), tensor("fc2.weight", he(8, 8))))
    report = flow.audit_model(model)
    assert report.crashed
    assert {"INI001", "INI103"} <= {f.rule for f in report.findings}
    (crash,) = (f for f in report.findings if f.rule == "INI001")
    assert crash.message == "risk failed: ValueError: no idea"
    assert any(s.name == "risk" for s in report.skipped)


def test_symptoms_become_findings_and_the_verdict(told):
    told(risk=Risk(0.99, "theory", (Symptom("dead-units", 0.99, 0.9, severity=Severity.ERROR),)))
    model = Model("model.onnx", "onnx", "", (tensor("fc1.weight", he(8, 8)),))
    report = flow.audit_model(model)
    assert [f.rule for f in report.findings] == ["INI508"]
    assert (report.risk.value, report.verdict) == (0.99, "suspect")  # no graph proves it: no error


def test_a_probe_that_takes_a_while_is_told_before_it_runs(whole, told, monkeypatch):
    pytest.importorskip("torch")
    from initaudit.live import probe as probing

    class Cost:
        seconds, refused, sentence = 20.0, "", "about 3 GFLOP"

    order = []
    monkeypatch.setattr(probing, "estimate", lambda *_: Cost())
    monkeypatch.setattr(
        probing, "probe", lambda *_, seed, examples: order.append(seed) or Signals((Signal(), Signal()))
    )
    signals.judged(whole, probe=True, seed=5, notice=order.append)
    assert order == ["probing: about 3 GFLOP", 5]
    Cost.seconds = 0.1
    signals.judged(whole, probe=True, seed=6, notice=order.append)
    assert order[2:] == [6]
