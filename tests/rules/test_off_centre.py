import numpy as np
import pytest

from initaudit.rules.off_centre import off_centre
from initaudit.types import Role, Severity, State
from tests.build import audit, he, layer, rng


def test_values_from_torch_rand_are_off_centre():
    (finding,) = off_centre(audit(layer("fc", rng().random((64, 64)).astype(np.float32))))
    assert finding.severity is Severity.INFO
    assert finding.evidence["ratio"] == pytest.approx(np.sqrt(3), rel=0.02)


@pytest.mark.parametrize(("shift", "found"), [(0.45, False), (0.55, True)])
def test_the_bound_is_half_a_std(shift, found):
    w = he(64, 64)
    w += np.float32(shift * w.std() - w.mean())
    assert bool(list(off_centre(audit(layer("fc", w))))) is found


def test_a_centred_draw_a_small_tensor_a_gate_and_a_trained_model_are_silent():
    w = rng().random((64, 64)).astype(np.float32)
    assert not list(off_centre(audit(layer("fc", he(64, 64)))))
    assert not list(off_centre(audit(layer("fc", w[:8, :8]))))
    assert not list(off_centre(audit(layer("fc", w, role=Role.GATE))))
    assert not list(off_centre(audit(layer("fc", w), state=State.TRAINED)))
    assert not list(off_centre(audit(layer("fc", np.ones((64, 64), np.float32)))))
    assert not list(off_centre(audit(layer("score", w.reshape(1, -1)))))
