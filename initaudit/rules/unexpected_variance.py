"""INI301."""

from __future__ import annotations

from collections.abc import Iterator
from math import log2, sqrt

from initaudit.grounds import born, drawn, operator, redraw
from initaudit.registry import rule
from initaudit.types import Audit, Finding, Measured, Severity


@rule("INI301", Severity.INFO)
def unexpected_variance(audit: Audit, *, factor: float = 2.0, least: int = 200) -> Iterator[Finding]:
    """A weight whose spread fits neither Xavier nor He nor any other scheme we know.

    ## Why it matters
    Xavier and He keep the variance of signal and gradient steady from layer to layer; a layer that is off by a factor
    multiplies both by it, and many such layers in a row make them vanish or explode. What a factor does depends on the
    rest of the graph: norms after the layer cancel it, residual paths soften it. So one layer's ratio is told, never
    judged: whether signal and gradient really suffer say the rules on the whole graph (INI501 and on).

    ## How it is measured
    The std of a weight with at least `least` values is compared with Xavier's and He's for its fans, and its law with
    every scheme in `initaudit schemes`. Off both by more than `factor`, and drawn by no known scheme, is told, with the
    slip in a formula that gives this very number where there is one.

    ## When to ignore it
    Layers whose output is normalised; deliberate small outputs (gates, last layers of branches, heads); schemes of your
    own, if the whole net was designed with them.

    ## Seen in the wild
    mlpack/mlpack#3651 and sidkk86/weight_initialization#1 (variance given where std was meant),
    gapeng000/PyTorch-progressive_growing_of_gans#29 (gain passed as negative slope).

    ## Source
    Glorot and Bengio 2010, eq. 12 and 16; He et al. 2015, eq. 10 and 14.
    """
    if not born(audit):
        return
    for m in audit.measured:
        layer, stats, expected = m.layer, m.stats, m.expected
        if not operator(m) or not drawn(m) or expected is None or layer.fan_in is None or layer.fan_out is None:
            continue
        if stats.count < least or (m.identified is not None and m.identified.scheme):
            continue
        xavier = sqrt(2 / (layer.fan_in + layer.fan_out))
        off = min(max(stats.std / s, s / stats.std) for s in (expected.std, xavier, sqrt(2 / layer.fan_in)))
        if off <= factor:
            continue
        times = stats.std / expected.std
        how = f"{times:.3g}x too large" if times > 1 else f"{1 / times:.3g}x too small"
        yield unexpected_variance.at(
            m,
            f"std {stats.std:.3g} is {how} for {expected.scheme} ({expected.std:.3g}){_cause(m)}"
            + ("; a norm follows and cancels it" if layer.normed else ""),
            std=stats.std,
            expected_std=expected.std,
            scheme=expected.scheme,
            xavier_std=xavier,
            factor=times,
            remedy=redraw(m),
        )


def _cause(m: Measured) -> str:
    """Name the usual slip that gives this very number, if one does."""
    fan_in, fan_out = m.layer.fan_in, m.layer.fan_out
    assert fan_in is not None
    assert fan_out is not None
    slips = {
        "the variance 2/fan_in passed where a std is meant": 2 / fan_in,
        "the variance 1/fan_in passed where a std is meant": 1 / fan_in,
        "Glorot's variance passed where a std is meant": 2 / (fan_in + fan_out),
        "the square root taken twice": (2 / fan_in) ** 0.25,
        "the std divided by fan_in once more": sqrt(2 / fan_in) / fan_in,
    }
    tolerance = max(0.02, 5 * sqrt(2 / m.stats.count))
    for slip, std in slips.items():
        if abs(log2(m.stats.std / std)) < tolerance:
            return f": {slip}"
    return ""
