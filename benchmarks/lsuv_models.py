"""The models that LSUV is shown on, and the batches that they are calibrated with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks import zoo

Built = tuple[Any, dict[str, Any]]
INPUTS = 8  # in a batch
MORE = (
    "albert", "bert", "convnext", "detr", "dit", "efficientnet_b0", "gru_bi", "llama", "mixtral", "swin", "t5",
    "timm_maxvit", "transformer_encoder", "unet2d_condition", "wav2vec2", "wavenet_weight_norm", "whisper",
)  # fmt: skip


def _resnet18() -> Built:
    import torch
    import torchvision

    return torchvision.models.resnet18(), {"x": torch.randn(2, 3, 224, 224)}


def _vit_tiny() -> Built:
    import timm
    import torch

    return timm.create_model("vit_tiny_patch16_224", pretrained=False), {"x": torch.randn(2, 3, 224, 224)}


def _gpt2(layers: int, width: int, vocabulary: int) -> Built:
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=layers, n_embd=width, n_head=width // 64, vocab_size=vocabulary, use_cache=False, bos_token_id=0,
        eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel._from_config(config, attn_implementation="eager")
    return model, {
        "input_ids": torch.randint(0, vocabulary, (2, 32)),
        "attention_mask": torch.ones(2, 32, dtype=torch.long),
    }


MAIN: dict[str, Callable[[], Built]] = {
    "ResNet-18": _resnet18,
    "ViT-tiny": _vit_tiny,
    "GPT-2, 2 layers of width 128": lambda: _gpt2(2, 128, 500),
    "GPT-2, 4 layers of width 768": lambda: _gpt2(4, 768, 50257),
    "LSTM": lambda: zoo.row("lstm").build(),
    "U-Net": lambda: zoo.row("unet").build(),
}


def batch(inputs: dict[str, Any]) -> dict[str, Any]:
    """Return INPUTS inputs of the kind of the example inputs, or these if their number differs among them."""
    import torch

    tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
    counts = {len(value) for value in tensors.values() if value.dim()}
    if len(counts) != 1:
        return tensors
    random = torch.Generator().manual_seed(1)
    count = max(INPUTS, *counts)
    return {name: _like(value, count - count % max(counts), random) for name, value in tensors.items()}


def _like(value: Any, count: int, random: Any) -> Any:
    import torch

    shape = (count, *value.shape[1:])
    if value.is_floating_point():
        return torch.randn(shape, generator=random)
    if value.dtype == torch.bool or value.unique().numel() < 2:
        return value[:1].expand(shape).clone()
    return torch.randint(int(value.min()), int(value.max()) + 1, shape, generator=random)
