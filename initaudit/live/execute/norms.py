"""Normalisations, with ONNX's meaning; batch norms of graphs from torch too."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from initaudit.errors import UnsupportedError
from initaudit.live.execute.case import Case, operator


@operator("batch_norm")
def batch_norm(c: Case) -> Any:
    """Normalise each channel: by what the file tells of it, or by the batch itself."""
    x, scale, bias, mean, var = c.x(), *(c.maybe(at) for at in range(1, 5))
    epsilon = float(c.get("epsilon", 1e-5))
    asked = bool(c.get("training_mode", 1 if "training_mode" not in c.node.attrs and any(c.node.outputs[1:]) else 0))
    asked = (asked and c.node.call is None) or bool(c.get("training", False))  # below opset 14 more outputs say so
    if not (asked or c.settings.training_norms) and mean is not None and var is not None:
        return F.batch_norm(x, mean.detach(), var.detach(), scale, bias, False, 0.0, epsilon)
    if x.numel() == x.shape[1]:
        raise UnsupportedError("batch statistics of one value per channel")
    out = F.batch_norm(x, None, None, scale, bias, True, 0.0, epsilon)
    if c.count < 2 or mean is None or var is None:
        return out
    axes = [a for a in range(x.dim()) if a != 1]
    momentum = float(c.get("momentum", 0.9))
    now = x.mean(axes), x.var(axes, unbiased=False)
    moved = [old * momentum + new * (1 - momentum) for old, new in zip((mean, var), now, strict=True)]
    return out, *moved, *now


@operator("instance_norm")
def instance_norm(c: Case) -> Any:
    """Normalise each channel of each sample."""
    return F.instance_norm(c.x(), None, None, c.maybe(1), c.maybe(2), True, 0.0, float(c.get("epsilon", 1e-5)))


@operator("layer_norm")
def _layer_norm(c: Case) -> Any:
    x, scale, bias = c.x(), c.maybe(1), c.maybe(2)
    axis = int(c.get("axis", -1)) % x.dim()
    epsilon = float(c.get("epsilon", 1e-5))
    shape = x.shape[axis:]
    if scale is not None and scale.shape != shape:
        scale = scale.expand(shape)
    if bias is not None and bias.shape != shape:
        bias = bias.expand(shape)
    out = F.layer_norm(x, shape, scale, bias, epsilon)
    if c.count < 2:
        return out
    axes = tuple(range(axis, x.dim()))
    mean = x.mean(axes, keepdim=True)
    return out, mean, (x.var(axes, unbiased=False, keepdim=True) + epsilon).rsqrt()


@operator("rms_norm")
def _rms_norm(c: Case) -> Any:
    x, scale = c.x(), c.maybe(1)
    axes = tuple(range(int(c.get("axis", -1)) % x.dim(), x.dim()))
    scaling = (x.square().mean(axes, keepdim=True) + float(c.get("epsilon", 1e-5))).rsqrt()
    out = x * scaling
    return out if scale is None else out * scale, scaling


@operator("skip_layer_norm", "skip_rms_norm")
def _skip_norm(c: Case) -> Any:
    plain = c.node.op == "skip_layer_norm"
    x, scale = c.x() + c.x(1), c.x(2)
    bias = c.maybe(4 if plain else 3)
    x = x if bias is None else x + bias
    epsilon = float(c.get("epsilon", 1e-12 if plain else 1e-5))
    if plain:
        return F.layer_norm(x, x.shape[-1:], scale, c.maybe(3), epsilon), None, None, x
    return x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt() * scale, None, None, x


@operator("group_norm", "skip_group_norm")
def _group_norm(c: Case) -> Any:
    x, scale, bias = c.x(), c.maybe(1), c.maybe(2)
    skip = None
    groups = int(c.get("num_groups", c.get("groups", 1)))
    last = bool(c.get("channels_last", 1 if "groups" in c.node.attrs else 0))
    x = x.movedim(-1, 1) if last else x
    if c.node.op == "skip_group_norm":
        skip = c.x(3)
        skip = (
            skip.movedim(-1, 1)
            if last and skip.dim() == x.dim()
            else skip.reshape(*skip.shape[:2], *(1,) * (x.dim() - 2))
        )
        x = x + skip
        more = c.maybe(4)
        x = x if more is None else x + more.reshape(-1, *(1,) * (x.dim() - 2))
    channels = x.shape[1]
    if scale is not None and scale.numel() == groups != channels:  # opset 18: one per group
        scale = scale.repeat_interleave(channels // groups)
        bias = None if bias is None else bias.repeat_interleave(channels // groups)
    out = F.group_norm(x, groups, scale, bias, float(c.get("epsilon", 1e-5)))
    out = F.silu(out) if c.get("activation", 0) == 1 else out
    return (out.movedim(1, -1), x.movedim(1, -1)) if last else (out, x)


@operator("mean_variance_norm")
def _mean_variance_norm(c: Case) -> Any:
    x, axes = c.x(), tuple(c.get("axes") or (0, 2, 3))
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True).sqrt() + 1e-9)


@operator("l2_norm")
def _lp_norm(c: Case) -> Any:
    x, axis, p = c.x(), int(c.get("axis", -1)), float(c.get("p", 2))
    length = torch.linalg.vector_norm(x, p, axis, keepdim=True)
    return torch.where(length == 0, torch.zeros_like(x), x / torch.where(length == 0, torch.ones_like(length), length))


@operator("local_response_norm")
def _lrn(c: Case) -> Any:
    x, size = c.x(), int(c.get("size", 1))
    before = (size - 1) // 2
    square = F.pad(x.square().movedim(1, -1), (before, size - 1 - before)).unfold(-1, size, 1).sum(-1).movedim(-1, 1)
    alpha, beta, bias = c.get("alpha", 1e-4), c.get("beta", 0.75), c.get("bias", 1.0)
    return x / (bias + alpha / size * square) ** beta
