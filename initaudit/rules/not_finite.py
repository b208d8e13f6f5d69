"""INI101."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.grounds import mask
from initaudit.naming import STATISTICS
from initaudit.registry import rule
from initaudit.types import Audit, Finding, Severity


@rule("INI101", Severity.ERROR)
def not_finite(audit: Audit, *, most: int = 0) -> Iterator[Finding]:
    """Weights that are NaN or infinite.

    ## Why it matters
    One such value reaches every output that depends on it, and the first backward pass spreads it to every weight.

    ## How it is measured
    Every value of every floating-point parameter and running statistic is looked at; more than `most` of them must be
    NaN or infinite.

    ## When to ignore it
    Never in a parameter. Masks of zeros and minus infinity are not reported, nor are other buffers.

    ## Seen in the wild
    pytorch/pytorch#112012, huggingface/transformers#30953, TransformerLensOrg/TransformerLens#902: memory that was
    allocated and never filled.

    ## Source
    Certain from the values; no threshold involved.
    """
    for m in audit.measured:
        for tensor, stats in m.tensors:
            if mask(m, tensor, stats):
                continue
            statistics = tensor.name.endswith(STATISTICS)
            if stats.nonfinite > most and (statistics or not tensor.buffer):
                what = " and ".join(f"{n:,} {word}" for n, word in ((stats.nans, "NaN"), (stats.infs, "infinite")) if n)
                yield not_finite.at(
                    m,
                    f"{what} among the {stats.count:,} values of {tensor.name}",
                    tensor=tensor.name,
                    nans=stats.nans,
                    infs=stats.infs,
                    count=stats.count,
                    remedy="draw it again before training, and look for the line that allocated it without filling it",
                )
