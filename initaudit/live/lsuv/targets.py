"""A weight that is being scaled: its parts, where its products are found, and what has become of it so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from initaudit.edits import Reached
from initaudit.live.lsuv.meetings import Meeting
from initaudit.live.lsuv.moments import Moments
from initaudit.live.lsuv.parts import Parts
from initaudit.types import Array, Layer

NOTHING = 1e-24  # variance of a product that is rounding, or zero
DEAD = "its input is zero"
ZERO = "what it makes is zero, whatever its weight: a factor of it is"
CONSTANT = "what it makes is one number, whatever its input"
UNSEEN = "its product is not computed on this batch"
_FEW = 3  # uses that are told one by one
UNMOVED = "its output does not change with the scale of the weight, which is normalised"
REUSED = "one of several uses of one weight: its variance is pooled over all of them"
ELSEWHERE = "the same weight as before, used in another way"
CLOSE = 0.1  # share of the tolerance at which scaling ends
STIFF = 0.1  # share of a change of its square that a scale lets through where it is divided out again


@dataclass(frozen=True, slots=True)
class Settings:
    """What is to be reached, and how."""

    tol: float
    tmax: int
    target: float
    training_norms: bool
    seed: int


@dataclass(slots=True)
class Part:
    """What has become of one part."""

    scale: float = 1.0  # of the start
    variance: float | None = None
    tries: int = 0
    why: str = ""
    done: bool = False


@dataclass(slots=True)
class Target:
    """A weight that is being scaled."""

    at: int  # its recipe
    layer: Layer
    parts: Parts
    start: Array
    meeting: Meeting
    states: list[Part] = field(default_factory=list)
    later: list[tuple[str, float]] = field(default_factory=list)  # uses, part by part, and their variance
    elsewhere: list[float] = field(default_factory=list)  # the variances of other uses

    def __post_init__(self) -> None:
        self.states = [Part() for _ in self.parts.names]

    @property
    def open(self) -> list[int]:
        """Parts that no use has decided yet."""
        return [k for k, part in enumerate(self.states) if not part.done]

    def values(self) -> Array:
        """Return the weight as it is scaled now."""
        return self.scaled([part.scale for part in self.states])

    def forget(self) -> None:
        """Start anew."""
        self.states = [Part() for _ in self.parts.names]

    def settle(self) -> None:
        """Scale parts that this batch does not reach, as an idle expert, like the others."""
        scales = [part.scale for part in self.states if part.done and not part.why]
        for part in self.states if scales else ():
            if not part.done and part.scale == 1.0:
                part.scale = math.exp(sum(map(math.log, scales)) / len(scales))
                part.why = f"{part.why or UNSEEN}; scaled like its other parts"

    def scaled(self, scales: list[float]) -> Array:
        """Return the start with these scales, one per part."""
        return np.asarray(self.parts.scaled(self.start, scales), self.start.dtype)

    def reached(self, tol: float, target: float) -> list[Reached]:
        """Return what there is to say of it."""
        rows = []
        for name, part in zip(self.parts.names, self.states, strict=True):
            why = part.why
            if not part.done:
                why = why or UNSEEN
            elif part.variance is not None and not why and not abs(part.variance - target) < tol:
                why = f"not reached after {part.tries} tries"
            rows.append(Reached(self.layer.name, name, part.variance, part.tries, part.scale, why))
        names = dict.fromkeys(name for name, _ in self.later)
        rows += [row for name in names for row in self._uses(name, tol, target)]
        for variance in self.elsewhere:
            why = "" if abs(variance - target) < tol else ELSEWHERE
            rows.append(Reached(self.layer.name, "other use", variance, 0, 1.0, why))
        return rows

    def _uses(self, name: str, tol: float, target: float) -> list[Reached]:
        """Return what there is to say of several uses: of many, of the one that is farthest off."""
        uses = [(k, variance) for k, variance in enumerate([v for own, v in self.later if own == name], 1)]
        if len(uses) < 2:
            return []
        told = uses if len(uses) <= _FEW else [max(uses, key=lambda use: abs(use[1] - target))]
        rows = []
        for k, variance in told:
            word = f"use {k} of {len(uses)}"
            why = "" if abs(variance - target) < tol else REUSED
            rows.append(Reached(self.layer.name, f"{name}, {word}" if name else word, variance, 0, 1.0, why))
        return rows


def nothing(own: Moments) -> bool:
    """Whether a product does not vary."""
    return own.product <= max(NOTHING, 1e-12 * own.aa / own.count)


def over(own: Moments) -> str:
    """Return why a bias leaves no room for its weight."""
    return f"its bias alone has variance {own.added:.3g}, over the target"
