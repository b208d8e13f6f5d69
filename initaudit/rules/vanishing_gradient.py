"""INI504."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.registry import rule
from initaudit.symptoms import cases, redraw_run
from initaudit.types import Audit, Finding, Severity


@rule("INI504", Severity.ERROR)
def vanishing_gradient(audit: Audit) -> Iterator[Finding]:
    """Gradients shrink from layer to layer on the way down.

    ## Why it matters
    The layers nearest the input get gradients that are tiny against their weights: at any learning rate that the last
    layers survive they stay as they were drawn.

    ## How it is measured
    Per weight |dL/dW| / |W| of one input, the way back started with a random unit vector on the output: of a small
    batch where the probe runs, by theory elsewhere. The factor is that of the squared gradient per layer. Layers behind
    a gate count by what they get once it opens. How grave it is says the risk that was fitted on nets that were really
    trained.

    ## When to ignore it
    Layers behind a zero or small gate sleep on purpose. Optimizers that divide by the size of the gradient (Adam) lift
    small gradients, down to their epsilon.

    ## Seen in the wild
    jingyaogong/minimind#858 (a router's gradient of 7e-10), yz93/LAVT-RIS#25 (two zero layers in a row),
    karpathy/char-rnn#60.

    ## Source
    Glorot and Bengio 2010, eq. 6; He et al. 2015, eq. 13; Bengio, Simard and Frasconi 1994 for recurrent nets.
    """
    for case in cases(vanishing_gradient, audit):
        if case.symptom.value == 0:
            yield case.finding(
                f"no gradient ever comes down to {case.worst}, and nothing that moves would wake them",
                "of two zeros one after the other draw one at random; give units that are dead a bias of zero",
            )
            continue
        yield case.finding(
            f"the gradient shrinks going down: {case.path}it falls to {case.value} of what it was, relative to the"
            f" weights{case.squared_rate}{case.reach}",
            redraw_run(case),
            **case.gradients,
        )
