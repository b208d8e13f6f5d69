"""Which plan to take where signal or gradient is at fault: the first that theory finds healthy.

A plan is a set of faults and a style. Sets grow: weights that are broken by themselves, what one symptom names, all of
its layers, the whole net; styles go from the textbook's to rarer ones. What is tried first touches least.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from initaudit.edits import Recipe
from initaudit.repair.auto import STYLES, TEXTBOOK, TIMES, Style
from initaudit.repair.faults import Fault, Faults, faults_of
from initaudit.repair.findings import grave, signal
from initaudit.repair.foreseen import Foreseen, foresee
from initaudit.risk.fit import BASE, WARNING
from initaudit.risk.model import severity
from initaudit.types import Audit, Finding, Measured, Skip

_FINE = WARNING / 2  # a risk below which the textbook is good enough
_SURE = 1.5 * BASE  # the same of a rarer style: no further one is looked at
_CLEARLY = 0.5  # of the risk of the textbook, below which a rarer style is worth it
_MATTERS = 0.1  # of risk that a plan must take away to be worth more than the smallest one
_BUDGET = 60_000  # nodes of the graph that theory may walk through, over all tries
_FEW, _MANY = 6, 90  # tries


@dataclass(frozen=True, slots=True)
class Attempt:
    """A plan that may be taken."""

    recipes: tuple[Recipe, ...]
    kept: tuple[Skip, ...] = ()
    style: Style = TEXTBOOK


@dataclass(frozen=True, slots=True)
class _Seen:
    """An attempt, and what is to be expected of it."""

    attempt: Attempt
    seen: Foreseen


Make = Callable[[Sequence[Fault], Style], Attempt]


class Search:
    """Looks for the plan that is worth most.

    Args:
        audit: of the model as it is.
        make: turns faults and a style into an attempt.
        fixed: names of layers that are not drawn, whatever is found.
    """

    def __init__(self, audit: Audit, make: Make, fixed: Collection[str] = ()) -> None:
        self.audit, self.make, self.fixed = audit, make, fixed
        self.at: dict[str, Measured] = {m.layer.weight.name: m for m in audit.measured}
        self.told: Foreseen | None = None  # of the first attempt at the faults of the moment
        self.outcome: Foreseen | None = None  # of the attempt that was taken
        nodes = len(audit.model.graph.nodes) if audit.model.graph is not None else 1
        self.blind = self._blind()
        self.tries = max(_FEW, min(_MANY, _BUDGET // max(1, nodes)))

    def _blind(self) -> bool:
        """Whether theory cannot tell what comes of a plan: it says something else of the model than was measured."""
        if self.audit.theory is None:
            return True
        if self.audit.risk is None or self.audit.risk.by != "probe":
            return False
        seen = foresee(self.audit, ())
        return seen is None or severity(seen.value) != severity(self.audit.risk.value)

    def cure(self, own: Sequence[Finding], findings: Sequence[Finding]) -> Attempt:
        """Return the attempt at what is at fault.

        Args:
            own: the findings that are to be cured.
            findings: all there are.
        """
        return self.best(self._levels(own, findings), STYLES)

    def best(self, levels: Iterable[Sequence[Fault]], styles: Sequence[Style]) -> Attempt:
        """Return the first attempt that theory finds healthy; else the textbook's that leaves the least risk.

        The textbook's style is the first of each level; another one is taken only where that is still at fault.
        """
        taken: list[_Seen] = []
        tried: set[tuple[tuple[object, str], ...]] = set()
        nothing = Attempt(())
        for group in self._attempts(levels, styles):
            textbook: _Seen | None = None
            rarer: list[_Seen] = []
            for attempt in group:
                key = tuple((recipe.tensor.identity, recipe.scheme) for recipe in attempt.recipes)
                if not key or key in tried or len(tried) >= self.tries:
                    nothing = nothing if nothing.kept else attempt
                    continue
                tried.add(key)
                seen = None if self.blind else foresee(self.audit, attempt.recipes)
                if seen is None:
                    self.blind, nothing = True, attempt
                    break
                one = _Seen(attempt, seen)
                if textbook is None and attempt.style.textbook:
                    textbook, self.told = one, seen
                    taken.append(one)
                    if seen.vague or (seen.healthy and seen.value < _FINE):
                        return self._taken(one)
                elif seen.healthy:
                    rarer.append(one)
                    if seen.value < _SURE:
                        break
            if rarer:
                least = min(rarer, key=lambda one: one.seen.value)
                if textbook is None or least.seen.value < _CLEARLY * textbook.seen.value:
                    return self._taken(least)
            if textbook is not None and textbook.seen.healthy:
                return self._taken(textbook)
        if self.blind or not taken:
            return nothing
        least = min(taken, key=lambda one: one.seen.value)
        return self._taken(least if least.seen.value < taken[0].seen.value - _MATTERS else taken[0])

    def _taken(self, one: _Seen) -> Attempt:
        self.outcome = one.seen
        return one.attempt

    def _attempts(self, levels: Iterable[Sequence[Fault]], styles: Sequence[Style]) -> Iterator[Iterator[Attempt]]:
        """Yield groups of attempts that touch the same tensors, each group more than the one before."""
        last: Sequence[Fault] = ()
        for faults in levels:
            last = faults
            yield (self.make(faults, style) for style in styles)
        if len(styles) > 1 and any(fault.chain for fault in last) and not self.blind:
            yield (
                self.make(last, Style("", law=law, times=times)) for times in TIMES for law in ("normal", "orthogonal")
            )

    def _levels(self, own: Sequence[Finding], findings: Sequence[Finding]) -> Iterator[Sequence[Fault]]:
        """Yield what may be at fault, each time more.

        A symptom may follow from a weight that is broken, or from another symptom: what is left out heals with it. And
        what is broken may hide a symptom, which shows once it is mended.
        """
        found = faults_of(self.audit, findings, self.fixed)
        single = [f for f in own if not signal(f)]
        told = [f for f in own if signal(f)]
        faults = [fault for finding in single for fault in found.of(finding)]
        faults += found.rest() if faults else ()
        if faults and not self.blind:
            yield faults
        if self.blind:
            yield [*faults, *(fault for finding in told for fault in found.of(finding))]
            return
        if faults:
            faults = [*faults, *self._behind(faults)]
        for finding in told:
            faults = [*faults, *found.of(finding)]
            yield faults
        for finding in told:
            faults = [*faults, *found.all_of(finding)]
            yield faults
        if not told and (self.told is None or self.told.healthy):
            return
        yield [*faults, *self._behind(faults)]
        follow = [f for f in findings if signal(f) and f not in told]
        faults = [*faults, *(fault for finding in follow for fault in found.all_of(finding))]
        yield faults
        yield [*faults, *found.net(told[0].rule if told else "INI501")]

    def _behind(self, faults: Sequence[Fault]) -> Iterator[Fault]:
        """Yield what shows at fault once the faults before it are mended."""
        seen = self.told
        if seen is None or seen.healthy:
            return
        found = Faults(seen.audit.measured, seen.findings)
        for finding in grave(seen.findings):
            for fault in found.of(finding):
                m = self.at.get(fault.m.layer.weight.name)
                if m is not None:
                    yield Fault(m, fault.tensor, fault.why, fault.units, fault.ends, fault.chain)
