"""Classifiers, segmenters, video networks and detectors of torchvision that no threshold was chosen on."""

# ruff: noqa: D102  (forward is what torch calls it)

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Built = tuple[Any, dict[str, Any]]


def _models() -> Any:
    return importlib.import_module("torchvision.models")


def _classifier(name: str, size: int = 64, **options: Any) -> Built:
    return getattr(_models(), name)(num_classes=20, **options), {"x": torch.randn(1, 3, size, size)}


def _segmenter(name: str) -> Built:
    model = getattr(_models().segmentation, name)(weights=None, weights_backbone=None, num_classes=6)
    return model, {"x": torch.randn(1, 3, 64, 64)}


def _video(name: str) -> Built:
    return getattr(_models().video, name)(num_classes=20), {"x": torch.randn(1, 3, 8, 64, 64)}


def _mvit() -> Built:
    mvit = importlib.import_module("torchvision.models.video.mvit")
    block = partial(mvit.MSBlockConfig, kernel_q=[3, 3, 3], kernel_kv=[3, 3, 3], stride_kv=[1, 2, 2])
    setting = [
        block(1, 48, 48, stride_q=[1, 1, 1]),
        block(2, 48, 96, stride_q=[1, 2, 2]),
        block(2, 96, 96, stride_q=[1, 1, 1]),
    ]
    model = mvit.MViT(
        spatial_size=(32, 32), temporal_size=4, block_setting=setting, residual_pool=True,
        residual_with_cls_embed=False, rel_pos_embed=True, proj_after_attn=True, num_classes=20,
    )  # fmt: skip
    return model, {"x": torch.randn(1, 3, 4, 32, 32)}


def _swin(version: str, block: str, merging: str) -> Built:
    swin = importlib.import_module("torchvision.models.swin_transformer")
    model = swin.SwinTransformer(
        patch_size=[4, 4], embed_dim=96, depths=[2, 2, 2], num_heads=[3, 6, 12], window_size=[4, 4], num_classes=20,
        block=getattr(swin, block), downsample_layer=getattr(swin, merging),
    )  # fmt: skip
    return model, {"x": torch.randn(1, 3, 64, 64)}


def _maxvit() -> Built:
    model = _models().MaxVit(
        input_size=(64, 64), stem_channels=32, partition_size=2, block_channels=[32, 64, 96], block_layers=[1, 1, 2],
        head_dim=16, stochastic_depth_prob=0.1, num_classes=20,
    )  # fmt: skip
    return model, {"x": torch.randn(1, 3, 64, 64)}


class Pyramid(nn.Module):
    """A detector without its boxes: features in, raw class and box maps out."""

    def __init__(self, head: nn.Module, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stem = nn.ModuleList(nn.Conv2d(3, c, 3, 2, 1) for c in channels)
        self.head = head

    def forward(self, x: Tensor) -> list[Tensor]:
        return list(self.head([torch.relu(conv(x)) for conv in self.stem]).values())


def _retina() -> Built:
    retina = importlib.import_module("torchvision.models.detection.retinanet")
    return Pyramid(retina.RetinaNetHead(256, 9, 20), (256, 256)), {"x": torch.randn(1, 3, 32, 32)}


def _fcos() -> Built:
    fcos = importlib.import_module("torchvision.models.detection.fcos")
    return Pyramid(fcos.FCOSHead(256, 1, 20), (256, 256)), {"x": torch.randn(1, 3, 32, 32)}


MODELS: dict[str, Callable[[], Built]] = {
    "alexnet": partial(_classifier, "alexnet", 64),
    "mobilenet_v3_large": partial(_classifier, "mobilenet_v3_large"),
    "efficientnet_v2_s": partial(_classifier, "efficientnet_v2_s"),
    "inception_v3": partial(_classifier, "inception_v3", 96, aux_logits=False, init_weights=True),
    "regnet_x_400mf": partial(_classifier, "regnet_x_400mf"),
    "fcn_resnet50": partial(_segmenter, "fcn_resnet50"),
    "deeplabv3_mobilenet": partial(_segmenter, "deeplabv3_mobilenet_v3_large"),
    "mc3_18": partial(_video, "mc3_18"),
    "mvit": _mvit,
    "swin_v2": partial(_swin, "v2", "SwinTransformerBlockV2", "PatchMergingV2"),
    "maxvit": _maxvit,
    "retinanet_head": _retina,
    "fcos_head": _fcos,
}
