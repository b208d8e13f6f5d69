from __future__ import annotations

import math

import pytest

from initaudit.layers.fans import fans


@pytest.mark.parametrize(
    ("kind", "axes", "shape", "more", "expected"),
    [
        ("linear", "oi", (30, 20), {}, (20, 30)),
        ("linear", "io", (20, 30), {}, (20, 30)),
        ("linear", "oi", (90, 30), {"parts": 3}, (30, 30)),
        ("linear", "sio", (8, 20, 30), {}, (20, 30)),
        ("linear", "soi", (8, 60, 20), {"parts": 2}, (20, 30)),
        ("conv", "oikk", (64, 3, 7, 7), {}, (147, 3136)),
        ("conv", "oikk", (128, 4, 3, 3), {"groups": 32}, (36, 36)),
        ("conv", "kkio", (3, 3, 16, 32), {}, (144, 288)),
        ("conv_transpose", "iokk", (64, 32, 4, 4), {"stride": (2, 2)}, (256, 512)),
        ("conv_transpose", "iok", (6, 2, 3), {"stride": (2,), "groups": 3}, (3, 6)),
        ("embedding", "io", (1000, 64), {}, (1, 64)),
        ("lstm", "oi", (128, 16), {"parts": 4}, (16, 32)),
        ("bilinear", "oik", (5, 3, 4), {}, (12, 20)),
        ("norm", "o", (64,), {}, (None, None)),
        ("bias", "o", (64,), {}, (None, None)),
        ("parameter", "oi", (4, 5), {}, (None, None)),
        ("prelu", "o", (1,), {}, (None, None)),
    ],
)
def test_fans_of_every_kind(kind: str, axes: str, shape: tuple[int, ...], more: dict, expected: tuple) -> None:
    assert fans(kind, axes, shape, **more) == expected


def test_fan_in_is_the_mean_number_of_inputs_that_meet_in_one_output_of_a_transposed_conv() -> None:
    import torch

    conv = torch.nn.ConvTranspose2d(6, 4, 5, stride=3, groups=2, bias=False)
    torch.nn.init.ones_(conv.weight)
    met = conv(torch.ones(1, 6, 40, 40)).detach()[0, 0, 15:-15, 15:-15]  # inside, whole periods of the stride
    met = met[: met.shape[0] // 3 * 3, : met.shape[1] // 3 * 3]
    fan_in, fan_out = fans("conv_transpose", "iokk", tuple(conv.weight.shape), 2, (3, 3))
    assert fan_in is not None and math.isclose(float(met.mean()), fan_in, rel_tol=1e-5)
    assert fan_out == 4 / 2 * 25
