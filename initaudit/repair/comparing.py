"""What the second audit says against the first: whether a repair made anything worse, and what is still at fault.

Worse is a graver finding, never a moved figure:

- a layer (or the model as a whole) that has a warning or an error and had none, or a less grave one;
- a layer that the repair did not touch and that has one more fault, as grave as those it had;
- a risk that has risen by more than noise into a graver class, or where it was not known (there was NaN), a symptom at
  a layer that was healthy before it was drawn again. Symptoms of the whole graph (INI5xx) count only through
  it: they move from layer to layer, and one that a dead or broken layer hid shows once that layer works.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import replace

from initaudit.cures import CURED, Cure
from initaudit.repair.faults import Faults
from initaudit.repair.findings import exact
from initaudit.risk import model as fitted
from initaudit.symptoms import CODES
from initaudit.types import Finding, Report, Risk, Severity

NOISE = 0.05  # of the risk: what two draws by one scheme differ by
_SYMPTOMS = frozenset(CODES.values())
_Faults = dict[str | None, dict[str, Severity]]  # layer -> rule -> how grave; None: the model as a whole


def aligned(after: Report, before: Report) -> Report:
    """Return the second audit with its layers called as in the first, where another file gave them their names.

    Layers meet by the name of their weight; of several with one weight (directions, gates) by their order.
    """
    known, found = _by_weight(before), _by_weight(after)
    new = {
        name: old
        for weight, names in found.items()
        if len(known.get(weight, ())) == len(names)
        for name, old in zip(names, known[weight], strict=True)
    }
    new = {m.layer.name: new.get(m.layer.name, m.layer.name) for m in after.measured}
    if all(old == name for old, name in new.items()):
        return after
    measured = tuple(
        replace(
            m, layer=replace(m.layer, name=new[m.layer.name], tied=new.get(m.layer.tied, m.layer.tied))
        )
        for m in after.measured
    )  # fmt: skip
    findings = tuple(
        replace(
            f,
            layer=new.get(f.layer, f.layer) if f.layer is not None else None,
            also=tuple(new.get(name, name) for name in f.also),
        )
        for f in after.findings
    )
    return replace(after, measured=measured, findings=findings)


def _by_weight(report: Report) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for m in report.measured:
        found[m.layer.weight.name].append(m.layer.name)
    return found


def worse(before: Report, after: Report, touched: Collection[str]) -> tuple[str, ...]:
    """Return what got worse, a line each; nothing where the repair may be kept.

    Args:
        before: the first audit.
        after: the second, by the same judge, its layers called as in the first.
        touched: names of the layers that were drawn again.
    """
    lines = list(_graver(before, after, frozenset(touched)))
    if after.crashed and not before.crashed:
        lines.append("a rule failed on the result")
    lines.extend(_riskier(before, after))
    lines.extend(_unhidden(before, after, frozenset(touched)))
    return tuple(lines)


def at_fault(after: Report, touched: Collection[str]) -> tuple[str, ...]:
    """Return the names of layers that were drawn again and have a warning or an error, or are not judged any more."""
    names = frozenset(touched)
    judged = {m.layer.name for m in after.measured}
    left = [f for f in faults(after) if not _apart(after, f)]
    faulty = {name for f in left for name in (f.layer, *f.also)}
    ordered = [m.layer.name for m in after.measured if m.layer.name in names and m.layer.name in faulty]
    return (*dict.fromkeys(ordered), *sorted(names - judged))


def _apart(report: Report, finding: Finding) -> bool:
    """Whether a finding is about copies that are left, because training parts them."""
    told = Faults(report.measured, report.findings, freedom=report.freedom)
    return CURED.get(finding.rule) is Cure.UNITS and not told.of(finding)


def faults(report: Report) -> Iterator[Finding]:
    """Yield what makes a report less than healthy."""
    yield from (f for f in report.findings if f.severity >= Severity.WARNING)


def _graver(before: Report, after: Report, touched: frozenset[str]) -> Iterator[str]:
    old = _by_layer(before)
    lasting = _lasting(before)
    known_groups = {_group(f) for f in faults(before)} - {None}  # who is in it is the fault, not how much they share
    for name, rules in _by_layer(after, known_groups).items():
        known = old.get(name, {})
        most = max(known.values(), default=Severity.INFO)
        for rule, severity in rules.items():
            if known.get(rule, Severity.INFO) >= severity or (rule, name) in lasting:
                continue
            left = all(rules.get(one, Severity.INFO) >= s for one, s in known.items())
            if severity > most or (severity == most and name not in touched and left):
                had = f", {most.label} before" if known else ""
                told = next(f for f in after.findings if f.rule == rule and f.severity == severity and _on(f, name))
                where = f"{name}: " if name is not None else ""
                yield f"{where}{severity.label} {rule} {told.name}{had}: {told.message}"


def _lasting(report: Report) -> set[tuple[str, str]]:
    """Return (rule, layer) of ties and dead parameters, whatever they were told as: another finding may say it."""
    ties = {rule for rule, cure in CURED.items() if cure is Cure.TIES}
    zeros = {rule for rule, cure in CURED.items() if cure is Cure.FACTOR}
    dead = {p.name for p in report.freedom.parameters if p.dead} if report.freedom is not None else set()
    found: set[tuple[str, str]] = set()
    for m in report.measured:
        if m.freedom is not None and (m.freedom.classes or m.freedom.nearly or m.freedom.twins):
            found |= {(rule, m.layer.name) for rule in ties}
        if any(tensor.name in dead for tensor, _ in m.tensors):
            found |= {(rule, m.layer.name) for rule in zeros}
    return found


def _group(f: Finding) -> tuple[str, ...] | None:
    """Return the rule and the members of a group that a finding is about: parts that start as copies."""
    members = f.evidence.get("members") if CURED.get(f.rule) is Cure.CLONES else None
    return (f.rule, *map(str, members)) if members else None


def _by_layer(report: Report, without: Collection[tuple[str, ...] | None] = ()) -> _Faults:
    """Return the faults of each layer, without the symptoms of the whole graph and without some groups."""
    found: _Faults = defaultdict(dict)
    for f in faults(report):
        if (f.rule in _SYMPTOMS and not exact(f)) or _group(f) in without:
            continue
        for name in dict.fromkeys((f.layer, *f.also)):
            found[name][f.rule] = max(f.severity, found[name].get(f.rule, f.severity))
    return found


def _on(finding: Finding, name: str | None) -> bool:
    return name == finding.layer or name in finding.also


def _riskier(before: Report, after: Report) -> Iterator[str]:
    old, new = before.risk, after.risk
    if old is None or new is None or before.folded or after.folded or old.by != new.by:
        return
    if new.value <= old.value + NOISE or fitted.severity(new.value) <= fitted.severity(old.value):
        return
    first = next(iter(new.symptoms), None)
    if first is not None and first.capped:  # not known well enough to be held against it
        return
    why = f", {first.kind}" if first is not None else ""
    yield f"risk {_two(new)} by {new.by}, {_two(old)} before{why}"


def _unhidden(before: Report, after: Report, touched: frozenset[str]) -> Iterator[str]:
    """Yield symptoms that nobody could see before, at layers that were drawn again without being at fault.

    Where there is no risk before, as with NaN in some weight, a symptom may have been there or may have been made. What
    it is about tells: who draws healthy layers again answers for them.
    """
    if before.risk is not None or after.risk is None:
        return
    ill = {name for f in faults(before) for name in (f.layer, *f.also)}
    for f in faults(after):
        made = [name for name in dict.fromkeys((f.layer, *f.also)) if name in touched and name not in ill]
        if f.rule in _SYMPTOMS and made:
            yield f"{made[0]}: {f.severity.label} {f.rule} {f.name}: {f.message}"


def _two(risk: Risk) -> str:
    return f"{risk.value:.2f}"
