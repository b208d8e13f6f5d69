"""What is measured of values while they pass by: nothing of them is kept."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from initaudit import activations
from initaudit.activations import Family
from initaudit.layers.spots import Bend
from initaudit.live.probe.sums import norm

_NO_SLOPE = 1e-6
_MANY = 1 << 20
_GAP = 50.0  # between logits that count and those that a mask hides
_KEYS = 8
_LITTLE = 0.05  # of the steepest slope that the activation has


@dataclass(frozen=True, slots=True)
class Spread:
    """How the values of one place differ between runs."""

    variance: float  # across inputs, per unit and position, then averaged
    moment: float  # mean square of all of them
    correlation: float | None  # of two inputs: the cosine between their values; None where all are 0


def spread(values: Sequence[torch.Tensor]) -> Spread | None:
    """Compare the values of several runs; None where they cannot be compared."""
    first = values[0]
    if not first.is_floating_point() or not first.numel() or any(v.shape != first.shape for v in values):
        return None
    if len(values) < 2:  # no input moves it
        size = norm(first)
        return Spread(0.0, size * size / first.numel(), 1.0)
    with torch.no_grad():
        flat = [v.detach().reshape(-1) for v in values]
        sizes = [norm(v) for v in flat]
        apart = {(a, b): norm(flat[a] - flat[b]) for a in range(len(flat)) for b in range(a)}
    cosines = [_cosine(sizes[a], sizes[b], d) for (a, b), d in apart.items() if sizes[a] > 0 and sizes[b] > 0]
    count = len(flat) * first.numel()
    return Spread(
        _squares(apart.values()) / (count * (len(flat) - 1)),
        _squares(sizes) / count,
        math.fsum(cosines) / len(cosines) if cosines and all(map(math.isfinite, cosines)) else None,
    )


def _squares(sizes: Iterable[float]) -> float:
    return sum(size * size for size in sizes)


def _cosine(a: float, b: float, apart: float) -> float:
    """Return the cosine between two vectors from their sizes and their distance: what is left to 1 keeps its digits."""
    return 1.0 - max(0.0, (apart - (a - b)) / a * ((apart + (a - b)) / b) / 2)


def slopes(
    bend: Bend, before: Sequence[torch.Tensor], after: Sequence[torch.Tensor], units: int
) -> tuple[float, float | None] | None:
    """Return the shares of units that are dead (no slope for any input) and saturated; None if it cannot be told.

    The slope is the activation's own derivative, as autograd gives it.
    """
    xs, ys = list(before), list(after)
    alike = sum(x.numel() for x in xs) == sum(y.numel() for y in ys) and xs[0].shape[1:] == ys[0].shape[1:]
    axis = _axis(xs[0], units)
    if axis is None or not alike or not all(x.requires_grad for x in (*xs, *ys)):
        return None
    ones = [torch.ones_like(y) for y in ys]
    found = torch.autograd.grad(ys, xs, ones, retain_graph=True, allow_unused=True)
    others = [a for a in range(xs[0].dim()) if a != axis % xs[0].dim()]
    sizes = [g.abs() for g in found if g is not None]
    if len(sizes) < len(xs):
        return None
    most = torch.stack([g.amax(others) if others else g for g in sizes]).amax(0)
    dead = float((most <= _NO_SLOPE).double().mean())
    row = activations.find(bend.name)
    if row is None or row.family is not Family.SATURATING or not row.elementwise:
        return dead, None
    steepest = float(np.max(np.abs(row.slope(np.linspace(-6, 6, 241)))))
    typical = torch.stack([g.mean(others) if others else g for g in sizes]).mean(0)
    return dead, float((typical < _LITTLE * steepest).double().mean())


def _axis(value: torch.Tensor, units: int) -> int | None:
    """Return the axis of the units: that of channels in images, else the last one."""
    order = (1, -1) if value.dim() > 3 else (-1, 1)
    return next((a for a in order if -value.dim() <= a < value.dim() and value.shape[a] == units), None)


@dataclass(frozen=True, slots=True)
class Weights:
    """What an attention does with its logits."""

    entropy: float  # of the weights of a query, in terms of log n for n keys it may look at
    spread: float  # standard deviation of the logits of a query


def attention(logits: Sequence[torch.Tensor], axis: int) -> Weights | None:
    """Measure the logits of several runs along the axis of the keys; what a mask hides does not count."""
    with torch.no_grad():
        rows = torch.cat([v.detach().movedim(axis, -1).reshape(-1, v.shape[axis]) for v in logits]).double()
        seen = (rows > rows.amax(-1, keepdim=True) - 1e4) & (rows >= _floor(rows))
        count = seen.sum(-1)
        able = count > 1
        if not bool(able.any()):
            return None
        rows, seen, count = rows[able], seen[able], count[able]
        shown = rows.masked_fill(~seen, -math.inf)
        log = torch.log_softmax(shown, -1).masked_fill(~seen, 0.0)
        entropy = -(log.exp() * seen * log).sum(-1) / count.double().log()
        values = rows.masked_fill(~seen, 0.0)
        mean = values.sum(-1, keepdim=True) / count.unsqueeze(-1)
        variance = ((values - mean).square() * seen).sum(-1) / count
        return Weights(float(entropy.mean()), float(variance.mean().sqrt()))


def _floor(rows: torch.Tensor) -> torch.Tensor:
    """Return the least logit of each row that no mask hides.

    Masks leave a gap, also those that subtract only 100; on both sides of it logits lie closer together than it is
    wide, while logits that are far apart by themselves leave gaps of the size of their spread.
    """
    none = rows.new_full((*rows.shape[:-1], 1), -math.inf)
    if rows.shape[-1] < 3:
        return none
    ranked = rows.clamp(min=rows.amax(-1, keepdim=True) - 1e4).sort(-1).values
    gap, at = (ranked[..., 1:] - ranked[..., :-1]).max(-1, keepdim=True)
    below = ranked.gather(-1, at) - ranked[..., :1]
    floor = ranked.gather(-1, at + 1)
    above = ranked[..., -1:] - floor
    alone = (above > 0) | (rows.shape[-1] >= _KEYS)  # of few keys, one often stands out by itself
    masks = (gap > _GAP) & (gap > 2 * torch.maximum(below, above)) & alone
    return torch.where(masks, floor, none)


def excess_loss(logits: Sequence[torch.Tensor]) -> float:
    """Return the cross entropy against classes drawn uniformly, less that of knowing nothing, log C."""
    with torch.no_grad():
        losses = []
        for value in logits:
            rows = _exact(value.detach().reshape(-1, value.shape[-1]))
            middle = rows.mean(-1, keepdim=True)  # of sums in single precision, little is lost about it
            losses.append(torch.logsumexp(rows - middle, -1).double())
        return float(torch.cat(losses).mean()) - math.log(logits[0].shape[-1])


def spread_of_all(values: Sequence[torch.Tensor]) -> float:
    """Return the standard deviation of all values of several runs."""
    flat = [_exact(value.detach().reshape(-1)) for value in values]
    count = sum(v.numel() for v in flat)
    mean = math.fsum(float(v.sum(dtype=torch.float64)) for v in flat) / count
    return math.hypot(*(norm(v - mean) for v in flat)) / math.sqrt(count)


def _exact(value: torch.Tensor) -> torch.Tensor:
    """Return values in double precision, unless they are so many that it takes a while."""
    return value.double() if value.numel() < _MANY else value
