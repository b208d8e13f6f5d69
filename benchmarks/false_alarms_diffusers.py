"""Diffusion networks of diffusers and adapters of peft that no threshold was chosen on."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

Built = tuple[Any, dict[str, Any]]


def _net(name: str, inputs: Callable[[], dict[str, Any]], **options: Any) -> Callable[[], Built]:
    def build() -> Built:
        import diffusers

        return getattr(diffusers, name)(**options), inputs()

    return build


def _step() -> torch.Tensor:
    return torch.tensor([3])


def _language() -> tuple[Any, dict[str, Any]]:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=160, hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=4,
        use_cache=False,
    )  # fmt: skip
    ids = torch.randint(1, 150, (1, 12))
    return LlamaForCausalLM._from_config(config, attn_implementation="eager"), {"input_ids": ids}


def _adapted(name: str, **options: Any) -> Built:
    import peft

    base, inputs = _language()
    return peft.get_peft_model(base, getattr(peft, name)(task_type="CAUSAL_LM", **options)), inputs


def _lora_vit() -> Built:
    import peft
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, image_size=32, patch_size=8
    )
    base = ViTForImageClassification._from_config(config, attn_implementation="eager")
    names = [n for n, m in base.named_modules() if isinstance(m, torch.nn.Linear) and "layer" in n]
    wanted = {n.rpartition(".")[2] for n in names if "attention" in n}
    return peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=sorted(wanted))), {
        "pixel_values": torch.randn(1, 3, 32, 32)
    }


_QV = ["q_proj", "v_proj"]
_DIT: dict[str, Any] = {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 3, "sample_size": 16}

MODELS: dict[str, Callable[[], Built]] = {
    "unet1d": _net(
        "UNet1DModel", lambda: {"sample": torch.randn(1, 2, 64), "timestep": _step()},
        sample_size=64, extra_in_channels=64, block_out_channels=(32, 32, 64), norm_num_groups=8,
    ),
    "unet3d": _net(
        "UNet3DConditionModel",
        lambda: {
            "sample": torch.randn(1, 4, 4, 16, 16), "timestep": _step(), "encoder_hidden_states": torch.randn(1, 7, 32),
        },
        sample_size=16, block_out_channels=(32, 64), down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"), cross_attention_dim=32, attention_head_dim=8,
        layers_per_block=1, norm_num_groups=8,
    ),
    "unet_2d_skip": _net(
        "UNet2DModel", lambda: {"sample": torch.randn(1, 3, 16, 16), "timestep": _step()},
        sample_size=16, block_out_channels=(32, 64, 64), layers_per_block=2, norm_num_groups=8,
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
        up_block_types=("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
    ),
    "vq_model": _net(
        "VQModel", lambda: {"sample": torch.randn(1, 3, 32, 32)},
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 64), num_vq_embeddings=64, norm_num_groups=8,
    ),
    "autoencoder_tiny": _net(
        "AutoencoderTiny", lambda: {"sample": torch.rand(1, 3, 32, 32)},
        encoder_block_out_channels=(32, 32), decoder_block_out_channels=(32, 32), num_encoder_blocks=(1, 3),
        num_decoder_blocks=(3, 1),
    ),
    "pixart": _net(
        "PixArtTransformer2DModel",
        lambda: {
            "hidden_states": torch.randn(1, 4, 16, 16), "encoder_hidden_states": torch.randn(1, 7, 32),
            "timestep": _step(), "added_cond_kwargs": {"aspect_ratio": None, "resolution": None},
        },
        **_DIT, in_channels=4, out_channels=8, cross_attention_dim=64, caption_channels=32,
        use_additional_conditions=False,
    ),
    "flux": _net(
        "FluxTransformer2DModel",
        lambda: {
            "hidden_states": torch.randn(1, 16, 8), "encoder_hidden_states": torch.randn(1, 7, 32),
            "pooled_projections": torch.randn(1, 24), "timestep": torch.tensor([0.5]),
            "img_ids": torch.zeros(16, 3), "txt_ids": torch.zeros(7, 3),
        },
        in_channels=8, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=32, pooled_projection_dim=24, axes_dims_rope=(4, 6, 6),
    ),
    "aura_flow": _net(
        "AuraFlowTransformer2DModel",
        lambda: {
            "hidden_states": torch.randn(1, 4, 16, 16), "encoder_hidden_states": torch.randn(1, 7, 32),
            "timestep": torch.tensor([0.5]),
        },
        sample_size=16, num_mmdit_layers=2, num_single_dit_layers=2, attention_head_dim=16, num_attention_heads=4,
        joint_attention_dim=32, caption_projection_dim=64, pos_embed_max_size=64,
    ),
    "prior": _net(
        "PriorTransformer",
        lambda: {
            "hidden_states": torch.randn(1, 32), "timestep": _step(), "proj_embedding": torch.randn(1, 32),
            "encoder_hidden_states": torch.randn(1, 7, 32),
        },
        num_attention_heads=4, attention_head_dim=16, num_layers=3, embedding_dim=32, num_embeddings=7,
    ),
    "sana": _net(
        "SanaTransformer2DModel",
        lambda: {
            "hidden_states": torch.randn(1, 8, 8, 8), "encoder_hidden_states": torch.randn(1, 7, 32),
            "timestep": _step(),
        },
        in_channels=8, out_channels=8, num_attention_heads=4, attention_head_dim=16, num_layers=2,
        num_cross_attention_heads=4, cross_attention_head_dim=16, cross_attention_dim=64, caption_channels=32,
        sample_size=8,
    ),
    "hunyuan_dit": _net(
        "HunyuanDiT2DModel",
        lambda: {
            "hidden_states": torch.randn(1, 4, 16, 16), "timestep": torch.tensor([3.0]),
            "encoder_hidden_states": torch.randn(1, 7, 32), "text_embedding_mask": torch.ones(1, 7),
            "encoder_hidden_states_t5": torch.randn(1, 9, 48), "text_embedding_mask_t5": torch.ones(1, 9),
            "image_meta_size": torch.ones(1, 6), "style": torch.zeros(1, dtype=torch.long),
        },
        num_attention_heads=4, attention_head_dim=16, in_channels=4, patch_size=2, sample_size=16, hidden_size=64,
        num_layers=4, cross_attention_dim=32, cross_attention_dim_t5=48, pooled_projection_dim=24, text_len=7,
        text_len_t5=9,
    ),
    "t2i_adapter": _net(
        "T2IAdapter", lambda: {"x": torch.randn(1, 3, 64, 64)}, channels=[32, 64, 64, 96], num_res_blocks=2,
    ),
    "autoencoder_dc": _net(
        "AutoencoderDC", lambda: {"sample": torch.randn(1, 3, 32, 32)},
        latent_channels=4, attention_head_dim=8, encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(32, 64),
        decoder_block_out_channels=(32, 64), encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1),
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)),
    ),
    "lora_vit": _lora_vit,
    "ia3": partial(_adapted, "IA3Config", target_modules=["k_proj", "v_proj", "down_proj"],
                   feedforward_modules=["down_proj"]),
    "adalora": partial(_adapted, "AdaLoraConfig", target_modules=_QV, total_step=100),
    "loha": partial(_adapted, "LoHaConfig", r=4, target_modules=_QV),
    "lokr": partial(_adapted, "LoKrConfig", r=4, target_modules=_QV),
    "oft": partial(_adapted, "OFTConfig", target_modules=_QV, oft_block_size=8),
    "vera": partial(_adapted, "VeraConfig", r=16, target_modules=_QV),
    "prompt_tuning": partial(_adapted, "PromptTuningConfig", num_virtual_tokens=4),
    "prefix_tuning": partial(_adapted, "PrefixTuningConfig", num_virtual_tokens=4, num_layers=3, token_dim=64,
                             num_attention_heads=4),
}  # fmt: skip
