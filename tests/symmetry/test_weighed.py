"""A few terms settle most rows: the rest and the whole agree with all terms looked at, one row after the other."""

import itertools

import numpy as np
import pytest

from initaudit.symmetry import weighed
from initaudit.symmetry.bounds import SLACK
from initaudit.symmetry.weighed import Weighed

KINDS = {"zero": (0, 0), "above": (0, np.inf), "below": (-np.inf, 0), "any": (-np.inf, np.inf), "one": (0.5, 0.5)}


def plain(w, moved, low, high):
    """Bounds of one row, term by term, the sum of sizes, and whether any term can be below zero or above."""
    least = most = size = 0.0
    below = above = False
    for weight, gone, a, b in zip(w.tolist(), moved.tolist(), low.tolist(), high.tolist(), strict=True):
        if (gone or not np.isfinite(weight)) and (a, b) != (0, 0):
            return -np.inf, np.inf, 0.0, True, True
        if gone or not np.isfinite(weight) or not weight:
            continue
        ends = sorted(v for v in (weight * a, weight * b))
        least, most = least + ends[0], most + ends[1]
        below, above = below or ends[0] < 0, above or ends[1] > 0
        size += abs(weight) * max([abs(v) for v in (a, b) if np.isfinite(v)], default=0.0)
    return least, most, size, below, above


def drawn(rng, kinds, shape):
    """Weights with zeros, and bounds of what comes in."""
    stack, _, terms = shape
    w = (rng.integers(-8, 9, shape) / 8).astype(np.float32) * (rng.random(shape) < rng.choice([0.05, 0.5, 1]))
    own = [KINDS[k] for k in kinds]
    ends = np.array(own)[rng.integers(0, len(own), (stack, terms))]
    return w, ends[..., 0].copy(), ends[..., 1].copy()


@pytest.mark.parametrize("kinds", [*itertools.combinations(KINDS, 1), *itertools.combinations(KINDS, 2), tuple(KINDS)])
@pytest.mark.parametrize("look", [1, 32])
def test_bounds_and_zeros_agree_with_all_terms(kinds, look, monkeypatch):
    monkeypatch.setattr(weighed, "_LOOK", look)
    monkeypatch.setattr(weighed, "_CHUNK", 24)
    rng = np.random.default_rng(len(kinds) * look)
    for shape in ((1, 5, 40), (3, 4, 9), (40, 1, 3)):
        w, low, high = drawn(rng, kinds, shape)
        moved = rng.random(shape) < 0.05
        if shape[0] == 3:
            moved, w[0, 0, 0] = np.zeros((1, 1, 1), bool), np.nan
        made = Weighed(lambda w=w: w, moved, low, high, shape[1])
        least, most = made.bounds()
        vary, live = rng.random(low.shape) < 0.2, rng.random(shape[:2]) < 0.5
        some = (w != 0) | moved
        assert np.array_equal(made.still(vary), ~(some & vary[:, None]).any(2))
        assert np.array_equal(made.back(live), (some & live[:, :, None]).any(1))
        for s, r in np.ndindex(shape[:2]):
            a, b, size, below, above = plain(w[s, r], np.broadcast_to(moved, shape)[s, r], low[s], high[s])
            assert a - SLACK * size - 1e-12 <= least[s, r] <= a + 1e-12 or a == least[s, r]
            assert b + SLACK * size + 1e-12 >= most[s, r] >= b - 1e-12 or b == most[s, r]
            assert below or least[s, r] >= 0  # what can switch a rectified unit on must not come from slack
            assert above or most[s, r] <= 0


def test_few_terms_are_looked_at_where_they_settle_all():
    w = np.random.default_rng(0).standard_normal((1, 50, 4000)).astype(np.float32)
    seen = []

    class Watched(np.ndarray):
        def __getitem__(self, index):
            found = super().__getitem__(index)
            seen.append(found.size)
            return found

    low, high = np.zeros((1, 4000)), np.full((1, 4000), np.inf)
    made = Weighed(lambda: w.view(Watched), np.zeros((1, 1, 1), bool), low, high, 50)
    least, most = made.bounds()
    assert np.isneginf(least).all()
    assert np.isposinf(most).all()
    assert made.back(np.ones((1, 50), bool)).all()
    assert not made.still(np.ones((1, 4000), bool)).any()
    assert sum(seen) < w.size
