"""Sums of weights over classes of units that agree but for rounding.

A weight that was rounded is off by up to half a step of its dtype; after a sum in another order, or a copy through
another precision, by a step or two. So two rows agree if, for every class, their sums differ by no more than two steps
for each term: a step is the dtype's epsilon times the weight, or times the typical weight of the row where that is
larger, as what is left of a sum that cancels has the error of its terms. Numbers that fit float16 or bfloat16
went through it, whatever they are stored in, and have its steps.

Rows are found by random projections of their sums, 16 columns bounded by sqrt(3) with variance 1, and then compared
class by class. That rows agree by chance must not be expected: with rows of few terms, or of numbers that hardly
differ, it is. So the share p of rows that come as close as the found ones is estimated by the spread of the
projections along their principal axes, and a set of s among u rows counts only where C(u, s) p^(s - 1) is below 1e-4.
A tie needs that twice, of what comes in and of what comes back.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from initaudit.symmetry.labels import chained, mix
from initaudit.types import Array

_COLUMNS = 16
_STEPS = 2.0  # how far apart two numbers are that are each off by a step
_TYPICAL = 1.45  # root mean square of that over many terms: one step each, up or down, makes sqrt(2)
_SPREAD = 1.6  # and over n terms so much more, by sqrt(n)
_CHANCE = 1e-4  # sets of rows that may be expected to agree by accident
_CHUNK = 1 << 21
_FEW = 64  # rows from which spreads are told
_MANY = 1 << 14  # rows of which not all that may be near each other are looked at
_MOST = 1 << 26  # pairs looked at
_U = np.uint64
_BITS = {2: 10, 4: 23, 8: 52}  # of the mantissa, by bytes of a float
_NAMED = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23}
_ROUND = 4  # mantissa bits that a number may have by choice: 0.25, 1.5, 0.375
_FINEST = 2.0**-50  # what sums in float64 are exact to


def precision(dtype: np.dtype[Any]) -> float:
    """Return the epsilon of a dtype; of one that holds no fractions zero, of a very short one its own."""
    if dtype.kind == "f" and dtype.itemsize in _BITS:
        return max(_FINEST, 2.0 ** -_BITS[dtype.itemsize])
    return _NAMED.get(dtype.name, 0.0)


def epsilon(dtype: str) -> float:
    """Return the epsilon of a dtype as torch spells it; of one that is not known zero."""
    return max(_FINEST, _NAMED.get(dtype, 0.0))


def grain(values: Array) -> Array:
    """Return the epsilon of each number: of its dtype, or of a coarser one that it went through.

    That is told by numbers that fit the coarser one though they are not round: then all that fit it went through it.

    Args:
        values: (rows, terms); each row has its own history.
    """
    out = np.full(values.shape, precision(values.dtype))
    for kept, whole, bits in _coarser(values):
        one = whole.dtype.type
        fits = (whole & one((1 << (bits - kept)) - 1)) == 0
        told = fits & ((whole & one((1 << (bits - _ROUND)) - 1)) != 0)
        out[fits & told.any(-1, keepdims=True)] = 2.0**-kept
    return out


def _coarser(values: Array) -> Iterator[tuple[int, Array, int]]:
    """Yield the mantissa bits of each dtype that floats may have come from, with their bits and how many they have."""
    if values.dtype.kind == "f" and values.dtype.itemsize in (4, 8):
        whole = np.ascontiguousarray(values).view(f"u{values.dtype.itemsize}")
        bits = _BITS[values.dtype.itemsize]
        yield from ((kept, whole, bits) for kept in (23, 10, 7) if kept < bits)


def joined(weight: Array, labels: Array, exact: Array, least: float) -> Array:
    """Return labels of rows of which those that agree but for rounding have one.

    Args:
        weight: (stack, rows, terms).
        labels: (sets, stack, terms), which class each term belongs to.
        exact: (sets, stack, rows) labels that are equal only for equal sums.
        least: the smallest epsilon to reckon with.
    """
    place = np.arange(exact[..., 0].size, dtype=_U).reshape(*exact.shape[:2], 1)
    kinds, first, where = np.unique(chained(exact, place).ravel(), return_index=True, return_inverse=True)
    if len(kinds) < 2 or not precision(weight.dtype):
        return exact
    rows = _Rows(weight, labels, exact.shape, least)
    leader = rows.leaders(first)
    if leader is None:
        return exact
    out: Array = exact.ravel()[first[leader]][where].reshape(exact.shape)
    return out


class _Rows:
    """The rows of a stack of weights, each with every set of labels of its terms."""

    def __init__(self, weight: Array, labels: Array, shape: tuple[int, ...], least: float) -> None:
        self.weight, self.labels, self.shape, self.least = weight, labels, shape, least

    def _at(self, index: Array) -> tuple[Array, Array, Array]:
        at = np.unravel_index(index, self.shape)
        return at[0], at[1], at[2]

    def leaders(self, first: Array) -> Array | None:
        """Return for each of some rows, given by places in the whole, the first one that it agrees with."""
        seen, slack, size = self._projected(first)
        live = size > 0
        near = _flagged(seen, slack, live)
        if not near.any():
            return None
        leader = np.arange(len(first))
        order = np.flatnonzero(near)[np.argsort(seen[near, 0], kind="stable")]
        taken = np.zeros(len(first), bool)
        sets: list[tuple[int, Array]] = []
        for at, k in enumerate(order):
            if taken[k]:
                continue
            rest = order[at + 1 :]
            ahead = int(np.searchsorted(seen[rest, 0], seen[k, 0] + 2 * float(slack[order].max()), "right"))
            rest = rest[:ahead][~taken[rest[:ahead]]]
            bound = np.maximum(slack[rest], slack[k])[:, None]
            rest = rest[(np.abs(seen[rest] - seen[k]) <= bound).all(1)]
            rest = rest[self._agree(int(first[k]), first[rest])] if len(rest) else rest
            if len(rest):
                taken[rest] = True
                sets.append((int(k), rest))
        if not sets:
            return None
        alone = np.flatnonzero(~taken & live)
        chance = self._chance(seen / np.where(size, size, 1)[:, None], size, first, alone, sets)
        for k, rest in sets:
            count = len(rest) + 1
            ways = _choices(int(live.sum()), count)
            if ways + len(rest) * chance <= math.log(_CHANCE):
                leader[rest] = k
        return leader if (leader != np.arange(len(first))).any() else None

    def _projected(self, first: Array) -> tuple[Array, Array, Array]:
        """Return projections of the sums of rows, how much rounding may move them, and the norms of the sums."""
        seen = np.zeros((len(first), _COLUMNS))
        slack, size = np.zeros(len(first)), np.zeros(len(first))
        s, t, r = self._at(first)
        deep = max(1, _CHUNK // max(1, self.weight.shape[2]))
        for own in np.unique(np.stack([s, t], 1), axis=0):
            mine = np.flatnonzero((s == own[0]) & (t == own[1]))
            labels = self.labels[own[0], own[1]]
            random = factors(labels)
            order, starts = _classes(labels)
            for k in range(0, len(mine), deep):
                part = mine[k : k + deep]
                raw = self.weight[own[1], r[part]]
                values = raw.astype(np.float64)
                bound = self._bounds(raw, values)
                seen[part] = values @ random
                tau = np.add.reduceat(bound[:, order], starts, axis=1) if len(starts) < len(labels) else bound
                sums = np.add.reduceat(values[:, order], starts, axis=1) if len(starts) < len(labels) else values
                slack[part] = 3 * _STEPS * np.sqrt((tau**2).sum(1))
                size[part] = np.sqrt((sums**2).sum(1))
        return seen, slack, size

    def _bounds(self, raw: Array, values: Array) -> Array:
        """Return what rounding may have done to each number."""
        typical = np.sqrt((values**2).mean(1, keepdims=True))
        eps = np.maximum(grain(raw), self.least)
        return np.asarray(eps * 2.0 ** (np.frexp(np.maximum(np.abs(values), typical))[1] - 1.0))

    def _agree(self, one: int, others: Array) -> Array:
        """Return which rows have the sums of one, class by class."""
        (s,), (t,), (r,) = self._at(np.array([one]))
        raw = self.weight[t, r][None]
        values = raw.astype(np.float64)
        bound = self._bounds(raw, values)[0]
        out = np.zeros(len(others), bool)
        so, to, ro = self._at(others)
        mine, order, starts = self._sums(values, s, t)
        deep = max(1, _CHUNK // max(1, self.weight.shape[2]))
        for k in range(0, len(others), deep):
            for own in np.unique(np.stack([so[k : k + deep], to[k : k + deep]], 1), axis=0):
                part = k + np.flatnonzero((so[k : k + deep] == own[0]) & (to[k : k + deep] == own[1]))
                given = self.weight[own[1], ro[part]]
                theirs = given.astype(np.float64)
                if own[0] == s and own[1] == t:
                    bounds = np.maximum(bound, self._bounds(given, theirs))
                    tau = np.add.reduceat(bounds[:, order], starts, axis=1)
                    found, _, _ = self._sums(theirs, s, t)
                    off = np.abs(found - mine) / np.where(tau > 0, tau, 1)
                    off[(tau == 0) & (found != mine)] = np.inf
                    rms = np.sqrt((off**2).mean(1))
                    limit = _TYPICAL + _SPREAD / math.sqrt(len(starts))
                    out[part] = (off <= _STEPS).all(1) & ((rms <= limit) | (len(starts) < len(order)))
                else:  # other terms: their projections agree, which is all that there is
                    out[part] = True
        return out

    def _sums(self, values: Array, s: int, t: int) -> tuple[Array, Array, Array]:
        order, starts = _classes(self.labels[s, t])
        return np.add.reduceat(values[:, order], starts, axis=1), order, starts

    def _chance(self, seen: Array, size: Array, first: Array, alone: Array, sets: list[tuple[int, Array]]) -> float:
        """Return the logarithm of the share of pairs of rows that come as close as those found."""
        gap = max(float(np.abs(seen[rest] - seen[k]).max()) for k, rest in sets)
        spread = seen[alone]
        if len(alone) < _FEW:  # too few to tell: their terms, in any order, are as likely
            spread = np.concatenate([spread, *(self._shuffled(int(first[k])) / size[k] for k in alone[:_FEW])])
        powers = np.linalg.eigvalsh(spread.T @ spread / len(spread))
        widths = np.sqrt(np.maximum(powers, 0.0))
        shares = np.divide(0.56 * gap, widths, out=np.ones_like(widths), where=widths > 0.56 * gap)
        return float(np.log(np.maximum(shares, 1e-300)).sum())

    def _shuffled(self, one: int) -> Array:
        (s,), (t,), (r,) = self._at(np.array([one]))
        sums, order, starts = self._sums(self.weight[t, r][None].astype(np.float64), s, t)
        random = factors(self.labels[s, t][order[starts]])
        rng = np.random.default_rng(0)
        return np.concatenate([rng.permutation(sums[0])[None] @ random for _ in range(4)])


def factors(labels: Array) -> Array:
    """Return random numbers (terms, columns) of mean 0, variance 1, and at most sqrt(3), equal for equal labels."""
    column = mix(np.arange(1, _COLUMNS + 1, dtype=_U))
    bits = chained(labels[:, None], column) >> _U(11)
    return np.asarray((bits.astype(np.float64) * 2.0**-52 - 1.0) * math.sqrt(3.0))


def _classes(labels: Array) -> tuple[Array, Array]:
    """Return an order in which classes stand together, and where each starts."""
    order = np.argsort(labels, kind="stable")
    ranked = labels[order]
    starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
    return order, starts


def _flagged(seen: Array, slack: Array, live: Array) -> Array:
    """Return which rows have another one within reach in all projections."""
    out = np.zeros(len(seen), bool)
    order = np.flatnonzero(live)[np.argsort(seen[live, 0], kind="stable")]
    values, reach = seen[order], slack[order]
    widest = float(reach.max()) if len(order) else 0.0
    looked = 0
    for shift in range(1, len(order)):
        near = np.flatnonzero(values[shift:, 0] - values[:-shift, 0] <= widest)
        looked += len(order)
        if not len(near) or looked > _MOST:
            break
        bound = np.maximum(reach[near], reach[near + shift])
        for c in range(_COLUMNS):
            close = np.abs(values[near + shift, c] - values[near, c]) <= bound
            near, bound = near[close], bound[close]
            if not len(near):
                break
        out[order[near]] = out[order[near + shift]] = True
        if out[order].all():
            break
    return out


def _choices(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def linked(values: Array, groups: Array, least: float, *, strict: bool) -> Array:
    """Return for each number the place of the first one of its group that it is nearly equal to, by way of others.

    Args:
        values: numbers of a float dtype, one axis.
        groups: those of different groups are never equal.
        least: the smallest epsilon to reckon with.
        strict: numbers that are joined only by way of others stay as they are.
    """
    wide = values.astype(np.float64)
    own = np.arange(len(wide))
    eps = np.maximum(grain(values[:, None])[:, 0], least)
    order = np.lexsort((wide, groups))
    ranked, kinds, step = wide[order], groups[order], eps[order]
    reach = _STEPS * np.maximum(step[1:], step[:-1]) * np.maximum(np.abs(ranked[1:]), np.abs(ranked[:-1]))
    apart = (kinds[1:] != kinds[:-1]) | ~(ranked[1:] - ranked[:-1] <= reach)
    starts = np.flatnonzero(np.concatenate(([True], apart)))
    ends = np.concatenate((starts[1:], [len(order)]))
    chain = np.repeat(np.arange(len(starts)), ends - starts)
    low, high = ranked[starts], ranked[ends - 1]
    widest = np.maximum.reduceat(step, starts)
    narrow = high - low <= _STEPS * widest * np.maximum(np.abs(low), np.abs(high))
    firsts = np.minimum.reduceat(order, starts)
    if strict:
        equal = np.flatnonzero(np.concatenate(([True], (ranked[1:] != ranked[:-1]) | (kinds[1:] != kinds[:-1]))))
        same = np.repeat(np.minimum.reduceat(order, equal), np.diff(np.concatenate((equal, [len(order)]))))
        own[order] = np.where(narrow[chain], firsts[chain], same)
    else:
        own[order] = firsts[chain]
    return own


def alike(rows: Array) -> bool:
    """Return whether two rows may be proportional but for rounding; none are missed, some are found by chance.

    Args:
        rows: (rows, terms), of any dtype.
    """
    count, terms = rows.shape
    random = factors(np.arange(terms, dtype=_U)).astype(np.float32)
    seen, size = np.zeros((count, _COLUMNS), np.float32), np.zeros(count, np.float32)
    deep = max(1, _CHUNK // terms)
    for k in range(0, count, deep):
        part = rows[k : k + deep].astype(np.float32)
        seen[k : k + deep] = part @ random
        size[k : k + deep] = np.sqrt(np.einsum("ij,ij->i", part, part))
    live = np.isfinite(size) & (size > 0)
    eps = np.full(count, precision(rows.dtype))
    if count <= _MANY:  # what went through bfloat16 too, whatever it is stored in
        eps = np.full(count, _NAMED["bfloat16"]) if terms >= 2 * _COLUMNS else grain(rows).max(1)
    seen, eps = seen[live] / size[live, None], eps[live]
    seen *= np.where(seen[:, :1] < 0, -1, 1).astype(np.float32)
    slack = 12 * eps + 4e-6
    edge = seen[:, 0] <= slack  # whose sign is not sure
    both = np.concatenate([seen, -seen[edge]])
    return bool(_flagged(both, np.concatenate([slack, slack[edge]]), np.ones(len(both), bool)).any())
