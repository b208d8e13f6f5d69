"""A softmax that is no attention: over classes, experts, tokens; and the largest of several values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from initaudit.theory.align import apart
from initaudit.theory.attention import Pair
from initaudit.theory.attention_softmax import softmax
from initaudit.theory.engine import Case, Grads, Step, Unread, op
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Atom, Axis, Back, Batched, Kernel, extent
from initaudit.theory.moves_axes import kinds
from initaudit.types import Array


@op("softmax", "hardmax", "sparsemax")
def _softmax(c: Case) -> Step:
    """Weights that sum to 1 along an axis, from logits that differ along it by a normal number."""
    x = c.kernel(0)
    rank = len(x.axes)
    axis = c.integer("axis", c.integer("dim", -1)) % rank
    n = extent(x.axes[axis])
    found = kinds(x.axes[axis])
    if n < 2 or len(found) != 1 or found == {BATCH}:
        raise Unread
    kind = next(iter(found))
    along = tuple(atom.at for atom in x.axes[axis] if atom.kind == PLACE)
    logits = _centred(x, along, n)
    made = softmax(n, math.sqrt(max(0.0, logits.same)))
    log = math.log(max(1.0, made.shares * n))
    rho = min(1.0, logits.cross / logits.same) if logits.same > 0 else 0.0
    cross = math.exp(log * rho) / n
    both = Pair(max(0.0, made.shares - cross), cross)
    slope = made.slope / made.shares
    own = _laid(x, along, both.own / n, n)
    shared = _laid(x, along, both.cross / n - 1 / n**2, n)
    alike = 1 / max(1, x.units) if kind == PLACE else 0.0
    out = Kernel(x.axes, x.grid, own, shared, 1 / n, alike)

    def down(d: Grads) -> Mapping[int, Back | None]:
        g = d[0]
        if g is None:
            return {}
        factor = both.scaled(slope / n)

        def passed(f: Array) -> Array:
            lone = _lone(x, along, f) if along else f * (1 - apart(g.alike, n))
            return _spread(x, along, lone, n)

        b = g.batched
        batched = None
        if b is not None:
            batched = Batched(
                passed(b.own * factor.same + b.cross * factor.own), passed(b.cross * factor.cross),
                passed(b.more * factor.cross),
            )  # fmt: skip
        back = Back(
            x.grid, passed(g.each * factor.same), passed(g.own * factor.same + g.cross * factor.own),
            passed(g.cross * factor.cross), 0.0 if kind == UNIT else g.alike, (), batched,
        )  # fmt: skip
        return {0: back}

    return Step((out,), down)


def _centred(x: Kernel, along: tuple[int, ...], n: int) -> Pair:
    """Return the moments of the logits less what all along the axis have in common."""
    if not along:
        return Pair(float(x.own[0]) * (1 - apart(x.alike, max(1, x.units))), float(x.shared[0]))
    own, shared = (float(f[0]) - _far(x, along, f) for f in (x.own, x.shared))
    return Pair(max(0.0, own), max(0.0, shared))


def _far(x: Kernel, along: tuple[int, ...], f: Array) -> float:
    grid, within = x.grid.diagonal(f, [a for a in range(len(x.grid.extents)) if a not in along])
    return float(grid.collapsed(within)[1])


def _lone(x: Kernel, along: tuple[int, ...], f: Array) -> Array:
    """Return a gradient less what all along the axes have in common."""
    return f * max(0.0, 1 - _far(x, along, f) / f[0]) if f[0] else f


def _laid(x: Kernel, along: tuple[int, ...], same: float, n: int) -> Array:
    """Return a function for values that sum to a constant along some axes of the grid, and are alone elsewhere."""
    if not along:
        return np.append(np.full(x.grid.size - 1, 0.0), 0.0) + x.grid.peak(same)
    return _spread(x, along, x.grid.peak(same), n)


def _spread(x: Kernel, along: tuple[int, ...], f: Array, n: int) -> Array:
    """Return it with what differs along the axes being the opposite, so that the sum is zero."""
    if not along:
        return f
    out = np.zeros(x.grid.size)
    for k, offset in enumerate(np.ndindex(*x.grid.shape)):
        if not any(offset):
            out[k] = f[0]
        elif all(o == 0 for a, o in enumerate(offset) if a not in along):
            out[k] = -f[0] / (n - 1)
    counts = x.grid.counts
    if counts[-1] > 0:
        out[-1] = -float(counts[:-1] @ out[:-1]) / counts[-1]
    return out


@op("log_softmax")
def _log_softmax(c: Case) -> Step:
    """Logits less the logarithm of the sum of their exponentials, which nearly all differ in by a number only."""
    x = c.kernel(0)
    out = replace(x, mean=x.mean - math.log(max(2, x.shape[-1])) - x.spread / 2, bend=None)

    def down(d: Grads) -> Mapping[int, Back | None]:
        return {} if d[0] is None else {0: d[0].scaled(1 - d[0].alike)}

    return Step((out,), down)


@op("top_k", "sort")
def _top(c: Case) -> Step:
    """Return the largest values along an axis of units; which they are is no signal."""
    x = c.kernel(0)
    axis = c.integer("axis", c.integer("dim", -1)) % len(x.axes)
    n = extent(x.axes[axis])
    k = c.integer("k", 0) or int((c.ints(1) or (n,))[0])
    if kinds(x.axes[axis]) - {UNIT} or not 0 < k <= n:
        raise Unread
    axes: list[Axis] = list(x.axes)
    axes[axis] = (Atom(UNIT, k),) if k > 1 else ()
    mean = x.mean + math.sqrt(max(0.0, x.spread)) * _largest(k, n)
    part = max(0.2, 1 - math.log(n / k) / 4)  # the largest vary less than all
    out = replace(x, axes=tuple(axes), own=x.own * part, shared=x.shared * part, mean=mean, bend=None, profile=())
    return Step((out, None), lambda d: {} if d[0] is None else {0: replace(d[0].scaled(k / n), alike=1 / n)})


def _largest(k: int, n: int) -> float:
    """Return the mean of the k largest of n normal numbers, about."""
    share = k / n
    if share >= 1:
        return 0.0
    z = np.linspace(-8, 8, 4001)
    density = np.exp(-z * z / 2)
    density /= density.sum()
    above = density[::-1].cumsum()[::-1]
    taken = np.where(above <= share, density, 0.0)
    return float((taken * z).sum() / max(taken.sum(), 1e-300))
