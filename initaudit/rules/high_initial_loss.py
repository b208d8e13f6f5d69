"""INI510."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.registry import rule
from initaudit.symptoms import Case, cases, number
from initaudit.types import Audit, Finding, Severity

_SMALLER = "draw the output layer smaller, so that logits have a std below 1, or start it at zero"
_GROWN = "first what makes the signal grow before the output (INI502, INI511), then a small or zero output layer"


@rule("INI510", Severity.WARNING)
def high_initial_loss(audit: Audit) -> Iterator[Finding]:
    """The first loss is far above that of guessing.

    ## Why it matters
    A classifier that knows nothing should say so: a loss of log C. Large logits say something sure and wrong; the first
    steps only shrink them again, and with a large learning rate they wreck what lies below.

    ## How it is measured
    Where an output may be logits: cross entropy against random classes less log C, in nats, of a small batch where the
    probe runs, by theory elsewhere. About half the variance of the logits while this is small. How grave it is says the
    risk that was fitted on nets that were really trained.

    ## When to ignore it
    Outputs that are no logits. Cosine heads and soft caps bound the loss themselves.

    ## Seen in the wild
    huggingface/transformers#16749 and #26441 (T5's untied head drawn with std 1: cross entropy 110),
    google-research/t5x#1477.

    ## Source
    Derived: for normal logits E[log sum exp] = log C + variance / 2 while the variance is small.
    """
    for case in cases(high_initial_loss, audit):
        outs = case.signals.heads if case.signals is not None else ()
        worst = max((h for h in outs if h.excess_loss is not None), key=lambda h: h.excess_loss or 0.0, default=None)
        spread = f"; the logits have a std of {number(worst.std)}" if worst is not None else ""
        head = f" of {case.worst}" if case.run else f" of output {worst.name}" if worst is not None else ""
        yield case.finding(
            f"the first loss{head} would be about {case.value} nats above that of guessing{spread}",
            _GROWN if _grown(case) else _SMALLER,
            excess_loss=case.symptom.value,
            std=None if worst is None else worst.std,
        )


def _grown(case: Case) -> bool:
    """Whether the signal is too large already where it enters the output layer."""
    own = set(case.symptom.layers)
    symptoms = case.audit.risk.symptoms if case.audit.risk is not None else ()
    growing = (s for s in symptoms if s.kind in ("exploding-signal", "growing-residual"))
    return any(set(s.layers) - own for s in growing)
