"""From small images to large ones: interpolation, padding, channels laid out in space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from initaudit.theory.align import apart
from initaudit.theory.engine import Case, Grads, Step, Unread, op
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import PLACE, UNIT, Atom, Back, Kernel, extent
from initaudit.theory.pooling import conserved
from initaudit.theory.windows import image, sizes_of, space_grid
from initaudit.types import Array


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
            return conserved(x.grid, made, grid.total(f))

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
