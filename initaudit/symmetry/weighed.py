"""Products of a signal and a parameter: bounds, and where gradients can be other than zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from initaudit.symmetry.bounds import SLACK, total
from initaudit.symmetry.moving import Case, Unread
from initaudit.symmetry.zones import (
    Grad,
    Zone,
    reduced,
)
from initaudit.types import Array


class Weighed:
    """A product of a signal and a parameter: (stack, rows, terms) with (stack, terms)."""

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
        if self.all:
            free = np.broadcast_to(~self.zero.all(1, keepdims=True), (self.stack, self.rows))
            return np.where(free, -np.inf, 0.0), np.where(free, np.inf, 0.0)
        w = self.numbers()
        low, high = np.zeros((self.stack, self.rows)), np.zeros((self.stack, self.rows))
        step = max(1, (1 << 22) // max(1, self.terms * self.stack))
        x = ~self.zero
        for r in range(0, self.rows, step):
            part = np.asarray(w[:, r : r + step], np.float64)
            odd = ~np.isfinite(part) | np.broadcast_to(self.moved, w.shape)[:, r : r + step]
            free = (odd & x[:, None]).any(2)
            part = np.where(odd, 0.0, part)
            up, down = np.maximum(part, 0), np.minimum(part, 0)
            ends = []
            for a, b in ((self.low, self.high), (self.high, self.low)):
                finite = [np.where(np.isfinite(v), v, 0.0)[..., None] for v in (a, b)]
                endless = [(~np.isfinite(v)).astype(np.float64)[..., None] for v in (a, b)]
                total = (up @ finite[0] + down @ finite[1])[..., 0]
                more = (up @ endless[0] - down @ endless[1])[..., 0] > 0
                ends.append((total, more))
            low[:, r : r + step], high[:, r : r + step] = -np.inf, np.inf
            if bool((free | (ends[0][1] & ends[1][1])).all()):
                continue
            size = (np.abs(part) @ np.maximum(np.abs(finite[0]), np.abs(finite[1])))[..., 0]
            fixed = ((self.low == self.high)[:, None] | (part == 0)).all(2) & ~free
            below, above = self._signs(part, x)
            low[:, r : r + step] = np.where(
                free | ends[0][1], -np.inf, ends[0][0] - np.where(fixed | ~below, 0.0, SLACK * size)
            )
            high[:, r : r + step] = np.where(
                free | ends[1][1], np.inf, ends[1][0] + np.where(fixed | ~above, 0.0, SLACK * size)
            )
        return low, high

    def _signs(self, part: Array, x: Array) -> tuple[Array, Array]:
        """Return whether any term can be below zero, and above."""
        low, high = self.low[:, None], self.high[:, None]
        above = np.where(part > 0, high, np.where(part < 0, -low, 0.0)) > 0
        below = np.where(part > 0, low, np.where(part < 0, -high, 0.0)) < 0
        return np.asarray((below & x[:, None]).any(2)), np.asarray((above & x[:, None]).any(2))

    def back(self, live: Array) -> Array:
        """Return where the gradient of the signal can be other than zero, (stack, terms)."""
        if self.all:
            return np.broadcast_to(live.any(1, keepdims=True), (self.stack, self.terms))
        out = np.zeros((self.stack, self.terms), bool)
        w = self.numbers()
        step = max(1, (1 << 22) // max(1, self.terms * self.stack))
        live = np.broadcast_to(live, (self.stack, self.rows))
        for r in range(0, self.rows, step):
            part = (np.asarray(w[:, r : r + step]) != 0) | np.broadcast_to(self.moved, w.shape)[:, r : r + step]
            out |= (part & live[:, r : r + step, None]).any(1)
        return out

    def still(self, vary: Array) -> Array:
        """Return where nothing that varies comes in, (stack, rows), `vary` being (stack, terms)."""
        if self.all:
            return np.broadcast_to(~vary.any(1, keepdims=True), (self.stack, self.rows))
        out = np.ones((self.stack, self.rows), bool)
        w = self.numbers()
        step = max(1, (1 << 22) // max(1, self.terms * self.stack))
        for r in range(0, self.rows, step):
            part = (np.asarray(w[:, r : r + step]) != 0) | np.broadcast_to(self.moved, w.shape)[:, r : r + step]
            out[:, r : r + step] = ~(part & vary[:, None]).any(2)
        return out

    def mask(self, live: Array) -> Array:
        """Return where the parameter moves, broadcast to (stack, rows, terms)."""
        x = ~self.zero
        a = live[:, :, None] if not live.all() else np.ones((1, 1, 1), bool)
        b = x[:, None, :] if not x.all() else np.ones((1, 1, 1), bool)
        return np.asarray(a & b)


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
        own = reduced(d, wide)
        cut = [k == axis for k in range(rank)]
        del cut
        live = own.live.reshape(-1) if own.live.shape[axis] > 1 else own.live.reshape(1)
        cancelled = own.cancelled if isinstance(own.cancelled, bool) else own.cancelled.reshape(-1)
        return {place: Grad(live, bias.shape, cancelled=cancelled)}

    return made, back
