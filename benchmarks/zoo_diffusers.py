"""Diffusion networks of diffusers, and peft's LoRA around a language model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

_CHANNELS: dict[str, Any] = {"block_out_channels": (32, 64), "layers_per_block": 1, "norm_num_groups": 8}
_CROSS: dict[str, Any] = {
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": 32,
    "attention_head_dim": 8,
}


def _unet() -> tuple[Any, dict[str, Any]]:
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **_CHANNELS,
    )
    return model, {"sample": torch.randn(1, 3, 16, 16), "timestep": torch.tensor([3])}


def _unet_condition() -> tuple[Any, dict[str, Any]]:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=16, up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **_CROSS, **_CHANNELS
    )
    return model, {
        "sample": torch.randn(1, 4, 16, 16),
        "timestep": torch.tensor([3]),
        "encoder_hidden_states": torch.randn(1, 7, 32),
    }


def _controlnet() -> tuple[Any, dict[str, Any]]:
    from diffusers import ControlNetModel

    model = ControlNetModel(conditioning_embedding_out_channels=(8, 16), **_CROSS, **_CHANNELS)
    return model, {
        "sample": torch.randn(1, 4, 16, 16),
        "timestep": torch.tensor([3]),
        "encoder_hidden_states": torch.randn(1, 7, 32),
        "controlnet_cond": torch.randn(1, 3, 32, 32),
    }


def _autoencoder() -> tuple[Any, dict[str, Any]]:
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return AutoencoderKL(latent_channels=4, **blocks, **_CHANNELS), {"sample": torch.randn(1, 3, 32, 32)}


def _dit() -> tuple[Any, dict[str, Any]]:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=4, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=16,
        patch_size=2, norm_num_groups=8, num_embeds_ada_norm=10,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(1, 4, 16, 16),
        "timestep": torch.tensor([3]),
        "class_labels": torch.tensor([1]),
    }


def _sd3() -> tuple[Any, dict[str, Any]]:
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=32, caption_projection_dim=64, pooled_projection_dim=48, out_channels=4,
        pos_embed_max_size=16,
    )  # fmt: skip
    return model, {
        "hidden_states": torch.randn(1, 4, 16, 16),
        "encoder_hidden_states": torch.randn(1, 7, 32),
        "pooled_projections": torch.randn(1, 48),
        "timestep": torch.tensor([3]),
    }


def _lora() -> tuple[Any, dict[str, Any]]:
    from peft import LoraConfig, get_peft_model
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=160, n_positions=32, n_embd=64, n_layer=2, n_head=4, use_cache=False)
    base = GPT2LMHeadModel._from_config(config, attn_implementation="eager")
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True))
    return model, {
        "input_ids": torch.randint(1, 150, (1, 12)),
        "attention_mask": torch.ones(1, 12, dtype=torch.long),
    }


def _dora() -> tuple[Any, dict[str, Any]]:
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=160,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=2,
        num_attention_heads=4,
        use_cache=False,
    )
    base = LlamaForCausalLM._from_config(config, attn_implementation="eager")
    model = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], use_dora=True))
    return model, {
        "input_ids": torch.randint(1, 150, (1, 12)),
        "attention_mask": torch.ones(1, 12, dtype=torch.long),
    }


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "unet2d": _unet,
    "unet2d_condition": _unet_condition,
    "controlnet": _controlnet,
    "autoencoder_kl": _autoencoder,
    "dit": _dit,
    "sd3": _sd3,
    "gpt2_lora": _lora,
    "llama_dora": _dora,
}
