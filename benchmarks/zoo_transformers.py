"""Language, speech and vision models of transformers from small configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

Inputs = Callable[[], dict[str, Any]]

_BERT: dict[str, Any] = {
    "vocab_size": 200,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 40,
}
_LLAMA: dict[str, Any] = {**_BERT, "num_key_value_heads": 2, "intermediate_size": 160, "use_cache": False}
_VIT: dict[str, Any] = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
}
_D: dict[str, Any] = {"d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
_D |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "use_cache": False}


def _text() -> dict[str, Any]:
    return {"input_ids": torch.randint(5, 190, (1, 12)), "attention_mask": torch.ones(1, 12, dtype=torch.long)}


def _pair() -> dict[str, Any]:
    return {"input_ids": torch.randint(5, 190, (1, 12)), "decoder_input_ids": torch.randint(5, 190, (1, 9))}


def _image(size: int = 32) -> Inputs:
    return lambda: {"pixel_values": torch.randn(1, 3, size, size)}


def _hf(model: str, config: str, inputs: Inputs, **options: Any) -> Callable[[], tuple[Any, dict[str, Any]]]:
    def build() -> tuple[Any, dict[str, Any]]:
        import transformers

        settings = getattr(transformers, config)(**options)
        moe = {"experts_implementation": "batched_mm"} if hasattr(settings, "num_experts_per_tok") else {}
        built = getattr(transformers, model)._from_config(settings, attn_implementation="eager", **moe)
        return built, inputs()

    return build


def _clip() -> tuple[Any, dict[str, Any]]:
    from transformers import CLIPConfig, CLIPModel

    text = {**_BERT, "num_hidden_layers": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = CLIPConfig(text_config=text, vision_config={**_VIT, "num_hidden_layers": 1}, projection_dim=48)
    model = CLIPModel._from_config(config, attn_implementation="eager")
    return model, {**_text(), **_image()()}


def _detr() -> tuple[Any, dict[str, Any]]:
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 32, 48, 64],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    config = DetrConfig(
        d_model=64, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=128, decoder_ffn_dim=128, num_queries=8,
        encoder_attention_heads=4, decoder_attention_heads=4, backbone_config=backbone, use_timm_backbone=False,
    )  # fmt: skip
    return DetrForObjectDetection._from_config(config, attn_implementation="eager"), _image(64)()


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "bert": _hf("BertModel", "BertConfig", _text, **_BERT),
    "gpt2": _hf(
        "GPT2LMHeadModel", "GPT2Config", _text,
        vocab_size=200, n_positions=40, n_embd=64, n_layer=2, n_head=4, use_cache=False,
    ),
    "llama": _hf("LlamaForCausalLM", "LlamaConfig", _text, **_LLAMA),
    "t5": _hf(
        "T5ForConditionalGeneration", "T5Config", _pair,
        vocab_size=200, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, use_cache=False,
    ),
    "hf_vit": _hf("ViTForImageClassification", "ViTConfig", _image(), **_VIT),
    "roberta": _hf("RobertaForMaskedLM", "RobertaConfig", _text, **_BERT),
    "distilbert": _hf(
        "DistilBertForMaskedLM", "DistilBertConfig", _text,
        vocab_size=200, dim=64, n_layers=2, n_heads=4, hidden_dim=128, max_position_embeddings=40,
    ),
    "albert": _hf("AlbertForMaskedLM", "AlbertConfig", _text, **{**_BERT, "embedding_size": 32}),
    "deberta_v2": _hf(
        "DebertaV2ForSequenceClassification", "DebertaV2Config", _text,
        **_BERT, relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=16,
    ),
    "mobilebert": _hf("MobileBertForMaskedLM", "MobileBertConfig", _text, vocab_size=200, num_hidden_layers=2),
    "electra": _hf("ElectraForPreTraining", "ElectraConfig", _text, **_BERT, embedding_size=32),
    "t5_gated": _hf(
        "T5ForConditionalGeneration", "T5Config", _pair,
        vocab_size=200, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, use_cache=False,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    ),
    "bart": _hf("BartForConditionalGeneration", "BartConfig", _pair, vocab_size=200, max_position_embeddings=40, **_D),
    "opt": _hf(
        "OPTForCausalLM", "OPTConfig", _text,
        vocab_size=200, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, ffn_dim=128, word_embed_proj_dim=48,
        max_position_embeddings=40, use_cache=False,
    ),
    "bloom": _hf(
        "BloomForCausalLM", "BloomConfig", _text,
        vocab_size=200, hidden_size=64, n_layer=2, n_head=4, use_cache=False,
    ),
    "gpt_neox": _hf("GPTNeoXForCausalLM", "GPTNeoXConfig", _text, **_BERT, use_cache=False),
    "gptj": _hf(
        "GPTJForCausalLM", "GPTJConfig", _text,
        vocab_size=200, n_positions=40, n_embd=64, n_layer=2, n_head=4, rotary_dim=8, use_cache=False,
    ),
    "falcon": _hf(
        "FalconForCausalLM", "FalconConfig", _text,
        vocab_size=200, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, use_cache=False,
    ),
    "phi": _hf("PhiForCausalLM", "PhiConfig", _text, **{**_LLAMA, "num_key_value_heads": 4}),
    "phi3": _hf("Phi3ForCausalLM", "Phi3Config", _text, **_LLAMA, pad_token_id=0),
    "mistral": _hf("MistralForCausalLM", "MistralConfig", _text, **_LLAMA),
    "gemma2": _hf("Gemma2ForCausalLM", "Gemma2Config", _text, **_LLAMA, head_dim=16),
    "qwen2": _hf("Qwen2ForCausalLM", "Qwen2Config", _text, **_LLAMA),
    "mixtral": _hf("MixtralForCausalLM", "MixtralConfig", _text, **_LLAMA, num_local_experts=4),
    "qwen2_moe": _hf(
        "Qwen2MoeForCausalLM", "Qwen2MoeConfig", _text,
        **_LLAMA, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=48, shared_expert_intermediate_size=96,
    ),
    "mamba": _hf(
        "MambaForCausalLM", "MambaConfig", _text,
        vocab_size=200, hidden_size=64, num_hidden_layers=2, state_size=8, use_cache=False,
    ),
    "whisper": _hf(
        "WhisperForConditionalGeneration", "WhisperConfig",
        lambda: {"input_features": torch.randn(1, 20, 60), "decoder_input_ids": torch.randint(5, 190, (1, 9))},
        **_D, vocab_size=200, num_mel_bins=20, max_source_positions=30, max_target_positions=20, pad_token_id=0,
        bos_token_id=1, eos_token_id=2, decoder_start_token_id=3, suppress_tokens=None, begin_suppress_tokens=None,
    ),
    "wav2vec2": _hf(
        "Wav2Vec2ForCTC", "Wav2Vec2Config", lambda: {"input_values": torch.randn(1, 1600)},
        vocab_size=30, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        conv_dim=(32, 32, 32), conv_stride=(5, 2, 2), conv_kernel=(10, 3, 3), num_feat_extract_layers=3,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, apply_spec_augment=False,
    ),
    "clip": _clip,
    "hf_swin": _hf(
        "SwinForImageClassification", "SwinConfig", _image(),
        image_size=32, patch_size=4, embed_dim=32, depths=[1, 1], num_heads=[2, 4], window_size=4,
    ),
    "segformer": _hf(
        "SegformerForSemanticSegmentation", "SegformerConfig", _image(64),
        depths=[1, 1, 1, 1], hidden_sizes=[16, 32, 48, 64], decoder_hidden_size=64, num_attention_heads=[1, 2, 3, 4],
    ),
    "dinov2": _hf("Dinov2Model", "Dinov2Config", _image(), **{**_VIT, "mlp_ratio": 2}),
    "convnext_hf": _hf(
        "ConvNextForImageClassification", "ConvNextConfig", _image(64), depths=[1] * 4, hidden_sizes=[16, 32, 48, 64]
    ),
    "rwkv": _hf(
        "RwkvForCausalLM", "RwkvConfig", _text, vocab_size=200, hidden_size=64, num_hidden_layers=2, use_cache=False
    ),
    "detr": _detr,
}  # fmt: skip
