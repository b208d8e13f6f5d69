"""Architectures of timm that no threshold was chosen on; wide ones narrower, long ones shorter, others as they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch


def _made(name: str, size: int, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    import timm

    timm.layers.set_fused_attn(False)
    model = timm.create_model(name, pretrained=False, num_classes=20, **options)
    return model, {"x": torch.randn(1, 3, size, size)}


_NARROW: dict[str, Any] = {"img_size": 64, "depth": 4, "embed_dim": 96, "num_heads": 4}

_OPTIONS: dict[str, tuple[int, dict[str, Any]]] = {
    # convolutions
    "resnet50": (64, {}),
    "resnet26t": (64, {}),
    "seresnext26t_32x4d": (64, {}),
    "skresnet18": (64, {}),
    "res2net50_26w_4s": (64, {"layers": (1, 1, 2, 1)}),
    "resnest14d": (64, {}),
    "resnetv2_50x1_bit": (64, {}),
    "nf_resnet26": (64, {}),
    "eca_nfnet_l0": (64, {"depths": (1, 1, 2, 1)}),
    "cs3darknet_focus_s": (64, {}),
    "darknet17": (64, {}),
    "ese_vovnet19b_slim_dw": (64, {}),
    "hardcorenas_a": (64, {}),
    "tf_efficientnetv2_b0": (64, {}),
    "mixnet_s": (64, {}),
    "tinynet_e": (64, {}),
    "mobileone_s0": (64, {}),
    "repghostnet_050": (64, {}),
    "starnet_s050": (64, {}),
    "mobilenetv4_conv_small_050": (64, {}),
    "lcnet_050": (64, {}),
    "inception_next_atto": (64, {}),
    "dpn48b": (64, {}),
    "selecsls42": (64, {}),
    "rexnet_100": (64, {}),
    "regnetz_005": (64, {}),
    "gcresnext26ts": (64, {}),
    "hgnetv2_b0": (64, {}),
    "mambaout_femto": (64, {}),
    # both
    "fastvit_t8": (64, {}),
    "repvit_m0_9": (64, {}),
    "botnet26t_256": (64, {"img_size": 64}),
    "coatnet_pico_rw_224": (64, {"img_size": 64}),
    "efficientvit_b0": (64, {}),
    "swiftformer_xs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "focalnet_tiny_srf": (64, {}),
    # attention
    "vit_tiny_patch16_224": (64, {"img_size": 64}),
    "vit_small_patch16_36x1_224": (64, {**_NARROW, "depth": 36}),
    "vit_tiny_r_s16_p8_224": (64, {"img_size": 64, "depth": 4}),
    "deit3_small_patch16_224": (64, {**_NARROW, "depth": 12}),
    "pit_ti_224": (64, {"img_size": 64}),
    "pvt_v2_b0": (64, {}),
    "twins_svt_small": (64, {"img_size": 64, "depths": (1, 1, 2, 1), "embed_dims": (32, 64, 96, 128)}),
    "swinv2_tiny_window8_256": (64, {"img_size": 64, "window_size": 4, "depths": (1, 1, 2, 1), "embed_dim": 48}),
    "convit_tiny": (64, {"img_size": 64, "depth": 4, "local_up_to_layer": 3}),
    "tnt_s_patch16_224": (64, {"img_size": 64, "depth": 3}),
    "mvitv2_tiny": (64, {"img_size": 64}),
    "hiera_tiny_224": (64, {"img_size": 64, "stages": (1, 1, 2, 1)}),
    "volo_d1_224": (64, {"img_size": 64}),
    "sequencer2d_s": (64, {"layers": (1, 1, 2, 1)}),
}

MODELS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    f"timm_{name}": partial(_made, name, size, options) for name, (size, options) in _OPTIONS.items()
}
