"""timm's architectures, shallow and narrow where their constructors allow it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch


def _timm(name: str, size: int = 64, **options: Any) -> Callable[[], tuple[Any, dict[str, Any]]]:
    def build() -> tuple[Any, dict[str, Any]]:
        import timm

        timm.layers.set_fused_attn(False)
        model = timm.create_model(name, pretrained=False, num_classes=20, **options)
        return model, {"x": torch.randn(1, 3, size, size)}

    return build


def _class(module: str, name: str, **options: Any) -> Callable[[], tuple[Any, dict[str, Any]]]:
    def build() -> tuple[Any, dict[str, Any]]:
        importlib.import_module("timm.layers").set_fused_attn(False)
        model = getattr(importlib.import_module(f"timm.models.{module}"), name)(num_classes=20, **options)
        return model, {"x": torch.randn(1, 3, 64, 64)}

    return build


def _gmlp() -> tuple[Any, dict[str, Any]]:
    mixer = importlib.import_module("timm.models.mlp_mixer")
    layers = importlib.import_module("timm.layers")
    return _class(
        "mlp_mixer", "MlpMixer", img_size=64, patch_size=16, num_blocks=3, embed_dim=96, mlp_ratio=6,
        block_layer=mixer.SpatialGatingBlock, mlp_layer=layers.GatedMlp,
    )()  # fmt: skip


def _resmlp() -> tuple[Any, dict[str, Any]]:
    mixer = importlib.import_module("timm.models.mlp_mixer")
    return _class(
        "mlp_mixer", "MlpMixer", img_size=64, patch_size=16, num_blocks=3, embed_dim=96, mlp_ratio=4,
        block_layer=partial(mixer.ResBlock, init_values=1e-4), norm_layer=mixer.Affine,
    )()  # fmt: skip


def _poolformer() -> tuple[Any, dict[str, Any]]:
    meta = importlib.import_module("timm.models.metaformer")
    return _class(
        "metaformer", "MetaFormer", depths=(1, 1, 1, 1), dims=(32, 64, 80, 96), downsample_norm=None,
        mlp_act=torch.nn.GELU, mlp_bias=True, norm_layers=meta.GroupNorm1, layer_scale_init_values=1e-5,
        res_scale_init_values=None, use_mlp_head=False,
    )()  # fmt: skip


def _caformer() -> tuple[Any, dict[str, Any]]:
    meta = importlib.import_module("timm.models.metaformer")
    return _class(
        "metaformer", "MetaFormer", depths=(1, 1, 1, 1), dims=(32, 64, 96, 128),
        token_mixers=[meta.SepConv, meta.SepConv, meta.Attention, meta.Attention],
        norm_layers=[meta.LayerNorm2dNoBias] * 2 + [meta.LayerNormNoBias] * 2,
    )()  # fmt: skip


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "timm_deit_tiny": _timm("deit_tiny_distilled_patch16_224", img_size=64, depth=3),
    "timm_vit_relpos": _timm("vit_relpos_small_patch16_224", img_size=64, depth=2, embed_dim=96, num_heads=4),
    "timm_beit": _timm("beit_base_patch16_224", img_size=64, depth=3, embed_dim=96, num_heads=4),
    "timm_eva02": _timm("eva02_tiny_patch14_224", 56, img_size=56, depth=3),
    "timm_cait": _timm("cait_xxs24_224", img_size=64, depth=3),
    "timm_xcit": _timm("xcit_nano_12_p16_224", img_size=64, depth=3),
    "timm_mixer": _class("mlp_mixer", "MlpMixer", img_size=64, patch_size=16, embed_dim=96, num_blocks=3),
    "timm_gmlp": _gmlp,
    "timm_resmlp": _resmlp,
    "timm_poolformer": _poolformer,
    "timm_caformer": _caformer,
    "timm_coat": _timm("coat_tiny", img_size=64, serial_depths=(1, 1, 1, 1), parallel_depth=1),
    "timm_maxvit": _timm("maxvit_rmlp_pico_rw_256", 64, img_size=64),
    "timm_levit": _timm("levit_128s", 224),
    "timm_nfnet": _timm("nfnet_l0", depths=(1, 1, 1, 1)),
    "timm_resnetv2": _timm("resnetv2_50", layers=(1, 1, 1, 1)),
    "timm_edgenext": _timm("edgenext_xx_small"),
    "timm_convnextv2": _timm("convnextv2_atto"),
    "timm_convmixer": _class("convmixer", "ConvMixer", dim=128, depth=4, kernel_size=7, patch_size=7),
    "timm_ghostnet": _timm("ghostnet_050"),
    "timm_dla": _timm("dla46_c"),
    "timm_repvgg": _timm("repvgg_a0"),
    "timm_efficientformer": _timm("efficientformer_l1", 224, depths=(1, 1, 1, 2)),
    "timm_mobilevit": _timm("mobilevit_xxs"),
    "timm_hrnet": _timm("hrnet_w18_small"),
    "timm_davit": _timm("davit_tiny", depths=(1, 1, 1, 1), embed_dims=(48, 96, 192, 384)),
}
