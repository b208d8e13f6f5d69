"""What parts tied units in practice: masks that a dropout draws for each of them.

A second walk takes every mask for an input of its own: ties that it does not find again are parted. Noise that is part
of the graph itself needs no second walk: no two units of it are ever called equal. Stochastic depth draws one number
for a whole branch, and parts nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from initaudit.freedom import LayerFreedom
from initaudit.graph.view import View
from initaudit.symmetry.engine import Walk, Weight
from initaudit.symmetry.labels import Labels
from initaudit.types import Graph, Layer, Node

Rows = Sequence[LayerFreedom | None]
_USUAL = 0.5  # what ONNX's Dropout drops where nobody says


def broken(
    walk: Walk, layers: Sequence[Layer], made: Rows, told: Callable[[Walk, Sequence[Layer]], Rows]
) -> tuple[LayerFreedom | None, ...]:
    """Return what is known of layers, with what parts their tied units in practice.

    Args:
        walk: that has come to its end.
        layers: as they were asked for.
        made: what the walk tells of them.
        told: tells the same of another walk.
    """
    masks = _masks(walk) if any(one is not None and one.classes for one in made) else {}
    if not masks:
        return tuple(made)
    noisy = Walk(View(_masked(walk, masks)), walk.frozen, walk.reading)
    noisy.run()
    if not noisy.stable:
        return tuple(made)
    out: list[LayerFreedom | None] = []
    for layer, old, new in zip(layers, made, told(noisy, layers), strict=True):
        if old is not None and new is not None and not {*old.classes} <= {*new.classes}:
            near = _nearest(walk, layer, masks)
            out.append(replace(old, breaks=tuple(dict.fromkeys(_called(walk, at) for at in near or masks))))
        else:
            out.append(old)
    return tuple(out)


def _masks(walk: Walk) -> dict[int, tuple[int, ...]]:
    """Return the shape of the mask of each dropout that acts on tied elements, by its place in the graph."""
    out: dict[int, tuple[int, ...]] = {}
    for at, node in enumerate(walk.view.nodes):
        if node.op != "dropout" or node.attrs.get("per") == "sample" or not _share(walk, node):
            continue
        value = walk.values.get(node.inputs[0])
        labels = value.labels() if isinstance(value, Weight) else value
        if labels is None or not _some_alike(labels):
            continue
        shape = labels.shape
        if node.attrs.get("per") == "channel":
            kept = 1 if len(shape) == 2 else 2
            shape = (*shape[:kept], *[1] * (len(shape) - kept))
        out[at] = shape
    return out


def _some_alike(labels: Labels) -> bool:
    told = math.prod(size for size, free in zip(labels.sizes, labels.free, strict=True) if not free)
    return len(np.unique(labels.data)) < told


def _share(walk: Walk, node: Node) -> float:
    """Return the share of elements that a dropout drops in training."""
    given = node.attrs.get("ratio")
    if isinstance(given, (int, float)):
        return float(given)
    value = walk.value(node.inputs[1]) if len(node.inputs) > 1 and node.inputs[1] else None
    if isinstance(value, Weight) and math.prod(value.shape) == 1:
        return float(np.asarray(value.numbers()).reshape(()))
    return _USUAL if given is None and len(node.inputs) < 2 else 0.0


def _masked(walk: Walk, masks: Mapping[int, tuple[int, ...]]) -> Graph:
    """Return the graph with the masks as inputs of its own."""
    nodes = list(walk.view.nodes)
    inputs = dict(walk.view.graph.inputs)
    for at, shape in masks.items():
        node, mask = nodes[at], f"mask of {nodes[at].outputs[0]}"
        nodes[at] = Node("mul", (node.inputs[0], mask), node.outputs[:1])
        inputs[mask] = shape
    return replace(walk.view.graph, nodes=tuple(nodes), inputs=inputs)


def _nearest(walk: Walk, layer: Layer, masks: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    """Return the mask that is the fewest operations from what a layer makes, else from what it takes; or none."""
    view = walk.view
    uses = [
        use for use in walk.uses
        if (own := view.constant(view.nodes[use.node].inputs[use.place])) is not None
        and own.identity == layer.weight.identity
    ]  # fmt: skip
    ways: tuple[Callable[[int], list[int]], ...] = (
        lambda at: [use.node for name in view.nodes[at].outputs for use in view.uses.get(name, ())],
        lambda at: [view.producer[name] for name in view.nodes[at].inputs if name in view.producer],
    )
    for way in ways:
        seen = {use.node for use in uses}
        ring = list(seen)
        while ring:
            found = [at for at in ring if at in masks]
            if found:
                return tuple(found)
            ring = [at for at in dict.fromkeys(n for at in ring for n in way(at)) if at not in seen]
            seen.update(ring)
    return ()


def _called(walk: Walk, at: int) -> str:
    node = walk.view.nodes[at]
    scope = node.attrs.get("@scope") or re.sub(r"/[^/]*$", "", node.outputs[0]).strip("/").replace("/", ".")
    return f"dropout {_share(walk, node):.3g}" + (f" at {scope}" if scope and isinstance(scope, str) else "")
