"""Recurrent layers, as torch and ONNX have them: one node over all time steps, or one step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from initaudit.theory.align import relabelled
from initaudit.theory.contraction import untabled
from initaudit.theory.engine import Case, Grads, Step, Unread, op
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Atom, Axis, Back, Kernel, extent
from initaudit.theory.recurrent_cells import Both, Run, Weights, backward, forward, lagged, matrix, summed
from initaudit.theory.weights import Weight
from initaudit.types import Array

_GATES = {"rnn": ("new",), "lstm": ("input", "forget", "cell", "output"), "gru": ("reset", "update", "new")}
_ONNX = {"rnn": ("new",), "lstm": ("input", "output", "forget", "cell"), "gru": ("update", "reset", "new")}
_MOST = 128  # time steps that are gone through one by one


@dataclass(frozen=True, slots=True)
class _Direction:
    """The weights of one direction."""

    into: Weight
    over: Weight
    biases: Weights
    projection: Weight | None
    units: int  # of the state
    hidden: int  # of the gates


@dataclass(frozen=True, slots=True)
class _Parts:
    """Where a node keeps its operands."""

    directions: tuple[_Direction, ...]
    states: tuple[int, ...]  # places of the first state and memory
    torch: bool
    share: float  # of a stacked weight, that one direction is


@op("rnn", "lstm", "gru")
def _recurrent(c: Case) -> Step:
    kind = c.node.op
    parts = _torch(c, kind) if c.attrs.get("layout") == "torch" else _onnx(c, kind)
    x = c.kernel(0)
    cell = bool(c.attrs.get("cell"))
    time = None if cell else _time(x, c)
    given = x
    if time is not None and {atom.kind for atom in x.axes[time] if atom.extent > 1} == {UNIT}:
        x = relabelled(x, time, (Atom(PLACE, extent(x.axes[time]), 0),))
    inputs, steps = _inputs(x, time)
    if steps > _MOST:
        raise Unread
    activation = str(c.attrs.get("activation") or "tanh").lower()
    first = _start(c, parts.states)
    runs: list[Run] = []
    for at, one in enumerate(parts.directions):
        fed = inputs if not at else _reversed(inputs)
        runs.append(forward(kind, activation, fed, one.biases, first))
    outs = _outs(c, x, time, parts, runs, kind)

    def down(d: Grads) -> Mapping[int, Back | None]:
        return _down(c, d, given, x, time, parts, runs, inputs, kind, outs)

    return Step(outs, down)


# ---- operands


def _torch(c: Case, kind: str) -> _Parts:
    directions = c.integer("directions", 1)
    biases, projections = bool(c.attrs.get("biases", True)), bool(c.attrs.get("projections"))
    each = 2 + 2 * biases + projections
    gates = _GATES[kind]
    found = []
    for k in range(directions):
        base = 1 + k * each
        into, over = c.weight(base), c.weight(base + 1)
        if len(into.shape) != 2 or len(over.shape) != 2:
            raise Unread
        rows = [_gated(c, base + 2 + b, len(gates), 0) for b in range(2)] if biases else []
        projection = c.weight(base + 4) if projections and biases else c.weight(base + 2) if projections else None
        found.append(_direction(kind, into, over, rows, projection, len(gates)))
    start = 1 + directions * each
    return _Parts(tuple(found), tuple(range(start, start + (2 if kind == "lstm" else 1))), True, 1.0)


def _onnx(c: Case, kind: str) -> _Parts:
    into, over = c.weight(1), c.weight(2)
    if len(into.shape) != 3 or len(over.shape) != 3:
        raise Unread
    order, gates = _ONNX[kind], _GATES[kind]
    directions = into.shape[0]
    found = []
    for k in range(directions):
        rows = []
        if c.has(3):
            both = _gated(c, 3, 2 * len(gates), k)
            halves = both[: len(gates)], both[len(gates) :]
            rows = [[half[order.index(g)] for g in gates] for half in halves]
        one, other = (replace(w, shape=w.shape[1:]) for w in (into, over))
        found.append(_direction(kind, one, other, rows, None, len(gates)))
    return _Parts(tuple(found), (5, 6) if kind == "lstm" else (5,), False, 1 / directions)


def _direction(
    kind: str, into: Weight, over: Weight, rows: list[list[tuple[float, float]]], projection: Weight | None, gates: int
) -> _Direction:
    hidden = into.shape[0] // gates
    units = projection.shape[0] if projection is not None else hidden
    state_bias = (0.0, 0.0)
    if kind == "gru" and len(rows) > 1:
        state_bias = rows[1][2]
        rows = [rows[0], [*rows[1][:2], (0.0, 0.0)]]
    biases = tuple(
        (sum(row[g][0] for row in rows), sum(row[g][1] for row in rows)) for g in range(gates)
    )  # fmt: skip
    moments = Weights(
        into.shape[1] * into.random + (into.shape[1] * into.centre) ** 2,
        units * over.random + (units * over.centre) ** 2,
        biases, state_bias, 0.0 if projection is None else hidden * projection.square,
    )  # fmt: skip
    return _Direction(into, over, moments, projection, units, hidden)


def _gated(c: Case, place: int, gates: int, row: int) -> list[tuple[float, float]]:
    """Return mean and variance of a bias, gate by gate."""
    if not c.has(place):
        return [(0.0, 0.0)] * gates
    values = c.values(place)
    if values is None or values.dtype.kind not in "fV":
        whole = c.weight(place)
        return [(whole.centre, whole.random)] * gates
    flat = values.astype(np.float64)
    flat = flat[row] if flat.ndim > 1 else flat
    out = []
    for piece in np.split(flat, gates):
        mean, variance = float(piece.mean()), float(piece.var())
        sure = mean**2 * len(piece) > 36 * variance
        out.append((mean, variance) if sure else (0.0, variance + mean**2))
    return out


def _time(x: Kernel, c: Case) -> int:
    """Return the axis of time: the one of the first two that inputs are not along."""
    if len(x.axes) < 3:
        if len(x.axes) == 2 and any(a.kind == PLACE for a in x.axes[0]):
            return 0
        raise Unread
    if c.attrs.get("layout") != "torch":
        return 1 if c.attrs.get("layout") == 1 else 0
    first = {a.kind for a in x.axes[0]}
    return 1 if BATCH in first and not first & {PLACE} else 0


def _inputs(x: Kernel, time: int | None) -> tuple[Both, int]:
    """Return second moments of the inputs of two time steps."""
    if time is None:
        if x.grid.extents:
            raise Unread
        return Both(np.array([[float(x.same[0])]]), np.array([[float(x.cross[0])]])), 1
    atoms = [a for a in x.axes[time] if a.kind == PLACE]
    if len(atoms) > 1:
        raise Unread
    steps = extent(x.axes[time])
    if not atoms:
        return Both(np.full((steps, steps), float(x.same[0])), np.full((steps, steps), float(x.cross[0]))), steps
    at = atoms[0].at
    size = x.profile[at] if at < len(x.profile) else None
    root = np.sqrt(np.maximum(size, 0.0)) if size is not None and len(size) == steps else np.ones(steps)
    outer = [a for a in range(len(x.grid.extents)) if a != at]
    out = []
    for f in (x.same, x.cross):
        grid, own = x.grid.diagonal(f, outer)
        values = np.array([grid.at(own, [lag]) for lag in range(steps)])
        apart = np.abs(np.subtract.outer(np.arange(steps), np.arange(steps)))
        out.append(values[apart] * np.multiply.outer(root, root))
    return Both(out[0], out[1]), steps


def _reversed(inputs: Both) -> Both:
    return Both(inputs.same[::-1, ::-1], inputs.cross[::-1, ::-1])


def _turned(f: Array) -> Array:
    """Return pairs of time steps with time running backward: (t, lag) becomes (steps - 1 - t - lag, lag)."""
    steps = len(f)
    out = np.zeros_like(f)
    for lag in range(steps):
        out[: steps - lag, lag] = f[: steps - lag, lag][::-1]
    return out


def _start(c: Case, places: Sequence[int]) -> tuple[float, float, float, float]:
    """Return second moments of the first state and memory."""
    out: list[float] = []
    for place in places:
        if not c.has(place):
            out += [0.0, 0.0]
            continue
        number = c.number(place) if not c.moves(place) else None
        if number is not None:
            out += [number**2, number**2]
            continue
        found = c.walk.kernels.get(c.name(place))
        if found is None:
            values = None if c.moves(place) else c.values(place)
            square = float((values.astype(np.float64) ** 2).mean()) if values is not None and values.size else 0.0
            out += [square, square]
        else:
            out += [float(found.same[0]), float(found.cross[0])]
    return (*out, 0.0, 0.0, 0.0, 0.0)[:4]  # type: ignore[return-value]


# ---- results


def _outs(
    c: Case, x: Kernel, time: int | None, parts: _Parts, runs: Sequence[Run], kind: str
) -> tuple[Kernel | None, ...]:
    steps = len(runs[0].states.same)
    units = parts.directions[0].units
    batch = tuple(a for axis in x.axes for a in axis if a.kind == BATCH)
    last = [(run.states.same[-1, 0], run.states.cross[-1, 0]) for run in runs]
    memory = (
        [(run.kept["memory"].same[-1, 0], run.kept["memory"].cross[-1, 0]) for run in runs] if kind == "lstm" else []
    )
    ends = [_ended(last, batch, units, len(runs))]
    if kind == "lstm":
        ends.append(_ended(memory, batch, parts.directions[0].hidden, len(runs)))
    if time is None:
        return tuple(replace(end, axes=end.axes[1:]) for end in ends)
    grid = Grid((steps,), (0,))
    own, shared, sizes = np.zeros(2), np.zeros(2), np.zeros(steps)
    mean = sum(run.mean for run in runs) / len(runs)
    for at, run in enumerate(runs):
        same, cross = (_turned(f) if at else f for f in (run.states.same, run.states.cross))
        for k, f in enumerate((_averaged(same), _averaged(cross))):
            if k == 0:
                own += np.array(f)
            else:
                own -= np.array(f)
                shared += np.array(f)
        sizes += same[:, 0]
    own, shared = np.maximum(own / len(runs), 0.0), shared / len(runs) - mean**2
    size = sizes / sizes.mean() if sizes.mean() > 0 else None
    axes: tuple[Axis, ...]
    token: Axis = (Atom(PLACE, steps, 0),) if steps > 1 else ()
    width: Axis = (Atom(UNIT, units * len(runs)),)
    if parts.torch:
        axes = (token, batch, width) if time == 0 else (batch, token, width)
        axes = axes if len(x.axes) > 2 else (token, width)
    else:
        axes = (token, (Atom(UNIT, len(runs)),) if len(runs) > 1 else (), batch, (Atom(UNIT, units),))
    if steps < 2:
        grid, size = Grid(), None
    out = Kernel(axes, grid, own, shared, mean, _alike(parts), () if size is None else (size,))
    return (out, *ends)


def _alike(parts: _Parts) -> float:
    one = parts.directions[0]
    centre = (one.into.shape[1] * one.into.centre) ** 2
    copies = centre / one.biases.from_input if one.biases.from_input > 0 else 0.0
    return max(1 / max(1, one.units * len(parts.directions)), min(1.0, copies))


def _ended(last: Sequence[tuple[float, float]], batch: Axis, units: int, count: int) -> Kernel:
    same, cross = (sum(pair[k] for pair in last) / len(last) for k in (0, 1))
    grid = Grid()
    first: Axis = (Atom(UNIT, count),) if count > 1 else ()
    return Kernel(
        (first, batch, (Atom(UNIT, units),)), grid, grid.full(max(0.0, same - cross)), grid.full(cross), 0.0,
        1 / max(1, units * count),
    )  # fmt: skip


def _averaged(f: Array) -> tuple[float, float]:
    """Return the mean over steps with themselves, and over all other pairs."""
    steps = len(f)
    if steps < 2:
        return float(f[0, 0]), float(f[0, 0])
    return float(f[:, 0].mean()), float(f[:, 1:].sum()) * 2 / (steps * (steps - 1))


# ---- back


def _down(
    c: Case,
    d: Grads,
    given: Kernel,
    x: Kernel,
    time: int | None,
    parts: _Parts,
    runs: Sequence[Run],
    inputs: Both,
    kind: str,
    outs: tuple[Kernel | None, ...],
) -> Mapping[int, Back | None]:
    steps = len(inputs.same)
    whole = np.zeros((3, steps, steps))
    start = np.zeros((2, 3))
    any_start = False
    for at, (one, run) in enumerate(zip(parts.directions, runs, strict=True)):
        arrived = _arrived(d, time, steps, outs)
        if at:
            arrived = np.stack([_turned(f) for f in arrived])
        ends = d if time is None else d[1:]
        for k, end in enumerate(ends[:1]):
            if end is not None:
                arrived[:, -1, 0] += np.array([end.each[0], end.own[0], end.cross[0]])
                del k
        memory = ends[1] if len(ends) > 1 else None
        held = None if memory is None else np.array([memory.each[0], memory.own[0], memory.cross[0]])
        over = replace(one.biases, from_state=one.hidden * one.over.square,
                       projected=0.0 if one.projection is None else one.units * one.projection.square)  # fmt: skip
        made = backward(kind, run, arrived, over, one.units, held)
        fed = inputs if not at else _reversed(inputs)
        fed = Both(lagged(fed.same), lagged(fed.cross))
        entering = [g for name, g in made.items() if name in _GATES[kind]]
        total = np.sum(entering, axis=0)
        recurrent = total if kind != "gru" else total - made["new"] + made["asked"]
        _tell(c, one.into, total, fed, one.hidden * one.into.shape[1])
        _tell(c, one.over, recurrent, run.before, one.hidden * one.over.shape[1])
        if one.projection is not None:
            _tell(c, one.projection, made["state"], run.kept["hidden"], one.units * one.hidden)
        back = total * (one.hidden * one.into.square)
        whole += np.stack([_turned(f) for f in back]) if at else back
        start += np.stack([made["start"][:, 0], made["start memory"][:, 0]])
        any_start = True
    found: dict[int, Back | None] = {0: _sent(given, x, time, whole)}
    for k, place in enumerate(parts.states):
        known = c.walk.kernels.get(c.name(place)) if c.moves(place) else None
        if known is not None and any_start and not known.grid.extents:
            f = start[k]
            found[place] = Back(
                known.grid, np.full(2, f[0]), np.full(2, f[1]), np.full(2, f[2]), 1 / max(1, known.units)
            )
    return found


def _tell(c: Case, weight: Weight, gradient: Array, values: Both, elements: float) -> None:
    square, cross, apart = summed(gradient, values)
    c.learn(weight, elements * square, elements * cross, elements * apart)


def _arrived(d: Grads, time: int | None, steps: int, outs: tuple[Kernel | None, ...]) -> Array:
    """Return the moments of the gradient of the states, by pairs of time steps."""
    g = d[0] if d and time is not None else None
    if g is None or outs[0] is None:
        return np.zeros((3, steps, steps))
    size = g.profile[0] if g.profile else None
    lone = size if size is not None and len(size) == steps else np.ones(steps)
    root = np.sqrt(np.maximum(lone, 0.0))
    made = []
    for f in (g.each, g.own, g.cross):
        sign = math.copysign(1.0, f[-1])
        spread = matrix(steps, lone * f[0], root * math.sqrt(abs(f[-1])))
        if sign < 0:
            spread[:, 1:] *= -1
        made.append(spread)
    return np.stack(made)


def _sent(given: Kernel, x: Kernel, time: int | None, f: Array) -> Back:
    """Return the gradient of the input."""
    alike = 1 / max(1, given.units)
    if time is None or not x.grid.extents:
        one = f[:, 0, 0] if time is None else f[:, :, 0].mean(1)
        arrays = [np.full(given.grid.size, v) for v in one]
        return Back(given.grid, arrays[0], arrays[1], arrays[2], alike)
    at = next((a.at for a in x.axes[time] if a.kind == PLACE), 0)
    pairs = [_averaged(m) for m in f]
    arrays = []
    for same, far in pairs:
        shape = [1] * len(x.grid.extents)
        shape[at] = 2
        table = np.broadcast_to(np.array([same, far]).reshape(shape), (2,) * len(x.grid.extents))
        arrays.append(untabled(x.grid, table))
    size = f[0][:, 0]
    mean = float(size.mean())
    profile = tuple(size / mean if a == at and mean > 0 else None for a in range(len(x.grid.extents)))
    if given.grid == x.grid:
        return Back(x.grid, arrays[0], arrays[1], arrays[2], alike, profile)
    lone = [np.full(given.grid.size, a[0]) for a in arrays]
    return Back(given.grid, lone[0], lone[1], lone[2], alike)
