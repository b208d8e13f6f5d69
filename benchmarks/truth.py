"""What is true of a live model: kind and fans of every parameter, and the activation that follows it.

Nothing here comes from initaudit. Kinds and fans are read off the modules' own attributes. The activation is seen in
the running source: every torch function that one forward pass calls is recorded together with the very tensor objects
it takes and returns, and a weight's output is followed from call to call until an activation or the next weight.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from benchmarks import calls

NORMS = ("norm", "affine")  # part of the class name of a normalisation layer, lower case
FUSED = {  # the last part of a linear layer's name -> operators it stacks along its outputs
    "qkv": 3,
    "c_attn": 3,
    "query_key_value": 3,
    "qkv_proj": 3,
    "kv": 2,
    "gate_up_proj": 2,
}


def of(model: Any, inputs: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return one record per parameter name (ties included).

    `fans` lists every pair (fan_in, fan_out) that is right: a stack of two gates can be told gate by gate or as one
    operator, and a tied weight read at either of its places. It is empty where the operator has none (norm, bias,
    vector) and `scored` is false where the modules do not determine them. `print` recognises the values in a file that
    renamed, transposed or rescaled them.
    """
    records: dict[str, dict[str, Any]] = {}
    owners: dict[str, int] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            full = f"{path}.{name}" if path else name
            kind, fan_in, fan_out, scored = _read(module, name, parameter, path, model)
            scored = scored and not (fan_out and fan_out[0] != parameter.shape[0] and _unequal(model, path))
            owners[full] = id(parameter)
            records[full] = {
                "shape": list(parameter.shape),
                "size": parameter.numel(),
                "kind": kind,
                "fans": [[fan_in, out] for out in fan_out] if fan_in is not None and fan_out is not None else [],
                "scored": scored,
                "class": type(module).__name__,
                "print": fingerprint(parameter.detach().numpy()) if parameter.dim() > 1 else None,
            }
    seen = calls.activations(model, inputs)
    known = {id(p): seen.get(n) for n, p in model.named_parameters()}
    for name, record in records.items():
        answer = known.get(owners[name])
        record["activation"] = answer.name if answer else None
        record["activation_known"] = bool(answer and answer.sure)
        record["scored"] = record["scored"] and not (answer and answer.joined)
        tied = [records[other]["fans"] for other, owner in owners.items() if owner == owners[name] and other != name]
        record["fans"] = record["fans"] + [fans for more in tied for fans in more if fans not in record["fans"]]
    return records


def _unequal(model: Any, path: str) -> bool:
    """Whether the attention that owns a fused projection has queries, keys and values of different widths."""
    while path:
        path = path.rpartition(".")[0]
        owner = model.get_submodule(path)
        if getattr(owner, "val_dim", None) != getattr(owner, "key_dim", None):
            return True
        if getattr(owner, "num_key_value_groups", 1) != 1 or getattr(owner, "multi_query", False):
            return True
    return False


def fingerprint(values: Any) -> list[float] | None:
    """Measures of the values that survive a transpose, a new order and a common factor; None for a constant."""
    flat = np.asarray(values, np.float64).reshape(-1)
    spread = float(flat.std()) if flat.size else 0.0
    if not spread > 0:
        return None
    sign = 1.0 if abs(flat.max()) >= abs(flat.min()) else -1.0
    flat = flat * (sign / spread)
    return [
        float(flat.min()),
        float(flat.max()),
        float(flat.mean()),
        float(np.abs(flat).mean()),
        float((flat**3).mean()),
    ]


Reading = tuple[str, float | None, list[float] | None, bool]
VECTOR: Reading = ("vector", None, None, True)


def _read(module: Any, name: str, parameter: Any, path: str, root: Any) -> Reading:
    """Kind, fan_in, acceptable fan_outs, and whether the modules determine them."""
    from torch import nn
    from torch.nn.utils import parametrize

    if isinstance(module, parametrize.ParametrizationList):
        owner = root.get_submodule(path.rpartition(".parametrizations.")[0])
        target = path.rpartition(".")[2]
        if parameter.dim() < 2 or name == "original0":  # original0 of weight_norm is the magnitude
            return ("norm", None, None, True) if name == "original0" else VECTOR
        return _read(owner, target, parameter, path.rpartition(".parametrizations.")[0], root)
    name = name.removesuffix("_orig") if name == "weight_orig" else name
    if name == "weight_g":
        return "norm", None, None, True
    if name == "weight_v":
        name = "weight"
    for rule in (_bias, _attention, _recurrent, _conv, _linear, _embedding, _norm, _experts):
        found = rule(module, name, parameter, path)
        if found is not None:
            return found
    if parameter.dim() <= 1 or max(parameter.shape) == parameter.numel():
        return VECTOR
    if isinstance(module, nn.Bilinear) and name == "weight":
        return "bilinear", parameter.shape[1] * parameter.shape[2], [parameter.shape[0]], False
    return "other", None, None, False


def _bias(module: Any, name: str, parameter: Any, path: str) -> Reading | None:
    return (
        ("bias", None, None, True)
        if name.startswith("bias") or (name.endswith("_bias") and parameter.dim() < 2)
        else None
    )


def _attention(module: Any, name: str, parameter: Any, path: str) -> Reading | None:
    from torch import nn

    if not isinstance(module, nn.MultiheadAttention):
        return None
    if name == "in_proj_weight":
        return "attention", module.embed_dim, [module.embed_dim], True
    width = {"q_proj_weight": module.embed_dim, "k_proj_weight": module.kdim, "v_proj_weight": module.vdim}
    return ("attention", width[name], [module.embed_dim], True) if name in width else None


def _recurrent(module: Any, name: str, parameter: Any, path: str) -> Reading | None:
    from torch import nn

    if not isinstance(module, nn.RNNBase | nn.RNNCellBase):
        return None
    kind = module.mode.partition("_")[0].lower() if isinstance(module, nn.RNNBase) else "rnn"
    if name.startswith("weight_hr"):
        return kind, module.hidden_size, [module.proj_size], True
    return kind, parameter.shape[1], [module.hidden_size], True


def _conv(module: Any, name: str, parameter: Any, path: str) -> Reading | None:
    from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

    if not isinstance(module, _ConvNd) or name != "weight":
        return None
    kernel = math.prod(module.kernel_size)
    inward, outward = module.in_channels // module.groups, module.out_channels // module.groups
    if isinstance(module, _ConvTransposeNd):
        return "conv_transpose", inward * kernel / math.prod(module.stride), [outward * kernel], True
    parts = FUSED.get(path.rpartition(".")[2], 1)
    return "conv", inward * kernel, [outward * kernel / parts], module.groups == 1 or parts == 1


def _linear(module: Any, name: str, parameter: Any, path: str) -> Reading | None:
    from torch import nn

    inward, outward = getattr(module, "in_features", None), getattr(module, "out_features", None)
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):  # GPT-2's linear layer
        inward, outward = parameter.shape[0], module.nf
    if name != "weight" or not isinstance(inward, int) or not isinstance(outward, int):
        return None
    if isinstance(module, nn.Bilinear):
        return None
    pieces = path.split(".")
    leaf = next((piece for piece in reversed(pieces) if piece not in {"base_layer", "c", "linear"}), "")
    parts = FUSED.get(leaf, 1) if "lora_A" not in pieces and "lora_B" not in pieces else 1
    if "lora_A" in pieces or "lora_B" in pieces:
        fused = any(piece in FUSED for piece in pieces)
        return "linear", inward, [outward], not (fused and "lora_B" in pieces)
    whole = [outward / parts] if leaf != "gate_up_proj" else [outward / 2, outward]
    return "linear", inward, whole, outward % parts == 0


def _embedding(module: Any, name: str, parameter: Any, path: str) -> Reading | None:
    from torch import nn

    return ("embedding", 1, [parameter.shape[1]], True) if isinstance(module, nn.Embedding | nn.EmbeddingBag) else None


def _norm(module: Any, name: str, parameter: Any, path: str) -> Reading | None:
    kind = type(module).__name__.lower()
    if parameter.dim() <= 1 and name in {"weight", "scale", "gamma"} and any(word in kind for word in NORMS):
        return "norm", None, None, True
    return None


def _experts(module: Any, name: str, parameter: Any, path: str) -> Reading | None:
    """Routers, and stacked experts of transformers: [E, out, in], gate and up side by side along out."""
    if parameter.dim() == 2 and type(module).__name__.endswith("Router"):
        return "linear", parameter.shape[1], [parameter.shape[0]], True
    if parameter.dim() != 3 or "Experts" not in type(module).__name__:
        return None
    if name == "gate_up_proj":
        return "linear", parameter.shape[2], [parameter.shape[1] / 2, parameter.shape[1]], True
    if name == "down_proj":
        return "linear", parameter.shape[2], [parameter.shape[1]], True
    return ("linear", parameter.shape[1], [parameter.shape[2]], True) if name in {"w1", "w2"} else None
