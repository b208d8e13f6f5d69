"""INI512."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.registry import rule
from initaudit.symptoms import cases, share
from initaudit.types import Audit, Finding, Severity


@rule("INI512", Severity.ERROR)
def tied_units(audit: Audit) -> Iterator[Finding]:
    """Units of a net are copies of each other and stay so: however wide it is, it learns as if it were narrow.

    ## Why it matters
    Units that compute the same and get the same gradient never part. A layer that all must pass and that consists of
    such units hands on a single number.

    ## How it is measured
    The share of the logarithm of a layer's width that copies cost: for ever, where what comes in and what comes back is
    equal for them (of a small batch where the probe runs, else by the values of the weights that read the layer); or at
    first, where most dense layers start so. Layers with a path around them count by their mean. How grave it is says
    the risk that was fitted on nets that were really trained. Single weights are told by INI103, INI104 and INI201.

    ## When to ignore it
    Weights that are meant as fixed averages. Nets whose dropout or data augmentation differs between units: noise parts
    copies, slowly.

    ## Seen in the wild
    InternLM/InternLM#405, srenevey/neuro#4.

    ## Source
    Goodfellow, Bengio and Courville 2016, Deep Learning, section 8.4: symmetry between units must be broken.
    """
    for case in cases(tied_units, audit):
        yield case.finding(
            f"units are tied: copies cost {share(min(case.symptom.value, 1.0))} of the width of {case.worst}, as a"
            " logarithm",
            "draw the weights of these layers at random, each unit by itself",
            share=case.symptom.value,
        )
