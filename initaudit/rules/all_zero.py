"""INI103."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from initaudit.grounds import certainty, describe, excuse, operator, redraw
from initaudit.registry import rule
from initaudit.types import Audit, Finding, Measured, Role, Severity

_FACTOR = re.compile(r"(lora|ia3|adapter)[._]?(embedding_)?(A|B|down|up)\b", re.IGNORECASE)


@rule("INI103", Severity.ERROR)
def all_zero(audit: Audit) -> Iterator[Finding]:
    """A weight that is zero throughout.

    ## Why it matters
    Nothing passes a zero trunk weight in either direction: what comes after sees the bias only, what comes before gets
    no gradient, and all its units are the same.

    ## How it is measured
    Every value is exactly zero. It is an error in a weight that is known to be plain trunk, and in both factors of one
    adapter; elsewhere the report says what the weight is and why zero may be meant.

    ## When to ignore it
    Zero is deliberate for the last weight of a residual branch, LoRA B, ControlNet's zero convolutions, adaLN-Zero,
    ReZero gates, classifier heads and offset convolutions: each is the only zero factor on its path.

    ## Seen in the wild
    wagonhelm/NaNmnist#2, facebookresearch/fairseq#4076, circle-hit/SAPT#11 (both factors). Deliberate:
    pytorch/vision#5804, microsoft/LoRA#42.

    ## Source
    Certain from the values; the role from the graph, the module tree or the names.
    """
    zero = [m for m in audit.measured if m.stats.count and m.stats.zeros == m.stats.count and not m.layer.tied]
    pairs = Counter(_pair(m) for m in zero if m.layer.role is Role.ADAPTER)
    for m in zero:
        if not operator(m) and m.layer.role is not Role.NORM:
            continue
        why = excuse(m, audit)
        if m.layer.role is Role.ADAPTER and pairs[_pair(m)] > 1:
            yield all_zero.at(
                m,
                "both factors of this adapter are zero: neither ever gets a gradient",
                needs=m.layer.role_evidence,
                count=m.stats.count,
                role=str(m.layer.role),
                remedy=f"draw one factor again, as peft does: {redraw(m)}",
            )
            continue
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


def _pair(m: Measured) -> str:
    """Name the adapter that a factor belongs to: lora_A.default and lora_B.default make one."""
    return _FACTOR.sub(r"\1*", m.layer.name)
