"""Small networks, each with a part that a tag names: experts, cells, gates, attention in several spellings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

L = nn.Linear


class Net(nn.Module):
    """Takes its submodules and parameters as keywords, so that a network is its forward."""

    def __init__(self, forward: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *args: Any) -> Any:
        return self.run(self, *args)


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) * 0.1)


def looped_experts(s: Any, x: Any) -> Any:
    x = s.inp(x)
    h = s.norm(x).view(-1, 16)
    share, chosen = torch.topk(F.softmax(s.gate(h), 1), 2, -1)
    out, mask = torch.zeros_like(h), F.one_hot(chosen, 2).permute(2, 1, 0)
    for n, (up, down) in enumerate(((s.up0, s.down0), (s.up1, s.down1))):
        which, token = torch.where(mask[n])
        out.index_add_(0, token, down(F.silu(up(h[token]))) * share[token, which, None])
    return s.head(x + out.view(x.shape))


def dispatched_experts(s: Any, x: Any) -> Any:
    x = s.inp(x)
    top, index = F.softmax(s.router(x), -1).max(-1)
    mask = F.one_hot(index, 4).to(x.dtype)
    h = F.relu(torch.einsum("ebtd,edf->ebtf", torch.einsum("bte,btd->ebtd", mask, x), s.up))
    y = torch.einsum("ebtd,bte->btd", torch.einsum("ebtf,efd->ebtd", h, s.down), mask * top[..., None])
    return s.head(x + y)


def shared_out(s: Any, x: Any) -> Any:
    """All experts run; a softmax gives each its share."""
    x = F.relu(s.inp(x))
    share = F.softmax(s.router(x), -1)
    return s.head(share[:, :1] * s.one(x) + share[:, 1:] * s.two(x))


def modulated(s: Any, x: Any, t: Any) -> Any:
    """adaLN-zero, as in DiT."""
    x = s.inp(x)
    shift, scale, gate = s.ada(F.silu(s.time(t))).chunk(3, 1)
    h = s.norm(x) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)
    x = x + gate.unsqueeze(1) * s.out(F.scaled_dot_product_attention(s.q(h), s.k(h), s.v(h)))
    return s.head(x)


def table_modulated(s: Any, x: Any, t: Any) -> Any:
    """adaLN-single, as in PixArt: pieces along an axis of their own, broadcast without a view."""
    x = s.inp(x)
    shift, scale, gate = (s.table[None] + s.time(t).reshape(x.shape[0], 3, -1)).chunk(3, 1)
    return s.head(x + gate * s.down(F.gelu(s.up(s.norm(x) * (1 + scale) + shift))))


def gru_by_hand(s: Any, tokens: Any) -> Any:
    x, h = s.embed(tokens), torch.zeros(tokens.shape[0], 12)
    for step in range(tokens.shape[1]):
        z = torch.sigmoid(s.wz(x[:, step]) + s.uz(h))
        h = (1 - z) * torch.tanh(s.wn(x[:, step]) + s.un(z * h)) + z * h
    return s.head(h)


def again(s: Any, x: Any) -> Any:
    """One block several times over is no recurrence: nothing new comes in."""
    x = s.inp(x)
    for _ in range(4):
        x = x + s.down(F.relu(s.up(s.norm(x))))
    return s.head(x)


def deep_supervision(s: Any, x: Any) -> Any:
    for layer in s.first:
        x = F.relu(layer(x))
    side = s.aux(x)
    for layer in s.rest:
        x = F.relu(layer(x))
    return s.head(x), side


def controlled(s: Any, x: Any, hint: Any) -> Any:
    """A U-Net and a ControlNet whose zero convolutions add to its skip connections."""
    a = s.inp(x)
    b = s.down(F.silu(a))
    c = s.copy1(F.silu(s.inp2(x) + s.hint(hint)))
    d = s.copy2(F.silu(c))
    y = s.up(torch.cat([F.interpolate(F.silu(b + s.zero2(d)), scale_factor=2), a + s.zero1(c)], 1))
    return s.out(F.silu(y))


def alibi(s: Any, tokens: Any) -> Any:
    x = s.embed(tokens)
    n = x.shape[1]
    q, k, v = s.qkv(x).view(*x.shape[:2], 3, 2, 8).unbind(2)
    places = torch.arange(n)
    logits = torch.einsum("bihd,bjhd->bhij", q, k) / 8**0.5 + (places[None] - places[:, None])[None, None] * 0.5
    logits = logits.masked_fill(torch.triu(torch.ones(n, n, dtype=torch.bool), 1), -1e9)
    return s.head(x + s.out(torch.einsum("bhij,bjhd->bihd", logits.softmax(-1), v).flatten(2)))


def graph_attention(s: Any, x: Any, edges: Any) -> Any:
    h = s.lin(x).view(-1, 2, 8)
    here, there = (h * s.here).sum(-1), (h * s.there).sum(-1)
    share = torch.exp(F.leaky_relu(here[edges[0]] + there[edges[1]], 0.2))
    share = share / torch.zeros(x.shape[0], 2).index_add(0, edges[1], share)[edges[1]]
    return s.head(F.elu(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]] * share[..., None])).flatten(1))


def pooled_attention(s: Any, x: Any) -> Any:
    h = F.relu(s.inp(x))
    share = torch.softmax(s.ask(torch.tanh(s.mix(h))), 1)
    return s.head((share * s.keep(h)).sum(1))


def linear_attention(s: Any, x: Any) -> Any:
    x = s.inp(x)
    q, k, v = F.elu(s.q(x)) + 1, F.elu(s.k(x)) + 1, s.v(x)
    z = 1 / (torch.einsum("bnd,bd->bn", q, k.sum(1)) + 1e-6)
    mixed = torch.einsum("bnd,bde,bn->bne", q, torch.einsum("bnd,bne->bde", k, v), z)
    return s.head(x + s.out(mixed))


def latent_attention(s: Any, x: Any) -> Any:
    """DeepSeek's: a part of the keys is rotated and shared by the heads."""
    x = s.inp(x)
    b, t, _ = x.shape
    q, q_turned = s.q_up(s.q_norm(s.q_down(x))).view(b, t, 2, 16).transpose(1, 2).split([12, 4], -1)
    low, k_turned = s.kv_down(x).split([12, 4], -1)
    k, v = s.kv_up(s.kv_norm(low)).view(b, t, 2, 20).transpose(1, 2).split([12, 8], -1)
    angle = (torch.arange(t)[:, None] * torch.tensor([1.0, 0.1])).repeat(1, 2)
    turn = lambda y: y * angle.cos() + torch.cat([-y[..., 2:], y[..., :2]], -1) * angle.sin()  # noqa: E731
    q = torch.cat([q, turn(q_turned)], -1)
    k = torch.cat([k, turn(k_turned[:, None]).expand(b, 2, t, 4)], -1)
    return s.head(x + s.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)))


def stochastic(s: Any, x: Any) -> Any:
    """ConvNeXt's block in training: LayerScale, then a branch dropped at random."""
    x = s.stem(x)
    y = s.depth(x).permute(0, 2, 3, 1)
    y = (s.gamma * s.down(F.gelu(s.up(s.norm(y))))).permute(0, 3, 1, 2)
    keep = (0.9 + torch.rand((x.shape[0], 1, 1, 1))).floor_()
    return s.head((x + y.div(0.9) * keep).mean((2, 3)))


def parallel(s: Any, x: Any) -> Any:
    """Two branches of one block, added one after the other (PaLM)."""
    x = s.inp(x)
    h = s.norm(x)
    x = x + s.out(F.scaled_dot_product_attention(s.q(h), s.k(h), s.v(h))) + s.down(F.gelu(s.up(h)))
    return s.head(x)


def shortcut(s: Any, x: Any) -> Any:
    x = F.relu(s.stem(x))
    x = F.relu(s.bn(s.conv2(F.relu(s.conv1(x)))) + s.short(F.avg_pool2d(x, 2)))
    x = x * torch.sigmoid(s.excite(F.silu(s.squeeze(x.mean((2, 3), keepdim=True)))))
    return s.head(x.mean((2, 3)))


def pyramid(s: Any, x: Any) -> Any:
    """Feature pyramid: its sums are of two levels, neither a branch of the other."""
    a = F.relu(s.low(x))
    b = F.relu(s.high(a))
    top = s.side2(b)
    return s.out2(top), s.out1(s.side1(a) + F.interpolate(top, scale_factor=2))


def lora(s: Any, x: Any) -> Any:
    x = s.inp(x)
    h = s.norm(x)
    q = s.q(h) + 0.5 * s.qb(s.qa(h))
    x = x + s.out(F.scaled_dot_product_attention(q, s.k(h), s.v(h)))
    h = s.base(F.relu(s.up(x)))
    return s.head(x + h + 0.5 * s.b(s.a(F.relu(s.up(x)))))


def queries(s: Any, x: Any) -> Any:
    x, z = F.relu(s.inp(x)), s.latents.expand(x.shape[0], -1, -1)
    z = z + s.attend(z, x, x, need_weights=False)[0]
    return s.head((z + s.down(F.gelu(s.up(s.norm(z))))).mean(1))


def tied(s: Any, tokens: Any) -> Any:
    x = s.words(tokens) + s.places(torch.arange(tokens.shape[1])) + s.kinds(torch.zeros_like(tokens))
    x = s.norm(x)
    return F.linear(s.norm2(x + s.down(F.relu(s.up(x)))), s.words.weight)
