"""From a graph and layers to their freedom."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from initaudit.freedom import Cause, Freedom, LayerFreedom, ParameterFreedom, surest, weakest
from initaudit.graph.view import View, sound
from initaudit.ops import family
from initaudit.symmetry.alike import Alike, First
from initaudit.symmetry.breaking import broken
from initaudit.symmetry.causes import Why, explained
from initaudit.symmetry.columns import may_agree
from initaudit.symmetry.engine import Unread, Walk, Weight
from initaudit.symmetry.inside import within
from initaudit.symmetry.labels import Labels, TooMany
from initaudit.symmetry.lenient import lenient
from initaudit.symmetry.merged import original, parted
from initaudit.symmetry.moves import taken
from initaudit.symmetry.moving import Moving
from initaudit.symmetry.moving import Walk as Moves
from initaudit.symmetry.rows import rows, units
from initaudit.symmetry.shapes import shaped
from initaudit.symmetry.starts import started
from initaudit.types import Array, Graph, Layer, Model, Tensor


def analyse(
    graph: Graph,
    layers: Sequence[Layer],
    frozen: Callable[[Tensor], bool] | None = None,
    *,
    merged: bool = False,
) -> Freedom:
    """Return what training can tell apart.

    Args:
        graph: as it was read; nothing need be fused.
        layers: whose units to tell.
        frozen: whether a tensor is no trainable parameter; by default what is known to be a buffer.
        merged: whether the file holds equal parameters once, as ONNX exporters write them.
    """
    kept = frozen or (lambda tensor: tensor.buffer)
    if merged:
        graph = parted(graph)
    loose = _open(graph)
    graph = shaped(sound(graph))
    view = View(graph)
    walk = Walk(view, kept)
    made: list[LayerFreedom | None] = [None] * len(layers)
    left = list(range(len(layers)))  # layers whose units are not all apart
    first = First()

    def apart(walk: Walk) -> bool:
        first.see(walk)
        for k, one in zip(left, told(walk, [layers[k] for k in left]), strict=True):
            made[k] = one
        left[:] = [k for k in left if (one := made[k]) is None or one.width < one.units]
        return all(made[k] is None for k in left) and (walk.rounds > 1 or not may_agree(walk))

    walk.run(apart)
    moves, found = _movements(view, kept, walk, first, loose)
    why = explained(moves, found)
    rows_: dict[object, list[ParameterFreedom | None]] = {}
    for name, moving in found.items():
        tensor = graph.constants[name]
        rows_.setdefault(original(tensor), []).append(_parameter(tensor, moving, why.get(name)))
    parameters = tuple(p for p in map(surest, rows_.values()) if p is not None)
    steps = max((max((step for step, _ in p.late), default=1) for p in parameters), default=1)
    if not (walk.stable or walk.enough):
        return Freedom((None,) * len(layers), parameters, steps=steps, why="labels did not settle")
    units_ = broken(walk, layers, started(walk, layers, lenient(walk, layers, made, told)), told)
    return Freedom(units_, parameters, tuple(dict.fromkeys(walk.unread.values())), walk.rounds, steps)


def of_model(model: Model, layers: Sequence[Layer]) -> Freedom:
    """Return what training can tell apart in a model, whichever of the graphs that its file leaves open is meant."""
    graphs = () if model.graph is None else (model.graph, *model.other)
    merged = model.graph_source == "onnx"
    names = model.frozen

    def frozen(tensor: Tensor) -> bool:
        return tensor.buffer or tensor.name in names

    found_ = weakest([analyse(graph, layers, frozen, merged=merged) for graph in graphs])
    return replace(found_, layers=within(model.modules, layers, found_.layers)) if found_.layers else found_


def told(walk: Walk, layers: Sequence[Layer]) -> list[LayerFreedom | None]:
    """Return what the labels of a walk tell of the units of layers; None where that is nothing."""
    constants = walk.view.graph.constants
    by_key: dict[object, list[Labels]] = {}
    for name, labels in rows(walk).items():
        by_key.setdefault(constants[name].identity, []).extend(labels)
    wholes: dict[str, list[Tensor]] = {}
    for tensor in constants.values():
        wholes.setdefault(tensor.storage or tensor.name, []).append(tensor)
    names = {tensor.identity: name for name, tensor in constants.items()}
    made = []
    for layer in layers:
        part = layer.weight
        found = by_key.get(part.identity) or _part(part, wholes, by_key)
        value = walk.value(names[part.identity]) if part.identity in names else None
        alone = isinstance(value, Weight) and not set(layer.axes) - {"o", "s"}  # each element is a unit
        if not found and alone and isinstance(value, Weight) and not _is_bias(walk, names[part.identity]):
            found = [value.labels()]
        made.append(_layer(layer, found))
    return made


def _is_bias(walk: Walk, name: str) -> bool:
    """Whether a parameter is the bias of a product: its units are those of the weight, and told there."""
    return any(
        use.position == 2 and family(walk.view.nodes[use.node].op) == "weighted" for use in walk.view.readers(name)
    )


def _part(part: Tensor, wholes: Mapping[str, Sequence[Tensor]], found: Mapping[object, list[Labels]]) -> list[Labels]:
    """Return labels of what is one of several in a tensor, or some of its rows: a direction, an expert, queries."""
    for whole in wholes.get(part.storage or part.name, ()):
        deep = len(whole.shape) - len(part.shape)
        if deep < 0 or not part.size or whole.strides is not None or part.strides is not None:
            continue
        each = part.size if deep else math.prod(part.shape[1:])
        at, rest = divmod(part.offset - whole.offset, max(1, each))
        out = found.get(whole.identity, [])
        if rest or at < 0 or not out:
            continue
        if not deep and whole.shape[1:] == part.shape[1:] and at + part.shape[0] <= whole.shape[0]:
            return [taken(labels, 0, np.arange(at, at + part.shape[0])) for labels in out]
        if deep and whole.shape[deep:] == part.shape and at < math.prod(whole.shape[:deep]):
            for k in np.unravel_index(at, whole.shape[:deep]):
                out = [taken(labels, 0, np.array([k]), keep=False) for labels in out]
            return out
    return []


def _parameter(tensor: Tensor, moving: Moving, why: Why | None) -> ParameterFreedom | None:
    step, cancelled, reach = np.broadcast_arrays(moving.step, moving.cancelled, moving.reach)
    if bool((step == 1).all()) or not reach.any():
        return None
    each = tensor.size // max(1, step.size)  # elements that share an entry

    def count(where: Array) -> int:
        return each * int(np.count_nonzero(where))

    late = tuple((s, count(step == s)) for s in range(2, int(step.max(initial=0)) + 1))
    never = reach & (step == 0)
    steps = step[step > 0]
    dead = count((never if steps.size else never | ~reach) & ~cancelled)  # of what never moves also what nothing reads
    why = why or Why(Cause.DESIGN if dead else None)
    told = ParameterFreedom(
        tensor.name, tensor.size, int(steps.min()) if steps.size else 0, tuple(pair for pair in late if pair[1]),
        dead, count(never & cancelled), why.cause, tuple(dict.fromkeys(why.blocked_by)),
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
    tied = classes(labels)
    return LayerFreedom(layer.name, len(labels), len(labels) - sum(len(one) - 1 for one in tied), tied)


def classes(labels: Array) -> tuple[tuple[int, ...], ...]:
    """Return the sets of two or more equal labels, by the places they stand at."""
    order = np.argsort(labels, kind="stable")
    ranked = labels[order]
    starts = np.flatnonzero(np.append(True, ranked[1:] != ranked[:-1]))
    sizes = np.diff(np.append(starts, len(order)))
    wide = sizes > 1
    pairs = zip(starts[wide].tolist(), sizes[wide].tolist(), strict=True)
    return tuple(sorted(tuple(order[start : start + size].tolist()) for start, size in pairs))


def movements(graph: Graph, frozen: Callable[[Tensor], bool] | None = None) -> dict[str, Moving]:
    """Return, by name of a parameter's value in the graph, when each of its elements first moves.

    What would not move whatever the numbers in the graph were has no path to an output here: that is no fault of the
    numbers, and not told.
    """
    view, kept = View(shaped(sound(graph))), frozen or (lambda tensor: tensor.buffer)
    ties, first = Walk(view, kept), First()
    ties.run(first.see)
    return _movements(view, kept, ties, first, _open(graph))[1]


def _open(graph: Graph) -> bool:
    """Whether a graph leaves open how long its inputs are, beyond how many there are."""
    return any(n is None for shape in graph.inputs.values() for n in (shape or (None, None))[1:])


def _movements(
    view: View, kept: Callable[[Tensor], bool], ties: Walk, first: First, loose: bool
) -> tuple[Moves, dict[str, Moving]]:
    lasting = Alike(ties.values, ties.grads) if ties.stable else None
    walk = Moves(view, kept, alike=lasting, first=first.alike, open=loose)
    walk.run()
    found = {name: walk.moving[key] for name, key in walk.key.items() if key in walk.moving}
    if all(_ever(moving) for moving in found.values()):
        return walk, found
    other = walk.like(generic=True)
    other.once()
    for name, moving in found.items():
        known = other.moving.get(other.key[name])
        if known is not None and not _ever(moving):
            read = moving.reach & ((known.step > 0) | known.cancelled | moving.cancelled)
            found[name] = replace(moving, reach=read)
    return walk, found


def _ever(moving: Moving) -> bool:
    return bool(((moving.step > 0) | moving.cancelled | ~moving.reach).all())
