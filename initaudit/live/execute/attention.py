"""Attention as one operation: ONNX's own and those of ONNX Runtime; rotary positions."""

from __future__ import annotations

import math
from typing import Any

import torch

from initaudit.errors import UnsupportedError
from initaudit.live.execute.case import Case, operator


@operator("attention")
def _attention(c: Case) -> Any:
    return _with_projection(c) if "num_heads" in c.node.attrs else _plain(c)


def _heads(x: torch.Tensor, count: int) -> torch.Tensor:
    """(batch, length, channels) -> (batch, head, length, channels of a head)."""
    return x.reshape(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


def _joined(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    """Return the weights; those of a query that may look at nothing are 0."""
    nothing = (scores == -math.inf).all(-1, keepdim=True)
    return torch.softmax(scores.masked_fill(nothing, 0.0), -1).masked_fill(nothing, 0.0)


def _plain(c: Case) -> Any:
    q, k, v = c.x(), c.x(1), c.x(2)
    flat = q.dim() == 3
    if flat:
        many, few = int(c.get("q_num_heads", 1)), int(c.get("kv_num_heads", 1))
        q, k, v = _heads(q, many), _heads(k, few), _heads(v, few)
    past = c.maybe(4)
    if past is not None:
        k, v = torch.cat([past, k], 2), torch.cat([c.x(5), v], 2)
    keys, values = k, v
    if q.shape[1] != k.shape[1]:
        k, v = (t.repeat_interleave(q.shape[1] // k.shape[1], 1) for t in (k, v))
    scale = math.sqrt(float(c.get("scale", 1 / math.sqrt(q.shape[-1]))))
    raw = (q * scale) @ (k * scale).transpose(-1, -2)
    scores = raw
    cap = float(c.get("softcap", 0.0))
    if cap > 0:
        scores = cap * torch.tanh(scores / cap)
    capped = scores
    scores = scores + _bias(c, q, k, 0 if past is None else past.shape[2])
    weights = _softmax(scores)
    out = weights @ v
    shown = {0: raw, 1: capped, 2: scores, 3: weights}.get(int(c.get("qk_matmul_output_mode", 0)), raw)
    return _joined(out) if flat else out, keys, values, shown


def _bias(c: Case, q: torch.Tensor, k: torch.Tensor, past: int) -> torch.Tensor:
    """Return what is added to the scores: the mask, causality, and an end for keys that only fill up."""
    length, total = q.shape[2], k.shape[2]
    bias = torch.zeros(length, total, dtype=q.dtype)
    mask = c.maybe(3)
    if mask is not None:
        add = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else mask
        if add.shape[-1] < total:
            fill = add.new_full((*add.shape[:-1], total - add.shape[-1]), -math.inf)
            add = torch.cat([add, fill], -1)
        bias = bias + add
    real = c.maybe(6)
    offset = torch.tensor(past).reshape(1, 1, 1, 1) if real is None else (real - length).reshape(-1, 1, 1, 1)
    ahead = torch.arange(total) - torch.arange(length).unsqueeze(1) - offset  # how far a key lies after its query
    hidden = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    if c.get("is_causal", 0):
        hidden = hidden | (ahead > 0)
    left, right = int(c.get("left_window_size", -1)), int(c.get("right_window_size", -1))
    hidden = hidden | (ahead < -left) if left >= 0 else hidden
    hidden = hidden | (ahead > right) if right >= 0 else hidden
    if real is not None:
        hidden = hidden | (torch.arange(total) >= real.reshape(-1, 1, 1, 1))
    return bias.masked_fill(hidden, -math.inf)


def _with_projection(c: Case) -> Any:
    """ONNX Runtime's: the projections of query, key and value are inside."""
    x, weight, bias, mask = c.x(), c.x(1), c.maybe(2), c.maybe(3)
    if c.maybe(4) is not None or c.get("do_rotary", 0):
        raise UnsupportedError("attention with a past or rotary positions")
    count = int(c.get("num_heads"))
    packed = x @ weight
    packed = packed if bias is None else packed + bias
    sizes = [int(v) for v in c.get("qkv_hidden_sizes", [weight.shape[1] // 3] * 3)]
    q, k, v = (_heads(part, count) for part in packed.split_with_sizes(sizes, -1))
    extra = c.maybe(5)
    out = _mixed(c, q, k, v, [_keys(mask, q, k), extra], bool(c.get("unidirectional", 0)))
    return out, torch.stack([k, v])


def _keys(mask: torch.Tensor | None, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor | None:
    """Return what a mask of keys adds to the scores: 1 for each that counts, or how many do."""
    if mask is None:
        return None
    if mask.dim() == 1:
        mask = torch.arange(k.shape[2]) < mask[: q.shape[0]].unsqueeze(1)
    mask = mask.reshape(mask.shape[0], *(1,) * (4 - mask.dim()), *mask.shape[1:])
    return torch.zeros(mask.shape, dtype=q.dtype).masked_fill(mask == 0, -10000.0)


def _mixed(
    c: Case, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, added: list[torch.Tensor | None], causal: bool
) -> torch.Tensor:
    scores = q @ k.transpose(-1, -2) * (float(c.get("scale", 0.0)) or 1 / math.sqrt(q.shape[-1]))
    for one in added:
        scores = scores if one is None else scores + one
    if causal:
        later = torch.ones(q.shape[2], k.shape[2]).triu(1 + k.shape[2] - q.shape[2]).bool()
        scores = scores.masked_fill(later, -math.inf)
    return _joined(_softmax(scores) @ v)


@operator("multi_head_attention")
def _multi_head(c: Case) -> Any:
    q, k, v, bias = c.x(), c.maybe(1), c.maybe(2), c.maybe(3)
    count = int(c.get("num_heads", 1))
    if q.dim() != 3 or k is None or v is None or c.maybe(6) is not None:
        raise UnsupportedError("multi-head attention of packed values or with a past")
    if bias is not None:
        b_q, b_k, b_v = bias.split_with_sizes([q.shape[-1], q.shape[-1], bias.shape[0] - 2 * q.shape[-1]])
        q, k, v = q + b_q, k + b_k if k.dim() == 3 else k, v + b_v if v.dim() == 3 else v
    q = _heads(q, count)
    k = _heads(k, count) if k.dim() == 3 else k
    v = _heads(v, count) if v.dim() == 3 else v
    out = _mixed(c, q, k, v, [_keys(c.maybe(4), q, k), c.maybe(5)], bool(c.get("unidirectional", 0)))
    return out, k, v


@operator("rotary_embedding")
def _rotary(c: Case) -> Any:
    x, second = c.x(), c.x(1)
    if second.is_floating_point():  # ONNX: tables before positions
        cos, sin, places = second, c.x(2), c.maybe(3)
    else:
        cos, sin, places = c.x(2), c.x(3), second
    count, flat = int(c.get("num_heads", 0)), x.dim() == 3
    size = int(c.get("rotary_embedding_dim", 0))
    if flat:
        count = count or x.shape[-1] // (size or 2 * cos.shape[-1])
        x = _heads(x, count)
    size = size or x.shape[-1]
    if places is not None:
        if places.numel() == 1 and x.shape[2] > 1:
            places = places.reshape(1, 1) + torch.arange(x.shape[2])
        cos, sin = cos[places], sin[places]
    out = _turned(x, cos.unsqueeze(1), sin.unsqueeze(1), size, bool(c.get("interleaved", 0)))
    return _joined(out) if flat else out


def _turned(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, size: int, interleaved: bool) -> torch.Tensor:
    """Return heads with the first `size` of their channels turned by their positions."""
    turned, rest = x[..., :size], x[..., size:]
    if interleaved:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack([a * cos - b * sin, b * cos + a * sin], -1).flatten(-2)
    else:
        a, b = turned.chunk(2, -1)
        turned = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
    return torch.cat([turned, rest], -1)


@operator("group_query_attention")
def _group_query(c: Case) -> Any:
    """ONNX Runtime's for language models: causal, rotary positions inside, behind a past that may be empty."""
    many, few = int(c.get("num_heads", 1)), int(c.get("kv_num_heads", 1))
    x, k, v = c.x(), c.maybe(1), c.maybe(2)
    if any(c.maybe(at) is not None for at in (9, 10, 11)) or c.get("smooth_softmax", 0):
        raise UnsupportedError("grouped attention with positions, a bias or sinks of its own")
    if k is None or v is None:
        width = x.shape[-1] // (many + 2 * few)
        x, k, v = x.split_with_sizes([many * width, few * width, few * width], -1)
    q, k, v = _heads(x, many), _heads(k, few), _heads(v, few)
    past = c.maybe(3)
    before = 0 if past is None else past.shape[2]
    if c.get("do_rotary", 0):
        places = before + torch.arange(q.shape[2])
        cos, sin = c.x(7)[places], c.x(8)[places]
        q, k = (_turned(t, cos, sin, 2 * cos.shape[-1], bool(c.get("rotary_interleaved", 0))) for t in (q, k))
    if past is not None:
        k, v = torch.cat([past, k], 2), torch.cat([c.x(4), v], 2)
    keys, values = (t.repeat_interleave(many // few, 1) for t in (k, v))
    scores = q @ keys.transpose(-1, -2) * (float(c.get("scale", 0.0)) or 1 / math.sqrt(q.shape[-1]))
    cap, window = float(c.get("softcap", 0.0)), int(c.get("local_window_size", -1))
    scores = cap * torch.tanh(scores / cap) if cap else scores
    ahead = torch.arange(keys.shape[2]) - torch.arange(q.shape[2]).unsqueeze(1) - before
    hidden = (ahead > 0) | (ahead <= -window) if window > 0 else ahead > 0
    return _joined(_softmax(scores.masked_fill(hidden, -math.inf)) @ values), k, v
