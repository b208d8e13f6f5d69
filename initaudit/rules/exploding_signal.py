"""INI502."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.registry import rule
from initaudit.symptoms import cases, tame
from initaudit.types import Audit, Finding, Severity


@rule("INI502", Severity.ERROR)
def exploding_signal(audit: Audit) -> Iterator[Finding]:
    """Signals grow from layer to layer on the way up.

    ## Why it matters
    Each layer hands on more than it took in; through many layers this multiplies to numbers that overflow, saturate
    what follows, or give a first loss and first gradients of any size. No learning rate suits both ends of such a net.

    ## How it is measured
    Per layer the variance across inputs of what it hands on, per unit, before its activation: of a small batch where
    the probe runs, by theory elsewhere; the factor is that of one layer of the run. How grave it is says the risk that
    was fitted on nets that were really trained.

    ## When to ignore it
    Nets whose next layer is a norm, which divides the size out: norms are part of what is measured, so only what lies
    after the last norm counts. Outputs that are meant to be large (regression on raw units).

    ## Seen in the wild
    DLR-RM/stable-baselines3#1559 (one gain whatever the activation), AUTOMATIC1111/stable-diffusion-webui#4350 (Xavier
    on a residual multiplier), zishansami102/CNN-from-Scratch#8.

    ## Source
    He et al. 2015, eq. 9; residual branches: Hanin and Rolnick 2018, How to Start Training.
    """
    for case in cases(exploding_signal, audit):
        yield case.finding(
            f"the signal grows going up: {case.path}the variance across inputs becomes {case.value} times what it was"
            f"{case.rate}{case.reach}",
            tame(case),
            **case.variances,
        )
