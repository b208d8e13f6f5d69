"""INI503."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.registry import rule
from initaudit.symptoms import cases, number, redraw_run
from initaudit.types import Audit, Finding, Severity


@rule("INI503", Severity.ERROR)
def indistinguishable_inputs(audit: Audit) -> Iterator[Finding]:
    """All inputs look alike to the net, in what it answers or in what it would learn.

    ## Why it matters
    Where two inputs give nearly the same values, they also give nearly the same gradient: a step towards one answer is
    a step for all, and the net learns a constant. Activations and gradients may both be of a healthy size.

    ## How it is measured
    The correlation between what a layer hands on for two inputs, and over all weights how much of the gradient tells
    inputs apart (`contrast`) against how much is the same for every input (`common`): their ratio is one over the
    condition number of the tangent kernel. No learning rate enters. How grave it is says the risk that was fitted on
    nets that were really trained.

    ## When to ignore it
    Inputs that really are alike: give a batch of your data with `--data`. Nets with one input, such as a table of
    parameters.

    ## Seen in the wild
    pytorch/pytorch#15314 (torch's default before ReLU at depth), HomericIntelligence/Mnemosyne#1987 (a plateau at log
    C).

    ## Source
    Poole et al. 2016, eq. 5; Schoenholz et al. 2017, Deep Information Propagation; Xiao, Pennington and Schoenholz
    2020, Disentangling Trainability and Generalization: the condition number of the tangent kernel.
    """
    for case in cases(indistinguishable_inputs, audit):
        end = case.run[-1].signal if case.run else None
        alike = None if end is None else end.input_correlation
        cosine = "" if alike is None else f"; what two inputs give there has a cosine of {_near_one(alike)}"
        yield case.finding(
            f"inputs become indistinguishable: {case.path}all but {case.value} of what it would learn is the same"
            f" for every input{cosine}{case.reach}",
            redraw_run(case),
            input_correlation=alike,
        )


def _near_one(cosine: float) -> str:
    return "1" if cosine >= 1 else f"1 - {number(1 - cosine)}"
