"""INI507."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.registry import rule
from initaudit.symptoms import cases, share
from initaudit.types import Audit, Finding, Severity


@rule("INI507", Severity.WARNING)
def saturated_units(audit: Audit) -> Iterator[Finding]:
    """Units start where their activation is flat.

    ## Why it matters
    A unit whose pre-activation lies far out on a sigmoid, tanh or clipped function hardly passes a gradient: what comes
    before it does not learn until it has drifted back, which is slow by the same token.

    ## How it is measured
    The share of units of a layer whose activation has hardly any slope, over a small batch where the probe runs, by
    theory elsewhere. How grave it is says the risk that was fitted on nets that were really trained.

    ## When to ignore it
    Gates that are meant to start closed (highway, LSTM and GRU gates, squeeze-and-excite), hard attention, focal-loss
    priors on the last bias.

    ## Seen in the wild
    AUTOMATIC1111/stable-diffusion-webui#4350 (a hypernetwork saturates), PeizeSun/OneNet#20 (a prior bias on the wrong
    tensors).

    ## Source
    Glorot and Bengio 2010, section 3; LeCun et al. 1998, Efficient BackProp, section 4.4 to 4.6.
    """
    for case in cases(saturated_units, audit):
        yield case.finding(
            f"units are saturated: {share(case.symptom.value)} of those of {case.worst} have hardly any slope",
            "draw the weight smaller, as Xavier does, or set its bias to zero; a norm before the activation does the"
            " same",
            share=case.symptom.value,
        )
