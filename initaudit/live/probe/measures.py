"""What is measured of values while they pass by: nothing of them is kept."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from initaudit import activations
from initaudit.activations import Family
from initaudit.layers.spots import Bend

_NO_SLOPE = 1e-6
_LITTLE = 0.05  # of the steepest slope that the activation has


@dataclass(frozen=True, slots=True)
class Spread:
    """How the values of one place differ between runs."""

    variance: float  # across inputs, per unit and position, then averaged
    correlation: float | None  # of two inputs: the cosine between their values; None where all are 0


def spread(values: Sequence[torch.Tensor]) -> Spread | None:
    """Compare the values of several runs; None where they cannot be compared."""
    first = values[0]
    if not first.is_floating_point() or not first.numel() or any(v.shape != first.shape for v in values):
        return None
    if len(values) < 2:  # no input moves it
        return Spread(0.0, 1.0)
    with torch.no_grad():
        flat = [v.detach().reshape(-1) for v in values]
        square, products = _moments(flat)
        largest = max(map(max, products))
        if square < 1e-30 or not largest < 1e30:  # beyond what squares in single precision can say
            flat = [v.double() for v in flat]
            square, products = _moments(flat)
    pairs = [
        both / math.sqrt(row[a] * products[b][b])
        for a, row in enumerate(products)
        for b, both in enumerate(row[:a])
        if products[a][a] * products[b][b] > 0
    ]
    return Spread(square / ((len(values) - 1) * first.numel()), math.fsum(pairs) / len(pairs) if pairs else None)


def _moments(flat: Sequence[torch.Tensor]) -> tuple[float, list[list[float]]]:
    """Return the sum of squares about the mean of the runs, and the products of each two up to the diagonal."""
    mean = flat[0] / len(flat)
    for v in flat[1:]:
        mean = mean.add_(v, alpha=1 / len(flat))
    square = math.fsum(float(torch.linalg.vector_norm(v - mean)) ** 2 for v in flat)
    return square, [[float(torch.dot(v, w)) for w in flat[: k + 1]] for k, v in enumerate(flat)]


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
        seen = rows > rows.amax(-1, keepdim=True) - 1e4  # masks subtract more than that, or all
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


def excess_loss(logits: Sequence[torch.Tensor]) -> float:
    """Return the cross entropy against classes drawn uniformly, less that of knowing nothing, log C."""
    with torch.no_grad():
        rows = torch.cat([v.detach().reshape(-1, v.shape[-1]) for v in logits]).double()
        loss = torch.logsumexp(rows, -1) - rows.mean(-1)
        return float(loss.mean()) - math.log(rows.shape[-1])
