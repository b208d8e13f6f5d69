"""Convolutions: a product along the channels for each tap, with stride, dilation and the border of the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from initaudit.theory.align import relabelled, restored
from initaudit.theory.dense import Taken, biased, learn
from initaudit.theory.engine import Case, Grads, Step, Unread, op
from initaudit.theory.grid import REACH, Grid
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Atom, Axis, Back, Kernel, extent
from initaudit.theory.weights import Weight
from initaudit.types import Array

_LONG = 400  # places beyond which pairs are not looked at one by one


@dataclass(frozen=True, slots=True)
class Window:
    """How an axis of space is walked."""

    kernel: int
    stride: int
    dilation: int
    before: int
    after: int

    def places(self, n: int) -> int:
        """Return how many places of n the window stands at."""
        return max(1, (n + self.before + self.after - self.dilation * (self.kernel - 1) - 1) // self.stride + 1)

    def seen(self, f: Array) -> Array:
        """Return the mean over the taps of what each place finds, 0 beyond the border."""
        n = len(f)
        padded = np.concatenate([np.zeros(max(0, self.before)), f, np.zeros(max(0, self.after))])
        count = self.places(n)
        at = np.arange(count) * self.stride
        out = np.zeros(count)
        for k in range(self.kernel):
            index = at + k * self.dilation
            ok = index < len(padded)
            out[ok] += padded[index[ok]]
        return out / self.kernel

    def pairs(self, f: Array, reach: int) -> tuple[Array, Array, float]:
        """Return what each place finds, what pairs at each offset up to a reach do, and the mean over all pairs.

        Two places share what both find at the same tap; beyond the border that is nothing.
        """
        seen = self.seen(f)
        count = len(seen)
        if count > _LONG or not (self.before > 0 or self.after > 0 or float(np.ptp(f)) > 0):
            mean = float(seen.mean())
            return seen, np.full(reach + 1, mean), float(np.mean(np.sqrt(np.maximum(seen, 0.0)))) ** 2
        padded = np.concatenate(
            [np.zeros(max(0, self.before)), np.sqrt(np.maximum(f, 0.0)), np.zeros(max(0, self.after))]
        )
        index = np.arange(count)[:, None] * self.stride + np.arange(self.kernel)[None, :] * self.dilation
        found = np.where(index < len(padded), padded[np.minimum(index, len(padded) - 1)], 0.0)
        both = found @ found.T / self.kernel
        near = np.array([float(np.diagonal(both, r).mean()) for r in range(reach + 1)])
        return seen, near, float(both.mean())

    def returned(self, f: Array, n: int) -> Array:
        """Return the sum of what comes back to each of n elements."""
        size = n + max(0, self.before) + max(0, self.after) + self.kernel * self.dilation + self.stride
        out = np.zeros(size)
        at = np.arange(len(f)) * self.stride
        for k in range(self.kernel):
            index = at + k * self.dilation
            ok = index < size
            out[index[ok]] += f[ok]
        return out[self.before : self.before + n]


def windows(c: Case, kernel: Sequence[int], sizes: Sequence[int], *, pool: bool = False) -> list[Window]:
    """Return the windows of a convolution or a pool."""
    rank = len(kernel)

    def each(name: str, default: int) -> list[int]:
        given = c.attrs.get(name)
        if isinstance(given, int):
            return [given] * rank
        if isinstance(given, (tuple, list)) and len(given) == rank:
            return [int(v) for v in given]
        if isinstance(given, (tuple, list)) and len(given) == 1:
            return [int(given[0])] * rank
        return [default] * rank

    strides, dilations = each("strides", 1), each("dilations", 1)
    if pool and c.node.call is not None and not c.attrs.get("strides"):
        strides = list(kernel)
    auto = c.text("auto_pad")
    pads = c.attrs.get("pads")
    if auto.startswith("SAME") or pads == "same":
        totals = [
            max(0, (math.ceil(n / s) - 1) * s + (k - 1) * d + 1 - n)
            for n, k, s, d in zip(sizes, kernel, strides, dilations, strict=True)
        ]
        before, after = [t // 2 for t in totals], [t - t // 2 for t in totals]
    elif isinstance(pads, int):
        before = after = [pads] * rank
    elif isinstance(pads, (tuple, list)) and len(pads) in (rank, 2 * rank):
        before, after = [int(p) for p in pads[:rank]], [int(p) for p in pads[-rank:]]
    elif isinstance(pads, (tuple, list)) and len(pads) == 1:
        before = after = [int(pads[0])] * rank
    else:
        before = after = [0] * rank
    if c.attrs.get("ceil_mode"):
        for a, (n, k, s) in enumerate(zip(sizes, kernel, strides, strict=True)):
            over = (n + before[a] + after[a] - dilations[a] * (k - 1) - 1) % s
            after[a] += (s - over) % s
    return [Window(*one) for one in zip(kernel, strides, dilations, before, after, strict=True)]


@dataclass(frozen=True, slots=True)
class Image:
    """A value with its axes in order: inputs, units, places."""

    value: Kernel
    channel: int
    space: tuple[int, ...]  # axes of space
    places: tuple[int, ...]  # their axes in the grid, -1 for one of a single element


def image(x: Kernel, rank: int, channel: int = 1) -> Image:
    """Return a value with each axis of space being one axis of its grid. Raises Unread where that cannot be."""
    if len(x.axes) != rank + 2:
        raise Unread
    space = tuple(a for a in range(1, rank + 2) if a != channel % (rank + 2))
    for a in space:
        if [t.kind for t in x.axes[a]] not in ([PLACE], []):
            x = relabelled(x, a, (Atom(PLACE, extent(x.axes[a])),) if extent(x.axes[a]) > 1 else ())
    if any(t.kind != UNIT for t in x.axes[channel]):
        n = extent(x.axes[channel])
        if any(t.kind == BATCH and t.extent > 1 for t in x.axes[channel]):
            raise Unread
        x = relabelled(x, channel, (Atom(UNIT, n),) if n > 1 else ())
    places = tuple(x.axes[a][0].at if x.axes[a] else -1 for a in space)
    return Image(x, channel, space, places)


def space_grid(
    x: Kernel, img: Image, sizes: Sequence[int], near: bool = True
) -> tuple[Grid, tuple[Axis, ...], list[int]]:
    """Return the grid of an image with other extents, its axes, and for each axis of space its place in the grid."""
    extents, reach = list(x.grid.extents), list(x.grid.reach)
    axes = list(x.axes)
    order: list[int] = []
    drop: list[int] = []
    for a, place, n in zip(img.space, img.places, sizes, strict=True):
        if place >= 0 and n == 1:
            drop.append(place)
            axes[a] = ()
            order.append(-1)
        elif place >= 0:
            extents[place] = n
            reach[place] = min(REACH, n - 1) if near else 0
            axes[a] = (replace(axes[a][0], extent=n),)
            order.append(place)
        elif n > 1:
            order.append(len(extents))
            axes[a] = (Atom(PLACE, n, len(extents)),)
            extents.append(n)
            reach.append(min(REACH, n - 1) if near else 0)
        else:
            order.append(-1)
    kept = [k for k in range(len(extents)) if k not in drop]
    number = {old: k for k, old in enumerate(kept)}
    made = tuple(tuple(replace(t, at=number[t.at]) if t.kind == PLACE else t for t in axis) for axis in axes)
    grid = Grid(tuple(extents[k] for k in kept), tuple(reach[k] for k in kept))
    return grid, made, [number.get(k, -1) for k in order]


def _flat(profile: tuple[Array | None, ...], place: int, n: int) -> Array:
    found = profile[place] if 0 <= place < len(profile) else None
    return np.ones(n) if found is None or len(found) != n else found


def sizes_of(img: Image) -> list[int]:
    """Return the extents of the axes of space."""
    return [extent(img.value.axes[a]) for a in img.space]


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
        seen, near, every = w.pairs(_flat(x.profile, place, n), grid.reach[new] if new >= 0 else 0)
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
        got = w.returned(_flat(back.profile, new, w.places(n)), n)
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
