"""What becomes of a value: how its signal ends up, and what decides the activation after it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Flag, auto

_LATE = 1 << 60
NOWHERE = -1  # not in a gate


class Ends(Flag):
    """How a signal ends up, over all of its readers."""

    NOTHING = 0
    WEIGHT = auto()  # goes into a weighted op
    JOIN = auto()  # is added to another signal
    SKIP = auto()  # is added to something made from itself
    LATER = auto()  # starts a stream by such a sum, and the stream does not go on to weights alone
    CONCAT = auto()  # is concatenated with another signal
    MERGE = auto()  # is chosen instead of another signal, by a condition or in a loop
    GATES = auto()  # multiplies another signal, as the gate
    GATED = auto()  # is multiplied by another signal
    SELF = auto()  # is multiplied by a gate made from itself
    PRODUCT = auto()  # is multiplied by another signal, neither of them clearly the gate
    MIX = auto()  # goes into attention or a product of two matrices
    LOGITS = auto()  # goes into a product of two matrices that a softmax follows
    SOFTMAX = auto()
    CHOICE = auto()  # goes into top-k or arg-max
    OUTPUT = auto()
    UNKNOWN = auto()


@dataclass(frozen=True, slots=True)
class Decision:
    """What decides the activation after a value."""

    at: int  # index of the deciding node
    name: str | None
    why: str
    firm: bool  # an activation or a weight, as against the end of the graph
    known: bool = True
    agreed: bool = True


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a value."""

    decision: Decision
    ends: Ends
    weighted: bool  # a weighted op comes later on some path
    normed: bool
    inside: int = NOWHERE  # it reaches nothing but gates on what it was made from, the last over so many weights


END = Fate(Decision(_LATE, None, "nothing follows but the output", False), Ends.OUTPUT, False, False)
UNUSED = Fate(Decision(_LATE, None, "nothing reads it", False), Ends.NOTHING, False, False)


def nearest(decisions: list[Decision]) -> Decision:
    """Return the first firm decision in execution order, and whether the others say the same."""
    order = sorted(decisions, key=lambda d: (not d.firm, d.at))
    first = order[0]
    others = {d.name if d.known else "not understood" for d in order[1:] if d.firm} - {first.name}
    if not first.known or not first.agreed:
        return first
    if others:
        named = ", ".join(sorted(str(other or "none") for other in others))
        return Decision(first.at, first.name, f"{first.why}; another reader: {named}", True, agreed=False)
    return replace(first, agreed=all(d.agreed for d in order if d.firm))


def inner(fates: Iterable[Fate]) -> int:
    """Return how many weights lie between these values and the gates, if they all reach nothing else."""
    steps = [fate.inside for fate in fates]
    return max(steps) if steps and min(steps) >= 0 else NOWHERE


def stream(after: Ends) -> Ends:
    """Return how a value ends that is added to what is made from it, where `after` is how the sum does."""
    kept = after & (Ends.WEIGHT | Ends.SKIP | Ends.CONCAT | Ends.SELF | Ends.GATED | Ends.OUTPUT)
    return Ends.SKIP | kept | (Ends.NOTHING if kept == after else Ends.LATER)
