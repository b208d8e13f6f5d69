"""What recurrent layers do to bounds, and to gradients that may be zero: step by step, until nothing changes any more.

Times are told apart: before the first step the state may be zero, and what reads only one output of a layer that runs
backwards may read its first step alone, at which nothing comes from a state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from initaudit.symmetry.moving import Case, Given, Step, Unread, rule
from initaudit.symmetry.zones import Grad, Held, Zone, collapsed, some
from initaudit.types import Array

_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_TORCH = {"lstm": (0, 1, 2, 3), "gru": (0, 1, 2), "rnn": (0,)}  # input, forget, cell, output; reset, update, new
_ONNX = {"lstm": (0, 2, 3, 1), "gru": (1, 0, 2), "rnn": (0,)}  # where each of these stands
_USUAL = {"lstm": ("sigmoid", "tanh", "tanh"), "gru": ("sigmoid", "tanh"), "rnn": ("tanh",)}
_MANY = 64  # steps, where they are not known


def _can(c: Case, place: int) -> Array:
    """Return where an operand can be other than zero."""
    value = c.value(place)
    if isinstance(value, Held):
        return np.asarray(np.broadcast_to(value.moved, value.shape) | (np.asarray(value.numbers()) != 0))
    return np.broadcast_to(~value.zero, value.shape)


@dataclass(frozen=True, slots=True)
class _Numbers:
    """The parameters of one direction: where they can be other than zero, gates in torch's order."""

    into: Array  # (gate, unit, input)
    state: Array  # (gate, unit, state)
    bias: Array  # (gate, unit), of both biases together
    own: Array  # (unit,) the bias that the reset gate scales
    mixed: Array | None = None  # (state, unit)


@dataclass(slots=True)
class _Found:
    """Which gradients of one direction can be other than zero."""

    into: Array  # (gate, unit, input)
    state: Array
    bias: Array
    mixed: Array | None
    x: list[Array] = field(default_factory=list)  # (input,) by step, the last first
    starts: tuple[Array, Array] | None = None


class _Way:
    """One direction, run step by step."""

    def __init__(self, op: str, w: _Numbers, x: Array, starts: Sequence[Array], steps: int, *, before: bool,
                 relu: bool) -> None:  # fmt: skip
        self.op, self.w, self.x, self.steps, self.before, self.relu = op, w, x, steps, before, relu
        self.states, self.cells = [starts[0]], [starts[1]]
        for _ in range(steps):
            state, cell = self._forth(self.states[-1], self.cells[-1])
            same = (state == self.states[-1]).all() and (cell == self.cells[-1]).all()
            self.states.append(state)
            self.cells.append(cell)
            if same:
                break
        self.settled = len(self.states) - 1  # from here on they are the same

    def _pre(self, state: Array) -> Array:
        return np.asarray((self.w.into & self.x).any(2) | (self.w.state & state).any(2) | self.w.bias)

    def _forth(self, state: Array, cell: Array) -> tuple[Array, Array]:
        pre = self._pre(state)
        if self.op == "lstm":
            cell = cell | pre[2]
            return (cell if self.w.mixed is None else some(self.w.mixed & cell, 1)), cell
        return (pre[2] | state if self.op == "gru" else pre[0]), cell

    def every(self) -> Array:
        """Return (step, state) of outputs, one row where all steps are alike."""
        rows = np.stack(self.states[1:])
        return rows[:1] if (rows == rows[0]).all() else rows

    def at(self, kept: Sequence[Array], step: int) -> Array:
        """Return what was kept of a step."""
        return kept[min(step, self.settled)]

    def back(self, given: Array, last: Sequence[Array]) -> _Found:
        """Return gradients.

        Args:
            given: of the outputs, (step or 1, state).
            last: of the last state and cell.
        """
        gates, units, _ = self.w.into.shape
        found = _Found(np.zeros_like(self.w.into), np.zeros_like(self.w.state), np.zeros((gates, units), bool),
                       None if self.w.mixed is None else np.zeros_like(self.w.mixed))  # fmt: skip
        dh, dc = last[0], last[1]
        step = self.steps
        while step > 0:
            own = dh | given[min(step, len(given)) - 1]
            d, h, cell = self._gates(own, dc, step, found)
            found.into |= d[:, :, None] & self.x
            found.state |= d[:, :, None] & self.at(self.states, step - 1)
            found.bias |= d
            found.x.append(some(self.w.into & d[:, :, None], (0, 1)))
            settled = (h == dh).all() and (cell == dc).all() and step > self.settled + 1
            dh, dc = h, cell
            step -= 1
            if settled and len(given) == 1:
                found.x.extend([found.x[-1]] * (step - self.settled))
                step = self.settled
        found.starts = (dh, dc)
        return found

    def _gates(self, dh: Array, dc: Array, step: int, found: _Found) -> tuple[Array, Array, Array]:
        """Return gradients of the gates before their functions, and of the state and the cell before."""
        state, pre = self.at(self.states, step - 1), self._pre(self.at(self.states, step - 1))
        w = self.w.state
        if self.op == "lstm":
            cell = self.at(self.cells, step)
            if self.w.mixed is not None and found.mixed is not None:
                found.mixed |= dh[:, None] & cell
                dh = some(self.w.mixed & dh[:, None], 0)
            dc = dc | dh
            d = np.stack([dc & pre[2], dc & self.at(self.cells, step - 1), dc, dh & cell])
            return d, some(w & d[:, :, None], (0, 1)), dc
        if self.op == "gru":
            weighted = dh & ((w[2] & state).any(1) | self.w.own)
            reset = (
                (w[2] & dh[:, None]).any(0) & state if self.before else weighted
            )  # scaled before it is weighted, or after
            d = np.stack([reset, dh & (state | pre[2]), dh])
            return d, some(w & d[:, :, None], (0, 1)) | dh, dc
        d = (dh & self.at(self.states, step) if self.relu else dh)[None]
        return d, some(w & d[:, :, None], (0, 1)), dc


class _Layout:
    """What stands where around a node: in torch's order, or in that of ONNX."""

    def __init__(self, c: Case) -> None:
        self.c, self.op = c, c.node.op
        self.gates = _GATES[self.op]
        self.torch = c.attrs.get("layout") == "torch"
        self.cell = bool(c.attrs.get("cell"))
        self.x = c.zone(0)
        rank = len(self.x.shape)
        self.time: int | None = None
        self.relu = c.attrs.get("activation") == "relu"
        self.before = False
        if self.torch:
            self.ways = int(c.attrs.get("directions", 1))
            self.biases = 2 if c.attrs.get("biases") else 0
            self.each = 2 + self.biases + bool(c.attrs.get("projections"))
            self.starts = list(range(1 + self.ways * self.each, len(c.node.inputs)))
            self.reversed = [False, True][: self.ways]
            if rank == 3 and not self.cell and c.node.call is not None and c.node.call.args:
                self.time = 1 if c.node.call.args[-1] is True else 0
        else:
            self._onnx(c)
        if c.walk.generic:
            self.time = None
        steps = 1 if self.cell else _MANY if self.time is None else self.x.shape[self.time]
        self.steps = max(2 if c.walk.generic else 1, steps)
        self.units = c.value(1).shape[0 if self.torch else 1] // self.gates
        self.size = c.value(2).shape[-1]  # of the state

    def _onnx(self, c: Case) -> None:
        if c.has(7) or c.attrs.get("input_forget"):
            raise Unread
        self.ways = c.value(1).shape[0]
        told = c.attrs.get("direction", "forward")
        self.reversed = [False, True] if self.ways == 2 else [told in ("reverse", b"reverse")]
        self.starts = [k for k in (5, 6) if c.has(k)]
        names = [str(v.decode() if isinstance(v, bytes) else v).lower() for v in c.attrs.get("activations") or ()]
        usual = _USUAL[self.op]
        self.relu = self.op == "rnn" and names[:1] == ["relu"]
        if names and not self.relu and tuple(names) != usual * self.ways:
            raise Unread
        self.before = not c.attrs.get("linear_before_reset")
        self.first = bool(c.attrs.get("layout"))  # inputs of the batch before all else
        self.time = None if c.has(4) and c.held(4) is None else int(self.first)

    def numbers(self, way: int) -> _Numbers:
        """Return the parameters of a direction."""
        c, gates, units = self.c, self.gates, self.units
        if self.torch:
            first = 1 + way * self.each
            parts = [_can(c, first + k) for k in range(self.each)]
            biases = [b.reshape(gates, units) for b in parts[2 : 2 + self.biases]]
            mixed = parts[-1] if c.attrs.get("projections") else None
            into, state = parts[:2]
        else:
            order = list(_ONNX[self.op])
            into, state = (_can(c, k)[way].reshape(gates, units, -1)[order] for k in (1, 2))
            both = _can(c, 3)[way].reshape(2, gates, units)[:, order] if c.has(3) else np.zeros((2, gates, units), bool)
            biases, mixed = list(both), None
        bias = np.zeros((gates, units), bool)
        for b in biases:
            bias = bias | b
        own = biases[1][-1] if len(biases) > 1 else np.zeros(units, bool)
        return _Numbers(into.reshape(gates, units, -1), state.reshape(gates, units, -1), bias, own, mixed)

    def first_states(self, way: int) -> list[Array]:
        """Return where the first state and cell of a direction can be other than zero."""
        out = []
        for k, size in ((0, self.size), (1, self.units)):
            if k >= len(self.starts):
                out.append(np.zeros(size, bool))
                continue
            zone = self.c.zone(self.starts[k])
            rank = len(zone.shape)
            ways = None if self.cell else 0 if self.torch or not self.first else 1
            kept = collapsed(~zone.zero, [a for a in range(rank - 1) if a != ways], np.any)
            own = kept.reshape(-1, kept.shape[-1])
            out.append(np.broadcast_to(own[way if len(own) > 1 else 0], (size,)))
        return out

    def shape(self, output: int) -> tuple[int, ...]:
        """Return the shape of an output."""
        told = self.c.walk.shape(self.c.node.outputs[output])
        if told is not None:
            return told
        if self.torch and (self.cell or output == 0):
            return (*self.x.shape[:-1], self.ways * self.size)
        if self.torch and self.time is not None:
            return (self.ways, self.x.shape[1 - self.time], self.size if output == 1 else self.units)
        raise Unread

    def zone(self, output: int, ways: Sequence[_Way]) -> Zone:
        """Return the bounds of an output."""
        shape = self.shape(output)
        rank = len(shape)
        size = [1] * rank
        cells = output == (1 if self.cell else 2)
        rows = [np.stack(w.cells[1:]) if cells else w.every() for w in ways]
        if output == 0 and not self.cell:
            if any(len(r) != 1 for r in rows):
                rows = [some(r, 0, keepdims=True) for r in rows]
            own = np.stack([r[0] for r in rows])
            if self.torch:
                own, size[-1] = own.reshape(-1), shape[-1]
            else:
                size[2 if self.first else 1], size[-1] = self.ways, shape[-1]
        else:
            own = np.stack([r[-1] for r in rows])
            size[-1] = shape[-1]
            if not self.cell:
                size[0 if self.torch or not self.first else 1] = self.ways
        own = own.reshape(size)
        return Zone(np.where(own, -np.inf, 0.0), np.where(own, np.inf, 0.0), shape)

    def given(self, d: Sequence[Grad], way: int) -> tuple[Array, list[Array]]:
        """Return gradients of the outputs of a direction by step, and those of its last state and cell."""
        every = np.zeros((1, self.size), bool)
        last = [np.zeros(self.size, bool), np.zeros(self.units, bool)]
        for at, g in enumerate(d):
            if not g.shape or g.none:
                continue
            rank = len(g.shape)
            if self.cell or at > 0:
                ways = None if self.cell else 0 if self.torch or not self.first else 1
                live = collapsed(g.live, [a for a in range(rank - 1) if a != ways], np.any).reshape(
                    -1, g.live.shape[-1]
                )
                k = at if self.cell else at - 1
                last[k] = last[k] | live[way if len(live) > 1 else 0]
                continue
            ways = None if self.torch else 2 if self.first else 1
            kept = [a for a in (self.time, ways) if a is not None]
            live = collapsed(g.live, [a for a in range(rank - 1) if a not in kept], np.any)
            if ways is None:
                live = np.broadcast_to(live, (*live.shape[:-1], g.shape[-1]))
                live = live[..., way * self.size : (way + 1) * self.size]
            elif live.shape[ways] > 1:
                live = np.take(live, [way], ways)
            live = live.reshape(-1, live.shape[-1])
            every = every | (live[::-1] if self.reversed[way] else live)
        return every, last

    def parameters(self, found: Sequence[_Found]) -> dict[int, Grad]:
        """Return gradients of the parameters by place."""
        c, out = self.c, {}
        if self.torch:
            for way, f in enumerate(found):
                parts = [f.into, f.state, *[f.bias] * self.biases, *([] if f.mixed is None else [f.mixed])]
                for k, live in enumerate(parts, 1 + way * self.each):
                    out[k] = Grad(live.reshape(c.value(k).shape), c.value(k).shape)
            return out
        back = np.argsort(_ONNX[self.op])
        for place, parts in ((1, [f.into[back] for f in found]), (2, [f.state[back] for f in found]),
                             (3, [np.stack([f.bias[back]] * 2) for f in found])):  # fmt: skip
            if c.has(place):
                out[place] = Grad(np.stack(parts).reshape(c.value(place).shape), c.value(place).shape)
        return out

    def into(self, found: Sequence[_Found]) -> Grad:
        """Return the gradient of the input."""
        rank = len(self.x.shape)
        rows = [np.stack(f.x if self.reversed[k] else f.x[::-1]) for k, f in enumerate(found)]
        live = rows[0]
        for more in rows[1:]:
            live = live | more
        size = [1] * rank
        size[-1] = live.shape[-1]
        if self.time is None or len(live) != self.x.shape[self.time] or (live == live[0]).all():
            live = some(live, 0)
        else:
            size[self.time] = len(live)
        return Grad(live.reshape(size), self.x.shape)

    def states(self, found: Sequence[_Found]) -> Mapping[int, Grad]:
        """Return gradients of the first states."""
        out: dict[int, Grad] = {}
        for k, place in enumerate(self.starts[:2]):
            shape = self.c.zone(place).shape
            rows = np.stack([f.starts[k] for f in found if f.starts is not None])
            size = [1] * len(shape)
            size[-1] = rows.shape[-1]
            if not self.cell:
                size[0 if self.torch or not self.first else 1] = self.ways
            out[place] = Grad(rows.reshape(size), shape)
        return out


@rule("lstm", "gru", "rnn")
def _recurrent(c: Case) -> Step:
    layout = _Layout(c)
    x = np.broadcast_to(
        collapsed(~layout.x.zero, range(len(layout.x.shape) - 1), np.any).reshape(-1), layout.x.shape[-1]
    )
    ways = [
        _Way(layout.op, layout.numbers(k), x, layout.first_states(k), layout.steps, before=layout.before,
             relu=layout.relu)
        for k in range(layout.ways)
    ]  # fmt: skip
    outs = [layout.zone(k, ways) if name else None for k, name in enumerate(c.node.outputs)]

    def back(d: Sequence[Grad]) -> Given:
        found = [way.back(*layout.given(d, k)) for k, way in enumerate(ways)]
        return {**layout.parameters(found), 0: layout.into(found), **layout.states(found)}

    return Step(tuple(outs), back)
