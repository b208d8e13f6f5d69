"""INI506."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.registry import rule
from initaudit.symptoms import cases, number, redraw_run
from initaudit.types import Audit, Finding, Severity


@rule("INI506", Severity.WARNING)
def uneven_rates(audit: Audit) -> Iterator[Finding]:
    """Layers would learn at rates too far apart for one learning rate.

    ## Why it matters
    A step changes a layer by the learning rate times |dL/dW| / |W|. Where this differs by many orders of magnitude
    between layers, a rate that moves the slowest blows up the fastest.

    ## How it is measured
    The largest over the smallest relative gradient of the weights that carry the signal, each of one input, the way
    back started with a random unit vector on the output; a weight before a norm counts with the scale that the norm
    divides out. How grave it is says the risk that was fitted on nets that were really trained.

    ## When to ignore it
    Optimizers with a rate per weight (Adam, LAMB, LARS) or per group even it out. Branches behind gates sleep on
    purpose.

    ## Seen in the wild
    stanford-crfm/mistral#30 (residual ends not scaled), karpathy/llama2.c#579 (the wrong matrix scaled),
    pytorch/torchtitan#1257 (fixed and scaled std mixed).

    ## Source
    Glorot and Bengio 2010, section 4.2.2; You, Gitman and Ginsburg 2017 (LARS): the ratio of weight to gradient.
    """
    for case in cases(uneven_rates, audit):
        slow, fast = (m.layer.name for m in (case.run[0], case.run[1])) if len(case.run) > 1 else ("one", "another")
        rates = [number(rate) for rate in case.relative_gradients[:2] if rate is not None]
        figures = f" (gradient over weight {rates[0]} and {rates[1]})" if len(rates) > 1 else ""
        yield case.finding(
            f"layers would learn at rates {case.value} times apart: {slow} slowest, {fast} fastest{figures}",
            redraw_run(
                case, "give the slow layers a rate of their own, or use an optimizer with a rate per weight (Adam)"
            ),
            slowest=slow,
            fastest=fast,
        )
