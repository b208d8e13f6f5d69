"""Hermite coefficients against quadrature over pairs, and their tails against closed forms."""

import math

import numpy as np
import pytest

from initaudit import activations
from initaudit.quadrature import expectation, pair_expectation
from initaudit.theory.bending import bender, bent

NAMES = ["relu", "leaky_relu", "tanh", "sigmoid", "gelu", "silu", "selu", "softplus", "hardtanh", "softshrink", "relu6"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("mean", "q"), [(0.0, 1.0), (0.7, 0.3), (-1.5, 4.0)])
def test_covariance(name, mean, q):
    row = activations.get(name)
    made = bent(bender(name), mean, q)
    rho = np.array([-0.6, 0.0, 0.3, 0.9])
    found, _ = made.at(rho)
    first = row.mean(q, mean)
    assert made.mean == pytest.approx(first, rel=0.02, abs=5e-3)
    whole = row.mean_square(q, mean) - first**2
    for r, value in zip(rho, found, strict=True):
        wanted = pair_expectation(row, r, mean=mean, variance=q, kinks=row.kinks(**row.params)) - first**2
        assert value == pytest.approx(wanted, rel=0.04, abs=0.01 * whole)


@pytest.mark.parametrize("name", ["relu", "tanh", "gelu", "hardtanh", "sigmoid"])
@pytest.mark.parametrize("gap", [1e-3, 1e-8, 1e-15, 1e-40])
def test_what_is_apart_by_a_little_stays_so(name, gap):
    row = activations.get(name)
    made = bent(bender(name), 0.0, 1.0)
    one = np.array([1.0])
    value, _ = made.gaps(one, one - gap, one * gap)
    assert value[0] == pytest.approx(gap * row.slope_square(), rel=0.1)


@pytest.mark.parametrize("gap", [1e-2, 1e-4, 1e-8, 1e-14])
def test_slopes_of_a_kink(gap):
    """E[f'(u) f'(v)] of relu is (pi - arccos rho) / 2 pi (Cho and Saul 2009): its gap goes with the root of 1 - rho."""
    made = bent(bender("relu"), 0.0, 1.0)
    one = np.array([1.0])
    _, slope = made.gaps(one, one - gap, one * gap)
    assert slope[0] == pytest.approx(math.sqrt(2 * gap) / (2 * math.pi), rel=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_slopes(name):
    row = activations.get(name)
    _, slope = bent(bender(name), 0.4, 0.8).at(np.array([0.0, 0.5]))
    kinks = row.kinks(**row.params)
    first = expectation(row.slope, mean=0.4, variance=0.8, kinks=kinks)
    assert slope[0] / 0.8 == pytest.approx(first**2, rel=0.06)
    step = 1e-3
    low, high = (pair_expectation(row, 0.5 + s, mean=0.4, variance=0.8, kinks=kinks) for s in (-step, step))
    assert slope[1] == pytest.approx((high - low) / (2 * step), rel=0.06)


def test_a_constant_input_has_a_slope_all_the_same():
    made = bent(bender("tanh"), 0.5, 0.0)
    assert made.mean == pytest.approx(math.tanh(0.5))
    assert made.value == pytest.approx((1 - math.tanh(0.5) ** 2) ** 2)


def test_negative_correlations_and_gaps():
    made = bent(bender("relu"), 0.0, 1.0)
    rho, base = np.array([-0.01, -1e-5]), np.array([0.002, -1e-3])
    value, slope = made.gaps(rho, base, rho - base)
    high, _ = made.at(rho)
    low, _ = made.at(base)
    assert np.isfinite(slope).all()
    assert value == pytest.approx(high - low, rel=1e-6, abs=1e-12)


def test_scaled_and_mirrored():
    plain, other = bent(bender("relu"), 0.3, 1.0), bent(bender("relu", (("mirrored", 1.0), ("scale", 2.0))), -0.3, 1.0)
    assert other.mean == pytest.approx(2 * plain.mean, rel=1e-3)
    assert bender("softmax") is None
