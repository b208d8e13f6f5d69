"""Parameters that are zero or nearly so and multiply what other layers make: behind them, gradients sleep.

They are found by their values and by what reads them, whatever they are called. `opened` sets them to values with which
the branch behind them would be at work, so that it can be measured as it will be.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from initaudit.layers.spots import Places

_SMALL = 1e-2  # of a factor per channel
_TINY = 1e-3  # of a matrix's std, in terms of one that keeps variance
_FACTORS = {"mul": (0, 1)}
_PRODUCTS = {  # op -> places of what multiplies
    "linear": (1,), "conv": (1,), "conv_transpose": (1,), "gemm": (0, 1), "matmul": (0, 1), "einsum": (0, 1, 2),
}  # fmt: skip
_NORMS = (1,)
_FAR = 400  # values that are followed


@dataclass(frozen=True, slots=True)
class Gate:
    """A parameter that keeps a branch shut: the value that it is, and the nodes where it multiplies."""

    value: str
    name: str  # of the tensor
    nodes: frozenset[int]
    operands: frozenset[str]  # what the nodes read, where the parameter is changed on the way
    factor: bool  # multiplies element by element; else it is a matrix
    sides: frozenset[tuple[int, str]]  # products of two signals, with the operand that a shut matrix makes
    fan: float  # inputs of one of its units, where it is a matrix


def gates(places: Places, parameters: Mapping[str, torch.Tensor]) -> tuple[Gate, ...]:
    """Return the parameters that may be gates; each tensor once."""
    found: dict[int, Gate] = {}
    for value, leaf in parameters.items():
        if id(leaf) in found or not leaf.numel() or not leaf.is_floating_point():
            continue
        largest = float(leaf.detach().abs().amax())
        if not largest <= _SMALL:
            continue
        nodes: dict[int, str] = {}
        factor = False
        for at, position, _ in places.meetings(value):
            node = places.view.nodes[at]
            by_element = position in _FACTORS.get(node.op, _NORMS if places.view.family(node) == "norm" else ())
            if by_element or position in _PRODUCTS.get(node.op, ()):
                nodes[at] = node.inputs[position]
                factor = factor or by_element
        fan = _fan(places, value, leaf)
        long = sum(extent > 1 for extent in leaf.shape)
        small = factor and long < 2
        if not small and largest:
            small = leaf.dim() > 1 and float(leaf.detach().std()) < _TINY / math.sqrt(fan)
        if nodes and (small or not largest):
            operands = frozenset(nodes.values()) - {value}
            name = places.view.graph.constants[value].name if value in places.view.graph.constants else value
            found[id(leaf)] = Gate(value, name, frozenset(nodes), operands, factor, _sides(places, nodes), fan)
    return tuple(found.values())


def _sides(places: Places, nodes: Iterable[int]) -> frozenset[tuple[int, str]]:
    """Return where what a parameter's nodes make is multiplied into another signal, as modulations are."""
    view = places.view
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


def _fan(places: Places, value: str, leaf: torch.Tensor) -> float:
    tensor = places.view.graph.constants.get(value)
    own = [f for f in places.founds if tensor is not None and f.weight.name == tensor.name]
    if own and len(own[0].axes) == len(own[0].weight.shape):
        inputs = [n for label, n in zip(own[0].axes, own[0].weight.shape, strict=True) if label in "ik"]
        return float(max(1, math.prod(inputs)))
    return leaf.numel() / max(1, leaf.shape[0]) if leaf.dim() else 1.0


def watched(found: Iterable[Gate]) -> set[str]:
    """Return the values whose size tells whether gates are shut."""
    return {name for gate in found for name in gate.operands} | {name for gate in found for _, name in gate.sides}


def shut(found: Sequence[Gate], sizes: Mapping[str, float]) -> tuple[Gate, ...]:
    """Return the gates whose operands really are small: 1 + w, or exp(w), of a zero w lets everything pass.

    Args:
        found: what may be gates.
        sizes: largest absolute value of each operand that was seen.
    """
    out = []
    for gate in found:
        if all(sizes.get(name, 0.0) <= _SMALL for name in gate.operands):
            closing = {at for at, name in gate.sides if sizes.get(name, 1.0) <= _SMALL}
            out.append(replace(gate, nodes=gate.nodes | closing))
    return tuple(out)


def free(places: Places, found: Iterable[Gate], ends: Iterable[str]) -> frozenset[int]:
    """Return the nodes from which a way leads to the ends past all gates."""
    barred = {at for gate in found for at in gate.nodes}
    view = places.view
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


@contextmanager
def opened(found: Sequence[Gate], parameters: Mapping[str, torch.Tensor], seed: int) -> Iterator[None]:
    """Set gates to 1, or where they are matrices, draw them so that they keep variance; afterwards as before."""
    random = torch.Generator().manual_seed(seed)
    with _kept(found, parameters):
        for gate in found:
            leaf = parameters[gate.value]
            if gate.factor or leaf.dim() < 2:
                leaf.data.fill_(1.0)
            else:
                leaf.data.copy_(torch.randn(leaf.shape, generator=random) / math.sqrt(gate.fan))
        yield


@contextmanager
def zeroed(found: Sequence[Gate], parameters: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Set gates to 0; afterwards as before."""
    with _kept(found, parameters):
        for gate in found:
            parameters[gate.value].data.zero_()
        yield


@contextmanager
def _kept(found: Sequence[Gate], parameters: Mapping[str, torch.Tensor]) -> Iterator[None]:
    before = [(leaf := parameters[gate.value], leaf.detach().clone()) for gate in found]
    try:
        yield
    finally:
        with torch.no_grad():
            for leaf, value in before:
                leaf.copy_(value)
