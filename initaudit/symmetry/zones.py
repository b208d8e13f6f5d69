"""What a value and a gradient can be for any input: bounds of a value, and whether a gradient can be other than zero.

Arrays have an entry per index along an axis, or one for all of them: along inputs, places and times. What is one number
for all inputs and places has equal bounds; what is identically zero, the bounds zero and zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from initaudit.types import Array

MOST = 1 << 24
Sums = tuple[tuple[frozenset[int], Array], ...]  # axes, and for which elements


@dataclass(frozen=True, slots=True)
class Zone:
    """Bounds of a value."""

    low: Array
    high: Array
    shape: tuple[int, ...]
    still: Array | None = None  # where it is one number for all inputs, and for all indices that share an entry

    @property
    def zero(self) -> Array:
        """Where it is identically zero."""
        found: Array = (self.low == 0) & (self.high == 0)
        return found

    @property
    def fixed(self) -> Array:
        """Where it is one number for all inputs and places."""
        found: Array = self.low == self.high
        return found if self.still is None else found | self.still

    def mapped(self, f: Callable[[Array], Array], shape: Sequence[int]) -> Zone:
        """Return bounds of what only moves elements."""
        return Zone(f(self.low), f(self.high), tuple(shape), None if self.still is None else f(self.still))


@dataclass(frozen=True, slots=True)
class Held:
    """A parameter, as far as it has not moved yet."""

    numbers: Callable[[], Array]
    shape: tuple[int, ...]
    moved: Array  # bool, broadcast to the shape

    def zone(self) -> Zone:
        """Return its bounds."""
        if self.moved.all():
            low, high = (np.broadcast_to(np.float64(v), self.shape) for v in (-np.inf, np.inf))
            return Zone(low, high, self.shape, np.broadcast_to(np.True_, self.shape))
        if math.prod(self.shape) > MOST:
            values = np.asarray(self.numbers())
            least, most = float(values.min()), float(values.max())
            if self.moved.any() or least != most:
                return anything(self.shape)
            return number(self.shape, least)
        values = np.asarray(self.numbers(), np.float64)
        if not self.moved.any() and bool(np.isfinite(values).all()):
            return Zone(values, values, self.shape, np.broadcast_to(np.True_, self.shape))
        values = np.where(np.isfinite(values), values, np.nan)
        odd = np.isnan(values) | self.moved
        still = np.broadcast_to(np.True_, self.shape)
        return Zone(np.where(odd, -np.inf, values), np.where(odd, np.inf, values), self.shape, still)


@dataclass(frozen=True, slots=True)
class Grad:
    """Whether a gradient can be other than zero."""

    live: Array  # bool
    shape: tuple[int, ...]
    sums: Sums = ()  # sets of axes over which, taken together, it sums to zero
    even: frozenset[int] = frozenset()  # axes along which it is the same
    cancelled: Array | bool = False  # of a parameter: where terms that are not zero sum to zero
    reach: Array | bool = True  # of a parameter: what this graph reads of it

    @property
    def none(self) -> bool:
        """Whether it is zero altogether."""
        return not self.live.any()


def anything(shape: Sequence[int]) -> Zone:
    """Return bounds of what may be anything."""
    one = (1,) * len(shape)
    return Zone(np.full(one, -np.inf), np.full(one, np.inf), tuple(shape))


def loosened(x: Zone) -> Zone:
    """Return no bounds of what is not identically zero."""
    return Zone(np.where(x.zero, 0.0, -np.inf), np.where(x.zero, 0.0, np.inf), x.shape, x.fixed)


def number(shape: Sequence[int], value: float) -> Zone:
    """Return bounds of a constant."""
    one = np.full((1,) * len(shape), float(value))
    return Zone(one, one, tuple(shape))


def alive(shape: Sequence[int]) -> Grad:
    """Return a gradient of which nothing is known."""
    return Grad(np.ones((1,) * len(shape), bool), tuple(shape))


def dead(shape: Sequence[int]) -> Grad:
    """Return a gradient that is zero."""
    return Grad(np.zeros((1,) * len(shape), bool), tuple(shape))


def some(x: Array, axes: int | tuple[int, ...] | None = None, *, keepdims: bool = False) -> Array:
    """Return whether any is true along axes."""
    return np.asarray(np.any(x, axis=axes, keepdims=keepdims))


def collapsed(x: Array, axes: Sequence[int], how: Callable[..., Array]) -> Array:
    """Return an array with one entry for all indices along axes."""
    return how(x, axis=tuple(axes), keepdims=True) if axes else x


def joined(x: Zone, axes: Sequence[int]) -> Zone:
    """Return bounds with one entry for all indices along axes."""
    wide = [a for a in axes if x.low.shape[a] > 1]
    still = None if wide else x.still
    return Zone(collapsed(x.low, axes, np.min), collapsed(x.high, axes, np.max), x.shape, still)


def thinned(x: Zone) -> Zone:
    """Return the same bounds with one entry along axes along which all is one known number."""
    low, high, still = x.low, x.high, x.still
    if not bool((low == high).all()):
        return x
    for a in range(low.ndim):
        first = low.take([0], a)
        if low.shape[a] > 1 and bool((low == first).all()):
            low = high = first
    if still is not None and low.shape != x.low.shape:
        still = np.ones((1,) * low.ndim, bool)
    return Zone(low, high, x.shape, still)


def slim(x: Zone) -> Zone:
    """Return the same bounds with one entry for all, where nothing is bounded and nothing still."""
    if x.low.size <= 1 or x.low.flat[0] != -np.inf or x.high.flat[0] != np.inf:
        return x
    if x.still is not None and x.still.any():
        return x
    return anything(x.shape) if bool((x.low == -np.inf).all() and (x.high == np.inf).all()) else x


def quiet(zones: Sequence[Zone], rank: int) -> Array:
    """Return where all of several values, broadcast, are one number for all inputs."""
    out = np.ones((1,) * rank, bool)
    for z in zones:
        out = out & lined(z.fixed, rank)
    return out


def broadcast(*shapes: Sequence[int]) -> tuple[int, ...]:
    """Return the shape that several go together in."""
    return tuple(np.broadcast_shapes(*map(tuple, shapes)))


def lined(x: Array, rank: int) -> Array:
    """Return an array with new axes in front."""
    return x.reshape((1,) * (rank - x.ndim) + x.shape)


def runs(before: Sequence[int], after: Sequence[int]) -> list[tuple[range, range]]:
    """Return axes that hold the same elements before and after a reshape, as few as can be at a time."""
    out: list[tuple[range, range]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        m, n = min(i + 1, len(before)), min(j + 1, len(after))
        while math.prod(before[i:m]) != math.prod(after[j:n]):
            if math.prod(before[i:m]) < math.prod(after[j:n]):
                m += 1
            else:
                n += 1
        while m < len(before) and before[m] == 1 and (n >= len(after) or after[n] != 1):
            m += 1
        while n < len(after) and after[n] == 1 and (m >= len(before) or before[m] != 1):
            n += 1
        out.append((range(i, m), range(j, n)))
        i, j = m, n
    return out


def reshaper(before: Sequence[int], after: Sequence[int]) -> Callable[[Array], Array]:
    """Return the function that reshapes an array with one entry for some of its axes."""
    steps = runs(before, after)

    def reshape(x: Array) -> Array:
        full, shape = list(x.shape), []
        for old, new in steps:
            if all(x.shape[a] == 1 for a in old):
                shape += [1] * len(new)
            elif len(old) == 1 and len(new) == 1:
                shape.append(x.shape[old[0]])
            else:
                for a in old:
                    full[a] = before[a]
                shape += [after[a] for a in new]
        return np.broadcast_to(x, full).reshape(shape)

    return reshape


def all_of(axes: frozenset[int], rank: int) -> Sums:
    """Return sums over axes, for all elements."""
    return ((axes, np.ones((1,) * rank, bool)),) if axes else ()


def carried(one: frozenset[int], before: Sequence[int], after: Sequence[int]) -> frozenset[int] | None:
    """Return axes of `before` that hold what axes of `after` hold; None where there are none."""
    axes: set[int] = set()
    for old, new in runs(before, after):
        wide = [a for a in new if after[a] > 1]
        inside = [a in one for a in wide]
        if wide and all(inside):
            axes.update(old)
        elif any(inside):
            return None
    return frozenset(a for a in axes if before[a] > 1) or None


def merged(given: Sequence[Grad]) -> Grad:
    """Return the sum of several gradients of one value."""
    given = [g for g in given if not g.none] or list(given[:1])
    if len(given) == 1:
        return given[0]
    live = given[0].live
    sums = dict(given[0].sums)
    even = given[0].even
    for g in given[1:]:
        both: dict[frozenset[int], Array] = {}
        for a, where in sums.items():
            for b, other in g.sums:
                both[a | b] = both.get(a | b, np.zeros_like(where)) | (where & other)
        for a, where in sums.items():  # where the other has none at all
            both[a] = both.get(a, np.zeros_like(where)) | (where & ~g.live)
        for b, other in g.sums:
            both[b] = both.get(b, np.zeros_like(other)) | (other & ~live)
        live = live | g.live
        sums = {a: where for a, where in both.items() if where.any()}
        sums = dict(list(sums.items())[:8])
        even = even & g.even
    return Grad(live, given[0].shape, tuple(sums.items()), even)


def reduced(g: Grad, shape: Sequence[int], *, held: bool = False) -> Grad:
    """Return the gradient of what was broadcast.

    Args:
        g: of the result.
        shape: of what was broadcast.
        held: whether it is a parameter: that is broadcast along an axis of one too, for there may be more another time.
    """
    extra = len(g.shape) - len(shape)
    gone = [a for a in range(len(g.shape)) if a < extra or (shape[a - extra] == 1 and (held or g.shape[a] > 1))]
    if not gone:
        return g
    live = collapsed(g.live, gone, np.any)
    sums = []
    cancelled = np.zeros_like(live)
    for one, where in g.sums:
        rest = one - set(gone)
        kept = collapsed(where | ~g.live, gone, np.all)
        if rest:
            sums.append((frozenset(a - extra for a in rest), kept.reshape(kept.shape[extra:])))
        else:
            cancelled = cancelled | (kept & live)
    live = live & ~cancelled
    live, cancelled = (v.reshape(v.shape[extra:]) for v in (live, cancelled))
    even = frozenset(a - extra for a in g.even if a >= extra and a not in gone)
    return Grad(live, tuple(shape), tuple(sums), even, cancelled if cancelled.any() else False)


def within(g: Grad, shape: Sequence[int]) -> Grad:
    """Return a gradient under the shape of its value."""
    return replace(g, shape=tuple(shape))
