"""INI102."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.grounds import HUGE, SPAN, born, mask
from initaudit.registry import rule
from initaudit.types import Audit, Finding, Role, Severity, State, Stats

# Types with eight or more exponent bits: nothing drawn from a sensible law comes near their subnormals.
_WIDE = ("float32", "float64", "bfloat16", "complex64", "complex128")


@rule("INI102", Severity.ERROR)
def raw_memory(
    audit: Audit, *, huge: float = HUGE, subnormal_share: float = 1e-3, span: float = SPAN
) -> Iterator[Finding]:
    """Values that look like memory nobody initialised.

    ## Why it matters
    `torch.empty`, `to_empty` and checkpoints with missing keys leave whatever was in memory. It is often finite, so
    that nothing fails until the loss is NaN.

    ## How it is measured
    In a parameter of an untrained model any of: a value beyond `huge`; more than `subnormal_share` of the values
    subnormal in a type with at least eight exponent bits; the central 98 % of the non-zero magnitudes spread over more
    than `span` binades (a normal or uniform law spreads over 6 to 9, raw memory over 40 to 250), and beyond 1 unless
    the model is known to be fresh. A negative running variance counts in
    any model.

    ## When to ignore it
    Masks, tables and quantisation scales may hold extreme values; as far as they are told from weights they are not
    reported.

    ## Seen in the wild
    huggingface/torchMoji#11 (values up to 1e38), huggingface/transformers#28073, pytorch/pytorch#112012.

    ## Source
    The span of a normal law is 7.6 binades, from its quantiles; tests/stats holds that.
    """
    for m in audit.measured:
        for tensor, stats in m.tensors:
            if tensor.name.endswith("running_var") and stats.min < 0:
                yield raw_memory.at(
                    m,
                    f"{tensor.name} holds a negative variance, {stats.min:.3g}",
                    tensor=tensor.name,
                    min=stats.min,
                    remedy="call reset_running_stats(), or load the right checkpoint",
                )
    if not born(audit):
        return
    for m in audit.measured:
        if m.layer.role is Role.CLOSED_FORM:
            continue
        for tensor, stats in m.tensors:
            if mask(m, tensor, stats):
                continue
            if tensor.buffer or stats.count == 0 or not tensor.is_float:
                continue
            signs = list(_signs(stats, tensor.dtype, huge, subnormal_share, span, audit.state is State.FRESH))
            if signs:
                yield raw_memory.at(
                    m,
                    "; ".join(signs),
                    tensor=tensor.name,
                    max=max(abs(stats.min), abs(stats.max)),
                    subnormals=stats.subnormals,
                    exponent_span=stats.exponent_span,
                    remedy="call reset_parameters(), or draw it again; then find the line that allocated it",
                )


def _signs(
    stats: Stats, dtype: str, huge: float, subnormal_share: float, span: float, untouched: bool
) -> Iterator[str]:
    largest = max(abs(stats.min), abs(stats.max))
    if stats.count > stats.nonfinite and largest > huge:
        yield f"|w| reaches {largest:.3g}"
    if dtype in _WIDE and stats.subnormals > subnormal_share * stats.count:
        yield f"{stats.subnormals / stats.count:.1%} of the values are subnormal (smaller than the type's normal range)"
    wide = stats.exponent_span > span and stats.count - stats.zeros >= 16
    if wide and (untouched or largest > 1):  # training with weight decay spreads magnitudes too, but only downwards
        yield f"magnitudes spread over {stats.exponent_span:.0f} powers of two; a drawn tensor spreads over 6 to 9"
