"""What products do to bounds, and to gradients that may be zero."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from initaudit.symmetry.moving import Case, Given, Step, Unread, rule
from initaudit.symmetry.moving_picks import MOST_INDICES, taken
from initaudit.symmetry.moving_several import einsum, equation, spread
from initaudit.symmetry.weighed import Weighed, with_bias
from initaudit.symmetry.zones import (
    Grad,
    Held,
    Zone,
    collapsed,
    joined,
)
from initaudit.types import Array

_OTHERWISE = frozenset({"inner", "tensordot", "kron", "outer", "ger", "linalg_vecdot", "vdot"})  # which axes meet


def _contracted(
    x: Zone, xl: str, w: Held, wl: str, ol: str, shape: Sequence[int]
) -> tuple[Zone, Callable[[Grad], tuple[Grad, Grad]]]:
    """Return a product of a signal and a parameter by letters, and the way back to both."""
    stack = "".join(a for a in wl if a in xl and a in ol)
    rows = "".join(a for a in wl if a in ol and a not in xl)
    terms = "".join(a for a in wl if a in xl and a not in ol)
    if len(stack + rows + terms) < len(wl) or len(set(xl)) < len(xl) or len(set(wl)) < len(wl):
        raise Unread
    sizes = dict(zip(wl, w.shape, strict=True))
    n = [math.prod(sizes[a] for a in part) for part in (stack, rows, terms)]
    sets = [k for k, a in enumerate(xl) if a not in wl]
    order = [wl.index(a) for a in stack + rows + terms]

    def side(v: Array, letters: str, part: str, how: Callable[..., Array]) -> Array:
        gone = [k for k, a in enumerate(letters) if a not in part]
        v = collapsed(v, gone, how)
        v = v.transpose([letters.index(a) for a in part] + gone).reshape([v.shape[letters.index(a)] for a in part])
        return np.broadcast_to(v, [sizes[a] for a in part])

    low = side(x.low, xl, stack + terms, np.min).reshape(n[0], n[2])
    high = side(x.high, xl, stack + terms, np.max).reshape(n[0], n[2])
    gone = [k for k, q in enumerate(xl) if q not in wl]
    vary = side(~joined(x, gone).fixed, xl, stack + terms, np.any).reshape(n[0], n[2])
    moved = w.moved.transpose(order)
    moved = (
        moved.reshape(1, 1, 1)
        if moved.size == 1
        else np.broadcast_to(moved, [sizes[a] for a in stack + rows + terms]).reshape(n)
    )
    made = Weighed(lambda: w.numbers().transpose(order).reshape(n), moved, low, high, n[1])
    a, b = made.bounds()

    def placed(v: Array, part: str, letters: str, rank: int) -> Array:
        v = v.reshape([sizes[q] for q in part])
        kept = [q for q in letters if q in part]
        v = v.transpose([part.index(q) for q in kept])
        return v.reshape([sizes[q] if q in part else 1 for q in letters]) if rank else v

    out = Zone(placed(a, stack + rows, ol, 1), placed(b, stack + rows, ol, 1), tuple(shape),
               placed(np.ascontiguousarray(made.still(vary)), stack + rows, ol, 1))  # fmt: skip

    def back(d: Grad) -> tuple[Grad, Grad]:
        live = side(d.live, ol, stack + rows, np.any).reshape(n[0], n[1])
        own = placed(np.ascontiguousarray(made.back(live)), stack + terms, xl, 1)
        apart = [k for k, q in enumerate(ol) if q in xl and q not in wl and d.live.shape[k] > 1]
        if apart:  # places at which nothing comes back
            own = own & spread(d.live, ol, "".join(q if ol.find(q) in apart else "-" for q in xl))
        batch = {k for k, q in enumerate(ol) if q not in wl}
        sums = [one for one, where in d.sums if one <= batch and where.all()]
        where = {k: xl.index(q) for k, q in enumerate(ol) if q in xl}
        signal = Grad(own, x.shape, tuple(
            (frozenset(where[k] for k in one), np.ones((1,) * len(x.shape), bool)) for one in sums
            if all(k in where for k in one)
        ))  # fmt: skip
        mask = made.mask(live)
        cancelled: Array | bool = False
        if sums:
            still = ~vary[:, None, :]
            cancelled = mask & still
            mask = mask & ~still
        inverse = [order.index(k) for k in range(len(order))]

        def param(v: Array) -> Array:  # with one entry for what is alike along all stacks, rows or terms
            wide = zip((stack, rows, terms), v.shape, strict=True)
            return v.reshape([sizes[q] if size > 1 else 1 for part, size in wide for q in part]).transpose(inverse)

        return signal, Grad(
            param(mask), w.shape, cancelled=param(cancelled) if isinstance(cancelled, np.ndarray) else False
        )

    del sets
    return out, back


@rule("linear", "matmul", "gemm", "einsum")
def _product(c: Case) -> Step:
    if c.node.op == "einsum" and len(c.node.inputs) != 2:
        return einsum(c)
    call = c.node.call.target.rpartition(".")[2] if c.node.call is not None else ""
    if call in _OTHERWISE:
        raise Unread
    a, b = c.value(0), c.value(1)
    bias = 2 if c.node.op in ("linear", "gemm") else 9
    al, bl, ol = _letters(c, a.shape, b.shape)
    if len(set(al)) < len(al) or len(set(bl)) < len(bl):
        return einsum(c)
    sizes = dict(zip(al, a.shape, strict=True)) | {q: n for q, n in zip(bl, b.shape, strict=True) if n > 1}
    shape = tuple(sizes.get(q, 1) for q in ol)
    for x, xl, w, wl, places in ((a, al, b, bl, (0, 1)), (b, bl, a, al, (1, 0))):
        if not isinstance(w, Held):
            continue
        try:
            out, back = _contracted(x.zone() if isinstance(x, Held) else x, xl, w, wl, ol, shape)
        except Unread:
            continue
        made, more = with_bias(c, out, bias, len(shape) - 1)

        def down(d: Sequence[Grad], back: Any = back, places: tuple[int, int] = places, more: Any = more) -> Given:
            signal, param = back(d[0])
            return {places[0]: signal, places[1]: param, **more(d[0])}

        return Step((made,), down)
    x, y = (v.zone() if isinstance(v, Held) else v for v in (a, b))
    out = _pairs(x, al, y, bl, ol, shape)
    made, more = with_bias(c, out, bias, len(shape) - 1)
    return Step((made,), lambda d: {
        0: _pairs_back(d[0], ol, y, bl, al, x.shape), 1: _pairs_back(d[0], ol, x, al, bl, y.shape), **more(d[0])
    })  # fmt: skip


def _letters(c: Case, a: Sequence[int], b: Sequence[int]) -> tuple[str, str, str]:
    upper, lower = "ABCDEFGHIJKL", "zyxwvutsrq"
    if c.node.op == "linear":
        return upper[: len(a) - 1] + "i", "oi", upper[: len(a) - 1] + "o"
    if c.node.op == "gemm":
        return "im" if c.attrs.get("transA") else "mi", "oi" if c.attrs.get("transB") else "io", "mo"
    if c.node.op == "einsum":
        terms, right = equation(c, (len(a), len(b)))
        return terms[0], terms[1], right
    if not a or not b:
        raise Unread
    deep = max(len(a), len(b), 2) - 2
    letters: list[str] = ["", ""]
    for k in range(deep):
        own = [s[k - deep + len(s) - 2] if k - deep + len(s) - 2 >= 0 else 0 for s in (a, b)]
        for which in range(2):
            alone = own[which] == 1 and own[1 - which] > 1
            letters[which] += "" if not own[which] else lower[k] if alone else upper[k]
    return (letters[0] + ("mi" if len(a) > 1 else "i"), letters[1] + ("io" if len(b) > 1 else "i"),
            upper[:deep] + ("m" if len(a) > 1 else "") + ("o" if len(b) > 1 else ""))  # fmt: skip


def _pairs(x: Zone, xl: str, y: Zone, yl: str, ol: str, shape: Sequence[int]) -> Zone:
    inner = [q for q in dict.fromkeys(xl + yl) if q not in ol]
    order = ol + "".join(inner)
    alive_ = spread(~x.zero, xl, order) & spread(~y.zero, yl, order)
    live = np.asarray(alive_.any(tuple(range(len(ol), len(order)))))
    still = ~live | bool(x.fixed.all() and y.fixed.all())
    return Zone(np.where(live, -np.inf, 0.0), np.where(live, np.inf, 0.0), tuple(shape), still)


def _pairs_back(d: Grad, ol: str, other: Zone, yl: str, xl: str, shape: Sequence[int]) -> Grad:
    order = "".join(dict.fromkeys(xl + ol + yl))
    alive_ = spread(d.live, ol, order) & spread(~other.zero, yl, order)
    gone = tuple(k for k, q in enumerate(order) if q not in xl)
    live = np.asarray(alive_.any(gone))
    still = bool(other.fixed.all())
    wide = np.broadcast_shapes(other.low.shape, other.fixed.shape)
    same = {q for k, q in enumerate(yl) if wide[k] == 1} | (set(ol) - set(yl))  # along these it is one number
    sums, cancelled = [], False
    for one, where in d.sums:
        letters = {ol[k] for k in one}
        if not where.all():
            continue
        if letters <= set(xl) and not letters & set(yl):
            sums.append((frozenset(xl.index(q) for q in letters), np.ones((1,) * len(xl), bool)))
        elif still and not letters & set(xl) and letters <= same:
            cancelled = True
    even = set()
    if still:  # the other is the same at all places: so is what comes back, along places of its own
        even = {k for k, q in enumerate(xl) if q in yl and q not in ol and q in same}
    if cancelled:
        live = np.zeros_like(live)
    return Grad(live, tuple(shape), tuple(sums), frozenset(even))


@rule("embedding")
def _embedding(c: Case) -> Step:
    w = c.held(0)
    shape = c.shape()
    if w is None or len(w.shape) != 2:
        raise Unread
    ids = c.held(1)
    if ids is not None and not ids.moved.any() and math.prod(ids.shape) <= MOST_INDICES:
        return taken(c, 0, np.asarray(ids.numbers()).reshape(ids.shape).astype(np.int64), shape)
    zone = w.zone()
    low, high = zone.low.min(0), zone.high.max(0)
    lead = (1,) * (len(shape) - 1)
    out = Zone(low.reshape(*lead, -1), high.reshape(*lead, -1), shape)

    def back(d: Sequence[Grad]) -> Given:
        live = collapsed(d[0].live, range(len(shape) - 1), np.any).reshape(1, -1)
        row = c.attrs.get("padding_idx")
        reach: Array | bool = True
        if isinstance(row, int) and row >= 0:
            reach = (np.arange(w.shape[0]) != row)[:, None]
        return {0: Grad(live, w.shape, reach=reach)}

    return Step((out,), back)
