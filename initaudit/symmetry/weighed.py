"""Products of a signal and a parameter: bounds, and where gradients can be other than zero."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from initaudit.symmetry.bounds import SLACK, total
from initaudit.symmetry.moving import Case, Unread
from initaudit.symmetry.zones import (
    Grad,
    Zone,
    reduced,
)
from initaudit.types import Array

_LOOK = 32  # terms that mostly settle what a sum of many can be
_CHUNK = 1 << 18  # elements of a weight at a time


class Weighed:
    """A product of a signal and a parameter: (stack, rows, terms) with (stack, terms).

    One term can settle what a row can be: one that has no bounds makes a sum without bounds, one that varies makes it
    vary. So a few terms are looked at first, and all of them only for the rows that these leave open.
    """

    def __init__(self, numbers: Callable[[], Array], moved: Array, low: Array, high: Array, rows: int) -> None:
        self.low, self.high = low, high
        self.stack, self.terms = low.shape
        self.rows = rows
        self.zero = (low == 0) & (high == 0)
        self.moved = moved  # broadcast to (stack, rows, terms)
        self.numbers = numbers
        self.all = bool(moved.all())

    def bounds(self) -> tuple[Array, Array]:
        """Return the bounds of the result, (stack, rows)."""
        shape = (self.stack, self.rows)
        if self.all or self.zero.all():
            free = np.broadcast_to(~self.zero.all(1, keepdims=True), shape)
            return np.where(free, -np.inf, 0.0), np.where(free, np.inf, 0.0)
        low, high = np.full(shape, -np.inf), np.full(shape, np.inf)
        w = self.numbers()
        moved = np.broadcast_to(self.moved, w.shape)
        endless = np.flatnonzero(~(np.isfinite(self.low) & np.isfinite(self.high)).all(0))[:_LOOK]
        settled = _endless(w[:, :, endless], moved[:, :, endless], self.low[:, endless], self.high[:, endless])
        for at, part, own in _open(~settled, self.terms):
            low[at], high[at] = _bounds(w[part], moved[part], self.low[own], self.high[own])
        return low, high

    def back(self, live: Array) -> Array:
        """Return where the gradient of the signal can be other than zero, (stack, terms)."""
        if self.all or not live.any():
            return np.broadcast_to(live.any(1, keepdims=True), (self.stack, self.terms))
        w = self.numbers()
        turned = np.broadcast_to(self.moved, w.shape).transpose(0, 2, 1)
        return _meets(w.transpose(0, 2, 1), turned, np.broadcast_to(live, (self.stack, self.rows)))

    def still(self, vary: Array) -> Array:
        """Return where nothing that varies comes in, (stack, rows), `vary` being (stack, terms)."""
        if self.all or not vary.any():
            return np.broadcast_to(~vary.any(1, keepdims=True), (self.stack, self.rows))
        w = self.numbers()
        return ~_meets(w, np.broadcast_to(self.moved, w.shape), vary)

    def mask(self, live: Array) -> Array:
        """Return where the parameter moves, broadcast to (stack, rows, terms)."""
        return _thin(live)[:, :, None] & _thin(~self.zero)[:, None, :]


def _thin(x: Array) -> Array:
    """Return one entry for all of two axes, where all are the same."""
    return x[:1, :1] if x.all() or not x.any() else x


def _open(left: Array, terms: int) -> Iterator[tuple[tuple[Array, Array], Any, Any]]:
    """Yield rows that are left, some at a time: as places, as what picks them from a weight, and as their stack."""
    stacks, rows = np.nonzero(left)
    step = max(1, _CHUNK // max(1, terms))
    for k in range(0, len(rows), step):
        s, r = stacks[k : k + step], rows[k : k + step]
        together = s[0] == s[-1] and r[-1] - r[0] + 1 == len(r)  # then nothing need be copied
        yield (s, r), ((s[0], slice(r[0], r[-1] + 1)) if together else (s, r)), (s[:1] if s[0] == s[-1] else s)


def _meets(w: Array, moved: Array, mask: Array) -> Array:
    """Return which rows have an element that is not zero or has moved, where a mask (stack, terms) says."""

    def found(part: Array, moved: Array, mask: Array) -> Array:
        return np.asarray((((part != 0) | moved) & mask).any(-1))

    few = np.flatnonzero(mask.any(0))[:_LOOK]
    out = found(w[:, :, few], moved[:, :, few], mask[:, None, few])
    for at, part, own in _open(~out & mask.any(1, keepdims=True), w.shape[2]):
        out[at] = found(w[part], moved[part], mask[own])
    return out


def _endless(part: Array, moved: Array, low: Array, high: Array) -> Array:
    """Return which rows have no bounds on either side because of some terms, (stack, rows)."""
    x = ~((low == 0) & (high == 0))[:, None]
    odd = moved | ~np.isfinite(part)
    up, down = (part > 0) & ~odd, (part < 0) & ~odd
    none_below, none_above = ~np.isfinite(low)[:, None], ~np.isfinite(high)[:, None]
    below = ((up & none_below) | (down & none_above)).any(2)
    above = ((up & none_above) | (down & none_below)).any(2)
    return np.asarray((odd & x).any(2) | (below & above))


def _bounds(w: Array, moved: Array, low: Array, high: Array) -> tuple[Array, Array]:
    """Return the bounds of sums over terms: (rows, terms) times (rows, terms)."""
    if not w.any() and not moved.any():
        return np.zeros(len(w)), np.zeros(len(w))
    part = w.astype(np.float64)
    odd = moved | ~np.isfinite(part)
    x = (low != 0) | (high != 0)
    part[odd] = 0.0
    free = (odd & x).any(1)
    up, down = np.maximum(part, 0), np.minimum(part, 0)
    ends = []
    for a, b in ((low, high), (high, low)):
        finite = [np.where(np.isfinite(v), v, 0.0) for v in (a, b)]
        more = ((up > 0) & ~np.isfinite(a)) | ((down < 0) & ~np.isfinite(b))
        ends.append((np.einsum("rt,rt->r", up, finite[0]) + np.einsum("rt,rt->r", down, finite[1]), more.any(1)))
    size = np.einsum("rt,rt->r", np.abs(part), np.maximum(np.abs(finite[0]), np.abs(finite[1])))
    fixed = ((low == high) | (part == 0)).all(1) & ~free
    signs = np.sign(part)
    above = ((np.where(signs > 0, high, -low) > 0) & (signs != 0)).any(1)  # whether any term can be above zero
    below = ((np.where(signs > 0, low, -high) < 0) & (signs != 0)).any(1)
    return (
        np.where(free | ends[0][1], -np.inf, ends[0][0] - np.where(fixed | ~below, 0.0, SLACK * size)),
        np.where(free | ends[1][1], np.inf, ends[1][0] + np.where(fixed | ~above, 0.0, SLACK * size)),
    )


def with_bias(c: Case, out: Zone, place: int, axis: int) -> tuple[Zone, Callable[[Grad], dict[int, Grad]]]:
    """Return bounds with a bias added along an axis, and the way back to it."""
    if not c.has(place):
        return out, lambda d: {}
    bias = c.zone(place)
    rank = len(out.shape)
    wide = [1] * rank
    wide[axis] = bias.shape[-1]
    if len(bias.shape) != 1:
        raise Unread
    low, high = (v.reshape([v.size if k == axis else 1 for k in range(rank)]) for v in (bias.low, bias.high))
    made = total([out.low, low], [out.high, high], out.shape)
    made = replace(made, still=out.fixed & bias.fixed.reshape(low.shape))

    def back(d: Grad) -> dict[int, Grad]:
        own = reduced(d, wide, held=True)
        live = own.live.reshape(-1) if own.live.shape[axis] > 1 else own.live.reshape(1)
        cancelled = own.cancelled if isinstance(own.cancelled, bool) else own.cancelled.reshape(-1)
        return {place: Grad(live, bias.shape, cancelled=cancelled)}

    return made, back
