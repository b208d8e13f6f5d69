"""Warnings on models as their experts built them that are right, and why."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a rule's warning holds for a model."""

    rule: str
    model: str  # shell pattern
    why: str


_CLONES = (
    "nn.TransformerEncoder and nn.TransformerDecoder deep-copy the layer that they are given: all start with equal"
    " values (pytorch/pytorch#86274)"
)

REASONS: tuple[Reason, ...] = (Reason("INI204", "transformer_encoder*", _CLONES),)
