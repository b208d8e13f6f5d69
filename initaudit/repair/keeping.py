"""What looks like a fault and is a design: kept as it is, unless the user names it."""

from __future__ import annotations

import numpy as np

from initaudit.closed_forms import TABLES
from initaudit.grounds import HARMLESS, operator
from initaudit.types import Measured, Role

_FORMS = frozenset({"dirac", "identity", "delta-orthogonal", *TABLES})
_SUBPIXEL = (4, 9, 16)  # filters of a PixelShuffle by 2, 3, 4


def meant(m: Measured) -> str:
    """Return why a weight is left as it is when many are drawn again; empty where nothing speaks against it."""
    layer, stats = m.layer, m.stats
    if layer.tied:
        return f"tied to {layer.tied}, drawn there"
    if layer.role is Role.CLOSED_FORM or (m.identified is not None and m.identified.law in _FORMS):
        return HARMLESS[Role.CLOSED_FORM]
    if layer.role is Role.ADAPTER or (layer.role is Role.GATE and not (operator(m) and stats.variance > 0)):
        return HARMLESS[layer.role]
    if stats.zeros == stats.count and layer.role in HARMLESS:
        return HARMLESS[layer.role]
    if _subpixel(m):
        return "a sub-pixel (ICNR) initialization: runs of equal filters"
    if layer.weight.buffer:
        return "no parameter"
    return ""


def _subpixel(m: Measured) -> bool:
    """Whether the filters of a convolution come in runs of one length that a PixelShuffle has."""
    flat = m.stats.rows.hash.reshape(-1)
    if not m.layer.kind.startswith("conv") or flat.size < 8:
        return False
    lengths = np.diff(np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1], [True]))))
    return lengths.size > 1 and int(lengths[0]) in _SUBPIXEL and bool((lengths == lengths[0]).all())
