"""INI508."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.registry import rule
from initaudit.symptoms import cases, share
from initaudit.types import Audit, Finding, Severity


@rule("INI508", Severity.WARNING)
def dead_units(audit: Audit) -> Iterator[Finding]:
    """Units that answer nothing to any input, and get no gradient.

    ## Why it matters
    A ReLU whose pre-activation is negative for every input hands on zero and takes no gradient: it stays dead until
    something before it moves. Where most units of a layer are dead, little passes.

    ## How it is measured
    The share of units of a layer whose activation has no slope for any input of a small batch where the probe runs; by
    theory from bias and weights elsewhere. How grave it is says the risk that was fitted on nets that were really
    trained.

    ## When to ignore it
    A few dead units in a wide layer cost nothing. Sparse autoencoders with thresholds, gates that start closed, hard
    sigmoids with an offset.

    ## Seen in the wild
    PeizeSun/OneNet#20 (a prior bias of -4.6 on the wrong tensors).

    ## Source
    Lu, Shin, Su and Karniadakis 2020, Dying ReLU and Initialization.
    """
    for case in cases(dead_units, audit):
        yield case.finding(
            f"units are dead: {share(case.symptom.value)} of those of {case.worst} have no slope for any input",
            "set its bias to zero (or a little above) and draw the weight by he; a norm before the activation, or"
            " leaky_relu, keeps units alive",
            share=case.symptom.value,
        )
