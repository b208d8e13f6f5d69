"""INI202."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from initaudit.grounds import born, certainty, operator, plain, redraw
from initaudit.registry import rule
from initaudit.types import Audit, Finding, Severity


@rule("INI202", Severity.WARNING)
def zero_units(audit: Audit) -> Iterator[Finding]:
    """Units with no incoming weight at all, in a layer whose other units have some.

    ## Why it matters
    Such a unit is constant: it tells the layers above nothing about the input until it has moved, and all zero units of
    a layer are copies of each other.

    ## How it is measured
    Units whose incoming values are all exactly zero, where not the whole weight is (see INI103).

    ## When to ignore it
    Sparse initialization (torch.nn.init.sparse_) and pruned weights; rows that pad a vocabulary to a round size.

    ## Seen in the wild
    hiyouga/LlamaFactory#10547, deepspeedai/DeepSpeed#6589.

    ## Source
    Certain from the values.
    """
    for m in audit.measured:
        if not operator(m) or m.stats.zeros == m.stats.count:
            continue
        dead = np.flatnonzero(m.stats.rows.nonzero == 0)
        if not len(dead):
            continue
        deliberate = m.identified is not None and m.identified.law in ("sparse", "identity", "dirac")
        quiet = deliberate or not plain(m) or not born(audit)
        yield zero_units.at(
            m,
            f"{len(dead)} of {m.layer.units} units have no incoming weight (first: unit {dead[0]})"
            + (f"; the layer is {m.identified.law}" if deliberate and m.identified else ""),
            severity=Severity.INFO if quiet else Severity.WARNING,
            needs=None if quiet else certainty(m),
            dead=len(dead),
            units=m.layer.units,
            first=int(dead[0]),
            remedy="none, if this is meant" if quiet else redraw(m),
        )
