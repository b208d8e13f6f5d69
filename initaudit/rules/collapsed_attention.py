"""INI509."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.registry import rule
from initaudit.symptoms import cases, number
from initaudit.types import Audit, Finding, Severity


@rule("INI509", Severity.WARNING)
def collapsed_attention(audit: Audit) -> Iterator[Finding]:
    """Attention looks at one key only before it has learned anything.

    ## Why it matters
    Logits far apart make the softmax one-hot: each query copies one value at random, and the gradient of a saturated
    softmax moves neither queries nor keys. What was to be learned is frozen as it was drawn.

    ## How it is measured
    The entropy of a query's weights in terms of log n for n keys (1: even, 0: one key), and the standard deviation of
    its logits, of a small batch where the probe runs, by theory elsewhere. How grave it is says the risk that was
    fitted on nets that were really trained.

    ## When to ignore it
    Even attention is no fault: it is how most fresh models start. Hard attention and routing by design; logits that are
    divided by a learned temperature which starts high.

    ## Seen in the wild
    TransformerLensOrg/TransformerLens#518 (softmax one-hot from huge scores).

    ## Source
    Vaswani et al. 2017, section 3.2.1 (why logits are divided by the root of the head's dimension); Zhai et al. 2023,
    Stabilizing Transformer Training by Preventing Attention Entropy Collapse.
    """
    for case in cases(collapsed_attention, audit):
        heads = case.signals.attention if case.signals is not None else ()
        worst = min(heads, key=lambda one: one.entropy, default=None)
        where = f" in {worst.name}" if worst is not None and worst.name else ""
        spread = f"; its logits have a std of {number(worst.spread)}, about 1 is usual" if worst is not None else ""
        yield case.finding(
            f"attention has collapsed{where}: a query's weights have {case.value} of the entropy of even ones{spread}",
            "draw query and key smaller (xavier), divide logits by the root of the head's dimension, or norm query and"
            " key",
            entropy=None if worst is None else worst.entropy,
            spread=None if worst is None else worst.spread,
        )
