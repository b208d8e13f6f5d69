"""INI1xx: what the values alone say."""

from dataclasses import replace

import numpy as np
import pytest

from initaudit.rules.all_zero import all_zero
from initaudit.rules.constant import constant
from initaudit.rules.not_finite import not_finite
from initaudit.rules.raw_memory import raw_memory
from initaudit.types import Evidence, Role, Severity, Signal, State
from tests.build import audit, he, layer, rng, tensor


def test_not_finite_counts_nan_and_infinity_apart():
    w = he(16, 16)
    w[0, :3] = np.nan
    w[1, 0] = -np.inf
    (finding,) = not_finite(audit(layer("fc", w)))
    assert (finding.severity, finding.evidence["nans"], finding.evidence["infs"]) == (Severity.ERROR, 3, 1)


def test_not_finite_names_the_bias_and_is_not_capped_by_thin_evidence():
    bias = np.array([1.0, np.inf], np.float32)
    assumed = layer("fc", he(2, 16), bias=tensor("fc.bias", bias), role_evidence=Evidence.ASSUMED, role=Role.OTHER)
    (finding,) = not_finite(audit(assumed))
    assert finding.tensor == "fc.bias"
    assert finding.severity is Severity.ERROR


def test_not_finite_leaves_buffers_and_finite_values_alone():
    mask = tensor("mask", np.full((4, 4), -np.inf, np.float32), buffer=True)
    assert not list(not_finite(audit(layer("fc", he(16, 16), extra=(mask,)))))


def test_raw_memory_sees_random_bits():
    bits = rng(3).integers(0, 2**31, (64, 64), dtype=np.uint32).view(np.float32)
    junk = np.where(np.isfinite(bits), bits, 0).astype(np.float32)
    (finding,) = raw_memory(audit(layer("fc", junk)))
    assert finding.severity is Severity.ERROR
    assert "powers of two" in finding.message


@pytest.mark.parametrize(("value", "found"), [(9.9e3, False), (1.1e4, True)])
def test_raw_memory_at_the_bound_of_huge_values(value, found):
    w = he(32, 32)
    w[0, 0] = value
    assert bool(list(raw_memory(audit(layer("fc", w))))) is found


def test_raw_memory_is_silent_on_every_plain_law_and_on_trained_models():
    laws = {
        "normal": rng().standard_normal((64, 64)) * 0.02,
        "uniform": rng().uniform(-1, 1, (64, 64)),
        "half": (rng().standard_normal((64, 64)) * 0.02).astype(np.float16),
        "constant": np.ones((8, 8)),
    }
    for name, values in laws.items():
        kept = values if values.dtype == np.float16 else values.astype(np.float32)
        assert not list(raw_memory(audit(layer(name, kept)))), name
    huge = he(32, 32)
    huge[0, 0] = 1e6
    assert not list(raw_memory(audit(layer("fc", huge), state=State.TRAINED)))


@pytest.mark.parametrize(
    ("evidence", "severity"),
    [(Evidence.TRACED, Severity.ERROR), (Evidence.NAMED, Severity.WARNING), (Evidence.ASSUMED, Severity.INFO)],
)
def test_all_zero_in_a_trunk_is_as_grave_as_the_evidence_allows(evidence, severity):
    (finding,) = all_zero(audit(layer("fc", np.zeros((8, 8), np.float32), role_evidence=evidence)))
    assert finding.severity is severity
    assert finding.capped is (None if severity is Severity.ERROR else Severity.ERROR)


@pytest.mark.parametrize("role", [Role.BRANCH_END, Role.GATE, Role.ADAPTER, Role.HEAD, Role.CLOSED_FORM])
def test_deliberate_zeros_are_told_as_what_they_are(role):
    (finding,) = all_zero(audit(layer("fc", np.zeros((8, 8), np.float32), role=role)))
    assert finding.severity is Severity.INFO
    assert str(role) in finding.message


def _with_signals(whole, *signals):
    rows = tuple(replace(m, predicted=s) for m, s in zip(whole.measured, signals, strict=True))
    return replace(whole, measured=rows)


def _zero(name, **fields):
    return layer(name, np.zeros((8, 8), np.float32), **fields)


@pytest.mark.parametrize(
    ("signal", "severity", "words"),
    [
        (Signal(gradient=0.3), Severity.WARNING, "until the gradient that it gets itself has moved it"),
        (Signal(gradient=0.3, tied=1.0), Severity.ERROR, "stay one"),
        (Signal(gradient=0.0), Severity.ERROR, "it stays zero"),
        (Signal(), Severity.ERROR, "no gradient goes down"),
    ],
)
def test_a_zero_trunk_weight_is_as_grave_as_what_becomes_of_it(signal, severity, words):
    (finding,) = all_zero(_with_signals(audit(_zero("fc")), signal))
    assert finding.severity is severity
    assert words in finding.message


def test_the_probe_is_believed_before_theory():
    whole = _with_signals(audit(_zero("fc")), Signal(gradient=0.3))
    probed = replace(whole, measured=(replace(whole.measured[0], probed=Signal(gradient=0.0)),))
    assert next(all_zero(probed)).severity is Severity.ERROR


@pytest.mark.parametrize(("last", "severity"), [(0.2, Severity.WARNING), (0.0, Severity.ERROR)])
def test_zero_weights_in_a_row_wake_if_the_last_one_does(last, severity):
    asleep = [Signal(gradient=0.0, behind_gate=True, gate=f"fc.{k + 1}.weight", gate_gradient=0.0) for k in range(2)]
    whole = _with_signals(audit(*(_zero(f"fc.{k}") for k in range(3))), *asleep, Signal(gradient=last))
    assert {f.severity for f in all_zero(whole)} == {severity}


def test_two_gates_that_wait_for_each_other_never_wake():
    rows = [Signal(gradient=0.0, behind_gate=True, gate=f"fc.{1 - k}.weight") for k in range(2)]
    whole = _with_signals(audit(_zero("fc.0"), _zero("fc.1")), *rows)
    assert {f.severity for f in all_zero(whole)} == {Severity.ERROR}


@pytest.mark.parametrize(("gradient", "woken"), [(0.5, True), (0.0, False)])
def test_a_gate_that_is_no_layer_counts_by_its_own_gradient(gradient, woken):
    sleeps = Signal(gradient=0.0, behind_gate=True, gate="alpha", gate_gradient=gradient)
    (finding,) = all_zero(_with_signals(audit(_zero("fc")), sleeps))
    assert finding.evidence["wakes"] is woken


def test_what_a_deliberate_zero_gets_is_told_and_not_judged():
    (finding,) = all_zero(_with_signals(audit(_zero("fc", role=Role.BRANCH_END)), Signal(gradient=0.0)))
    assert finding.severity is Severity.INFO
    assert "no gradient itself" in finding.message


def test_all_zero_ignores_norms_and_a_single_other_value():
    w = np.zeros((8, 8), np.float32)
    w[3, 3] = 1e-30
    assert not list(all_zero(audit(layer("fc", w))))
    assert not list(all_zero(audit(layer("norm", np.zeros(8, np.float32), "norm", "o"))))


def test_constant_fires_once_and_not_on_zero_or_one_unit():
    (finding,) = constant(audit(layer("fc", np.full((8, 8), 0.01, np.float32))))
    assert finding.severity is Severity.ERROR
    assert not list(constant(audit(layer("fc", np.zeros((8, 8), np.float32)))))
    assert not list(constant(audit(layer("fc", np.full((1, 8), 0.01, np.float32)))))


def test_an_averaging_depthwise_kernel_is_no_constant_layer():
    blur = np.full((8, 1, 3, 3), 1 / 9, np.float32)
    assert not list(constant(audit(layer("blur", blur, "conv", "oikk", groups=8))))


def test_both_factors_of_an_adapter_zero_is_a_fault_and_one_is_not():
    def factor(name, zero):
        w = np.zeros((16, 16), np.float32) if zero else he(16, 16)
        return layer(f"q.lora_{name}.default", w, role=Role.ADAPTER, role_evidence=Evidence.NAMED)

    dead = list(all_zero(audit(factor("A", True), factor("B", True))))
    assert [f.severity for f in dead] == [Severity.WARNING] * 2
    assert "both factors" in dead[0].message
    (fine,) = all_zero(audit(factor("A", False), factor("B", True)))
    assert fine.severity is Severity.INFO


def test_a_zero_norm_scale_is_told():
    gamma = layer("bn", np.zeros(8, np.float32), "norm", "o", role=Role.NORM)
    (finding,) = all_zero(audit(gamma))
    assert finding.severity is Severity.INFO


def test_running_statistics_are_judged():
    mean = tensor("bn.running_mean", np.array([0.0, np.nan], np.float32), buffer=True)
    variance = tensor("bn.running_var", np.array([1.0, -1.0], np.float32), buffer=True)
    bn = layer("bn", np.ones(2, np.float32), "norm", "o", role=Role.NORM, extra=(mean, variance))
    (nan,) = not_finite(audit(bn))
    assert nan.tensor == "bn.running_mean"
    (negative,) = raw_memory(audit(bn))
    assert "negative variance" in negative.message


def test_a_constant_layer_of_unknown_role_is_a_warning_where_its_shape_is_known():
    w = np.full((16, 16), 0.3, np.float32)
    (finding,) = constant(audit(layer("fc", w, role=Role.OTHER, activation=None, fan_evidence=Evidence.NAMED)))
    assert finding.severity is Severity.WARNING
    (finding,) = constant(audit(layer("fc", w, role=Role.OTHER, activation=None, fan_evidence=Evidence.ASSUMED)))
    assert finding.severity is Severity.INFO


def test_an_activation_that_follows_makes_an_open_role_count_as_named():
    zero = np.zeros((16, 16), np.float32)
    (finding,) = all_zero(audit(layer("fc", zero, role=Role.OTHER)))
    assert finding.severity is Severity.WARNING
    (finding,) = all_zero(audit(layer("fc", zero, role=Role.OTHER, activation=None)))
    assert finding.severity is Severity.INFO


@pytest.mark.parametrize("state", [State.FRESH, State.TRAINED])
def test_a_negative_running_variance_is_told_in_any_state_and_role(state):
    variance = tensor("bn.running_var", np.array([1.0, -1.0], np.float32), buffer=True)
    closed = layer("bn", np.zeros(2, np.float32), "norm", "o", role=Role.CLOSED_FORM, extra=(variance,))
    assert len(list(raw_memory(audit(closed, state=state)))) == 1


@pytest.mark.parametrize("low", [-np.inf, -1e9, np.finfo(np.float32).min])
def test_a_mask_in_a_checkpoint_is_no_fault(low):
    values = np.triu(np.full((8, 8), low, np.float32), 1)
    held = layer("attn.mask", values, "parameter", "oo", role=Role.OTHER, role_evidence=Evidence.ASSUMED)
    assert not list(not_finite(audit(held)))
    assert not list(raw_memory(audit(held)))
    values[0, 0] = np.nan
    assert list(not_finite(audit(held)))


@pytest.mark.parametrize("value", [np.inf, -np.inf])
def test_one_infinity_in_a_zero_bias_is_no_mask(value):
    bias = np.zeros(32, np.float32)
    bias[3] = value
    norm = layer("norm", np.ones(32, np.float32), "norm", "o", role=Role.NORM, bias=tensor("norm.bias", bias))
    table = np.zeros((8, 8), np.float32)
    table[2, 2] = value
    for held in (norm, layer("table", table, "parameter", "oo", role=Role.OTHER)):
        assert len(list(not_finite(audit(held)))) == 1


def test_a_huge_constant_is_raw_memory_too():
    held = layer("norm", np.full(32, 1e30, np.float32), "norm", "o", role=Role.NORM)
    assert len(list(raw_memory(audit(held)))) == 1


def test_raw_memory_at_the_bounds_of_span_and_subnormals():
    tiny = np.float32(1e-40)
    w = he(32, 32)
    w.flat[:1] = tiny
    assert not list(raw_memory(audit(layer("fc", w))))
    w.flat[:3] = tiny
    assert list(raw_memory(audit(layer("fc", w))))
    short = tensor("fc.bias", np.array([1e-30, 2.0], np.float32))
    assert not list(raw_memory(audit(layer("fc", he(2, 32), bias=short))))
