"""Hand-written networks whose activations and weights are mostly no modules.

Bare Parameters, functions instead of activation modules, formulas spelled out, in-place calls, shared layers, ties.
What follows each weight is written in graphs_truths.py.
"""

# ruff: noqa: D102  (forward is what torch calls it)

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (as everyone calls it)
from torch.nn.utils import parametrizations


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / math.sqrt(shape[-1]))


class Gat(nn.Module):
    """Two graph-attention layers on bare Parameters, after Velickovic et al. 2018 (pyGAT's arithmetic)."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.a1 = _weight(16, 24), _weight(48, 1)
        self.w2, self.a2 = _weight(24, 7), _weight(14, 1)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        h = F.elu(self._attend(x, adjacency, self.w1, self.a1))
        return F.log_softmax(F.elu(self._attend(h, adjacency, self.w2, self.a2)), dim=1)

    def _attend(self, x: Tensor, adjacency: Tensor, w: Tensor, a: Tensor) -> Tensor:
        h = torch.mm(x, w)
        half = w.shape[1]
        scores = F.leaky_relu(h @ a[:half] + (h @ a[half:]).T, 0.2)
        scores = torch.where(adjacency > 0, scores, torch.full_like(scores, -9e15))
        return F.softmax(scores, dim=1) @ h


class Gcn(nn.Module):
    """Graph convolution with basis-free relational weights: a stack of matrices applied by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.relations = nn.Parameter(torch.randn(3, 12, 20) * 0.2)
        self.own = _weight(12, 20)
        self.out = nn.Linear(20, 5)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        messages = torch.einsum("rnm,md,rdh->nh", edges, x, self.relations)
        return self.out(torch.relu(messages + x @ self.own))


class LstmLm(nn.Module):
    """Word-level language model, the decoder tied to the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(90, 32)
        self.rnn = nn.LSTM(32, 32, 2, dropout=0.2)
        self.decoder = nn.Linear(32, 90)
        self.decoder.weight = self.encoder.weight
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        out, _ = self.rnn(F.dropout(self.encoder(tokens), 0.2, self.training))
        return F.log_softmax(self.decoder(out), dim=-1)


class BareCnn(nn.Module):
    """A convolutional net without a single layer module."""

    def __init__(self) -> None:
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(8, 3, 3, 3) * 0.2), nn.Parameter(torch.zeros(8))
        self.w2, self.b2 = nn.Parameter(torch.randn(16, 8, 3, 3) * 0.1), nn.Parameter(torch.zeros(16))
        self.w3, self.b3 = _weight(32, 16), nn.Parameter(torch.zeros(32))
        self.w4 = _weight(5, 32)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(F.conv2d(x, self.w1, self.b1, padding=1)), 2)
        x = F.leaky_relu(F.conv2d(x, self.w2, self.b2, stride=2, padding=1), 0.1).mean((2, 3))
        return F.linear(torch.tanh(F.linear(x, self.w3, self.b3)), self.w4)


class InPlace(nn.Module):
    """Activations that overwrite their argument, after sums that do too."""

    def __init__(self) -> None:
        super().__init__()
        self.c1, self.c2, self.c3 = (nn.Conv2d(i, o, 3, padding=1) for i, o in ((3, 8), (8, 8), (8, 8)))
        self.n1, self.n2 = nn.BatchNorm2d(8), nn.GroupNorm(2, 8)
        self.c4 = nn.Conv2d(8, 12, 1)
        self.fc = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.n1(self.c1(x))
        x.relu_()
        y = F.elu_(self.n2(self.c2(x)))
        y = self.c3(y)
        y += x
        F.leaky_relu_(y, 0.2)
        z = self.c4(y).clamp_(min=0)
        return self.fc(z.mean((2, 3))).sigmoid_()


class Shared(nn.Module):
    """One layer called several times, and one encoder for two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(10, 24)
        self.step = nn.Linear(24, 24)
        self.out = nn.Linear(24, 6)

    def encode(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.inp(x))
        for _ in range(3):
            h = torch.tanh(self.step(h))
        return F.normalize(self.out(h), dim=-1)

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return (self.encode(left) * self.encode(right)).sum(-1)


class Siren(nn.Module):
    """Sinusoidal representation network (Sitzmann et al. 2020)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, 48) for i in (2, 48, 48))
        self.out = nn.Linear(48, 1)
        for i, layer in enumerate(self.layers):
            bound = 1 / 2 if i == 0 else math.sqrt(6 / 48) / 30
            nn.init.uniform_(layer.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.sin(30 * layer(x))
        return self.out(x)


class Gated(nn.Module):
    """Gated units in the forms in which people write them."""

    def __init__(self) -> None:
        super().__init__()
        self.glu = nn.Linear(16, 48)
        self.gate, self.up, self.down = nn.Linear(24, 40), nn.Linear(24, 40), nn.Linear(40, 24)
        self.filter, self.sieve = nn.Conv1d(24, 20, 3, padding=1), nn.Conv1d(24, 20, 3, padding=1)
        self.mix = nn.Conv1d(20, 24, 1)
        self.carry, self.hidden = nn.Linear(24, 24), nn.Linear(24, 24)
        self.out = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.glu(self.glu(x), dim=-1)
        x = x + self.down(F.gelu(self.gate(x)) * self.up(x))
        y = x.transpose(1, 2)
        y = self.mix(torch.tanh(self.filter(y)) * torch.sigmoid(self.sieve(y)))
        x = x + y.transpose(1, 2)
        carry = torch.sigmoid(self.carry(x))
        x = carry * F.relu(self.hidden(x)) + (1 - carry) * x
        return self.out(x.mean(1))


class SpelledOut(nn.Module):
    """Activations written as formulas."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(20, 20) for _ in range(9))
        self.out = nn.Linear(20, 2)

    def forward(self, x: Tensor) -> Tensor:
        swish, mish, exact, approximate, squared, hard, leaky, rectified, largest = self.layers
        x = swish(x)
        x = mish(x * torch.sigmoid(x))
        x = exact(x * torch.tanh(F.softplus(x)))
        x = approximate(0.5 * x * (1 + torch.erf(x / math.sqrt(2))))
        x = squared(0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
        x = hard(F.relu(x) ** 2)
        x = leaky(x * F.relu6(x + 3) / 6)
        x = rectified(torch.where(x > 0, x, 0.01 * x))
        x = largest(x.clamp(min=0))
        return self.out(torch.maximum(x, torch.zeros_like(x)))


class EinsumAttention(nn.Module):
    """Multi-head attention on bare weights with a head axis, then a feed-forward part by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.wq, self.wk, self.wv = (nn.Parameter(torch.randn(24, 3, 8) * 0.2) for _ in range(3))
        self.wo = nn.Parameter(torch.randn(3, 8, 24) * 0.2)
        self.w1, self.w2 = nn.Parameter(torch.randn(24, 60) * 0.2), nn.Parameter(torch.randn(60, 24) * 0.1)
        self.norm = nn.LayerNorm(24)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("btd,dhk->bhtk", x, w) for w in (self.wq, self.wk, self.wv))
        share = torch.softmax(torch.einsum("bhtk,bhsk->bhts", q, k) / math.sqrt(8), dim=-1)
        x = x + torch.einsum("bhts,bhsk,hkd->btd", share, v, self.wo)
        return x + torch.einsum("btf,fd->btd", F.gelu(torch.einsum("btd,df->btf", self.norm(x), self.w1)), self.w2)


class Cells(nn.Module):
    """A recurrent net unrolled by hand over GRUCell, and one written on bare matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(12, 20)
        self.wx, self.wh, self.bias = _weight(20, 16), _weight(16, 16), nn.Parameter(torch.zeros(16))
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, s = x.new_zeros(x.shape[0], 20), x.new_zeros(x.shape[0], 16)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            s = torch.tanh(h @ self.wx + s @ self.wh + self.bias)
        return self.head(s)


class ReZero(nn.Module):
    """Pre-activation residual blocks scaled by a learned scalar, and a squeeze-and-excite gate of functions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.first = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.second = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1) for _ in range(2))
        self.alpha = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in range(2))
        self.squeeze, self.excite = nn.Linear(16, 4), nn.Linear(4, 16)
        self.fc = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for first, second, alpha in zip(self.first, self.second, self.alpha, strict=True):
            x = x + alpha * second(F.relu(first(F.relu(x))))
        gate = torch.sigmoid(self.excite(F.silu(self.squeeze(x.mean((2, 3))))))
        return self.fc((x * gate[:, :, None, None]).amax((2, 3)))


class Nerf(nn.Module):
    """Radiance field: positional encoding, a skip by concatenation, two heads with activations of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(27, 48), nn.Linear(48, 48)
        self.third = nn.Linear(48 + 27, 48)
        self.density, self.feature = nn.Linear(48, 1), nn.Linear(48, 48)
        self.colour = nn.Sequential(nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 3), nn.Sigmoid())

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        waves = [f(2.0**k * x) for k in range(4) for f in (torch.sin, torch.cos)]
        encoded = torch.cat([x, *waves], -1)
        h = F.relu(self.second(F.relu(self.first(encoded))))
        h = F.relu(self.third(torch.cat([h, encoded], -1)))
        return F.softplus(self.density(h)), self.colour(self.feature(h))


class CausalNet(nn.Module):
    """Temporal convolutions under weight_norm, padded and cut by hand, in a residual stack."""

    def __init__(self) -> None:
        super().__init__()
        norm = parametrizations.weight_norm
        self.convs = nn.ModuleList(norm(nn.Conv1d(i, 24, 3, dilation=2**n)) for n, i in enumerate((6, 24, 24)))
        self.down = nn.Conv1d(6, 24, 1)
        self.out = nn.Linear(24, 2)

    def forward(self, x: Tensor) -> Tensor:
        for n, conv in enumerate(self.convs):
            y = F.dropout(F.relu(conv(F.pad(x, (2 * 2**n, 0)))), 0.1, self.training)
            x = F.relu(y + (self.down(x) if n == 0 else x))
        return self.out(x[:, :, -1])


class Perceiver(nn.Module):
    """Learned latents read a sequence through nn.MultiheadAttention; activations are attributes, not modules."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(5, 32) * 0.02)
        self.inp = nn.Linear(9, 32)
        self.attend = nn.MultiheadAttention(32, 4, batch_first=True)
        self.norm = nn.LayerNorm(32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)
        self.act: Callable[[Tensor], Tensor] = F.mish
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.selu(self.inp(x))
        z = self.latents.expand(x.shape[0], -1, -1)
        z = z + self.attend(z, x, x, need_weights=False)[0]
        z = z + self.down(self.act(self.up(self.norm(z))))
        return self.head(z.flatten(1).view(z.shape[0], 5, 32).mean(1))


class Switch(nn.Module):
    """Experts chosen by .item() inside Python control flow, and a router."""

    def __init__(self) -> None:
        super().__init__()
        self.inp = nn.Linear(14, 28)
        self.router = nn.Linear(28, 2)
        self.experts = nn.ModuleList(nn.ModuleList([nn.Linear(28, 56), nn.Linear(56, 28)]) for _ in range(2))
        self.out = nn.Linear(28, 6)

    def forward(self, x: Tensor) -> Tensor:
        h = F.hardswish(self.inp(x))
        share = self.router(h).softmax(-1)
        for index, (up, down) in enumerate(self.experts):
            chosen = share[:, index].mean().item() > -1  # always; a number all the same
            if chosen:
                h = h + share[:, index : index + 1] * down(F.softplus(up(h)))
        return self.out(h)


def _graph() -> tuple[Tensor, Tensor]:
    return torch.randn(11, 16), (torch.rand(11, 11) > 0.5).float() + torch.eye(11)


def _gat() -> tuple[Any, dict[str, Any]]:
    x, adjacency = _graph()
    return Gat(), {"x": x, "adjacency": adjacency}


MODELS: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    "gat": _gat,
    "gcn_relational": lambda: (Gcn(), {"x": torch.randn(11, 12), "edges": torch.rand(3, 11, 11)}),
    "lstm_lm": lambda: (LstmLm(), {"tokens": torch.randint(0, 90, (9, 2))}),
    "bare_cnn": lambda: (BareCnn(), {"x": torch.randn(2, 3, 16, 16)}),
    "in_place": lambda: (InPlace(), {"x": torch.randn(2, 3, 12, 12)}),
    "shared_layers": lambda: (Shared(), {"left": torch.randn(3, 10), "right": torch.randn(3, 10)}),
    "siren": lambda: (Siren(), {"x": torch.rand(30, 2)}),
    "gated_units": lambda: (Gated(), {"x": torch.randn(2, 7, 16)}),
    "spelled_out": lambda: (SpelledOut(), {"x": torch.randn(4, 20)}),
    "einsum_attention": lambda: (EinsumAttention(), {"x": torch.randn(2, 6, 24)}),
    "cells": lambda: (Cells(), {"x": torch.randn(2, 5, 12)}),
    "rezero": lambda: (ReZero(), {"x": torch.randn(2, 3, 12, 12)}),
    "nerf": lambda: (Nerf(), {"x": torch.rand(20, 3)}),
    "causal_net": lambda: (CausalNet(), {"x": torch.randn(2, 6, 20)}),
    "perceiver": lambda: (Perceiver(), {"x": torch.randn(2, 8, 9)}),
    "switch_experts": lambda: (Switch(), {"x": torch.randn(6, 14)}),
}
