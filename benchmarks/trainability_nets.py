"""Small networks with good and bad initializations, each rebuilt to the bit from its name.

A pair is `family/architecture/initialization`. A family is what is left out as a whole in cross-validation. Every
network takes digits of 8 x 8 pixels (scikit-learn's) as (batch, 64) and gives 10 logits.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

WIDTH = 96
CHANNELS = 16
FUNCTIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "elu": nn.ELU, "selu": nn.SELU, "celu": nn.CELU, "gelu": nn.GELU,
    "silu": nn.SiLU, "mish": nn.Mish, "hardswish": nn.Hardswish, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
    "softplus": nn.Softplus, "softsign": nn.Softsign, "hardtanh": nn.Hardtanh, "relu6": nn.ReLU6,
    "hardsigmoid": nn.Hardsigmoid, "logsigmoid": nn.LogSigmoid, "tanhshrink": nn.Tanhshrink,
    "softshrink": nn.Softshrink, "hardshrink": nn.Hardshrink, "identity": nn.Identity,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Pair:
    """One network and one way to initialise it."""

    family: str
    architecture: str  # "relu-16": activation or kind, and depth
    init: str

    @property
    def name(self) -> str:
        """The name it is listed and rebuilt under."""
        return f"{self.family}/{self.architecture}/{self.init}"


# ---- networks


class Plain(nn.Module):
    """Dense layers one after another, with a norm after each or none."""

    def __init__(self, act: str, depth: int, norm: str = "") -> None:
        """Build `depth` weighted layers, the head among them."""
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(64 if k == 0 else WIDTH, WIDTH) for k in range(depth - 1)])
        norms = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d, "": nn.Identity}
        self.norms = nn.ModuleList([norms[norm](WIDTH) for _ in range(depth - 1)])
        self.act = FUNCTIONS[act]()
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 10) of pixels (batch, 64)."""
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = self.act(norm(layer(x)))
        return self.head(x)


class Residual(nn.Module):
    """Blocks x + W2 f(W1 norm(x)) of dense layers."""

    def __init__(self, act: str, depth: int, norm: str = "", post: bool = False) -> None:
        """Build `depth` blocks."""
        super().__init__()
        self.stem = nn.Linear(64, WIDTH)
        self.first = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(depth)])
        self.last = nn.ModuleList([nn.Linear(WIDTH, WIDTH) for _ in range(depth)])
        make = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d, "": nn.Identity}[norm]
        self.norms = nn.ModuleList([make(WIDTH) for _ in range(depth)])
        self.act, self.post = FUNCTIONS[act](), post
        self.head = nn.Linear(WIDTH, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 10) of pixels (batch, 64)."""
        x = self.stem(x)
        for first, last, norm in zip(self.first, self.last, self.norms, strict=True):
            x = norm(x + last(self.act(first(x)))) if self.post else x + last(self.act(first(norm(x))))
        return self.head(x)


class Convolutions(nn.Module):
    """Convolutions of 3 x 3, plain or in blocks with a residual sum."""

    def __init__(self, act: str, depth: int, norm: bool = False, residual: bool = False) -> None:
        """Build `depth` convolutions (of which two make a residual block) and a head."""
        super().__init__()
        self.stem = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.convs = nn.ModuleList([nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(depth)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(CHANNELS) if norm else nn.Identity() for _ in range(depth)])
        self.act, self.residual = FUNCTIONS[act](), residual
        self.head = nn.Linear(CHANNELS * 16, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 10) of pixels (batch, 64)."""
        x = self.act(self.stem(x.view(-1, 1, 8, 8)))
        skip = x
        for k, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x))
            if self.residual and k % 2:
                x = x + skip
                skip = x
            x = self.act(x) if not (self.residual and k % 2) else x
            if k == len(self.convs) // 2:
                x = skip = nn.functional.avg_pool2d(x, 2)
        return self.head(x.flatten(1))


class Recurrent(nn.Module):
    """A recurrent layer over the rows (8 steps) or the pixels (64 steps) of a digit, read at its last step."""

    def __init__(self, kind: str, steps: int, layers: int = 1) -> None:
        """Build from torch's own recurrent module."""
        super().__init__()
        self.steps = steps
        wide = 64 // steps
        self.rnn: nn.Module = {
            "rnn-tanh": lambda: nn.RNN(wide, 64, layers, batch_first=True),
            "rnn-relu": lambda: nn.RNN(wide, 64, layers, nonlinearity="relu", batch_first=True),
            "lstm": lambda: nn.LSTM(wide, 64, layers, batch_first=True),
            "gru": lambda: nn.GRU(wide, 64, layers, batch_first=True),
        }[kind]()
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 10) of pixels (batch, 64)."""
        return self.head(self.rnn(x.view(len(x), self.steps, -1))[0][:, -1])


class Block(nn.Module):
    """Attention and a dense block, each with a residual sum, the norm before, after or missing."""

    def __init__(self, width: int, act: str, place: str) -> None:
        """Build one block; `place` is pre, post or none."""
        super().__init__()
        self.place, self.heads = place, 4
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = (nn.Identity() if place == "none" else nn.LayerNorm(width) for _ in range(2))
        self.act = FUNCTIONS[act]()

    def attend(self, x: Tensor) -> Tensor:
        """Return what attention makes of tokens (batch, tokens, width)."""
        q, k, v = (p(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for p in (self.query, self.key, self.value))
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        """Return tokens (batch, tokens, width)."""
        if self.place == "post":
            x = self.norm1(x + self.attend(x))
            return self.norm2(x + self.down(self.act(self.up(x))))
        x = x + self.attend(self.norm1(x))
        return x + self.down(self.act(self.up(self.norm2(x))))


class Tokens(nn.Module):
    """A transformer over the rows of a digit."""

    def __init__(self, place: str, act: str, depth: int, width: int = 48) -> None:
        """Build `depth` blocks."""
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.position = nn.Parameter(torch.randn(1, 8, width) * 0.02)
        self.blocks = nn.ModuleList([Block(width, act, place) for _ in range(depth)])
        self.norm = nn.LayerNorm(width) if place == "pre" else nn.Identity()
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (batch, 10) of pixels (batch, 64)."""
        x = self.embed(x.view(-1, 8, 8)) + self.position
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x).mean(1))


# ---- initializations


def _fans(w: Tensor) -> tuple[int, int]:
    per = w[0][0].numel() if w.dim() > 2 else 1
    return w.shape[1] * per, w.shape[0] * per


def _gain(act: str) -> float:
    """Return the forward gain of an activation, 1 / sqrt(E f(z)^2), by the trapezoidal rule: nothing of ours in it."""
    z = torch.linspace(-12, 12, 24001, dtype=torch.float64)
    density = torch.exp(-z * z / 2) / math.sqrt(2 * math.pi)
    return float(torch.trapezoid(FUNCTIONS[act]()(z) ** 2 * density, z) ** -0.5)


def _std(scheme: str, w: Tensor, act: str) -> float:
    """Return the standard deviation that a scheme asks for."""
    fan_in, fan_out = _fans(w)
    word, _, value = scheme.partition("=")
    return {
        "he": lambda: math.sqrt(2 / fan_in),
        "he-fan-out": lambda: math.sqrt(2 / fan_out),
        "xavier": lambda: math.sqrt(2 / (fan_in + fan_out)),
        "lecun": lambda: math.sqrt(1 / fan_in),
        "gain": lambda: _gain(act) / math.sqrt(fan_in),
        "simple": lambda: 1 / math.sqrt(3 * fan_in),  # uniform in +-1/sqrt(fan_in)
        "std": lambda: float(value),
        "variance-as-std": lambda: 2 / fan_in,
        "std-as-variance": lambda: (2 / fan_in) ** 0.25,
        "times": lambda: float(value) * math.sqrt(2 / fan_in),
    }[word]()


def initialise(net: nn.Module, init: str, act: str) -> None:
    """Draw the weights of a network anew: `scheme[+change...]`, biases to zero; "torch" leaves torch's own."""
    scheme, *changes = init.split("+")
    weights = {name: p for name, p in net.named_parameters() if p.dim() >= 2 and name != "position"}
    with torch.no_grad():
        for name, p in net.named_parameters():
            if scheme == "torch" or name == "position" or "norm" in name:
                continue
            if p.dim() < 2:
                p.zero_()
            elif scheme.startswith("orthogonal"):
                nn.init.orthogonal_(p, gain=_gain(act) if scheme.endswith("gain") else 1.0)
            elif scheme.startswith("constant"):
                p.fill_(float(scheme.partition("=")[2]))
            elif scheme.endswith("-uniform"):
                bound = math.sqrt(3) * _std(scheme.removesuffix("-uniform"), p, act)
                p.uniform_(-bound, bound)
            else:
                p.normal_(0, _std(scheme, p, act))
        for change in changes:
            _change(net, weights, change)


def _change(net: nn.Module, weights: dict[str, nn.Parameter], change: str) -> None:
    inner = [p for name, p in weights.items() if "head" not in name and name != next(iter(weights))]
    middle = inner[len(inner) // 2]
    word, _, value = change.partition("=")
    number = float(value) if value and value != "orthogonal" else 0.0
    ends = [p for name, p in weights.items() if any(part in name for part in ("last", "out.", "down"))]
    if word == "zero-middle":
        middle.zero_()
    elif word == "zero-third":
        for p in inner[: max(1, len(inner) // 3)]:
            p.zero_()
    elif word == "zero-head":
        net.get_parameter("head.weight").zero_()
    elif word == "zero-ends":
        for p in ends:
            p.zero_()
    elif word == "scale-ends":  # GPT-2: residual projections divided by sqrt(2 N)
        for p in ends:
            p.mul_(1 / math.sqrt(len(ends)))
    elif word == "middle":
        middle.mul_(number)
    elif word == "first":
        next(iter(weights.values())).mul_(number)
    elif word == "head":
        net.get_parameter("head.weight").mul_(number)
    elif word == "same-rows":
        middle.copy_(middle[:1].expand_as(middle).clone())
    elif word == "same-rows-all":
        for p in inner:
            p.copy_(p[:1].expand_as(p).clone())
    elif word == "half-rows":
        for p in inner:
            p[p.shape[0] // 2 :] = p[: p.shape[0] - p.shape[0] // 2].clone()
    elif word == "bias":
        for name, p in net.named_parameters():
            if name.endswith("bias") and "norm" not in name and "head" not in name:
                p.fill_(number)
    elif word == "query-key":
        for name, p in weights.items():
            if "query" in name or "key" in name:
                p.mul_(number)
    elif word == "norm":
        for name, p in net.named_parameters():
            if "norm" in name and name.endswith("weight"):
                p.fill_(number)
    elif word == "recurrent":
        for name, p in weights.items():
            if "hh" in name:
                nn.init.orthogonal_(p) if value == "orthogonal" else p.mul_(number)
    else:
        raise ValueError(change)


def build(pair: Pair) -> nn.Module:
    """Return the network of a pair, the same to the bit at every call."""
    torch.manual_seed(zlib.crc32(pair.name.encode()))
    word, _, depth = pair.architecture.rpartition("-")
    made: dict[str, Callable[[], nn.Module]] = {
        "mlp": lambda: Plain(word, int(depth)),
        "mlp-layernorm": lambda: Plain(word, int(depth), "layer"),
        "mlp-batchnorm": lambda: Plain(word, int(depth), "batch"),
        "residual": lambda: Residual(word, int(depth)),
        "residual-prenorm": lambda: Residual(word, int(depth), "layer"),
        "residual-postnorm": lambda: Residual(word, int(depth), "layer", post=True),
        "cnn": lambda: Convolutions(word, int(depth)),
        "cnn-batchnorm": lambda: Convolutions(word, int(depth), norm=True),
        "cnn-residual": lambda: Convolutions(word, int(depth), residual=True),
        "cnn-residual-batchnorm": lambda: Convolutions(word, int(depth), norm=True, residual=True),
        "rnn": lambda: Recurrent(word, int(depth)),
        "transformer-pre": lambda: Tokens("pre", word, int(depth)),
        "transformer-post": lambda: Tokens("post", word, int(depth)),
        "transformer-none": lambda: Tokens("none", word, int(depth)),
    }
    net = made[pair.family]()
    act = word if word in FUNCTIONS else "tanh"
    initialise(net, pair.init, act)
    return net


# ---- the pairs

_PLAN = """
mlp | relu-5 relu-16 relu-30 | he he-uniform xavier torch lecun orthogonal orthogonal-gain std=0.01 std=0.1
    std-as-variance variance-as-std
mlp | relu-10 | he torch he+zero-middle he+middle=100 he+middle=0.001 he+same-rows he+same-rows-all
    he+half-rows he+bias=-2 he+bias=3 constant=0.05 he+zero-head he+head=100 times=2 times=0.5 he+first=1000
mlp | tanh-6 tanh-24 | xavier he torch lecun orthogonal gain std=1.0 std=0.01 std-as-variance variance-as-std
    constant=0.1 xavier+zero-middle
mlp | sigmoid-4 sigmoid-12 | xavier he torch gain std=1.0 std=3.0 gain+bias=5
mlp | gelu-8 gelu-24 | he gain xavier torch std=0.02
mlp | silu-8 silu-24 | he gain xavier torch
mlp | selu-20 | lecun he torch xavier
mlp | leaky_relu-20 elu-20 celu-20 mish-20 hardswish-20 | he gain torch
mlp | softplus-8 softsign-16 hardtanh-16 relu6-16 hardsigmoid-6 logsigmoid-8 tanhshrink-6 softshrink-6
    hardshrink-6 | gain torch xavier
mlp-layernorm | relu-20 tanh-20 gelu-20 | he torch std=0.02 std=1.0 he+zero-middle constant=0.05 he+norm=0
mlp-batchnorm | relu-20 tanh-20 | he torch std=0.01 std=1.0 he+same-rows-all he+norm=0 he+middle=0.001
residual | relu-8 relu-24 tanh-24 gelu-24 | he torch std=0.01 he+zero-ends xavier he+scale-ends std=0.1
residual-prenorm | relu-16 gelu-16 | he torch std=0.02 he+zero-ends he+scale-ends times=5 he+norm=0
residual-postnorm | relu-16 gelu-16 | he torch std=0.02 he+zero-ends xavier times=5
cnn | relu-6 relu-16 | he xavier torch lecun orthogonal-gain std=0.01 std=0.3 he-fan-out std-as-variance
cnn | tanh-10 | xavier torch std=1.0 std=0.01 he+same-rows-all xavier+zero-middle
cnn-batchnorm | relu-12 | he torch std=0.01 std=1.0 he+norm=0 he+zero-middle he+same-rows-all
cnn-residual | relu-8 relu-20 | he torch std=0.01 xavier std=0.3
cnn-residual-batchnorm | relu-16 | he torch std=0.01 std=1.0 he+norm=0
rnn | rnn-tanh-8 rnn-tanh-64 | torch xavier xavier+recurrent=orthogonal he std=0.01 std=1.0
rnn | rnn-relu-8 rnn-relu-64 | torch xavier he+recurrent=orthogonal he std=1.0
rnn | lstm-8 lstm-64 gru-8 gru-64 | torch xavier xavier+recurrent=orthogonal std=0.01 std=2.0 constant=0.05
transformer-pre | gelu-6 gelu-12 | std=0.02 xavier torch std=0.02+scale-ends std=0.3 std=1.0
    xavier+query-key=30 xavier+zero-ends constant=0.02
transformer-post | gelu-6 relu-12 | std=0.02 xavier torch std=0.3 std=1.0 xavier+query-key=30 xavier+norm=0
transformer-none | gelu-6 gelu-12 | std=0.02 xavier torch xavier+scale-ends std=0.3 xavier+zero-ends
"""  # family | architectures | initializations; what is indented goes on


def pairs() -> Iterator[Pair]:
    """Yield every pair, in a fixed order."""
    for row in _PLAN.strip().replace("\n    ", " ").splitlines():
        family, architectures, inits = (cell.split() for cell in row.split("|"))
        for architecture in architectures:
            for init in inits:
                yield Pair(family[0], architecture, init)
