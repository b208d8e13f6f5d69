"""The row that a scheme comes to at a tensor: torch's default depends on the kind, LSUV starts with a draw."""

from __future__ import annotations

import re

from initaudit.errors import UsageError
from initaudit.schemes.layers import fans_of
from initaudit.schemes.reading import parse
from initaudit.schemes.row import Scheme, Value
from initaudit.types import Layer, Tensor

_RECURRENT = ("lstm", "gru", "rnn")
_ATTENTION = re.compile(r"(?:^|[._])(?:in_proj|q_proj|k_proj|v_proj)_(?:weight|bias)$")  # of MultiheadAttention
_STATISTICS = {"running_mean": "zeros", "running_var": "ones", "num_batches_tracked": "zeros"}


def resolve(text: str, layer: Layer, tensor: Tensor) -> tuple[Scheme, dict[str, Value]]:
    """Return row and parameters of what is drawn for a tensor of a layer.

    "torch-default" without a kind is what torch draws there; "lsuv" starts orthonormal; every other scheme is itself.

    Raises:
        UsageError: no such scheme, "auto", which must have been chosen from before, or torch has no default for it.
    """
    row, params = parse(text)
    if row.name == "torch-default" and not params:
        return torch_default(layer, tensor)
    if row.name == "lsuv":
        return parse("orthonormal")
    if row.name == "auto":
        raise UsageError(f"{tensor.name}: auto is no scheme of one tensor")
    return row, params


def torch_default(layer: Layer, tensor: Tensor) -> tuple[Scheme, dict[str, Value]]:
    """Return row and parameters of what torch.nn draws for a tensor of a layer.

    Source: torch.nn, reset_parameters of Linear, _ConvNd (its ConvTranspose counts out / groups * kernel as fan_in),
    RNNBase (1 / sqrt(hidden size) for all), Embedding, Bilinear, MultiheadAttention, the norms and PReLU.

    Raises:
        UsageError: a parameter that no module of torch.nn has.
    """
    local = tensor.name.rpartition(".")[2]
    weight = tensor.name == layer.weight.name and tensor.shape == layer.weight.shape
    if local in _STATISTICS:
        return parse(_STATISTICS[local])
    if layer.kind == "norm":
        return parse("ones" if weight else "zeros")
    if layer.kind == "prelu":
        return parse("constant:value=0.25")
    if layer.kind == "embedding" and weight:
        return parse("normal:std=1")
    if _ATTENTION.search(layer.name) or (layer.kind == "attention" and layer.parts):
        return parse("xavier-uniform:fans=torch" if weight else "zeros")
    fans = fans_of(layer)
    if fans is None or layer.kind == "embedding":
        raise UsageError(f"{tensor.name}: torch has no default for a bare parameter; name another scheme")
    fan = fans.fan_in
    if layer.kind == "conv_transpose" or (layer.kind in _RECURRENT and not re.search(r"_hr(?:_|$)", layer.name)):
        fan = fans.fan_out
    elif layer.kind == "bilinear":
        fan = float(layer.weight.shape[layer.axes.index("i")])
    row, params = parse("uniform")
    return row, {**params, "bound": max(fan, 1e-300) ** -0.5}
