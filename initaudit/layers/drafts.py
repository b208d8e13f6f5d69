"""Small steps that both ways of reading a module share: make a layer, improve it, say why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import prod

from initaudit.layers.fans import fans
from initaudit.types import Evidence, Layer, Role, Tensor

OPERATORS = frozenset({"linear", "conv", "conv_transpose", "rnn", "lstm", "gru", "attention", "bilinear"})


def layer(
    name: str,
    kind: str,
    weight: Tensor,
    axes: str,
    *,
    sure: Evidence,
    reason: str,
    bias: Tensor | None = None,
    extra: Iterable[Tensor | None] = (),
    groups: int = 1,
    parts: tuple[str, ...] = (),
    stride: tuple[int, ...] = (),
    padding: int | None = None,
) -> Layer:
    """Return a layer with its fans worked out; `sure` is the evidence for kind and fans."""
    fan_in, fan_out = fans(kind, axes, weight.shape, groups, stride, max(1, len(parts)))
    role = {"norm": Role.NORM, "embedding": Role.EMBEDDING}.get(kind, Role.OTHER)
    return Layer(
        name=name,
        kind=kind,
        weight=weight,
        axes=axes,
        bias=bias,
        extra=tuple(t for t in extra if t is not None),
        groups=groups,
        parts=parts,
        stride=stride,
        fan_in=fan_in,
        fan_out=fan_out,
        role=role,
        fan_evidence=sure,
        activation_evidence=Evidence.ASSUMED if kind in OPERATORS or kind == "norm" else sure,  # no other meets one
        role_evidence=sure if role is not Role.OTHER else Evidence.ASSUMED,
        padding=padding,
        reasons=(reason,),
    )


def again(old: Layer, reason: str = "", **changes: object) -> Layer:
    """Return a layer with some readings replaced, its fans worked out again, and one more reason."""
    new: Layer = replace(old, **changes)  # type: ignore[arg-type]
    fan_in, fan_out = fans(new.kind, new.axes, new.weight.shape, new.groups, new.stride, max(1, len(new.parts)))
    return replace(new, fan_in=fan_in, fan_out=fan_out, reasons=(*old.reasons, reason) if reason else old.reasons)


def parameter_axes(shape: tuple[int, ...], table: bool = False) -> str:
    """Label the axes of a parameter whose use is not known.

    >>> parameter_axes(()), parameter_axes((5,)), parameter_axes((5, 3)), parameter_axes((1, 197, 768), table=True)
    ('', 'o', 'oi', 'sio')
    """
    if len(shape) < 2:
        return "o" * len(shape)
    return "s" * (len(shape) - 2) + ("io" if table else "oi")


def sides(a: Layer) -> tuple[int, int]:
    """Return (inputs, outputs) of the whole operator: all groups, all parts."""
    extent = {x: prod(n for label, n in zip(a.axes, a.weight.shape, strict=True) if label == x) for x in "io"}
    if a.kind == "conv_transpose":
        return extent["i"], extent["o"] * a.groups
    return extent["i"] * a.groups, extent["o"]
