"""What the analysis tells: effective widths, tied units, parameters that sleep or never move."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LayerFreedom:
    """How many different units a layer has."""

    name: str
    units: int
    width: int  # effective: how many of them can ever differ
    classes: tuple[tuple[int, ...], ...] = ()  # the sets of units that stay equal, of two or more, as stored


@dataclass(frozen=True, slots=True)
class Freedom:
    """What can ever differ, and what can ever move."""

    layers: tuple[LayerFreedom | None, ...] = ()  # one per layer asked for; None where its units are not known
    unread: tuple[str, ...] = ()  # operations not understood: all they touch is taken to differ
    rounds: int = 0
    why: str = ""  # why there is nothing to say; empty where there is
