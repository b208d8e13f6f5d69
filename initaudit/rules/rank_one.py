"""INI203."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.grounds import born, operator, parted, plain, redraw, uniformity, varied
from initaudit.registry import rule
from initaudit.types import Audit, Finding, Severity


@rule("INI203", Severity.ERROR)
def rank_one(audit: Audit) -> Iterator[Finding]:
    """A weight of rank one: every unit is a multiple of one and the same.

    ## Why it matters
    The layer passes on a single number per input, however many units it has.

    ## How it is measured
    Of each operator with at least 8 units on either side, all rows are multiples of the longest one, up to rounding.

    ## When to ignore it
    Averaging kernels and closed forms (tables made of an outer product); they are not reported.

    ## Seen in the wild
    tensorflow/tensorflow#10719 (orthogonal draw from uncentred values: one direction carries all).

    ## Source
    Certain from the values: what is left of a row beside the longest one bounds the second singular value.
    """
    for m in audit.measured:
        if operator(m) and varied(m) and m.stats.rank_one and plain(m) and born(audit):
            apart = "" if m.freedom is not None and m.freedom.twins else parted(m, audit)
            yield rank_one.at(
                m,
                f"all {m.layer.units} units are multiples of one: the matrix has rank 1"
                + ("; each gets a gradient of its own, so the first steps give it more" if apart else ""),
                severity=Severity.WARNING if apart else Severity.ERROR,
                needs=uniformity(m, audit),
                units=m.layer.units,
                remedy=redraw(m),
            )
