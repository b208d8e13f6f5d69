"""Windows over images: where they stand, what they see, and images with their axes in order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from initaudit.theory.align import relabelled
from initaudit.theory.engine import Case, Unread
from initaudit.theory.grid import REACH, Grid, regrid
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Atom, Axis, Kernel, extent
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
    reach = tuple(
        min(REACH, n - 1) if a in places else r
        for a, (n, r) in enumerate(zip(x.grid.extents, x.grid.reach, strict=True))
    )
    if reach != x.grid.reach:
        near = Grid(x.grid.extents, reach)
        old = x.grid

        def pick(offset: tuple[int, ...]) -> tuple[int, ...] | None:
            return None if any(o > r for o, r in zip(offset, old.reach, strict=True)) else offset

        own, shared = (regrid(f, old, near, pick) for f in (x.own, x.shared))
        x = replace(x, grid=near, own=own, shared=shared, bend=None)
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


def along(profile: tuple[Array | None, ...], place: int, n: int) -> Array:
    """Return the profile along an axis of the grid, ones where there is none."""
    found = profile[place] if 0 <= place < len(profile) else None
    return np.ones(n) if found is None or len(found) != n else found


def sizes_of(img: Image) -> list[int]:
    """Return the extents of the axes of space."""
    return [extent(img.value.axes[a]) for a in img.space]
