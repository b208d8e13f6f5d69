"""torchvision's architectures, at reduced resolution and, where they are wide, reduced width."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_KEPT: list[Any] = []


def prepare() -> None:
    """Make torchvision importable beside a torch build that lacks its compiled operators; no model here calls them."""
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        importlib.import_module("torchvision")


def _models() -> Any:
    return importlib.import_module("torchvision.models")


def _classifier(name: str, size: int = 64, **options: Any) -> Callable[[], tuple[Any, dict[str, Any]]]:
    def build() -> tuple[Any, dict[str, Any]]:
        model = getattr(_models(), name)(num_classes=20, **options)
        return model, {"x": torch.randn(1, 3, size, size)}

    return build


def _vgg() -> tuple[Any, dict[str, Any]]:
    models = _models()
    layers = models.vgg.make_layers([32, "M", 64, "M", 128, 128, "M", 256, "M"], batch_norm=False)
    model = models.VGG(layers, num_classes=20, init_weights=False)
    model.avgpool = nn.AdaptiveAvgPool2d(2)
    model.classifier = nn.Sequential(
        nn.Linear(256 * 4, 256), nn.ReLU(True), nn.Dropout(), nn.Linear(256, 256), nn.ReLU(True), nn.Linear(256, 20)
    )
    for module in model.modules():  # the loop of torchvision's VGG, which has this classifier at full width
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0, 0.01)
            nn.init.zeros_(module.bias)
    return model, {"x": torch.randn(1, 3, 64, 64)}


def _googlenet() -> tuple[Any, dict[str, Any]]:
    model = _models().googlenet(weights=None, num_classes=20, aux_logits=False, init_weights=False)
    return model, {"x": torch.randn(1, 3, 64, 64)}


def _vit() -> tuple[Any, dict[str, Any]]:
    model = _models().VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=4, hidden_dim=96, mlp_dim=256, num_classes=20
    )
    return model, {"x": torch.randn(1, 3, 32, 32)}


def _swin() -> tuple[Any, dict[str, Any]]:
    model = _models().SwinTransformer(
        patch_size=[4, 4], embed_dim=48, depths=[2, 2], num_heads=[3, 6], window_size=[4, 4], num_classes=20
    )
    return model, {"x": torch.randn(1, 3, 64, 64)}


def _resnext() -> tuple[Any, dict[str, Any]]:
    resnet = importlib.import_module("torchvision.models.resnet")
    model = resnet.ResNet(
        resnet.Bottleneck, [1, 1, 1, 1], num_classes=20, groups=16, width_per_group=4, zero_init_residual=True
    )
    return model, {"x": torch.randn(1, 3, 64, 64)}


def _convnext() -> tuple[Any, dict[str, Any]]:
    convnext = importlib.import_module("torchvision.models.convnext")
    widths = (48, 96, 192, 256)
    blocks = [convnext.CNBlockConfig(a, b, 2) for a, b in zip(widths, (*widths[1:], None), strict=True)]
    return convnext.ConvNeXt(blocks, num_classes=20), {"x": torch.randn(1, 3, 64, 64)}


def _lraspp() -> tuple[Any, dict[str, Any]]:
    model = _models().segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=6)
    return model, {"input": torch.randn(1, 3, 64, 64)}


def _fpn() -> tuple[Any, dict[str, Any]]:
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

    model = resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)
    return model, {"x": torch.randn(1, 3, 64, 64)}


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "resnet18": _classifier("resnet18"),
    "resnext": _resnext,
    "densenet121": _classifier("densenet121"),
    "mobilenet_v2": _classifier("mobilenet_v2"),
    "mobilenet_v3_small": _classifier("mobilenet_v3_small"),
    "efficientnet_b0": _classifier("efficientnet_b0"),
    "convnext": _convnext,
    "regnet_y_400mf": _classifier("regnet_y_400mf"),
    "squeezenet1_1": _classifier("squeezenet1_1"),
    "shufflenet_v2_x0_5": _classifier("shufflenet_v2_x0_5"),
    "mnasnet0_5": _classifier("mnasnet0_5"),
    "vgg": _vgg,
    "googlenet": _googlenet,
    "vit": _vit,
    "swin": _swin,
    "lraspp_mobilenet_v3": _lraspp,
    "resnet18_fpn": _fpn,
}
