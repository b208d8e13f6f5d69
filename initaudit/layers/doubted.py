"""What rows lose in evidence where a model takes one course or another, as values decide."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from initaudit.types import Evidence, Layer


def doubted(found: Sequence[Layer], other: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers of one course, with less evidence for what they are not in the other.

    A weight that only one of them uses is what it is there.
    """
    there = {a.weight.identity: a for a in other}
    return tuple(_doubted(a, there.get(a.weight.identity)) for a in found)


def _doubted(a: Layer, b: Layer | None) -> Layer:
    if b is None:
        return a
    less: dict[str, Any] = {}
    why: list[str] = []
    if a.activation != b.activation:
        less["activation_evidence"] = min(a.activation_evidence, Evidence.NAMED)
        why.append(f"what follows is {_said(a.activation)} or {_said(b.activation)}")
    if a.role != b.role:
        less["role_evidence"] = min(a.role_evidence, Evidence.NAMED)
        why.append(f"its role is {a.role} or {b.role}")
    if (a.fan_in, a.fan_out) != (b.fan_in, b.fan_out):
        less["fan_evidence"] = min(a.fan_evidence, Evidence.NAMED)
        why.append("its fans are these or others")
    if a.normed != b.normed:
        less["normed"] = None
        why.append("a norm takes its output or none does")
    told = f"a condition on values decides: {', '.join(why)}"
    return replace(a, **less, reasons=(*a.reasons, told)) if why else a


def _said(activation: str | None) -> str:
    return activation or "no activation"
