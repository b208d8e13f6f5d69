"""How far theory and probe are apart, where both spoke."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from statistics import median

from initaudit.types import Report

FIGURES = ("forward_variance", "relative_gradient")


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of one figure: theory's over the probe's, or the inverse, whichever is above 1."""

    figure: str
    layers: int  # that both judges told it of
    median: float
    worst: float
    worst_layer: str


def compared(report: Report, figure: str) -> Agreement | None:
    """Return how far both are apart in a figure; None where no layer has it from both, as a number above zero."""
    found: list[tuple[float, str]] = []
    for m in report.measured:
        own, told = getattr(m.probed, figure, None), getattr(m.predicted, figure, None)
        if own is not None and told is not None and own > 0 and told > 0 and isfinite(own) and isfinite(told):
            found.append((max(own / told, told / own), m.layer.name))
    if not found:
        return None
    worst, name = max(found, key=lambda one: one[0])
    return Agreement(figure, len(found), _short(median(f for f, _ in found)), _short(worst), name)


def _short(value: float) -> float:
    """Round to four digits: what differs beyond is the order of sums."""
    return float(f"{value:.4g}")
