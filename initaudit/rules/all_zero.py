"""INI103."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.grounds import certainty, describe, excuse, operator, redraw
from initaudit.registry import rule
from initaudit.types import Audit, Finding, Severity


@rule("INI103", Severity.ERROR)
def all_zero(audit: Audit) -> Iterator[Finding]:
    """A weight that is zero throughout.

    ## Why it matters
    Nothing passes a zero trunk weight in either direction: what comes after sees the bias only, what comes before gets
    no gradient, and all its units are the same.

    ## How it is measured
    Every value is exactly zero. It is an error in a weight that is known to be plain trunk; elsewhere the report says
    what the weight is and why zero may be meant.

    ## When to ignore it
    Zero is deliberate for the last weight of a residual branch, LoRA B, ControlNet's zero convolutions, adaLN-Zero,
    ReZero gates, classifier heads and offset convolutions: each is the only zero factor on its path.

    ## Seen in the wild
    wagonhelm/NaNmnist#2, facebookresearch/fairseq#4076. Deliberate: pytorch/vision#5804, microsoft/LoRA#42.

    ## Source
    Certain from the values; the role from the graph, the module tree or the names. FAULTS F08.
    """
    for m in audit.measured:
        if not operator(m) or m.stats.zeros < m.stats.count:
            continue
        why = excuse(m, audit)
        if not why:
            yield all_zero.at(
                m,
                f"all {m.stats.count:,} values of {describe(m)} are zero: no signal goes up and no gradient goes down",
                needs=certainty(m),
                count=m.stats.count,
                role=str(m.layer.role),
                remedy=redraw(m),
            )
        else:
            yield all_zero.at(
                m,
                f"all {m.stats.count:,} values are zero ({m.layer.role}): {why}",
                severity=Severity.INFO,
                count=m.stats.count,
                role=str(m.layer.role),
                remedy="none, if this is meant",
            )
