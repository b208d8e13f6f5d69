"""From a graph and layers to their freedom."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from initaudit.freedom import Freedom, LayerFreedom, ParameterFreedom
from initaudit.graph.view import View, sound
from initaudit.symmetry.breaking import broken
from initaudit.symmetry.causes import Why, explained
from initaudit.symmetry.engine import Unread, Walk
from initaudit.symmetry.labels import Labels, TooMany
from initaudit.symmetry.moves import taken
from initaudit.symmetry.moving import Moving
from initaudit.symmetry.moving import Walk as Moves
from initaudit.symmetry.rows import rows, units
from initaudit.symmetry.shapes import shaped
from initaudit.types import Array, Graph, Layer, Tensor


def analyse(graph: Graph, layers: Sequence[Layer], frozen: Callable[[Tensor], bool] | None = None) -> Freedom:
    """Return what training can tell apart.

    Args:
        graph: as it was read; nothing need be fused.
        layers: whose units to tell.
        frozen: whether a tensor is no trainable parameter; by default what is known to be a buffer.
    """
    kept = frozen or (lambda tensor: tensor.buffer)
    graph = shaped(sound(graph))
    walk = Walk(View(graph), kept)
    walk.run(lambda walk: all(one is None or one.width == one.units for one in told(walk, layers)))
    moves, found = _movements(graph, kept)
    why = explained(moves, found)
    moved = (_parameter(graph.constants[name], moving, why.get(name)) for name, moving in found.items())
    parameters = tuple(p for p in moved if p is not None)
    steps = max((max((step for step, _ in p.late), default=1) for p in parameters), default=1)
    if not (walk.stable or walk.enough):
        return Freedom((None,) * len(layers), parameters, steps=steps, why="labels did not settle")
    made = broken(walk, layers, _started(told(walk, layers)), told)
    return Freedom(made, parameters, tuple(dict.fromkeys(walk.unread.values())), walk.rounds, steps)


def told(walk: Walk, layers: Sequence[Layer]) -> list[LayerFreedom | None]:
    """Return what the labels of a walk tell of the units of layers; None where that is nothing."""
    constants = walk.view.graph.constants
    by_key: dict[object, list[Labels]] = {}
    for name, labels in rows(walk).items():
        by_key.setdefault(constants[name].identity, []).extend(labels)
    wholes: dict[str, list[Tensor]] = {}
    for tensor in constants.values():
        wholes.setdefault(tensor.storage or tensor.name, []).append(tensor)
    return [_layer(layer, by_key.get(layer.weight.identity) or _part(layer.weight, wholes, by_key)) for layer in layers]


def _part(part: Tensor, wholes: Mapping[str, Sequence[Tensor]], found: Mapping[object, list[Labels]]) -> list[Labels]:
    """Return labels of what is one of several in a tensor: a direction, an expert."""
    for whole in wholes.get(part.storage or part.name, ()):
        deep = len(whole.shape) - len(part.shape)
        at, rest = divmod(part.offset - whole.offset, max(1, part.size))
        if (
            deep > 0
            and whole.shape[deep:] == part.shape
            and whole.strides is None
            and part.strides is None
            and not rest
            and 0 <= at < math.prod(whole.shape[:deep])
        ):
            out = found.get(whole.identity, [])
            for k in np.unravel_index(at, whole.shape[:deep]):
                out = [taken(labels, 0, np.array([k]), keep=False) for labels in out]
            return out
    return []


def _started(found: Sequence[LayerFreedom | None]) -> tuple[LayerFreedom | None, ...]:
    """Say where ties begin: at the first of layers with ties, one after the other."""
    out: list[LayerFreedom | None] = []
    start = ""
    for one in found:
        if one is not None:
            start = (start or one.name) if one.classes else ""
        out.append(replace(one, start=start) if one is not None and one.classes else one)
    return tuple(out)


def _parameter(tensor: Tensor, moving: Moving, why: Why | None) -> ParameterFreedom | None:
    shape = tensor.shape
    step, cancelled, reach = (np.broadcast_to(a, shape) for a in (moving.step, moving.cancelled, moving.reach))
    if bool((step == 1).all()) or not reach.any():
        return None
    late = tuple((s, int(np.count_nonzero(step == s))) for s in range(2, int(step.max(initial=0)) + 1))
    never = reach & (step == 0)
    steps = step[step > 0]
    told = ParameterFreedom(
        tensor.name, tensor.size, int(steps.min()) if steps.size else 0, tuple(pair for pair in late if pair[1]),
        int(np.count_nonzero(never & ~cancelled)), int(np.count_nonzero(never & cancelled)),
        why.cause if why is not None else None, why.blocked_by if why is not None else (),
    )  # fmt: skip
    return told if told.late or told.dead or told.cancelled else None


def _layer(layer: Layer, found: Sequence[Labels]) -> LayerFreedom | None:
    shape = layer.weight.shape
    fitting = [one for one in found if one.shape == shape]
    if not fitting or len(layer.axes) != len(shape):
        return None
    try:
        labels = units(fitting, layer.axes, shape, layer.groups)
    except (Unread, TooMany):
        return None
    return LayerFreedom(layer.name, len(labels), len(np.unique(labels)), classes(labels))


def classes(labels: Array) -> tuple[tuple[int, ...], ...]:
    """Return the sets of two or more equal labels, by the places they stand at."""
    order = np.argsort(labels, kind="stable")
    ranked = labels[order]
    ends = np.flatnonzero(np.diff(ranked)) + 1
    return tuple(sorted(tuple(int(k) for k in part) for part in np.split(order, ends) if len(part) > 1))


def movements(graph: Graph, frozen: Callable[[Tensor], bool] | None = None) -> dict[str, Moving]:
    """Return, by name of a parameter's value in the graph, when each of its elements first moves.

    What would not move whatever the numbers in the graph were has no path to an output here: that is no fault of the
    numbers, and not told.
    """
    return _movements(shaped(sound(graph)), frozen or (lambda tensor: tensor.buffer))[1]


def _movements(graph: Graph, kept: Callable[[Tensor], bool]) -> tuple[Moves, dict[str, Moving]]:
    view = View(graph)
    walk = Moves(view, kept)
    walk.run()
    found = {name: walk.moving[key] for name, key in walk.key.items() if key in walk.moving}
    if all(_ever(moving) for moving in found.values()):
        return walk, found
    other = Moves(view, kept, generic=True)
    other.once()
    for name, moving in found.items():
        known = other.moving.get(other.key[name])
        if known is not None and not _ever(moving):
            read = moving.reach & ((known.step > 0) | known.cancelled | moving.cancelled)
            found[name] = replace(moving, reach=read)
    return walk, found


def _ever(moving: Moving) -> bool:
    return bool(((moving.step > 0) | moving.cancelled | ~moving.reach).all())
