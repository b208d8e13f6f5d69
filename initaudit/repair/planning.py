"""From a report to a plan: which tensors are drawn again, and how.

Which: those at fault, by the findings that drawing again cures. How: as the model draws the brothers of a layer, else
by the textbook. Where signal or gradient is at fault theory tells beforehand what comes of a plan; what would not help
is not planned: other ways to draw are tried, then the rest of the chain, then the whole net.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from initaudit import schemes, state
from initaudit.cures import cured
from initaudit.edits import Plan, Recipe
from initaudit.errors import UsageError
from initaudit.grounds import OPERATORS
from initaudit.repair.auto import CARRIED, STYLES, TEXTBOOK, TIMES, Auto, Chosen, Style
from initaudit.repair.faults import Fault, Faults, grave, signal, whole
from initaudit.repair.foreseen import foresee
from initaudit.repair.keeping import meant
from initaudit.repair.policy import Policy
from initaudit.risk.fit import BASE
from initaudit.types import Audit, Finding, Measured, Report, Role, Skip, State

_UNKNOWN = "what it starts as only its own code tells"
_SURE = 1.5 * BASE  # a risk below which nothing better is looked for
_MATTERS = 0.1  # of risk that a plan must take away to be worth more layers than the smallest one


def plan(
    report: Report, *, scheme: str = "auto", only: Sequence[str] = (), every: bool = False, force: bool = False
) -> Plan:
    """Return what a repair will do.

    Args:
        report: of all layers of the model.
        scheme: how weights are drawn; "auto" chooses for each.
        only: shell patterns on names of layers: these are drawn, healthy or not.
        every: draw all weights that map units to units.
        force: even if the model is trained.

    Raises:
        UsageError: there is no such scheme or layer, or the model is trained.
    """
    if scheme != "auto":
        schemes.parse(scheme)
    if report.state is State.TRAINED and not force:
        told = "; ".join(report.state_reasons)
        raise UsageError(f"the model is trained{f' ({told})' if told else ''}: drawing weights again needs --force")
    return _Planner(report, scheme, tuple(only), every, force).plan()


class _Planner:
    """One plan in the making."""

    def __init__(self, report: Report, scheme: str, only: tuple[str, ...], every: bool, force: bool) -> None:
        self.report, self.scheme, self.only, self.every, self.force = report, scheme, only, every, force
        self.measured = report.measured
        self.audit = Audit(
            report.model, report.measured, report.state, report.state_reasons, report.skipped, report.probe,
            report.theory, report.risk,
        )  # fmt: skip
        self.auto = Auto(report.measured)
        self.kept: dict[str, Skip] = {}
        self.notes: list[str] = []
        self.fresh = frozenset(state.fresh(report.measured)) if report.state is State.MIXED and not force else None

    def plan(self) -> Plan:
        """Return the plan."""
        if self.report.state is State.UNKNOWN:
            self.notes.append("whether the model is trained is not known: " + "; ".join(self.report.state_reasons))
        if self.fresh is not None:
            self.notes.append("a part of the model is trained: only layers that are still as drawn are touched")
        recipes = self._named() if self.only or self.every else self._cured()
        if self.scheme != "auto":
            recipes = [self._explicit(recipe) for recipe in recipes]
        return Plan(tuple(recipes), tuple(self.kept.values()), tuple(self.notes))

    # ---- which

    def _named(self) -> list[Recipe]:
        """Return recipes for the layers that the user names."""
        own = [m for m in self.measured if self._called(m)]
        if self.only and not own:
            first = self.measured[0].layer.name if self.measured else ""
            raise UsageError(f"no layer is called {self.only[0]!r}; the first is {first!r}")
        for pattern in self.only:
            if not any(fnmatchcase(m.layer.name, pattern) for m in self.measured):
                raise UsageError(f"no layer is called {pattern!r}; the first is {self.measured[0].layer.name!r}")
        why = "--layers" if self.only else "--all"
        faults = [f for m in own for f in self._both(m, why) if self.only or m.layer.kind in OPERATORS]
        if self.every:
            named = {f.key for f in faults}
            found = Faults(self.measured, self.report.findings)
            more = (f for finding in grave(self.report.findings) for f in found.of(finding))
            faults += [f for f in more if f.m.layer.kind not in OPERATORS and f.key not in named]
        return self._best([self._allowed(faults)], STYLES if self.every else (TEXTBOOK,))

    def _called(self, m: Measured) -> bool:
        return self.every or any(fnmatchcase(m.layer.name, pattern) for pattern in self.only)

    def _both(self, m: Measured, why: str) -> Iterator[Fault]:
        """Yield the weight and, where the scheme says what becomes of it, the bias of a layer."""
        if m.stats.count:
            yield whole(m, why, chain=self.every)
        if m.layer.bias is not None and not self.scheme.startswith("lsuv") and not m.layer.tied:
            yield Fault(m, m.layer.bias, why)

    def _cured(self) -> list[Recipe]:
        """Return recipes for what is at fault."""
        found = Faults(self.measured, self.report.findings)
        grave_ones = grave(self.report.findings)
        for finding in grave_ones:
            if not cured(finding.rule):
                self.notes.append(f"{finding.rule} {finding.name}: no draw mends it; {finding.remedy}")
        own = [f for f in grave_ones if cured(f.rule)]
        if not own:
            return []
        return self._best((self._allowed(faults) for faults in self._levels(found, own)), STYLES)

    def _levels(self, found: Faults, own: Sequence[Finding]) -> Iterator[list[Fault]]:
        """Yield what may be at fault, each time more: single weights, a symptom's layers, the whole net.

        A symptom may follow from a weight that is broken, or from another symptom: what is left out heals with it.
        """
        graph = self.audit.theory is not None
        single = [f for f in own if not signal(f)]
        told = [f for f in own if signal(f)]
        faults = [fault for finding in single for fault in found.of(finding)]
        if faults and graph:
            yield faults
        for finding in told:
            faults = [*faults, *found.of(finding)]
            if graph:
                yield faults
        if not graph or not told:
            yield faults
            return
        for finding in told:
            faults = [*faults, *found.all_of(finding)]
            yield faults
        follow = [f for f in self.report.findings if signal(f) and f not in told]
        yield [*faults, *(fault for finding in follow for fault in found.all_of(finding))]
        yield [*faults, *found.net(told[0].rule)]

    def _allowed(self, faults: Iterable[Fault]) -> tuple[Fault, ...]:
        """Leave out what is tied, meant or trained, and tell why; each tensor once."""
        told: dict[object, Fault] = {}
        for fault in faults:
            layer = fault.m.layer
            if layer.tied and fault.tensor == layer.weight:
                continue
            optional = fault.chain or fault.why.startswith("--")
            spared = meant(fault.m) if optional and fault.tensor == layer.weight and not self._spelled(fault.m) else ""
            if spared:
                self.kept.setdefault(fault.tensor.name, Skip(fault.tensor.name, spared))
            elif self.fresh is not None and layer.name not in self.fresh:
                self.kept.setdefault(fault.tensor.name, Skip(fault.tensor.name, "trained"))
            else:
                old = told.get(fault.key)
                told[fault.key] = fault if old is None else _merged(old, fault)
        return tuple(told.values())

    def _spelled(self, m: Measured) -> bool:
        """Whether the user names a layer by more than a star."""
        return any(pattern.strip("*") and fnmatchcase(m.layer.name, pattern) for pattern in self.only)

    # ---- how

    def _best(self, levels: Iterable[tuple[Fault, ...]], styles: Sequence[Style]) -> list[Recipe]:
        """Return the first recipes that theory finds healthy, else those with the least risk."""
        first: list[Recipe] = []
        best: tuple[float, list[Recipe]] | None = None
        tried: set[tuple[tuple[object, str], ...]] = set()
        last: tuple[Fault, ...] = ()

        def attempts() -> Iterator[list[Recipe]]:
            nonlocal last
            for faults in levels:
                last = faults
                for style in styles:
                    yield self._recipes(faults, style)
            if len(styles) > 1:
                yield self._recipes(last, CARRIED)
                for law in ("normal", "orthogonal"):
                    for times in TIMES:
                        yield self._recipes(last, Style("", law=law, times=times))

        for recipes in attempts():
            key = tuple((r.tensor.identity, r.scheme) for r in recipes)
            if not recipes or key in tried:
                continue
            tried.add(key)
            seen = foresee(self.audit, recipes)
            if not first:
                first = recipes
                if seen is None:
                    break
            if seen is None:
                continue
            if seen.healthy and seen.value < _SURE:
                return recipes
            if best is None or seen.value < best[0] - (_MATTERS if best[1] is first else 0.0):
                best = seen.value, recipes
        return first if best is None else best[1]

    def _recipes(self, faults: Sequence[Fault], style: Style) -> list[Recipe]:
        policy = Policy(self.measured, frozenset(f.key for f in faults))
        made = []
        for fault in faults:
            chosen = self._chosen(fault, style, policy)
            if chosen is None:
                self.kept.setdefault(
                    fault.tensor.name, Skip(fault.tensor.name, "what it starts as only its code tells")
                )
                continue
            made.append(
                Recipe(fault.m, fault.tensor, chosen.scheme, fault.why, dict(chosen.by_part), fault.units, chosen.about)
            )
        return made

    def _chosen(self, fault: Fault, style: Style, policy: Policy) -> Chosen | None:
        m, layer = fault.m, fault.m.layer
        if fault.tensor != layer.weight:
            told = policy.vector(m, fault.tensor) if not fault.why.startswith("INI5") else None
            if self.scheme == "torch-default" and fault.tensor == layer.bias:
                return Chosen("torch-default", "as torch draws it")
            if told is not None and fault.why != "--all":
                return Chosen(*told)
            return self.auto.vector(m, fault.tensor.name, bias=fault.tensor == layer.bias)
        if layer.kind in OPERATORS or layer.kind == "embedding" or layer.role is Role.EMBEDDING:
            told = policy.weight(m) if not (fault.chain or fault.ends) and style is TEXTBOOK else None
            return Chosen(*told) if told is not None else self.auto.weight(fault, style)
        told = policy.constant(m)
        if told is not None:
            return Chosen(*told)
        if layer.kind == "norm" or layer.role is Role.NORM:
            return self.auto.vector(m, fault.tensor.name, bias=False)
        told = policy.weight(m)
        return Chosen(*told) if told is not None else None

    def _explicit(self, recipe: Recipe) -> Recipe:
        """Return a recipe with the scheme that the user wants, where it is one of a weight."""
        layer = recipe.measured.layer
        if recipe.tensor != layer.weight or layer.kind not in OPERATORS:
            return recipe
        return replace(recipe, scheme=self.scheme, by_part={}, about="as asked for")


def _merged(old: Fault, new: Fault) -> Fault:
    """Return one fault for two findings on a tensor: the first says why, the larger says which units."""
    units = None if old.units is None or new.units is None else tuple(sorted({*old.units, *new.units}))
    return replace(old, units=units, ends=old.ends or new.ends)
