"""Families of transformers, and the keys that the authors' own code gives the same networks.

Nearly all take their activation from the configuration. Without one, a row says the default of the published weights,
and two readings where the same keys are published with either.
"""

from __future__ import annotations

from initaudit.layers.families import Family

_H = "transformers.models."

TEXT: tuple[Family, ...] = (
    Family(
        "MobileBERT layer", f"{_H}mobilebert", ("bottleneck.input.dense", "intermediate.dense", "output.dense"),
        {
            "intermediate.dense ffn.#.intermediate.dense": "act=relu",
            "output.dense ffn.#.output.dense output.bottleneck.dense attention.output.dense bottleneck.*.dense": "-",
        },
    ),
    Family(
        "BERT layer", f"{_H}bert, roberta, electra, vit, beit", ("intermediate.dense", "output.dense"),
        {
            "intermediate.dense": "act=gelu", "output.dense attention.output.dense": "-",
            "intermediate_query.dense": "act=gelu", "output_query.dense crossattention.output.dense": "-",
        },
        sure=False,
    ),
    Family(
        "DeBERTa pooler", f"{_H}deberta_v2", ("pooler.dense", "deberta.embeddings.word_embeddings"),
        {"pooler.dense": "pooler_hidden_act=gelu", "classifier": "-"},
    ),
    Family(
        "BERT pooler", f"{_H}bert, vit", ("pooler.dense", "encoder.layer.0.intermediate.dense"),
        {"pooler.dense": "pooler_act=tanh"},
    ),
    Family(
        "pooler", f"{_H}bert", ("pooler.dense",),
        {"pooler.dense": "pooler_act=tanh"},
        sure=False,
    ),
    Family(
        "ALBERT pooler", f"{_H}albert", ("pooler", "encoder.albert_layer_groups.0.albert_layers.0.ffn"),
        {"pooler": "tanh"},
    ),
    Family(
        "BigBird pooler", f"{_H}big_bird", ("pooler", "encoder.layer.0.intermediate.dense"),
        {"pooler": "tanh"},
    ),
    Family(
        "DeepSeek router", f"{_H}deepseek_v3", ("gate.e_score_correction_bias", "gate"),
        {"gate": "sigmoid"},
    ),
    Family(
        "masked-word head", f"{_H}bert", ("predictions.transform.dense",),
        {"predictions.transform.dense": "act=gelu", "predictions.decoder seq_relationship": "-"},
        sure=False,
    ),
    Family(
        "masked-word head", f"{_H}roberta", ("lm_head.dense", "lm_head.layer_norm"),
        {"lm_head.dense": "gelu", "lm_head.decoder": "-"},
    ),
    Family(
        "masked-word head", f"{_H}albert", ("predictions.dense", "predictions.LayerNorm"),
        {"predictions.dense": "act=gelu"},
    ),
    Family(
        "masked-word head", f"{_H}distilbert", ("vocab_transform", "vocab_layer_norm"),
        {"vocab_transform": "act=gelu", "vocab_projector": "-"},
    ),
    Family(
        "ELECTRA heads", f"{_H}electra",
        ("discriminator_predictions.dense", "discriminator_predictions.dense_prediction"),
        {"discriminator_predictions.dense": "act=gelu", "discriminator_predictions.dense_prediction": "-"},
    ),
    Family(
        "ELECTRA heads", f"{_H}electra", ("generator_predictions.dense",),
        {"generator_predictions.dense": "gelu"},
    ),
    Family(
        "sentence classifier", f"{_H}electra",
        ("classifier.dense", "classifier.out_proj", "electra.embeddings.word_embeddings"),
        {"classifier.dense": "gelu", "classifier.out_proj": "-"},
    ),
    Family(
        "sentence classifier", f"{_H}roberta, longformer", ("classifier.dense", "classifier.out_proj"),
        {"classifier.dense": "tanh", "classifier.out_proj": "-"},
        sure=False,
    ),
    Family(
        "sentence classifier", f"{_H}bart", ("classification_head.dense", "classification_head.out_proj"),
        {"classification_head.dense": "tanh", "classification_head.out_proj": "-"},
    ),
    Family(
        "sentence classifier", f"{_H}distilbert",
        ("pre_classifier", "classifier", "distilbert.embeddings.word_embeddings"),
        {"pre_classifier": "relu", "classifier": "-"},
    ),
    Family(
        "DistilBERT layer", f"{_H}distilbert", ("attention.q_lin", "ffn.lin1", "ffn.lin2"),
        {"ffn.lin1": "act=gelu", "ffn.lin2 attention.out_lin": "-"},
    ),
    Family(
        "XLM layers", f"{_H}xlm", ("ffns.0.lin1", "ffns.0.lin2", "attentions.0.q_lin"),
        {"ffns.#.lin1": "gelu", "ffns.#.lin2 attentions.#.out_lin": "-"},
    ),
    Family(
        "ALBERT layer", f"{_H}albert", ("ffn_output", "ffn", "attention.query"),
        {"ffn": "act=gelu", "ffn_output attention.dense": "-"},
    ),
    Family(
        "XLNet layer", f"{_H}xlnet", ("ff.layer_1", "ff.layer_2"),
        {"ff.layer_1": "ff_activation=gelu", "ff.layer_2": "-"},
    ),
    Family(
        "Funnel layer", f"{_H}funnel", ("ffn.linear_1", "ffn.linear_2"),
        {"ffn.linear_1": "act=gelu", "ffn.linear_2 attention.post_proj": "-"},
    ),
    Family(
        "Reformer layer", f"{_H}reformer", ("feed_forward.dense.dense", "feed_forward.output.dense"),
        {"feed_forward.dense.dense": "act=relu", "feed_forward.output.dense attention.output.dense": "-"},
    ),
    Family(
        "GPT-2 block", f"{_H}gpt2, gpt_neo, gpt_bigcode, imagegpt", ("mlp.c_fc", "mlp.c_proj"),
        {"mlp.c_fc": "act=gelu", "mlp.c_proj attn.c_proj crossattention.c_proj": "-"},
    ),
    Family(
        "GPT-J block", f"{_H}gptj, codegen", ("mlp.fc_in", "mlp.fc_out"),
        {"mlp.fc_in": "act=gelu", "mlp.fc_out attn.out_proj": "-"},
    ),
    Family(
        "GPT-NeoX block", f"{_H}gpt_neox", ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "attention.dense"),
        {"mlp.dense_h_to_4h": "act=gelu", "mlp.dense_4h_to_h attention.dense": "-"},
    ),
    Family(
        "BLOOM and Falcon block", f"{_H}bloom, falcon",
        ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h", "self_attention.dense"),
        {"mlp.dense_h_to_4h": "act=gelu", "mlp.dense_4h_to_h self_attention.dense": "-"},
    ),
    Family(
        "Megatron block", f"{_H}persimmon, github.com/NVIDIA/Megatron-LM", ("mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
        {"mlp.dense_h_to_4h": "act=gelu|relu2", "mlp.dense_4h_to_h": "-"},
        sure=False,
    ),
    Family(
        "OPT", f"{_H}opt",
        (
            "decoder.layers.0.fc1", "decoder.layers.0.self_attn.q_proj", "decoder.embed_positions",
            "decoder.layers.0.self_attn_layer_norm",
        ),
        {
            "decoder.layers.#.fc1": "act=relu", "decoder.layers.#.fc2 decoder.layers.#.self_attn.out_proj": "-",
            "decoder.project_in decoder.project_out": "-",
        },
        without=(
            "encoder.layers.0.fc1", "decoder.layers.0.encoder_attn.q_proj", "decoder.layernorm_embedding",
            "decoder.layers.0.encoder_attn_layer_norm",
        ),
        sure=False,
    ),
    Family(
        "Whisper", f"{_H}whisper", ("encoder.conv1", "encoder.conv2", "encoder.layers.0.fc1"),
        {"encoder.conv#": "gelu", "{encoder,decoder}.layers.#.fc1": "act=gelu", "{encoder,decoder}.layers.#.fc2": "-"},
    ),
    Family(
        "Whisper", "github.com/openai/whisper, whisper/model.py",
        ("encoder.conv1", "encoder.conv2", "encoder.blocks.0.mlp.0"),
        {"encoder.conv#": "gelu", "{encoder,decoder}.blocks.#.mlp.0": "gelu", "{encoder,decoder}.blocks.#.mlp.2": "-"},
    ),
    Family(
        "BART-like layer", f"{_H}bart, marian, pegasus, m2m_100",
        ("fc1", "fc2", "self_attn.q_proj", "self_attn.out_proj"),
        {"fc1": "act=gelu|relu", "fc2 self_attn.out_proj encoder_attn.out_proj": "-"},
    ),
    Family(
        "Gemma 2 and 3 block", f"{_H}gemma2, gemma3",
        ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "pre_feedforward_layernorm"),
        {"mlp.gate_proj": "act=gelu", "mlp.up_proj mlp.down_proj self_attn.o_proj": "-"},
    ),
    Family(
        "gated feed-forward", f"{_H}llama, mistral, qwen2", ("gate_proj", "up_proj", "down_proj"),
        {"gate_proj": "act=silu", "up_proj down_proj": "-"},
        sure=False,
    ),
    Family(
        "gated feed-forward", f"{_H}phi3, glm", ("gate_up_proj", "down_proj"),
        {"gate_up_proj": "act=silu", "down_proj": "-"},
        sure=False,
    ),
    Family(
        "gated feed-forward", "github.com/meta-llama/llama, llama/model.py", ("w1", "w2", "w3"),
        {"w1": "act=silu", "w2 w3": "-"},
        sure=False,
    ),
    Family(
        "gated feed-forward", f"{_H}dinov2.Dinov2SwiGLUFFN, xformers.ops.SwiGLU", ("weights_in", "weights_out"),
        {"weights_in": "silu", "weights_out": "-"},
    ),
    Family(
        "gated feed-forward", "github.com/facebookresearch/dinov2, layers/swiglu_ffn.py", ("mlp.w12", "mlp.w3"),
        {"mlp.w12": "silu", "mlp.w3": "-"},
    ),
    Family(
        "shared expert", f"{_H}qwen2_moe", ("shared_expert_gate", "gate"),
        {"shared_expert_gate": "sigmoid"},
    ),
    Family(
        "T5 feed-forward", f"{_H}t5", ("DenseReluDense.wi", "DenseReluDense.wo"),
        {"DenseReluDense.wi": "act=relu", "DenseReluDense.wo": "-"},
    ),
    Family(
        "gated T5 feed-forward", f"{_H}t5, arXiv:2002.05202",
        ("DenseReluDense.wi_0", "DenseReluDense.wi_1", "DenseReluDense.wo"),
        {"DenseReluDense.wi_0": "act=gelu", "DenseReluDense.wi_1 DenseReluDense.wo": "-"},
    ),
    Family(
        "gated T5 feed-forward", f"{_H}longt5, pix2struct", ("mlp.wi_0", "mlp.wi_1", "mlp.wo"),
        {"mlp.wi_0": "act=gelu", "mlp.wi_1 mlp.wo": "-"},
    ),
    Family(
        "Mamba mixer", f"{_H}mamba, mamba_ssm.modules.mamba_simple", ("mixer.dt_proj", "mixer.x_proj", "mixer.conv1d"),
        {"mixer.conv1d": "act=silu", "mixer.dt_proj": "softplus", "mixer.x_proj mixer.out_proj": "-"},
    ),
    Family(
        "Mamba mixer", f"{_H}mamba2, mamba_ssm.modules.mamba2", ("conv1d", "in_proj", "out_proj", "norm"),
        {"conv1d": "act=silu", "out_proj": "-"},
        sure=False, without=("x_proj",),
    ),
    Family(
        "Jamba mixer", f"{_H}jamba", ("mamba.dt_proj", "mamba.x_proj", "mamba.conv1d"),
        {"mamba.conv1d": "act=silu", "mamba.dt_proj": "softplus", "mamba.x_proj mamba.out_proj": "-"},
    ),
    Family(
        "RWKV block", f"{_H}rwkv", ("feed_forward.receptance", "feed_forward.key", "attention.receptance"),
        {
            "attention.receptance feed_forward.receptance": "sigmoid", "feed_forward.key": "relu2",
            "attention.key": "exp",
            "feed_forward.value attention.value attention.output": "-",
        },
    ),
    Family(
        "RWKV block", "github.com/BlinkDL/RWKV-LM, RWKV-v4", ("ffn.receptance", "ffn.key", "att.receptance"),
        {
            "att.receptance ffn.receptance": "sigmoid", "ffn.key": "relu2", "att.key": "exp",
            "ffn.value att.value att.output": "-",
        },
    ),
    Family(
        "prediction head", f"{_H}modernbert", ("head.dense", "head.norm"),
        {"head.dense": "classifier_activation=gelu"},
    ),
    Family(
        "ModernBERT layer", f"{_H}modernbert", ("mlp.Wi", "mlp.Wo", "attn.Wqkv"),
        {"mlp.Wi": "act=gelu", "mlp.Wo attn.Wo": "-"},
    ),
    Family(
        "projector", f"{_H}llava", ("multi_modal_projector.linear_1", "multi_modal_projector.linear_2"),
        {"multi_modal_projector.linear_1": "projector_hidden_act=gelu", "multi_modal_projector.linear_2": "-"},
    ),
    Family(
        "sentence-transformers Dense", "sentence_transformers.models.Dense", ("linear",),
        {"linear": "activation_function=tanh"},
        needs=("in_features", "out_features", "activation_function"),
    ),
)  # fmt: skip
