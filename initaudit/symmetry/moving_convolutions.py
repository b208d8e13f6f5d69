"""What convolutions do to bounds, and to gradients that may be zero."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from initaudit.symmetry.moving import Case, Given, Step, rule
from initaudit.symmetry.moving_several import convolved
from initaudit.symmetry.weighed import Weighed, with_bias
from initaudit.symmetry.zones import (
    Grad,
    Zone,
    collapsed,
    joined,
)
from initaudit.types import Array

NEVER, SOMETIMES, ALWAYS = 0, 1, 2


@rule("conv", "conv_transpose")
def _conv(c: Case) -> Step:
    x, w = c.zone(0), c.held(1)
    shape = c.shape()
    turned = c.node.op == "conv_transpose"
    groups = c.integer("group", 1)
    if w is None:
        return convolved(c, x, c.zone(1), turned=turned, groups=groups)
    space = len(w.shape) - 2
    first = len(shape) - space - 1
    ins = x.shape[first]
    others = [a for a in range(len(x.shape)) if a != first]
    thin = joined(x, others)
    low, high = (np.broadcast_to(v.reshape(-1), ins) for v in (thin.low, thin.high))
    kernel = math.prod(w.shape[2:])
    pads = c.attrs.get("pads", 0)
    if turned or np.any(np.asarray(pads if not isinstance(pads, str) else 1) != 0):
        low, high = np.minimum(low, 0), np.maximum(high, 0)
    cut = (groups, w.shape[0] // groups, w.shape[1], kernel)
    order = (0, 2, 1, 3) if turned else (0, 1, 2, 3)
    n = (groups, w.shape[1] if turned else w.shape[0] // groups, ins // groups * kernel)

    def arranged(v: Array) -> Array:
        if v.size == 1:
            return v.reshape(1, 1, 1)
        return np.broadcast_to(v, w.shape).reshape(cut).transpose(order).reshape(n)

    sides = [np.repeat(v.reshape(groups, -1), kernel, 1) for v in (low, high)]
    made = Weighed(lambda: arranged(np.asarray(w.numbers())), arranged(w.moved), sides[0], sides[1], n[1])
    a, b = made.bounds()
    wide = [1] * len(shape)
    wide[first] = n[0] * n[1]
    fixed = np.broadcast_to(thin.fixed.reshape(-1), ins)
    padded = turned or np.any(np.asarray(pads if not isinstance(pads, str) else 1) != 0)
    vary = np.repeat((~fixed | (padded & ~thin.zero.reshape(-1))).reshape(groups, -1), kernel, 1)
    out = Zone(a.reshape(wide), b.reshape(wide), shape, made.still(vary).reshape(wide))
    out, bias = with_bias(c, out, 2, first)

    seen = _seen(c, x, shape[first + 1 :], w.shape[2:], first) if not turned else np.full(kernel, SOMETIMES)

    def back(d: Sequence[Grad]) -> Given:
        live = collapsed(d[0].live, [k for k in range(len(shape)) if k != first], np.any).reshape(-1)
        live = np.broadcast_to(live, n[0] * n[1]).reshape(n[:2])
        signal = made.back(live).reshape(groups, -1, kernel).any(2).reshape(-1)
        lead = [1] * len(x.shape)
        lead[first] = ins
        mask = made.mask(live)
        still = fixed & any(where.all() and first not in one for one, where in d[0].sums)
        gone = (still.reshape(groups, -1, 1) & (seen == ALWAYS)).reshape(groups, 1, -1)
        if (seen == NEVER).any():
            mask = mask & np.tile(seen != NEVER, n[2] // kernel)
        own = Grad(param(mask & ~gone), w.shape, cancelled=param(mask & gone))
        space_ = frozenset(range(first + 1, len(shape)))
        sums = tuple((one, np.ones((1,) * len(x.shape), bool)) for one, where in d[0].sums
                     if not padded and where.all() and space_ <= one and first not in one)  # fmt: skip
        return {0: Grad(signal.reshape(lead), x.shape, sums), 1: own, **bias(d[0])}

    def param(v: Array) -> Array:
        if v.size == 1 or v.all() or not v.any():
            return np.full((1,) * len(w.shape), bool(v.any()))
        parts = [cut[k] for k in order]
        return np.broadcast_to(v, n).reshape(parts).transpose([order.index(k) for k in range(4)]).reshape(w.shape)

    return Step((out,), back)


def _seen(c: Case, x: Zone, outs: Sequence[int], kernel: Sequence[int], first: int) -> Array:
    """Return which places of a kernel stand on the input always, sometimes, and never."""
    ins = x.shape[first + 1 :]
    unknown = np.full(math.prod(kernel), SOMETIMES)
    given = []
    for name, usual in (("strides", 1), ("pads", 0), ("dilations", 1)):
        value = c.attrs.get(name, usual)
        given.append([value] * len(ins) if isinstance(value, int) else list(value)[: len(ins)])
    always, ever = np.ones((), bool), np.ones((), bool)
    for axis, (n, m, k, s, p, d) in enumerate(zip(ins, outs, kernel, *given, strict=True), first + 1):
        if not all(isinstance(v, int) for v in (s, p, d)):
            return unknown
        places = np.arange(m)[:, None] * s + np.arange(k) * d - p
        inside = (places >= 0) & (places < n)
        others = [a for a in range(len(x.shape)) if a != axis]
        there = np.broadcast_to(collapsed(~x.zero, others, np.any).reshape(-1), n)
        always = np.logical_and.outer(always, inside.all(0))
        ever = np.logical_and.outer(ever, (inside & there[np.clip(places, 0, n - 1)]).any(0))
    if c.walk.open or c.walk.generic:  # what never happens at this size may at another
        ever = np.ones_like(ever)
    return np.where(~ever, NEVER, np.where(always, ALWAYS, SOMETIMES)).reshape(-1)
