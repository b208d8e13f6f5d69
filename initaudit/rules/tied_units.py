"""INI512."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from initaudit.freedom import Cause, LayerFreedom
from initaudit.grounds import (
    ACCIDENT,
    accidents,
    acting,
    born,
    certainty,
    excuse,
    narrow,
    operator,
    parted,
    plain,
    solid,
    uniformity,
    wakes,
)
from initaudit.naming import places
from initaudit.registry import CAP, rule
from initaudit.symptoms import cases, share
from initaudit.types import Audit, Finding, Measured, Role, Severity

_FINDINGS = 8  # of one layer
_KEPT = 64  # units that the evidence names
Sets = tuple[tuple[int, ...], ...]


@rule("INI512", Severity.ERROR)
def tied_units(audit: Audit) -> Iterator[Finding]:
    """Units of a net are copies of each other and stay so: however wide it is, it learns as if it were narrow.

    ## Why it matters
    Units that receive the same and send back the same never part: they get the same gradient at every step. A layer
    whose units fall into k sets acts as one of width k.

    ## How it is measured
    On the graph, without training: units are tied where all that flows into them and all that flows back is equal for
    every input, the sums of weights over tied units at either side included. What is told stays tied under gradient
    descent, momentum and Adam, for every loss. Ties are told at the layer where they start. They are an error where
    half the units of a layer or more are lost, or the risk that was fitted on nets that were really trained says so;
    else a warning; one level less where dropout acts on them and parts them in practice. Units that are equal but for
    the rounding of the type are a warning at most; such as are equal but for sign or scale, info, and a warning where
    they cost more than half the width. In a trained model all is info. What INI103, INI104, INI201, INI202 or INI205
    tell of the layer is info here.

    Where units only start as copies, in most of the dense layers, the risk tells it as what it costs at first.

    ## When to ignore it
    Weights that are meant as fixed averages. Nets whose dropout or data augmentation differs between units: noise parts
    copies, slowly.

    ## Seen in the wild
    InternLM/InternLM#405, srenevey/neuro#4.

    ## Source
    Goodfellow, Bengio and Courville 2016, Deep Learning, section 8.4: symmetry between units must be broken.
    """
    told = list(_exact(audit))
    yield from told
    known = {name for one in told if one.evidence["kind"] == "tied" for name in (one.layer, *one.also)}
    for case in cases(tied_units, audit):
        left = tuple(m for m in case.run if m.layer.name not in known)
        if known and not left:
            continue
        rest = replace(case, run=left)
        first = bool(left) and all(m.freedom is not None and m.freedom.width == m.freedom.units for m in left)
        yield rest.finding(
            f"units {'start as copies of each other' if first else 'are tied'}: copies cost"
            f" {share(min(case.symptom.value, 1.0))} of the width of {rest.worst}, as a logarithm",
            "draw the weights of these layers at random, each unit by itself",
            share=case.symptom.value,
        )


@dataclass(slots=True)
class _Tie:
    """Sets of units alike, where they start."""

    where: Measured
    sets: Sets
    parts: int  # in how many parts of the layer the same units are tied
    kind: str  # "tied", "nearly", "twins"
    also: list[str] = field(default_factory=list)


def _exact(audit: Audit) -> Iterator[Finding]:
    for kind in ("tied", "nearly", "twins"):
        of_layer: dict[str, list[_Tie]] = {}
        for tie in _ties(audit, kind):
            of_layer.setdefault(tie.where.layer.name, []).append(tie)
        for ties in of_layer.values():
            for tie in ties if len(ties) <= _FINDINGS else ties[: _FINDINGS - 1]:
                yield _finding(audit, tie)
            if len(ties) > _FINDINGS:
                yield _finding(audit, _together(ties[_FINDINGS - 1 :]), "more ")


def _together(ties: list[_Tie]) -> _Tie:
    also = list(dict.fromkeys(name for tie in ties for name in tie.also))
    return _Tie(ties[0].where, tuple(one for tie in ties for one in tie.sets), 1, ties[0].kind, also)


def _ties(audit: Audit, kind: str) -> Iterator[_Tie]:
    """Yield the ties of each chain of layers, at the first of them that has them."""
    seen: dict[tuple[str, object], _Tie] = {}
    for m in audit.measured:
        own = m.freedom
        if own is None or (kind == "tied" and own.width == own.units):
            continue
        start = own.start or m.layer.name
        found = _sets(own, kind)
        if not found and kind != "tied":
            continue
        for sets, parts in _folded(own, found, len(m.layer.parts)):
            key = (start, "all" if len(sets) == 1 and len(sets[0]) * parts == own.units else sets)
            first = seen.get(key)
            if first is not None:
                first.also.append(m.layer.name)
            elif not m.layer.tied and not m.layer.weight.buffer:
                seen[key] = _Tie(m, sets, parts, kind)
    yield from seen.values()


def _sets(own: LayerFreedom, kind: str) -> Sets:
    if kind == "tied":
        return own.classes
    exact = [set(one) for one in own.classes]
    told = own.nearly if kind == "nearly" else own.twins
    return tuple(one for one in told if not any(known.issuperset(one) for known in exact))


def _folded(own: LayerFreedom, sets: Sets, parts: int) -> Iterator[tuple[Sets, int]]:
    """Yield sets with those that belong together: of each part of a layer, and of whole heads, unit by unit."""
    if not sets and own.width < own.units:
        yield (), 1  # which units they are is not known
    size = own.units // max(1, parts)
    every = set(sets)
    same = [one for one in sets if one[-1] < size and all(_moved(one, k * size) in every for k in range(parts))]
    if parts > 1 and own.units == parts * size and len(same) * parts == len(sets):
        yield from ((run, parts) for run in _runs(same))
    else:
        yield from ((run, 1) for run in _runs(sets))


def _moved(units: tuple[int, ...], by: int) -> tuple[int, ...]:
    return tuple(unit + by for unit in units)


def _runs(sets: Sets | list[tuple[int, ...]]) -> Iterator[Sets]:
    """Yield sets that follow each other place by place, as those of two tied heads do, together."""
    left = dict.fromkeys(sorted(sets))
    while left:
        run = [next(iter(left))]
        while (after := _moved(run[-1], 1)) in left and after[0] not in run[0]:
            run.append(after)
        for one in run:
            del left[one]
        yield tuple(run)


def _finding(audit: Audit, tie: _Tie, more: str = "") -> Finding:
    m, own = tie.where, tie.where.freedom
    assert own is not None
    lost = math.log(own.units / own.width) / math.log(own.units)
    members = [list(one) for one in tie.sets]
    severity, doubt, code = _severity(audit, tie, own)
    return tied_units.at(
        m,
        f"{_who(tie, own, more)}{_what(tie, own)}{_where(tie)}{doubt}",
        severity=severity,
        needs=audit.model.graph_evidence,
        remedy="draw all but one of the units that are tied again, each by itself",
        also=tuple(tie.also),
        kind=tie.kind,
        members=_capped(members),
        count=sum(len(one) for one in members) * tie.parts,
        sets=len(members) * tie.parts,
        units=own.units,
        width=own.width,
        start=own.start or m.layer.name,
        share=lost,
        breaks=list(own.breaks),
        explained=code,
    )


def _who(tie: _Tie, own: LayerFreedom, more: str) -> str:
    each = f" in each of its {tie.parts} parts" if tie.parts > 1 else ""
    if not tie.sets:
        return "units"
    if more:
        return f"{sum(map(len, tie.sets))} {more}units in {len(tie.sets)} sets"
    if len(tie.sets) == 1:
        units = tie.sets[0]
        if len(units) * tie.parts == own.units:
            return f"all {own.units} units" if tie.parts == 1 else f"all units{each}"
        return f"units {places(units)}{each}"
    if all(one == _moved(tie.sets[0], k) for k, one in enumerate(tie.sets)):
        spans = [f"{unit}-{unit + len(tie.sets) - 1}" for unit in tie.sets[0]]
        return f"units {' and '.join(spans[:4])}{' and so on' if len(spans) > 4 else ''}{each}, one by one,"
    return f"{sum(map(len, tie.sets))} units in {len(tie.sets)} sets"


def _what(tie: _Tie, own: LayerFreedom) -> str:
    if tie.kind == "nearly":
        return f" are nearly tied: they are equal but for the rounding of {tie.where.layer.weight.dtype}"
    if tie.kind == "twins":
        return " are twins: they differ in sign or scale only, and stay so"
    return (
        " are tied: they receive and send back the same for ever; this layer acts as one of width"
        f" {own.width} (of {own.units})"
    )


def _where(tie: _Tie) -> str:
    left = len(tie.also) - 3
    return f"; the same in {', '.join(tie.also[:3])}{f' and {left} more' if left > 0 else ''}" if tie.also else ""


def _severity(audit: Audit, tie: _Tie, own: LayerFreedom) -> tuple[Severity, str, str | None]:
    """Return how grave ties are, what to say of that, and the code of the rule that tells them already, if one does."""
    if not born(audit):
        return Severity.INFO, "", None
    if tie.where.layer.role is Role.CLOSED_FORM:
        return Severity.INFO, " [a closed form, not drawn at random]", None
    if tie.kind == "twins":
        return Severity.WARNING if 2 * own.twin_width < own.units else Severity.INFO, "", None
    if tie.kind == "nearly":
        return Severity.WARNING, "", None
    names = {tie.where.layer.name, *tie.also}
    symptoms = audit.risk.symptoms if audit.risk is not None else ()
    told = [s.severity for s in symptoms if s.kind == tied_units.name and names.intersection(s.layers)]
    grave = Severity.ERROR if 2 * own.width <= own.units else max((Severity.WARNING, *told))
    grave = Severity(grave - 1) if own.breaks else grave
    doubt = f"; {acting(own.breaks)} on them, which parts them in practice" if own.breaks else ""
    code, gravity = _explained(tie, audit)
    if code and gravity >= grave:
        return Severity.INFO, f"{doubt} [explained by {tie.where.layer.name}: see {code}]", code
    return grave, doubt, None


def _explained(tie: _Tie, audit: Audit) -> tuple[str, int]:
    """Return the code of the rule that tells the same of the layer by its values, and how grave it is by that."""
    m = tie.where
    if operator(m) and not excuse(m, audit):
        if m.stats.zeros == m.stats.count and plain(m):
            lasting = narrow(m) or not wakes(m, audit)
            return "INI103", min(Severity.ERROR if lasting else Severity.WARNING, CAP[certainty(m)])
        copies = min(Severity.WARNING if parted(m, audit) else Severity.ERROR, CAP[uniformity(m, audit)])
        if m.stats.constant:
            return "INI104", copies
        if tie.sets and len(m.stats.rows.hash) == m.layer.units:
            units = [list(one) for one in tie.sets]
            if all((m.stats.rows.nonzero[one] == 0).all() for one in units):
                return "INI202", min(Severity.WARNING, CAP[certainty(m)])
            alike = all(np.unique(m.stats.rows.hash[one]).size == 1 and solid(m)[one].all() for one in units)
            if alike and accidents(m) <= ACCIDENT:
                return "INI201", copies
    still = m.movement
    if still is not None and still.cause is Cause.ZEROS and still.dead == m.stats.count:
        return "INI205", CAP[audit.model.graph_evidence]
    return "", 0


def _capped(members: list[list[int]]) -> list[list[int]]:
    out, left = [], _KEPT
    for one in members:
        if left <= 0:
            break
        out.append(one[:left])
        left -= len(one)
    return out
