"""Attention over channels: queries and keys are units, and logits are sums over tokens (XCiT, DaViT, Restormer).

Keys are independent of each other, so nothing falls out of the softmax; all queries mix the same values with weights
that are nearly the same: what comes out is much alike among the units of a head.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from initaudit.theory.align import apart
from initaudit.theory.attention_softmax import softmax
from initaudit.theory.engine import Case, Grads, Step
from initaudit.theory.kernel import Axis, Back, Kernel
from initaudit.types import Array, Attending


def mixed(c: Case, signals: tuple[Kernel, Kernel, Kernel], axes: tuple[Axis, ...], keys: int, scale: float) -> Step:
    """Return what attention over channels makes.

    Args:
        c: the node; queries, keys and values are its first operands.
        signals: their kernels, all on one grid.
        axes: of what it makes.
        keys: number of channels of a head.
        scale: of the logits.
    """
    q, k, v = signals
    square = scale * scale
    same = square * q.grid.total(q.same * k.same)
    cross = square * q.grid.total(q.cross * k.cross)
    made = softmax(keys, math.sqrt(max(0.0, same)))
    log = math.log(max(1.0, made.shares * keys))
    overlap = math.exp(log * min(1.0, cross / same if same > 0 else 0.0)) / keys
    slope = made.slope
    share, alone = made.shares, 1 / keys
    size = f"{math.sqrt(max(0.0, same)) * math.sqrt(1 - 1 / keys):.6g}"
    name = str(c.node.attrs.get("@scope") or c.node.name or c.node.outputs[0])
    c.walk.attending.append(Attending(name, float(f"{made.entropy:.6g}"), float(size)))
    own = v.own * share + v.shared * (share - overlap)
    shared = v.shared * overlap
    heads = max(1.0, v.units / keys)
    alike = (1 / keys + (1 - 1 / keys) * alone / share) / heads
    out = Kernel(axes, v.grid, own, shared, v.mean, min(1.0, alike), v.profile)

    def down(d: Grads) -> Mapping[int, Back | None]:
        g = d[0]
        if g is None:
            return {}
        more = 1 + (keys - 1) * apart(g.alike, max(1, v.units)) * alone / share
        gap = share - overlap
        value = g.times(*(_full(v, f) * more for f in (share, overlap, gap)))
        met = [v.grid.total(f) for f in (g.each * v.same, g.own * v.same + g.cross * v.own, g.cross * v.cross)]
        ratio = overlap / share
        factors = slope, slope * ratio, slope * (1 - ratio)
        logits = met[0] * factors[0], met[1] * factors[0] + met[2] * factors[2], met[2] * factors[1]
        return {0: _sent(q, k, logits, square), 1: _sent(k, q, logits, square), 2: value}

    return Step((out,), down)


def _full(x: Kernel, value: float) -> Array:
    return x.grid.full(value)


def _sent(x: Kernel, other: Kernel, logits: tuple[float, float, float], square: float) -> Back:
    """Return the gradient of queries from that of the logits, summed over the keys; of keys likewise."""
    each, own, cross = (f * square for f in logits)
    parts = each * other.same, own * other.same + cross * other.own, cross * other.cross
    return Back(x.grid, *parts, 1 / max(1, x.units))
