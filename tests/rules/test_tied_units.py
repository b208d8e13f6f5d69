"""INI512 and its neighbours, where the graph proves which units are tied."""

from dataclasses import replace

import numpy as np
import pytest

from initaudit.freedom import Cause, Freedom, LayerFreedom, ParameterFreedom
from initaudit.rules.constant import constant
from initaudit.rules.copied_units import copied_units
from initaudit.rules.tied_units import tied_units
from initaudit.types import Evidence, Graph, Risk, Role, Severity, State, Symptom
from tests.build import audit, he, layer

WIDE = 64


def held(*rows, values=None, state=State.FRESH, risk=None, unread=(), **fields):
    """An audit of layers whose freedom is given by hand."""
    drawn = [he(r.units, 32, k) if k or values is None else values for k, r in enumerate(rows)]
    own = [layer(r.name, v, **fields) for r, v in zip(rows, drawn, strict=True)]
    whole = audit(*own, state=state)
    measured = tuple(replace(m, freedom=r) for m, r in zip(whole.measured, rows, strict=True))
    model = replace(whole.model, graph=Graph((), {}, (), {}))
    return replace(whole, model=model, measured=measured, freedom=Freedom(rows, unread=unread), risk=risk)


def free(name, *classes, units=WIDE, start="", **fields):
    width = units - sum(len(one) - 1 for one in classes)
    return LayerFreedom(name, units, width, classes, start or (name if classes else ""), **fields)


def test_a_class_is_told_with_its_members_and_the_width_that_is_left():
    (finding,) = tied_units(held(free("a", (3, 17, 41))))
    assert finding.severity is Severity.WARNING
    assert finding.message == (
        "units 3, 17 and 41 are tied: they receive and send back the same for ever; this layer acts as one of width 62"
        " (of 64)"
    )
    figures = finding.evidence
    assert (figures["members"], figures["count"], figures["sets"]) == ([[3, 17, 41]], 3, 1)
    assert (figures["units"], figures["width"], figures["start"]) == (64, 62, "a")


@pytest.mark.parametrize(
    ("lost", "severity"), [(1, Severity.WARNING), (30, Severity.WARNING), (32, Severity.ERROR), (63, Severity.ERROR)]
)
def test_ties_are_as_grave_as_the_width_they_cost(lost, severity):
    (finding,) = tied_units(held(free("a", tuple(range(lost + 1)))))
    assert finding.severity is severity


def test_the_risk_can_make_them_graver():
    symptom = Symptom("tied-units", 0.9, 0.6, ("a",), severity=Severity.ERROR)
    (finding,) = tied_units(held(free("a", (3, 4)), risk=Risk(0.9, "theory", (symptom,))))
    assert finding.severity is Severity.ERROR


def test_the_same_ties_in_the_layers_that_follow_are_told_once():
    rows = [free("a", (1, 2)), free("b", (1, 2), start="a"), free("c", (5, 6), start="a")]
    first, second = tied_units(held(*rows))
    assert (first.layer, first.also) == ("a", ("b",))
    assert (second.layer, second.also) == ("c", ())


def test_layers_that_are_one_unit_throughout_are_told_once_whatever_their_width():
    rows = [free("a", tuple(range(64))), free("b", tuple(range(32)), units=32, start="a")]
    (finding,) = tied_units(held(*rows))
    assert (finding.layer, finding.also) == ("a", ("b",))
    assert finding.message.startswith("all 64 units are tied")


def test_many_classes_of_a_layer_are_eight_findings_at_most():
    found = list(tied_units(held(free("a", *((k, k + 20) for k in range(0, 18, 2)), units=128))))
    assert len(found) == 8
    assert found[-1].message.startswith("4 more units in 2 sets are tied")
    assert sum(f.evidence["count"] for f in found) == 18


def test_gates_and_whole_heads_are_one_finding():
    gates = free("rnn", *((k + 2, k + 5) for k in range(0, 64, 16)))
    (finding,) = tied_units(held(gates, parts=("i", "f", "g", "o")))
    assert finding.message.startswith("units 2 and 5 in each of its 4 parts are tied")
    (finding,) = tied_units(held(free("q", *((k, k + 8) for k in range(8)))))
    assert finding.message.startswith("units 0-7 and 8-15, one by one, are tied")


def test_what_the_values_tell_already_is_info_here():
    values = he(WIDE, 32)
    values[[17, 41]] = values[3]
    whole = held(free("a", (3, 17, 41)), values=values)
    (finding,) = tied_units(whole)
    assert finding.severity is Severity.INFO
    assert "explained by a: see INI201" in finding.message
    (finding,) = copied_units(whole)
    assert finding.severity is Severity.ERROR
    assert finding.message.endswith("; all of them tied for ever")
    whole = held(free("a", tuple(range(64))), values=np.full((64, 32), 0.1, np.float32))
    assert [f.severity for f in tied_units(whole)] == [Severity.INFO]
    assert [f.severity for f in constant(whole)] == [Severity.ERROR]


def test_sums_that_agree_explain_no_copies():
    values = he(WIDE, 32)
    values[17] = values[3]
    values[17, 0] += 1
    (finding,) = tied_units(held(free("a", (3, 17)), values=values))
    assert finding.severity is Severity.WARNING


def test_copies_that_the_graph_proves_apart_are_a_warning_without_a_probe():
    values = he(WIDE, 32)
    values[17] = values[3]
    (finding,) = copied_units(held(free("a"), values=values))
    assert finding.severity is Severity.WARNING
    assert "the first step sets them apart" in finding.message
    assert not list(tied_units(held(free("a"), values=values)))
    (finding,) = constant(held(free("a"), values=np.full((64, 32), 0.1, np.float32)))
    assert finding.severity is Severity.WARNING
    assert "64 units start as one" in finding.message
    for kind, layers, severity in (
        ("vanishing-signal", ("b",), Severity.ERROR),  # such a net does not learn, whatever comes apart
        ("tied-units", ("a",), Severity.ERROR),
        ("tied-units", ("b",), Severity.WARNING),
    ):
        grave = Risk(0.9, "theory", (Symptom(kind, 0.9, 1e-9, layers, severity=Severity.ERROR),))
        assert [f.severity for f in copied_units(held(free("a"), values=values, risk=grave))] == [severity]
    assert [f.severity for f in copied_units(held(free("a"), values=values, unread=("foo",)))] == [Severity.ERROR]


def test_no_role_excuses_copies_that_are_tied_for_ever():
    values = he(WIDE, 32)
    values[17] = values[3]
    fields = {"values": values, "role": Role.BRANCH_END}
    (finding,) = copied_units(held(free("a", (3, 17)), **fields))
    assert finding.severity is Severity.ERROR
    (finding,) = copied_units(held(free("a"), **fields))
    assert finding.severity is Severity.WARNING
    assert "adds the same to several channels" in finding.message
    (finding,) = copied_units(held(free("a", (3, 17)), values=values, role=Role.CLOSED_FORM))
    assert finding.severity is Severity.INFO


def test_a_constant_weight_is_as_many_units_as_the_graph_tells():
    values = np.full((64, 32), 0.1, np.float32)
    gates = [tuple(range(k, k + 16)) for k in range(0, 64, 16)]
    (finding,) = constant(held(free("rnn", *gates), values=values))
    assert "64 units act as 4" in finding.message
    assert finding.severity is Severity.ERROR
    (finding,) = constant(held(free("a", tuple(range(64)), breaks=("dropout 0.5 at b",)), values=values))
    assert finding.severity is Severity.WARNING
    assert "64 units start as one; dropout 0.5 at b acts on them" in finding.message


def test_some_copies_may_be_tied_and_others_not():
    values = he(WIDE, 32)
    values[17], values[5] = values[3], values[4]
    (finding,) = copied_units(held(free("a", (3, 17)), values=values))
    assert finding.message.endswith("; 1 of them tied for ever")


def test_copies_that_the_next_weight_takes_alike_are_not_said_to_part():
    values, reader = he(WIDE, 32), he(16, WIDE, 1)
    values[17], reader[:, 17] = values[3], reader[:, 3]
    whole = audit(layer("a", values), layer("b", reader))
    rows = (free("a"), free("b", units=16))
    measured = tuple(replace(m, freedom=r) for m, r in zip(whole.measured, rows, strict=True))
    (finding,) = copied_units(replace(whole, measured=measured, freedom=Freedom(rows)))
    assert finding.severity is Severity.ERROR


def test_copies_that_never_move_do_not_come_apart():
    values = he(WIDE, 32)
    values[17] = values[3]
    whole = held(free("a"), values=values)
    dead = ParameterFreedom("a.weight", 64 * 32, 0, dead=64 * 32, cause=Cause.ZEROS)
    whole = replace(whole, measured=(replace(whole.measured[0], movement=dead),))
    assert [f.severity for f in copied_units(whole)] == [Severity.ERROR]
    late = ParameterFreedom("a.weight", 64 * 32, 2, late=((2, 64 * 32),))
    whole = replace(whole, measured=(replace(whole.measured[0], movement=late),))
    (finding,) = copied_units(whole)
    assert finding.severity is Severity.WARNING
    assert "at step 2" in finding.message


def test_what_parts_them_in_practice_makes_them_less_grave():
    few, most = (free("a", units, breaks=("dropout 0.1 at block.0",)) for units in ((1, 2), tuple(range(40))))
    (finding,) = tied_units(held(few))
    assert finding.severity is Severity.INFO
    assert "dropout 0.1 at block.0 acts on them" in finding.message
    assert [f.severity for f in tied_units(held(most))] == [Severity.WARNING]
    values = he(WIDE, 32)
    values[2] = values[1]
    (finding,) = copied_units(held(few, values=values))
    assert finding.severity is Severity.WARNING


@pytest.mark.parametrize("state", [State.TRAINED, State.FRESH])
def test_a_trained_model_is_told_and_not_judged(state):
    (finding,) = tied_units(held(free("a", tuple(range(40))), state=state))
    assert finding.severity is (Severity.INFO if state is State.TRAINED else Severity.ERROR)


def test_a_graph_that_names_tell_is_a_warning_at_most():
    whole = held(free("a", tuple(range(40))))
    whole = replace(whole, model=replace(whole.model, source="inferred"))
    (finding,) = tied_units(whole)
    assert (finding.severity, finding.capped) == (Severity.WARNING, Severity.ERROR)
    whole = replace(whole, measured=(replace(whole.measured[0], freedom=LayerFreedom("a", 64, 8)),))
    (finding,) = tied_units(whole)
    assert finding.message.startswith("units are tied")
    assert finding.evidence["members"] == []


def test_near_ties_and_twins_are_told_beyond_exact_ones():
    nearly = free("a", (1, 2), nearly=((1, 2), (5, 6)))
    first, second = tied_units(held(nearly))
    assert "units 5-6 are nearly tied: they are equal but for the rounding of float32" in second.message
    assert (first.severity, second.severity) == (Severity.WARNING, Severity.WARNING)
    (finding,) = tied_units(held(free("a", twins=((1, 9),))))
    assert finding.severity is Severity.INFO
    assert "differ in sign or scale" in finding.message
    (finding,) = tied_units(held(free("a", twins=(tuple(range(40)),))))
    assert finding.severity is Severity.WARNING


def test_a_closed_form_is_no_fault():
    (finding,) = tied_units(held(free("a", tuple(range(40))), role=Role.CLOSED_FORM))
    assert finding.severity is Severity.INFO


def test_a_role_that_is_a_guess_makes_no_difference_to_a_tie_of_its_own():
    (finding,) = tied_units(held(free("a", tuple(range(40))), role=Role.OTHER, role_evidence=Evidence.ASSUMED))
    assert finding.severity is Severity.ERROR


def test_copies_at_first_are_told_by_the_risk_and_not_called_tied():
    symptom = Symptom("tied-units", 0.9, 0.8, ("a", "b"), severity=Severity.ERROR)
    whole = held(free("a"), free("b"), risk=Risk(0.9, "theory", (symptom,)))
    (finding,) = tied_units(whole)
    assert finding.message.startswith("units start as copies of each other: copies cost 80 % of the width of a")
    whole = held(free("a", (1, 2)), free("b", (1, 2), start="a"), risk=Risk(0.9, "theory", (symptom,)))
    assert [f.evidence["kind"] for f in tied_units(whole)] == ["tied"]


def test_heads_of_keys_and_values_that_are_repeated_are_shared():
    heads = he(2 * 8, 32).reshape(2, 8, 32).repeat(2, 0).reshape(32, 32)
    whole = held(free("k_proj", units=32), values=heads, tags=("key",))
    assert [f.severity for f in copied_units(whole)] == [Severity.INFO]
    whole = held(free("q_proj", units=32), values=heads, tags=("query",))
    assert [f.severity for f in copied_units(whole)] == [Severity.WARNING]
    stuck = free("k_proj", *((k, k + 8) for k in range(8)), units=32)
    assert [f.severity for f in copied_units(held(stuck, values=heads, tags=("key",)))] == [Severity.ERROR]
    heads[3] = heads[4]
    whole = held(free("k_proj", units=32), values=heads, tags=("key",))
    assert [f.severity for f in copied_units(whole)] == [Severity.WARNING]


def test_sub_pixel_runs_that_stay_tied_are_a_fault():
    values = he(32, 32 * 9).reshape(32, 32, 3, 3)
    values = values[::4].repeat(4, 0)
    runs = [tuple(range(k, k + 4)) for k in range(0, 32, 4)]
    kept = {"values": values, "kind": "conv", "axes": "oikk"}
    assert [f.severity for f in copied_units(held(free("up", units=32), **kept))] == [Severity.INFO]
    assert [f.severity for f in copied_units(held(free("up", *runs, units=32), **kept))] == [Severity.ERROR]


def test_one_row_for_many_outputs_is_kept_for_later():
    values = he(50, 32)
    values[40:] = values[0]
    (finding,) = copied_units(held(free("head", units=50), values=values, role=Role.HEAD))
    assert finding.severity is Severity.INFO
    values[30] = values[31]
    (finding,) = copied_units(held(free("head", units=50), values=values, role=Role.HEAD))
    assert finding.severity is Severity.WARNING


def test_one_residual_stream_is_one_finding_wherever_its_ties_start():
    rows = [free("tokens", (1, 2)), free("places", (1, 2)), free("other", (1, 2), units=32)]
    first, second = tied_units(held(*rows))
    assert (first.layer, first.also) == ("tokens", ("places",))
    assert second.layer == "other"
    values = he(WIDE, 32)
    values[2] = values[1]
    found = list(tied_units(held(*rows[:2], values=values)))  # what explains the one does not explain the other
    assert [(f.layer, f.severity) for f in found] == [("tokens", Severity.INFO), ("places", Severity.WARNING)]


@pytest.mark.parametrize("kind", ["bias", "norm", "parameter"])
def test_a_bias_has_no_units_of_its_own(kind):
    whole = held(free("a", (1, 2)))
    (m,) = whole.measured
    whole = replace(whole, measured=(replace(m, layer=replace(m.layer, kind=kind)),))
    assert not list(tied_units(whole))
