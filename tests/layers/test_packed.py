"""Weights that quantisers packed, and the layouts of other frameworks, as bare checkpoints hold them."""

from __future__ import annotations

import numpy as np
import pytest

from initaudit.layers import infer
from initaudit.types import Evidence, Model, Tensor


def stored(**tensors: tuple[str, tuple[int, ...]]) -> Model:
    made = [
        Tensor(name, shape, dtype, lambda shape=shape: np.zeros(shape, np.float32))  # type: ignore[misc]
        for name, (dtype, shape) in tensors.items()
    ]
    return Model("m.safetensors", "safetensors", "", tuple(made))


@pytest.mark.parametrize(
    ("weight", "dtype", "beside"),
    [
        ("a.qweight", "int32", ("a.qzeros", "a.scales", "a.g_idx")),
        ("a.weight", "uint8", ("a.weight.absmax", "a.weight.quant_map", "a.weight.nested_absmax")),
        ("a.weight", "int8", ("a.SCB", "a.weight_format")),
        ("a.weight", "uint32", ("a.scales", "a.biases")),
        ("a.up_blocks", "uint8", ("a.up_scales",)),
    ],
)
def test_packed_weights_are_told_and_their_scales_are_no_parameters(
    weight: str, dtype: str, beside: tuple[str, ...]
) -> None:
    tensors = {weight: (dtype, (64, 8)), **dict.fromkeys(beside, ("float32", (64, 2)))}
    found, skipped = infer(stored(**tensors, **{"norm.weight": ("float32", (64,))}))
    assert [a.name for a in found] == ["norm"]
    assert {s.name: s.parameter for s in skipped} == {weight: True, **dict.fromkeys(beside, False)}


def test_nothing_is_expected_of_small_floats_without_their_scale() -> None:
    model = stored(**{"a.weight": ("float8_e4m3fn", (64, 64)), "a.weight_scale_inv": ("float32", (1, 1))})
    (a,), (skip,) = infer(model)
    assert (a.weight.name, a.fan_in, skip.name) == ("a.weight", None, "a.weight_scale_inv")


def test_a_float_weight_keeps_the_scale_beside_it() -> None:
    found, skipped = infer(stored(**{"a.weight": ("float32", (64, 64)), "a.scales": ("float32", (64,))}))
    assert {a.weight.name for a in found} == {"a.weight", "a.scales"}
    assert not skipped


def test_kernels_before_channels_are_taken_so_and_never_certain() -> None:
    found, _ = infer(stored(**{"c.weight": ("float32", (64, 3, 3, 32)), "c.bias": ("float32", (64,))}))
    assert (found[0].axes, found[0].fan_in, found[0].fan_out) == ("okki", 288, 576)
    assert found[0].fan_evidence is Evidence.ASSUMED


@pytest.mark.parametrize(
    ("name", "shape", "bias"),
    [("query", (64, 4, 16), (4, 16)), ("out", (4, 16, 64), (64,)), ("key", (64, 4, 16), None)],
)
def test_heads_have_axes_of_their_own(name: str, shape: tuple[int, ...], bias: tuple[int, ...] | None) -> None:
    tensors = {f"attn.{name}.kernel": ("float32", shape)}
    if bias:
        tensors[f"attn.{name}.bias"] = ("float32", bias)
    found, _ = infer(stored(**tensors))
    assert (found[0].kind, found[0].fan_in, found[0].fan_out) == ("linear", 64, 64)
    assert found[0].fan_evidence is Evidence.ASSUMED
