import numpy as np
import pytest

from initaudit.rules.unexpected_variance import unexpected_variance
from initaudit.types import Evidence, Role, Severity, State
from tests.build import audit, he, layer, rng


def normal(std: float, n: int = 256) -> np.ndarray:
    return (rng(5).standard_normal((n, n)) * std).astype(np.float32)


@pytest.mark.parametrize("std", [1e-4, 1.0])
def test_far_off_is_a_warning_with_the_factor(std):
    (finding,) = unexpected_variance(audit(layer("fc", normal(std))))
    assert finding.severity is Severity.WARNING
    assert finding.evidence["factor"] == pytest.approx(std / np.sqrt(2 / 256), rel=0.02)


def test_he_and_every_known_scheme_are_silent():
    bound = 1 / 16
    torch_default = rng().uniform(-bound, bound, (256, 256)).astype(np.float32)
    for w in (he(256, 256), normal(0.02), torch_default):
        assert not list(unexpected_variance(audit(layer("fc", w))))


def test_a_slip_is_named_by_its_number():
    (finding,) = unexpected_variance(audit(layer("fc", normal(2 / 256))))
    assert "variance 2/fan_in passed where a std is meant" in finding.message


@pytest.mark.parametrize(
    "fields",
    [
        {"normed": True},
        {"role": Role.GATE},
        {"role": Role.BRANCH_END},
        {"role": Role.OTHER, "activation": None, "role_evidence": Evidence.ASSUMED, "fan_evidence": Evidence.ASSUMED},
    ],
)
def test_what_the_graph_may_cancel_is_only_told(fields):
    found = list(unexpected_variance(audit(layer("fc", normal(3e-4), **fields))))
    assert {f.severity for f in found} <= {Severity.INFO}
    assert next(unexpected_variance(audit(layer("fc", normal(3e-4))))).severity is Severity.WARNING


def test_trained_models_small_tensors_and_moderate_factors():
    assert not list(unexpected_variance(audit(layer("fc", normal(1e-4)), state=State.TRAINED)))
    assert not list(unexpected_variance(audit(layer("fc", normal(1e-4, n=8)))))
    (finding,) = unexpected_variance(audit(layer("fc", normal(0.0884 / 4.2))))
    assert finding.severity is Severity.INFO


def test_a_cause_is_only_named_within_sampling_error():
    (finding,) = unexpected_variance(audit(layer("fc", normal(2 / 256 * 1.15))))
    assert "passed where" not in finding.message


def test_far_from_he_but_near_xavier_is_no_warning():
    wide = (rng(5).standard_normal((10000, 1)) * 0.033).astype(np.float32)
    found = list(unexpected_variance(audit(layer("fc", wide))))
    assert {f.severity for f in found} <= {Severity.INFO}
