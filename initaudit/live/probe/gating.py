"""How far the gates of LSTM, GRU and RNN layers are driven, from what goes in and what comes out.

Gates are no values of the graph. They are worked out once more from the inputs, the outputs one step earlier and the
weights: at the first step, from a state of zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from initaudit.types import Node

LAYERS = frozenset({"lstm", "gru", "rnn"})
_TANH = {("lstm", True): 2, ("lstm", False): 3, ("gru", True): 2, ("gru", False): 2}  # torch's order, ONNX's order
_RESET = {True: 0, False: 1}
_PARTS = {"lstm": 4, "gru": 3, "rnn": 1}
_NO_SLOPE, _LITTLE = 1e-6, 0.05

Value = Callable[[str], "torch.Tensor | None"]


@dataclass(frozen=True, slots=True)
class Driven:
    """The gates of one direction of a recurrent layer."""

    operands: frozenset[str]  # names of its weights
    dead: float  # share of gates, by unit, without slope for any input at any step
    saturated: float | None  # share with hardly any on average; None of functions that do not saturate


@dataclass(frozen=True, slots=True)
class _Direction:
    names: tuple[str, ...]
    w: torch.Tensor
    r: torch.Tensor
    bias: torch.Tensor | None
    recurrent_bias: torch.Tensor | None


def driven(node: Node, xs: Sequence[torch.Tensor], ys: Sequence[torch.Tensor], value: Value) -> list[Driven]:
    """Return how far gates are driven, a row per direction; nothing where the layer cannot be taken apart.

    Args:
        node: of one layer.
        xs: its inputs, one per run or one for all.
        ys: its outputs.
        value: tells weights by name.
    """
    torch_order = node.call is not None
    directions = (_of_torch(node, value) if torch_order else _of_onnx(node, value)) if xs else []
    out = []
    with torch.no_grad():
        for d, one in enumerate(directions):
            hidden = one.r.shape[-1]
            slopes = []
            for at, y in enumerate(ys):
                x = xs[min(at, len(xs) - 1)]
                steps = _steps(node, x, y, d, len(directions), hidden, torch_order)
                if steps is None or steps[0].shape[-1] != one.w.shape[-1]:
                    return []
                slopes.append(_slopes(node, one, *steps, torch_order))
            every = torch.cat(slopes)
            saturated = float((every.mean(0) < _LITTLE).double().mean())
            dead = float((every.amax(0) <= _NO_SLOPE).double().mean())
            out.append(Driven(frozenset(one.names), dead, None if _relu(node) else saturated))
    return out


def _of_torch(node: Node, value: Value) -> list[_Direction]:
    assert node.call is not None
    names = [name for name in node.inputs[1:] if name]
    weights = [(name, leaf) for name in names if (leaf := value(name)) is not None]
    starts = [at for at, (_, leaf) in enumerate(weights) if leaf.dim() == 2]
    pairs = list(zip(starts[0::2], starts[1::2], strict=False))
    out = []
    for k, (first, second) in enumerate(pairs):
        end = pairs[k + 1][0] if k + 1 < len(pairs) else len(weights)
        own = weights[first:end]
        bias = [leaf for _, leaf in own if leaf.dim() == 1]
        if second != first + 1 or len(bias) not in (0, 2) or own[1][1].shape[0] != own[0][1].shape[0]:
            return []
        out.append(_Direction(tuple(n for n, _ in own), own[0][1], own[1][1], *(bias or (None, None))))
    return out if all(one.r.shape[0] == _PARTS[node.op] * one.r.shape[1] for one in out) else []


def _of_onnx(node: Node, value: Value) -> list[_Direction]:
    names = [*node.inputs[1:4], "", "", ""][:3]
    w, r, b = (value(name) if name else None for name in names)
    if w is None or r is None or w.dim() != 3 or r.dim() != 3 or (names[2] and b is None):
        return []
    size = w.shape[1]
    return [
        _Direction(
            tuple(name for name in names if name), w[d], r[d],
            None if b is None else b[d, :size], None if b is None else b[d, size:],
        )
        for d in range(w.shape[0])
    ]  # fmt: skip


def _steps(
    node: Node, x: torch.Tensor, y: torch.Tensor, d: int, directions: int, hidden: int, torch_order: bool
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Return inputs and the states before each step, (time, batch, units)."""
    if torch_order:
        if x.dim() != 3 or y.dim() != 3 or y.shape[-1] != directions * hidden:
            return None
        y = y[..., d * hidden : (d + 1) * hidden]
        assert node.call is not None
        if node.call.args and node.call.args[-1] is True:
            x, y = x.transpose(0, 1), y.transpose(0, 1)
        back = d == 1
    else:
        if node.attrs.get("layout", 0) or x.dim() != 3 or y.dim() != 4:
            return None
        y, back = y[:, d], d == 1 or node.attrs.get("direction") in ("reverse", b"reverse")
    if back:
        x, y = x.flip(0), y.flip(0)
    return x, torch.cat([torch.zeros_like(y[:1]), y[:-1]])


def _slopes(node: Node, one: _Direction, x: torch.Tensor, before: torch.Tensor, torch_order: bool) -> torch.Tensor:
    """Return (times and inputs, gates) of the slopes of the gates, in terms of the steepest."""
    given = torch.nn.functional.linear(x, one.w, one.bias)
    own = torch.nn.functional.linear(before, one.r, one.recurrent_bias)
    parts = list(zip(given.chunk(_PARTS[node.op], -1), own.chunk(_PARTS[node.op], -1), strict=True))
    sums = [a + b for a, b in parts]
    if node.op == "gru":
        a, b = parts[2]
        sums[2] = a + torch.sigmoid(sums[_RESET[torch_order]]) * b
    tanh = _TANH.get((node.op, torch_order), 0)
    made = []
    for k, z in enumerate(sums):
        if _relu(node):
            made.append((z > 0).to(z.dtype))
        elif k == tanh:
            made.append(1 - torch.tanh(z).square())
        else:
            s = torch.sigmoid(z)
            made.append(4 * s * (1 - s))
    return torch.cat(made, -1).flatten(0, 1)


def _relu(node: Node) -> bool:
    named = node.attrs.get("activations") or ()
    told = str(node.attrs.get("nonlinearity", "")) + str(node.call.target if node.call else "") + str(named)
    return node.op == "rnn" and "relu" in told.lower()
