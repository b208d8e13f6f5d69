"""What the weights of well-known networks are for, written by hand from their papers and sources.

`ROLES` maps the name of a model (`benchmarks.zoo`, or `nets:` and a network of graphs_nets.py) to patterns of layer
names and the tags or roles that hold there. A pattern is a regular expression for the whole name as the module calls
it, without ".weight". The tables are complete: a layer that carries a tag of the vocabulary without being listed for it
is a miss, except for the tags in `SOFT`, which are only asked for where a table mentions them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from initaudit.layers.from_graph_tags import Tag
from initaudit.types import Layer

SOFT = frozenset({Tag.NORM_FOLLOWS_SUM, Tag.INPUT_LAYER, Tag.PATCH_EMBEDDING})
Table = Mapping[str, tuple[str, ...]]

_IN, _PATCH = ("input layer",), ("input layer", "patch embedding")
_CLOSE, _SHORT, _HEAD = ("residual closing",), ("shortcut",), ("output head",)
_Q, _K, _V, _QKV, _KV = ("query",), ("key",), ("value",), ("query, key and value",), ("key and value",)
_O = ("out projection", "residual closing")
_POST, _O_POST = (*_CLOSE, "norm follows the sum"), (*_O, "norm follows the sum")
_TOKEN, _PLACE, _KIND = ("token embedding",), ("position embedding",), ("segment embedding",)
_TIED = ("token embedding", "output head", "tied head")
_GATE, _UP, _GLU = ("gate of a GLU",), ("value of a GLU",), ("gate and value of a GLU",)
_SE, _SCALE, _BIAS, _CLS = ("squeeze-excite",), ("layer scale",), ("relative position bias",), ("class token",)
_ROUTER, _EXPERT = ("router",), ("expert",)
_NORM_GATE = ("adaptive norm", "adaptive gate")


def _heads(place: str, out: tuple[str, ...] = _O, q: str = "q_proj", k: str = "k_proj", v: str = "v_proj",
           o: str = "o_proj") -> dict[str, tuple[str, ...]]:  # fmt: skip
    return {rf"{place}\.{q}": _Q, rf"{place}\.{k}": _K, rf"{place}\.{v}": _V, rf"{place}\.{o}": out}


_LLAMA: dict[str, tuple[str, ...]] = {
    r"model\.embed_tokens": _TOKEN,
    **_heads(r"model\.layers\.\d+\.self_attn"),
    r"model\.layers\.\d+\.mlp\.gate_proj": _GATE,
    r"model\.layers\.\d+\.mlp\.up_proj": _UP,
    r"model\.layers\.\d+\.mlp\.down_proj": _CLOSE,
    r"lm_head": _HEAD,
}
_EXPERTS: dict[str, tuple[str, ...]] = {
    r"model\.layers\.\d+\.mlp\.gate": _ROUTER,
    r"model\.layers\.\d+\.mlp\.experts\.gate_up_proj": (*_EXPERT, *_GLU),
    r"model\.layers\.\d+\.mlp\.experts\.down_proj": (*_EXPERT, *_CLOSE),
}
_GPT2: dict[str, tuple[str, ...]] = {
    r"transformer\.wte": _TIED,
    r"transformer\.wpe": _PLACE,
    r"transformer\.h\.\d+\.attn\.c_attn": _QKV,
    r"transformer\.h\.\d+\.attn\.c_proj": _O,
    r"transformer\.h\.\d+\.mlp\.c_proj": _CLOSE,
}
_T5: dict[str, tuple[str, ...]] = {
    r"shared": _TIED,
    **_heads(r".*\.(SelfAttention|EncDecAttention)", _O, "q", "k", "v", "o"),
    r".*\.relative_attention_bias": _BIAS,
    r".*\.DenseReluDense\.wo": _CLOSE,
}
_UNET: dict[str, tuple[str, ...]] = {
    r"conv_in": _IN,
    r".*\.resnets\.\d+\.conv2": _CLOSE,
    r".*\.conv_shortcut": _SHORT,
}
_CROSS: dict[str, tuple[str, ...]] = {
    **_UNET,
    **_heads(r".*\.attn\d", _O, "to_q", "to_k", "to_v", r"to_out\.0"),
    r".*\.ff\.net\.0\.proj": _GLU,
    r".*\.ff\.net\.2": _CLOSE,
    r".*\.attentions\.\d+\.proj_out": _CLOSE,
}
_RESNET: dict[str, tuple[str, ...]] = {r"conv1": _IN, r"layer\d\.0\.downsample\.0": _SHORT, r"fc": _HEAD}


def _bert(layer: str, tail: Table) -> dict[str, tuple[str, ...]]:
    return {
        rf"{layer}\.attention\.self\.query": _Q,
        rf"{layer}\.attention\.self\.key": _K,
        rf"{layer}\.attention\.self\.value": _V,
        rf"{layer}\.attention\.output\.dense": _O_POST,
        rf"{layer}\.output\.dense": _POST,
        **tail,
    }


ROLES: dict[str, Table] = {
    # ---- images
    "resnet18": {**_RESNET, r"layer\d\.\d\.conv2": _CLOSE},
    "resnext": {**_RESNET, r"layer\d\.\d\.conv3": _CLOSE},  # the bottleneck of ResNet-50, grouped
    "densenet121": {r"features\.conv0": _IN, r"classifier": _HEAD},
    "mobilenet_v2": {
        r"features\.0\.0": _IN,
        r"features\.(3|5|6|8|9|10|12|13|15|16)\.conv\.2": _CLOSE,  # the blocks of stride 1 that keep their width
        r"classifier\.1": _HEAD,
    },
    "mobilenet_v3_small": {
        r"features\.0\.0": _IN,
        r"features\.3\.block\.2\.0": _CLOSE,
        r"features\.(5|6|8|10|11)\.block\.3\.0": _CLOSE,
        r"features\.\d+\.block\.\d\.fc\d": _SE,
        r"classifier\.3": _HEAD,
    },
    "efficientnet_b0": {
        r"features\.0\.0": _IN,
        r"features\.[2-6]\.[123]\.block\.3\.0": _CLOSE,
        r"features\.\d+\.\d\.block\.\d\.fc\d": _SE,
        r"classifier\.1": _HEAD,
    },
    "convnext": {
        r"features\.0\.0": _PATCH,
        r"features\.\d\.\d\.block\.5": _CLOSE,
        r"features\.\d\.\d\.layer_scale": _SCALE,
        r"classifier\.2": _HEAD,
    },
    "regnet_y_400mf": {
        r"stem\.0": _IN,
        r"trunk_output\..*\.proj\.0": _SHORT,
        r"trunk_output\..*\.f\.se\.fc\d": _SE,
        r"trunk_output\..*\.f\.c\.0": _CLOSE,
        r"fc": _HEAD,
    },
    "timm_nfnet": {
        r"stem\.conv1": _IN,
        r"stages\.\d\.\d\.conv3": _CLOSE,
        r"stages\.\d\.\d\.downsample\.conv": _SHORT,
        r"stages\.\d\.\d\.attn_last\.fc\d": _SE,
        r"head\.fc": _HEAD,
    },
    "vit": {
        r"conv_proj": _PATCH,
        r"class_token": _CLS,
        r"encoder\.pos_embedding": _PLACE,
        r"encoder\.layers\.encoder_layer_\d\.self_attention(\.in_proj_weight)?": _QKV,
        r"encoder\.layers\.encoder_layer_\d\.self_attention\.out_proj": _O,
        r"encoder\.layers\.encoder_layer_\d\.mlp\.3": _CLOSE,
        r"heads\.head": _HEAD,
    },
    "swin": {
        r"features\.0\.0": _PATCH,
        r"features\.\d\.\d\.attn\.qkv": _QKV,
        r"features\.\d\.\d\.attn\.relative_position_bias_table": _BIAS,
        r"features\.\d\.\d\.attn\.proj": _O,
        r"features\.\d\.\d\.mlp\.3": _CLOSE,
        r"head": _HEAD,
    },
    "timm_cait": {
        r"patch_embed\.proj": _PATCH,
        r"pos_embed": _PLACE,
        r"cls_token": _CLS,
        r"blocks\.\d\.attn\.qkv": _QKV,
        r"blocks\.\d\.attn\.proj": _O,
        r"blocks(_token_only)?\.\d\.gamma_\d": _SCALE,
        r"blocks(_token_only)?\.\d\.mlp\.fc2": _CLOSE,
        **_heads(r"blocks_token_only\.\d\.attn", _O, "q", "k", "v", "proj"),
        r"head": _HEAD,
    },
    "detr": {
        r"model\.backbone\.model\.embedder\.embedder\.convolution": _IN,
        r"model\.backbone\.model\.encoder\.stages\.\d\.layers\.\d\.layer\.1\.convolution": _CLOSE,
        r"model\.backbone\..*\.shortcut\.convolution": _SHORT,
        **_heads(r"model\.(encoder\.layers\.\d\.self_attn|decoder\.layers\.\d\.encoder_attn)", _O_POST),
        **_heads(r"model\.decoder\.layers\.0\.self_attn", ("out projection",)),  # what it is added to is zero
        r"model\.(encoder|decoder)\.layers\.\d\.mlp\.fc2": _POST,
        r"model\.query_position_embeddings": ("learned queries",),
        r"class_labels_classifier": _HEAD,
        r"bbox_predictor\.layers\.2": _HEAD,
    },
    # ---- language
    "bert": _bert(
        r"encoder\.layer\.\d",
        {
            r"embeddings\.word_embeddings": _TOKEN,
            r"embeddings\.token_type_embeddings": _KIND,
            r"embeddings\.position_embeddings": _PLACE,
            r"pooler\.dense": _HEAD,
        },
    ),
    "albert": {  # one block, used twice
        r"albert\.embeddings\.word_embeddings": _TIED,
        r"albert\.embeddings\.token_type_embeddings": _KIND,
        r"albert\.embeddings\.position_embeddings": _PLACE,
        **_heads(r"albert\.encoder\..*\.attention", _O_POST, "query", "key", "value", "dense"),
        r"albert\.encoder\..*\.ffn_output": _POST,
    },
    "gpt2": _GPT2,
    "falcon": {
        r"transformer\.word_embeddings": _TIED,
        r"transformer\.h\.\d\.self_attention\.query_key_value": _QKV,
        r"transformer\.h\.\d\.self_attention\.dense": _O,
        r"transformer\.h\.\d\.mlp\.dense_4h_to_h": _CLOSE,
    },
    "llama": _LLAMA,
    "phi3": {
        r"model\.embed_tokens": _TOKEN,
        r"model\.layers\.\d\.self_attn\.qkv_proj": _QKV,
        r"model\.layers\.\d\.self_attn\.o_proj": _O,
        r"model\.layers\.\d\.mlp\.gate_up_proj": _GLU,
        r"model\.layers\.\d\.mlp\.down_proj": _CLOSE,
        r"lm_head": _HEAD,
    },
    "mixtral": {**{k: v for k, v in _LLAMA.items() if ".mlp" not in k}, **_EXPERTS},
    "qwen2_moe": {
        **{k: v for k, v in _LLAMA.items() if ".mlp" not in k},
        **_EXPERTS,
        r"model\.layers\.\d\.mlp\.shared_expert\.gate_proj": _GATE,
        r"model\.layers\.\d\.mlp\.shared_expert\.up_proj": _UP,
        r"model\.layers\.\d\.mlp\.shared_expert\.down_proj": _CLOSE,
        r"model\.layers\.\d\.mlp\.shared_expert_gate": ("gate",),
    },
    "t5": _T5,
    "t5_gated": {**_T5, r".*\.DenseReluDense\.wi_0": _GATE, r".*\.DenseReluDense\.wi_1": _UP},
    "mamba": {r"backbone\.embeddings": _TIED, r".*\.mixer\.out_proj": _CLOSE, r".*\.mixer\.D": ("residual scale",)},
    "rwkv": {
        r"rwkv\.embeddings": _TOKEN,
        r"rwkv\.blocks\.\d\.attention\.output": _CLOSE,
        r"rwkv\.blocks\.\d\.feed_forward\.value": _CLOSE,
        r"rwkv\.blocks\.\d\.(attention|feed_forward)\.receptance": ("gate",),
        r"head": _HEAD,
    },
    "gpt2_lora": {
        **{rf"base_model\.model\.{k}(\.base_layer)?": v for k, v in _GPT2.items()},
        r".*\.lora_A\.default": ("low rank down", "adapter"),
        r".*\.lora_B\.default": ("low rank up", "adapter"),
    },
    "llama_dora": {
        **{rf"base_model\.model\.{k}(\.base_layer)?": v for k, v in _LLAMA.items()},
        r".*\.lora_A\.default": ("low rank down", "adapter"),
        r".*\.lora_B\.default": ("low rank up", "adapter"),
    },
    "lstm": {r"embed": _TOKEN, r"rnn\.weight_hh_l\d": ("recurrent",), r"head": _HEAD},
    "gru_bi": {r"embed": _TOKEN, r"rnn\.weight_hh_l\d(_reverse)?": ("recurrent",), r"head": _HEAD},
    # ---- sound, both, diffusion
    "whisper": {
        r"model\.encoder\.conv1": _IN,
        r"model\.(encoder|decoder)\.embed_positions": _PLACE,
        r"model\.decoder\.embed_tokens": _TIED,
        **_heads(r"model\.(encoder|decoder)\.layers\.\d\.\w+_attn", _O, o="out_proj"),
        r"model\.(encoder|decoder)\.layers\.\d\.fc2": _CLOSE,
    },
    "wav2vec2": {
        r"wav2vec2\.feature_extractor\.conv_layers\.0\.conv": _IN,
        r"wav2vec2\.encoder\.pos_conv_embed\.conv": _POST,
        **_heads(r"wav2vec2\.encoder\.layers\.\d\.attention", _O_POST, o="out_proj"),
        r"wav2vec2\.encoder\.layers\.\d\.feed_forward\.output_dense": _POST,
        r"lm_head": _HEAD,
    },
    "clip": {
        r"vision_model\.embeddings\.patch_embedding": _PATCH,
        r"vision_model\.embeddings\.class_embedding": _CLS,
        r"(vision|text)_model\.embeddings\.position_embedding": _PLACE,
        r"text_model\.embeddings\.token_embedding": _TOKEN,
        **_heads(r"(vision|text)_model\.encoder\.layers\.\d\.self_attn", _O, o="out_proj"),
        r"(vision|text)_model\.encoder\.layers\.\d\.mlp\.fc2": _CLOSE,
        r"(visual|text)_projection": _HEAD,
    },
    "unet2d": {
        **_UNET,
        **_heads(r".*\.attentions\.\d", _O, "to_q", "to_k", "to_v", r"to_out\.0"),
        r"conv_out": _HEAD,
    },
    "unet2d_condition": {**{k: v for k, v in _CROSS.items() if k != r"conv_in"}, r"conv_out": _HEAD},
    "controlnet": {
        **{k: v for k, v in _CROSS.items() if k != r"conv_in"},
        r"controlnet_cond_embedding\.conv_out": ("zero conv",),
        r"controlnet_down_blocks\.\d": ("zero conv",),
        r"controlnet_mid_block": ("zero conv",),
    },
    "dit": {
        r"pos_embed\.proj": _PATCH,
        r"transformer_blocks\.\d\.norm1\.emb\.class_embedder\.embedding_table": _TOKEN,
        r"transformer_blocks\.\d\.norm1\.linear": _NORM_GATE,
        **_heads(r"transformer_blocks\.\d\.attn1", _O, "to_q", "to_k", "to_v", r"to_out\.0"),
        r"transformer_blocks\.\d\.ff\.net\.2": _CLOSE,
        r"proj_out_1": ("adaptive norm",),
        r"proj_out_2": _HEAD,
    },
    "sd3": {
        r"pos_embed\.proj": _PATCH,
        r"context_embedder": _IN,
        r"time_text_embed\.text_embedder\.linear_1": _IN,
        r"transformer_blocks\.\d\.norm1\.linear": _NORM_GATE,
        r"transformer_blocks\.0\.norm1_context\.linear": _NORM_GATE,
        r"transformer_blocks\.1\.norm1_context\.linear": ("adaptive norm",),  # the last block leaves the text as it is
        **_heads(r"transformer_blocks\.\d\.attn", _O, r"(to_q|add_q_proj)", r"(to_k|add_k_proj)",
                 r"(to_v|add_v_proj)", r"(to_out\.0|to_add_out)"),
        r"transformer_blocks\.\d\.ff(_context)?\.net\.2": _CLOSE,
        r"norm_out\.linear": ("adaptive norm",),
        r"proj_out": _HEAD,
    },
    # ---- written on bare parameters and functions
    "nets:gat": {r"w\d": _V, r"a\d(_1)?": ("attention vector",)},
    "nets:lstm_lm": {r"encoder": _TIED, r"rnn\.weight_hh_l\d": ("recurrent",)},
    "nets:cells": {r"cell\.weight_hh": ("recurrent",), r"wh": ("recurrent",), r"head": _HEAD},
    "nets:rezero": {
        r"stem": _IN,
        r"second\.\d": _CLOSE,
        r"alpha\.\d": ("rezero",),
        r"squeeze|excite": _SE,
        r"fc": _HEAD,
    },
    "nets:gated_units": {
        r"glu": _GLU,
        r"gate": _GATE,
        r"up": _UP,
        r"down|mix": _CLOSE,
        r"filter": _UP,
        r"sieve": _GATE,
        r"carry": (*_GATE, "gate"),
        r"hidden": _UP,
        r"out": _HEAD,
    },
    "nets:einsum_attention": {r"wq": _Q, r"wk": _K, r"wv": _V, r"wo": _O, r"w2": _CLOSE},
    "nets:perceiver": {
        r"latents": ("learned queries",),
        r"attend(\.in_proj_weight)?": _QKV,
        r"attend\.out_proj": _O,
        r"down": _CLOSE,
        r"head": _HEAD,
    },
    "nets:causal_net": {r"convs\.\d": _CLOSE, r"down": _SHORT, r"out": _HEAD},
    "nets:nerf": {r"density": _HEAD, r"colour\.2": _HEAD},
    "nets:switch_experts": {
        r"router": _ROUTER,
        r"experts\.\d\.0": _EXPERT,
        r"experts\.\d\.1": (*_EXPERT, *_CLOSE),
        r"out": _HEAD,
    },
}  # fmt: skip


def wanted(table: Table, layer: Layer) -> set[str]:
    """Return the tags and roles that a layer should have."""
    names = (layer.name, layer.name.removeprefix("model."))
    return {tag for pattern, tags in table.items() if any(re.fullmatch(pattern, n) for n in names) for tag in tags}


def score(
    model: str, layers: Iterable[Layer], table: Table | None = None
) -> tuple[Counter[str], Counter[str], list[str]]:
    """Return how many layers want each tag, how many of them have it, and every miss with its layer.

    A tag where none is wanted is a miss that no count holds.
    """
    want: Counter[str] = Counter()
    have: Counter[str] = Counter()
    told: list[str] = []
    table = ROLES[model] if table is None else table
    mentioned = {tag for tags in table.values() for tag in tags}
    unseen = dict.fromkeys(table)
    for layer in layers:
        names = (layer.name, layer.name.removeprefix("model."))
        for pattern in [p for p in unseen if any(re.fullmatch(p, n) for n in names)]:
            del unseen[pattern]
        expected = wanted(table, layer)
        got = {*layer.tags, str(layer.role)}
        for tag in sorted(expected):
            want[tag] += 1
            have[tag] += tag in got
            if tag not in got:
                told.append(f"{model}: {layer.name}: not {tag}, but {', '.join(layer.tags) or layer.role}")
        checked = {tag for tag in layer.tags if Tag(tag) not in SOFT or tag in mentioned}
        loose = (
            {Tag.NORM_FOLLOWS_SUM} if Tag.RESIDUAL_CLOSING in expected else set()
        )  # of the last block, before a norm
        told += [f"{model}: {layer.name}: {tag}" for tag in sorted(checked - expected - loose)]
    return want, have, told + [f"{model}: no layer is called {pattern}" for pattern in unseen]


def misses(model: str, layers: Iterable[Layer], table: Table | None = None) -> list[str]:
    """Return where the tags and roles of a model's layers differ from its table, or from a given one, a line each."""
    return score(model, layers, table)[2]
