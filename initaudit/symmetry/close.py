"""Sums of weights over classes of units that agree but for rounding.

A weight that was rounded is off by up to half of what is between neighbouring numbers of its dtype; after a sum in
another order, or being scaled there and back, by a few. So two rows agree if, for every class, their sums differ by no
more than two steps for each term. A step is from one number to its neighbour in bfloat16, where what is summed has more
bits, and to the one after it elsewhere; at the weight, or at the typical weight of the row where that is larger, as
what is left of a sum that cancels has the error of its terms. Numbers that fit a shorter dtype went through it,
whatever they are stored in, and have its steps.

Rows are found by random projections of their sums, 16 columns bounded by sqrt(3) with variance 1, and then compared
class by class. That rows agree by chance must not be expected: with rows of few terms, or of numbers that hardly
differ, it is. So the share p of rows that come as close as the found ones is estimated by the spread of the
projections along their principal axes, and a set of s among u rows counts only where C(u, s) p^(s - 1) is below 1e-4
(1e-2 where terms fall into classes), and only if no other row is about. A tie needs that twice, of what comes in and of
what comes back, so that far fewer are to be expected.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from initaudit.symmetry.labels import chained, mix
from initaudit.symmetry.rounding import STEP, STEPS, grain, precision
from initaudit.types import Array

_COLUMNS = 16
_TYPICAL = 1.45  # root mean square of that over many terms: one step each, up or down, makes sqrt(2)
_SPREAD = 1.6  # and over n terms so much more, by sqrt(n)
_CHANCE = 1e-4  # sets of rows that may be expected to agree by accident
_CLASSES = 1e-2  # and where terms fall into few classes, which later rounds may split
_CHUNK = 1 << 18  # pairs at a time
_ENOUGH = 1 << 17  # pairs that are equal, after which no more are looked at
_BLOCK = 1 << 17  # elements of a weight at a time
_FEW = 64  # rows from which spreads are told
_MANY = 1 << 14  # rows of which not all that may be near each other are looked at
_MOST = 1 << 26  # pairs looked at
_ALONE = 4.0  # as many times as far as rounding goes, no other row may be about
_LIKE = 4.0  # rows whose norms differ by less say how rows are spread
_U = np.uint64


def joined(weight: Array, labels: Array, exact: Array, least: float, most: float) -> Array:
    """Return labels of rows of which those that agree but for rounding have one.

    Args:
        weight: (stack, rows, terms).
        labels: (sets, stack, terms), which class each term belongs to.
        exact: (sets, stack, rows) labels that are equal only for equal sums.
        least: the smallest step to reckon with.
        most: the largest.
    """
    place = np.arange(exact[..., 0].size, dtype=_U).reshape(*exact.shape[:2], 1)
    kinds, first, where = np.unique(chained(exact, place).ravel(), return_index=True, return_inverse=True)
    if len(kinds) < 2 or not precision(weight.dtype):
        return exact
    rows = _Rows(weight, labels, exact.shape, (least, max(most, least, precision(weight.dtype))))
    leader = rows.leaders(first)
    if leader is None:
        return exact
    out: Array = exact.ravel()[first[leader]][where].reshape(exact.shape)
    return out


class _Rows:
    """The rows of a stack of weights, each with every set of labels of its terms."""

    def __init__(self, weight: Array, labels: Array, shape: tuple[int, ...], eps: tuple[float, float]) -> None:
        self.weight, self.labels, self.shape = weight, labels, shape
        self.least, self.most = eps
        self.expected = _CHANCE if len(np.unique(labels)) == labels[0].size else _CLASSES

    def _at(self, index: Array) -> tuple[Array, Array, Array]:
        at = np.unravel_index(index, self.shape)
        return at[0], at[1], at[2]

    def leaders(self, first: Array) -> Array | None:
        """Return for each of some rows, given by places in the whole, the first one that it agrees with."""
        rough, reach = self._rough(first)
        flagged = np.zeros(len(first), bool)
        for one, other in _pairs(rough, reach):
            flagged[one] = flagged[other] = True
            if flagged.all():
                break
        some = np.flatnonzero(flagged)
        if not len(some):
            return None
        leader = np.arange(len(first))
        sizes = np.sqrt((rough.astype(np.float64) ** 2).mean(1))
        live = int(np.count_nonzero(sizes))
        for k, rest in self._sets(some, rough, first):
            chance = self._chance(k, rest, rough, sizes, first)
            if _choices(live, len(rest) + 1) + len(rest) * chance <= math.log(self.expected):
                leader[rest] = k
        return leader if (leader != np.arange(len(first))).any() else None

    def _rough(self, first: Array) -> tuple[Array, Array]:
        """Return projections of the sums of rows, in float32 where that will do, and how far rounding can move them."""
        kind = np.float64 if self.weight.dtype == np.float64 else np.float32
        seen, reach = np.zeros((len(first), _COLUMNS), kind), np.zeros(len(first))
        for (s, t), mine, r in self._stacks(first):
            labels = self.labels[s, t]
            crowd = math.sqrt(2 * np.unique(labels, return_counts=True)[1].max())
            made, size = _looked(self.weight[t], factors(labels).astype(kind))
            seen[mine] = made[r]
            reach[mine] = size[r] * (3 * STEPS * crowd * self.most + (1e-5 if kind is np.float32 else 0.0))
        return seen, reach

    def _stacks(self, first: Array) -> Iterator[tuple[tuple[int, int], Array, Array]]:
        """Yield the set and the stack of rows, which of those asked for they are, and their places in the stack."""
        s, t, r = self._at(first)
        for own in np.unique(np.stack([s, t], 1), axis=0):
            mine = np.flatnonzero((s == own[0]) & (t == own[1]))
            yield (int(own[0]), int(own[1])), mine, r[mine]

    def _sets(self, some: Array, rough: Array, first: Array) -> Iterator[tuple[int, Array]]:
        """Yield rows with those that agree with them, none of which has others about."""
        seen, slack = self._projected(first[some])
        ranks = np.argsort(seen[:, 0], kind="stable")
        some, seen, slack = some[ranks], seen[ranks], slack[ranks]
        taken = np.zeros(len(some), bool)
        every = np.argsort(rough[:, 0], kind="stable")
        keys = rough[every, 0].astype(np.float64)
        widest = float(slack.max())
        looked = 0
        for k in range(len(some)):
            if taken[k] or looked > _MOST:
                continue
            stop = int(np.searchsorted(seen[:, 0], seen[k, 0] + widest, "right"))
            rest = k + 1 + np.flatnonzero(~taken[k + 1 : stop])
            near = (np.abs(seen[rest] - seen[k]) <= np.maximum(slack[rest], slack[k])[:, None]).all(1)
            looked += (len(rest) + 1) * _COLUMNS
            rest = rest[near]
            if not len(rest):
                continue
            far = _ALONE * float(slack[[k, *rest]].max()) + 1e-6 * float(np.abs(seen[k]).max())
            low, high = np.searchsorted(keys, (seen[k, 0] - far, seen[k, 0] + far))
            about = every[low:high]
            looked += len(about) * _COLUMNS
            alone = np.count_nonzero((np.abs(rough[about] - seen[k]) <= far).all(1)) <= len(rest) + 1
            if alone and self._agree(int(first[some[k]]), first[some[rest]]).all():
                taken[rest] = True
                yield int(some[k]), some[rest]

    def _projected(self, first: Array) -> tuple[Array, Array]:
        """Return projections of the sums of rows, and how far rounding may move them."""
        seen, slack = np.zeros((len(first), _COLUMNS)), np.zeros(len(first))
        deep = max(1, _BLOCK // max(1, self.weight.shape[2]))
        for (s, t), mine, r in self._stacks(first):
            labels = self.labels[s, t]
            random = factors(labels)
            order, starts = _classes(labels)
            for k in range(0, len(mine), deep):
                raw = self.weight[t, r[k : k + deep]]
                values = raw.astype(np.float64)
                bound = self._bounds(raw, values)
                tau = np.add.reduceat(bound[:, order], starts, axis=1) if len(starts) < len(labels) else bound
                seen[mine[k : k + deep]] = values @ random
                slack[mine[k : k + deep]] = 3 * STEPS * np.sqrt((tau**2).sum(1))
        return seen, slack

    def _bounds(self, raw: Array, values: Array) -> Array:
        """Return what rounding may have done to each number."""
        typical = np.sqrt((values**2).mean(1, keepdims=True))
        eps = np.maximum(grain(raw), self.least)
        return np.asarray(eps * 2.0 ** (np.frexp(np.maximum(np.abs(values), typical))[1] - 1.0))

    def _agree(self, one: int, others: Array) -> Array:
        """Return which rows have the sums of one, class by class."""
        ((at, _, (r,)),) = self._stacks(np.array([one]))
        raw = self.weight[at[1], r][None]
        values = raw.astype(np.float64)
        bound = self._bounds(raw, values)[0]
        out = np.ones(len(others), bool)  # of other terms the projections agree, which is all that there is
        mine, order, starts = self._sums(values, *at)
        limit = _TYPICAL + _SPREAD / math.sqrt(len(starts)) if len(starts) == len(order) else STEPS
        deep = max(1, _BLOCK // max(1, self.weight.shape[2]))
        for own, which, rows in self._stacks(others):
            if own != at:
                continue
            for k in range(0, len(which), deep):
                given = self.weight[at[1], rows[k : k + deep]]
                theirs = given.astype(np.float64)
                bounds = np.maximum(bound, self._bounds(given, theirs))
                tau = np.add.reduceat(bounds[:, order], starts, axis=1)
                found, _, _ = self._sums(theirs, *at)
                off = np.abs(found - mine) / np.where(tau > 0, tau, 1)
                off[(tau == 0) & (found != mine)] = np.inf
                out[which[k : k + deep]] = (off <= STEPS).all(1) & (np.sqrt((off**2).mean(1)) <= limit)
        return out

    def _sums(self, values: Array, s: int, t: int) -> tuple[Array, Array, Array]:
        order, starts = _classes(self.labels[s, t])
        return np.add.reduceat(values[:, order], starts, axis=1), order, starts

    def _chance(self, k: int, rest: Array, seen: Array, sizes: Array, first: Array) -> float:
        """Return the logarithm of the share of pairs of rows that come as close as those of one set."""
        ((at, _, (r,)),) = self._stacks(first[[k]])
        sums, order, starts = self._sums(self.weight[at[1], r][None].astype(np.float64), *at)
        random = factors(self.labels[at][order[starts]])
        gap = float(np.abs(seen[rest].astype(np.float64) - seen[k]).max()) / sizes[k] + 1e-15
        like = (sizes > sizes[k] / _LIKE) & (sizes < sizes[k] * _LIKE)
        spread = seen[like].astype(np.float64) / sizes[k]
        if len(spread) < _FEW + len(rest):  # too few: the directions of all
            spread = seen[sizes > 0] / sizes[sizes > 0, None]
        if len(spread) < _FEW + len(rest):  # too few still: the terms of the row, in any order, are as likely
            rng = np.random.default_rng(0)
            shuffled = np.stack([rng.permutation(sums[0]) for _ in range(_FEW)])
            spread = np.concatenate([spread, shuffled @ random / sizes[k]])
        powers = np.linalg.eigvalsh(spread.T @ spread / len(spread))
        widths = np.sqrt(np.maximum(powers, powers.max() * 1e-12))
        shares = np.minimum(0.56 * gap / widths, 1.0)
        own = np.count_nonzero(sums) * math.log(0.56 * gap)  # no more than its terms can tell
        return float(max(np.log(shares).sum(), min(0.0, own)))


def factors(labels: Array) -> Array:
    """Return random numbers (terms, columns) of mean 0, variance 1, and at most sqrt(3), equal for equal labels."""
    column = mix(np.arange(1, _COLUMNS + 1, dtype=_U))
    bits = chained(labels[:, None], column) >> _U(11)
    return np.asarray((bits.astype(np.float64) * 2.0**-52 - 1.0) * math.sqrt(3.0))


def _looked(rows: Array, random: Array) -> tuple[Array, Array]:
    """Return rows multiplied with random numbers, (rows, columns), and the norms of rows, in the dtype of these."""
    turned = not rows.flags.c_contiguous and rows.T.flags.c_contiguous
    table = rows.T if turned else rows
    seen = np.zeros((len(rows), random.shape[1]), random.dtype)
    size = np.zeros(len(rows), random.dtype)
    deep = max(1, _BLOCK // max(1, table.shape[1]))
    for k in range(0, len(table), deep):
        part = table[k : k + deep].astype(random.dtype, copy=False)
        if turned:
            seen += part.T @ random[k : k + deep]
            size += np.einsum("ij,ij->j", part, part)
        else:
            seen[k : k + deep] = part @ random
            size[k : k + deep] = np.einsum("ij,ij->i", part, part)
    return seen, np.sqrt(size)


def _classes(labels: Array) -> tuple[Array, Array]:
    """Return an order in which classes stand together, and where each starts."""
    order = np.argsort(labels, kind="stable")
    ranked = labels[order]
    starts = np.flatnonzero(np.concatenate(([True], ranked[1:] != ranked[:-1])))
    return order, starts


def _pairs(seen: Array, reach: Array) -> Iterator[tuple[Array, Array]]:
    """Yield pairs of rows that are within reach of each other in all projections; not all, where they are very many."""
    wide = float(reach.max()) if len(reach) else 0.0
    if not wide or len(seen) < 2:
        return
    wide = max(wide, 1e-5 * float(np.abs(seen).max()))  # so that a cell and a place fit one number
    cell = np.floor(seen[:, 0].astype(np.float64) / wide)
    place = seen[:, 1].astype(np.float64) - float(seen[:, 1].min())
    span = float(place.max()) + 4 * wide
    key = cell * span + place
    order = np.argsort(key, kind="stable")
    key, values, reach = key[order], seen[order], reach[order]
    looked = 0
    for ahead in (0, 1):
        low = np.searchsorted(key, key + ahead * span - wide, "left")
        high = np.searchsorted(key, key + ahead * span + wide, "right")
        low = np.maximum(low, np.arange(len(key)) + 1) if ahead == 0 else low
        count = np.maximum(high - low, 0)
        ends = np.cumsum(count)
        start = 0
        while start < len(key) and looked <= _MOST:
            done = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, done + _CHUNK, "right")))
            many = count[start:stop]
            one = np.repeat(np.arange(start, stop), many)
            other = np.arange(len(one)) - np.repeat(np.cumsum(many) - many, many) + np.repeat(low[start:stop], many)
            looked += len(one)
            for c in range(seen.shape[1]):
                if not len(one):
                    break
                close = np.abs(values[one, c] - values[other, c]) <= np.maximum(reach[one], reach[other])
                one, other = one[close], other[close]
            if len(one):
                yield order[one], order[other]
            start = stop


def _choices(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def alike(rows: Array) -> tuple[bool, bool]:
    """Return whether two rows may be equal but for rounding, and whether two others may be multiples of each other.

    None are missed, some are found by chance. Where very many are equal, it may be anything.

    Args:
        rows: (rows, terms), of any dtype.
    """
    count, terms = rows.shape
    if terms > 4 * _COLUMNS:  # what is alike is so in a few terms too
        some = rows[:, np.linspace(0, terms - 1, 2 * _COLUMNS).astype(int)]
        kept = np.zeros(count, bool)
        for one, other, _ in _proportional(some, kept):
            kept[one] = kept[other] = True
            if kept.all():
                break
        rows = rows[np.flatnonzero(kept)]
    looked, equal = 0, False
    for one, _, same in _proportional(rows, np.zeros(len(rows), bool)):
        equal = equal or bool(same.any())
        looked += len(one)
        if not same.all() or looked > _ENOUGH:
            return True, True
    return equal, False


def _proportional(rows: Array, empty: Array) -> Iterator[tuple[Array, Array, Array]]:
    """Yield pairs of rows that may be multiples of each other, and whether they may be equal.

    Args:
        rows: (rows, terms).
        empty: where to tell which rows are zero.
    """
    seen, size = _looked(rows, factors(np.arange(rows.shape[1], dtype=_U)).astype(np.float32))
    empty |= size == 0
    live = np.flatnonzero(np.isfinite(size) & (size > 0))
    if len(rows) > _MANY:
        step = np.full(len(rows), precision(rows.dtype))
    else:  # what went through a shorter dtype too
        step = np.full(len(rows), STEP[7]) if rows.shape[1] >= 2 * _COLUMNS else grain(rows).max(1, initial=0.0)
    seen, size, slack = seen[live] / size[live, None], size[live], 6 * step[live] + 4e-6
    edge = np.flatnonzero(np.abs(seen[:, 0]) <= slack)  # whose sign is not sure
    sign = np.where(seen[:, 0] < 0, -1.0, 1.0).astype(np.float32)
    index = np.concatenate([np.arange(len(seen)), edge])
    sign = np.concatenate([sign, -sign[edge]])
    for one, other in _pairs(seen[index] * sign[:, None], slack[index]):
        apart = index[one] != index[other]
        a, b = index[one[apart]], index[other[apart]]
        alike_ = (sign[one] == sign[other])[apart] & (np.abs(size[a] - size[b]) <= slack[a] * size[a])
        if len(a):
            yield live[a], live[b], alike_
