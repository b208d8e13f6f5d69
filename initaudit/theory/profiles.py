"""Positions that differ in size: what a factor per position does to a gradient."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from initaudit.theory.grid import Grid
from initaudit.theory.kernel import Back, Kernel
from initaudit.types import Array

_MOST = 1e12  # times that a position's gradient may be larger than the others'


def divided(x: Kernel, back: Back, variance: float, epsilon: float) -> Back:
    """Return a gradient that was divided by the mean variance, divided by that of each position instead.

    Args:
        x: the value with the variances, mean `variance`; its profile says how positions differ.
        back: the gradient.
        variance: mean over positions.
        epsilon: added to each.
    """
    for axis, size in enumerate(x.profile):
        if size is None or variance <= 0 or len(size) != x.grid.extents[axis]:
            continue
        factor = np.minimum((variance + epsilon) / (variance * np.maximum(size, 0.0) + epsilon + 1e-300), _MOST)
        back = _weighed(x.grid, axis, back, factor)
    return back


def _weighed(grid: Grid, axis: int, back: Back, factor: Array) -> Back:
    given = back.profile[axis] if axis < len(back.profile) else None
    before = np.ones(len(factor)) if given is None else given
    after = before * factor
    near = float(after.mean())
    root = float(np.sqrt(np.maximum(before, 0.0)).mean())
    far = (float(np.sqrt(np.maximum(after, 0.0)).mean()) / root) ** 2 if root > 0 else 1.0
    times = np.full(grid.size, far)
    for k, offset in enumerate(np.ndindex(*grid.shape)):
        if not offset[axis]:
            times[k] = near
    profile: list[Array | None] = list(back.profile) if back.profile else [None] * len(grid.extents)
    profile[axis] = after / near if near > 0 else given
    return replace(back.scaled(times), profile=tuple(profile))
