"""Weights that a quantiser packed into integers or rescaled, with the scales and tables beside them.

What such integers mean is the quantiser's own affair; what lies beside them is no parameter of the model. Both are told
as not judged. Small floats are kept, as they may still be broken, but their spread says nothing without the scale.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from initaudit.types import Layer, Skip, Tensor

_PACKED = re.compile(r"^(.*?)(?:[._](?:weight|qweight|W_q|weight_packed|packed_weight|blocks))?$")
_BESIDE = re.compile(
    r"[._](?:weight[._])?(?:scales?|scale_inv|weight_scale\w*|input_scale|output_scale|act(?:ivation)?_scale|zero_point|zeros?"
    r"|qzeros|biases|g_idx|perm|SCB|CB|absmax|quant_map|nested_\w+|quant_state\.\w+|weight_format|weight_shape"
    r"|input_zero_point|weight_zero_point|weight_g_idx|global_scale|weight_global_scale|input_global_scale|scale_2"
    r"|qweight\.\w+)$"
)


def set_apart(tensors: Sequence[Tensor]) -> tuple[list[Tensor], list[Skip], frozenset[str]]:
    """Return what is no part of a packed weight, the rest with the reason, and the names kept whose scale is apart."""
    packed: dict[str, str] = {}  # module -> dtype of its weight
    beside: dict[str, list[str]] = {}
    for t in tensors:
        match = _BESIDE.search(t.name)
        if match:
            beside.setdefault(t.name[: match.start()], []).append(t.name)
    for t in tensors:
        coded = t.dtype.startswith(("int", "uint", "float8", "float4")) and t.size > 1
        match = _PACKED.match(t.name) if coded else None
        if match and match[1] != t.name and match[1] in beside and not _BESIDE.search(t.name):
            packed[match[1]] = t.name
    scales = {name: packed[base] for base, names in beside.items() if base in packed for name in names}
    weights = set(packed.values())
    rescaled: set[str] = set()
    kept: list[Tensor] = []
    skipped: list[Skip] = []
    for t in tensors:
        if t.name in weights and t.is_float:
            kept.append(t)
            rescaled.add(t.name)
        elif t.name in weights:
            skipped.append(Skip(t.name, f"{t.dtype} values packed by a quantiser, not judged"))
        elif t.name in scales:
            skipped.append(Skip(t.name, f"belongs to the quantised {scales[t.name]}, no weight", parameter=False))
        else:
            kept.append(t)
    return kept, skipped, frozenset(rescaled)


def unscaled(a: Layer) -> Layer:
    """Return a layer whose weight is stored without its scale: no fans, so that nothing is expected of its spread."""
    why = "stored as small floats whose scale is another tensor: its spread is not known"
    return replace(a, kind="parameter", fan_in=None, fan_out=None, reasons=(*a.reasons, why))
