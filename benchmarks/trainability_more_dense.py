"""Small networks of dense layers that are not plain stacks; `architecture` is read as `kind-WIDTHxDEPTH`."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  (as everyone calls it)


class Swish(nn.Module):
    """x sigmoid(beta x) with a learnt beta."""

    def __init__(self) -> None:
        """Start at SiLU."""
        super().__init__()
        self.beta = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return as many numbers as given."""
        return x * torch.sigmoid(self.beta * x)


class Square(nn.Module):
    """The squared ReLU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return as many numbers as given."""
        return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "prelu": nn.PReLU, "swish": Swish, "relu2": Square, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU,
    "tanh": nn.Tanh, "elu": nn.ELU, "leaky": lambda: nn.LeakyReLU(0.2), "hardswish": nn.Hardswish, "relu6": nn.ReLU6,
    "mish": nn.Mish, "softplus": nn.Softplus,
}  # fmt: skip


def parsed(architecture: str) -> tuple[str, int, int]:
    """Return kind, width and depth of `kind-WIDTHxDEPTH`."""
    kind, _, size = architecture.rpartition("-")
    width, depth = size.split("x")
    return kind, int(width), int(depth)


def dropout(architecture: str) -> nn.Module:
    """Return dense layers, each with an activation of its own and dropout."""
    act, width, depth = parsed(architecture)
    layers: list[nn.Module] = []
    for k in range(depth - 1):
        layers += [nn.Linear(20 if k == 0 else width, width), ACTIVATIONS[act](), nn.Dropout(0.05)]
    return nn.Sequential(*layers, nn.Linear(width, 5))


def pyramid(architecture: str) -> nn.Module:
    """Return dense layers whose widths alternate between `width` and 24, so that the two fans differ."""
    act, width, depth = parsed(architecture)
    widths = [10] + [width if k % 2 == 0 else 24 for k in range(depth - 1)]
    layers: list[nn.Module] = []
    for wide, out in pairwise(widths):
        layers += [nn.Linear(wide, out), ACTIVATIONS[act]()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], 4))


class Highway(nn.Module):
    """Layers t H(x) + (1 - t) x with a gate t (Srivastava et al. 2015)."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` layers of `width` between a dense layer at either end."""
        super().__init__()
        act, width, depth = parsed(architecture)
        self.into = nn.Linear(20, width)
        self.plain = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.gate = nn.ModuleList([nn.Linear(width, width) for _ in range(depth)])
        self.act = ACTIVATIONS[act]()
        self.classify = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 5) of points (batch, 20)."""
        x = self.into(x)
        for plain, gate in zip(self.plain, self.gate, strict=True):
            t = torch.sigmoid(gate(x))
            x = t * self.act(plain(x)) + (1 - t) * x
        return self.classify(x)


class Gated(nn.Module):
    """Gated linear units one after another: sigmoid gates (glu), none (bilinear), or SiLU (swiglu)."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` layers."""
        super().__init__()
        self.kind, width, depth = parsed(architecture)
        self.units = nn.ModuleList([nn.Linear(10 if k == 0 else width, 2 * width) for k in range(depth)])
        self.classify = nn.Linear(width, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 4) of points (batch, 10)."""
        for unit in self.units:
            if self.kind == "glu":
                x = F.glu(unit(x), dim=-1)
            else:
                a, b = unit(x).chunk(2, dim=-1)
                x = a * b if self.kind == "bilinear" else a * F.silu(b)
        return self.classify(x)


class ScaledBlock(nn.Module):
    """x + s g(x) with a scale s: one number (rezero), one per channel (layerscale), or Fixup's scale and shifts."""

    def __init__(self, kind: str, width: int) -> None:
        """Build a block; ReZero starts at 0, LayerScale at 0.01, Fixup at 1."""
        super().__init__()
        self.kind = kind
        self.norm = nn.LayerNorm(width) if kind == "layerscale" else nn.Identity()
        self.grow, self.shrink = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        start = {"rezero": torch.zeros(1), "layerscale": torch.full((width,), 0.01), "fixup": torch.ones(1)}[kind]
        self.scale = nn.Parameter(start)
        if kind == "fixup":
            self.before, self.between = (nn.Parameter(torch.zeros(1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return points (batch, width)."""
        if self.kind == "fixup":
            return x + self.scale * self.shrink(F.relu(self.grow(x + self.before)) + self.between)
        act = F.gelu if self.kind == "layerscale" else F.relu
        return x + self.scale * self.shrink(act(self.grow(self.norm(x))))


def scaled(architecture: str) -> nn.Module:
    """Return `depth` blocks with scaled branches; without them the network is linear."""
    kind, width, depth = parsed(architecture)
    blocks = [ScaledBlock(kind, width) for _ in range(depth)]
    return nn.Sequential(nn.Linear(24, width), *blocks, nn.Linear(width, 3))


class Concat(nn.Module):
    """Every layer sees the concatenation of the inputs of all layers before it and adds `width` features."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` layers."""
        super().__init__()
        act, width, depth = parsed(architecture)
        self.grow = nn.ModuleList([nn.Linear(24 + k * width, width) for k in range(depth)])
        self.act = ACTIVATIONS[act]()
        self.top = nn.Linear(24 + depth * width, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 3) of points (batch, 24)."""
        for grow in self.grow:
            x = torch.cat([x, self.act(grow(x))], dim=-1)
        return self.top(x)


class Tied(nn.Module):
    """One layer called `depth` times; `inject` adds the input at every call, `norm` has a LayerNorm, as often."""

    def __init__(self, architecture: str) -> None:
        """Build from `act-WIDTHxDEPTH`, `act-inject-...` or `act-norm-...`."""
        super().__init__()
        kind, width, self.times = parsed(architecture)
        act, _, self.extra = kind.partition("-")
        self.into, self.again, self.out = nn.Linear(20, width), nn.Linear(width, width), nn.Linear(width, 5)
        self.act = ACTIVATIONS[act]()
        self.norm = nn.LayerNorm(width) if self.extra == "norm" else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 5) of points (batch, 20)."""
        given = self.into(x)
        x = self.act(given)
        for _ in range(self.times):
            x = self.act(self.norm(self.again(x) + given if self.extra == "inject" else self.again(x)))
        return self.out(x)


def autoencoder(architecture: str) -> nn.Module:
    """Return an encoder of an image to 8 numbers, a decoder, and a classifier on top of what is decoded."""
    act, width, depth = parsed(architecture)
    half = depth // 2
    down = [256] + [max(24, width >> k) for k in range(half)]
    sizes = [*down, 8, *reversed(down[1:])]
    layers: list[nn.Module] = [nn.Flatten()]
    for wide, out in pairwise(sizes):
        layers += [nn.Linear(wide, out)] if out == 8 else [nn.Linear(wide, out), ACTIVATIONS[act]()]
    return nn.Sequential(*layers, nn.Linear(sizes[-1], 10))


class Sine(nn.Module):
    """Layers sin(w0 (W x + b)); weights as Sitzmann et al. 2020 draw them."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` layers; the kind is w0."""
        super().__init__()
        rate, width, depth = parsed(architecture)
        self.rate = float(rate)
        self.fields = nn.ModuleList([nn.Linear(10 if k == 0 else width, width) for k in range(depth)])
        self.read = nn.Linear(width, 4)
        for k, field in enumerate(self.fields):
            wide = field.weight.shape[1]
            bound = 1 / wide if k == 0 else math.sqrt(6 / wide) / self.rate
            nn.init.uniform_(field.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 4) of points (batch, 10)."""
        for field in self.fields:
            x = torch.sin(self.rate * field(x))
        return self.read(x)


class Maxout(nn.Module):
    """The larger of two dense layers, again and again."""

    def __init__(self, architecture: str) -> None:
        """Build `depth` pairs of layers; kind `weight` has them under weight normalisation."""
        super().__init__()
        kind, width, depth = parsed(architecture)
        wrap = nn.utils.parametrizations.weight_norm if kind == "weightnorm" else lambda layer: layer
        self.pairs = nn.ModuleList([
            nn.ModuleList([wrap(nn.Linear(20 if k == 0 else width, width)) for _ in range(2)]) for k in range(depth)
        ])  # fmt: skip
        self.out = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 5) of points (batch, 20)."""
        for one, other in self.pairs:
            x = torch.maximum(one(x), other(x))
        return self.out(x)
