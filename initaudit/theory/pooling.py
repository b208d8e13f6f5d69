"""Means and sums over windows of positions, over whole axes, and over units."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from initaudit.theory.align import apart, restored
from initaudit.theory.engine import Case, Grads, Step, Unread, op
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Axis, Back, Kernel, extent
from initaudit.theory.windows import Image, Window, image, sizes_of, space_grid, windows
from initaudit.types import Array


@op("average_pool")
def _average_pool(c: Case) -> Step:
    x = c.kernel(0)
    rank = len(x.axes) - 2
    img = image(x, rank)
    return restored(pooled(img, pool_windows(c, img, rank)), x, img.value)


def pool_windows(c: Case, img: Image, rank: int) -> list[Window]:
    """Return the windows of a pool, those that make an output of a given size among them. Raises Unread."""
    sizes = sizes_of(img)
    wanted = c.attrs.get("output_size")
    if isinstance(wanted, int):
        wanted = (wanted,) * rank
    if isinstance(wanted, (tuple, list)) and len(wanted) == rank:
        out = []
        for n, one in zip(sizes, wanted, strict=True):
            m = n if one is None else int(one)
            if not 0 < m <= n:
                raise Unread
            out.append(Window(n - (m - 1) * (n // m), n // m, 1, 0, 0))
        return out
    kernel = c.ints(-1, "kernel_shape") or ()
    kernel = kernel * rank if len(kernel) == 1 else kernel
    if len(kernel) != rank:
        raise Unread
    return windows(c, kernel, sizes, pool=True)


def pooled(img: Image, walk: Sequence[Window]) -> Step:
    """Return the mean over each window, and the way back."""
    x = img.value
    sizes = sizes_of(img)
    grid, axes, order = space_grid(x, img, [w.places(n) for w, n in zip(walk, sizes, strict=True)])
    shifts = _shifts(x, img, walk)
    own, shared = (_seen(x, img, walk, grid, order, f, shifts) for f in (x.own, x.shared))
    out = Kernel(axes, grid, own, shared, x.mean, x.alike)
    size = math.prod(w.kernel for w in walk)

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}
        share = grid.positions / max(1, x.grid.positions) * size  # windows that an element is in

        def carried(f: Array) -> Array:
            made = np.zeros(x.grid.size)
            for k, offset in enumerate(np.ndindex(*x.grid.shape)):
                made[k] = _sent(img, walk, grid, order, f, offset, share) / size**2
            return conserved(x.grid, made, grid.total(f))

        return {0: replace(back.mapped(carried, x.grid), profile=())}

    return Step((out,), down)


def conserved(grid: Grid, f: Array, total: float) -> Array:
    """Return a function with far set so that the sum over all pairs is this."""
    counts = grid.counts
    if counts[-1] > 0:
        rest = total - float(counts[:-1] @ f[:-1])
        f[-1] = rest / counts[-1] if abs(rest) > 1e-9 * abs(total) else 0.0
    return f


def _shifts(x: Kernel, img: Image, walk: Sequence[Window]) -> list[tuple[list[int], float]]:
    found: list[tuple[list[int], float]] = [([0] * len(x.grid.extents), 1.0)]
    for w, place in zip(walk, img.places, strict=True):
        if place < 0:
            continue
        wider = []
        for offset, share in found:
            for k in range(-(w.kernel - 1), w.kernel):
                one = list(offset)
                one[place] = k * w.dilation
                wider.append((one, share * (w.kernel - abs(k)) / w.kernel**2))
        found = wider
        if len(found) > 4000:
            raise Unread
    return found


def _seen(
    x: Kernel, img: Image, walk: Sequence[Window], grid: Grid, order: Sequence[int], f: Array,
    shifts: list[tuple[list[int], float]],
) -> Array:  # fmt: skip
    if not x.grid.extents:
        return f
    out = np.empty(grid.size)
    for k, offset in enumerate(np.ndindex(*grid.shape)):
        base = [0] * len(x.grid.extents)
        for w, place, new in zip(walk, img.places, order, strict=True):
            if new >= 0 and place >= 0:
                base[place] = offset[new] * w.stride
        out[k] = sum(
            share * x.grid.at(f, [min(abs(b + s), n - 1) for b, s, n in zip(base, shift, x.grid.extents, strict=True)])
            for shift, share in shifts
        )
    out[-1] = f[-1]
    return out


def _sent(
    img: Image, walk: Sequence[Window], grid: Grid, order: Sequence[int], f: Array, offset: tuple[int, ...],
    share: float,
) -> float:  # fmt: skip
    """Return the sum over pairs of windows that hold two elements at an offset, for one element."""
    total = 0.0
    ways: list[tuple[list[int], float]] = [([0] * len(grid.extents), share)]
    for w, place, new in zip(walk, img.places, order, strict=True):
        if place < 0:
            continue
        wider = []
        for own, weight in ways:
            # element e in window p at tap k, element e + o in window p' at tap k': p' - p = (o + k - k') / stride
            for k in range(-(w.kernel - 1), w.kernel):
                step = offset[place] + k
                if step % w.stride:
                    continue
                one = list(own)
                if new >= 0:
                    one[new] = step // w.stride
                elif step:
                    continue
                wider.append((one, weight * (w.kernel - abs(k)) / w.kernel))
        ways = wider
    for own, weight in ways:
        total += weight * grid.at(f, own)
    return total


# ---- whole axes


def averaged(x: Kernel, axes: Sequence[int], keep: bool, times: float = 1.0) -> Step:
    """Return the mean over axes, times a number, and the way back."""
    gone = [t.at for a in axes for t in x.axes[a] if t.kind == PLACE]
    units = math.prod(t.extent for a in axes for t in x.axes[a] if t.kind == UNIT)
    if any(t.kind == BATCH and t.extent > 1 for a in axes for t in x.axes[a]):
        raise Unread
    pairs = math.prod(x.grid.extents[g] ** 2 for g in gone)
    grid, own = x.grid.summed(x.own, gone)
    _, shared = x.grid.summed(x.shared, gone)
    own, shared = own / pairs, shared / pairs
    mean, alike = x.mean, x.alike
    if units > 1:
        share = 1 / units
        between = apart(x.alike, max(2, x.units))
        own = own * (share + (1 - share) * between)
        shared = shared * share
        alike = 1 / max(1, x.units // units)
    left = [a for a in range(len(x.grid.extents)) if a not in gone]
    number = {a: k for k, a in enumerate(left)}
    new: list[Axis] = []
    for a, axis in enumerate(x.axes):
        if a in axes:
            if keep:
                new.append(())
            continue
        new.append(tuple(replace(t, at=number[t.at]) if t.kind == PLACE else t for t in axis))
    square = times * times
    out = Kernel(tuple(new), grid, own * square, shared * square, mean * times, alike)
    source: list[int | None] = [number.get(a) for a in range(len(x.grid.extents))]
    count = math.prod(extent(x.axes[a]) for a in axes)

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}
        share = square / count**2
        made = back.mapped(lambda f: grid.remapped(f * share, x.grid, source), x.grid)
        alike_back = back.alike if units <= 1 else 1.0 if x.units == units else back.alike
        return {0: replace(made, alike=alike_back, profile=())}

    return Step((out,), down)


@op("global_average_pool")
def _global_average(c: Case) -> Step:
    x = c.kernel(0)
    return averaged(x, range(2, len(x.axes)), keep=True)


def reduced(c: Case, rank: int) -> tuple[tuple[int, ...], bool]:
    """Return the axes that a reduction goes over, and whether they stay with one element."""
    axes = c.ints(1, "axes", "axis", "dim")
    keep = bool(c.attrs.get("keepdims", c.attrs.get("keepdim", 0 if c.node.call is not None else 1)))
    return (tuple(range(rank)) if not axes else tuple(sorted({a % rank for a in axes}))), keep


@op("reduce_mean", "reduce_sum")
def _reduce(c: Case) -> Step:
    x = c.kernel(0)
    axes, keep = reduced(c, len(x.axes))
    count = math.prod(extent(x.axes[a]) for a in axes)
    return averaged(x, axes, keep, float(count) if c.node.op == "reduce_sum" else 1.0)


@op("reduce_l2")
def _length(c: Case) -> Step:
    """Return the root of the sum of squares over positions: nearly the same for all inputs where there are many."""
    x = c.kernel(0)
    axes, keep = reduced(c, len(x.axes))
    count = math.prod(extent(x.axes[a]) for a in axes)
    square = float(x.same[0])
    if not square > 0:
        raise Unread
    step = averaged(x, axes, keep)  # for the axes that are left
    flat = step.outs[0]
    if flat is None:
        raise Unread
    own = (square**2 - float(x.cross[0]) ** 2) / (2 * square)
    shared = count * float(x.shared[0]) ** 2 / (2 * square) if flat.units > 1 else 0.0
    mean = math.sqrt(max(0.0, count * square - own - shared))
    out = replace(flat, own=flat.grid.full(own), shared=flat.grid.full(shared), mean=mean, alike=1 / max(1, flat.units))
    left = 1 / (count * square)
    whole = averaged(x, axes, keep, float(count))

    def down(d: Grads) -> dict[int, Back | None]:
        found = whole.back(d).get(0)
        return {} if found is None else {0: found.times(x.same * left, x.cross * left, x.own * left)}

    return Step((out,), down)
