"""Moments: stable far from zero, right for known laws, mergeable in any cut."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from initaudit.stats import measure
from initaudit.stats.moments import Moments, moments
from tests.stats.reference import moments as exact
from tests.stats.reference import tensor


def of(x):
    return moments(x, float(x.min()), float(x.max())) if x.size else Moments()


@given(
    st.integers(0, 2**32),
    st.lists(st.integers(0, 3000), min_size=1, max_size=6),
    st.sampled_from([0, 1, -50, 1e4]),
    st.sampled_from([1e-2, 1, 100]),
    st.sampled_from(["f4", "f8"]),
)
@settings(max_examples=100, deadline=None)
def test_merging_any_cut_gives_the_moments_of_the_whole(seed, sizes, mean, std, dtype):
    rng = np.random.default_rng(seed)
    parts = [(rng.standard_normal(n) * std + mean * rng.random()).astype(dtype) for n in sizes]
    whole = np.concatenate(parts)
    merged = Moments()
    for part in parts:
        merged = merged.merge(of(part))
    other = Moments()
    for part in reversed(parts):
        other = of(part).merge(other)
    wanted = exact(whole)
    for found in (merged, other):
        assert found.count == whole.size
        if whole.size > 1:
            assert found.mean == pytest.approx(wanted[0], rel=1e-6, abs=1e-6 * std)
            assert found.variance == pytest.approx(wanted[1], rel=1e-5)
            assert found.kurtosis == pytest.approx(wanted[2], rel=1e-5)


def test_merging_is_associative():
    rng = np.random.default_rng(1)
    a, b, c = (of(rng.standard_normal(n) * s + m) for n, s, m in ((5, 1, 0), (900, 3, 100), (77, 1e-3, -4)))
    left, right = a.merge(b).merge(c), a.merge(b.merge(c))
    for name in ("count", "mean", "m2", "m3", "m4"):
        assert getattr(left, name) == pytest.approx(getattr(right, name), rel=1e-12)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_far_from_zero(dtype):
    w = (np.random.default_rng(0).standard_normal((1000, 1000)) * 1e-2 + 1e4).astype(dtype)
    stats = measure(tensor(w), "oi")
    mean, variance, kurtosis = exact(w)
    assert stats.mean == pytest.approx(mean, rel=1e-12)
    assert stats.variance == pytest.approx(variance, rel=1e-6)
    assert stats.kurtosis == pytest.approx(kurtosis, rel=1e-6)


@pytest.mark.parametrize("scale", [1e-44, 1e-40, 1e-30, 1e-12, 1e-6, 1e9, 1e20, 1e37])
def test_over_the_whole_range_of_float32(scale):
    w = (np.random.default_rng(0).uniform(-1, 1, (300, 400)) * scale).astype("f4")
    stats = measure(tensor(w), "oi")
    _, variance, kurtosis = exact(w)
    assert stats.variance == pytest.approx(variance, rel=1e-5)
    assert stats.kurtosis == pytest.approx(kurtosis, rel=1e-5)
    np.testing.assert_allclose(stats.rows.square, (w.astype("f8") ** 2).sum(1), rtol=1e-5)


def test_one_faint_unit_beside_strong_ones_keeps_its_norm():
    w = np.random.default_rng(0).standard_normal((300, 400)).astype("f4")
    w[7] *= np.float32(1e-25)
    w[:, 9] *= np.float32(1e-22)
    stats = measure(tensor(w), "oi")
    np.testing.assert_allclose(stats.rows.square, (w.astype("f8") ** 2).sum(1), rtol=1e-5)
    np.testing.assert_allclose(stats.columns.square, (w.astype("f8") ** 2).sum(0), rtol=1e-5)


def test_kurtosis_of_the_laws_that_initializers_draw_from():
    rng = np.random.default_rng(0)
    n = 1_000_000
    normal = rng.standard_normal(n)
    truncated = normal[abs(normal) < 2]
    for law, kurtosis in ((normal, 3.0), (rng.uniform(-1, 1, n), 1.8), (truncated, 2.3655), (rng.laplace(size=n), 6.0)):
        stats = measure(tensor((law * 0.02).astype("f4")), "o")
        error = 8 * math.sqrt(96 / n) if kurtosis > 3 else 6 * math.sqrt(24 / n)
        assert stats.kurtosis == pytest.approx(kurtosis, abs=error * (4 if kurtosis > 3 else 1))


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 0.02, 1e10])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_exponent_span_of_a_normal_does_not_depend_on_its_scale(scale, dtype):
    # log2 of the ratio of the 99 % and 1 % quantiles of |z|: 2.5758 / 0.012533
    for size in (200_000, 1_500_000):
        w = (np.random.default_rng(3).standard_normal(size) * scale).astype(dtype)
        assert measure(tensor(w), "o").exponent_span == pytest.approx(7.683, abs=0.15)


def test_exponent_span_tells_raw_memory_and_ignores_zeros():
    rng = np.random.default_rng(0)
    raw = rng.integers(0, 2**32, (500, 500), dtype=np.uint32).view("f4")
    assert measure(tensor(raw), "oi").exponent_span > 200
    w = rng.standard_normal((500, 500)).astype("f4")
    w[:, ::2] = 0
    assert measure(tensor(w), "oi").exponent_span == pytest.approx(7.683, abs=0.15)
    assert measure(tensor(np.sign(w)), "oi").exponent_span < 0.2
