"""Each feature means what it says, whatever the width, and what is healthy by design leaves no trace in it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from initaudit.risk import fit, observe
from initaudit.risk.features import NEVER, Features
from initaudit.types import Attending, Role, Signal
from tests.build import he, layer
from tests.risk.build import HEALTHY, dense, judged, row, stack


def told(layers, signals, **head) -> Features:
    whole = judged(layers, signals, **head)
    found = observe(whole, whole.probe)
    assert found is not None
    return found


def test_a_healthy_net_learns_at_once_and_is_nearly_linear():
    layers = stack(4)
    found = told(layers, [row(one) for one in layers])
    assert found.slow < 0.2
    assert 0.3 < found.loud < 0.9  # four layers, each changed by its own size
    assert 0 < found.rough < 0.5
    assert found.tied == 0


@pytest.mark.parametrize("width", [4, 64])
def test_a_linear_net_has_no_roughness_at_any_width(width):
    """f = u W x with |u| = 1: the gradient is |x|, what comes out has a variance of rms(W)^2 |x|^2."""
    weight = he(width, width)
    one = layer("head", weight, role=Role.HEAD)
    size = math.sqrt(width)
    rms = float(np.sqrt((weight**2).mean()))
    found = told(
        [one], [replace(HEALTHY, gradient=size, relative_gradient=size / np.linalg.norm(weight))], std=rms * size
    )
    assert abs(found.rough) < 1e-6


def test_what_is_the_same_for_every_input_teaches_no_difference():
    layers = stack(3)
    alike = [row(one, common=1e4, contrast=1e-2) for one in layers]
    assert told(layers, alike).slow > fit.HALF["slow"]


def test_tiny_gradients_are_slow_even_if_they_differ_between_inputs():
    layers = stack(3)
    assert told(layers, [row(one, rate=1e-4) for one in layers]).slow > 5


def test_small_weights_leave_the_saddle_at_the_rate_at_which_they_change():
    """A hundredth of the weights in three layers: little comes out, but each weight changes by its own size quickly."""
    small = [dense(f"layers.{k}", std=0.003) for k in range(3)]
    usual = stack(3)
    by_size = [row(one, rate=0.3) for one in small]
    same_gradient = [
        row(one, gradient=s.gradient, common=s.common, contrast=s.contrast)
        for one, s in zip(usual, by_size, strict=True)
    ]
    assert told(small, by_size).slow < told(usual, same_gradient).slow


def test_one_layer_with_a_healthy_gradient_is_enough():
    layers = stack(3)
    found = told(layers, [row(layers[0], rate=1e-9), row(layers[1], rate=1e-9), row(layers[2])])
    assert found.slow < 0.2


def test_a_zero_weight_counts_by_the_gradient_that_it_gets():
    layers = [dense("layers.0", std=0.0), *stack(2)]
    assert layers[0].weight.load().std() == 0
    found = told(layers, [row(layers[0]), row(layers[1], rate=0.0), row(layers[2], rate=0.0)])
    assert found.slow < 0.2


@pytest.mark.parametrize(("normed", "loud"), [(True, 1.0), (False, 3.0)])
def test_a_norm_heals_a_weight_that_is_too_small(normed, loud):
    """Behind a norm the gradient goes as 1 / |W|: what looks loud is cured by one step."""
    small = dense("layers.0", std=1e-4, normed=normed)
    usual = float(np.linalg.norm(dense("layers.0").weight.load()))
    rest = stack(2)
    gradient = usual * (np.sqrt(2 / 16) / 1e-4) * 1.0
    signals = [row(small, gradient=gradient, common=1.0, contrast=4.0), *(row(one) for one in rest)]
    found = told([small, *rest], signals)
    assert (found.loud < loud) is normed


def test_a_small_vector_is_judged_by_what_it_feeds():
    token = layer("cls_token", np.full((1, 1, 16), 1e-6, np.float32), "parameter", "sso", role=Role.EMBEDDING)
    layers = stack(3)
    plain = told(layers, [row(one) for one in layers])
    assert (
        told([token, *layers], [row(token, rate=5e5, common=1.0, contrast=4.0), *map(row, layers)]).loud == plain.loud
    )


def test_a_weight_used_twice_counts_once():
    layers = stack(3)
    again = replace(layers[0], name="again", tied="layers.0")
    once, twice = (told(own, [row(one) for one in own]) for own in (layers, [*layers, again]))
    assert once == twice


@pytest.mark.parametrize("value", [math.inf, math.nan, 1e300])
def test_what_overflows_is_as_loud_as_can_be(value):
    layers = stack(3)
    found = told(layers, [row(one, gradient=value, common=value, contrast=value) for one in layers], std=math.inf)
    assert found.loud == NEVER
    assert all(math.isfinite(v) for v in (found.slow, found.rough, found.tied))


def test_units_that_stay_copies_cost_their_share_of_the_width():
    values = np.tile(he(1, 16), (16, 1))
    pairs = np.repeat(he(8, 16), 2, axis=0)
    head = dense("head", role=Role.HEAD)
    for weight, lost in ((values, 1.0), (pairs, 0.25)):
        one = layer("layers.0", weight)
        assert told([one, head], [row(one, tied=1.0), row(head)]).tied == pytest.approx(lost)


def test_copies_that_part_at_once_in_one_layer_of_many_cost_little():
    layers = stack(9)
    layers[3] = layer("layers.3", np.tile(he(1, 16), (16, 1)))
    assert told(layers, [row(one) for one in layers]).tied < 0.2


def test_channels_that_start_as_copies_still_hand_on_an_image():
    conv = layer("conv", np.tile(he(1, 9).reshape(1, 1, 3, 3), (8, 4, 1, 1)), "conv", "oikk")
    head = dense("head", role=Role.HEAD)
    assert told([conv, head], [row(conv), row(head)]).tied == 0


def test_nothing_is_told_where_no_gradient_is_known():
    layers = stack(3)
    whole = judged(layers, [Signal(forward_variance=1.0) for _ in layers])
    assert observe(whole, whole.probe) is None


def test_two_zeros_in_a_row_leave_layers_that_never_learn():
    layers, signals = [dense("stem")], []
    for k in range(6):
        layers += [dense(f"first.{k}", std=0.0), dense(f"last.{k}", std=0.0, role=Role.BRANCH_END)]
    layers.append(dense("head", role=Role.HEAD))
    signals = [row(one, rate=1.0 if one.name in ("stem", "head") else 0.0) for one in layers]
    assert told(layers, signals).idle == pytest.approx(12 / 14)


def test_a_zero_that_gets_a_gradient_wakes_what_is_around_it():
    layers = [dense("layers.0", std=0.0), *stack(4)]
    signals = [row(one, rate=1.0 if k == 0 else 0.0) for k, one in enumerate(layers)]
    assert told(layers, signals).idle == 0


def test_a_gradient_of_zero_without_a_reason_is_not_believed():
    layers = stack(4)
    assert told(layers, [row(one, rate=float(k == 3)) for k, one in enumerate(layers)]).idle == 0
    assert told(layers, [row(one, rate=float(k == 3), dead=1.0) for k, one in enumerate(layers)]).idle == 0.75


@pytest.mark.parametrize(("entropy", "rough"), [(0.05, 2.0), (0.95, 0.0)])
def test_attention_counts_where_it_has_settled(entropy, rough):
    """Masked keys may give logits of any spread; what says that a softmax has settled is its entropy."""
    layers = stack(3)
    seen = [Attending(f"{k}.attention", entropy, 50.0) for k in range(2)]
    whole = judged(layers, [row(one) for one in layers], seen)
    assert observe(whole, whole.probe).rough == pytest.approx(rough, abs=0.5)


def test_copies_matter_less_where_a_path_goes_around_them():
    values = np.tile(he(1, 16), (16, 1))
    others = [dense(f"layers.{k}", depth=(k + 2, k + 2)) for k in range(5)]
    for first, lost in ((1, 1.0), (0, 1 / 6)):
        rest = [replace(one, depth=(one.depth[0], one.depth[1] - 1 + first)) for one in others]
        one = layer("tied", values, depth=(1, 1))
        signals = [row(one, tied=1.0), *(row(other) for other in rest)]
        assert told([one, *rest], signals).tied == pytest.approx(lost, abs=0.01)
