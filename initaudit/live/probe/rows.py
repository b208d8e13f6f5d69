"""A layer's signal from the measures of the places where its weight is used."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from initaudit.live.probe.measures import Spread
from initaudit.live.probe.sums import norm
from initaudit.types import Signal, Signals

_UNBOUNDED = frozenset({
    "forward_variance", "second_moment", "relative_gradient", "gradient", "common", "contrast", "gate_gradient",
    "open_forward_variance", "open_relative_gradient",
})  # fmt: skip
_LEAST, _MOST = 1e-24, 1e30  # squares of what single precision tells with some digits


def joined(spreads: Sequence[Spread]) -> Signal:
    """Return the means over all uses of a weight."""
    return Signal(
        forward_variance=_mean([s.variance for s in spreads]),
        second_moment=_mean([s.moment for s in spreads]),
        input_correlation=_mean([s.correlation for s in spreads if s.correlation is not None]),
    )


def sized(leaves: Iterable[torch.Tensor]) -> float:
    """Return the norm of weights."""
    return math.hypot(*(norm(leaf) for leaf in leaves))


def short(value: float) -> float:
    """Round to six digits: what differs beyond is the order of sums."""
    return float(f"{value:.6g}")


def rounded(row: Signal) -> Signal:
    """Return a signal with all its numbers rounded; what left the range of numbers is infinite, or not told."""
    numbers: dict[str, Any] = {
        field.name: _told(field.name, value)
        for field in fields(row)
        if isinstance(value := getattr(row, field.name), float)
    }
    return replace(row, **numbers)


def _told(name: str, value: float) -> float | None:
    if not math.isfinite(value):
        return math.inf if name in _UNBOUNDED else None
    return 1.0 - short(1.0 - value) if name == "input_correlation" else short(value)  # how far from 1 matters


def beyond(made: Signals) -> bool:
    """Whether numbers left the range in which single precision tells them."""
    numbers = [n for row in made.layers for n in (row.forward_variance, row.second_moment, row.gradient, row.contrast)]
    return any(n is not None and not (n == 0 or _LEAST < n < _MOST) for n in numbers) or _lost(made)


def _lost(made: Signals) -> bool:
    """Whether some layers get a gradient, or a signal, and others none at all."""
    for name in ("forward_variance", "gradient"):
        told = [bool(n) for row in made.layers if (n := getattr(row, name)) is not None]
        if any(told) and not all(told):
            return True
    return any(row.common and not row.contrast for row in made.layers)


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None
