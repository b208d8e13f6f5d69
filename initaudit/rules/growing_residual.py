"""INI511."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.registry import rule
from initaudit.symptoms import cases, scale_branches
from initaudit.types import Audit, Finding, Severity


@rule("INI511", Severity.WARNING)
def growing_residual(audit: Audit) -> Iterator[Finding]:
    """The residual stream grows with depth.

    ## Why it matters
    Each block adds a branch to the stream. Without a norm in the branch, and with ends that are not scaled with depth,
    the variance grows geometrically; with one it grows linearly, and late blocks add little to what is there.

    ## How it is measured
    The variance across inputs of the stream at the ends of residual branches, from the first to the last, and its
    factor per block. How grave it is says the risk that was fitted on nets that were really trained.

    ## When to ignore it
    Norms after the sum (post-norm) reset the stream. Pre-norm stacks grow linearly by design; twelve blocks do not
    mind.

    ## Seen in the wild
    huggingface/transformers#47458 and #2158, stanford-crfm/mistral#30 (GPT-2's ends not scaled), karpathy/llama2.c#579,
    pytorch/torchtitan#3334 (the wrong matrix scaled).

    ## Source
    Radford et al. 2019 (GPT-2), section 2.3: 1/sqrt(N); Zhang, Dauphin and Ma 2019 (Fixup); De and Smith 2020, Batch
    Normalization Biases Residual Blocks Towards the Identity Function; Hanin and Rolnick 2018.
    """
    for case in cases(growing_residual, audit):
        yield case.finding(
            f"the residual stream grows: {case.path}its variance becomes {case.value} times what it was"
            f"{case.rate.replace('layer', 'block')}{case.reach.replace('layer', 'block')}",
            scale_branches(case),
            **case.variances,
        )
