"""Symptoms: each where it is, from the layer where it starts, and none in nets that only look ill."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import initaudit
from initaudit.risk import fit, judge, model
from initaudit.risk.fit import BASE, ERROR, WARNING
from initaudit.types import Attending, Audit, Layer, Risk, Role, Severity, Signals, State, Symptom
from tests.build import he, layer
from tests.risk.build import dense, judged, row, stack


def risk(whole: Audit) -> Risk:
    found = judge(whole)
    assert found is not None
    return found


def symptom(whole: Audit, kind: str) -> Symptom:
    found = {one.kind: one for one in risk(whole).symptoms}
    assert kind in found, sorted(found)
    return found[kind]


def healthy(layers: list[Layer]) -> Audit:
    return judged(layers, [row(one) for one in layers])


def decaying(count: int, start: int, per_layer: float) -> Audit:
    """Variance across inputs falls by a factor per layer from layer `start` on; gradients fall with the last one."""
    layers = stack(count)
    last = per_layer ** (count - start)
    signals = [
        row(one, rate=last**0.5, forward_variance=per_layer ** max(0, k - start + 1)) for k, one in enumerate(layers)
    ]
    return judged(layers, signals, std=last**0.5, variance=last)


def test_a_healthy_net_has_no_symptom():
    found = risk(healthy(stack(6)))
    assert found.symptoms == ()
    assert found.value == pytest.approx(BASE, abs=0.02)
    assert found.by == "probe"
    assert not found.disagreement


def test_a_signal_that_vanishes_is_told_from_where_it_starts():
    one = symptom(decaying(20, 4, 0.3), "vanishing-signal")
    assert one.layers[0] in ("layers.4", "layers.5")
    assert one.layers[-1] == "head"
    assert one.factor == pytest.approx(0.3, rel=0.05)
    assert one.value == pytest.approx(0.3**16, rel=1)
    assert one.severity is Severity.ERROR
    assert one.depth is not None
    assert 4 < one.depth < 16


def test_the_depth_at_which_a_net_would_still_train_is_kept_by_one_that_does():
    deep = symptom(decaying(20, 1, 0.3), "vanishing-signal")
    assert deep.depth is not None
    assert risk(decaying(int(deep.depth), 1, 0.3)).symptoms == ()


def test_a_layer_that_stops_all_is_where_it_starts():
    layers = stack(8)
    signals = [
        row(one, rate=0.0, forward_variance=0.0 if k >= 3 else 1.0, dead=1.0 if k >= 3 else 0.0)
        for k, one in enumerate(layers)
    ]
    whole = judged(layers, signals, std=0.0, variance=0.0)
    assert symptom(whole, "vanishing-signal").layers == ("layers.3",)
    dead = symptom(whole, "dead-units")
    assert dead.value == 1
    assert set(dead.layers) == {"layers.3", "layers.4", "layers.5", "layers.6", "head"}


def test_inputs_that_come_to_look_alike():
    layers = stack(12)
    signals = [
        row(one, common=100.0, contrast=100 * 0.3**12, input_correlation=1 - 0.3 ** (k + 1))
        for k, one in enumerate(layers)
    ]
    one = symptom(judged(layers, signals), "indistinguishable-inputs")
    assert one.value == pytest.approx(0.3**12, rel=0.1)
    assert one.layers[0] in ("layers.0", "layers.1")


def test_a_gradient_that_vanishes_is_told_from_the_top():
    layers = stack(10)
    signals = [row(one, rate=10.0 ** -(9 - k) * 1e-5) for k, one in enumerate(layers)]
    one = symptom(judged(layers, signals), "vanishing-gradient")
    assert one.layers[0] in ("head", "layers.8")
    assert one.factor == pytest.approx(0.01, rel=0.2)


def test_a_signal_that_explodes():
    layers = stack(10)
    signals = [row(one, rate=10.0**4, forward_variance=9.0 ** (k + 1)) for k, one in enumerate(layers)]
    whole = judged(layers, signals, std=3.0**10, variance=9.0**10, excess_loss=1e4)
    one = symptom(whole, "exploding-signal")
    assert one.factor == pytest.approx(9, rel=0.1)
    assert one.severity is Severity.ERROR
    assert symptom(whole, "high-initial-loss").layers == ("head",)


def test_a_residual_stream_that_grows():
    layers, signals = [dense("stem")], []
    for k in range(12):
        layers += [dense(f"first.{k}"), dense(f"last.{k}", role=Role.BRANCH_END, activation=None)]
    layers.append(dense("head", role=Role.HEAD))
    signals = [row(one, rate=300.0, forward_variance=2.0 ** (k // 2)) for k, one in enumerate(layers)]
    one = symptom(judged(layers, signals, std=64.0), "growing-residual")
    assert all(name.startswith("last.") for name in one.layers)
    assert one.factor == pytest.approx(2, rel=0.1)


def test_a_net_that_is_far_from_linear_is_told_by_its_gradient():
    layers = stack(10)
    signals = [row(one, rate=min(100.0, 10.0 ** ((9 - k) / 2 - 1.5))) for k, one in enumerate(layers)]
    whole = judged(layers, signals, std=0.05)
    assert symptom(whole, "exploding-gradient").layers[-1] in ("layers.0", "layers.1", "layers.2")


def test_attention_on_one_key():
    layers = [dense("a.query", tags=("query",)), dense("a.key", tags=("key",)), *stack(3)]
    signals = [row(one, rate=50.0) for one in layers]
    seen = [Attending("a", entropy=0.002, spread=800.0)]
    one = symptom(judged(layers, signals, seen, std=0.05), "collapsed-attention")
    assert one.layers == ("a.query", "a.key")
    assert one.value == 0.002
    alone = judged(layers, [row(one) for one in layers], seen)
    assert symptom(alone, "collapsed-attention").severity is Severity.ERROR  # its gradient need not show it
    calm = [Attending("a", entropy=0.2, spread=6.0)]
    assert risk(judged(layers, [row(one) for one in layers], calm)).symptoms == ()


def test_units_that_stay_copies():
    layers = stack(4)
    layers[1] = layer("layers.1", np.full((16, 16), 0.05, np.float32))
    signals = [row(one, tied=1.0 if k == 1 else 0.0) for k, one in enumerate(layers)]
    one = symptom(judged(layers, signals), "tied-units")
    assert one.layers == ("layers.1",)


# ---- what only looks ill


def test_residual_ends_that_start_at_zero_are_healthy():
    layers, signals = [dense("stem")], []
    for k in range(8):
        layers += [dense(f"first.{k}"), dense(f"last.{k}", std=0.0, role=Role.BRANCH_END, activation=None)]
    layers.append(dense("head", role=Role.HEAD))
    for one in layers:
        sleeps = one.name.startswith("first")
        signals.append(row(one, rate=0.0 if sleeps else 1.0, behind_gate=sleeps))
    assert risk(judged(layers, signals)).symptoms == ()


def test_branches_behind_a_small_scale_are_healthy():
    """LayerScale: gradients of 1e-6 behind it, and a ratio of gradient to value of 1e6 in the scale itself."""
    layers, signals = [dense("stem")], []
    signals.append(row(layers[0]))
    for k in range(8):
        inner, end = dense(f"first.{k}"), dense(f"last.{k}", role=Role.BRANCH_END, activation=None)
        scale = layer(f"gamma.{k}", np.full(16, 1e-6, np.float32), "parameter", "o", role=Role.GATE)
        layers += [inner, end, scale]
        small = {"rate": 1e-6, "behind_gate": True, "gate": scale.weight.name}
        signals += [row(inner, **small), row(end, **small), row(scale, rate=1e6)]
    layers.append(dense("head", role=Role.HEAD))
    signals.append(row(layers[-1]))
    assert risk(judged(layers, signals)).symptoms == ()


def test_a_norm_after_each_layer_makes_its_scale_irrelevant():
    layers = [dense(f"layers.{k}", std=1e-4, normed=True) for k in range(20)] + [dense("head", role=Role.HEAD)]
    times = float(np.sqrt(2 / 16) / 1e-4)
    usual = float(np.linalg.norm(he(16, 16)))
    signals = []
    for one in layers:
        gradient = usual if one.name == "head" else usual * times
        own = row(one, gradient=gradient, common=gradient**2 / 5, contrast=gradient**2)
        signals.append(replace(own, forward_variance=1e-7))
    assert risk(judged(layers, signals)).symptoms == ()


def test_a_head_that_starts_at_zero_is_healthy():
    layers = [*stack(5)[:-1], dense("head", std=0.0, role=Role.HEAD)]
    signals = [row(one, rate=0.0 if one.name != "head" else 1.0) for one in layers]
    signals[-1] = replace(signals[-1], forward_variance=0.0)
    assert risk(judged(layers, signals, std=0.0, variance=0.0)).symptoms == ()


# ---- who speaks


def test_theory_speaks_where_no_probe_ran():
    whole = decaying(20, 4, 0.3)
    assert whole.probe is not None
    told = risk(replace(whole, probe=None, theory=replace(whole.probe, by="theory")))
    assert told.by == "theory"
    assert told.value == risk(whole).value


def test_theory_speaks_where_the_probe_could_not():
    whole = decaying(20, 4, 0.3)
    assert whole.probe is not None
    failed = Signals((), why="it cannot be run")
    assert risk(replace(whole, probe=failed, theory=replace(whole.probe, by="theory"))).by == "theory"


def test_what_theory_and_probe_do_not_agree_on_is_told():
    whole, calm = decaying(20, 4, 0.3), healthy(stack(20))
    assert calm.probe is not None
    assert "theory" in risk(replace(whole, theory=replace(calm.probe, by="theory"))).disagreement
    assert not risk(replace(whole, theory=whole.probe)).disagreement


def test_folded_batch_norms_cap_what_is_said():
    whole = decaying(20, 4, 0.3)
    assert whole.probe is not None
    told = risk(replace(whole, probe=replace(whole.probe, folded=True)))
    assert told.symptoms
    assert all("folded" in one.capped for one in told.symptoms)


def test_nothing_known_is_no_risk_at_all():
    whole = healthy(stack(3))
    assert judge(replace(whole, probe=None)) is None


def test_what_the_summary_says_is_always_told_by_a_symptom():
    for factor in np.geomspace(0.05, 1, 15):
        told = risk(decaying(14, 1, float(factor)))
        worst = max((one.risk for one in told.symptoms), default=0.0)
        assert worst <= told.value + 1e-9
        if told.value > max(WARNING, ERROR) + BASE:
            assert worst >= ERROR - 0.05
        assert list(told.symptoms) == sorted(told.symptoms, key=lambda one: -one.risk)


# ---- the whole and its symptoms say the same


def test_the_gravest_symptom_carries_the_whole_risk():
    """Two features that are high enough for a warning each make an error together, and that is told."""
    layers = stack(4)
    mild = [row(one, rate=10.0**1.97) for one in layers]
    found = risk(judged(layers, mild, [Attending("a", 0.01, 10 ** (fit.HALF["rough"] - 0.1))], std=100.0))
    assert found.symptoms[0].risk == found.value
    assert found.symptoms[0].severity is model.severity(found.value)


@given(st.floats(-3, 8), st.floats(-6, 6), st.floats(0, 3))
@settings(deadline=None, max_examples=60)
def test_no_risk_is_without_a_symptom_that_is_as_grave(rate, gain, spread):
    layers = stack(4)
    signals = [row(one, rate=10.0**-rate, forward_variance=10.0 ** (gain * k / 4)) for k, one in enumerate(layers)]
    found = risk(judged(layers, signals, [Attending("a", 0.1, 10.0**spread)], std=10.0**gain))
    told = max((s.severity for s in found.symptoms if not s.capped), default=Severity.INFO)
    assert told is model.severity(found.value)


def test_one_cause_is_told_once():
    """A head 100 times too large: signal, gradient and loss all follow from one of them."""
    layers = stack(6)
    signals = [row(one, rate=1e3, forward_variance=1e6 if k == 5 else 1.0) for k, one in enumerate(layers)]
    found = risk(judged(layers, signals, std=1000.0, variance=1e6, excess_loss=1800.0))
    assert [one.kind for one in found.symptoms if not one.capped] == ["exploding-signal"]
    assert all("follows from exploding-signal" in one.capped for one in found.symptoms[1:])


def test_depths_of_one_cause_agree():
    found = risk(decaying(20, 1, 0.3))
    assert len({round(one.depth, 6) for one in found.symptoms if one.depth is not None}) == 1


def test_layers_that_never_learn_are_told():
    layers = [dense("stem")]
    for k in range(6):
        layers += [dense(f"first.{k}", std=0.0), dense(f"last.{k}", std=0.0, role=Role.BRANCH_END)]
    layers.append(dense("head", role=Role.HEAD))
    signals = [row(one, rate=1.0 if one.name in ("stem", "head") else 0.0) for one in layers]
    one = symptom(judged(layers, signals), "vanishing-gradient")
    assert (one.value, len(one.layers)) == (0.0, 12)


def test_trained_and_broken_weights_have_no_risk():
    whole = healthy(stack(3))
    assert judge(replace(whole, state=State.TRAINED)) is None
    broken = layer("layers.1", np.full((16, 16), np.nan, np.float32))
    assert judge(judged([dense("layers.0"), broken], [row(dense("layers.0")), row(dense("layers.0"))])) is None


def test_a_buffer_has_no_gradient_to_be_known():
    """An adjacency matrix that holds most of the values is no weight: what the others do is told in full."""
    torch = pytest.importorskip("torch")

    class Graph(torch.nn.Module):
        def __init__(self):
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.register_buffer("adjacency", torch.softmax(torch.randn(64, 64, generator=generator), -1))
            self.weights = torch.nn.ParameterList(0.01 * torch.randn(24, 24, generator=generator) for _ in range(4))
            self.head = torch.nn.Linear(24, 10)

        def forward(self, x):
            for weight in self.weights:
                x = torch.relu(self.adjacency @ (x @ weight))
            return self.head(x.mean(1))

    report = initaudit.check(Graph(), torch.randn(8, 64, 24, generator=torch.Generator().manual_seed(1)))
    assert [f.severity for f in report.findings if f.rule == "INI501"] == [Severity.ERROR]
    assert not [f for f in report.findings if f.layer == "adjacency" and f.rule != "INI501"]
