"""INI302."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

from initaudit.grounds import born, drawn, operator, plain, redraw
from initaudit.registry import rule
from initaudit.types import Audit, Finding, Severity


@rule("INI302", Severity.INFO)
def off_centre(audit: Audit, *, most: float = 0.5, least: int = 200) -> Iterator[Finding]:
    """A weight whose values are not centred on zero.

    ## Why it matters
    A common offset adds the same multiple of the inputs' sum to every unit: the units start nearly alike, and the sum
    grows with fan_in while the part that tells them apart grows with its square root. What that does depends on the
    rest of the graph (inputs with mean zero, norms), so one layer's offset is told, never judged: whether inputs really
    become alike says INI503.

    ## How it is measured
    |mean| / std above `most` in a plain weight of at least `least` values, drawn at random otherwise. By chance it
    stays below 5 / sqrt(n).

    ## When to ignore it
    Weights that are positive by contract: attention pooling, monotone networks, non-negative factorisations.

    ## Seen in the wild
    tensorflow/tensorflow#10719 (orthogonal draw from uncentred values); `torch.rand` where `torch.randn` was meant.

    ## Source
    The offset is a rank-one part with singular value |mean| sqrt(fan_in fan_out), against std (sqrt(fan_in) +
    sqrt(fan_out)) for the rest (Bai and Yin 1993).
    """
    if not born(audit):
        return
    for m in audit.measured:
        stats = m.stats
        if (
            not operator(m)
            or not drawn(m)
            or not plain(m)
            or stats.count < least
            or m.layer.units // m.layer.groups < 2
        ):
            continue
        ratio = abs(stats.mean) / stats.std
        if ratio <= max(most, 5 / sqrt(stats.count)):
            continue
        yield off_centre.at(
            m,
            f"the mean, {stats.mean:.3g}, is {ratio:.2g} of the std, {stats.std:.3g}: all units share one large part",
            mean=stats.mean,
            std=stats.std,
            ratio=ratio,
            remedy=redraw(m),
        )
