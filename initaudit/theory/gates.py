"""Parameters that are zero or nearly so and multiply what other layers make: behind them, gradients sleep.

They are found by their values and by what reads them, whatever they are called. A second walk with these at work says
what the branches behind them would do, as the probe does it by running them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from initaudit.graph.view import View
from initaudit.layers.spots import Place, Places, reached
from initaudit.theory.engine import Walk
from initaudit.theory.weights import Weights
from initaudit.types import Measured, Signal, Tensor

_SMALL = 1e-2  # of a factor per channel
_TINY = 1e-3  # of a matrix's std, in terms of one that keeps variance
_FACTORS = {"mul": (0, 1)}
_PRODUCTS = {
    "linear": (1,), "conv": (1,), "conv_transpose": (1,), "gemm": (0, 1), "matmul": (0, 1), "einsum": (0, 1, 2),
}  # fmt: skip
_NORMS = (1,)
_FAR = 400  # values that are followed
_WAKES = 10.0  # times the gradient that a layer gets once gates are open, if it sleeps behind one


@dataclass(frozen=True, slots=True)
class Gate:
    """A parameter that keeps a branch shut."""

    value: str
    name: str  # of the tensor
    nodes: frozenset[int]
    operands: frozenset[str]  # what the nodes read, where the parameter is changed on the way
    factor: bool
    sides: frozenset[tuple[int, str]]  # products of two signals, with the operand that a shut matrix makes
    fan: float
    count: int

    @property
    def opened(self) -> tuple[float, float]:
        """Mean and variance with which it is at work."""
        return (1.0, 0.0) if self.factor else (0.0, 1 / max(1.0, self.fan))

    @property
    def size(self) -> float:
        """Norm of the whole when it is at work."""
        mean, variance = self.opened
        return math.sqrt(self.count * (variance + mean * mean))


def gates(places: Places, weights: Weights, measured: Sequence[Measured]) -> tuple[Gate, ...]:
    """Return the parameters that may be gates."""
    known = {name for m in measured for tensor, _ in m.tensors for name in (tensor.name, *tensor.parts)}
    found: list[Gate] = []
    for value, tensor in places.view.graph.constants.items():
        if not tensor.is_float or not tensor.size or (tensor.name not in known and tensor.buffer):
            continue
        largest, std = _size(weights, tensor)
        if largest is None or not largest <= _SMALL:
            continue
        nodes: dict[int, str] = {}
        factor = False
        for at, position, _ in places.meetings(value):
            node = places.view.nodes[at]
            by_element = position in _FACTORS.get(node.op, _NORMS if places.view.family(node) == "norm" else ())
            if by_element or position in _PRODUCTS.get(node.op, ()):
                nodes[at] = node.inputs[position]
                factor = factor or by_element
        fan = _fan(places, tensor)
        long = sum(extent > 1 for extent in tensor.shape)
        small = factor and long < 2
        if not small and largest:
            small = len(tensor.shape) > 1 and std < _TINY / math.sqrt(fan)
        if nodes and (small or not largest):
            operands = frozenset(nodes.values()) - {value}
            factor = factor or len(tensor.shape) < 2
            found.append(
                Gate(value, tensor.name, frozenset(nodes), operands, factor, _sides(places.view, nodes), fan,
                     tensor.size)
            )  # fmt: skip
    return tuple(found)


def _size(weights: Weights, tensor: Tensor) -> tuple[float | None, float]:
    stats = weights.stats(tensor)
    if stats is not None and stats.count:
        return max(abs(stats.min), abs(stats.max)), stats.std
    values = weights.loaded(tensor)
    if values is None or not values.size or values.dtype.kind != "f":
        return None, 0.0
    return float(np.max(np.abs(values))), float(np.std(values))


def _sides(view: View, nodes: Iterable[int]) -> frozenset[tuple[int, str]]:
    todo = [out for at in nodes for out in view.nodes[at].outputs if out]
    seen, sides = set(todo), set()
    while todo and len(seen) < _FAR:
        name = todo.pop()
        for use in view.readers(name):
            node = view.nodes[use.node]
            if node.op == "mul" and len(view.moving(node)) > 1:
                sides.add((use.node, name))
            elif view.family(node) == "move" or node.op == "tanh" or (len(view.moving(node)) == 1 and node.op == "add"):
                todo += [out for out in node.outputs if out and out not in seen]
                seen.update(node.outputs)
    return frozenset(sides)


def _fan(places: Places, tensor: Tensor) -> float:
    own = [f for f in places.founds if f.weight.name == tensor.name]
    if own and len(own[0].axes) == len(own[0].weight.shape):
        inputs = [n for label, n in zip(own[0].axes, own[0].weight.shape, strict=True) if label in "ik"]
        return float(max(1, math.prod(inputs)))
    return tensor.size / max(1, tensor.shape[0]) if tensor.shape else 1.0


def shut(found: Sequence[Gate], walk: Walk) -> tuple[Gate, ...]:
    """Return the gates whose operands really are small: 1 + w, or exp(w), of a zero w lets everything pass."""
    out = []
    for gate in found:
        if all(_small(walk, name) for name in gate.operands):
            closing = {at for at, name in gate.sides if _small(walk, name)}
            out.append(replace(gate, nodes=gate.nodes | closing))
    return tuple(out)


def _small(walk: Walk, name: str) -> bool:
    values = walk.values(name)
    if values is not None and values.dtype.kind == "f":
        return bool(np.max(np.abs(values), initial=0.0) <= _SMALL)
    found = walk.weights.of(name) if name in walk.view.fixed else None
    if found is not None:
        return abs(found.mean) + 3 * math.sqrt(found.variance) <= _SMALL
    kernel = walk.kernels.get(name)
    return kernel is not None and bool(kernel.same[0] <= _SMALL**2 / 9)


def free(view: View, found: Iterable[Gate], ends: Iterable[str]) -> frozenset[int]:
    """Return the nodes from which a way leads to the ends past all gates."""
    barred = {at for gate in found for at in gate.nodes}
    todo = [view.producer[name] for name in ends if name in view.producer]
    seen = set(todo)
    while todo:
        at = todo.pop()
        if at in barred:
            continue
        for name in view.nodes[at].inputs:
            before = view.producer.get(name)
            if before is not None and before not in seen:
                seen.add(before)
                todo.append(before)
    return frozenset(seen - barred)


def woken(
    places: Places,
    own: Sequence[Place],
    rows: Sequence[Signal],
    later: Sequence[Signal],
    closed: Sequence[Gate],
    walk: Walk,
    ends: Sequence[str],
) -> list[Signal]:
    """Return what is said of each layer with what it would do were its gate at work.

    Args:
        places: of the graph.
        own: the place of each layer.
        rows: what is said of the layers as they are.
        later: the same with gates at work.
        closed: the gates.
        walk: through the graph as it is.
        ends: where gradients start.
    """
    eager: Mapping[str, float] = {g.value: _gradient(walk, g) / g.size if g.size > 0 else 0.0 for g in closed}
    past = free(places.view, closed, ends)
    by_node = {at: gate for gate in closed for at in sorted(gate.nodes)}
    out = []
    for row, now, place in zip(rows, later, own, strict=True):
        mine = next((gate for gate in closed if gate.value in place.constants), None)
        kept = replace(row, gate_gradient=eager[mine.value]) if mine is not None else row
        sleeps = _wakes(row, now) and not (row.gradient and past.intersection(place.nodes))
        gate = _before(places.view, place, by_node) if sleeps else None
        if gate is None:
            out.append(kept)
            continue
        out.append(
            replace(
                kept,
                behind_gate=True,
                gate=gate.name,
                gate_gradient=kept.gate_gradient if mine is not None else eager[gate.value],
                open_forward_variance=now.forward_variance,
                open_relative_gradient=now.relative_gradient,
            )
        )
    return out


def _gradient(walk: Walk, gate: Gate) -> float:
    found = walk.learned.get(gate.value)
    return math.sqrt(max(0.0, found.square)) if found is not None and math.isfinite(found.square) else 0.0


def _wakes(row: Signal, now: Signal) -> bool:
    if row.gradient is None or not now.gradient:
        return False
    return now.gradient >= _WAKES * row.gradient


def _before(view: View, place: Place, by_node: Mapping[int, Gate]) -> Gate | None:
    goals = frozenset(by_node) - frozenset(place.nodes)
    at = reached(view, place.nodes, goals)
    return None if at is None else by_node[at]
