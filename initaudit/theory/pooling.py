"""Means, sums and maxima over positions, windows of them, or units; and the way from small images to large ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from initaudit.theory.activate import applied
from initaudit.theory.align import apart, restored
from initaudit.theory.bending import Bender, bent
from initaudit.theory.convolution import Image, Window, image, sizes_of, space_grid, windows
from initaudit.theory.engine import Case, Grads, Step, Unread, op
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Atom, Axis, Back, Batched, Kernel, extent
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
            return _conserved(x.grid, made, grid.total(f))

        return {0: replace(back.mapped(carried, x.grid), profile=())}

    return Step((out,), down)


def _conserved(grid: Grid, f: Array, total: float) -> Array:
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


@op("reduce_mean", "reduce_sum")
def _reduce(c: Case) -> Step:
    x = c.kernel(0)
    rank = len(x.axes)
    axes = c.ints(1, "axes", "axis", "dim")
    axes = tuple(range(rank)) if not axes else tuple(sorted({a % rank for a in axes}))
    keep = bool(c.attrs.get("keepdims", c.attrs.get("keepdim", 0 if c.node.call is not None else 1)))
    count = math.prod(extent(x.axes[a]) for a in axes)
    return averaged(x, axes, keep, float(count) if c.node.op == "reduce_sum" else 1.0)


# ---- maxima


@dataclass(frozen=True, slots=True)
class Peak:
    """The largest of n standard normal numbers, and of n that are correlated with them by rho each.

    The covariance of the two maxima is rho / n to the first order; at rho = 1 its slope is 1, since one element wins.
    A power of rho takes up the rest.
    """

    n: int

    @property
    def mean(self) -> float:
        """E max."""
        return largest(self.n)[0]

    @property
    def _power(self) -> tuple[float, float]:
        first = 1 / self.n
        rest = max(1e-6, largest(self.n)[1] - first)
        return rest, max(1.0, (1 - first) / rest)

    def shared(self, rho: float) -> float:
        """Covariance of two maxima."""
        if self.n < 2:
            return rho
        rest, power = self._power
        return float(rho / self.n + rest * max(0.0, rho) ** power)

    def apart(self, gap: float) -> float:
        """Variance less covariance, gap = 1 - rho, which may be tiny."""
        if self.n < 2:
            return gap
        rest, power = self._power
        inner = -math.expm1(power * math.log1p(-gap)) if gap < 1 else 1.0
        return gap / self.n + rest * inner

    def agree(self, rho: float) -> float:
        """Chance that one element wins in both."""
        if self.n < 2:
            return 1.0
        rest, power = self._power
        return float(min(1.0, 1 / self.n + rest * power * max(0.0, rho) ** (power - 1)))


@lru_cache(maxsize=64)
def largest(n: int) -> tuple[float, float]:
    """Return mean and variance of the largest of n standard normal numbers."""
    if n < 2:
        return 0.0, 1.0
    z = np.linspace(-9, 9, 4001)
    density = np.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    below = np.clip(np.cumsum(density) * (z[1] - z[0]), 0, 1)
    weight = n * density * below ** (n - 1)
    weight /= weight.sum()
    mean = float(weight @ z)
    return mean, float(weight @ np.square(z - mean))


@op("max_pool")
def _max_pool(c: Case) -> Step:
    x = c.kernel(0)
    rank = len(x.axes) - 2
    img = image(x, rank)
    step = restored(maximum(img, pool_windows(c, img, rank)), x, img.value)
    return Step((*step.outs, *(None for _ in c.node.outputs[1:])), step.back)


@op("global_max_pool")
def _global_max(c: Case) -> Step:
    x = c.kernel(0)
    img = image(x, len(x.axes) - 2)
    return restored(maximum(img, [Window(n, n, 1, 0, 0) for n in sizes_of(img)]), x, img.value)


def maximum(img: Image, walk: Sequence[Window]) -> Step:
    """Return the largest of each window.

    Of a rectified value it is that of the value before: the largest of n normal numbers is taken as normal again.
    """
    x = img.value
    sizes = sizes_of(img)
    grid, axes, order = space_grid(x, img, [w.places(n) for w, n in zip(walk, sizes, strict=True)])
    size = math.prod(min(w.kernel, n) for w, n in zip(walk, sizes, strict=True))
    bend = x.bend
    function = bend[0] if bend is not None and isinstance(bend[0], Bender) else None
    before = bend[1] if bend is not None and function is not None else x
    if before.grid != x.grid:
        before, function = x, None
    at = 1 if len(before.own) > 2 else -1  # a neighbour
    near_own, near_shared = float(before.own[at]), float(before.shared[at])
    loose_own = max(0.0, float(before.own[0]) - near_own)
    loose = loose_own + max(0.0, float(before.shared[0]) - near_shared)
    peak = Peak(size)
    whole = before.mean + peak.mean * math.sqrt(loose)
    rho = 1 - loose_own / loose if loose > 0 else 1.0
    own = np.empty(grid.size)
    shared = np.empty(grid.size)
    both = peak.shared(rho) * loose
    rest = peak.apart(loose_own / loose) * loose if loose > 0 else 0.0
    for k, offset in enumerate(np.ndindex(*grid.shape)):
        base = [0] * len(x.grid.extents)
        overlap = 1.0
        for w, place, new in zip(walk, img.places, order, strict=True):
            if new >= 0 and place >= 0:
                base[place] = min(offset[new] * w.stride, x.grid.extents[place] - 1)
                overlap *= max(0.0, 1 - offset[new] * w.stride / w.kernel)
        if any(offset):
            own[k] = before.grid.at(before.own, base) + overlap * rest
            shared[k] = before.grid.at(before.shared, base) + overlap * both
    own[0] = near_own + rest
    shared[0] = near_shared + both
    own[-1], shared[-1] = before.own[-1], before.shared[-1]
    top = Kernel(axes, grid, own, shared, whole, before.alike)
    steeper = 1.0
    if function is not None:
        out, made = applied(top, function)
        q = before.spread
        first = bent(function, before.mean, q)
        plain = first.slope / q if q > 0 else first.value
        best = made.slope / top.spread if top.spread > 0 else made.value
        steeper = best / plain if plain > 0 and math.isfinite(best / plain) else 1.0
        steeper = min(steeper, 4.0)
    else:
        out = top
    ratio = grid.positions / max(1, x.grid.positions)

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}

        def carried(f: Array) -> Array:
            made_f = np.full(x.grid.size, f[-1] * ratio**2)
            for k, offset in enumerate(np.ndindex(*x.grid.shape)):
                step = [0] * len(grid.extents)
                for w, place, new in zip(walk, img.places, order, strict=True):
                    if new >= 0 and place >= 0:
                        step[new] = round(offset[place] / w.stride)
                made_f[k] = grid.at(f, step) * (ratio if not any(offset) else ratio**2)
            return made_f * steeper

        made_back = replace(back.mapped(carried, x.grid), profile=())
        # The same element wins for two inputs only by chance.
        lost = (1 - peak.agree(rho)) * x.grid.peak(1.0)
        b = made_back.batched
        if b is not None:
            b = Batched(b.own + b.cross * lost, b.cross * (1 - lost), b.more * (1 - lost))
        return {
            0: replace(
                made_back, own=made_back.own + made_back.cross * lost, cross=made_back.cross * (1 - lost), batched=b
            )
        }

    return Step((out,), down)


@op("reduce_l2")
def _length(c: Case) -> Step:
    """Return the root of the sum of squares over positions: nearly the same for all inputs where there are many."""
    x = c.kernel(0)
    rank = len(x.axes)
    axes = c.ints(1, "axes", "axis", "dim")
    axes = tuple(range(rank)) if not axes else tuple(sorted({a % rank for a in axes}))
    keep = bool(c.attrs.get("keepdims", c.attrs.get("keepdim", 0 if c.node.call is not None else 1)))
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


@op("reduce_max", "reduce_min")
def _reduce_max(c: Case) -> Step:
    raise Unread


# ---- larger images


@op("resize", "upsample")
def _resize(c: Case) -> Step:
    x = c.kernel(0)
    rank = len(x.axes)
    told = c.shape()
    sizes = [extent(axis) for axis in x.axes]
    if told is not None and len(told) == rank:
        sizes = [n if n is not None else s for n, s in zip(told, sizes, strict=True)]
    else:
        factors = next((v for k in (2, 1) if (v := c.values(k)) is not None and v.size == rank), None)
        if factors is None:
            raise Unread
        sizes = [math.floor(n * float(f)) for n, f in zip(sizes, factors, strict=True)]
    channels_last = sizes[1] != extent(x.axes[1])
    img = image(x, rank - 2, rank - 1 if channels_last else 1)
    x = img.value
    large = [sizes[a] for a in img.space]
    grid, axes, order = space_grid(x, img, large)
    ratio = [n / m for n, m in zip(large, sizes_of(img), strict=True)]
    linear = "linear" in c.text("mode") or "cubic" in c.text("mode")

    def up(f: Array) -> Array:
        out = np.empty(grid.size)
        for k, offset in enumerate(np.ndindex(*grid.shape)):
            spots: list[tuple[list[int], float]] = [([0] * len(x.grid.extents), 1.0)]
            for place, new, r in zip(img.places, order, ratio, strict=True):
                if place < 0 or new < 0:
                    continue
                low, rest = divmod(offset[new] / r, 1.0)
                n = x.grid.extents[place]
                wider = []
                for own, share in spots:
                    for step, part in ((int(low), 1 - rest), (int(low) + 1, rest)):
                        if part > 0:
                            one = list(own)
                            one[place] = min(step, n - 1)
                            wider.append((one, share * part))
                spots = wider
            out[k] = sum(share * x.grid.at(f, own) for own, share in spots)
        out[-1] = f[-1]
        if linear and len(f) > 2 and max(ratio) > 1:  # between two places it is their mean
            axes_up = sum(r > 1 for r in ratio)
            loss = (2 / 3) ** axes_up
            out[0] = f[1] + (f[0] - f[1]) * loss if len(f) > 2 else f[0]
        return out

    out = Kernel(axes, grid, up(x.own), up(x.shared), x.mean, x.alike)

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}

        def carried(f: Array) -> Array:
            made = np.full(x.grid.size, f[-1] * math.prod(ratio) ** 2)
            for k, offset in enumerate(np.ndindex(*x.grid.shape)):
                made[k] = _block(grid, order, img.places, ratio, f, offset)
            return _conserved(x.grid, made, grid.total(f))

        return {0: replace(back.mapped(carried, x.grid), profile=())}

    return Step((out,), down)


def _block(
    grid: Grid, order: Sequence[int], places: Sequence[int], ratio: Sequence[float], f: Array, offset: tuple[int, ...]
) -> float:
    """Return the sum over pairs of elements that two elements at an offset were copied to."""
    spots: list[tuple[list[int], float]] = [([0] * len(grid.extents), 1.0)]
    for place, new, r in zip(places, order, ratio, strict=True):
        if place < 0 or new < 0:
            continue
        copies = max(1, round(r))
        scale = (r / copies) ** 2 if r >= 1 else r
        wider = []
        for own, weight in spots:
            for k in range(-(copies - 1), copies):
                one = list(own)
                one[new] = min(abs(offset[place] * copies + k), grid.extents[new] - 1)
                wider.append((one, weight * (copies - abs(k)) * scale))
        spots = wider
        if len(spots) > 4000:
            return 0.0
    return sum(weight * grid.at(f, own) for own, weight in spots)


@op("pad")
def _pad(c: Case) -> Step:
    x = c.kernel(0)
    told = c.shape()
    rank = len(x.axes)
    pads = c.ints(1, "pads", "pad", "paddings")
    axes_given = c.ints(3, "axes")
    if pads is not None and not any(pads):
        return Step((x,), lambda d: {0: d[0]})
    before = [0] * rank
    after = [0] * rank
    if pads is not None:
        where = [a % rank for a in axes_given] if axes_given is not None else list(range(rank))
        turned = c.node.call is not None and axes_given is None  # torch: pairs, the last axis first
        if turned:
            where = list(range(rank - 1, rank - 1 - len(pads) // 2, -1))
        if len(pads) != 2 * len(where):
            raise Unread
        for k, a in enumerate(where):
            before[a], after[a] = (pads[2 * k], pads[2 * k + 1]) if turned else (pads[k], pads[len(where) + k])
    elif told is not None and len(told) == rank:
        for a, n in enumerate(told):
            if n is not None:
                after[a] = n - extent(x.axes[a])
    else:
        raise Unread
    now, chain = x, []
    for a in range(rank):
        if before[a] or after[a]:
            step = _padded(now, a, before[a], after[a], c.text("mode") in ("", "constant"))
            first = step.outs[0]
            if first is None:
                raise Unread
            chain.append(step)
            now = first

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        for step in reversed(chain):
            back = None if back is None else step.back([back]).get(0)
        return {0: back}

    return Step((now,), down)


def _padded(x: Kernel, axis: int, before: int, after: int, zeros: bool) -> Step:
    atoms = x.axes[axis]
    n = extent(atoms)
    whole = n + before + after
    axes = list(x.axes)
    if [t.kind for t in atoms] == [UNIT] or not atoms:
        share = n / whole
        axes[axis] = (Atom(UNIT, whole),)
        out = replace(
            x, axes=tuple(axes), own=x.own * share, shared=x.cross * share - (x.mean * share) ** 2, mean=x.mean * share,
            alike=x.alike * share, bend=None,
        )  # fmt: skip
        return Step((out,), lambda d: {0: d[0]})
    if [t.kind for t in atoms] != [PLACE]:
        raise Unread
    place = atoms[0].at
    extents, reach = list(x.grid.extents), list(x.grid.reach)
    extents[place] = whole
    grid = Grid(tuple(extents), tuple(reach))
    axes[axis] = (replace(atoms[0], extent=whole),)
    share = n / whole if zeros else 1.0
    profile: list[Array | None] = list(x.profile) or [None] * len(extents)
    if zeros and before >= 0 and after >= 0:
        inner = profile[place]
        inner = np.ones(n) if inner is None or len(inner) != n else inner
        profile[place] = np.concatenate([np.zeros(before), inner, np.zeros(after)]) / share
    else:
        profile = []
    out = Kernel(tuple(axes), grid, x.own * share, x.cross * share - (x.mean * share) ** 2, x.mean * share, x.alike,
                 tuple(profile))  # fmt: skip

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}
        kept = list(back.profile) or [None] * len(extents)
        scale = 1.0
        got = kept[place]
        if got is not None and len(got) == whole:
            cut = got[max(0, before) : max(0, before) + n]
            scale = float(cut.mean()) if len(cut) else 1.0
            kept[place] = cut / scale if scale > 0 and len(cut) == n else None
        else:
            kept[place] = None
        if whole < n:
            scale *= whole / n
        made = back.mapped(lambda f: f * scale, x.grid)
        return {0: replace(made, profile=tuple(kept))}

    return Step((out,), down)


@op("depth_to_space", "space_to_depth")
def _shuffled(c: Case) -> Step:
    x = c.kernel(0)
    told = c.shape()
    b = c.integer("blocksize", 1)
    img = image(x, 2)
    x = img.value
    sizes = sizes_of(img)
    wide = c.node.op == "depth_to_space"
    channels = extent(x.axes[1])
    new_sizes = [n * b if wide else n // b for n in sizes]
    units = channels // b**2 if wide else channels * b**2
    if told is not None and len(told) == 4 and told[1] is not None:
        units = int(told[1])
    grid, axes, _ = space_grid(x, img, new_sizes)
    new = list(axes)
    new[1] = (Atom(UNIT, units),) if units > 1 else ()
    between = apart(x.alike, max(1, x.units)) if wide else 1.0

    def carried(f: Array, old: Grid, target: Grid, up: bool, far: float) -> Array:
        out = np.empty(target.size)
        for k, offset in enumerate(np.ndindex(*target.shape)):
            if up:
                out[k] = f[0] if not any(offset) else far * old.at(f, [min(o // b, n - 1) for o, n in
                                                                   zip(offset, old.extents, strict=True)])  # fmt: skip
            else:
                out[k] = old.at(f, [min(o * b, n - 1) for o, n in zip(offset, old.extents, strict=True)])
        out[-1] = f[-1]
        return out

    own = carried(x.own, x.grid, grid, wide, between)
    shared = carried(x.shared, x.grid, grid, wide, 0.0 if wide else 1.0)
    out = Kernel(tuple(new), grid, own, shared, x.mean, max(x.alike, 1 / max(1, units)))

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}
        far = 1.0 if wide else apart(back.alike, max(1, units))
        made = back.mapped(lambda f: carried(f, grid, x.grid, not wide, far), x.grid)
        return {0: replace(made, profile=(), radial=0.0)}

    return Step((out,), down)
