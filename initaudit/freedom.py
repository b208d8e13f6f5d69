"""What the analysis of ties tells: effective widths, tied units, parameters that sleep or never move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class Cause(StrEnum):
    """Why a parameter never moves."""

    ZEROS = "zeros"  # parameters that are zero multiply each other
    OFF = "off"  # units that no input can switch on
    TIED = "tied"  # what it feeds is tied, so that its effect cancels: a norm over equal channels, a choice of equals
    DESIGN = "design"  # it would not move whatever the parameters were: zero inputs, masks


@dataclass(frozen=True, slots=True)
class LayerFreedom:
    """How many different units a layer has."""

    name: str
    units: int
    width: int  # effective: how many of them can ever differ
    classes: tuple[tuple[int, ...], ...] = ()  # the sets of units that stay equal, of two or more, as stored
    start: str = ""  # the layer that the ties begin at, itself or one just before it; empty where it has none
    nearly: tuple[tuple[int, ...], ...] = ()  # sets that are equal but for rounding of the dtype, beyond `classes`
    # Sets that are equal but for sign or scale, beyond both: gradient descent keeps them so, Adam only signs.
    twins: tuple[tuple[int, ...], ...] = ()
    breaks: tuple[str, ...] = ()  # what parts its tied units in practice: "dropout 0.1"

    @property
    def nearly_width(self) -> int:
        """How many units differ by more than rounding."""
        return self.units - _spare((*self.nearly, *self.classes)) if self.nearly else self.width

    @property
    def twin_width(self) -> int:
        """How many units differ by more than rounding, a sign or a scale."""
        return self.units - _spare((*self.twins, *self.nearly, *self.classes)) if self.twins else self.nearly_width


def _spare(sets: Sequence[tuple[int, ...]]) -> int:
    """Return how many units repeat another one; a set may hold smaller ones, which come after it."""
    seen: set[int] = set()
    spare = 0
    for one in sets:
        if seen.isdisjoint(one):
            spare += len(one) - 1
            seen.update(one)
    return spare


@dataclass(frozen=True, slots=True)
class ParameterFreedom:
    """When a parameter first moves."""

    name: str  # of the tensor
    size: int
    wake: int  # the first step at which some of it moves; 0 for never
    late: tuple[tuple[int, int], ...] = ()  # (step, elements that first move at it), beyond the first step
    dead: int = 0  # elements that never move, because a factor of their gradient is zero for ever
    cancelled: int = 0  # elements that never move, because their effect is taken away later: a bias before a batch norm
    cause: Cause | None = None  # why elements are dead, where some are: the gravest that holds for any of them
    blocked_by: tuple[str, ...] = ()  # names of the zero parameters, itself among them, that keep each other at zero

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
    graphs: int = 1  # for how many it holds, where the file leaves open which one is meant


def weakest(found: Sequence[Freedom]) -> Freedom:
    """Return what holds whichever of several graphs is the right one.

    Of a layer that is the largest width, without classes: they need not be the same ones. Of a parameter it is what
    holds of it as a whole in every graph, for the same reason.
    """
    first, *rest = found
    if not rest:
        return first
    layers = tuple(_widest(one) for one in zip(*(f.layers for f in found), strict=True))
    told = [{p.name: p for p in f.parameters} for f in found]
    everywhere = [[t[name] for t in told] for name in told[0] if all(name in t for t in told)]
    parameters = tuple(p for p in map(surest, everywhere) if p is not None)
    return Freedom(
        layers,
        parameters,
        tuple(dict.fromkeys(op for f in found for op in f.unread)),
        max(f.rounds for f in found),
        max((p.wake for p in parameters), default=1),
        next((f.why for f in found if f.why), ""),
        len(found),
    )


def _widest(found: Sequence[LayerFreedom | None]) -> LayerFreedom | None:
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return None
    width = max(one.width for one in known)
    return LayerFreedom(known[0].name, known[0].units, width)


def surest(found: Sequence[ParameterFreedom | None]) -> ParameterFreedom | None:
    """Return what surely holds of a parameter of which several things are told; None for one that moves at once.

    Of more than one that is what holds of all of it: the earliest step, and cancelled rather than dead.
    """
    known = [one for one in found if one is not None]
    if len(known) < len(found):
        return None
    first = known[0]
    if len(known) == 1:
        return first
    if any(sum(n for _, n in p.late) + p.dead + p.cancelled < p.size for p in known):
        return None  # some of it moves at once
    if wakes := [p.wake for p in known if p.wake]:
        return ParameterFreedom(first.name, first.size, min(wakes), ((min(wakes), first.size),))
    if all(p.dead == p.size for p in known):
        return first
    return ParameterFreedom(first.name, first.size, 0, cancelled=first.size)
