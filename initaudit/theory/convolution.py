"""Convolutions: a product along the channels for each tap, with stride, dilation and the border of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from initaudit.theory.align import restored
from initaudit.theory.dense import Taken, biased, learn
from initaudit.theory.engine import Case, Grads, Step, Unread, op
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import UNIT, Atom, Axis, Back, Kernel
from initaudit.theory.weights import Weight
from initaudit.theory.windows import Image, Window, along, image, sizes_of, space_grid, windows
from initaudit.types import Array


def taken(img: Image, walk: Sequence[Window]) -> tuple[Taken, tuple[Axis, ...], list[int]]:
    """Return what the taps of a window find, on the grid of the places it stands at."""
    x = img.value
    sizes = sizes_of(img)
    outs = [w.places(n) for w, n in zip(walk, sizes, strict=True)]
    grid, axes, order = space_grid(x, img, outs)
    profile: list[Array | None] = [None] * len(grid.extents)
    for k, old in enumerate(x.profile):
        if old is not None and k not in img.places and k < len(profile):
            profile[k] = old
    pairs: list[tuple[int, Array, float]] = []  # axis of the grid, what pairs at each offset find, and all pairs
    alone = 1.0
    for w, n, place, new in zip(walk, sizes, img.places, order, strict=True):
        seen, near, every = w.pairs(along(x.profile, place, n), grid.reach[new] if new >= 0 else 0)
        mean = float(seen.mean())
        if new < 0:
            alone *= mean
            continue
        pairs.append((new, near, every))
        if mean > 0:
            profile[new] = seen / mean
    share = np.full(grid.shape, alone)
    for new, near, _ in pairs:
        share = share * near.reshape([-1 if a == new else 1 for a in range(len(grid.shape))])
    counts = grid.counts
    far = alone * math.prod(every for _, _, every in pairs)
    if counts[-1] > 0:
        far = (far * counts.sum() - float(counts[:-1] @ share.ravel())) / counts[-1]
    out = []
    for f in (x.own, x.cross):
        made = np.empty(grid.size)
        for k, offset in enumerate(np.ndindex(*grid.shape)):
            own = _scaled_offset(x, img, walk, order, offset)
            made[k] = x.grid.at(f, own) * float(share[offset])
        made[-1] = (f[-1] if len(x.grid.extents) else f[0]) * max(0.0, far)
        out.append(made)
    flat = all(p is None or float(np.ptp(p)) < 1e-9 for p in profile)
    return Taken(grid, out[0], out[1], () if flat else tuple(profile), ()), axes, order


def _scaled_offset(
    x: Kernel, img: Image, walk: Sequence[Window], order: Sequence[int], offset: Sequence[int]
) -> list[int]:
    own = [0] * len(x.grid.extents)
    used = set()
    for w, place, new in zip(walk, img.places, order, strict=True):
        if new >= 0:
            used.add(new)
            step = offset[new] * w.stride
            if place >= 0:
                own[place] = min(step, x.grid.extents[place] - 1)
    rest_new = [k for k in range(len(offset)) if k not in used]
    rest_old = [k for k in range(len(own)) if k not in img.places]
    for k, old in zip(rest_new, rest_old, strict=False):
        own[old] = offset[k]
    return own


def sent(img: Image, walk: Sequence[Window], grid: Grid, order: Sequence[int], back: Back, times: float) -> Back:
    """Return the gradient of an image from that of its convolution: `times` outputs and E[w^2] per tap."""
    x = img.value
    sizes = sizes_of(img)
    factor = 1.0
    profile: list[Array | None] = [None] * len(x.grid.extents)
    for w, n, place, new in zip(walk, sizes, img.places, order, strict=True):
        got = w.returned(along(back.profile, new, w.places(n)), n)
        mean = float(got.mean())
        factor *= mean
        if place >= 0 and mean > 0:
            profile[place] = got / mean
    positions = math.prod(sizes)
    ways = [_divided(img, walk, grid, order, offset) for offset in np.ndindex(*x.grid.shape)]

    def carried(f: Array) -> Array:
        out = np.zeros(x.grid.size)
        for k, own in enumerate(ways):
            if own is not None:
                out[k] = grid.at(f, own) * factor * times
        counts = x.grid.counts
        if counts[-1] > 0:
            # All pairs together get what all pairs of places send: each tap of the window to one pair.
            whole = grid.total(f) * times * factor * positions / max(1, grid.positions)
            rest = whole - float(counts[:-1] @ out[:-1])
            out[-1] = rest / counts[-1] if abs(rest) > 1e-9 * abs(whole) else 0.0
            if f is not back.own and f[-1] >= 0:
                out[-1] = max(0.0, out[-1])
        return out

    flat = all(p is None or float(np.ptp(p)) < 1e-9 for p in profile)
    return replace(back.mapped(carried, x.grid), alike=0.0, profile=() if flat else tuple(profile))


def _divided(
    img: Image, walk: Sequence[Window], grid: Grid, order: Sequence[int], offset: tuple[int, ...]
) -> list[int] | None:
    own = [0] * len(grid.extents)
    used: set[int] = set()
    for w, place, new in zip(walk, img.places, order, strict=True):
        if new >= 0:
            used.add(new)
        if place < 0 or not offset[place]:
            continue
        if offset[place] % w.stride:
            return None
        if new < 0:
            return None
        own[new] = offset[place] // w.stride
        if own[new] >= grid.extents[new]:
            return None
    rest_new = [k for k in range(len(own)) if k not in used]
    rest_old = [k for k in range(len(offset)) if k not in img.places]
    for k, old in zip(rest_new, rest_old, strict=False):
        own[k] = offset[old]
    return own


@op("conv", "conv_nhwc")
def _conv(c: Case) -> Step:
    weight = c.weight(1)
    rank = len(weight.shape) - 2
    if rank < 1:
        raise Unread
    last = c.node.op == "conv_nhwc"
    img = image(c.kernel(0), rank, rank + 1 if last else 1)
    if last:
        outs, kernel, inner = weight.shape[0], weight.shape[1:-1], weight.shape[-1]
    else:
        outs, inner, kernel = weight.shape[0], weight.shape[1], weight.shape[2:]
    group = max(1, c.integer("group", 1))
    walk = windows(c, kernel, sizes_of(img))
    return restored(convolved(c, img, walk, weight, outs, inner, group), c.kernel(0), img.value)


def convolved(c: Case, img: Image, walk: Sequence[Window], weight: Weight, outs: int, inner: int, group: int) -> Step:
    """Return the convolution of an image and the way back."""
    x = img.value
    taps = math.prod(w.kernel for w in walk)
    found, axes, order = taken(img, walk)
    centre, random = weight.centre, weight.random
    fan = inner * taps
    own = fan * random * found.own
    # The mean of the weights sees the mean over the window: taps are as alike as positions are.
    common = np.zeros_like(own)
    if centre:
        units = max(1, x.units)
        between = max(0.0, (x.alike * units - 1) / (units - 1)) if units > 1 else 1.0
        across = (1 + (inner - 1) * between) / inner
        common = _windowed(img, walk, found, order, x.own) * fan**2 * centre**2 * across
    rows = weight.out_alike or 1 / max(1, outs)
    whole = own + common
    alike = float((common[0] + rows * own[0]) / whole[0]) if whole[0] > 0 else 0.0
    new = list(axes)
    new[img.channel] = (Atom(UNIT, outs),) if outs > 1 else ()
    out = Kernel(
        tuple(new), found.grid, whole, fan * random * found.cross, fan * centre * x.mean, min(1.0, alike),
        found.profile,
    )  # fmt: skip

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}
        learn(c, weight, found, back, float(outs * fan))
        per = outs / group
        made = sent(img, walk, found.grid, order, back, per * random)
        columns = weight.in_alike or 1 / max(1, x.units)
        made = replace(made, alike=min(1.0, columns), radial=back.radial if inner == 1 and group > 1 else 0.0)
        if centre:
            extra = sent(img, walk, found.grid, order, back, per**2 * centre**2 * back.alike * taps)
            made = replace(made.plus(extra), alike=_mix(made, extra))
        return {0: made}

    made, back = biased(c, out, down, 2)
    return Step((made,), back)


def _mix(made: Back, extra: Back) -> float:
    a, b = float(made.each[0]), float(extra.each[0])
    return (made.alike * a + b) / (a + b) if a + b > 0 else 0.0


def _windowed(img: Image, walk: Sequence[Window], found: Taken, order: Sequence[int], f: Array) -> Array:
    """Return the mean over pairs of taps of a function, at the places of the window."""
    x = img.value
    shifts: list[tuple[list[int], float]] = [([0] * len(x.grid.extents), 1.0)]
    for w, place in zip(walk, img.places, strict=True):
        wider = []
        for offset, share in shifts:
            for k in range(-(w.kernel - 1), w.kernel):
                one = list(offset)
                if place >= 0:
                    one[place] = k * w.dilation
                wider.append((one, share * (w.kernel - abs(k)) / w.kernel**2))
        shifts = wider
    out = np.empty(found.grid.size)
    for k, place_offset in enumerate(np.ndindex(*found.grid.shape)):
        base = _scaled_offset(x, img, walk, order, place_offset)
        out[k] = sum(share * x.grid.at(f, [b + s for b, s in zip(base, shift, strict=True)]) for shift, share in shifts)
    out[-1] = f[-1]
    return out


@op("conv_transpose")
def _conv_transpose(c: Case) -> Step:
    weight = c.weight(1)
    rank = len(weight.shape) - 2
    if rank < 1:
        raise Unread
    img = image(c.kernel(0), rank)
    group = max(1, c.integer("group", 1))
    inner, outs, kernel = weight.shape[0] // group, weight.shape[1] * group, weight.shape[2:]
    sizes = sizes_of(img)
    told = c.shape()
    walk = windows(c, kernel, sizes)
    extra: Sequence[int] = c.attrs.get("output_padding") or (0,) * rank
    large = [
        (n - 1) * w.stride + w.dilation * (w.kernel - 1) + 1 - w.before - w.after + int(e)
        for n, w, e in zip(sizes, walk, extra, strict=True)
    ]
    if told is not None and len(told) == rank + 2 and all(n is not None for n in told[2:]):
        large = [int(n or 1) for n in told[2:]]
    x = img.value
    wide_grid, wide_axes, order = space_grid(x, img, large)
    shape_only = Kernel(wide_axes, wide_grid, wide_grid.full(0.0), wide_grid.full(0.0))
    wide = Image(shape_only, 1, img.space, tuple(order))
    # The way back of a convolution from the large image to the small one.
    as_back = Back(x.grid, x.own, x.own, x.cross, 0.0, x.profile)
    random = weight.random
    up = sent(wide, walk, x.grid, img.places, as_back, inner * random)
    new = list(wide_axes)
    new[1] = (Atom(UNIT, outs),) if outs > 1 else ()
    out = Kernel(
        tuple(new), wide_grid, up.own, up.cross, 0.0, weight.in_alike or 1 / max(1, outs), up.profile
    )  # fmt: skip
    taps = math.prod(kernel)

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}

        def seen(f: Array) -> Taken:
            here = Kernel(wide_axes, wide_grid, f, wide_grid.full(0.0), 0.0, 0.0, back.profile)
            return taken(replace(wide, value=here), walk)[0]

        profile = seen(back.each).profile
        per = replace(
            back.mapped(lambda f: seen(f).own, x.grid),
            profile=profile if len(profile) == len(x.grid.extents) else (),
            radial=0.0,
        )
        signal = Taken(x.grid, x.own, x.cross, x.profile, ())
        learn(c, weight, signal, per, float(inner * outs * taps))
        return {0: replace(per.scaled(outs / group * taps * random), alike=weight.out_alike or 1 / max(1, x.units))}

    made, back = biased(c, out, down, 2)
    return restored(Step((made,), back), c.kernel(0), x)
