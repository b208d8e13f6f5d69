"""Attention in one operation: scores, their softmax, and the mix of values."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence

from initaudit.symmetry.combining import added, combined, reduced, reshaped, spread
from initaudit.symmetry.engine import Case, Given, Step, Unread, op
from initaudit.symmetry.labels import Labels
from initaudit.symmetry.norms import normed
from initaudit.symmetry.products import paired


@op("scaled_dot_product_attention")
def _attention(c: Case) -> Step:
    mask = 3 if c.has(3) else None
    tag = ("attention", str(c.attrs.get("scale")), str(c.attrs.get("is_causal")))
    out, odds, back = attended(c.labels(0), c.labels(1), c.labels(2), c.labels(3) if mask else None, *tag)

    def down(d: Sequence[Labels]) -> Mapping[int, Given]:
        return dict(enumerate(back(d[0])))

    outs = (out, *([combined((odds,), "weights")] if len(c.node.outputs) > 1 else []))
    return Step((*outs, *([None] * (len(c.node.outputs) - len(outs)))), down)


@op("attention")
def _onnx_attention(c: Case) -> Step:
    """As ONNX has it: queries, keys and values apart, with heads as an axis or side by side."""
    if c.node.call is not None or "num_heads" in c.attrs or not c.has(2) or c.has(4) or c.has(5):
        raise Unread  # one of other makers, or with what was before
    if any(c.node.outputs[1:]):
        raise Unread
    own = [c.labels(k) for k in range(3)]
    if {x.rank for x in own} not in ({3}, {4}):
        raise Unread
    joint = own[0].rank == 3
    counts = [c.integer(name, 0) for name in ("q_num_heads", "kv_num_heads", "kv_num_heads")]
    if joint and not all(counts):
        raise Unread

    def apart(x: Labels, heads: int) -> Labels:
        b, t, d = x.shape
        return reshaped(x, (b, t, heads, d // heads)).permuted((0, 2, 1, 3))

    def together(x: Labels) -> Labels:
        b, h, t, e = x.shape
        return reshaped(x.permuted((0, 2, 1, 3)), (b, t, h * e))

    q, k, v = (apart(x, n) if joint else x for x, n in zip(own, counts, strict=True))
    tag = ("attention", *(str(c.attrs.get(name)) for name in ("scale", "is_causal", "softcap")))
    out, _, back = attended(q, k, v, c.labels(3) if c.has(3) else None, *tag)

    def down(d: Sequence[Labels]) -> Mapping[int, Given]:
        found = back(apart(d[0], counts[0]) if joint else d[0])
        return {place: together(grad) if joint and place < 3 else grad for place, grad in enumerate(found)}

    return Step((together(out) if joint else out, *([None] * (len(c.node.outputs) - 1))), down)


def attended(
    q: Labels, k: Labels, v: Labels, mask: Labels | None, *tag: object
) -> tuple[Labels, Labels, Callable[[Labels], list[Labels]]]:
    """Return labels of the mix of values, of how much each counts, and the way back to queries, keys, values, mask."""
    if q.rank != k.rank or k.rank != v.rank or q.rank < 2:
        raise Unread
    deep = string.ascii_uppercase[: q.rank - 2]
    times = q.shape[-3] // k.shape[-3] if q.rank > 2 else 1  # grouped queries
    own_k, own_v = k.shape, v.shape

    def wide(shape: Sequence[int], n: int) -> tuple[int, ...]:
        return (*shape[:-2], n, *shape[-2:])

    def repeated(x: Labels) -> Labels:
        shape = x.shape
        whole = (*shape[:-3], shape[-3] * times, *shape[-2:])
        return reshaped(spread(reshaped(x, wide(shape, 1)), wide(shape, times)), whole)

    def gathered(d: Labels, shape: tuple[int, ...]) -> Labels:
        return reshaped(reduced(reshaped(d, wide(shape, times)), wide(shape, 1)), shape)

    if times > 1:
        k, v = repeated(k), repeated(v)
    scores, one = paired(q, f"{deep}td", k, f"{deep}sd", f"{deep}ts", *tag)
    odds, soft = normed(added((scores, mask)) if mask is not None else scores, [q.rank - 1], "softmax")
    out, two = paired(odds, f"{deep}ts", v, f"{deep}sd", f"{deep}td", "mixed")

    def back(d: Labels) -> list[Labels]:
        inner = soft(two.first(d))  # type: ignore[operator]
        dk, dv = one.second(inner), two.second(d)
        if times > 1:
            dk, dv = gathered(dk, own_k), gathered(dv, own_v)
        return [one.first(inner), dk, dv, *([] if mask is None else [reduced(inner, mask.shape)])]

    return out, odds, back
