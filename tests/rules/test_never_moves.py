"""INI205, INI206 and what INI103 says of sleepers, on modules whose graph is traced."""

from dataclasses import replace

import numpy as np
import pytest

from initaudit.freedom import Cause, Freedom, ParameterFreedom
from initaudit.rules.all_zero import all_zero
from initaudit.rules.cancelled_parameters import cancelled_parameters
from initaudit.rules.never_moves import never_moves
from initaudit.types import Graph, Risk, Role, Severity, State, Symptom
from tests.build import audit, he, layer, tensor

torch = pytest.importorskip("torch")
nn = torch.nn

from tests.rules.nets import ROWS, Branch, checked, dense, told  # noqa: E402


def held(*parameters, state=State.FRESH, risk=None):
    """An audit of two layers, of whose parameters the graph proves what is given."""
    whole = audit(layer("a", he(8, 8)), layer("b", he(8, 8, 1)), state=state)
    return replace(whole, freedom=Freedom((None, None), parameters), risk=risk)


def dead(name, cause, count=64, *blocked_by):
    return ParameterFreedom(name, 64, 0, dead=count, cause=cause, blocked_by=blocked_by)


# ---- zeros


@pytest.mark.parametrize("names", [("lora_A", "lora_B"), ("first", "second")])
def test_two_zero_factors_are_one_error_that_names_them(names):
    report = checked(Branch(names=names).zeroed(*names), ROWS)
    (finding,) = [f for f in report.findings if f.severity is Severity.ERROR]
    assert (finding.rule, finding.layer, finding.also) == ("INI205", names[0], (names[1],))
    assert finding.message == (f"{names[0]}.weight and {names[1]}.weight are both zero: neither ever gets a gradient")
    assert finding.evidence["blocked_by"] == [f"{name}.weight" for name in names]


@pytest.mark.parametrize("name", ["lora_A", "lora_B"])
@pytest.mark.parametrize("gate", [None, 1.0])
def test_one_zero_factor_is_fine(name, gate):
    report = checked(Branch(gate=gate).zeroed(name), ROWS)
    assert report.verdict == "healthy"
    assert not [f for f in report.findings if f.rule == "INI205"]


def test_a_gate_times_a_zero_layer_is_dead_and_a_gate_alone_is_not():
    assert checked(Branch(gate=0.0), ROWS).verdict == "healthy"
    (finding,) = told(Branch(gate=0.0).zeroed("lora_B"), ROWS, code="INI205")
    assert finding.severity is Severity.ERROR
    assert set(finding.evidence["blocked_by"]) == {"lora_B.weight", "gate"}
    assert "nor does lora_A.weight" in finding.message


def test_a_zero_trunk_weight_that_never_moves_is_told_by_its_own_rule():
    net = dense()
    nn.init.zeros_(net[2].weight)
    nn.init.zeros_(net[2].bias)
    report = checked(net)
    assert [(f.rule, f.layer) for f in report.findings if f.severity is Severity.ERROR] == [("INI103", "2")]
    (finding,) = [f for f in report.findings if f.rule == "INI205"]
    assert finding.severity is Severity.INFO
    assert "explained by 2: zero throughout, see INI103" in finding.message


def test_parts_that_zeros_block_are_a_warning():
    net = Branch()
    with torch.no_grad():
        net.lora_A.weight[1] = 0
        net.lora_B.weight[:, 1] = 0
    (finding,) = told(net, ROWS, code="INI205")
    assert finding.severity is Severity.WARNING
    assert finding.evidence["count"] == 2 * 32


def test_every_set_of_zeros_is_a_finding_of_its_own():
    first = [dead(name, Cause.ZEROS, 64, "a.weight", "a.bias") for name in ("a.weight",)]
    second = [dead("b.weight", Cause.ZEROS, 64, "b.weight", "c")]
    assert [f.layer for f in never_moves(held(*first, *second))] == ["a", "b"]
    (finding,) = never_moves(held(dead("a.weight", Cause.ZEROS)))
    assert "a.weight never gets a gradient" in finding.message


def test_a_trained_model_is_told_and_not_judged():
    parameters = (dead("a.weight", Cause.ZEROS, 64, "a.weight", "b.weight"), dead("b.weight", Cause.OFF))
    found = list(never_moves(held(*parameters, state=State.TRAINED)))
    assert [f.severity for f in found] == [Severity.INFO] * 2


def test_what_no_layer_holds_is_silent():
    assert not list(never_moves(held(dead("val_9", Cause.ZEROS, 64, "val_9", "val_10"))))
    assert not list(never_moves(replace(held(), freedom=None)))


# ---- units that are off, and what the architecture leaves without a gradient


@pytest.mark.parametrize(("count", "severity"), [(33, Severity.WARNING), (32, Severity.INFO)])
def test_units_that_are_off_are_a_warning_from_half_a_layer(count, severity):
    (finding,) = never_moves(held(dead("a.weight", Cause.OFF, count)))
    assert finding.severity is severity
    assert "their units are off" in finding.message


def test_dead_units_are_told_once():
    symptom = Symptom("dead-units", 0.9, 1.0, ("a",), severity=Severity.WARNING)
    (finding,) = never_moves(held(dead("a.weight", Cause.OFF), risk=Risk(0.9, "theory", (symptom,))))
    assert finding.severity is Severity.INFO
    assert "see INI508" in finding.message


def test_a_layer_that_no_input_switches_on():
    net = dense()
    with torch.no_grad():
        net[2].weight.copy_(-net[2].weight.abs())
        net[2].bias.fill_(-0.1)
    found = told(net, code="INI205")
    assert found
    assert all("off, whatever the input" in f.message for f in found)


def test_what_is_so_by_design_is_one_info():
    (finding,) = never_moves(held(dead("a.weight", Cause.DESIGN), dead("b.weight", Cause.DESIGN)))
    assert finding.severity is Severity.INFO
    assert (finding.layer, finding.also) == ("a", ("b",))


def test_what_ties_keep_still_is_told_with_the_ties():
    (finding,) = never_moves(held(dead("a.weight", None)))
    assert finding.severity is Severity.INFO
    assert "see INI512" in finding.message


@pytest.mark.parametrize(("fields", "severity"), [
    ({}, Severity.WARNING),
    ({"bias": tensor("a.bias", np.ones(8, np.float32))}, Severity.ERROR),
    ({"role": Role.ADAPTER}, Severity.ERROR),
    ({"normed": True}, Severity.ERROR),
])  # fmt: skip
def test_a_bias_that_the_exporter_left_out_may_wake_what_looks_dead(fields, severity):
    whole = audit(layer("a", he(8, 8), **fields))
    parameters = (dead("a.weight", Cause.ZEROS, 64, "a.weight", "gate"),)
    whole = replace(whole, freedom=Freedom((None,), parameters))
    assert [f.severity for f in never_moves(whole)] == [Severity.ERROR]
    whole = replace(whole, model=replace(whole.model, graph=Graph((), {}, (), {})))
    assert whole.model.graph_source == "onnx"
    (finding,) = never_moves(whole)
    assert finding.severity is severity
    assert ("left out a zero bias of a" in finding.message) is (severity is Severity.WARNING)


# ---- what has no effect


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()
        )
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def test_biases_before_batch_norms_are_one_info_of_the_model():
    report = checked(Normed(), torch.randn(2, 3, 12, 12))
    (finding,) = report.findings
    assert (finding.rule, finding.severity, finding.layer) == ("INI206", Severity.INFO, None)
    assert finding.message == "16 values of body.N.bias have no effect: a later operation takes away what they add"
    assert finding.evidence["tensors"] == ["body.0.bias", "body.3.bias"]
    assert not list(cancelled_parameters(held()))


# ---- zeros that sleep


def test_a_zero_weight_that_sleeps_is_told_with_the_step_at_which_it_wakes():
    net = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4))
    for p in (net[2].weight, net[4].weight):
        nn.init.zeros_(p)
    by_layer = {f.layer: f for f in told(net, ROWS, code="INI103")}
    assert by_layer["2"].severity is Severity.WARNING
    assert by_layer["2"].message.endswith("until it wakes, at step 2")
    assert by_layer["2"].evidence["wakes_at_step"] == 2
    assert by_layer["4"].severity is Severity.INFO


def test_zeros_that_block_each_other_are_no_harmless_adapter():
    first, second = told(Branch().zeroed("lora_"), ROWS, code="INI103")
    assert (first.severity, second.severity) == (Severity.INFO, Severity.INFO)
    assert "here it never moves, see INI205" in first.message


def test_without_a_graph_names_tell_the_two_factors():
    whole = checked(Branch().zeroed("lora_"), ROWS)
    rows = tuple(replace(m, freedom=None, movement=None) for m in whole.measured)
    bare = replace(audit(), measured=rows)
    assert sum("both factors" in f.message for f in all_zero(bare)) == 2
