"""Weights that are used several times: their variance is pooled over all uses.

What a later use is fed with may depend on the earlier ones, as in a recurrence that is written out. So the stretch of
the graph from the first use to the last is gone through again, with all weights used several times in it scaled
together, until their variances are as they should be. Weights used once are scaled on the way each time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from initaudit.live.lsuv.mixing import Mixing
from initaudit.live.lsuv.moments import Moments
from initaudit.live.lsuv.targets import CLOSE, CONSTANT, STIFF, UNMOVED, ZERO, Part, Settings, Target, nothing, over

Place = Callable[[Sequence[Target]], None]  # lets the graph be computed with the weights as they are scaled now


@dataclass(slots=True)
class Stretch:
    """A part of the graph that is gone through until the weights used several times in it are scaled.

    Args:
        stops: nodes at which weights meet the data.
        several: weights used several times.
        once: weights used once, within.
    """

    stops: frozenset[int]
    several: list[Target]
    once: list[Target]
    tries: int = 0
    _found: dict[tuple[int, int], Moments] = field(default_factory=dict)  # by place among `several` and part
    _uses: list[tuple[int, int, float]] = field(default_factory=list)
    _mixing: Mixing = field(default_factory=Mixing)
    _last: dict[tuple[int, int], tuple[float, float]] = field(default_factory=dict)  # logarithms of scale and variance

    def take(self, one: Target, parts: Iterable[int], own: Moments) -> None:
        """Take in one use of parts that are scaled together: what they make, at their scales."""
        at = self.several.index(one)
        for k in parts:
            self._found.setdefault((at, k), Moments()).merge(own)
            if own.count:
                self._uses.append((at, k, own.at(1.0)))

    def again(self, settings: Settings, place: Place) -> bool:
        """Set new scales after a pass; whether it takes another one."""
        wishes = {}
        for key in sorted(self._found):
            wish = self._wish(key, settings)
            if wish is not None:
                wishes[key] = wish
        close = all(abs(2 * wish) < CLOSE * settings.tol for wish in wishes.values())
        if close or self.tries >= settings.tmax:
            self._told()
            return False
        at = np.array([math.log(self._part(key).scale) for key in wishes])
        to = self._mixing.step(at, np.array(list(wishes.values())))
        for key, scale in zip(wishes, to, strict=True):
            self._part(key).scale = math.exp(scale)
        for one in self.once:
            one.forget()
        self._found.clear()
        self._uses.clear()
        self.tries += 1
        place([*self.several, *self.once])
        return True

    def _part(self, key: tuple[int, int]) -> Part:
        return self.several[key[0]].states[key[1]]

    def _wish(self, key: tuple[int, int], settings: Settings) -> float | None:
        """Note the variance of a part, and return the logarithm of the scale that is missing; None where none helps."""
        part, own = self._part(key), self._found[key]
        if not own.count or part.why == UNMOVED:
            return None
        if nothing(own):
            part.why = CONSTANT if own.aa else ZERO
            return None
        part.variance, part.tries, part.why = own.at(1.0), self.tries, ""
        if not math.isfinite(part.variance):
            part.why = "what it makes is not finite"
            return None
        now = math.log(part.scale), math.log(part.variance)
        before = self._last.get(key)
        self._last[key] = now
        moved = 0.0 if before is None or len(self._found) > 1 else abs(2 * (now[0] - before[0]))
        if before is not None and moved > CLOSE * settings.tol and abs(now[1] - before[1]) < STIFF * moved:
            part.why = UNMOVED
            return None
        # Uses that start from a state of zero: with and without them, the variance is within the tolerance.
        aim = settings.target * math.sqrt(1 - own.idle / own.count)
        aim = aim if settings.target - aim < 0.7 * settings.tol else settings.target
        scale = own.scale(aim)
        if scale is None:
            part.why = over(own)
            scale = math.sqrt(aim / own.product)
        return math.log(scale)

    def _told(self) -> None:
        """Note the variance of each use; no part is open any longer that one of them has shown."""
        for key in self._found:
            self._part(key).done = self._part(key).variance is not None
        for at, k, variance in self._uses:
            one = self.several[at]
            one.later.append((one.parts.names[k], variance))


def stretches(targets: Sequence[Target], stops: Callable[[Target], list[int]]) -> list[Stretch]:
    """Return the stretches of a graph in which weights are used several times, in order, none of which overlap.

    Args:
        targets: all weights that are scaled.
        stops: tells the nodes at which a weight meets the data.
    """
    places = {id(one): stops(one) for one in targets}
    several = sorted((one for one in targets if len(places[id(one)]) > 1), key=lambda one: min(places[id(one)]))
    bounds: list[tuple[int, int, list[Target]]] = []
    for one in several:
        first, last = min(places[id(one)]), max(places[id(one)])
        if bounds and first <= bounds[-1][1]:
            start, end, own = bounds.pop()
            bounds.append((start, max(end, last), [*own, one]))
        else:
            bounds.append((first, last, [one]))
    out = []
    for first, last, own in bounds:
        ids = {id(one) for one in own}
        once = [one for one in targets if id(one) not in ids and any(first <= at <= last for at in places[id(one)])]
        out.append(Stretch(frozenset(at for o in (*own, *once) for at in places[id(o)]), own, once))
    return out
