"""INI205."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from initaudit.freedom import Cause, ParameterFreedom
from initaudit.grounds import born, called, certainty, excuse, operator, wakes
from initaudit.naming import folded
from initaudit.registry import rule
from initaudit.types import Audit, Evidence, Finding, Measured, Role, Severity

_MOST = 0.5  # share of a parameter from which its death is that of the whole
_FEW = 4  # tensors, from which those alike are told as one
_NAMED = 16  # tensors that the evidence names
_OFF = "their units are off, whatever the input"
_DESIGN = "the graph gives them nothing to learn from, whatever the weights are"
_TIED = "what they pass on is tied, and a later operation takes away all that is the same, see INI512"
_LIFT = "start the bias at zero or a little above, and draw the weight again"


@rule("INI205", Severity.ERROR)
def never_moves(audit: Audit) -> Iterator[Finding]:
    """Parameters that never get a gradient, however long the net is trained.

    ## Why it matters
    Two zero factors in one branch get no gradient from each other: both stay zero, and so does all between them. Units
    that no input can switch on never learn either. What is left is a smaller net than was meant.

    ## How it is measured
    On the graph, without training: step by step, which values and which gradients can be other than zero for any input;
    what has moved may be anything from then on. What has not moved when nothing more wakes is dead for ever. Parameters
    kept at zero by zeros are an error, a warning where they are less than half of each tensor; one finding for each
    set of zeros that block each other. Units that bounds prove to be off are a warning where they are more than half of
    a layer. What would not move whatever the weights were is info, as is all of it in a trained model, and what INI103
    or INI508 tell of the layer. A single zero factor is alive at the second step, and nothing is said of it here.

    ## When to ignore it
    Branches that are switched on by hand later.

    ## Seen in the wild
    circle-hit/SAPT#11, Guitaricet/relora#18 (LoRA with both factors zero), yz93/LAVT-RIS#25 (two zero layers in a row),
    google-research/timesfm#481 (a norm whose scale is zero in the trunk).

    ## Source
    Zeros as an abstract value; sufficient, not necessary: what is told dead gets no gradient in exact arithmetic.
    """
    if audit.freedom is None:
        return
    rows = {tensor.name: m for m in audit.measured for tensor, _ in m.tensors}
    dead = [p for p in audit.freedom.parameters if p.dead and p.name in rows]
    for own in _together([p for p in dead if p.cause is Cause.ZEROS]):
        yield _blocked(audit, rows, own)
    off = [p for p in dead if p.cause is Cause.OFF]
    symptoms = audit.risk.symptoms if audit.risk is not None else ()
    dull = {name for s in symptoms if s.kind == "dead-units" for name in s.layers}
    told = not dull.isdisjoint(rows[p.name].layer.name for p in off)
    grave = [] if told else [p for p in off if p.dead > _MOST * p.size]
    beside = [p for p in off if p not in grave]
    design = [p for p in dead if p.cause is Cause.DESIGN]
    tied = [p for p in dead if p.cause not in (Cause.ZEROS, Cause.OFF, Cause.DESIGN)]
    for some, why in ((grave, _OFF), (beside, _OFF), (design, _DESIGN), (tied, _TIED)):
        if some:
            severity = Severity.WARNING if some is grave and born(audit) else Severity.INFO
            see = ", see INI508" if told and why is _OFF else ""
            yield _told(audit, rows, some, why + see, severity)


def _together(dead: Sequence[ParameterFreedom]) -> list[list[ParameterFreedom]]:
    """Return parameters that the same zeros block, or zeros that share some."""
    groups: list[tuple[set[str], list[ParameterFreedom]]] = []
    for p in dead:
        names = {*p.blocked_by} or {p.name}
        joined = [group for group in groups if not names.isdisjoint(group[0])]
        groups = [group for group in groups if names.isdisjoint(group[0])]
        groups.append((names.union(*(g[0] for g in joined)), [*(one for g in joined for one in g[1]), p]))
    return [own for _, own in groups]


def _blocked(audit: Audit, rows: dict[str, Measured], own: Sequence[ParameterFreedom]) -> Finding:
    """Return the finding on what zeros keep at zero: those that block most of it are named."""
    (common, _), *_ = Counter(frozenset(p.blocked_by) for p in own).most_common(1)
    names = tuple(name for name in rows if name in common)
    where = next(rows[name] for name in (*names, own[0].name) if name in rows)
    zeros = [name for name in names if name in rows]
    beside = [p.name for p in own if p.name not in zeros]
    whole = any(2 * p.dead > p.size for p in own)
    shown, others = ([called(rows[name], name) for name in some] for some in (zeros, beside))
    message = _between(shown, others, whole=whole)
    why = next((told for name in (*names, *(p.name for p in own)) if (told := _explained(audit, rows, name))), "")
    code = "INI103" if why else None
    severity = Severity.INFO if why or not born(audit) else Severity.ERROR if whole else Severity.WARNING
    bare = [rows[p.name].layer.name for p in own if _bare(audit, rows[p.name])]
    if severity is Severity.ERROR and bare:
        severity, why = Severity.WARNING, f", unless the exporter left out a zero bias of {_list(bare)}"
    return never_moves.at(
        where,
        message + why,
        severity=severity,
        needs=audit.model.graph_evidence,
        tensor=(zeros or beside)[0],
        remedy=f"draw {'one of them' if len(zeros) > 1 else 'what is zero'} again, and leave the rest as it is",
        also=_also(rows, where, zeros),
        cause=str(Cause.ZEROS),
        explained=code,
        blocked_by=zeros[:_NAMED],
        tensors=[p.name for p in own][:_NAMED],
        count=sum(p.dead for p in own),
        of=sum(p.size for p in own),
    )


def _bare(audit: Audit, m: Measured) -> bool:
    """Whether a bias may be missing that would move: torch's newer ONNX exporter leaves out those that are zero."""
    usual = operator(m) and m.layer.role is not Role.ADAPTER and not m.layer.normed
    return audit.model.graph_source == "onnx" and usual and m.layer.bias is None


def _between(zeros: Sequence[str], beside: Sequence[str], *, whole: bool) -> str:
    if not zeros:
        return f"{_list(beside)} never {'gets' if len(beside) == 1 else 'get'} a gradient: zeros stand before and after"
    if not whole:
        message = f"zeros in {_list(zeros)} meet each other: parts of these never get a gradient"
    elif len(zeros) == 1:
        message = f"{zeros[0]} is zero and never gets a gradient"
    else:
        both = len(zeros) == 2
        message = (
            f"{_list(zeros)} are {'both' if both else 'all'} zero: {'neither' if both else 'none'} ever gets a gradient"
        )
    return f"{message}, nor {'does' if len(beside) == 1 else 'do'} {_list(beside)}" if beside else message


def _explained(audit: Audit, rows: dict[str, Measured], name: str) -> str:
    """Return why nothing more need be said of a tensor: INI103 tells a zero trunk weight that never wakes."""
    m = rows.get(name)
    if m is None or m.layer.weight.name != name or m.stats.zeros != m.stats.count or not operator(m):
        return ""
    told = not excuse(m, audit) and certainty(m) is Evidence.TRACED and not wakes(m, audit)
    return f" [explained by {m.layer.name}: zero throughout, see INI103]" if told else ""


def _told(
    audit: Audit, rows: dict[str, Measured], own: Sequence[ParameterFreedom], why: str, severity: Severity
) -> Finding:
    """Return one finding on what no zeros block."""
    where, count = rows[own[0].name], sum(p.dead for p in own)
    names = [called(rows[p.name], p.name) for p in own]
    shown = names if len(names) < _FEW else folded(names)
    return never_moves.at(
        where,
        f"{count:,} of {sum(p.size for p in own):,} values of {_list(shown)} never get a gradient: {why}",
        severity=severity,
        needs=audit.model.graph_evidence,
        tensor=own[0].name,
        remedy=_LIFT if severity > Severity.INFO else "none, if this is meant",
        also=_also(rows, where, [p.name for p in own]),
        cause=str(own[0].cause),
        tensors=[p.name for p in own][:_NAMED],
        count=count,
        of=sum(p.size for p in own),
    )


def _also(rows: dict[str, Measured], where: Measured, names: Sequence[str]) -> tuple[str, ...]:
    layers = dict.fromkeys(rows[name].layer.name for name in names if name in rows)
    return tuple(name for name in layers if name != where.layer.name)


def _list(names: Sequence[str]) -> str:
    if len(names) > 4:
        return f"{', '.join(names[:3])} and {len(names) - 3:,} more"
    return " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
