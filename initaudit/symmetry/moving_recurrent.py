"""What recurrent layers do to bounds, and to gradients that may be zero."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from initaudit.symmetry.moving import Case, Given, Step, Unread, rule
from initaudit.symmetry.zones import Grad, Held, Zone, alive, collapsed, dead
from initaudit.types import Array


def _can(w: Held) -> Callable[[], Array]:
    """Return where a weight can be other than zero."""
    return lambda: np.broadcast_to(w.moved, w.shape) | (np.asarray(w.numbers()) != 0)


class _Way:
    """One direction, by units: what can be other than zero."""

    def __init__(self, c: Case, first: int, each: int, hidden: int, gates: int, x: Array, start: Array) -> None:
        held = [c.held(first + k) for k in range(each)]
        if any(h is None for h in held):
            raise Unread
        self.first, self.each, self.hidden, self.gates = first, each, hidden, gates
        self.op = c.node.op
        w = [_can(h)() for h in held if h is not None]
        self.shapes = [h.shape for h in held if h is not None]
        self.w_in, self.w_state = w[0], w[1]
        self.bias = np.zeros(gates * hidden, bool)
        for b in w[2:]:
            self.bias = self.bias | b
        self.own_bias = w[3].reshape(gates, hidden)[-1] if len(w) > 3 else np.zeros(hidden, bool)
        self.x = x
        self.state = start
        relu = c.attrs.get("activation") == "relu"
        while True:
            pre = self.pre()
            if self.op == "lstm":
                state = self.state | pre[2]  # what is written to the cell
            elif self.op == "gru":
                state = self.state | pre[2]
            else:
                state = self.state | pre[0]
            if (state == self.state).all():
                break
            self.state = state
        self.slope = self.state if relu else np.ones(hidden, bool)

    def pre(self) -> Array:
        """Return which gates can be other than zero before their functions."""
        found = (self.w_in & self.x).any(1) | (self.w_state & self.state).any(1) | self.bias
        out: Array = found.reshape(self.gates, self.hidden)
        return out

    def down(self, given: Array) -> tuple[dict[int, Grad], Array]:
        """Return gradients by place, and which inputs get one."""
        unit = given
        pre = self.pre()
        from_state = (self.w_state & self.state).any(1).reshape(self.gates, self.hidden)[-1] | self.own_bias
        while True:
            if self.op == "lstm":
                d = np.stack([unit & pre[2], unit & self.state, unit, unit & self.state])
            elif self.op == "gru":
                d = np.stack([unit & from_state, unit & self.state, unit])
            else:
                d = (unit & self.slope)[None]
            more = unit | (self.w_state & d.reshape(-1, 1)).any(0)
            if (more == unit).all():
                break
            unit = more
        rows = d.reshape(-1)
        found = {
            self.first: Grad(rows[:, None] & self.x[None], self.shapes[0]),
            self.first + 1: Grad(rows[:, None] & self.state[None], self.shapes[1]),
        }
        for k in range(2, self.each):
            found[self.first + k] = Grad(rows.copy(), self.shapes[k])
        return found, (self.w_in & rows[:, None]).any(0)


@rule("lstm", "gru", "rnn")
def _recurrent(c: Case) -> Step:
    gates, hidden = c.attrs.get("gates"), c.attrs.get("hidden_size")
    if c.attrs.get("layout") != "torch" or not isinstance(gates, tuple) or not isinstance(hidden, int):
        raise Unread
    if c.attrs.get("projections") or c.attrs.get("cell"):
        raise Unread
    directions = int(c.attrs.get("directions", 1))
    each = 4 if c.attrs.get("biases") else 2
    x = c.zone(0)
    rank = len(x.shape)
    live = np.broadcast_to(collapsed(~x.zero, range(rank - 1), np.any).reshape(-1), x.shape[-1])
    starts = []
    for place in range(1 + directions * each, len(c.node.inputs)):
        if c.has(place):
            z = c.zone(place)
            own = collapsed(~z.zero, range(1, len(z.shape) - 1), np.any).reshape(z.zero.shape[0], -1)
            starts.append(np.broadcast_to(own, (directions, hidden)))
    start = np.logical_or.reduce(starts) if starts else np.zeros((directions, hidden), bool)
    ways = [_Way(c, 1 + k * each, each, hidden, len(gates), live, start[k]) for k in range(directions)]
    states = np.concatenate([way.state for way in ways])
    outs: list[Zone | None] = []
    for k, name in enumerate(c.node.outputs):
        shape = None
        if name:
            shape = c.walk.shape(name) or ((*x.shape[:-1], directions * hidden) if k == 0 else None)
        if shape is None:
            outs.append(None)
            continue
        own = states.reshape((1,) * (len(shape) - 1) + (-1,)) if k == 0 else np.stack([w.state for w in ways])
        if k:
            own = own.reshape(directions, *(1,) * (len(shape) - 2), hidden)
        outs.append(Zone(np.where(own, -np.inf, 0.0), np.where(own, np.inf, 0.0), shape))

    def back(d: Sequence[Grad]) -> Given:
        found: dict[int, Grad] = {}
        into = np.zeros(x.shape[-1], bool)
        for k, way in enumerate(ways):
            given = np.zeros(hidden, bool)
            for at, g in enumerate(d):
                if not g.shape or g.none:
                    continue
                flat = collapsed(g.live, range(0 if at == 0 else 1, len(g.shape) - 1), np.any)
                if at == 0:
                    given |= np.broadcast_to(flat.reshape(-1), directions * hidden)[k * hidden : (k + 1) * hidden]
                else:
                    given |= np.broadcast_to(flat.reshape(flat.shape[0], -1), (directions, hidden))[k]
            grads, more = way.down(given)
            found.update(grads)
            into |= more
        found[0] = Grad(into.reshape((1,) * (rank - 1) + (-1,)), x.shape)
        for place in range(1 + directions * each, len(c.node.inputs)):
            if c.has(place):
                shape = c.zone(place).shape
                found[place] = alive(shape) if not all(g.none for g in d) else dead(shape)
        return found

    return Step(tuple(outs), back)
