"""Low-rank additions to a base weight: LoRA and its relatives, told by their shape and where they are added."""

from __future__ import annotations

from collections.abc import Iterable

from initaudit.graph.view import FAR, View
from initaudit.layers.from_graph_found import Found

_SCALES = frozenset({"mul", "div", "cast", "dropout", "identity", "reshape"})


def adapters(view: View, founds: Iterable[Found]) -> dict[int, str]:
    """Return the ids of the weights that are A or B of x W + s (x A) B, with a rank below both sides of W.

    A is "down", B is "up".
    """
    operators = [f for f in founds if f.kind in ("linear", "conv")]
    readers: dict[str, list[Found]] = {}
    makers = {f.out: f for f in operators}
    for found in operators:
        readers.setdefault(before(view, found.source), []).append(found)
    told: dict[int, str] = {}
    for a in operators:
        for b in readers.get(a.out, ()):
            if extent(a, "o") < min(extent(a, "i"), extent(b, "o")) and _added_to_base(view, makers, a, b):
                told |= {id(a): "down", id(b): "up"}
    return told


def _added_to_base(view: View, makers: dict[str, Found], a: Found, b: Found) -> bool:
    for use in view.readers(_past_scales(view, b.out)):
        node = view.nodes[use.node]
        if node.op != "add" or len(node.inputs) != 2:
            continue
        base = makers.get(before(view, node.inputs[1 - use.position]))
        if base is None or base in (a, b) or base.kind != a.kind:
            continue
        same = before(view, base.source) == before(view, a.source)
        if same and extent(base, "i") == extent(a, "i") and extent(base, "o") == extent(b, "o"):
            return True
    return False


def extent(found: Found, label: str) -> int:
    """Return the number of units along the axes with this label."""
    n = 1
    for axis, size in zip(found.axes, found.weight.shape, strict=True):
        n *= size if axis == label else 1
    return n


def _past_scales(view: View, name: str) -> str:
    """Return the value after multiplications by constants and dropout."""
    for _ in range(FAR):
        readers = view.readers(name)
        if len(readers) != 1 or name in view.outputs:
            break
        node = view.nodes[readers[0].node]
        if node.op not in _SCALES or len(view.moving(node)) != 1:
            break
        name = node.outputs[0]
    return name


def before(view: View, name: str) -> str:
    """Return the value before casts, dropout and scales."""
    for _ in range(FAR):
        if name not in view.producer:
            break
        node = view.nodes[view.producer[name]]
        moving = view.moving(node)
        if node.op not in _SCALES or len(moving) != 1:
            break
        name = node.inputs[moving[0]]
    return name
