"""Where along a net a figure falls or grows: from which layer to which, and by how much."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

FLOOR = -30.0  # decades that stand for zero
_EDGE = 0.05  # of the whole change, that is left out at each end


@dataclass(frozen=True, slots=True)
class Run:
    """A change along a sequence; `start` is the last place before it, `end` the first after it."""

    start: int
    end: int
    decades: float  # positive

    @property
    def steps(self) -> int:
        """Number of places that changed it."""
        return self.end - self.start


def decades(value: float | None) -> float | None:
    """Return the logarithm to base 10, as far as it is worth telling; None where the value is not known."""
    if value is None or math.isnan(value):
        return None
    return max(FLOOR, min(-FLOOR, math.log10(value))) if value > 0 else FLOOR


def fall(values: Sequence[float]) -> Run | None:
    """Return the largest fall along a sequence of logarithms; None where it never falls."""
    best = Run(0, 0, 0.0)
    top = 0
    for at, value in enumerate(values):
        if value > values[top]:
            top = at
        if values[top] - value > best.decades:
            best = Run(top, at, values[top] - value)
    if not best.decades > 0:
        return None
    start, end, slack = best.start, best.end, _EDGE * best.decades
    start = max(k for k in range(start, end) if values[k] >= values[start] - slack)
    end = min(k for k in range(start + 1, end + 1) if values[k] <= values[end] + slack)
    return Run(start, end, best.decades)


def growth(values: Sequence[float]) -> Run | None:
    """Return the largest growth along a sequence of logarithms; None where it never grows."""
    return fall([-value for value in values])
