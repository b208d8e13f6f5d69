from __future__ import annotations

import pytest

from initaudit.layers.blocks import Blocks
from initaudit.types import Evidence

RESNET = ("norm1", "conv1", "norm2", "conv2", "conv_shortcut")
ATTENTION = ("group_norm", "to_q", "to_out.0")


def paths(*steps: str) -> list[str]:
    return [f"{s}.{p}" for s in steps for p in (RESNET if ".resnets." in s else ATTENTION)]


UNET = [
    *paths("down_blocks.0.resnets.0", "down_blocks.0.resnets.1"),
    *paths("down_blocks.1.resnets.0", "down_blocks.1.attentions.0"),
    *paths("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    *paths("up_blocks.0.resnets.0", "up_blocks.0.attentions.0", "up_blocks.1.resnets.0"),
    "conv_in", "conv_norm_out", "conv_out", "down_blocks.0.downsamplers.0.conv", "up_blocks.0.upsamplers.0.conv",
]  # fmt: skip


def nothing(key: str, path: str) -> str | None:
    return None


@pytest.mark.parametrize("root", ["", "unet."])
@pytest.mark.parametrize(
    ("path", "activation"),
    [
        ("conv_in", "silu"),
        ("down_blocks.0.resnets.0.conv2", "silu"),
        ("down_blocks.0.resnets.1.conv2", None),  # the sampler takes it
        ("down_blocks.0.resnets.1.conv_shortcut", None),
        ("down_blocks.0.downsamplers.0.conv", "silu"),
        ("down_blocks.1.resnets.0.conv2", None),  # the attention does
        ("down_blocks.1.attentions.0.to_out.0", "silu"),
        ("mid_block.resnets.0.conv2", None),
        ("mid_block.attentions.0.to_out.0", "silu"),
        ("mid_block.resnets.1.conv2", "silu"),
        ("up_blocks.0.attentions.0.to_out.0", None),
        ("up_blocks.1.resnets.0.conv2", "silu"),
    ],
)
def test_the_blocks_tell_what_runs_next(root: str, path: str, activation: str | None) -> None:
    found = Blocks(root + p for p in UNET).read(root + path, nothing)
    assert found is not None
    assert (found.activation, found.evidence) == (activation, Evidence.NAMED)


def test_the_configuration_names_the_activation() -> None:
    found = Blocks(UNET).read("conv_in", lambda key, path: "mish")
    assert found is not None
    assert found.activation == "mish"


@pytest.mark.parametrize(
    "more",
    ["down_blocks.0.motion_modules.0.proj_in", "mid_block.temp_convs.0.conv1.0", "mid_block.resnets.0.norm1.linear"],
)
def test_blocks_with_parts_of_another_kind_say_nothing(more: str) -> None:
    assert Blocks([*UNET, more]).read("conv_in", nothing) is None


def test_nothing_is_said_of_what_is_no_end_or_no_such_network() -> None:
    assert Blocks(UNET).read("down_blocks.0.resnets.0.conv1", nothing) is None
    assert Blocks(UNET).read("head", nothing) is None
    assert Blocks(["conv_in", "down_blocks.0.conv"]).read("conv_in", nothing) is None


def test_a_controlnet_ends_in_zero_convolutions() -> None:
    own = [p for p in UNET if not p.startswith(("up_blocks", "conv_norm"))] + ["controlnet_mid_block"]
    found = Blocks(own).read("mid_block.resnets.1.conv2", nothing)
    assert found is not None
    assert found.activation is None
    cond = Blocks(own).read("controlnet_cond_embedding.conv_out", nothing)
    assert cond is not None
    assert cond.activation == "silu"
