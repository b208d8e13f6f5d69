"""INI104."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.grounds import describe, excuse, operator, parted, redraw, uniformity
from initaudit.registry import rule
from initaudit.types import Audit, Finding, Measured, Severity


@rule("INI104", Severity.ERROR)
def constant(audit: Audit) -> Iterator[Finding]:
    """A weight whose values are all the same number.

    ## Why it matters
    All units of the layer compute the same function and get the same gradient: however wide it is, it learns one.

    ## How it is measured
    Minimum and maximum are equal and not zero, in a weight that has at least two units in one operator. Where the graph
    proves that no two of them are tied, or the probe measured that each gets a gradient of its own, and the net learns
    all the same, it is a warning: the first step sets them apart.

    ## When to ignore it
    A fixed averaging kernel (blur, pooling, upsampling), an output layer, a model that is convex anyway.

    ## Seen in the wild
    candle-org/MindAct#1536 (an initializer that returned its upper bound everywhere),
    HomericIntelligence/Mnemosyne#1987.

    ## Source
    Certain from the values; the role from the graph, the module tree or the names.
    """
    for m in audit.measured:
        if not operator(m) or not m.stats.constant or m.stats.min == 0 or m.layer.units // m.layer.groups < 2:
            continue
        why = excuse(m, audit)
        if not why:
            apart = parted(m, audit)
            yield constant.at(
                m,
                f"all {m.stats.count:,} values of {describe(m)} are {m.stats.min:.4g}: " + _units(m, apart),
                severity=Severity.WARNING if apart else Severity.ERROR,
                needs=uniformity(m, audit),
                value=m.stats.min,
                count=m.stats.count,
                role=str(m.layer.role),
                remedy=redraw(m),
            )
        else:
            yield constant.at(
                m,
                f"all {m.stats.count:,} values are {m.stats.min:.4g} ({m.layer.role}): {why}",
                severity=Severity.INFO,
                value=m.stats.min,
                count=m.stats.count,
                role=str(m.layer.role),
                remedy="none, if this is meant",
            )


def _units(m: Measured, apart: str) -> str:
    """Say how many units are left of all."""
    width = 1 if m.freedom is None else m.freedom.width
    many = (
        f"{m.layer.units} units start as one" if apart or width == m.layer.units else f"{m.layer.units} units are one"
    )
    if 1 < width < m.layer.units:
        many = f"{m.layer.units} units act as {width}"
    return f"{many}; {apart}" if apart else many
