from __future__ import annotations

import numpy as np
import pytest

from initaudit.layers.groups import by_name, effective
from tests.layers.flat import stored, tensor

torch = pytest.importorskip("torch")


def _made(module: object, transposed: bool = False) -> tuple[np.ndarray, bool]:
    (group,) = (g for g in by_name(stored(module.state_dict())) if "weight" in effective(g.tensors, transposed))
    found = effective(group.tensors, transposed)["weight"]
    return found.weight.load(), found.known


@pytest.mark.parametrize("dim", [0, 1, None])
@pytest.mark.parametrize("new", [True, False])
def test_weight_norm_gives_the_weight_that_torch_computes(new: bool, dim: int | None) -> None:
    wrap = torch.nn.utils.parametrizations.weight_norm if new else torch.nn.utils.weight_norm
    module = wrap(torch.nn.Conv1d(5, 7, 3), dim=dim)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.endswith(("_g", "original0")):
                p.mul_(1.7)
        module(torch.zeros(1, 5, 9))
    values, known = _made(module)
    assert known
    np.testing.assert_allclose(values, module.weight.detach().numpy(), rtol=1e-5)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("cls", ["Conv2d", "ConvTranspose2d"])
def test_spectral_norm_gives_the_weight_that_torch_computes(new: bool, cls: str) -> None:
    wrap = torch.nn.utils.parametrizations.spectral_norm if new else torch.nn.utils.spectral_norm
    module = wrap(getattr(torch.nn, cls)(4, 6, 3))
    with torch.no_grad():
        for _ in range(200):  # one power iteration each
            module(torch.zeros(1, 4, 9, 9))
        module.eval()(torch.zeros(1, 4, 9, 9))
    values, known = _made(module, transposed="Transpose" in cls)
    assert known
    np.testing.assert_allclose(values, module.weight.detach().numpy(), rtol=1e-4)


def test_spectral_norm_does_not_trust_vectors_that_are_still_random() -> None:
    module = torch.nn.utils.spectral_norm(torch.nn.Linear(64, 64))  # u and v are drawn, and no step has been made
    values, _ = _made(module)
    assert 0.8 < np.linalg.norm(values, 2) < 1.2


def test_pruned_weight_is_judged_under_its_mask() -> None:
    from torch.nn.utils import prune

    module = prune.random_unstructured(torch.nn.Linear(8, 8), "weight", 0.5)
    values, _ = _made(module)
    assert (values == 0).sum() == 32
    np.testing.assert_array_equal(values, module.weight.detach().numpy())


def test_an_unknown_parametrization_is_said_to_be_unknown() -> None:
    found = effective({"weight@original": tensor("p", 4, 4)})["weight"]
    assert not found.known
    assert "not known" in found.reason


def test_a_magnitude_of_another_shape_is_no_weight_norm() -> None:
    found = effective({"weight_g": tensor("g", 3), "weight_v": tensor("v", 4, 5)})["weight"]
    assert not found.known


def test_nothing_is_read_before_the_values_are_asked_for() -> None:
    def refuse() -> np.ndarray:
        raise AssertionError("read too early")

    from dataclasses import replace

    g, v = replace(tensor("g", 4, 1), load=refuse), replace(tensor("v", 4, 5), load=refuse)
    found = effective({"weight_g": g, "weight_v": v})["weight"]
    assert found.weight.shape == (4, 5)
    assert found.weight.identity != v.identity
    with pytest.raises(AssertionError):
        found.weight.load()
