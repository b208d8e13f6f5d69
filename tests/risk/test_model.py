"""The calibrated model: a probability that never falls when a feature grows."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from initaudit.risk import fit, model
from initaudit.risk.features import NAMES, NEVER, Features
from initaudit.types import Severity

DECADES = st.floats(-NEVER, NEVER)
FEATURES = st.builds(Features, slow=DECADES, loud=DECADES, rough=DECADES, tied=st.floats(0, 1), idle=st.floats(0, 1))
HEALTHY = Features(-1.0, 1.0, 0.0, 0.0, 0.0)


@given(FEATURES, st.sampled_from(NAMES), st.floats(0, NEVER))
def test_risk_is_a_probability_that_no_feature_lowers(features, name, more):
    worse = replace(features, **{name: getattr(features, name) + more})
    assert 0 <= model.risk(features) <= model.risk(worse) <= 1
    assert model.risk(features) >= model.alone(name, getattr(features, name)) - 1e-12


def test_a_healthy_net_is_far_from_a_warning():
    assert model.risk(HEALTHY) < fit.WARNING / 4


@pytest.mark.parametrize("name", NAMES)
def test_each_feature_alone_can_make_a_net_fail(name):
    worst = replace(HEALTHY, **{name: 1.0 if name in ("tied", "idle") else NEVER})
    assert model.severity(model.risk(worst)) is Severity.ERROR


@pytest.mark.parametrize("name", NAMES)
def test_what_is_bearable_is_just_below_a_warning(name):
    edge = model.bearable(name)
    assert model.severity(model.alone(name, edge - 0.01)) is Severity.INFO
    assert model.severity(model.alone(name, edge + 0.01)) is Severity.WARNING


def test_the_fit_means_what_the_features_mean():
    """A rate of 1e-3 to 1 and some thousands of steps are what anybody has: halves lie near these."""
    assert 3 < fit.HALF["slow"] < 5
    assert 2.5 < fit.HALF["loud"] < 3.5
    assert 1 < fit.HALF["rough"] < 3
    assert 0.3 < fit.HALF["tied"] < 0.9
    assert 0.3 < fit.HALF["idle"] < 0.9
    assert all(slope > 0 for slope in fit.SLOPE.values())
    assert 0 < fit.BASE < fit.WARNING < fit.ERROR < 1
