"""The products inside a recurrent operation: of each matrix with what it meets at every step, gate by gate.

They are no values of the graph. Those of input weights follow from the input; those of recurrent weights from the
states one step earlier, which are the outputs moved by a step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from initaudit.errors import UnsupportedError
from initaudit.live.execute.case import Case, Settings
from initaudit.live.execute.recurrent import _activations
from initaudit.types import Node, Ref

Value = Callable[[str], Any]  # of one run, by name


@dataclass(frozen=True, slots=True)
class Matrix:
    """A matrix of a recurrent operation."""

    which: str  # ih, hh, hr
    operand: str  # value that holds it
    direction: int
    stacked: bool  # the operand holds all directions

    def of(self, value: torch.Tensor) -> torch.Tensor:
        """Return the matrix (out, in) in its operand."""
        return value[self.direction] if self.stacked else value


def matrices(node: Node) -> list[Matrix]:
    """Return the matrices of a recurrent node, direction by direction."""
    if node.attrs.get("layout") != "torch":
        reverse = node.attrs.get("direction", b"forward")
        both = reverse in ("bidirectional", b"bidirectional")
        return [
            Matrix(which, node.inputs[at], d, True)
            for d in range(1 + both)
            for at, which in ((1, "ih"), (2, "hh"))
            if len(node.inputs) > at
        ]
    count = _each(node)
    places = [(0, "ih"), (1, "hh")] + ([(count - 1, "hr")] if node.attrs.get("projections") else [])
    return [
        Matrix(which, node.inputs[1 + d * count + at], d, False)
        for d in range(_directions(node))
        for at, which in places
    ]


def products(node: Node, matrix: Matrix, value: Value, made: Sequence[Any]) -> torch.Tensor:
    """Return the products (all steps and inputs, out) of a matrix in one run.

    Args:
        node: the operation.
        matrix: of it.
        value: tells values of the run by name.
        made: what the node made with the weights as they are.

    Raises:
        UnsupportedError: it is of a form that is not taken apart.
    """
    if matrix.which == "ih":
        x = _rows(value(node.inputs[0]))
        return F.linear(x, matrix.of(value(matrix.operand)))
    if matrix.which == "hr":
        return _outputs(node, matrix.direction, made)
    if node.attrs.get("layout") != "torch":
        return _onnx(node, matrix, value, made)
    weight = matrix.of(value(matrix.operand))
    return F.linear(_rows(_before(node, matrix.direction, value, made)), weight)


def _rows(x: torch.Tensor) -> torch.Tensor:
    return x.reshape(-1, x.shape[-1])


def _each(node: Node) -> int:
    return 2 + 2 * bool(node.attrs.get("biases")) + bool(node.attrs.get("projections"))


def _directions(node: Node) -> int:
    count = node.attrs.get("directions", 1)
    return count if isinstance(count, int) else 1


# ---- torch


def _outputs(node: Node, direction: int, made: Sequence[Any]) -> torch.Tensor:
    """Return the states that one direction hands out at every step."""
    y = made[0]
    if not isinstance(y, torch.Tensor):
        raise UnsupportedError(f"a {node.op} without outputs")
    width = y.shape[-1] // _directions(node)
    return y[..., direction * width : (direction + 1) * width]


def _before(node: Node, direction: int, value: Value, made: Sequence[Any]) -> torch.Tensor:
    """Return the states that each step starts from."""
    states = node.inputs[1 + _each(node) * _directions(node) :]
    if not states:
        raise UnsupportedError(f"a {node.op} without a first state")
    first = value(states[0])
    if node.attrs.get("cell"):
        return torch.as_tensor(first)
    own = _outputs(node, direction, made)
    start = first[direction]
    sizes = _packed(node, value)
    if sizes is not None:
        return _packed_before(own, start, sizes, direction == 1)
    time = 1 if _batch_first(node) and own.dim() == 3 else 0
    start = start.unsqueeze(time).to(own.dtype)
    if direction == 1:
        return torch.cat([own.narrow(time, 1, own.shape[time] - 1), start], time)
    return torch.cat([start, own.narrow(time, 0, own.shape[time] - 1)], time)


def _packed(node: Node, value: Value) -> list[int] | None:
    """Return how many sequences each step of packed ones has, None where they are not packed."""
    args = node.call.args if node.call is not None else ()
    at = next((k for k, arg in enumerate(args) if isinstance(arg, tuple) and _is_weights(node, arg)), 2)
    if at < 3 or not isinstance(args[1], Ref):
        return None
    return [int(n) for n in torch.as_tensor(value(args[1].name)).tolist()]


def _is_weights(node: Node, arg: tuple[Any, ...]) -> bool:
    return len(arg) == _each(node) * _directions(node) and isinstance(arg[0], Ref) and arg[0].name == node.inputs[1]


def _batch_first(node: Node) -> bool:
    args = node.call.args if node.call is not None else ()
    return bool(args) and args[-1] is True


def _packed_before(own: torch.Tensor, start: torch.Tensor, sizes: Sequence[int], back: bool) -> torch.Tensor:
    steps = list(torch.split(own, list(sizes)))
    out = []
    for k, step in enumerate(steps):
        if back:
            known = steps[k + 1] if k + 1 < len(steps) else step[:0]
            out.append(torch.cat([known, start[len(known) : len(step)]]))
        else:
            out.append(steps[k - 1][: len(step)] if k else start[: len(step)])
    return torch.cat(out)


# ---- ONNX


def _onnx(node: Node, matrix: Matrix, value: Value, made: Sequence[Any]) -> torch.Tensor:
    y, d = made[0], matrix.direction
    swapped = bool(node.attrs.get("layout", 0))
    own = (y.permute(1, 2, 0, 3) if swapped else y)[:, d]  # (steps, inputs, units)
    given = node.inputs[5] if len(node.inputs) > 5 else ""
    start = torch.zeros_like(own[:1])
    if given:
        first = value(given)
        start = (first.transpose(0, 1) if swapped else first)[d : d + 1].to(own.dtype)
    reverse = node.attrs.get("direction", b"forward")
    back = d == 1 or reverse in ("reverse", b"reverse")
    before = torch.cat([own[1:], start]) if back else torch.cat([start, own[:-1]])
    weight = matrix.of(value(matrix.operand))
    out = F.linear(before, weight)
    if node.op == "gru" and not node.attrs.get("linear_before_reset", 0):
        hidden = own.shape[-1]
        reset = _reset(node, d, value, before, swapped)
        out = torch.cat([out[..., : 2 * hidden], F.linear(reset * before, weight[2 * hidden :])], -1)
    lengths = value(node.inputs[4]) if len(node.inputs) > 4 and node.inputs[4] else None
    if lengths is not None:
        out = out[torch.arange(out.shape[0])[:, None] < torch.as_tensor(lengths)[None, :]]
    return _rows(out)


def _reset(node: Node, d: int, value: Value, before: torch.Tensor, swapped: bool) -> torch.Tensor:
    """Return the reset gates of a GRU that applies them before its last product."""
    x, w, r = (value(node.inputs[k]) for k in range(3))
    x = x.transpose(0, 1) if swapped else x
    hidden = before.shape[-1]
    rows = slice(hidden, 2 * hidden)
    gate = F.linear(x, w[d][rows]) + F.linear(before, r[d][rows])
    if len(node.inputs) > 3 and node.inputs[3]:
        bias = value(node.inputs[3])[d]
        gate = gate + bias[rows] + bias[3 * hidden :][rows]
    held = [value(name) if name else None for name in node.inputs]
    return _activations(Case(node, held, Settings()), w.shape[0])[d][0](gate)
