"""What recurrent cells do over time: covariances of two time steps, forward and backward.

All is kept for pairs of time steps (t, t + lag), for one input with itself ("same") and for two inputs ("cross"): a
matrix with a row per step and a column per lag. The state of a step is made from that of the step before, so the
pairs of one lag follow from each other. Gates are independent of each other and of the state (mean field; Chen,
Pennington, Schoenholz 2018, Gilboa et al. 2019).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from initaudit.theory.recurrent_curves import Curve, Function, relu, relu_slope, sigmoid, sigmoid_slope, tanh_slope
from initaudit.types import Array


def _tanh(x: Array) -> Array:
    out: Array = np.tanh(x)
    return out


FUNCTIONS: dict[str, tuple[Function, Function]] = {
    "tanh": (_tanh, tanh_slope),
    "relu": (relu, relu_slope),
    "sigmoid": (sigmoid, sigmoid_slope),
}


@dataclass(frozen=True, slots=True)
class Weights:
    """Moments of what a cell has: the square of what a unit input or state adds to a pre-activation, and biases."""

    from_input: float  # of the pre-activation, per second moment of an input unit
    from_state: float
    biases: tuple[tuple[float, float], ...]  # mean and variance per gate, both biases together
    state_bias: tuple[float, float] = (0.0, 0.0)  # of a GRU: the one that the reset gate multiplies
    projected: float = 0.0  # LSTM with projections: second moment of the state per that of what is projected


@dataclass(slots=True)
class Both:
    """A moment of pairs of time steps, of one input with itself and of two inputs: (steps, lags)."""

    same: Array
    cross: Array

    @staticmethod
    def zeros(steps: int) -> Both:
        """Return zeros."""
        return Both(np.zeros((steps, steps)), np.zeros((steps, steps)))


@dataclass(slots=True)
class Run:
    """What a cell did: the states, what they were made from, and all that the way back needs."""

    states: Both
    before: Both  # the states one step earlier
    kept: dict[str, Both] = field(default_factory=dict)
    mean: float = 0.0


def lags(steps: int, at: int) -> Array:
    """Return the lags that a time step has later steps for."""
    return np.arange(steps - at)


def forward(kind: str, activation: str, inputs: Both, w: Weights, start: tuple[float, float, float, float]) -> Run:
    """Run a cell over time.

    Args:
        kind: rnn, lstm or gru.
        activation: of an rnn.
        inputs: second moments of the inputs' units.
        w: of the cell.
        start: second moments of the first state and memory: of one input, of two, likewise of the memory.
    """
    cell = {"rnn": _Rnn, "lstm": _Lstm, "gru": _Gru}[kind](activation, len(inputs.same), w, start)
    for t in range(cell.steps):
        cell.step(t, inputs)
    return cell.run()


class _Cell:
    """A cell that is run step by step: each step is paired with itself and all earlier ones.

    Matrices are over two time steps; entry [s, t] is told when step t >= s is run, and mirrored.
    """

    names: tuple[str, ...] = ()

    def __init__(self, steps: int, w: Weights, start: tuple[float, float, float, float]) -> None:
        self.steps, self.w = steps, w
        self.first = {"same": start[0], "cross": start[1]}
        self.held = {"same": start[2], "cross": start[3]}
        self.states, self.before = Both.zeros(steps), Both.zeros(steps)
        self.kept = {name: Both.zeros(steps) for name in self.names}
        self.mean = 0.0

    def step(self, t: int, inputs: Both) -> None:
        """Run one step."""
        earlier = np.arange(t + 1)
        for which in ("same", "cross"):
            before = _shifted(getattr(self.states, which), t, self.first[which])
            _put(getattr(self.before, which), t, before)
            arrived = self.w.from_input * getattr(inputs, which)[: t + 1, t]
            if which == "same":
                self.level(t, float(arrived[-1]), float(before[-1]))
            made = {name: getattr(both, which) for name, both in self.kept.items()}
            _put(getattr(self.states, which), t, self.made(t, earlier, arrived, before, made, which))

    def level(self, t: int, arrived: float, before: float) -> None:
        """Take the second moments that one input has at a step."""
        raise NotImplementedError

    def made(self, t: int, earlier: Array, arrived: Array, before: Array, k: dict[str, Array], which: str) -> Array:
        """Return the moments of the new state with those of earlier steps, and note all others."""
        raise NotImplementedError

    def run(self) -> Run:
        """Return what was done, by step and lag."""
        return Run(_lagged(self.states), _lagged(self.before), {n: _lagged(b) for n, b in self.kept.items()}, self.mean)


def _shifted(f: Array, t: int, start: float) -> Array:
    """Return the moments one step earlier of step t with those up to it; a first state is known to itself alone."""
    out = np.zeros(t + 1)
    if t:
        out[1:] = f[:t, t - 1]
    else:
        out[0] = start
    return out


def _put(f: Array, t: int, row: Array) -> None:
    f[: t + 1, t] = row
    f[t, : t + 1] = row


def _lagged(both: Both) -> Both:
    return Both(lagged(both.same), lagged(both.cross))


def lagged(f: Array) -> Array:
    """Return a matrix over two steps as (steps, lags)."""
    steps = len(f)
    out = np.zeros_like(f)
    for t in range(steps):
        out[t, : steps - t] = f[t, t:]
    return out


class _Rnn(_Cell):
    names = ("slope",)

    def __init__(self, activation: str, steps: int, w: Weights, start: tuple[float, float, float, float]) -> None:
        super().__init__(steps, w, start)
        f, df = FUNCTIONS[activation if activation in FUNCTIONS else "tanh"]
        self._curve, self._slope = (Curve(g, w.biases[0][0], steps) for g in (f, df))

    def level(self, t: int, arrived: float, before: float) -> None:
        variance = arrived + self.w.from_state * before + self.w.biases[0][1]
        self._curve.add(t, variance)
        self._slope.add(t, variance)
        self.mean += float(self._curve.mean[t]) / self.steps

    def made(self, t: int, earlier: Array, arrived: Array, before: Array, k: dict[str, Array], which: str) -> Array:
        z = arrived + self.w.from_state * before + self.w.biases[0][1]
        _put(k["slope"], t, self._slope.pair(t, earlier, z))
        return self._curve.pair(t, earlier, z)


_LSTM = ("input", "forget", "cell", "output")


class _Lstm(_Cell):
    names = (*_LSTM, *(f"{g} slope" for g in _LSTM), "memory", "memory before", "squashed", "squashed slope", "hidden")

    def __init__(self, _: str, steps: int, w: Weights, start: tuple[float, float, float, float]) -> None:
        super().__init__(steps, w, start)
        self._bias = dict(zip(_LSTM, w.biases, strict=True))
        functions = {g: FUNCTIONS["tanh" if g == "cell" else "sigmoid"] for g in _LSTM}
        self._curves = {g: Curve(functions[g][0], self._bias[g][0], steps) for g in _LSTM}
        self._slopes = {g: Curve(functions[g][1], self._bias[g][0], steps) for g in _LSTM}
        self._out, self._bent = Curve(_tanh, 0.0, steps), Curve(tanh_slope, 0.0, steps)

    def level(self, t: int, arrived: float, before: float) -> None:
        for g in _LSTM:
            variance = arrived + self.w.from_state * before + self._bias[g][1]
            self._curves[g].add(t, variance)
            self._slopes[g].add(t, variance)

    def made(self, t: int, earlier: Array, arrived: Array, before: Array, k: dict[str, Array], which: str) -> Array:
        z = arrived + self.w.from_state * before
        for g in _LSTM:
            _put(k[g], t, self._curves[g].pair(t, earlier, z + self._bias[g][1]))
            _put(k[f"{g} slope"], t, self._slopes[g].pair(t, earlier, z + self._bias[g][1]))
        _put(k["memory before"], t, _shifted(k["memory"], t, self.held[which]))
        open_, pass_ = self._curves["input"].mean, self._curves["forget"].mean
        # what memory and new content have in common, as both come from the same biases and inputs that are alike
        older = _met(k["cell"][: t + 1, t], open_, pass_)
        newer = _met_by(k["cell"], t, open_, pass_)
        memory = (
            k["forget"][: t + 1, t] * k["memory before"][: t + 1, t] + k["input"][: t + 1, t] * k["cell"][: t + 1, t]
        )
        memory += pass_[: t + 1] * open_[t] * older + open_[: t + 1] * pass_[t] * newer
        _put(k["memory"], t, memory)
        if which == "same":
            self._out.add(t, float(memory[-1]))
            self._bent.add(t, float(memory[-1]))
        _put(k["squashed"], t, self._out.pair(t, earlier, memory))
        _put(k["squashed slope"], t, self._bent.pair(t, earlier, memory))
        hidden = k["output"][: t + 1, t] * k["squashed"][: t + 1, t]
        _put(k["hidden"], t, hidden)
        return (self.w.projected or 1.0) * hidden


def _met(column: Array, opened: Array, passed: Array) -> Array:
    """Return E[state before s * content of t] for all s <= t, from E[content of s * content of t]."""
    out = np.zeros(len(column))
    for s in range(1, len(column)):
        out[s] = passed[s - 1] * out[s - 1] + opened[s - 1] * column[s - 1]
    return out


def _met_by(table: Array, t: int, opened: Array, passed: Array) -> Array:
    """Return E[content of s * state before t] for all s <= t."""
    out = np.zeros(t + 1)
    for s in range(t):
        out = passed[s] * out + opened[s] * table[: t + 1, s]
    return out


_GRU = ("reset", "update", "new")


class _Gru(_Cell):
    names = (*_GRU, *(f"{g} slope" for g in _GRU), "passed", "asked")

    def __init__(self, _: str, steps: int, w: Weights, start: tuple[float, float, float, float]) -> None:
        super().__init__(steps, w, start)
        self._bias = dict(zip(_GRU, w.biases, strict=True))
        functions = {g: FUNCTIONS["tanh" if g == "new" else "sigmoid"] for g in _GRU}
        self._curves = {g: Curve(functions[g][0], self._bias[g][0], steps) for g in _GRU}
        self._slopes = {g: Curve(functions[g][1], self._bias[g][0], steps) for g in _GRU}
        self._extra = w.state_bias[1] + w.state_bias[0] ** 2

    def level(self, t: int, arrived: float, before: float) -> None:
        recurrent = self.w.from_state * before
        for g in ("reset", "update"):
            self._both(g, t, arrived + recurrent + self._bias[g][1])
        reset = float(self._curves["reset"].square[t])
        self._both("new", t, arrived + self._bias["new"][1] + reset * (recurrent + self._extra))

    def _both(self, gate: str, t: int, variance: float) -> None:
        self._curves[gate].add(t, variance)
        self._slopes[gate].add(t, variance)

    def made(self, t: int, earlier: Array, arrived: Array, before: Array, k: dict[str, Array], which: str) -> Array:
        recurrent = self.w.from_state * before
        asked = recurrent + self._extra
        _put(k["asked"], t, asked)
        for g in ("reset", "update"):
            z = arrived + recurrent + self._bias[g][1]
            _put(k[g], t, self._curves[g].pair(t, earlier, z))
            _put(k[f"{g} slope"], t, self._slopes[g].pair(t, earlier, z))
        z = arrived + self._bias["new"][1] + k["reset"][: t + 1, t] * asked
        _put(k["new"], t, self._curves["new"].pair(t, earlier, z))
        _put(k["new slope"], t, self._slopes["new"].pair(t, earlier, z))
        rate = self._curves["update"].mean
        both = k["update"][: t + 1, t]
        passed = 1 - rate[: t + 1] - rate[t] + both
        _put(k["passed"], t, passed)
        older = _met(k["new"][: t + 1, t], 1 - rate, rate)
        newer = _met_by(k["new"], t, 1 - rate, rate)
        state: Array = passed * k["new"][: t + 1, t] + both * before
        state += (rate[: t + 1] - both) * older + (rate[t] - both) * newer
        return state


# ---- back


def through(d: Array, same: Array, cross: Array) -> Array:
    """Return the moments of a gradient times independent factors."""
    return np.stack([d[0] * same, d[1] * same + d[2] * (same - cross), d[2] * cross])


def backward(kind: str, run: Run, given: Array, w: Weights, units: float, memory: Array | None) -> dict[str, Array]:
    """Go back through time.

    Args:
        kind: rnn, lstm or gru.
        run: of `forward`.
        given: moments of the gradient of the states from outside, (3, steps, lags).
        w: of the cell.
        units: of the state, projected or not: as many as a row of the recurrent weights has.
        memory: moments of the gradient of the last memory, of an LSTM.

    Returns:
        moments of the gradients of the pre-activations by gate, of the states ("state"), and of the state and memory
        that it started with ("start", "start memory").
    """
    steps = given.shape[1]
    made: dict[str, Array] = {name: np.zeros_like(given) for name in _GATES[kind]}
    made["state"] = np.zeros_like(given)
    later = np.zeros((3, steps + 1))  # what comes from the step after, by lag
    held = np.zeros((3, steps + 1))
    if memory is not None:
        held[:, 0] = memory
    for t in range(steps - 1, -1, -1):
        n = steps - t
        state = given[:, t, :n] + later[:, :n]
        made["state"][:, t, :n] = state
        later, held = _STEPS[kind](run, t, n, state, held[:, :n], w, made)
        later, held = (np.pad(f, ((0, 0), (0, 1))) for f in (later, held))
    made["start"], made["start memory"] = later[:, :1], held[:, :1]
    del units
    return made


Step = Callable[[Run, int, int, Array, Array, Weights, dict[str, Array]], tuple[Array, Array]]


def _of(run: Run, name: str, t: int, n: int) -> tuple[Array, Array]:
    both = run.kept[name]
    return both.same[t, :n], both.cross[t, :n]


def _rnn_back(
    run: Run, t: int, n: int, state: Array, held: Array, w: Weights, made: dict[str, Array]
) -> tuple[Array, Array]:
    z = through(state, *_of(run, "slope", t, n))
    made["new"][:, t, :n] = z
    return w.from_state * z, held


def _lstm_back(
    run: Run, t: int, n: int, state: Array, held: Array, w: Weights, made: dict[str, Array]
) -> tuple[Array, Array]:
    hidden = state * (w.projected or 1.0)
    out = through(through(hidden, *_of(run, "squashed", t, n)), *_of(run, "output slope", t, n))
    memory = through(through(hidden, *_of(run, "output", t, n)), *_of(run, "squashed slope", t, n)) + held
    for gate, partner in (("forget", "memory before"), ("input", "cell"), ("cell", "input")):
        met = through(memory, *_of(run, partner, t, n))
        made[gate][:, t, :n] = through(met, *_of(run, f"{gate} slope", t, n))
    made["output"][:, t, :n] = out
    total = np.sum([made[g][:, t, :n] for g in _LSTM], axis=0)
    return w.from_state * total, through(memory, *_of(run, "forget", t, n))


def _gru_back(
    run: Run, t: int, n: int, state: Array, held: Array, w: Weights, made: dict[str, Array]
) -> tuple[Array, Array]:
    new = through(through(state, *_of(run, "passed", t, n)), *_of(run, "new slope", t, n))
    before = run.before.same[t, :n], run.before.cross[t, :n]
    apart = [a + b for a, b in zip(_of(run, "new", t, n), before, strict=True)]
    update = through(through(state, *apart), *_of(run, "update slope", t, n))
    reset = through(through(new, *_of(run, "asked", t, n)), *_of(run, "reset slope", t, n))
    asked = through(new, *_of(run, "reset", t, n))
    for name, f in (("new", new), ("update", update), ("reset", reset), ("asked", asked)):
        made[name][:, t, :n] = f
    return w.from_state * (update + reset + asked) + through(state, *_of(run, "update", t, n)), held


_STEPS: dict[str, Step] = {"rnn": _rnn_back, "lstm": _lstm_back, "gru": _gru_back}
_GATES = {
    "rnn": ("new",), "lstm": _LSTM, "gru": (*_GRU, "asked"),
}  # fmt: skip


def summed(gradient: Array, values: Both) -> tuple[float, float, float]:
    """Return each, cross and own of a weight's gradient per element: the sum over pairs of time steps."""
    steps = gradient.shape[1]
    times = np.full(steps, 2.0)
    times[0] = 1.0
    same, cross = values.same, values.cross
    square = float((gradient[0] * same * times).sum())
    met = float((gradient[2] * cross * times).sum())
    apart = float(((gradient[1] * same + gradient[2] * (same - cross)) * times).sum())
    return square, met, apart


def matrix(steps: int, lone: Array, far: Array) -> Array:
    """Return (steps, lags) from the moments of each step, and those of any two, weighed by the steps' sizes."""
    out = np.zeros((steps, steps))
    for t in range(steps):
        later = t + np.arange(steps - t)
        out[t, : steps - t] = far[t] * far[later]
        out[t, 0] = lone[t]
    return out
