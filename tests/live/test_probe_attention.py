"""What a mask hides counts neither as spread of the logits nor as lost entropy."""

import math

import pytest

torch = pytest.importorskip("torch")

from initaudit.live.probe.measures import attention  # noqa: E402  imports torch


@pytest.mark.parametrize("hidden", [-100.0, -1e9, -math.inf])
def test_a_mask_hides_keys_whatever_it_subtracts(hidden):
    logits = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    masked = logits + torch.ones(8, 8).triu(1) * (0.0 if math.isinf(hidden) else hidden)
    if math.isinf(hidden):
        masked = logits.masked_fill(torch.ones(8, 8).triu(1) > 0, hidden)
    found = attention([masked], -1)
    assert found.spread == pytest.approx(1, abs=0.25)
    assert found.entropy > 0.6
    assert attention([logits], -1).spread == pytest.approx(1, abs=0.25)


def test_large_logits_are_no_mask():
    logits = 30 * torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(0))
    found = attention([logits], -1)
    assert found.spread > 20
    assert found.entropy < 0.2


def test_one_key_says_nothing():
    assert attention([torch.randn(2, 3, 1)], -1) is None
    assert attention([torch.full((2, 3, 4), -math.inf)], -1) is None
