"""Where ties begin: at the first of tied layers that read one another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from initaudit.freedom import LayerFreedom
from initaudit.symmetry.engine import Walk
from initaudit.types import Layer, Node


def started(
    walk: Walk, layers: Sequence[Layer], found: Sequence[LayerFreedom | None]
) -> tuple[LayerFreedom | None, ...]:
    """Return what is known of layers, with the layer that the ties of each begin at.

    That is the one at which the ties of a tied layer begin whose result it reads, no other layer between; of several
    the first in execution order; else itself.
    """
    tied = {k for k, one in enumerate(found) if one is not None and one.classes}
    if not tied:
        return tuple(found)
    before = _before(walk, layers)
    starts: dict[int, str] = {}
    for k in [*before, *(k for k in sorted(tied) if k not in before)]:
        if k in tied:
            near = [other for other in before if other in tied and other in before.get(k, ()) and other != k]
            starts[k] = starts.get(near[0], layers[near[0]].name) if near else layers[k].name
    return tuple(
        replace(one, start=starts[k]) if one is not None and k in starts else one for k, one in enumerate(found)
    )


def _before(walk: Walk, layers: Sequence[Layer]) -> dict[int, frozenset[int]]:
    """Return by layer, in execution order, the layers whose results it reads with no other between."""
    graph = walk.view.graph
    held = {name: tensor.storage or tensor.name for name, tensor in graph.constants.items()}
    owners: dict[str, list[int]] = {}
    for k, layer in enumerate(layers):
        owners.setdefault(layer.weight.storage or layer.weight.name, []).append(k)
    sources: dict[str, frozenset[int]] = {name: frozenset(owners.get(storage, ())) for name, storage in held.items()}
    near: dict[str, frozenset[int]] = {}
    out: dict[int, frozenset[int]] = {}
    weights = {(use.node, use.place) for use in walk.uses}
    for at, node in enumerate(walk.view.nodes):
        given = _joined(near, node)
        if all(not name or name in walk.view.fixed for name in node.inputs):
            for name in node.outputs:
                sources[name] = _joined(sources, node)
            continue
        own = frozenset[int]().union(
            *(sources.get(name, frozenset()) for place, name in enumerate(node.inputs) if (at, place) in weights)
        )
        for k in sorted(own):
            out[k] = out.get(k, frozenset()) | given
        for name in node.outputs:
            near[name] = own or given
    return out


def _joined(known: dict[str, frozenset[int]], node: Node) -> frozenset[int]:
    return frozenset[int]().union(*(known.get(name, frozenset()) for name in node.inputs if name))
