"""INI206."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.grounds import called
from initaudit.naming import folded
from initaudit.registry import rule
from initaudit.types import Audit, Finding, Severity

_NAMED = 16  # tensors that the evidence names


@rule("INI206", Severity.INFO)
def cancelled_parameters(audit: Audit) -> Iterator[Finding]:
    """Parameters without effect: a later operation takes away again what they add.

    ## Why it matters
    They never get a gradient, but what rounding leaves of one, and weight decay. Nothing is lost but memory, and a
    check for parameters without gradients that counts them.

    ## How it is measured
    On the graph: what comes back to them sums to zero for every input. The bias before a batch norm in training mode,
    the bias of keys before a softmax, the bias per token before layer norms.

    ## When to ignore it
    Always, but to know that these parameters are spare: bias=False leaves them out.

    ## Seen in the wild
    torchvision's VGG with batch norm keeps the biases that the norms take away.

    ## Source
    Ioffe and Szegedy 2015, Batch Normalization, section 3.2: the bias can be ignored.
    """
    if audit.freedom is None:
        return
    rows = {tensor.name: m for m in audit.measured for tensor, _ in m.tensors}
    own = [p for p in audit.freedom.parameters if p.cancelled and p.name in rows]
    if not own:
        return
    patterns = folded(called(rows[p.name], p.name) for p in own)
    shown = ", ".join(patterns[:3]) + (f" and {len(patterns) - 3:,} more" if len(patterns) > 3 else "")
    count = sum(p.cancelled for p in own)
    yield cancelled_parameters.at(
        None,
        f"{count:,} values of {shown} have no effect: a later operation takes away what they add",
        remedy="none needed; bias=False leaves them out",
        count=count,
        tensors=[p.name for p in own][:_NAMED],
        parameters=len(own),
    )
