"""What follows each weight, read from the libraries' source by a person and written down.

A row is a pattern of parameter names and what follows: an activation by torch.nn.functional's name, or None where the
next thing is linear. In a pattern `#` is a number, `*` any run of characters without a dot, `**` any run at all and
`{a,b}` one of these; it stands for the whole name. Every parameter with at least two axes matches exactly one row of
its model, which the benchmark checks.

The rule, where a value has several readers: the first activation or weight in the order of execution, on the way
through norms, sums, elementwise products, moves and pools. A product of two signals (attention) ends the way: nothing
follows there. The gates inside an LSTM or GRU are the cell's own: nothing follows its matrices.

`LOOKED_AT` marks a parameter that no weighted operation uses: it is added, multiplied or read as it is. `either(a, b)`
marks one matrix whose two halves go two ways, so that both answers are true of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LOOKED_AT = "-"


def either(*names: str | None) -> str:
    """The answers that are both right: of one matrix that stacks two operators."""
    return "|".join(name or "null" for name in names)


Rows = dict[str, str | None]

_GPT2: Rows = {
    "**transformer.{wte,wpe}.weight": None,
    "**attn.{c_attn,c_proj}.weight": None,
    "**mlp.c_fc.weight": "gelu",  # NewGELUActivation
    "**mlp.c_proj.weight": None,
}
_LLAMA: Rows = {
    "model.embed_tokens.weight": None,
    "model.layers.#.self_attn.{q_proj,k_proj,v_proj,o_proj}.weight": None,
    "lm_head.weight": None,
}
_T5: Rows = {
    "shared.weight": None,  # embedding of both sides and, multiplied by d_model^-0.5, the output
    "*.block.#.layer.#.*.{q,k,v,o}.weight": None,
    "*.block.0.layer.0.SelfAttention.relative_attention_bias.weight": None,  # added to the scores
    "*.block.#.layer.#.DenseReluDense.wo.weight": None,
}
_CROSS: Rows = {  # Transformer2DModel: norm, proj_in, blocks, proj_out, plus its input
    "**.attentions.#.proj_in.weight": None,
    "**.transformer_blocks.#.attn#.{to_q,to_k,to_v}.weight": None,
    "**.transformer_blocks.#.attn#.to_out.0.weight": None,
    "**.transformer_blocks.#.ff.net.0.proj.weight": "gelu",  # GEGLU: F.gelu on the second half
    "**.transformer_blocks.#.ff.net.2.weight": None,
}

VISION: dict[str, Rows] = {
    "resnet18": {
        "conv1.weight": "relu",
        "layer#.#.conv1.weight": "relu",
        "layer#.#.conv2.weight": "relu",  # bn2, plus the identity, relu
        "layer#.0.downsample.0.weight": "relu",  # its norm, into the same sum
        "fc.weight": None,
    },
    "densenet121": {
        "features.conv0.weight": "relu",
        "features.denseblock#.denselayer#.conv1.weight": "relu",  # norm2, relu2
        "features.denseblock#.denselayer#.conv2.weight": "relu",  # joined; then norm1, relu1, or F.relu at the end
        "features.transition#.conv.weight": "relu",  # pooled; then norm1, relu1 of the next block
        "classifier.weight": None,
    },
    "mobilenet_v3_small": {
        "features.{0,12}.0.weight": "hardswish",
        "features.1.block.0.0.weight": "relu",  # no expansion here: the depthwise convolution comes first
        "features.{2,3}.block.{0,1}.0.weight": "relu",
        "features.{1,2,3}.block.2.0.weight": None,  # projection
        "features.{4,5,6,7,8,9,10,11}.block.{0,1}.0.weight": "hardswish",
        "features.{4,5,6,7,8,9,10,11}.block.3.0.weight": None,
        "features.#.block.#.fc1.weight": "relu",
        "features.#.block.#.fc2.weight": "hardsigmoid",
        "classifier.0.weight": "hardswish",
        "classifier.3.weight": None,
    },
    "efficientnet_b0": {
        "features.{0,8}.0.weight": "silu",
        "features.1.0.block.0.0.weight": "silu",
        "features.1.0.block.2.0.weight": None,
        "features.{2,3,4,5,6,7}.#.block.{0,1}.0.weight": "silu",
        "features.{2,3,4,5,6,7}.#.block.3.0.weight": None,
        "features.#.#.block.#.fc1.weight": "silu",
        "features.#.#.block.#.fc2.weight": "sigmoid",
        "classifier.1.weight": None,
    },
    "convnext": {
        "features.0.0.weight": None,  # a norm, then the depthwise convolution
        "features.{2,4,6}.1.weight": None,
        "features.#.#.layer_scale": LOOKED_AT,
        "features.#.#.block.0.weight": None,
        "features.#.#.block.3.weight": "gelu",
        "features.#.#.block.5.weight": None,
        "classifier.2.weight": None,
    },
    "swin": {
        "features.0.0.weight": None,
        "features.#.#.attn.relative_position_bias_table": LOOKED_AT,
        "features.#.#.attn.{qkv,proj}.weight": None,
        "features.#.#.mlp.0.weight": "gelu",
        "features.#.#.mlp.3.weight": None,
        "features.#.reduction.weight": None,
        "head.weight": None,
    },
    "vit": {
        "{class_token,encoder.pos_embedding}": LOOKED_AT,
        "conv_proj.weight": None,
        "encoder.layers.*.self_attention.{in_proj_weight,out_proj.weight}": None,
        "encoder.layers.*.mlp.0.weight": "gelu",
        "encoder.layers.*.mlp.3.weight": None,
        "heads.head.weight": None,
    },
}

LANGUAGE: dict[str, Rows] = {
    "bert": {
        "embeddings.*.weight": None,
        "encoder.layer.#.attention.**.weight": None,
        "encoder.layer.#.intermediate.dense.weight": "gelu",
        "encoder.layer.#.output.dense.weight": None,
        "pooler.dense.weight": "tanh",
    },
    "gpt2": _GPT2,
    "llama": {
        **_LLAMA,
        "model.layers.#.mlp.gate_proj.weight": "silu",
        "model.layers.#.mlp.{up_proj,down_proj}.weight": None,
    },
    "mixtral": {
        **_LLAMA,
        "model.layers.#.mlp.gate.weight": None,  # router: softmax
        "model.layers.#.mlp.experts.gate_up_proj": "silu",  # on the first half of each expert
        "model.layers.#.mlp.experts.down_proj": None,
    },
    "t5": {**_T5, "*.block.#.layer.#.DenseReluDense.wi.weight": "relu"},
    "t5_gated": {
        **_T5,
        "*.block.#.layer.#.DenseReluDense.wi_0.weight": "gelu",
        "*.block.#.layer.#.DenseReluDense.wi_1.weight": None,
    },
    "whisper": {
        "model.encoder.{conv1,conv2}.weight": "gelu",
        "model.*.{embed_positions,embed_tokens}.weight": None,
        "model.*.layers.#.{self_attn,encoder_attn}.*.weight": None,
        "model.*.layers.#.fc1.weight": "gelu",
        "model.*.layers.#.fc2.weight": None,
    },
    "mamba": {
        "backbone.embeddings.weight": None,
        "backbone.layers.#.mixer.A_log": LOOKED_AT,
        "backbone.layers.#.mixer.conv1d.weight": "silu",
        "backbone.layers.#.mixer.in_proj.weight": either(None, "silu"),  # half to conv1d, half through silu as the gate
        "backbone.layers.#.mixer.x_proj.weight": None,  # step to dt_proj; B and C into products
        "backbone.layers.#.mixer.dt_proj.weight": "softplus",
        "backbone.layers.#.mixer.out_proj.weight": None,
    },
    "wav2vec2": {
        "wav2vec2.feature_extractor.conv_layers.#.conv.weight": "gelu",
        "wav2vec2.feature_projection.projection.weight": None,  # the positional convolution comes next
        "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0": LOOKED_AT,
        "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1": "gelu",
        "wav2vec2.encoder.layers.#.attention.*.weight": None,
        "wav2vec2.encoder.layers.#.feed_forward.intermediate_dense.weight": "gelu",
        "wav2vec2.encoder.layers.#.feed_forward.output_dense.weight": None,
        "lm_head.weight": None,
    },
    "clip": {
        "*.embeddings.*.weight": None,
        "*.encoder.layers.#.self_attn.*.weight": None,
        "*.encoder.layers.#.mlp.fc1.weight": "quick_gelu",
        "*.encoder.layers.#.mlp.fc2.weight": None,
        "{visual_projection,text_projection}.weight": None,
    },
}

DIFFUSION: dict[str, Rows] = {
    "unet2d": {  # (32, 64), attention in the inner blocks, after each of their resnets
        "conv_in.weight": "silu",
        "time_embedding.linear_#.weight": "silu",  # the second: nonlinearity(temb) in each resnet
        "**.resnets.#.conv1.weight": "silu",
        "**.resnets.#.time_emb_proj.weight": "silu",  # added before norm2
        "down_blocks.0.resnets.0.conv2.weight": None,  # the downsampler's convolution
        "down_blocks.0.downsamplers.0.conv.weight": "silu",
        "down_blocks.1.resnets.0.{conv2,conv_shortcut}.weight": None,  # attention: group norm, to_q
        "mid_block.resnets.0.conv2.weight": None,  # attention
        "mid_block.resnets.1.conv2.weight": "silu",
        "up_blocks.0.resnets.#.{conv2,conv_shortcut}.weight": None,  # attention
        "up_blocks.1.resnets.#.{conv2,conv_shortcut}.weight": "silu",  # next resnet, or conv_act
        "**.attentions.#.{to_q,to_k,to_v}.weight": None,
        "down_blocks.1.attentions.0.to_out.0.weight": "silu",  # plus its input, then the middle's first norm
        "mid_block.attentions.0.to_out.0.weight": "silu",
        "up_blocks.0.attentions.0.to_out.0.weight": "silu",
        "up_blocks.0.attentions.1.to_out.0.weight": None,  # the upsampler's convolution
        "up_blocks.0.upsamplers.0.conv.weight": "silu",
        "conv_out.weight": None,
    },
    "dit": {
        "pos_embed.proj.weight": None,
        "transformer_blocks.#.norm1.emb.timestep_embedder.linear_#.weight": "silu",
        "transformer_blocks.#.norm1.emb.class_embedder.embedding_table.weight": "silu",  # plus the step's, then silu
        "transformer_blocks.#.norm1.linear.weight": None,
        "transformer_blocks.#.attn1.{to_q,to_k,to_v,to_out.0}.weight": None,
        "transformer_blocks.#.ff.net.0.proj.weight": "gelu",
        "transformer_blocks.#.ff.net.2.weight": None,
        "proj_out_#.weight": None,
    },
    "autoencoder_kl": {
        "{encoder,decoder}.conv_in.weight": "silu",
        "**.resnets.#.conv1.weight": "silu",
        "encoder.down_blocks.0.resnets.0.conv2.weight": None,  # the downsampler's convolution
        "encoder.down_blocks.0.downsamplers.0.conv.weight": "silu",
        "encoder.down_blocks.1.resnets.0.{conv2,conv_shortcut}.weight": "silu",
        "*.mid_block.resnets.0.conv2.weight": None,  # attention
        "*.mid_block.resnets.1.conv2.weight": "silu",
        "*.mid_block.attentions.0.{to_q,to_k,to_v}.weight": None,
        "*.mid_block.attentions.0.to_out.0.weight": "silu",
        "encoder.conv_out.weight": None,
        "{quant_conv,post_quant_conv}.weight": None,
        "decoder.up_blocks.0.resnets.0.conv2.weight": "silu",
        "decoder.up_blocks.0.resnets.1.conv2.weight": None,  # the upsampler's convolution
        "decoder.up_blocks.0.upsamplers.0.conv.weight": "silu",
        "decoder.up_blocks.1.resnets.#.{conv2,conv_shortcut}.weight": "silu",
        "decoder.conv_out.weight": None,
    },
    "controlnet": {
        **_CROSS,
        "conv_in.weight": "silu",
        "time_embedding.linear_#.weight": "silu",
        "controlnet_cond_embedding.{conv_in,blocks.#,conv_out}.weight": "silu",  # the last: plus conv_in, first resnet
        "**.resnets.#.conv1.weight": "silu",
        "**.resnets.#.time_emb_proj.weight": "silu",
        "down_blocks.0.resnets.0.conv2.weight": None,  # proj_in of its attention
        "down_blocks.0.attentions.0.proj_out.weight": None,  # the downsampler's convolution
        "down_blocks.0.downsamplers.0.conv.weight": "silu",
        "down_blocks.1.resnets.0.{conv2,conv_shortcut}.weight": "silu",
        "mid_block.resnets.0.conv2.weight": None,
        "mid_block.attentions.0.proj_out.weight": "silu",
        "mid_block.resnets.1.conv2.weight": None,  # controlnet_mid_block
        "{controlnet_down_blocks.#,controlnet_mid_block}.weight": None,
    },
    "gpt2_lora": {
        "**transformer.{wte,wpe}.weight": None,
        "**.{c_attn,c_proj}.base_layer.weight": None,
        "**.lora_{A,B}.default.weight": None,
        "**mlp.c_fc.weight": "gelu",
    },
}

OWN: dict[str, Rows] = {
    "gat": {"{w1,w2}": None, "{a1,a2}": "leaky_relu"},
    "gcn_relational": {"{relations,own}": "relu", "out.weight": None},
    "lstm_lm": {"encoder.weight": None, "rnn.weight_*": None},
    "bare_cnn": {"w1": "relu", "w2": "leaky_relu", "w3": "tanh", "w4": None},
    "in_place": {
        "c1.weight": "relu",
        "c2.weight": "elu",
        "c3.weight": "leaky_relu",
        "c4.weight": "relu",
        "fc.weight": "sigmoid",
    },
    "shared_layers": {"{inp,step}.weight": "tanh", "out.weight": None},
    "siren": {"layers.#.weight": "sin", "out.weight": None},
    "gated_units": {
        "glu.weight": either("glu", "sigmoid"),
        "gate.weight": "gelu",
        "{up,down,mix,out}.weight": None,
        "filter.weight": "tanh",
        "{sieve,carry}.weight": "sigmoid",
        "hidden.weight": "relu",
    },
    "spelled_out": {
        "layers.0.weight": "silu",
        "layers.1.weight": "mish",
        "layers.{2,3}.weight": "gelu",
        "layers.4.weight": "relu2",
        "layers.5.weight": "hardswish",
        "layers.6.weight": "leaky_relu",
        "layers.{7,8}.weight": "relu",
        "out.weight": None,
    },
    "einsum_attention": {"{wq,wk,wv,wo,w2}": None, "w1": "gelu"},
    "cells": {"cell.weight_{ih,hh}": None, "{wx,wh}": "tanh", "head.weight": None},
    "rezero": {
        "{stem,first.#,second.0}.weight": "relu",
        "second.1.weight": None,  # the gate's first layer, then the product
        "squeeze.weight": "silu",
        "excite.weight": "sigmoid",
        "fc.weight": None,
    },
    "nerf": {
        "{first,second,third,colour.0}.weight": "relu",
        "density.weight": "softplus",
        "feature.weight": None,
        "colour.2.weight": "sigmoid",
    },
    "causal_net": {
        "convs.#.parametrizations.weight.original0": LOOKED_AT,
        "convs.#.parametrizations.weight.original1": "relu",
        "down.weight": "relu",
        "out.weight": None,
    },
    "perceiver": {
        "latents": LOOKED_AT,
        "inp.weight": "selu",
        "attend.{in_proj_weight,out_proj.weight}": None,
        "up.weight": "mish",
        "{down,head}.weight": None,
    },
    "switch_experts": {
        "inp.weight": "hardswish",
        "router.weight": None,
        "experts.#.0.weight": "softplus",
        "{experts.#.1,out}.weight": None,
    },
}

TRUTHS: dict[str, Rows] = {**VISION, **LANGUAGE, **DIFFUSION, **OWN}


def told(name: str, parameters: Iterable[str]) -> tuple[dict[str, str | None], list[str]]:
    """What the rows of a model say of each parameter, and what is wrong with the rows: no match, two, or none used."""
    rows = {pattern: re.compile(_regex(pattern)) for pattern in TRUTHS[name]}
    found: dict[str, str | None] = {}
    used: set[str] = set()
    wrong: list[str] = []
    for parameter in parameters:
        matching = [pattern for pattern, regex in rows.items() if regex.fullmatch(parameter)]
        used.update(matching)
        if len(matching) != 1:
            wrong.append(f"{parameter} matches {' and '.join(matching) or 'no row'}")
            continue
        answer = TRUTHS[name][matching[0]]
        if answer != LOOKED_AT:
            found[parameter] = answer
    wrong += [f"no parameter matches {pattern}" for pattern in rows if pattern not in used]
    return found, wrong


def right(said: str | None, truth: str | None) -> bool:
    """Whether an answer is the truth, or one of two true ones."""
    return bool(set((said or "null").split("|")) & set((truth or "null").split("|")))


def _regex(pattern: str) -> str:
    parts = re.split(r"(\*\*|\*|#|\{[^}]*\})", pattern)
    spelled = {"**": ".*", "*": "[^.]*", "#": r"\d+"}
    return "".join(spelled.get(part) or (_choice(part) if part.startswith("{") else re.escape(part)) for part in parts)


def _choice(part: str) -> str:
    return "(?:" + "|".join(re.escape(choice).replace(r"\#", r"\d+") for choice in part[1:-1].split(",")) + ")"
