"""Random small networks: perceptrons, convolutional, recurrent, transformers, mixtures of experts."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from benchmarks.symmetry_plants import Net

ACTS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid, "elu": nn.ELU, "softplus": nn.Softplus,
    "relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.1),
}  # fmt: skip


def seeded(nets: int) -> argparse.ArgumentParser:
    """Return what every benchmark on random networks asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--nets", type=int, default=nets)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--family", default="")
    return parser


class Dense(nn.Module):
    """Layers one after the other, with what may stand between them."""

    def __init__(self, sizes: Sequence[int], act: str, norm: str, residual: bool, gated: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList()
        self.norms = nn.ModuleList()
        for a, b in itertools.pairwise(sizes[:-1]):
            self.layers.append(nn.Linear(a, 2 * b if gated else b))
            self.norms.append(
                nn.LayerNorm(b) if norm == "layer" else nn.BatchNorm1d(b) if norm == "batch"
                else nn.RMSNorm(b, eps=1e-5) if norm == "rms" else nn.PReLU(b) if norm == "prelu" else nn.Identity()
            )  # fmt: skip
        self.head = nn.Linear(sizes[-2], sizes[-1])
        self.act, self.residual, self.gated = ACTS[act](), residual, gated

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            y = layer(x)
            y = torch.nn.functional.glu(y, -1) if self.gated else y
            y = self.act(norm(y))
            x = x + y if self.residual and x.shape == y.shape else y
        return self.head(x)


def dense(rng: np.random.Generator) -> Net:
    """Return a random multilayer perceptron."""
    depth = int(rng.integers(2, 5))
    residual = bool(rng.random() < 0.4)
    width = int(rng.integers(6, 14))
    hidden = [width if residual else int(rng.integers(6, 14)) for _ in range(depth)]
    sizes = [int(rng.integers(3, 6)), *hidden, int(rng.integers(2, 5))]
    norm = str(rng.choice(["", "", "layer", "batch", "rms", "prelu"]))
    gated = bool(rng.random() < 0.2)
    net = Net(
        Dense(sizes, str(rng.choice(list(ACTS))), norm, residual, gated),
        lambda g, n: torch.randn(n, sizes[0], generator=g, dtype=torch.float64),
    )
    names = ["in", *(f"h{0 if residual else k}" for k in range(depth)), "out"]
    for k, (a, b) in enumerate(itertools.pairwise(names[:-1])):
        own = b
        if gated:
            own = f"{b}x2"
            net.repeats[own] = (b, 2)
        net.axes[f"layers.{k}.weight"], net.axes[f"layers.{k}.bias"] = (own, a), (own,)
        net.axes[f"norms.{k}.weight"] = net.axes[f"norms.{k}.bias"] = (b,)
        net.units[b] = sizes[k + 1]
    net.axes["head.weight"], net.axes["head.bias"] = ("out", names[-2]), ("out",)
    net.fixed = {"in", "out"}
    return net


class Image(nn.Module):
    """Convolutions with norms and residual sums; pooled, or flattened."""

    def __init__(self, c: int, norm: str, groups: int, depthwise: bool, flat: bool, act: str) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, c, 3, padding=1)
        self.norm = _norm2d(norm, c)
        self.mid = nn.Conv2d(c, c, 3, padding=1, groups=groups)
        self.mid_norm = _norm2d(norm, c)
        self.deep = nn.Conv2d(c, c, 3, padding=1, groups=c) if depthwise else nn.Identity()
        self.up = nn.ConvTranspose2d(c, c, 2, stride=2)
        self.flat = flat
        self.head = nn.Linear(c * (36 if flat else 1), 4)
        self.act = ACTS[act]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        x = self.act(self.norm(self.stem(x)))
        x = x + self.act(self.mid_norm(self.mid(x)))
        x = nn.functional.avg_pool2d(self.deep(x), 2)
        x = self.act(self.up(x))
        return self.head(x.flatten(1) if self.flat else x.mean((2, 3)))


def _norm2d(norm: str, c: int) -> nn.Module:
    return {"batch": lambda: nn.BatchNorm2d(c), "group": lambda: nn.GroupNorm(1, c)}.get(norm, nn.Identity)()


def image(rng: np.random.Generator) -> Net:
    """Return a random convolutional network."""
    c = int(rng.choice([6, 8, 12]))
    groups = int(rng.choice([1, 1, 2]))
    depthwise, flat = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    net = Net(
        Image(c, str(rng.choice(["", "batch", "group"])), groups, depthwise, flat, str(rng.choice(list(ACTS)))),
        lambda g, n: torch.randn(n, 3, 6, 6, generator=g, dtype=torch.float64),
    )
    net.units = {"c": c, "u": c}
    net.axes = {
        "stem.weight": ("c", "in", "", ""), "stem.bias": ("c",), "norm.weight": ("c",), "norm.bias": ("c",),
        "mid.weight": ("c", "c", "", ""), "mid.bias": ("c",), "mid_norm.weight": ("c",), "mid_norm.bias": ("c",),
        "deep.weight": ("c", "", "", ""), "deep.bias": ("c",), "up.weight": ("c", "u", "", ""), "up.bias": ("u",),
        "head.weight": ("out", "u*36" if flat else "u"), "head.bias": ("out",),
    }  # fmt: skip
    if flat:
        net.repeats["u*36"] = ("u", -36)
    net.groups = {"mid.weight": groups} if groups > 1 else {}
    net.fixed = {"in", "out"}
    return net


class Recurrent(nn.Module):
    """A recurrent layer and a head on its last state."""

    def __init__(self, kind: str, i: int, h: int) -> None:
        super().__init__()
        self.cell = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}[kind](i, h, batch_first=True)
        self.head = nn.Linear(h, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        return self.head(self.cell(x)[0][:, -1])


def recurrent(rng: np.random.Generator) -> Net:
    """Return a random recurrent network."""
    kind = str(rng.choice(["lstm", "gru", "rnn"]))
    i, h = int(rng.integers(3, 6)), int(rng.integers(6, 12))
    net = Net(Recurrent(kind, i, h), lambda g, n: torch.randn(n, 5, i, generator=g, dtype=torch.float64))
    net.units = {"h": h}
    net.repeats["gates"] = ("h", {"lstm": 4, "gru": 3, "rnn": 1}[kind])
    net.axes = {
        "cell.weight_ih_l0": ("gates", "in"), "cell.weight_hh_l0": ("gates", "h"), "cell.bias_ih_l0": ("gates",),
        "cell.bias_hh_l0": ("gates",), "head.weight": ("out", "h"), "head.bias": ("out",),
    }  # fmt: skip
    net.fixed = {"in", "out"}
    return net


class Block(nn.Module):
    """Attention and a feed-forward part around a stream."""

    def __init__(self, d: int, heads: int, inner: int, *, fused: bool, before: bool, act: str) -> None:
        super().__init__()
        self.heads, self.fused, self.before = heads, fused, before
        if fused:
            self.qkv = nn.Linear(d, 3 * d)
        else:
            self.q, self.k, self.v = nn.Linear(d, d), nn.Linear(d, d), nn.Linear(d, d)
        self.o = nn.Linear(d, d)
        self.one, self.two = nn.LayerNorm(d), nn.LayerNorm(d)
        self.wide, self.thin = nn.Linear(d, inner), nn.Linear(inner, d)
        self.act = ACTS[act]()

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Attend."""
        q, k, v = self.qkv(x).chunk(3, -1) if self.fused else (self.q(x), self.k(x), self.v(x))
        b, t, d = x.shape
        q, k, v = (y.view(b, t, self.heads, d // self.heads).transpose(1, 2) for y in (q, k, v))
        if self.fused:
            y = nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = torch.softmax(q @ k.transpose(-2, -1) / (d // self.heads) ** 0.5, -1) @ v
        return self.o(y.transpose(1, 2).reshape(b, t, d))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        if self.before:
            x = x + self.attend(self.one(x))
            return x + self.thin(self.act(self.wide(self.two(x))))
        x = self.one(x + self.attend(x))
        return self.two(x + self.thin(self.act(self.wide(x))))


class Transformer(nn.Module):
    """Token and position embeddings, blocks, and a head."""

    def __init__(self, blocks: Sequence[Block], d: int, *, tied: bool) -> None:
        super().__init__()
        self.tokens = nn.Embedding(7, d)
        self.places = nn.Parameter(torch.randn(5, d) * 0.3)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(d)
        self.head = nn.Linear(d, 7, bias=False)
        if tied:
            self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Run."""
        x = self.tokens(ids) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def transformer(rng: np.random.Generator) -> Net:
    """Return a random small transformer."""
    heads = int(rng.choice([2, 4]))
    d = heads * int(rng.choice([2, 4]))
    inner, depth = int(rng.integers(6, 12)), int(rng.integers(1, 3))
    fused, before, act = bool(rng.random() < 0.5), bool(rng.random() < 0.5), str(rng.choice(list(ACTS)))
    blocks = [Block(d, heads, inner, fused=fused, before=before, act=act) for _ in range(depth)]
    net = Net(
        Transformer(blocks, d, tied=bool(rng.random() < 0.3)),
        lambda g, n: torch.randint(0, 7, (n, 5), generator=g),
    )
    net.units, net.fixed = {"d": d}, {"in", "out", "v"}
    net.axes = {
        "tokens.weight": ("v", "d"), "places": ("", "d"), "norm.weight": ("d",), "norm.bias": ("d",),
        "head.weight": ("v", "d"),
    }  # fmt: skip
    for k in range(depth):
        b = f"blocks.{k}."
        qk, v, f = f"qk{k}", f"v{k}", f"f{k}"
        net.units[f"a{k}"], net.units[f] = d, inner
        net.blocks[f"a{k}"] = d // heads
        qk = v = f"a{k}"
        if fused:
            net.repeats[f"qkv{k}"] = (f"a{k}", 3)
            net.axes[b + "qkv.weight"], net.axes[b + "qkv.bias"] = (f"qkv{k}", "d"), (f"qkv{k}",)
        else:
            for name, own in (("q", qk), ("k", qk), ("v", v)):
                net.axes[b + f"{name}.weight"], net.axes[b + f"{name}.bias"] = (own, "d"), (own,)
        net.axes[b + "o.weight"], net.axes[b + "o.bias"] = ("d", v), ("d",)
        for norm in ("one", "two"):
            net.axes[b + f"{norm}.weight"] = net.axes[b + f"{norm}.bias"] = ("d",)
        net.axes[b + "wide.weight"], net.axes[b + "wide.bias"] = (f, "d"), (f,)
        net.axes[b + "thin.weight"], net.axes[b + "thin.bias"] = ("d", f), ("d",)
    return net


class Stack(nn.Module):
    """Several linear maps in one tensor."""

    def __init__(self, e: int, i: int, o: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(e, i, o) / i**0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        return torch.einsum("bi,eio->beo" if x.dim() == 2 else "bei,eio->beo", x, self.weight)


class Experts(nn.Module):
    """A mixture of experts, all of them at work."""

    def __init__(self, i: int, d: int, e: int, h: int, act: str) -> None:
        super().__init__()
        self.stem, self.router = nn.Linear(i, d), nn.Linear(d, e)
        self.up, self.down = Stack(e, d, h), Stack(e, h, d)
        self.head, self.act = nn.Linear(d, 3), ACTS[act]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run."""
        x = torch.tanh(self.stem(x))
        odds = torch.softmax(self.router(x), -1)
        y = self.down(self.act(self.up(x)))
        return self.head(x + (y * odds[..., None]).sum(1))


def experts(rng: np.random.Generator) -> Net:
    """Return a random mixture of experts."""
    i, d, e, h = int(rng.integers(3, 6)), int(rng.integers(5, 9)), int(rng.integers(3, 6)), int(rng.integers(4, 8))
    net = Net(
        Experts(i, d, e, h, str(rng.choice(list(ACTS)))),
        lambda g, n: torch.randn(n, i, generator=g, dtype=torch.float64),
    )
    net.units, net.fixed = {"d": d, "e": e, "h": h}, {"in", "out"}
    net.axes = {
        "stem.weight": ("d", "in"), "stem.bias": ("d",), "router.weight": ("e", "d"), "router.bias": ("e",),
        "up.weight": ("e", "d", "h"), "down.weight": ("e", "h", "d"), "head.weight": ("out", "d"),
        "head.bias": ("out",),
    }  # fmt: skip
    return net


FAMILIES: dict[str, Callable[[np.random.Generator], Net]] = {
    "dense": dense, "image": image, "recurrent": recurrent, "transformer": transformer, "experts": experts,
}  # fmt: skip
