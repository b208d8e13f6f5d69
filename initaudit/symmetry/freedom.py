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
    start: str = ""  # the layer that the ties begin at, itself or one just before it; empty where it has none


@dataclass(frozen=True, slots=True)
class ParameterFreedom:
    """When a parameter first moves."""

    name: str  # of the tensor
    size: int
    wake: int  # the first step at which some of it moves; 0 for never
    late: tuple[tuple[int, int], ...] = ()  # (step, elements that first move at it), beyond the first step
    dead: int = 0  # elements that never move, because a factor of their gradient is zero for ever
    cancelled: int = 0  # elements that never move, because their effect is taken away later: a bias before a batch norm

    @property
    def asleep(self) -> bool:
        """Whether none of it moves at the first step, but some of it later."""
        return self.wake > 1


@dataclass(frozen=True, slots=True)
class Freedom:
    """What can ever differ, and what can ever move."""

    layers: tuple[LayerFreedom | None, ...] = ()  # one per layer asked for; None where its units are not known
    parameters: tuple[ParameterFreedom, ...] = ()  # those that do not move as a whole at the first step
    unread: tuple[str, ...] = ()  # operations not understood: all they touch is taken to differ
    rounds: int = 0  # of labels
    steps: int = 0  # of training, until nothing more wakes
    why: str = ""  # why there is nothing to say of units; empty where there is
