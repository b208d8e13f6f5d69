"""INI505."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.registry import rule
from initaudit.symptoms import cases, tame
from initaudit.types import Audit, Finding, Severity


@rule("INI505", Severity.ERROR)
def exploding_gradient(audit: Audit) -> Iterator[Finding]:
    """Gradients grow from layer to layer on the way down.

    ## Why it matters
    The layers nearest the input get gradients that are huge against their weights: the first step throws them far away,
    or the learning rate must be so small that nothing else moves. In a chaotic net the gradient also changes with the
    least change of its input.

    ## How it is measured
    Per weight |dL/dW| / |W| of one input, the way back started with a random unit vector on the output: of a small
    batch where the probe runs, by theory elsewhere. The factor is that of the squared gradient per layer. How grave it
    is says the risk that was fitted on nets that were really trained.

    ## When to ignore it
    Embeddings, class tokens and other vectors that start near zero have a large gradient against their size; they are
    judged by what they feed. Clipping bounds the step, not the spread between layers.

    ## Seen in the wild
    TransformerLensOrg/TransformerLens#518 (softmax one-hot from huge scores), stanford-crfm/mistral#30.

    ## Source
    He et al. 2015, eq. 13; chaos: Schoenholz et al. 2017; recurrent nets: Pascanu, Mikolov and Bengio 2013.
    """
    for case in cases(exploding_gradient, audit):
        grown = f"it becomes {case.value} times what it was, relative to the weights{case.squared_rate}{case.reach}"
        yield case.finding(
            f"the gradient grows going down: {case.path}{grown}"
            if len(case.run) > 1
            else f"the gradient is too large: {case.path}a step at a rate of 1 would be {case.value} times the weight",
            tame(case),
            **case.gradients,
        )
