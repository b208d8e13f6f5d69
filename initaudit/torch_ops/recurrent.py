"""Recurrent functions: one node per layer, both directions in it, weights in torch's order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from initaudit.torch_ops.bench import Bench
from initaudit.types import Call, Ref

Values = Mapping[str, Any]
Outputs = tuple[str, ...]

GATES = {
    "lstm": ("input", "forget", "cell", "output"),
    "gru": ("reset", "update", "new"),
    "rnn": ("new",),
}  # in torch's order


def _attrs(
    bench: Bench, kind: str, activation: str, weights: Sequence[Any], directions: int, biases: bool
) -> dict[str, Any]:
    shape = bench.shape(weights[0])
    rows = shape[0] if shape else None
    attrs: dict[str, Any] = {
        "layout": "torch", "directions": directions, "biases": biases, "gates": GATES[kind],
        "projections": len(weights) // directions > (4 if biases else 2),
        "hidden_size": rows // len(GATES[kind]) if isinstance(rows, int) else None,
    }  # fmt: skip
    return {**attrs, "activation": activation} if activation else attrs


def _layers(kind: str, activation: str = "") -> Callable[[Bench, Values, Outputs, Call], bool]:
    """Return a handler of a function over all time steps and layers, of padded or packed sequences."""

    def run(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
        x, *rest = values.values()
        taken = _arguments(kind, rest)
        if not isinstance(x, Ref) or taken is None:
            return False
        packed, states, weights, (biases, count, *further) = taken
        directions = 2 if further[2] else 1
        if not isinstance(count, int) or count < 1 or len(weights) % (count * directions) or not weights:
            return False
        each = len(weights) // count
        ends: list[list[str]] = [[] for _ in states]
        for layer in range(count):
            own = weights[layer * each : (layer + 1) * each]
            last = layer == count - 1
            y = outputs[0] if last else bench.fresh(outputs[0])
            if count == 1:
                finals, at = list(outputs[1:]), states
            else:
                finals = [bench.fresh(name) if name else "" for name in outputs[1:]]
                at = [_part(bench, state, layer * directions, directions, outputs[0]) for state in states]
            for end, name in zip(ends, finals, strict=False):
                end.append(name)
            hx: Any = tuple(at) if kind == "lstm" else at[0]
            one = Call(call.target, (x, *packed, hx, tuple(own), biases, 1, *further))
            inputs = [bench.operand(v) for v in (x, *own, *at)]
            attrs = _attrs(bench, kind, activation, own, directions, bool(biases))
            bench.emit(kind, inputs, (y, *finals), attrs, one)
            x = Ref(y)
        if count > 1:
            for name, parts in zip(outputs[1:], ends, strict=False):
                if name:
                    pieces = tuple(Ref(p) for p in parts)
                    bench.emit("concat", [p.name for p in pieces], (name,), {"axis": 0}, bench.called("cat", pieces, 0))
        return True

    return run


def _part(bench: Bench, state: Any, start: int, length: int, near: str) -> Any:
    index = (slice(start, start + length),)
    out = bench.fresh(near)
    bench.emit(
        "slice", (bench.operand(state),), (out,), {"index": index}, bench.called("narrow", state, 0, start, length)
    )
    return Ref(out)


def _arguments(kind: str, rest: list[Any]) -> tuple[tuple[Any, ...], list[Any], list[Any], list[Any]] | None:
    """Return what says how the sequences are packed, first states, weights and flags."""
    at = next((k for k, v in enumerate(rest) if isinstance(v, tuple) and len(v) > (2 if kind == "lstm" else 1)), None)
    if at is None or not 1 <= at <= 2 or len(rest) < at + 6:
        if kind != "lstm" or len(rest) < 7:
            return None
        at = 1 if isinstance(rest[0], tuple) else 2  # two weights, no bias: as long as the states
    states = rest[at - 1]
    weights = rest[at]
    flags = rest[at + 1 :]
    if not isinstance(weights, tuple) or not all(isinstance(w, Ref) for w in weights):
        return None
    states = list(states) if isinstance(states, tuple) else [states]
    if len(flags) < 5 or not all(isinstance(s, Ref) for s in states):
        return None
    return tuple(rest[: at - 1]), states, list(weights), flags


def _cell(kind: str, activation: str = "") -> Callable[[Bench, Values, Outputs, Call], bool]:
    """Return a handler of a function over one time step: its results are the states."""

    def run(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
        x, hx = values.get("x"), values.get("hx")
        states = hx if isinstance(hx, tuple) else (hx,)
        weights = [w for name in ("w_ih", "w_hh", "b_ih", "b_hh") if (w := values.get(name)) is not None]
        if not isinstance(x, Ref) or not all(isinstance(v, Ref) for v in (*states, *weights)) or len(weights) < 2:
            return False
        attrs = _attrs(bench, kind, activation, weights, 1, len(weights) > 2)
        bench.emit(kind, [v.name for v in (x, *weights, *states)], outputs, {**attrs, "cell": True}, call)
        return True

    return run


HANDLERS: Mapping[str, Callable[[Bench, Values, Outputs, Call], bool]] = {
    "lstm": _layers("lstm"), "gru": _layers("gru"),
    "rnn_tanh": _layers("rnn", "tanh"), "rnn_relu": _layers("rnn", "relu"),
    "lstm_cell": _cell("lstm"), "gru_cell": _cell("gru"),
    "rnn_tanh_cell": _cell("rnn", "tanh"), "rnn_relu_cell": _cell("rnn", "relu"),
}  # fmt: skip
