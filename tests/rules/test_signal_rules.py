"""INI501 to INI512 on audits made by hand: each tells the symptom of its own name, as gravely as is known."""

from dataclasses import replace

import numpy as np
import pytest

from initaudit.rules import catalogue
from initaudit.symptoms import CODES
from initaudit.types import (
    Attending,
    Audit,
    Evidence,
    Finding,
    Graph,
    Head,
    Risk,
    Role,
    Severity,
    Signal,
    Signals,
    State,
    Symptom,
)
from tests.build import audit, he, layer, tensor

RULES = {rule.name: rule for rule in catalogue() if rule.code.startswith("INI5")}
GRAPH = Graph((), {}, (), {})


def fading(symptom: Symptom, by: str = "probe", *, state: State = State.FRESH, graph: bool = True, **told) -> Audit:
    """Five layers of half He's std, whose signal and gradient fall tenfold a layer, with one symptom."""
    made = audit(*(layer(f"fc{k}", he(64, 64, k) / 2, **told) for k in range(5)), state=state)
    rows = [
        replace(
            m,
            **{"probed" if by == "probe" else "predicted": Signal(
                forward_variance=10.0**-k, relative_gradient=10.0 ** (k - 4), input_correlation=1 - 10.0 ** (-k)
            )},
        )
        for k, m in enumerate(made.measured)
    ]  # fmt: skip
    whole = Signals(
        (), (Attending("block.0", 0.5, 3.0), Attending("block.1", 0.01, 90.0)),
        (Head("mask", (4,), 1.0, 1.0), Head("logits", (4, 10), 1.0, 12.0, 60.0)), by=by,
    )  # fmt: skip
    return replace(
        made,
        model=replace(made.model, graph=GRAPH if graph else None),
        measured=tuple(rows),
        risk=Risk(0.97, by, (symptom,)),
        **{"probe" if by == "probe" else "theory": whole},
    )


def symptom(kind: str, **fields) -> Symptom:
    known = {
        "risk": 0.97, "value": 1e-4, "layers": tuple(f"fc{k}" for k in range(5)), "factor": 0.1, "depth": 2.4,
        "severity": Severity.ERROR,
    }  # fmt: skip
    return Symptom(kind, **{**known, **fields})


def told(whole: Audit) -> list[Finding]:
    return [finding for rule in catalogue() if rule.code.startswith("INI5") for finding in rule(whole)]


def one(kind: str, **fields) -> Finding:
    (found,) = told(fading(symptom(kind, **fields)))
    return found


@pytest.mark.parametrize("kind", RULES)
def test_each_rule_tells_the_symptom_of_its_name_and_no_other(kind):
    found = one(kind)
    assert (found.rule, found.name, found.severity) == (RULES[kind].code, kind, Severity.ERROR)
    assert found.remedy
    assert found.evidence["risk"] == 0.97
    assert found.evidence["by"] == "probe"
    assert "measured" in found.message


def test_there_is_a_rule_for_each_code():
    codes = {"INI501", "INI502", "INI503", "INI504", "INI505", "INI506", "INI507", "INI508", "INI509", "INI510"}
    assert {rule.code for rule in RULES.values()} == codes | {"INI511", "INI512"}


def test_a_run_is_told_with_its_ends_its_factor_and_the_depth_that_would_train():
    found = one("vanishing-signal")
    assert found.layer == "fc0"
    assert found.also == ("fc1", "fc2", "fc3", "fc4")
    assert (
        "through 5 layers, from fc0 to fc4, the variance across inputs falls to 0.0001 of what it was" in found.message
    )
    assert "0.1x per layer" in found.message
    assert "a net of 2 layers would still train" in found.message
    figures = found.evidence
    assert (figures["start"], figures["end"], figures["layers"], figures["depth"]) == ("fc0", "fc4", 5, 2.4)
    assert (figures["forward_variance_at_start"], figures["forward_variance_at_end"]) == (1.0, 1e-4)
    assert "draw these 5 layers, fc0 first, by he (std 0.177 at fc0)" in found.remedy


def test_a_gradient_is_told_in_the_order_it_travels():
    found = one("vanishing-gradient", layers=("fc4", "fc3", "fc2", "fc1", "fc0"))
    assert "through 5 layers, from fc4 to fc0, " in found.message
    assert "its square 0.1x per layer" in found.message
    assert (found.evidence["relative_gradient_at_start"], found.evidence["relative_gradient_at_end"]) == (1.0, 1e-4)


def test_layers_that_are_drawn_well_are_not_to_be_drawn_again():
    whole = fading(symptom("vanishing-signal"))
    well = audit(*(layer(f"fc{k}", he(64, 64, k)) for k in range(5))).measured
    (found,) = told(replace(whole, measured=well))
    assert "norm" in found.remedy
    assert "draw" not in found.remedy


def test_growth_in_residual_branches_is_cured_by_scaling_their_ends():
    (found,) = told(fading(symptom("exploding-signal", value=1e9, factor=10.0), role=Role.BRANCH_END))
    assert "1/sqrt(5) = 0.45" in found.remedy
    assert "draw" in one("exploding-signal").remedy
    assert "per block" in one("growing-residual").message


def test_a_layer_far_off_is_drawn_again_wherever_it_stands():
    whole = fading(symptom("exploding-gradient", value=1e9, factor=10.0), role=Role.BRANCH_END)
    far = audit(layer("fc2", 30 * he(64, 64))).measured
    (found,) = told(replace(whole, measured=(*whole.measured[:2], *far, *whole.measured[3:])))
    assert found.remedy == "draw fc2 by he (std 0.177)"


def test_a_bias_that_outweighs_the_signal_starts_at_zero():
    shifted = tensor("fc1.bias", np.full(64, -2, np.float32))
    whole = fading(symptom("vanishing-signal"))
    biased = audit(layer("fc1", he(64, 64), bias=shifted)).measured
    (found,) = told(replace(whole, measured=(whole.measured[0], *biased, *whole.measured[2:])))
    assert found.remedy == "start the bias of fc1 at zero"


def test_one_layer_is_no_run_and_has_no_factor_per_layer():
    found = one("exploding-signal", value=8892.0, factor=8892.0, layers=("fc4",), depth=0.3)
    assert found.message.startswith("the signal grows going up: in fc4, the variance across inputs becomes 8,892 times")
    assert "per layer" not in found.message
    assert "would still train" not in found.message


def test_a_loss_that_comes_from_below_is_cured_there():
    assert "draw the output layer smaller" in one("high-initial-loss", value=60.0, layers=("fc4",)).remedy
    whole = fading(symptom("high-initial-loss", layers=("fc4",)))
    growing = (symptom("growing-residual"), *whole.risk.symptoms)
    remedies = {f.rule: f.remedy for f in told(replace(whole, risk=replace(whole.risk, symptoms=growing)))}
    assert "what makes the signal grow" in remedies["INI510"]


def test_what_is_not_known_is_left_out_of_the_sentence():
    for kind in RULES:
        (found,) = told(fading(symptom(kind, layers=(), factor=None, depth=None)))
        assert found.layer is None
        assert "None" not in found.message
        assert "  " not in found.message
        (found,) = told(fading(symptom(kind, layers=("fc1", "gone"), factor=None, depth=0.2)))
        assert found.layer == "fc1"


def test_a_capped_symptom_is_info_and_says_why():
    found = one("vanishing-signal", capped="batch norms are merged into the weights")
    assert found.severity is Severity.INFO
    assert "batch norms are merged into the weights" in found.message


def test_theory_that_could_not_follow_all_is_a_warning_at_most():
    whole = fading(symptom("vanishing-signal"), "theory")
    assert told(whole)[0].severity is Severity.ERROR
    assert "predicted from the weights" in told(whole)[0].message
    (found,) = told(replace(whole, theory=replace(whole.theory, unread=("Foo", "Bar", "Baz", "Qux"))))
    assert found.severity is Severity.WARNING
    assert "Foo, Bar, Baz and 1 more" in found.message
    mild = fading(symptom("vanishing-signal", severity=Severity.INFO), "theory")
    (found,) = told(replace(mild, theory=replace(mild.theory, unread=("Foo",))))
    assert found.severity is Severity.INFO


def test_what_no_graph_proves_is_a_warning_at_most():
    (found,) = told(fading(symptom("vanishing-signal"), graph=False, activation_evidence=Evidence.NAMED))
    assert (found.severity, found.capped) == (Severity.WARNING, Severity.ERROR)


def test_trained_weights_and_models_without_risk_have_no_symptoms():
    assert told(fading(symptom("vanishing-signal"), state=State.TRAINED)) == []
    assert told(replace(fading(symptom("vanishing-signal")), risk=None)) == []


def test_shares_are_never_rounded_to_all_or_nothing():
    assert "100 % of those of fc0" in one("dead-units", value=1.0).message
    assert "more than 99.9 % of those" in one("dead-units", value=0.99999).message
    assert "52.5 % of those of fc0 (and of 4 more layers)" in one("saturated-units", value=0.525).message


def test_what_a_weight_of_zeros_explains_is_told_once_as_an_error():
    whole = fading(symptom("vanishing-signal"))

    def with_zero(gradient: float = 0.0, **fields) -> Finding:
        (zero,) = audit(layer("fc2", 0 * he(64, 64), **fields)).measured
        zero = (replace(zero, probed=Signal(gradient=gradient)),)
        (found,) = told(replace(whole, measured=(*whole.measured[:2], *zero, *whole.measured[3:])))
        return found

    assert with_zero().severity is Severity.INFO
    assert "explained by fc2: one number throughout, see INI103" in with_zero().message
    assert with_zero(role=Role.BRANCH_END).severity is Severity.ERROR  # INI103 does not speak of it
    assert with_zero(role_evidence=Evidence.NAMED).severity is Severity.ERROR
    assert with_zero(gradient=1.0).severity is Severity.ERROR  # it moves at the first step: INI103 warns only


def test_rates_attention_and_loss_name_their_figures():
    rates = one("uneven-rates", value=1e4, layers=("fc0", "fc4", "fc1"))
    assert "10,000 times apart: fc0 slowest, fc4 fastest (gradient over weight 0.0001 and 1)" in (
        rates.message.replace("1e+04", "10,000")
    )
    attention = one("collapsed-attention", value=0.01, layers=())
    assert "in block.1" in attention.message
    assert "std of 90" in attention.message
    loss = one("high-initial-loss", value=60.0, layers=())
    assert "of output logits would be about 60 nats above" in loss.message
    assert loss.evidence["std"] == 12.0
    alike = one("indistinguishable-inputs")
    assert "cosine of 1 - 0.0001" in alike.message


def test_what_follows_names_the_rule_it_follows_from():
    found = one("exploding-gradient", capped="it follows from exploding-signal")
    assert found.severity is Severity.INFO
    assert "[info at most: it follows from INI502]" in found.message


def test_a_gradient_that_never_comes_is_not_told_as_a_factor():
    found = one("vanishing-gradient", value=0.0)
    assert "no gradient ever comes down to fc0 (and of 4 more layers)" in found.message


def test_a_gradient_that_is_too_large_in_one_layer_does_not_grow():
    found = one("exploding-gradient", value=478.0, layers=("fc4",))
    assert "grows" not in found.message
    assert "in fc4, a step at a rate of 1 would be 478 times the weight" in found.message


def test_every_symptom_has_the_code_of_its_rule():
    assert {name: rule.code for name, rule in RULES.items()} == CODES
