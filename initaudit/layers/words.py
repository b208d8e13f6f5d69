"""The vocabulary of the field: what names of modules and parameters say about their use.

Each entry is a word that several libraries share, never the name of one model.
"""

from __future__ import annotations

import re

from initaudit import activations

# How the parts of a fused weight are called, and why a gated cell has no one activation, whatever the source.
PARTS_QKV = ("query", "key", "value")
OWN_GATES = "its gates have activations of their own"

ADAPTER = re.compile(
    r"(?:^|[._])(?:lora|loha|lokr|hada|ia3|vera|oft|boft|adalora|lycoris|dora_scale|adapters?|prompt_encoder\.default"
    r"|lora_[a-z_]*|hada_w[12]|lokr_w[12])(?:[._]|$)",
    re.IGNORECASE,
)
# The factor that meets the input first, and the one that ends in the output: one of the two starts at zero.
ADAPTER_DOWN = re.compile(
    r"(?:lora_?(?:A|embedding_A|down)|lora\.down|_a_proj|adapter\w*\.down)\w*(?:\.|$)|_w[12]_a$|vera_A"
)
ADAPTER_UP = re.compile(
    r"(?:lora_?(?:B|embedding_B|up)|lora\.up|adapter\w*\.up)\w*(?:\.|$)|_w[12]_b$|vera_B|vera_lambda"
)

EMBEDDING_LEAF = frozenset(
    {
        "token",
        "tokens",
        "emb",
        "embs",
        "embed",
        "embeds",
        "embedding",
        "embeddings",
        "wte",
        "wpe",
        "codebook",
        "lookup",
        "embedder",
    }
)
EMBEDDING_WHOLE = frozenset({"relative_attention_bias", "shared", "pos_encoder", "vocab"})
NOT_EMBEDDING = frozenset(
    {"proj", "projection", "project", "out", "linear", "mapping", "layer", "hidden", "mlp", "fc", "dense", "norm"}
)

LINEAR_LEAF = frozenset(
    {
        "linear", "lin", "fc", "dense", "proj", "projection", "q", "k", "v", "o", "query", "key", "value", "qkv", "kv",
        "to", "mlp", "ffn", "head", "heads", "classifier", "score", "logits", "up", "down", "gate", "router",
        "in", "out", "wi", "wo", "wq", "wk", "wv", "wqkv", "attn", "decoder", "output", "pooler", "reduction", "expand",
        "w1", "w2", "w3", "fc1", "fc2", "lm", "predictions", "predictor", "hidden", "lin1", "lin2", "linear1",
        "linear2",         "modulation",
    }
)  # fmt: skip

# The convolution that a picture (grey, colour, with alpha or as latents) or a sound enters by.
PICTURE = frozenset({1, 3, 4})
STEM = re.compile(
    r"(?:^|[._])(?:conv_?[01]|stem|entry|patch\w*|conv_in|in_conv|inc|conv_input|input_conv|conv_first|first_conv|conv_proj"
    r"|to_patch_embedding|features?\.(?:conv)?0|init_conv|conv_init|conv_stem|input\w*|inp)(?:[._]|$)"
    r"|^(?:\w+\.)?0$",
    re.IGNORECASE,
)
# Weights that are zeroed on purpose, or that only a graph can prove to be trunk.
NOT_TRUNK = re.compile(
    r"(?:^|[._])(?:\w*gates?|gating|zero\w*|adaln\w*|modulation|modulate|lora\w*|ls\d?|gamma\d?|layer_?scale\w*|se"
    r"|squeeze\w*|excit\w*|cbam|ca|channel_att\w*|query|key|value|offset\w*|\w*offset|adapters?|hyper\w*|film\w*)"
    r"(?:[._]|$)"
    r"|(?:^|[._])(?:q|k|v|o|[qkvo]_proj|qkv|kv|c_attn|out|c_proj|o_proj|out_proj|proj_out|to_out|out_conv|conv_out|outc|down"
    r"|down_proj|w2|wo|wo_\d|heads?|classifier|logits|score|final\w*|last\w*)$",
    re.IGNORECASE,
)

DEPTHWISE = frozenset({"dw", "dwconv", "depthwise", "convdw", "dwc", "lepe"})
TRANSPOSED = re.compile(r"(?:de_?conv|conv_?t(?:rans|r)?(?:pose)?[d\d_]*$|conv_?trans|transpose|tconv|upconv)", re.I)
UPSAMPLING = re.compile(r"(?:^|[._])(?:ups?|upsample\w*|upscal\w*|upsampl\w*|fpn\d)(?:[._\d]|$)", re.I)

QKV = re.compile(
    r"(?:^|[._])(?:qkv|to_qkv|qkv_proj|query_key_value|wqkv|c_attn|in_proj|in_proj_qkv|qkv_layer)"
    r"(?:\.(?:base_layer|linear|c))?$",
    re.IGNORECASE,
)
KV = re.compile(r"(?:^|[._])(?:kv|to_kv|kv_proj|key_value|wkv)$", re.I)
EXPERTS = re.compile(r"(?:^|[._])(?:experts?|moe|gate_up_proj)(?:[._]|$)", re.I)

# First matrix of a feed-forward block: the one the activation of the configuration follows.
FFN_FIRST = re.compile(
    r"(?:^|[._])(?:fc1|c_fc|fc_in|wi|wi_0|gate_proj|gate_up_proj|w1|lin1|linear1|dense_h_to_4h|ffn_1"
    r"|intermediate(?:\.dense)?"
    r"|intermediate_dense|up_proj|net\.0\.proj|ff\.0|linear_1)$"
)
# First and second matrix of a feed-forward block; the first is never zeroed on purpose.
FFN_PAIRS = (
    ("intermediate.dense", "output.dense"),
    ("intermediate", "output"),
    ("intermediate_dense", "output_dense"),
    ("c_fc", "c_proj"),
    ("fc_in", "fc_out"),
    ("fc1", "fc2"),
    ("linear1", "linear2"),
    ("linear_1", "linear_2"),
    ("lin1", "lin2"),
    ("dense1", "dense2"),
    ("dense_1", "dense_2"),
    ("dense_h_to_4h", "dense_4h_to_h"),
    ("wi", "wo"),
    ("wi_0", "wo"),
    ("w1", "w2"),
    ("w_1", "w_2"),
    ("ffn_1", "ffn_2"),
    ("net.0.proj", "net.2"),
)
# Gate and value of a gated feed-forward block: the activated gate multiplies the value.
GLU = (("gate_proj", "up_proj"), ("wi_0", "wi_1"))
# Gated units by their own names, and configuration values that are no activation's name: what they apply.
GATED = {"geglu": "gelu", "swiglu": "silu", "reglu": "relu", "gelu-approximate": "gelu", "linear-silu": "silu"}
CONFIG_ACTIVATION = (
    "hidden_act",
    "hidden_activation",
    "activation_function",
    "feed_forward_proj",
    "act_fn",
    "dense_act_fn",
    "mlp_hidden_act",
    "activation",
    "act",
)
MODULE_ACTIVATION = ("act_layer", "act_fn", "activation_fn", "intermediate_act_fn", "activation_func", "activation",
                     "act", "hidden_act", "nonlinearity", "act1")  # fmt: skip

BRANCH_END = re.compile(
    r"(?:^|[._])(?:c_proj|o_proj|out_proj|down_proj|wo|proj_out|to_out(?:\.0)?|out_lin|dense_4h_to_h"
    r"|attention\.output\.dense|attention\.dense|self_attention\.dense|output\.dense|attn\.proj"
    r"|attention\.proj|resid_proj|lin2)$"
)
HEAD = re.compile(
    r"(?:^|[._])(?:lm_head|classifier|(?<!conv_)heads?|head_dist|score|logits|qa_outputs|embed_out|predictions\.decoder"
    r"|cls_score|bbox_pred|output_layer|cls_head|proj_head|final_layer\.linear)$"
)
HEAD_TOP = re.compile(
    r"^(?:module\.|model\.|net\.)*(?:fc|out|output|final|last_linear|fc_out|proj_out|to_logits|readout)$"
)
ROUTER = re.compile(r"(?:^|[._])(?:gate|router|wg|gating|gate_network|router\.layer|switch|router\.classifier)$")

GATE_WHOLE = re.compile(
    r"(?:^|[._])(?:gamma\d*|gamma_\d|layer_?scale\w*|ls\d?|lambda_?\d?|alpha\d*|resweight|re_?zero|res_scale|skip_?init"
    r"|skip_gain|gain|layer_scalar|logit_scale|logit_bias|temperature|temp|tau|D|scale|scale_\w+|scale\d|gate_msa"
    r"|gate_mlp|residual_scale"
    r"|layer_scale_\d(?:\.scale)?|lambda\d?|weight_scale|attn_gate|ffn_gate|cross_attn_attn_gate|cross_attn_mlp_gate)$"
)
GATE_PATH = re.compile(
    r"(?:^|[._])(?:adaln\w*|ada_?ln\w*|zero_conv\w*|controlnet_(?:down|mid)_block\w*"
    r"|controlnet_cond_embedding\.conv_out"
    r"|se|se_module|squeeze_excit\w*|squeezeexcitation|se_layer|se_block|modulation|norm\d?(?:_context)?\.linear"
    r"|ls\d|layer_scale\d?|zero_module|excitation|attn_gate|gate\.proj|sgu|spatial_gat\w*)(?:[._]|$)",
    re.IGNORECASE,
)
SQUEEZE_LEAF = re.compile(r"(?:^|[._])(?:conv_reduce|conv_expand|conv_squeeze|fc_squeeze|fc_expand)$")
EMBEDDING_PARAMETER = re.compile(
    r"(?:^|[._])(?:\w*cls\w*_?tok\w*|class_token|class_embedding|\w*pos\w*_?(?:emb|enc)\w*|positional_embedding"
    r"|\w*_token"
    r"|\w*_tokens|mask_token\w*|mask_embedding|mask_emb|masked_spec_embed|\w*_embed|\w*_embeds|\w*embedding\w*"
    r"|\w*embeddings"
    r"|query_pos|queries|query_tokens|prompt\w*|latents|relative_position_bias_table|rel_pos\w*|rel_\w*|pos_bias|pos"
    r"|position\w*|attention_biases|relative_position\w*|prefix\w*|height_rel|width_rel|codebook\w*|embed\w*|tokens?)$"
)
# Tables of biases that are added to the logits of an attention.
ATTENTION_BIAS = re.compile(r"(?:^|[._])(?:relative_position_bias_table|attention_biases)$")
CLOSED_FORM = re.compile(
    r"(?:^|[._])(?:a_log|a_logs|inv_freq|original_inv_freq|relative_position_index|relative_coords_table|freqs(?:_\w+)?"
    r"|pe|sin|cos|sin_?cos\w*|sinusoid\w*|sincos\w*|rope\w*|rotary\w*|blur\w*|filt|window|hann\w*|dft\w*|stft\w*|mel\w*"
    r"|masked_bias|attn_mask|causal_mask|anchors?|grid|mean|std|pixel_mean|pixel_std|betas?_schedule|alphas\w*|sqrt_\w+"
    r"|sigmas?|bins|position_ids|kernel_fixed|inv_std|triu|tril|register_mask|attention_bias_idxs)$",
    re.IGNORECASE,
)
BUFFER_WORDS = frozenset({"running_mean", "running_var", "num_batches_tracked", "running_std", "ema", "initted"})
NORM_NAME = re.compile(r"(?:norm|bn|ln|gn)(?:[._\d]|$)|(?:^|[._])(?:ln|norm|bn)\w*", re.I)
PRELU_NAME = re.compile(r"(?:^|[._])(?:act\w*|prelu\w*|relu\w*|activation\w*)$", re.I)


WRAPPERS = frozenset(
    {"base_layer", "original_module", "modules_to_save", "default", "module", "inner", "wrapped", "_orig_mod"}
)


def tokens(component: str) -> list[str]:
    """Split one path component into lower-case words: "wordEmbeddings_2" -> word, embeddings, 2.

    >>> tokens("conv1_dw")
    ['conv1', 'dw']
    >>> tokens("inProj")
    ['in', 'proj']
    """
    return [t.lower() for t in re.findall(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*|\d+", component)]


def leaf(path: str) -> str:
    """Return the last component of a module path that says something: no bare number, no wrapper."""
    for component in reversed(path.split(".")):
        if component and not component.isdigit() and component not in WRAPPERS:
            return component
    return ""


def says_linear(path: str) -> bool:
    """Whether the last words of a path are used for linear layers."""
    last = leaf(path)
    return last.lower() in LINEAR_LEAF or bool(set(tokens(last)) & LINEAR_LEAF)


def activation(name: str) -> str | None:
    """Return torch.nn.functional's name of an activation given as class, function or configuration value.

    None is an identity or a name that is not known.

    >>> activation("torch.nn.modules.activation.LeakyReLU"), activation("gated-gelu"), activation("torch.nn.Identity")
    ('leaky_relu', 'gelu', None)
    """
    last = name.rpartition(".")[2]
    if inside := GATED.get(last.lower()):
        return inside
    word = re.sub(r"^gated[-_]", "", name.partition(":")[0].rpartition(".")[2])
    row = activations.find(word)
    return row.name if row is not None and row.name not in ("identity", "linear") else None
