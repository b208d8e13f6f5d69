"""Ties planted in small networks, by permutations of units that they are symmetric under.

A network says which axes of its parameters are the same units. A plant permutes units and sets all weights that the
permutation carries into each other to one value; so it is a symmetry of the network. Sums over tied units may then be
kept while the weights are not (`sums`), and one side of a plant may be left out, which ties nothing (`one-sided`).
"""

from __future__ import annotations

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
    picks: bool = False  # whether some units are at work for some inputs only
    slow: bool = False  # whether parameters wake late, and want larger steps to be seen
    swaps: list[Swap] = field(default_factory=list)  # what may be exchanged, where that is not each unit by itself


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
