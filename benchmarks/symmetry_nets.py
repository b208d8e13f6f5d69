"""Random small networks with units that are tied by construction, in every way that a network can be built.

A network says which axes of its parameters are the same units. A plant permutes units and sets all weights that the
permutation carries into each other to one value; so it is a symmetry of the network. Sums over tied units may then be
kept while the weights are not (`shuffle`), and one side of a plant may be left out, which ties nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

Moves = Mapping[str, np.ndarray]  # by units: where each goes
Spec = Callable[
    [Moves, Mapping[str, int]], np.ndarray | None
]  # where the indices along an axis go, that several units make together


@dataclass(frozen=True)
class Swap:
    """Units that may be exchanged: an axis is (chunks, copies, units, extent of each), units exchanged in a chunk."""

    chunks: int
    units: Mapping[str, tuple[int, int]]  # by name: copies, extent

    def move(self, net: Net, to: Callable[[int], np.ndarray], chosen: Sequence[int]) -> Moves:
        """Return the permutation that does the same to the units of some chunks."""
        out = {}
        for name, (copies, extent) in self.units.items():
            index = np.arange(net.units[name]).reshape(self.chunks, copies, -1, extent)
            for chunk in chosen:
                index[chunk] = index[chunk][:, to(index.shape[2])]
            out[name] = index.ravel()
        return out

    def draw(self, net: Net, rng: np.random.Generator) -> list[Moves]:
        """Return a few exchanges."""
        out = []
        for _ in range(int(rng.integers(1, 3))):
            name, (copies, extent) = next(iter(self.units.items()))
            n = net.units[name] // (self.chunks * copies * extent)
            if n < 2:
                return []
            some = rng.choice(n, int(rng.integers(2, min(4, n) + 1)), replace=False)

            def to(n: int, some: np.ndarray = some) -> np.ndarray:
                where = np.arange(n)
                where[some] = np.roll(some, 1)
                return where

            out.append(self.move(net, to, [int(rng.integers(self.chunks))]))
        return out

    def all(self, net: Net) -> list[Moves]:
        """Return what carries every unit of a chunk into every other, one by one."""
        return [self.move(net, lambda n: np.roll(np.arange(n), 1), [chunk]) for chunk in range(self.chunks)]


def joined(*names: str | tuple[str, int, int]) -> Spec:
    """Return an axis on which units stand one after the other: names, or (name, copies, extent of each)."""
    wide = [(one, 1, 1) if isinstance(one, str) else one for one in names]

    def spec(moves: Moves, units: Mapping[str, int]) -> np.ndarray | None:
        if not any(name in moves for name, _, _ in wide):
            return None
        parts, at = [], 0
        for name, copies, extent in wide:
            n = units[name]
            to = moves.get(name, np.arange(n))
            own = np.arange(copies * n * extent).reshape(copies, n, extent)[:, to]
            parts.append(at + own.ravel())
            at += own.size
        return np.concatenate(parts)

    return spec


def laid(spec: Spec, shape: Sequence[int], order: Sequence[int]) -> Spec:
    """Return an axis with the indices of another as an array of a shape, its axes in another order."""

    def other(moves: Moves, units: Mapping[str, int]) -> np.ndarray | None:
        to = spec(moves, units)
        if to is None:
            return None
        stands = np.arange(int(np.prod(shape))).reshape(shape).transpose(order).ravel()
        back = np.argsort(stands)
        return back[to[stands]]

    return other


@dataclass
class Net:
    """A network, and what its parameters' axes are."""

    module: nn.Module
    inputs: Callable[[torch.Generator, int], torch.Tensor]
    axes: dict[str, tuple[str | Spec, ...]] = field(default_factory=dict)  # parameter -> units along each axis, or ""
    units: dict[str, int] = field(default_factory=dict)  # how many there are
    blocks: dict[str, int] = field(default_factory=dict)  # units that may only move in whole blocks of this size too
    repeats: dict[str, tuple[str, int]] = field(default_factory=dict)  # units that are several copies of others
    groups: dict[str, int] = field(default_factory=dict)  # parameter -> groups of a convolution
    fixed: set[str] = field(default_factory=set)  # units that may not be permuted: inputs and outputs
    views: dict[str, tuple[Sequence[int], Sequence[int]]] = field(default_factory=dict)  # order of axes, then a shape
    slow: bool = False  # whether parameters wake late, and want larger steps to be seen
    swaps: list[Swap] = field(default_factory=list)  # what may be exchanged, where that is not each unit by itself


_ACTS: dict[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "sigmoid": nn.Sigmoid, "elu": nn.ELU, "softplus": nn.Softplus,
    "relu": nn.ReLU, "leaky": lambda: nn.LeakyReLU(0.1),
}  # fmt: skip


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
        self.act, self.residual, self.gated = _ACTS[act](), residual, gated

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
        Dense(sizes, str(rng.choice(list(_ACTS))), norm, residual, gated),
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
        self.act = _ACTS[act]()

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
        Image(c, str(rng.choice(["", "batch", "group"])), groups, depthwise, flat, str(rng.choice(list(_ACTS)))),
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
        self.act = _ACTS[act]()

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
    fused, before, act = bool(rng.random() < 0.5), bool(rng.random() < 0.5), str(rng.choice(list(_ACTS)))
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
        self.head, self.act = nn.Linear(d, 3), _ACTS[act]()

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
        Experts(i, d, e, h, str(rng.choice(list(_ACTS)))),
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
PLANTS = ("none", "copies", "zeros", "sums", "one-sided", "constant", "blocks")


# ---- plants


_UNSEEN = ("k.bias", "qkv.bias", "in_proj_bias")  # a softmax does not see a bias of its keys


def plant(net: Net, kind: str, rng: np.random.Generator) -> None:
    """Tie units of a network."""
    own = {f"{name}": p for name, p in net.module.named_parameters()}
    with torch.no_grad():
        for p in own.values():  # sums of such numbers are exact
            if p.dim() == 1:
                p.copy_(p + 0.1 * torch.from_numpy(rng.standard_normal(p.shape)))
            p.copy_(torch.round(p * 2.0**16) / 2.0**16)
        if kind == "none":
            return
        if kind == "zeros":
            for p in rng.permutation(np.array(list(own)))[: int(rng.integers(1, 4))]:
                own[str(p)].zero_()
            return
        names = [n for n in net.units if n not in net.fixed]
        if kind == "constant":
            chosen = names if rng.random() < 0.5 else [str(rng.choice(names))]
            every = [m for one in net.swaps for m in one.all(net) if rng.random() < 0.7]
            _tie(net, own, every or [m for n in chosen for m in _all(net, n)])
            return
        if net.swaps:
            swaps = [one for one in net.swaps if rng.random() < 0.6] or [net.swaps[rng.integers(len(net.swaps))]]
            generators = [move for one in swaps for move in one.draw(net, rng)]
        else:
            chosen = [n for n in names if rng.random() < 0.6] or [str(rng.choice(names))]
            generators = [move for n in chosen for move in _moves(net, n, kind, rng)]
        skip = None
        if kind == "one-sided":
            touched = [
                p
                for p in own
                if not p.endswith(_UNSEEN)
                and any(_way(net, a, m) is not None for a in net.axes.get(p, ()) for m in generators)
            ]
            skip = str(rng.choice(touched)) if touched else None
        _tie(net, {k: v for k, v in own.items() if k != skip}, generators)
        if kind == "sums":
            _shuffle(net, own, generators, rng)


def _moves(net: Net, name: str, kind: str, rng: np.random.Generator) -> list[Moves]:
    """Return permutations of units: a few that are exchanged, in blocks where they come in blocks."""
    n, block = net.units[name], net.blocks.get(name, 0)
    out = []
    groups = max([g for p, g in net.groups.items() if name in net.axes[p]], default=1)
    if block and (kind == "blocks" or rng.random() < 0.5):
        a, b = rng.choice(n // block, 2, replace=False)
        to = np.arange(n).reshape(-1, block)
        to[[a, b]] = to[[b, a]]
        return [{name: to.ravel()}]
    within = block or n // groups
    if groups > 1 and (kind == "blocks" or rng.random() < 0.3):  # whole groups
        to = np.roll(np.arange(n).reshape(groups, -1), 1, 0).ravel()
        return [{name: to}]
    for _ in range(int(rng.integers(1, 3))):
        at = int(rng.integers(0, n // within)) * within
        count = int(rng.integers(2, min(4, within) + 1))
        some = at + rng.choice(within, count, replace=False)
        to = np.arange(n)
        to[some] = np.roll(some, 1)
        out.append({name: to})
    return out


def _all(net: Net, name: str) -> list[Moves]:
    """Return permutations that carry every unit into every other; of blocks, those within and those of the whole."""
    n, block = net.units[name], net.blocks.get(name, 0)
    groups = max([g for p, g in net.groups.items() if name in net.axes[p]], default=1)
    within = block or n // groups
    whole = np.roll(np.arange(n).reshape(-1, within), 1, 0).ravel()
    inside = [np.roll(np.arange(n).reshape(-1, within)[k], 1) for k in range(n // within)]
    out: list[Moves] = [{name: whole}] if within < n else []
    for k, part in enumerate(inside):
        to = np.arange(n)
        to[k * within : (k + 1) * within] = part
        out.append({name: to})
    return out


def _way(net: Net, axis: str | Spec, moves: Moves) -> np.ndarray | None:
    """Return where the indices along an axis go; None where they stay."""
    if callable(axis):
        return axis(moves, net.units)
    name, times = net.repeats.get(axis, (axis, 1))
    to = moves.get(name) if axis else None
    if to is None or times == 1:
        return to
    if times > 0:
        return np.concatenate([to + r * len(to) for r in range(times)])
    return (to[:, None] * -times + np.arange(-times)).ravel()


def _carried(net: Net, name: str, moves: Moves, shape: Sequence[int]) -> np.ndarray:
    """Return where each element of a parameter goes."""
    index = base = np.arange(int(np.prod(shape))).reshape(shape)
    if name in net.views:
        order, wide = net.views[name]
        index = base = base.transpose(order).reshape(wide)
    groups = net.groups.get(name, 1)
    for k, axis in enumerate(net.axes[name]):
        to = _way(net, axis, moves)
        if to is None:
            continue
        if k == 1 and groups > 1:  # inputs of a group: those of other groups are other elements
            each = shape[0] // groups
            outs = _way(net, net.axes[name][0], moves)
            parts = []
            for row in range(shape[0]):
                came = row if outs is None else int(outs[row])  # the row that stands here now
                g, now = came // each, row // each
                local = to[now * shape[1] : (now + 1) * shape[1]] - g * shape[1]
                parts.append(np.take(index[row], local, 0))
            index = np.stack(parts)
        else:
            index = np.take(index, to, k)
    out = np.empty(index.size, np.int64)
    out[base.ravel()] = index.ravel()
    return out


def _tie(net: Net, own: Mapping[str, torch.Tensor], generators: Sequence[Moves]) -> None:
    for name, p in own.items():
        if name not in net.axes:
            continue
        label = np.arange(p.numel())
        carried = [_carried(net, name, moves, tuple(p.shape)) for moves in generators]
        while True:
            before = label.copy()
            for to in carried:
                label = np.minimum(label, label[to])
                np.minimum.at(label, to, label)
            if (before == label).all():
                break
        p.copy_(p.reshape(-1)[torch.from_numpy(label)].reshape(p.shape))


def _shuffle(net: Net, own: Mapping[str, torch.Tensor], generators: Sequence[Moves], rng: np.random.Generator) -> None:
    """Change weights between two pairs of tied units, their sums kept."""
    for name, p in own.items():
        if p.dim() != 2 or name in net.groups or name not in net.axes:
            continue
        pairs = []
        for axis in net.axes[name]:
            ways = [to for to in (_way(net, axis, m) for m in generators) if to is not None]
            moved = [(int(k), int(to[k])) for to in ways for k in (to != np.arange(len(to))).nonzero()[0][:1]]
            pairs.append(moved[:1])
        for i in pairs[0]:
            for j in pairs[1]:
                step = float(np.round(rng.standard_normal() * 2**12) / 2**14)
                for a, b, sign in ((0, 0, 1), (0, 1, -1), (1, 0, -1), (1, 1, 1)):
                    p[i[a], j[b]] += sign * step
