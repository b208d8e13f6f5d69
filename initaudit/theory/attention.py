"""Attention: what a softmax over logits of two signals mixes, and the gradients of queries, keys and values.

Queries, keys and values are linear in the same tokens, but by independent weights: given the tokens they are
independent of each other. So the logits of one query are about normal, with variance s^2 = scale^2 D E[q^2] (E[k_j
k_j] - E[k_j k_j']) over the keys, what all keys share falling out of the softmax. Two queries i, i' of inputs a, b
have logits with a correlation rho from the kernels of q and k, and mix values by weights of which

    overlap(rho) = E[sum_j w_ij w_i'j] = (n p)^rho / n,   p = E[sum_j w_ij^2]

is right for nearly uniform weights and for equal queries. What is mixed is then far + (same - far) * overlap, `same`
and `far` being the kernel of the values for one token and for two. The softmax passes a gradient g to the logits as
w_ij g_i (v_j - sum_j' w_ij' v_j'), which sums to zero over the keys: what keys or values share gets no gradient. (Cf.
Dong et al. 2021, Noci et al. 2022, Cowsik et al. 2024.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from initaudit.theory.attention_channels import mixed
from initaudit.theory.attention_masks import HIDDEN, Seen, seen_by
from initaudit.theory.attention_softmax import softmax
from initaudit.theory.engine import Case, Grads, Step, Unread, op
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import PLACE, UNIT, Axis, Back, Batched, Kernel, extent
from initaudit.types import Array, Attending

_INPUTS = 16  # that are looked at together
_MASK = 1e6  # second moment from which what is added to logits is a mask


@dataclass(frozen=True, slots=True)
class Pair:
    """A moment of one input with itself, as what is its own, and of two inputs."""

    own: float
    cross: float

    @property
    def same(self) -> float:
        """Of one input."""
        return self.own + self.cross

    def times(self, other: Pair) -> Pair:
        """Return the moments of a product of independent values."""
        return Pair(self.own * other.same + self.cross * other.own, self.cross * other.cross)

    def scaled(self, number: float) -> Pair:
        """Return them times a number."""
        return Pair(self.own * number, self.cross * number)

    def plus(self, other: Pair) -> Pair:
        """Return the sum."""
        return Pair(self.own + other.own, self.cross + other.cross)


@dataclass(frozen=True, slots=True)
class Tokens:
    """A signal along one axis of tokens: moments of a token with itself, with another one, and with those elsewhere."""

    same: Pair
    far: Pair
    away: Pair  # in another window, another row: where the other axes of positions differ
    count: int
    others: float  # windows and the like
    inner: tuple[int, ...]  # axes of the grid that the tokens lie along

    @property
    def centred(self) -> Pair:
        """Of what tokens do not share."""
        return Pair(max(0.0, self.same.own - self.far.own), max(0.0, self.same.cross - self.far.cross))


def tokens(x: Kernel, axis: int) -> Tokens:
    """Return what a kernel says of tokens along an axis."""
    inner = tuple(atom.at for atom in x.axes[axis] if atom.kind == PLACE)
    outer = [a for a in range(len(x.grid.extents)) if a not in inner]
    windows = math.prod(x.grid.extents[a] for a in outer)
    count = extent(x.axes[axis])

    def three(f: Array) -> tuple[float, float, float]:
        grid, within = x.grid.diagonal(f, outer)
        same, far = grid.collapsed(within) if grid.positions > 1 else (within[0], within[0])
        if windows < 2:
            return float(same), float(far), float(far)
        mine = (float(same) + (count - 1) * float(far)) / count
        away = (x.grid.mean(f) * windows - mine) / (windows - 1)
        return float(same), float(far), away

    own, cross = three(x.own), three(x.shared)
    square = x.mean**2
    pairs = [Pair(o, c + square) for o, c in zip(own, cross, strict=True)]
    return Tokens(pairs[0], pairs[1], pairs[2], count, windows, inner)


def spread(grid: Grid, inner: Sequence[int], same: float, far: float, away: float) -> Array:
    """Return the function of the offset that is `far` within the inner axes and `away` beyond."""
    out = np.full(grid.size, away)
    counts = grid.counts
    for k, offset in enumerate(np.ndindex(*grid.shape)):
        if all(o == 0 for a, o in enumerate(offset) if a not in inner):
            out[k] = same if not any(offset) else far
    count = math.prod(grid.extents[a] for a in inner)
    near = sum(
        float(counts[k]) for k, offset in enumerate(np.ndindex(*grid.shape))
        if all(o == 0 for a, o in enumerate(offset) if a not in inner)
    )  # fmt: skip
    missing = float(grid.positions * count) - near  # pairs within the inner axes that are further than the grid tells
    if counts[-1] > 0:
        part = min(1.0, max(0.0, missing / float(counts[-1])))
        out[-1] = part * far + (1 - part) * away
    return out


@dataclass(frozen=True, slots=True)
class Layout:
    """Which axes of the operands are tokens, and which are units."""

    query: int
    query_units: int
    key: int
    key_units: int
    value: int
    value_units: int
    turned: bool = False  # units come before tokens in what it makes


@op("scaled_dot_product_attention")
def _whole(c: Case) -> Step:
    q, k, v = (c.kernel(place) for place in range(3))
    scale = c.attrs.get("scale")
    number = float(scale) if isinstance(scale, (int, float)) else 1 / math.sqrt(max(1, q.shape[-1]))
    added = (3,) if c.has(3) else ()
    return attended(c, (q, k, v), Layout(-2, -1, -2, -1, -2, -1), number, added, causal=bool(c.attrs.get("is_causal")))


@op("attend")
def _folded(c: Case) -> Step:
    q, k, v = (c.kernel(place) for place in range(3))
    count = c.integer("added", 0)
    scale = 1.0
    for place, power in enumerate(c.attrs["powers"], 3 + count):
        number = c.number(place)
        if number is None:
            number = math.sqrt(c.weight(place).square)
        scale *= number**power
    axes = (*c.attrs["query_axes"], *c.attrs["key_axes"], *c.attrs["value_axes"])
    one, two, three, four, five, six = (int(a) for a in axes)
    layout = Layout(one, two, three, four, five, six, turned=bool(c.attrs["turned"]))
    first = 3 + count + len(c.attrs["powers"])
    masks = [(first + at, bool(seen)) for at, seen in enumerate(c.attrs["seen"])]
    return attended(c, (q, k, v), layout, scale, range(3, 3 + count), masks=masks)


def attended(
    c: Case,
    signals: tuple[Kernel, Kernel, Kernel],
    at: Layout,
    scale: float,
    added: Sequence[int],
    *,
    causal: bool = False,
    masks: Sequence[tuple[int, bool]] = (),
) -> Step:
    """Return what attention makes of queries, keys and values.

    Args:
        c: the node; queries, keys and values are its first operands.
        signals: their kernels.
        at: their axes.
        scale: of the logits.
        added: places of the operands that are added to the logits, biases or masks.
        causal: a query sees only keys up to its own place.
        masks: places of conditions, and what they are where a key is seen.
    """
    q, k, v = signals
    if any(atom.kind == UNIT and atom.extent > 1 for x, a in ((k, at.key), (v, at.value)) for atom in x.axes[a]):
        if q.grid == k.grid == v.grid and not any(a.kind == UNIT and a.extent > 1 for a in q.axes[at.query_units]):
            return mixed(c, signals, _made_axes(signals, at), k.shape[at.key], scale)
        raise Unread
    asked, keyed, valued = tokens(q, at.query), tokens(k, at.key), tokens(v, at.value)
    width = q.shape[at.query_units]
    biases = {p: b for p in added if (b := _bias(c, p)) is not None}
    level = Pair(sum(float(b.own[0]) for b in biases.values()), sum(float(b.shared[0]) for b in biases.values()))
    square = scale * scale * width
    here = asked.same.times(keyed.centred).scaled(square).plus(level)
    there = asked.far.times(keyed.centred).scaled(square)
    seen = seen_by(c, added, asked.count, keyed.count, causal, masks)
    heads = q.units / max(1, q.shape[at.query_units]) * asked.others
    weights = _Weights(seen, here, there, max(1.0, heads), asked.count)
    dims = float(max(1, q.units))
    c.walk.attending.append(_attending(c, seen, here.same))
    share = weights.both.plus(here.scaled(weights.free / dims))
    other = weights.apart.plus(there.scaled(weights.free / dims))
    same = valued.far.plus(valued.centred.times(share))
    far = valued.far.plus(valued.centred.times(other))
    away = valued.away
    grid, mean = q.grid, v.mean**2
    axes = _made_axes(signals, at)
    own = spread(grid, asked.inner, same.own, far.own, away.own)
    shared = spread(grid, asked.inner, same.cross - mean, far.cross - mean, away.cross - mean)
    out = Kernel(axes, grid, own, shared, v.mean, v.alike, _profile(grid, asked, valued, seen, same))

    def down(d: Grads) -> dict[int, Back | None]:
        g = d[0]
        if g is None:
            return {}
        return _back(g, signals, at, (asked, keyed, valued), weights, scale, biases)

    return Step((out,), down)


def _made_axes(signals: tuple[Kernel, Kernel, Kernel], at: Layout) -> tuple[Axis, ...]:
    q, _, v = signals
    axes: list[Axis] = list(q.axes)
    axes[at.query_units] = v.axes[at.value_units]
    if at.turned:
        axes[at.query], axes[at.query_units] = axes[at.query_units], axes[at.query]
    return tuple(axes)


class _Weights:
    """Overlaps of the weights of two queries: of one input with itself, and of two inputs."""

    def __init__(self, seen: Seen, here: Pair, there: Pair, heads: float, queries: int) -> None:
        size = max(here.same, 0.0)
        made = [(softmax(n, math.sqrt(size)), n, share) for n, share in seen.counts]
        self.shares = sum(m.shares * w for m, _, w in made)
        rows = _INPUTS * heads * float(queries)
        rare = math.exp(-math.sqrt(size) / rows)  # with fewer rows than that, none has a near tie
        slope = rare * sum(m.slope * w for m, _, w in made)
        uniform = sum(w / n for _, n, w in made)
        self.log = math.log(max(1.0, self.shares / uniform)) if uniform > 0 else 0.0
        self.free = max(0.0, 1 - self.shares) if size < 1 else max(0.0, 1 - self.shares) / size
        self._size = size
        self.apart = self._pair(seen.apart, there)
        self.both = self._pair(uniform, here)
        # what of it passes a gradient to the logits
        self.slope = slope / self.shares if self.shares > 0 else 0.0

    def _pair(self, level: float, logits: Pair) -> Pair:
        if not self._size > 0:
            return Pair(0.0, level)
        cross = level * math.exp(self.log * min(1.0, logits.cross / self._size))
        return Pair(cross * math.expm1(self.log * min(1.0, logits.own / self._size)), cross)


def _back(
    g: Back,
    signals: tuple[Kernel, Kernel, Kernel],
    at: Layout,
    sides: tuple[Tokens, Tokens, Tokens],
    weights: _Weights,
    scale: float,
    biases: dict[int, Kernel],
) -> dict[int, Back | None]:
    q, k, v = signals
    asked, keyed, valued = sides
    queries, keys = float(asked.count), float(keyed.count)
    centred, kept = valued.centred, keyed.centred
    dims = v.shape[at.value_units]
    groups = (q.units / max(1, q.shape[at.query_units])) / max(1.0, k.units / max(1, k.shape[at.key_units]))
    square = scale * scale
    whole = float(max(1, q.units))
    found: dict[str, list[tuple[float, float, float]]] = {"q": [], "k": [], "v": []}
    logits: list[float] = []
    for one in _kinds(g):
        same, far, away = one.along(g, asked)
        near, apart = one.overlap(weights.both), one.overlap(weights.apart)
        # values
        lone = queries / keys * (one.times(same, near) + (queries - 1) * one.times(far, apart))
        total = queries * one.times(same, Pair(0.0, 1.0)) + queries * (queries - 1) * one.times(far, Pair(0.0, 1.0))
        rest = (total / keys - lone) / (keys - 1) if keys > 1 else 0.0
        found["v"].append((lone, rest, one.times(away, Pair(0.0, 1.0)) * (queries / keys) ** 2))
        # logits, summed over keys
        slope = centred.scaled(dims * weights.slope)
        at_one = slope.times(weights.both)
        at_two = slope.times(weights.apart)
        logits.append(one.times(same, one.overlap(at_one)) / keys)
        mixed = 1 + 1 / (whole * max(weights.shares, 1e-12))
        found["q"].append((
            square * mixed * one.times(same, one.overlap(at_one.times(kept))),
            square * mixed * one.times(far, one.overlap(at_two.times(kept))), 0.0,
        ))  # fmt: skip
        down = square / keys * (
            queries * one.times(same, one.overlap(at_one.times(asked.same)))
            + queries * (queries - 1) * one.times(far, one.overlap(at_two.times(asked.far)))
        )  # fmt: skip
        down = max(0.0, down)
        found["k"].append((down, -down / (keys - 1) if keys > 1 else 0.0, 0.0))
    out: dict[int, Back | None] = {
        0: _returned(q, asked, found["q"], 1.0, g.profile),
        1: _returned(k, keyed, found["k"], groups, ()),
        2: _returned(v, valued, found["v"], groups, ()),
    }
    heads = q.units / max(1, q.shape[at.query_units])
    for place, bias in biases.items():
        elements = heads * asked.others * queries * keys / max(1, bias.size)
        each, own, cross, *more = (bias.grid.peak(f * elements) for f in logits)
        batched = Batched(more[0], more[1], more[2]) if more else None
        out[place] = Back(bias.grid, each, own, cross, 1 / max(1, bias.units), (), batched)
    return out


@dataclass(frozen=True, slots=True)
class _Kind:
    """One of the moments of a gradient, and how it meets those of what it is multiplied by."""

    name: str  # each, own, cross
    own: Array | None
    cross: Array

    def overlap(self, pair: Pair) -> Pair:
        """Return the moments of weights as this moment meets them."""
        return Pair(0.0, pair.same) if self.name == "each" else pair

    def times(self, g: Pair, factor: Pair) -> float:
        """Return the moment of a gradient times independent factors."""
        if self.name == "each":
            return g.same * factor.same
        made = g.times(factor)
        return made.own if self.name == "own" else made.cross

    def along(self, g: Back, asked: Tokens) -> tuple[Pair, Pair, Pair]:
        """Return it for one query, for two, and for two in different windows."""
        outer = [a for a in range(len(g.grid.extents)) if a not in asked.inner]

        def three(f: Array | None) -> tuple[float, float, float]:
            if f is None:
                return 0.0, 0.0, 0.0
            grid, within = g.grid.diagonal(f, outer)
            same, far = grid.collapsed(within) if grid.positions > 1 else (within[0], within[0])
            if asked.others < 2:
                return float(same), float(far), 0.0
            mine = (float(same) + (asked.count - 1) * float(far)) / asked.count
            return float(same), float(far), (g.grid.mean(f) * asked.others - mine) / (asked.others - 1)

        one, two, three_ = (Pair(o, c) for o, c in zip(three(self.own), three(self.cross), strict=True))
        return one, two, three_


def _kinds(g: Back) -> tuple[_Kind, ...]:
    """Return the moments of a gradient, in the order that `_returned` takes them."""
    plain = _Kind("each", None, g.each), _Kind("own", g.own, g.cross), _Kind("cross", g.own, g.cross)
    b = g.batched
    if b is None:
        return plain
    return *plain, _Kind("own", b.own, b.cross), _Kind("cross", b.own, b.cross), _Kind("cross", None, b.more)


def _returned(
    x: Kernel, side: Tokens, moments: list[tuple[float, float, float]], times: float, profile: tuple[Array | None, ...]
) -> Back:
    each, own, cross, *more = (spread(x.grid, side.inner, *(times * m for m in one)) for one in moments)
    batched = Batched(more[0], more[1], more[2]) if more else None
    kept = profile if len(profile) == len(x.grid.extents) else ()
    return Back(x.grid, each, own, cross, 1 / max(1, x.units), kept, batched)


def _bias(c: Case, place: int) -> Kernel | None:
    """Return what is added to logits, where it is a parameter or a signal and no mask."""
    if not c.has(place):
        return None
    if c.moves(place):
        found = c.walk.kernels.get(c.name(place))
        return found if found is not None and float(found.same[0]) < _MASK else None
    values = c.values(place)
    if values is not None and (values.dtype.kind == "b" or not np.all((values > HIDDEN) & (values < 1e3))):
        return None
    try:
        found = c.kernel(place)
    except Unread:
        return None
    return found if float(found.same[0]) < _MASK else None


def _attending(c: Case, seen: Seen, variance: float) -> Attending:
    able = [(n, w) for n, w in seen.counts if n > 1]
    total = sum(w for _, w in able) or 1.0
    std = math.sqrt(max(0.0, variance))
    entropy = sum(softmax(n, std).entropy * w for n, w in able) / total if able else 1.0
    inside = sum((1 - 1 / n) * w for n, w in able) / total if able else 0.0
    name = str(c.node.attrs.get("@scope") or c.node.name or c.node.outputs[0])
    return Attending(name, float(f"{entropy:.6g}"), float(f"{std * math.sqrt(inside):.6g}"))


def _profile(grid: Grid, asked: Tokens, valued: Tokens, seen: Seen, same: Pair) -> tuple[Array | None, ...]:
    """Return how what is mixed differs between queries that see few keys and many."""
    if seen.each is None or len(asked.inner) != 1 or not same.same > 0:
        return ()
    f = valued.far.same + valued.centred.same / seen.each
    mean = float(f.mean())
    if not (mean > 0 and math.isfinite(mean)) or len(f) != grid.extents[asked.inner[0]]:
        return ()
    return tuple(f / mean if a == asked.inner[0] else None for a in range(len(grid.extents)))
