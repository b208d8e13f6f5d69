"""LSTM, GRU and RNN, step by step as ONNX defines them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from initaudit.errors import UnsupportedError
from initaudit.live.execute.case import Case, operator, plain

Act = Callable[[torch.Tensor], torch.Tensor]
State = tuple[torch.Tensor, ...]
Step = Callable[[torch.Tensor, State], State]

_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_DEFAULTS = {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}


@operator("lstm", "gru", "rnn")
def _recurrent(c: Case) -> Any:
    kind = c.node.op
    x = c.x().transpose(0, 1) if c.get("layout", 0) else c.x()
    w, r, bias, lengths = c.x(1), c.x(2), c.maybe(3), c.maybe(4)
    directions, hidden = w.shape[0], r.shape[-1]
    states = [_initial(c, 5, x, directions, hidden)]
    if kind == "lstm":
        states.append(_initial(c, 6, x, directions, hidden))
    acts = _activations(c, directions)
    reverse = c.text("direction", "forward")
    outs, lasts = [], []
    for d in range(directions):
        back = d == 1 or reverse == "reverse"
        b = torch.zeros(2 * _GATES[kind] * hidden, dtype=x.dtype) if bias is None else bias[d]
        step = _step(c, kind, d, r[d], b, acts[d])
        inputs = _turned(x, lengths) if back else x
        gates = F.linear(inputs, w[d], b[: _GATES[kind] * hidden])
        out, last = _rolled(gates, tuple(s[d] for s in states), step, lengths)
        outs.append(_turned(out, lengths) if back else out)
        lasts.append(last)
    y = torch.stack(outs, 1)
    ends = [torch.stack([last[k] for last in lasts]) for k in range(len(states))]
    if c.get("layout", 0):
        return y.permute(2, 0, 1, 3), *(end.transpose(0, 1) for end in ends)
    return y, *ends


def _initial(c: Case, at: int, x: torch.Tensor, directions: int, hidden: int) -> torch.Tensor:
    given = c.maybe(at)
    if given is None:
        return torch.zeros(directions, x.shape[1], hidden, dtype=x.dtype)
    return given.transpose(0, 1) if c.get("layout", 0) else given


def _rolled(gates: torch.Tensor, state: State, step: Step, lengths: torch.Tensor | None) -> tuple[torch.Tensor, State]:
    outs = []
    for time in range(gates.shape[0]):
        new = step(gates[time], state)
        out = new[0]
        if lengths is not None:
            runs = (time < lengths).unsqueeze(1)
            new = tuple(torch.where(runs, n, o) for n, o in zip(new, state, strict=True))
            out = torch.where(runs, out, torch.zeros_like(out))
        state = new
        outs.append(out)
    return torch.stack(outs) if outs else gates.new_zeros(0, *state[0].shape), state


def _turned(x: torch.Tensor, lengths: torch.Tensor | None) -> torch.Tensor:
    """Return sequences in reverse, each within its own length."""
    if lengths is None:
        return x.flip(0)
    at = torch.arange(x.shape[0]).unsqueeze(1)
    at = torch.where(at < lengths, lengths - 1 - at, at)
    return x.gather(0, at.unsqueeze(-1).expand(x.shape).long())


def _step(c: Case, kind: str, d: int, r: torch.Tensor, bias: torch.Tensor, acts: Sequence[Act]) -> Step:
    hidden = r.shape[-1]
    rb = bias[_GATES[kind] * hidden :]
    clip = c.get("clip")
    held: Act = (lambda v: v.clamp(-clip, clip)) if clip else (lambda v: v)
    if kind == "rnn":
        return lambda g, s: (acts[0](held(g + F.linear(s[0], r, rb))),)
    if kind == "gru":
        return _gru(bool(c.get("linear_before_reset", 0)), hidden, r, rb, acts, held)
    peep = c.maybe(7)
    return _lstm(bool(c.get("input_forget", 0)), r, rb, None if peep is None else peep[d], acts, held)


def _gru(after: bool, hidden: int, r: torch.Tensor, rb: torch.Tensor, acts: Sequence[Act], held: Act) -> Step:
    f, g = acts[:2]

    def step(gates: torch.Tensor, state: State) -> State:
        h = state[0]
        given = gates.chunk(3, -1)
        own = F.linear(h, r[: 2 * hidden], rb[: 2 * hidden]).chunk(2, -1)
        z, reset = f(held(given[0] + own[0])), f(held(given[1] + own[1]))
        if after:
            new = g(held(given[2] + reset * F.linear(h, r[2 * hidden :], rb[2 * hidden :])))
        else:
            new = g(held(given[2] + F.linear(reset * h, r[2 * hidden :], rb[2 * hidden :])))
        return ((1 - z) * new + z * h,)

    return step


def _lstm(
    coupled: bool, r: torch.Tensor, rb: torch.Tensor, peep: torch.Tensor | None, acts: Sequence[Act], held: Act
) -> Step:
    f, g, h_of = acts[:3]

    def step(gates: torch.Tensor, state: State) -> State:
        h, cell = state
        i, o, forget, new = (gates + F.linear(h, r, rb)).chunk(4, -1)
        p_i, p_o, p_f = (0.0, 0.0, 0.0) if peep is None else peep.chunk(3)
        i = f(held(i + p_i * cell))
        forget = 1 - i if coupled else f(held(forget + p_f * cell))
        cell = forget * cell + i * g(held(new))
        return f(held(o + p_o * cell)) * h_of(cell), cell

    return step


def _activations(c: Case, directions: int) -> list[list[Act]]:
    kind = c.node.op
    each = len(_DEFAULTS[kind])
    names = [plain(name).lower() for name in c.get("activations", _DEFAULTS[kind] * directions)]
    if len(names) == each < each * directions:
        names = names * directions
    alphas, betas = iter(c.get("activation_alpha", ())), iter(c.get("activation_beta", ()))
    acts = [_activation(name, alphas, betas) for name in names]
    return [acts[d * each : (d + 1) * each] for d in range(directions)]


def _activation(name: str, alphas: Any, betas: Any) -> Act:
    simple: dict[str, Act] = {
        "sigmoid": torch.sigmoid, "tanh": torch.tanh, "relu": F.relu, "softsign": F.softsign, "softplus": F.softplus,
    }  # fmt: skip
    if name in simple:
        return simple[name]
    defaults = {
        "leakyrelu": 0.01,
        "elu": 1.0,
        "thresholdedrelu": 1.0,
        "hardsigmoid": 0.2,
        "affine": 1.0,
        "scaledtanh": 1.0,
    }
    if name not in defaults:
        raise UnsupportedError(f"a recurrent layer with {name[:40]}")
    a = float(next(alphas, defaults[name]))
    if name == "leakyrelu":
        return lambda v: F.leaky_relu(v, a)
    if name == "elu":
        return lambda v: F.elu(v, a)
    if name == "thresholdedrelu":
        return lambda v: torch.where(v >= a, v, torch.zeros_like(v))
    b = float(next(betas, {"hardsigmoid": 0.5, "affine": 0.0, "scaledtanh": 1.0}[name]))
    if name == "hardsigmoid":
        return lambda v: (a * v + b).clamp(0, 1)
    if name == "affine":
        return lambda v: a * v + b
    return lambda v: a * torch.tanh(b * v)
