"""The fit of risk sees no pair of the family that it judges, and its scores are what they are called."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

from benchmarks import trainability_fit as fits
from initaudit.risk.features import NAMES


def drawn(pairs: int, seed: int = 0):
    """Features of which one above its physical limit makes a net fail."""
    rng = np.random.default_rng(seed)
    limit = np.array([fits.PRIOR_HALF[name] for name in NAMES])
    x = rng.normal(0, 0.3, (pairs, len(NAMES))) * limit
    fails = rng.random(pairs) < 0.4
    x[np.flatnonzero(fails), rng.integers(0, len(NAMES), fails.sum())] += 2 * limit.max()
    return x, fails


def test_a_fit_finds_what_makes_nets_fail_and_never_slopes_down():
    x, fails = drawn(200)
    fit = fits.fitted(x, fails)
    assert (fit.slope > 0).all()
    assert fits.auc(fit.risk(x), fails) > 0.99


def test_labels_against_all_sense_cannot_turn_a_slope():
    x, fails = drawn(200)
    assert (fits.fitted(x, ~fails).slope > 0).all()


def test_no_pair_of_a_family_is_seen_when_it_is_judged():
    families = ["a", "b", "c"] * 20
    fails = np.arange(60) % 2 == 0
    clear = np.arange(60) % 7 != 0
    asked = []

    def judge(on):
        asked.append(np.flatnonzero(on))
        return lambda places: np.full(int(places.sum()), 0.4)

    told = fits.held_out(families, clear, fails, judge, lambda risk, fails: 0.5)
    assert not told.unhealthy.any()
    assert len(asked) == 3
    for family, on in zip("abc", asked, strict=True):
        assert {families[k] for k in on} == set("abc") - {family}
        assert clear[on].all()


def test_auc_counts_pairs_and_its_interval_holds_it():
    risk, fails = np.array([0.9, 0.5, 0.5, 0.1]), np.array([True, True, False, False])
    assert fits.auc(risk, fails) == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    low, high = fits.interval(risk, fails)
    assert low <= fits.auc(risk, fails) <= high


@pytest.mark.parametrize("level", ["warning", "error"])
def test_a_threshold_lets_few_healthy_nets_be_called_ill(level):
    rng = np.random.default_rng(1)
    risk, fails = rng.random(500), np.zeros(500, bool)
    cut = fits.threshold(risk, fails, level)
    assert (risk >= cut).mean() <= fits.ALARMS[level]
    assert fits.threshold(risk / 100, fails, level) == fits.LEAST[level]


def test_the_most_accurate_threshold_is():
    risk, fails = np.array([0.1, 0.2, 0.3, 0.4]), np.array([False, False, True, True])
    assert 0.2 < fits.most_accurate(risk, fails) <= 0.3
