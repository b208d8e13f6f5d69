"""Random small networks of the kinds that are built with zeros in them: what sleeps there, and what never wakes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812  as everyone calls it

from benchmarks.symmetry_plants import Net


def _vectors(*shape: int) -> Callable[[torch.Generator, int], torch.Tensor]:
    return lambda g, n: torch.randn(n, *shape, generator=g, dtype=torch.float64)


def _zeroed(layer: nn.Module) -> nn.Module:
    for p in layer.parameters():
        nn.init.zeros_(p)
    return layer


class Grouped(nn.Module):
    """Attention with fewer heads of keys than of queries, in one operation or by hand."""

    def __init__(self, d: int, heads: int, keys: int, how: str) -> None:
        super().__init__()
        each = d // heads
        self.q, self.k, self.v, self.o = (nn.Linear(d, n) for n in (d, keys * each, keys * each, d))
        self.heads, self.keys, self.how = heads, keys, how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        b, t, d = x.shape
        q, k, v = (f(x).view(b, t, -1, d // self.heads).transpose(1, 2) for f in (self.q, self.k, self.v))
        times = self.heads // self.keys
        if self.how == "one":
            y = F.scaled_dot_product_attention(q, k, v, enable_gqa=times > 1)
        else:
            if self.how == "repeated":
                k, v = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
            else:
                k, v = (u[:, :, None].expand(-1, -1, times, -1, -1).reshape(q.shape) for u in (k, v))
            score = q @ k.transpose(-1, -2) / (d // self.heads) ** 0.5
            if self.how == "repeated":
                score = score.masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -torch.inf)
            y = torch.softmax(score, -1) @ v
        return self.o(y.transpose(1, 2).reshape(b, t, d))


class Modulated(nn.Module):
    """A block of a diffusion transformer, whose norms and branches a condition scales, shifts and gates."""

    def __init__(self, d: int, how: str) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(d, elementwise_affine=False) for _ in range(2))
        self.attend = Grouped(d, 2, 2, how)
        self.wide, self.thin = nn.Linear(d, d + 3), nn.Linear(d + 3, d)
        self.ada = nn.Linear(d, 6 * d)

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Run."""
        a, b, g, e, f, h = (u[:, None] for u in self.ada(F.silu(c)).chunk(6, -1))
        x = x + g * self.attend(self.norms[0](x) * (1 + b) + a)
        return x + h * self.thin(F.gelu(self.wide(self.norms[1](x) * (1 + f) + e)))


class Diffusion(nn.Module):
    """A small diffusion transformer; adaLN-Zero or not is what is planted."""

    def __init__(self, i: int, d: int, depth: int, how: str, *, zero: bool) -> None:
        super().__init__()
        self.stem, self.time = nn.Linear(i, d), nn.Linear(i, d)
        self.places = nn.Parameter(torch.randn(4, d) * 0.3)
        self.blocks = nn.ModuleList(Modulated(d, how) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(d), nn.Linear(d, 3)
        for block in self.blocks if zero else ():
            _zeroed(block.ada)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        c = self.time(x.mean(1))
        x = self.stem(x) + self.places
        for block in self.blocks:
            x = block(x, c)
        return self.head(self.norm(x))


def diffusion(rng: np.random.Generator) -> Net:
    """Return a random small diffusion transformer."""
    i, d, depth = int(rng.integers(3, 5)), int(rng.choice([4, 6])), int(rng.integers(1, 3))
    how = str(rng.choice(["one", "expanded"]))
    return Net(Diffusion(i, d, depth, how, zero=bool(rng.random() < 0.5)), _vectors(4, i))


def grouped(rng: np.random.Generator) -> Net:
    """Return attention with grouped queries between two layers."""
    heads = int(rng.choice([2, 4]))
    d = 2 * heads
    keys = int(rng.choice([k for k in (1, 2, 4) if heads % k == 0]))
    how = str(rng.choice(["one", "repeated", "expanded"]))
    norm = nn.LayerNorm(d) if rng.random() < 0.5 else nn.RMSNorm(d, eps=1e-5)
    return Net(
        nn.Sequential(nn.Linear(3, d), norm, Grouped(d, heads, keys, how), nn.Tanh(), nn.Linear(d, 3)), _vectors(5, 3)
    )


class Controlled(nn.Module):
    """A trunk, and a copy of a part of it that is joined by 1 x 1 convolutions."""

    def __init__(self, c: int, depth: int, *, zero: bool) -> None:
        super().__init__()
        self.stem, self.hint = nn.Conv2d(3, c, 3, padding=1), nn.Conv2d(3, c, 3, padding=1)
        self.trunk = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in range(depth))
        self.copy = nn.ModuleList(nn.Conv2d(c, c, 3, padding=1) for _ in range(depth))
        self.joints = nn.ModuleList(nn.Conv2d(c, c, 1) for _ in range(depth + 1))
        self.head = nn.Linear(c, 3)
        if zero:
            _zeroed(self.joints)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        y = self.stem(x)
        z = y + self.joints[0](self.hint(x))
        for trunk, copy, joint in zip(self.trunk, self.copy, self.joints[1:], strict=True):
            z = F.silu(copy(z))
            y = F.silu(trunk(y)) + joint(z)
        return self.head(y.mean((2, 3)))


def controlled(rng: np.random.Generator) -> Net:
    """Return a random small network with zero convolutions."""
    c, depth = int(rng.integers(3, 6)), int(rng.integers(1, 3))
    return Net(Controlled(c, depth, zero=bool(rng.random() < 0.6)), _vectors(3, 4, 4))


class Adapters(nn.Module):
    """Layers with low-rank additions, added to the result or to the weight."""

    def __init__(self, sizes: Sequence[int], ways: Sequence[int], merged: bool) -> None:
        super().__init__()
        pairs = list(itertools.pairwise(sizes))
        self.base = nn.ModuleList(nn.Linear(a, b) for a, b in pairs)
        self.down = nn.ParameterList(
            nn.Parameter(torch.randn(2, a) * (w & 1 > 0)) for (a, _), w in zip(pairs, ways, strict=True)
        )
        self.up = nn.ParameterList(
            nn.Parameter(torch.randn(b, 2) * (w & 2 > 0)) for (_, b), w in zip(pairs, ways, strict=True)
        )
        self.merged = merged

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        for k, (base, down, up) in enumerate(zip(self.base, self.down, self.up, strict=True)):
            y = F.linear(x, base.weight + up @ down, base.bias) if self.merged else base(x) + x @ down.T @ up.T
            x = F.gelu(y) if k + 1 < len(self.base) else y
        return x


def adapters(rng: np.random.Generator) -> Net:
    """Return a random perceptron with adapters, of which both, one or no factors are zero."""
    sizes = [int(n) for n in rng.integers(4, 8, int(rng.integers(3, 5)))]
    ways = [int(n) for n in rng.integers(0, 4, len(sizes) - 1)]
    return Net(Adapters(sizes, ways, bool(rng.random() < 0.5)), _vectors(sizes[0]))


class Cells(nn.Module):
    """Recurrent layers of every kind, read at one step or at all."""

    def __init__(self, kind: str, i: int, h: int, depth: int, both: bool, read: str, start: bool) -> None:
        super().__init__()
        self.cell = getattr(nn, kind)(i, h, depth, batch_first=True, bidirectional=both)
        self.start = nn.Parameter(torch.zeros(depth * (1 + both), 1, h)) if start else None
        self.head, self.read = nn.Linear(h * (1 + both), 3), read

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        state = None
        if self.start is not None:
            own = self.start.expand(-1, x.shape[0], -1).contiguous()
            state = (own, own) if isinstance(self.cell, nn.LSTM) else own
        y = self.cell(x, state)[0]
        return self.head({"last": y[:, -1], "first": y[:, 0]}.get(self.read, y.mean(1)))


def cells(rng: np.random.Generator) -> Net:
    """Return a random recurrent network."""
    kind, read = str(rng.choice(["LSTM", "GRU", "RNN"])), str(rng.choice(["last", "last", "first", "mean"]))
    i, h, depth = (int(rng.integers(a, b)) for a, b in ((3, 5), (3, 6), (1, 3)))
    steps = int(rng.choice([1, 3, 5]))
    both, start = bool(rng.random() < 0.5), bool(rng.random() < 0.3)
    return Net(Cells(kind, i, h, depth, both, read, start), _vectors(steps, i))


class Scaled(nn.Module):
    """Layers whose weights are a direction and a length."""

    def __init__(self, sizes: Sequence[int], by_hand: bool) -> None:
        super().__init__()
        self.v = nn.ParameterList(nn.Parameter(torch.randn(b, a)) for a, b in itertools.pairwise(sizes))
        self.g = nn.ParameterList(nn.Parameter(torch.ones(b, 1)) for b in sizes[1:])
        self.by_hand = by_hand

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        for v, g in zip(self.v, self.g, strict=True):
            w = v * (g / (v * v).sum(1, keepdim=True).sqrt()) if self.by_hand else torch._weight_norm(v, g, 0)
            x = torch.tanh(x @ w.T)
        return x


def scaled(rng: np.random.Generator) -> Net:
    """Return a random perceptron with weight norm, some lengths of which are zero."""
    sizes = [int(n) for n in rng.integers(4, 7, 4)]
    module = Scaled(sizes, bool(rng.random() < 0.5))
    with torch.no_grad():
        for g in module.g.parameters():
            g[torch.from_numpy(rng.random(g.shape) < rng.choice([0.0, 0.3, 1.0]))] = 0.0
    return Net(module, _vectors(sizes[0]))


def normed(rng: np.random.Generator) -> Net:
    """Return a random convolutional network in which norms take biases away, at once or further on."""
    c = int(rng.choice([4, 6]))
    between = [nn.Identity(), nn.AvgPool2d(2), nn.MaxPool2d(2), nn.Conv2d(c, c, 2), nn.Conv2d(c, c, 3, padding=1)]
    norms = [nn.BatchNorm2d(c), nn.GroupNorm(c, c), nn.GroupNorm(2, c), nn.InstanceNorm2d(c, affine=True)]
    return Net(
        nn.Sequential(
            nn.Conv2d(3, c, 3, padding=1), between[int(rng.integers(5))], norms[int(rng.integers(4))], nn.GELU(),
            nn.Conv2d(c, c, 3, padding=1), nn.SiLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 3),
        ),
        _vectors(3, 6, 6),
    )  # fmt: skip


SLEEPERS: dict[str, Callable[[np.random.Generator], Net]] = {
    "diffusion": diffusion, "grouped": grouped, "controlled": controlled, "adapters": adapters, "cells": cells,
    "scaled": scaled, "normed": normed,
}  # fmt: skip
