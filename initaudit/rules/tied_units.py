"""INI512."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from initaudit.freedom import LayerFreedom
from initaudit.grounds import acting, born
from initaudit.naming import places
from initaudit.registry import rule
from initaudit.symptoms import cases, share
from initaudit.ties import Tie, moved, ties, together
from initaudit.types import Audit, Finding, Role, Severity

_FINDINGS = 8  # of one layer
_KEPT = 64  # units that the evidence names


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
    they cost more than half the width: those of a scale stay so under gradient descent only. In a trained model all is
    info, and so is what INI103, INI104, INI201, INI202 or INI205 tell of the layer.

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


def _exact(audit: Audit) -> Iterator[Finding]:
    for kind in ("tied", "nearly", "twins"):
        of_layer: dict[str, list[Tie]] = {}
        for tie in ties(audit, kind):
            of_layer.setdefault(tie.where.layer.name, []).append(tie)
        for own in of_layer.values():
            for tie in own if len(own) <= _FINDINGS else own[: _FINDINGS - 1]:
                yield _finding(audit, tie)
            if len(own) > _FINDINGS:
                yield _finding(audit, together(own[_FINDINGS - 1 :]), "more ")


def _finding(audit: Audit, tie: Tie, more: str = "") -> Finding:
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


def _who(tie: Tie, own: LayerFreedom, more: str) -> str:
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
    if all(one == moved(tie.sets[0], k) for k, one in enumerate(tie.sets)):
        spans = [f"{unit}-{unit + len(tie.sets) - 1}" for unit in tie.sets[0]]
        return f"units {' and '.join(spans[:4])}{' and so on' if len(spans) > 4 else ''}{each}, one by one,"
    return f"{sum(map(len, tie.sets))} units in {len(tie.sets)} sets"


def _what(tie: Tie, own: LayerFreedom) -> str:
    if tie.kind == "nearly":
        return f" are nearly tied: they are equal but for the rounding of {tie.where.layer.weight.dtype}"
    if tie.kind == "twins":
        return (
            " are twins: they differ in sign or scale only; under gradient descent they stay so, those of a sign always"
        )
    return (
        " are tied: they receive and send back the same for ever; this layer acts as one of width"
        f" {own.width} (of {own.units})"
    )


def _where(tie: Tie) -> str:
    names, left = list(tie.also)[:3], len(tie.also) - 3
    return f"; the same in {', '.join(names)}{f' and {left} more' if left > 0 else ''}" if names else ""


def _severity(audit: Audit, tie: Tie, own: LayerFreedom) -> tuple[Severity, str, str | None]:
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
    code, gravity = tie.told
    if code and gravity >= grave:
        return Severity.INFO, f"{doubt} [explained by {tie.where.layer.name}: see {code}]", code
    return grave, doubt, None


def _capped(members: list[list[int]]) -> list[list[int]]:
    out, left = [], _KEPT
    for one in members:
        if left <= 0:
            break
        out.append(one[:left])
        left -= len(one)
    return out
