"""What looks like a fault and is a design: kept as it is, unless the user names it."""

from __future__ import annotations

import numpy as np

from initaudit.closed_forms import TABLES
from initaudit.graph.view import View
from initaudit.grounds import HARMLESS, operator
from initaudit.types import Graph, Layer, Measured, Role

_FORMS = frozenset({"dirac", "identity", "delta-orthogonal", *TABLES})
_LARGE = 1 << 22  # values of a weight that are looked at one by one
_CLOSE = 1e-3  # absolute, of a value between 0 and 1
_SUBPIXEL = (4, 9, 16)  # filters of a PixelShuffle by 2, 3, 4


def meant(m: Measured) -> str:
    """Return why a weight is left as it is when many are drawn again; empty where nothing speaks against it."""
    layer, stats = m.layer, m.stats
    if layer.tied:
        return f"tied to {layer.tied}, drawn there"
    if layer.role is Role.ADAPTER or (layer.role is Role.GATE and not (operator(m) and stats.variance > 0)):
        return HARMLESS[layer.role]
    if stats.zeros == stats.count and layer.role in HARMLESS:
        return HARMLESS[layer.role]
    return fixed(m)


def fixed(m: Measured) -> str:
    """Return why a weight holds no draw, but values that are meant; empty where nothing says so."""
    layer = m.layer
    if layer.role is Role.CLOSED_FORM or (m.identified is not None and m.identified.law in _FORMS):
        return HARMLESS[Role.CLOSED_FORM]
    if _subpixel(m):
        return "a sub-pixel (ICNR) initialization: runs of equal filters"
    if layer.kind == "conv_transpose" and _bilinear(m):
        return HARMLESS[Role.CLOSED_FORM]
    if layer.weight.buffer:
        return "no parameter"
    return ""


def summed(graph: Graph | None, table: Layer, other: Layer) -> bool:
    """Whether what is looked up in two tables is added; without a graph, whether it could be."""
    if graph is None:
        return table.weight.shape[-1:] == other.weight.shape[-1:]
    view = View(graph)
    return bool(_stream(view, table) & _stream(view, other))


def _stream(view: View, table: Layer) -> set[str]:
    """Return the values that hold what is looked up in a table as it is: moved, scaled, or as a part of a sum."""
    own = {table.weight.identity, table.weight.name}
    held = [name for name, t in view.graph.constants.items() if own.intersection((t.identity, t.name))]
    todo = [out for name in held for use in view.readers(name) for out in view.nodes[use.node].outputs]
    seen: set[str] = set()
    while todo:
        name = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        for use in view.readers(name):
            node = view.nodes[use.node]
            scaled = node.op in ("mul", "div") and len(view.moving(node)) == 1
            if node.op in ("add", "sub") or scaled or view.family(node) == "move":
                todo += [out for out in node.outputs if out]
    return seen


def _bilinear(m: Measured) -> bool:
    """Whether all filters that are not empty are the tent that upsamples bilinearly.

    Source: Long, Shelhamer and Darrell 2015, section 3.3.
    """
    shape = m.layer.weight.shape
    if m.stats.nonfinite or m.stats.min < 0 or len(shape) < 3 or m.layer.weight.size > _LARGE:
        return False
    tent = np.ones(())
    for n in shape[2:]:
        half = (n + 1) // 2
        tent = np.multiply.outer(tent, 1 - np.abs(np.arange(n) - (half - 1 if n % 2 else half - 0.5)) / half)
    filters = np.asarray(m.layer.weight.load(), np.float64).reshape(-1, *shape[2:])
    some = filters[filters.reshape(len(filters), -1).any(1)]
    return len(some) > 0 and bool(np.abs(some - tent).max() < _CLOSE)


def _subpixel(m: Measured) -> bool:
    """Whether the filters of a convolution come in runs of one length that a PixelShuffle has."""
    flat = m.stats.rows.hash.reshape(-1)
    if not m.layer.kind.startswith("conv") or flat.size < 8:
        return False
    lengths = np.diff(np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1], [True]))))
    return lengths.size > 1 and int(lengths[0]) in _SUBPIXEL and bool((lengths == lengths[0]).all())
