"""Model types of transformers that no threshold was chosen on, from configurations made small."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

Built = tuple[Any, dict[str, Any]]
Inputs = Callable[[], dict[str, Any]]

# What configurations call their sizes. A type takes those that it knows. Where widths decide the scale of plain layers,
# as in DPT's fusion of N(0, 0.02) convolutions without norms, they stay as their authors chose them.
_SIZES: dict[str, Any] = {
    "vocab_size": 200, "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 160, "max_position_embeddings": 64, "head_dim": 16, "d_model": 64, "encoder_layers": 2,
    "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128,
    "decoder_ffn_dim": 128, "image_size": 32, "patch_size": 8, "use_cache": False, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2, "n_positions": 64, "n_embd": 64, "n_layer": 4, "n_head": 4,
}  # fmt: skip


def _text() -> dict[str, Any]:
    return {"input_ids": torch.randint(5, 190, (1, 12)), "attention_mask": torch.ones(1, 12, dtype=torch.long)}


def _pair() -> dict[str, Any]:
    return {"input_ids": torch.randint(5, 190, (1, 12)), "decoder_input_ids": torch.randint(5, 190, (1, 9))}


def _image(size: int = 32) -> Inputs:
    return lambda: {"pixel_values": torch.randn(1, 3, size, size)}


def _video(frames: int, size: int = 32) -> Inputs:
    return lambda: {"pixel_values": torch.randn(1, frames, 3, size, size)}


def _sound(length: int = 1600) -> Inputs:
    return lambda: {"input_values": torch.randn(1, length)}


def _made(kind: str, head: str, inputs: Inputs, options: dict[str, Any]) -> Built:
    import transformers

    plain = transformers.AutoConfig.for_model(kind)
    told = plain.to_dict()
    known = {key: value for key, value in _SIZES.items() if isinstance(told.get(key), int)}
    config = transformers.AutoConfig.for_model(kind, **{**known, **options})
    auto = getattr(transformers, f"AutoModel{head}")
    moe = {"experts_implementation": "batched_mm"} if hasattr(config, "num_experts_per_tok") else {}
    return auto.from_config(config, attn_implementation="eager", **moe), inputs()


def _row(kind: str, head: str = "", inputs: Inputs = _text, **options: Any) -> Callable[[], Built]:
    return partial(_made, kind, head, inputs, options)


_LM = "ForCausalLM"
_MLM = "ForMaskedLM"
_PAIR = "ForSeq2SeqLM"
_IMAGE = "ForImageClassification"
_SPEECH: dict[str, Any] = {
    "vocab_size": 30, "conv_dim": (32, 32, 32), "conv_stride": (5, 2, 2), "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4,
    "apply_spec_augment": False,
}  # fmt: skip

MODELS: dict[str, Callable[[], Built]] = {
    # language, one way
    "gpt_neo": _row("gpt_neo", _LM, attention_types=[[["global", "local"], 2]], num_layers=4, num_heads=4),
    "gpt_bigcode": _row("gpt_bigcode", _LM),
    "codegen": _row("codegen", _LM, rotary_dim=8),
    "mpt": _row("mpt", _LM, n_layers=4, n_heads=4, max_seq_len=64),
    "openai_gpt": _row("openai-gpt", _LM),
    "gemma3": _row("gemma3_text", _LM),
    "olmo2": _row("olmo2", _LM),
    "qwen3": _row("qwen3", _LM, num_hidden_layers=8),
    "deepseek_v3": _row(
        "deepseek_v3", _LM, num_hidden_layers=2, n_routed_experts=8, num_experts_per_tok=2, n_group=2, topk_group=1,
        moe_intermediate_size=32, q_lora_rank=24, kv_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8,
        v_head_dim=16, first_k_dense_replace=1, num_key_value_heads=4, head_dim=8,
    ),
    "mamba2": _row("mamba2", _LM, num_heads=8, head_dim=16, state_size=16, n_groups=1, num_hidden_layers=2),
    "falcon_mamba": _row("falcon_mamba", _LM, state_size=8, num_hidden_layers=2),
    "recurrent_gemma": _row("recurrent_gemma", _LM, lru_width=64, num_hidden_layers=3, attention_window_size=16),
    # language, both ways
    "xlnet": _row("xlnet", "", n_layer=2, d_inner=128),
    "funnel": _row("funnel", "", block_sizes=[1, 1], d_inner=128, d_head=16, architectures=["FunnelModel"]),
    "convbert": _row("convbert", _MLM, embedding_size=32),
    "nystromformer": _row("nystromformer", _MLM, num_landmarks=4, segment_means_seq_len=12),
    "fnet": _row("fnet", _MLM, inputs=lambda: {"input_ids": torch.randint(5, 190, (1, 12))}),
    "modernbert": _row("modernbert", _MLM),
    "xlm_roberta_xl": _row("xlm-roberta-xl", "ForSequenceClassification"),
    "bert_deep": _row("bert", _MLM, num_hidden_layers=12),
    "esm": _row("esm", _MLM, position_embedding_type="rotary", mask_token_id=4, vocab_size=200, pad_token_id=0),
    # language, in and out
    "mt5": _row("mt5", _PAIR, _pair, num_layers=2, num_heads=4, d_kv=16, d_ff=128),
    "switch_transformers": _row(
        "switch_transformers", _PAIR, _pair, num_layers=2, num_decoder_layers=2, num_heads=4, d_kv=16, d_ff=128,
        num_experts=4,
    ),
    "pegasus": _row("pegasus", _PAIR, _pair),
    "prophetnet": _row(
        "prophetnet", _PAIR, _pair, num_encoder_layers=2, num_decoder_layers=2, num_encoder_attention_heads=4,
        num_decoder_attention_heads=4,
    ),
    # speech
    "hubert": _row("hubert", "ForCTC", _sound(), **_SPEECH),
    "wavlm": _row("wavlm", "ForCTC", _sound(), **_SPEECH),
    "audio_spectrogram": _row(
        "audio-spectrogram-transformer", "ForAudioClassification", lambda: {"input_values": torch.randn(1, 48, 32)},
        patch_size=8, max_length=48, num_mel_bins=32,
    ),
    "speech_to_text": _row(
        "speech_to_text", "ForSpeechSeq2Seq",
        lambda: {"input_features": torch.randn(1, 40, 16), "decoder_input_ids": torch.randint(5, 190, (1, 9))},
        input_feat_per_channel=16, conv_channels=48, max_source_positions=40, max_target_positions=20,
    ),
    # images
    "hf_resnet": _row("resnet", _IMAGE, _image(64), embedding_size=16, hidden_sizes=[32, 48, 64, 96], depths=[1] * 4),
    "hf_mobilevit": _row("mobilevit", _IMAGE, _image(64), hidden_sizes=[32, 48, 64], image_size=64, patch_size=2),
    "hf_pvt_v2": _row("pvt_v2", _IMAGE, _image(64), hidden_sizes=[16, 32, 48, 64], depths=[1] * 4,
                      num_attention_heads=[1, 2, 3, 4], image_size=64),
    "hf_swinv2": _row("swinv2", _IMAGE, _image(), embed_dim=32, depths=[1, 2], num_heads=[2, 4], window_size=4,
                      patch_size=4),
    "hf_focalnet": _row("focalnet", _IMAGE, _image(), embed_dim=32, depths=[1, 2], hidden_sizes=[32, 64],
                        focal_levels=[2, 2], focal_windows=[3, 3], patch_size=4),
    "yolos": _row("yolos", "ForObjectDetection", _image(), image_size=[32, 32], num_detection_tokens=6),
    "vit_mae": _row("vit_mae", "", _image()),
    "hf_dpt": _row("dpt", "ForDepthEstimation", _image(64), image_size=64, patch_size=16, hidden_size=384,
                   num_attention_heads=6, intermediate_size=768, backbone_out_indices=[0, 1, 2, 3]),
    "dinov3": _row("dinov3_vit", "", _image()),
    # video, time
    "vivit": _row("vivit", "ForVideoClassification", _video(4), num_frames=4, video_size=[4, 32, 32],
                  tubelet_size=[2, 8, 8]),
    "timesformer": _row("timesformer", "ForVideoClassification", _video(4), num_frames=4),
    "patchtst": _row(
        "patchtst", "", lambda: {"past_values": torch.randn(1, 32, 3)},
        context_length=32, num_input_channels=3, patch_length=8, patch_stride=8, ffn_dim=128, num_hidden_layers=3,
    ),
}  # fmt: skip
