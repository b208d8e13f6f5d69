from dataclasses import replace

import pytest

from initaudit.repair.comparing import NOISE, aligned, at_fault, worse
from initaudit.types import Finding, Report, Risk, Severity, Symptom
from tests.build import he, layer, report

INFO, WARNING, ERROR = Severity


def told(*findings: Finding, risk: Risk | None = None, crashed: bool = False) -> Report:
    whole = report(*(layer(name, he(8, 8, k)) for k, name in enumerate("abc")))
    return replace(whole, findings=findings, risk=risk, crashed=crashed)


def at(name: str | None, severity: Severity, rule: str = "INI103", *also: str, **evidence: float) -> Finding:
    return Finding(rule, f"rule-{rule}", severity, f"of {name}", layer=name, also=also, evidence=evidence)


def risk(value: float, capped: str = "", by: str = "theory") -> Risk:
    return Risk(value, by, (Symptom("exploding-signal", value, 1.0, ("a",), capped=capped, severity=ERROR),))


def test_the_same_report_is_not_worse():
    before = told(at("a", ERROR), at("b", INFO), risk=risk(0.5))
    assert worse(before, before, {"a"}) == ()


def test_a_cured_fault_is_not_worse():
    assert worse(told(at("a", ERROR)), told(), {"a"}) == ()


@pytest.mark.parametrize("severity", [WARNING, ERROR])
@pytest.mark.parametrize("touched", [{"a"}, {"b"}])
def test_a_fault_on_a_layer_that_had_none_is_worse(severity, touched):
    (line,) = worse(told(), told(at("b", severity)), touched)
    assert line.startswith(f"b: {severity.label} INI103")


def test_an_info_is_never_worse():
    assert worse(told(), told(at("b", INFO)), {"b"}) == ()


def test_a_graver_fault_is_worse_and_a_lighter_one_is_not():
    assert worse(told(at("a", WARNING)), told(at("a", ERROR)), {"a"})
    assert worse(told(at("a", ERROR)), told(at("a", WARNING, "INI201")), {"a"}) == ()


def test_evidence_that_moved_is_not_worse():
    assert worse(told(at("a", ERROR, count=3.0)), told(at("a", ERROR, count=300.0)), {"b"}) == ()


def test_another_fault_as_grave_is_worse_only_where_nothing_was_drawn_and_the_old_one_stays():
    before, other = at("a", ERROR), at("a", ERROR, "INI201")
    assert worse(told(before), told(before, other), {"b"})
    assert worse(told(before), told(before, other), {"a"}) == ()
    assert worse(told(before), told(other), {"b"}) == ()


def test_a_finding_about_several_layers_counts_for_each_of_them():
    assert worse(told(at("a", WARNING, "INI204", "b")), told(at("b", WARNING, "INI204")), {"a"}) == ()
    assert worse(told(at("a", WARNING, "INI204", "b")), told(at("a", WARNING, "INI204", "b", "c")), {"a"})


def test_a_finding_on_the_model_as_a_whole_counts():
    assert worse(told(), told(at(None, WARNING, "INI001")), set())
    assert worse(told(), told(crashed=True), set())


def test_symptoms_count_through_the_risk_alone():
    hidden = told(at("a", ERROR), risk=risk(0.99))
    assert worse(hidden, told(at("b", ERROR, "INI501", "c"), risk=risk(0.97)), {"a"}) == ()
    assert worse(told(risk=risk(0.02)), told(at("b", ERROR, "INI502"), risk=risk(0.99)), {"a"})


def test_a_risk_that_moves_within_its_class_or_by_noise_is_not_worse():
    assert worse(told(risk=risk(0.02)), told(risk=risk(0.15)), {"a"}) == ()
    assert worse(told(risk=risk(0.2)), told(risk=risk(0.2 + NOISE / 2)), {"a"}) == ()


def test_a_risk_that_is_not_known_well_or_by_another_judge_is_not_held_against_it():
    assert worse(told(risk=risk(0.02)), told(risk=risk(0.9, capped="half of it is not known")), {"a"}) == ()
    assert worse(told(risk=risk(0.02)), told(risk=risk(0.9, by="probe")), {"a"}) == ()


def test_where_nan_hid_the_risk_who_draws_healthy_layers_answers_for_their_symptoms():
    before = told(at("a", ERROR, "INI101"))
    after = told(at("a", ERROR, "INI502", "b"), risk=risk(0.99))
    assert worse(before, after, {"a"}) == ()
    assert worse(before, after, {"a", "b"})


def test_layers_still_at_fault_are_those_drawn_again_with_a_warning_or_error():
    after = told(at("a", WARNING), at("b", ERROR), at("c", INFO))
    assert at_fault(after, {"a", "c"}) == ("a",)
    assert at_fault(told(at("a", ERROR, "INI501", "b")), {"b"}) == ("b",)


def test_a_layer_that_is_not_judged_any_more_is_still_at_fault():
    assert at_fault(told(), {"a", "gone"}) == ("gone",)


def renamed(whole: Report, **names: str) -> Report:
    measured = tuple(
        replace(m, layer=replace(m.layer, name=names.get(m.layer.name, m.layer.name))) for m in whole.measured
    )
    return replace(whole, measured=measured)


def test_layers_are_called_as_in_the_first_audit():
    after = aligned(told(at("a", ERROR, "INI204", "b")), renamed(told(), a="first", c="third"))
    assert [m.layer.name for m in after.measured] == ["first", "b", "third"]
    assert (after.findings[0].layer, after.findings[0].also) == ("first", ("b",))


def test_layers_that_share_a_weight_keep_their_own_names():
    one = layer("up", he(8, 8))
    both = report(one, replace(one, name="down"))
    assert [m.layer.name for m in aligned(both, both).measured] == ["up", "down"]
    assert [m.layer.name for m in aligned(both, renamed(both, up="left", down="right")).measured] == ["left", "right"]
