"""From a report to a plan: which tensors are drawn again, and how.

Which: those at fault, by the findings that drawing again cures. How: as the model draws the brothers of a layer, else
by the textbook. Where signal or gradient is at fault theory tells beforehand what comes of a plan (see searching).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from initaudit import schemes, state
from initaudit.cures import CURED, Cure, cured
from initaudit.edits import Plan, Recipe
from initaudit.errors import UnsupportedError, UsageError
from initaudit.formats.onnx.derivations import QUANTISED, Derivations
from initaudit.grounds import OPERATORS
from initaudit.repair import drawing
from initaudit.repair.auto import STYLES, TEXTBOOK, Auto, Chosen, Style
from initaudit.repair.faults import Fault, Faults, faults_of, whole
from initaudit.repair.findings import grave, signal
from initaudit.repair.keeping import meant, summed
from initaudit.repair.places import apart
from initaudit.repair.policy import Policy
from initaudit.repair.rows import own_law
from initaudit.repair.searching import Attempt, Search
from initaudit.types import Audit, Measured, Report, Role, Skip, State, Tensor

_UNKNOWN = "what it starts as only its own code tells"
_TIED_TABLE = "tied to the output layer, whose logits would grow with it"
_COPIES = "models that start as copies of each other (teacher, target, average) are left so"
_APART = "training parts these units by itself: they are left"
_BESIDE = "added to an embedding that is kept"


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
        UnsupportedError: a weight that would be drawn is quantised.
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
        self.report, self.scheme, self.only, self.every = report, scheme, only, every
        self.measured = report.measured
        self.audit = Audit(
            report.model, report.measured, report.state, report.state_reasons, report.skipped, report.probe,
            report.theory, report.risk, report.freedom,
        )  # fmt: skip
        self.auto = Auto(report.measured)
        self.notes: list[str] = []
        self.fresh = frozenset(state.fresh(report.measured)) if report.state is State.MIXED and not force else None
        self.stored = {t.identity for t in report.model.tensors} | {
            t.storage for t in report.model.tensors if t.storage
        }
        self.named = {t.name: t for t in report.model.tensors}
        self.derivations = Derivations.of(report.model)
        self.scaled = scheme.partition(":")[0].lower() == "lsuv"
        kept = () if self.fresh is None else [m for m in self.measured if m.layer.name not in self.fresh]
        self.fixed = frozenset(m.layer.name for m in kept)

    def plan(self) -> Plan:
        """Return the plan."""
        if self.report.state is State.UNKNOWN:
            self.notes.append("whether the model is trained is not known: " + "; ".join(self.report.state_reasons))
        if self.fresh is not None:
            self.notes.append("a part of the model is trained: only layers that are still as drawn are touched")
        chosen = self._chosen_layers() if self.only or self.every else self._cured()
        recipes = [self._explicit(recipe) for recipe in chosen.recipes] if self.scheme != "auto" else chosen.recipes
        refused = next((skip for skip in chosen.kept if QUANTISED in skip.why), None)
        if refused is not None:
            raise UnsupportedError(f"{refused.name}: {refused.why}")
        recipes = [one for recipe in apart(recipes) for one in (recipe, *self._beside(recipe))]
        return Plan(tuple(recipes), chosen.kept, tuple(self.notes))

    # ---- which

    def _cured(self) -> Attempt:
        """Return recipes for what is at fault."""
        told = grave(self.report.findings)
        for finding in told:
            if not cured(finding.rule):
                self.notes.append(f"{finding.rule} {finding.name}: no draw mends it; {finding.remedy}")
        own = [f for f in told if cured(f.rule)]
        if not own:
            return Attempt(())
        found = self._faults()
        for finding in own:
            if CURED[finding.rule] is Cure.CLONES and not found.of(finding):
                self.notes.append(f"{finding.rule} {finding.name}: {_COPIES}")
            if CURED[finding.rule] is Cure.UNITS and not found.of(finding):
                self.notes.append(f"{finding.rule} {finding.name} {finding.layer}: {_APART}")
        search = Search(self.audit, self._attempt, self.fixed)
        chosen = search.cure(own, self.report.findings)
        left = grave(search.outcome.findings) if search.outcome is not None and chosen.recipes else ()
        for finding in left:
            self.notes.append(f"no draw that is known cures {finding.rule} {finding.name} here: {finding.remedy}")
        return chosen

    def _faults(self) -> Faults:
        return faults_of(self.audit, self.report.findings, self.fixed)

    def _chosen_layers(self) -> Attempt:
        """Return recipes for the layers that the user names."""
        for pattern in self.only:
            if not any(fnmatchcase(m.layer.name, pattern) for m in self.measured):
                first = self.measured[0].layer.name if self.measured else ""
                raise UsageError(f"no layer is called {pattern!r}; the first is {first!r}")
        own = [m for m in self.measured if self.every or any(fnmatchcase(m.layer.name, p) for p in self.only)]
        why = "--layers" if self.only else "--all"
        found = self._faults()
        told = [finding for finding in grave(self.report.findings) if cured(finding.rule)]
        ill = self.every and any(signal(finding) for finding in told)
        kinds = {*OPERATORS, *(("embedding",) if self.scaled and self.every else ())}
        faults = [f for m in own for f in self._both(m, why, ill) if self.only or m.layer.kind in kinds]
        if self.every:
            named = {f.key for f in faults}
            faults += [f for finding in told for f in found.of(finding) if not f.weight and f.key not in named]
        return (
            Search(self.audit, self._attempt, self.fixed).best([faults], STYLES)
            if ill
            else self._attempt(faults, TEXTBOOK)
        )

    def _both(self, m: Measured, why: str, ill: bool) -> Iterator[Fault]:
        """Yield the weight of a layer, and its bias where the scheme or the user names it."""
        if m.stats.count:
            yield whole(m, why, chain=ill)
        if m.layer.bias is not None and not m.layer.tied and self.scheme.startswith("torch-default"):
            yield Fault(m, m.layer.bias, why)

    def _attempt(self, faults: Sequence[Fault], style: Style) -> Attempt:
        """Return what comes of faults, less what is tied, meant, trained or no tensor of the file."""
        kept: dict[str, Skip] = {}
        wanted = self._allowed(faults, kept)
        policy = Policy(self.measured, frozenset(f.key for f in wanted))
        recipes = []
        for fault in wanted:
            chosen = self._chosen(fault, style, policy)
            why = _UNKNOWN if chosen is None else ""
            try:
                tensor = self._own(fault.tensor)
            except UnsupportedError as error:
                why = error.reason.removeprefix(f"{fault.tensor.name}: ")
            if chosen is None or why:
                kept.setdefault(fault.tensor.name, Skip(fault.tensor.name, why))
                continue
            parts = dict(chosen.by_part)
            recipes.append(Recipe(fault.m, tensor, chosen.scheme, fault.why, parts, fault.units, chosen.about))
        if style.carried:
            carried = {recipe.tensor.identity: recipe for recipe in self._carried()}
            recipes = [*(r for r in recipes if r.tensor.identity not in carried), *carried.values()]
        return Attempt(tuple(recipes), tuple(kept.values()), style)

    def _allowed(self, faults: Iterable[Fault], kept: dict[str, Skip]) -> tuple[Fault, ...]:
        """Leave out what is tied, meant or trained, and tell why; each tensor once."""
        told: dict[object, Fault] = {}
        for fault in faults:
            layer, name = fault.m.layer, fault.tensor.name
            weight = fault.tensor == layer.weight
            if layer.tied and weight:
                continue
            why = ""
            if weight and (fault.chain or fault.why.startswith("--")) and not self._spelled(fault.m):
                why = meant(fault.m) or (self._table(fault.m) if layer.kind == "embedding" and self.every else "")
            if not why and self.fresh is not None and layer.name not in self.fresh:
                why = "trained"
            if why:
                kept.setdefault(name, Skip(name, why))
            else:
                old = told.get(fault.key)
                told[fault.key] = fault if old is None else _merged(old, fault)
        return tuple(told.values())

    def _spelled(self, m: Measured) -> bool:
        """Whether the user names a layer by more than a star."""
        return any(pattern.strip("*") and fnmatchcase(m.layer.name, pattern) for pattern in self.only)

    def _table(self, m: Measured) -> str:
        """Return why a table of embeddings is not scaled along with all other weights; empty where it is."""
        if self._serves_head(m):
            return _TIED_TABLE
        kept = [o.layer for o in self.measured if o is not m and o.layer.kind == "embedding" and self._serves_head(o)]
        return _BESIDE if any(summed(self.report.model.graph, m.layer, other) for other in kept) else ""

    def _serves_head(self, m: Measured) -> bool:
        """Whether a table is the weight of an output layer too."""
        names = {m.layer.name, m.layer.weight.name}
        return "tied head" in m.layer.tags or any(o.layer.tied in names and o is not m for o in self.measured)

    def _own(self, tensor: Tensor) -> Tensor:
        """Return the tensor that is written for one of a layer.

        Raises:
            UnsupportedError: no tensor of the file can take its values.
        """
        try:
            self.derivations.origins(tensor)
        except UnsupportedError as error:
            own = self.named.get(tensor.name)
            if self._derived(tensor) or QUANTISED in error.reason or own is None or own.shape != tensor.shape:
                raise
            return own
        return tensor

    def _derived(self, tensor: Tensor) -> bool:
        """Whether a reader says by which steps a tensor is made of tensors of the file."""
        return tensor.storage in self.derivations.wholes

    def _beside(self, recipe: Recipe) -> tuple[Recipe, ...]:
        """Return recipes for what is written along with a weight; what is derived is taken apart by its writer."""
        return () if self._derived(recipe.tensor) else drawing.companions(recipe)

    # ---- how

    def _chosen(self, fault: Fault, style: Style, policy: Policy) -> Chosen | None:
        m, layer = fault.m, fault.m.layer
        if not (fault.chain or fault.ends):
            style = TEXTBOOK
        if layer.role is Role.CLOSED_FORM and fault.tensor == layer.weight and not self._spelled(m):
            return None
        if fault.tensor != layer.weight:
            if self.scheme.startswith("torch-default") and fault.tensor == layer.bias:
                return Chosen("torch-default", "as torch draws it")
            told = policy.vector(m, fault.tensor) if fault.why != "--all" and not fault.why.startswith("INI5") else None
            return Chosen(*told) if told else self.auto.vector(m, fault.tensor.name, bias=fault.tensor == layer.bias)
        if layer.kind in OPERATORS or layer.kind == "embedding" or layer.role is Role.EMBEDDING:
            own = own_law(m, fault.units) if fault.units is not None else ""
            if own:
                return Chosen(own, "as the units of it that stay")
            told = policy.weight(m) if not (fault.chain or fault.ends) else None
            return Chosen(*told) if told is not None else self.auto.weight(fault, style)
        told = policy.constant(m)
        if told is not None and not (m.identified is not None and m.identified.scheme == told[0]):
            return Chosen(*told)
        if layer.kind == "norm" or layer.role is Role.NORM:
            return self.auto.vector(m, fault.tensor.name, bias=False)
        told = policy.weight(m)
        return Chosen(*told) if told is not None else None

    def _carried(self) -> Iterator[Recipe]:
        """Yield recipes for the biases of gates that mix what a layer makes with what goes past it.

        Source: Srivastava, Greff and Schmidhuber 2015, section 2.2: a negative bias, so that a layer first carries.
        """
        mixing = any("value of a GLU" in m.layer.tags and m.layer.role is Role.BRANCH_END for m in self.measured)
        for m in self.measured if mixing else ():
            bias = m.layer.bias
            gate = "gate of a GLU" in m.layer.tags and m.layer.activation == "sigmoid"
            if gate and bias is not None and not self._derived(bias):
                yield Recipe(m, bias, "constant:value=-2", "INI501", about="gate that carries: nearly shut at first")

    def _explicit(self, recipe: Recipe) -> Recipe:
        """Return a recipe with the scheme that the user wants, where it is one of a weight."""
        layer = recipe.measured.layer
        anything = bool(self.only) and not self.scaled and not schemes.parse(self.scheme)[0].fans
        tables = layer.kind == "embedding" and self.scaled
        if recipe.tensor.name != layer.weight.name or not (layer.kind in OPERATORS or tables or anything):
            return recipe
        return replace(recipe, scheme=self.scheme, by_part={}, about="as asked for")


def _merged(old: Fault, new: Fault) -> Fault:
    """Return one fault for two findings on a tensor: the first says why, the larger says which units."""
    units = None if old.units is None or new.units is None else tuple(sorted({*old.units, *new.units}))
    return replace(old, units=units, ends=old.ends or new.ends, chain=old.chain or new.chain)
