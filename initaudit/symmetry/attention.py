"""Attention in one operation: scores, their softmax, and the mix of values."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence

from initaudit.symmetry.combining import added, combined, reduced, reshaped, spread
from initaudit.symmetry.engine import Case, Given, Step, Unread, op
from initaudit.symmetry.labels import Labels
from initaudit.symmetry.norms import normed
from initaudit.symmetry.products import paired


@op("scaled_dot_product_attention")
def _attention(c: Case) -> Step:
    q, k, v = c.labels(0), c.labels(1), c.labels(2)
    if q.rank != k.rank or k.rank != v.rank or q.rank < 2:
        raise Unread
    deep = string.ascii_uppercase[: q.rank - 2]
    times = 1
    repeated = None
    if q.rank > 2 and q.shape[-3] != k.shape[-3]:  # grouped queries
        times = q.shape[-3] // k.shape[-3]

        def repeated(x: Labels) -> Labels:
            shape = x.shape
            wide = (*shape[:-2], times, *shape[-2:])
            thin = (*shape[:-2], 1, *shape[-2:])
            return reshaped(spread(reshaped(x, thin), wide), (*shape[:-3], shape[-3] * times, *shape[-2:]))

        def back_to(d: Labels, shape: tuple[int, ...]) -> Labels:
            wide = (*shape[:-2], times, *shape[-2:])
            thin = (*shape[:-2], 1, *shape[-2:])
            return reshaped(reduced(reshaped(d, wide), thin), shape)

    own_k, own_v = k.shape, v.shape
    if repeated is not None:
        k, v = repeated(k), repeated(v)
    tag = ("attention", str(c.attrs.get("scale")), str(c.attrs.get("is_causal")))
    scores, one = paired(q, f"{deep}td", k, f"{deep}sd", f"{deep}ts", *tag)
    mask = c.labels(3) if c.has(3) else None
    masked = added((scores, mask)) if mask is not None else scores
    odds, soft = normed(masked, [masked.rank - 1], "softmax")
    out, two = paired(odds, f"{deep}ts", v, f"{deep}sd", f"{deep}td", "mixed")

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        inner = soft(two.first(d[0]))  # type: ignore[operator]
        dk, dv = one.second(inner), two.second(d[0])
        if repeated is not None:
            dk, dv = back_to(dk, own_k), back_to(dv, own_v)
        found: dict[int, Given] = {0: one.first(inner), 1: dk, 2: dv}
        if mask is not None:
            found[3] = reduced(inner, mask.shape)
        return found

    outs = (out, *([combined((odds,), "weights")] if len(c.node.outputs) > 1 else []))
    return Step((*outs, *([None] * (len(c.node.outputs) - len(outs)))), back)
