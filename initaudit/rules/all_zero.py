"""INI103."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

from initaudit.grounds import (
    blocked,
    born,
    certainty,
    describe,
    excuse,
    narrow,
    operator,
    redraw,
    wakes,
)
from initaudit.registry import rule
from initaudit.types import Audit, Finding, Measured, Role, Severity

_FACTOR = re.compile(r"(lora|ia3|adapter)[._]?(embedding_)?(A|B|down|up)\b", re.IGNORECASE)

_LATER = " past it, until it wakes, at step {}"
_OUTLOOK = {
    None: "",
    True: " past it, until the gradient that it gets itself has moved it",
    False: ", and it gets none itself: it stays zero",
}


@rule("INI103", Severity.ERROR)
def all_zero(audit: Audit) -> Iterator[Finding]:
    """A weight that is zero throughout.

    ## Why it matters
    Nothing passes a zero trunk weight in either direction: what comes after sees the bias only, what comes before gets
    no gradient, and all its units are the same. Whether that lasts depends on what follows: a ReLU at zero has no
    slope, so that the weight itself gets no gradient either and stays zero for ever; before a tanh it moves at the
    first step, and what sleeps behind it wakes.

    ## How it is measured
    Every value is exactly zero. In a weight that is known to be plain trunk it is an error, unless the weight itself
    gets a gradient that differs between its units, at once or once what it sleeps behind has moved: then it is a
    warning. The graph tells the step at which it first moves; where there is none, the probe or theory say whether it
    does. It is an error in both factors of one adapter, by their names where there is no graph (see INI205); elsewhere
    the report says what the weight is and why zero may be meant.

    ## When to ignore it
    Zero is deliberate for the last weight of a residual branch, LoRA B, ControlNet's zero convolutions, adaLN-Zero,
    ReZero gates, classifier heads and offset convolutions: each is the only zero factor on its path.

    ## Seen in the wild
    wagonhelm/NaNmnist#2, facebookresearch/fairseq#4076, circle-hit/SAPT#11 (both factors). Deliberate:
    pytorch/vision#5804, microsoft/LoRA#42.

    ## Source
    Certain from the values; the role from the graph, the module tree or the names. A zero matrix in a linear net moves
    as long as what comes after it is not zero (Saxe, McClelland and Ganguli 2014, section 1).
    """
    zero = [m for m in audit.measured if m.stats.count and m.stats.zeros == m.stats.count and not m.layer.tied]
    pairs = Counter(_pair(m) for m in zero if m.layer.role is Role.ADAPTER)
    for m in zero:
        if not operator(m) and m.layer.role is not Role.NORM:
            continue
        why, woken = excuse(m, audit), wakes(m, audit)
        facts: dict[str, Any] = {
            "count": m.stats.count,
            "role": str(m.layer.role),
            "wakes": woken,
            "wakes_at_step": _step(m),
        }
        if m.layer.role is Role.ADAPTER and pairs[_pair(m)] > 1 and not blocked(m):
            yield all_zero.at(
                m,
                "both factors of this adapter are zero: neither ever gets a gradient",
                needs=m.layer.role_evidence,
                **facts,
                remedy=f"draw one factor again, as peft does: {redraw(m)}",
            )
        elif not why:
            alike = bool(woken) and narrow(m)
            yield all_zero.at(
                m,
                f"all {m.stats.count:,} values of {describe(m)} are zero: no signal goes up and no gradient goes down"
                + (_LATER.format(_step(m)) if woken and _step(m) else _OUTLOOK[woken])
                + ("; all its units get the same gradient and stay one" if alike else ""),
                severity=Severity.WARNING if woken and not alike else Severity.ERROR,
                needs=certainty(m),
                **facts,
                remedy=redraw(m),
            )
        else:
            yield all_zero.at(
                m,
                f"all {m.stats.count:,} values are zero ({m.layer.role}): {why}{_doubt(m, audit, woken)}",
                severity=Severity.INFO,
                **facts,
                remedy="none, if this is meant",
            )


def _step(m: Measured) -> int | None:
    """Return the step at which a weight that sleeps wakes."""
    return m.movement.wake if m.movement is not None and m.movement.asleep else None


def _doubt(m: Measured, audit: Audit, woken: bool | None) -> str:
    if not born(audit):
        return ""
    if blocked(m):
        return "; here it never moves, see INI205"
    if _step(m):
        return f"; it wakes at step {_step(m)}"
    return "; here it gets no gradient itself" if woken is False else ""


def _pair(m: Measured) -> str:
    """Name the adapter that a factor belongs to: lora_A.default and lora_B.default make one."""
    return _FACTOR.sub(r"\1*", m.layer.name)
