"""What a function that follows a weight is called, where bounds of its own make it another one than its op says."""

from __future__ import annotations

import math
from dataclasses import dataclass

from initaudit.types import Node

_SAME = {"fast_gelu": "gelu", "bias_gelu": "gelu", "bias_split_gelu": "gelu", "swish": "silu"}
_RARELY = 3.0  # standard deviations; a bound beyond them is seldom met
_LIKE_ONE = 2.0  # bounds within this factor of one still make a hardtanh, if one with another gain


@dataclass(frozen=True, slots=True)
class Function:
    """A name for what an activation's node does."""

    name: str | None
    note: str = ""
    known: bool = True
    sure: bool = True


def called(node: Node) -> Function:
    """Return the name of an activation.

    >>> called(Node("hardtanh", ("x",), ("y",), {"min_val": 0.0, "max_val": 20.0}))
    Function(name='relu', note=' (bounded by 20)', known=True, sure=True)
    >>> called(Node("hardtanh", ("x",), ("y",), {"min_val": -20.0, "max_val": 2.0})).known
    False
    """
    if node.op == "composite":
        return Function(None, "an elementwise function without a name", known=False)
    if node.op == "hardtanh":
        return _bounded(node)
    if node.attrs.get("mirrored"):
        return Function(node.op, " (mirrored)")
    return Function(_SAME.get(node.op, node.op))


def _bounded(node: Node) -> Function:
    low, high = (float(node.attrs.get(key, one)) for key, one in (("min_val", -1.0), ("max_val", 1.0)))
    bounds = f" between {low:g} and {high:g}"
    if low == 0 and high >= _RARELY:
        return Function("relu6") if high == 6 else Function("relu", f" (bounded by {high:g})")
    if math.isclose(low, -high, rel_tol=1e-3) and high > 0:
        if math.isclose(high, 1.0, rel_tol=1e-3):
            return Function("hardtanh")
        if 1 / _LIKE_ONE <= high <= _LIKE_ONE:
            return Function("hardtanh", bounds, sure=False)
    return Function(None, f"{bounds}, which has no name", known=False)
