import numpy as np
import pytest

from initaudit.rules.unexpected_variance import unexpected_variance
from initaudit.types import Severity, State
from tests.build import audit, he, layer, rng


def normal(std: float, n: int = 256) -> np.ndarray:
    return (rng(5).standard_normal((n, n)) * std).astype(np.float32)


@pytest.mark.parametrize("std", [1e-4, 1.0])
def test_far_off_is_told_with_the_factor_and_never_judged(std):
    (finding,) = unexpected_variance(audit(layer("fc", normal(std))))
    assert (finding.severity, finding.capped) == (Severity.INFO, None)
    assert finding.evidence["factor"] == pytest.approx(std / np.sqrt(2 / 256), rel=0.02)


def test_he_and_every_known_scheme_are_silent():
    bound = 1 / 16
    torch_default = rng().uniform(-bound, bound, (256, 256)).astype(np.float32)
    for w in (he(256, 256), normal(0.02), torch_default):
        assert not list(unexpected_variance(audit(layer("fc", w))))


def test_a_slip_is_named_by_its_number():
    (finding,) = unexpected_variance(audit(layer("fc", normal(2 / 256))))
    assert "variance 2/fan_in passed where a std is meant" in finding.message


def test_a_norm_that_cancels_it_is_named():
    (finding,) = unexpected_variance(audit(layer("fc", normal(3e-4), normed=True)))
    assert "a norm follows and cancels it" in finding.message
    (finding,) = unexpected_variance(audit(layer("fc", normal(3e-4))))
    assert "norm" not in finding.message


def test_trained_models_and_small_tensors_are_silent():
    assert not list(unexpected_variance(audit(layer("fc", normal(1e-4)), state=State.TRAINED)))
    assert not list(unexpected_variance(audit(layer("fc", normal(1e-4, n=8)))))


def test_a_cause_is_only_named_within_sampling_error():
    (finding,) = unexpected_variance(audit(layer("fc", normal(2 / 256 * 1.15))))
    assert "passed where" not in finding.message


@pytest.mark.parametrize(("factor", "told"), [(1.95, False), (2.05, True)])
def test_the_bound_is_a_factor_of_two(factor, told):
    w = normal(1.0)
    w *= np.float32(factor * np.sqrt(2 / 256) / w.std())
    assert bool(list(unexpected_variance(audit(layer("fc", w))))) is told


def test_far_from_he_but_near_xavier_is_silent():
    wide = (rng(5).standard_normal((10000, 1)) * 0.015).astype(np.float32)
    assert not list(unexpected_variance(audit(layer("fc", wide))))
