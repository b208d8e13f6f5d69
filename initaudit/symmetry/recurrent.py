"""Recurrent layers: the labels of their units hold at every time, so they are refined until they agree with themselves.

A step of a cell makes each unit of the state from its own gates, and each gate from what comes in and from the state.
So the label of a unit joins those of its gates, and is made again until it splits no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from initaudit.symmetry.combining import added
from initaudit.symmetry.engine import Case, Given, Step, Unread, op
from initaudit.symmetry.labels import Labels, chained, dense, free, word
from initaudit.symmetry.products import Back, contracted, forgotten
from initaudit.types import Array

_MOST = 1000


@op("lstm", "gru", "rnn")
def _recurrent(c: Case) -> Step:
    attrs = c.attrs
    gates, hidden = attrs.get("gates"), attrs.get("hidden_size")
    if attrs.get("layout") != "torch" or not isinstance(gates, tuple) or not isinstance(hidden, int):
        raise Unread
    if attrs.get("projections"):
        raise Unread
    directions = int(attrs.get("directions", 1))
    each = 4 if attrs.get("biases") else 2
    cell = bool(attrs.get("cell"))
    x = c.labels(0)
    for k in range(x.rank - 1):
        x = x.freed(k)
    inner = x
    for _ in range(x.rank - 1):
        inner = forgotten(inner, 0)
    ways = [_Way(c, inner, 1 + way * each, each, hidden, len(gates), way) for way in range(directions)]
    outs = _outs(c, x, ways, hidden)
    state_places = range(1 + directions * each, len(c.node.inputs))
    for way in ways:
        rows = np.concatenate([chained(way.up, word("gate", k)) for k in range(len(gates))])
        for place in (way.first, way.first + 1):
            c.used(place, {}, units=rows)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        found: dict[int, Given] = {}
        inputs: list[Labels] = []
        for k, way in enumerate(ways):
            given: list[Array] = []
            for at, one in enumerate(d):
                if outs[at] is None or (one.data.size == 1 and not one.data.any()):
                    given.append(np.zeros(hidden, np.uint64))
                    continue
                if cell or at == 0:
                    own = one.dense(one.rank - 1)
                    for _ in range(one.rank - 1):
                        own = forgotten(own, 0)
                    given.append(own.data[k * hidden : (k + 1) * hidden])
                else:
                    own = one.dense(0).dense(one.rank - 1)
                    for _ in range(one.rank - 2):
                        own = forgotten(own, 1)
                    given.append(own.data[k])
            grads, into = way.down(given)
            found.update(grads)
            inputs.append(into)
        into_x = added(inputs) if len(inputs) > 1 else inputs[0]
        for axis, size in enumerate(x.shape[:-1]):
            into_x = into_x.added(axis, size, free=True)
        found[0] = into_x
        for place in state_places:
            shape = c.labels(place).shape if c.has(place) else None
            if shape is not None:
                found[place] = free(shape, word("first state", c.at, place))
        return found

    return Step(tuple(outs), back)


def _outs(c: Case, x: Labels, ways: Sequence[_Way], hidden: int) -> list[Labels | None]:
    outs: list[Labels | None] = []
    for k, name in enumerate(c.node.outputs):
        if not name:
            outs.append(None)
            continue
        flat = (*x.shape[:-1], len(ways) * hidden)
        batch = x.shape[:-1][1:2] if c.has(len(c.node.inputs) - 1) else ()
        shape = c.shape(k) or (flat if c.attrs.get("cell") or k == 0 else (len(ways), *batch, hidden))
        if c.attrs.get("cell") or k == 0:
            units = np.concatenate([way.up for way in ways])
            outs.append(_units(units, shape, f"state {k}"))
        else:
            stacked = dense(np.stack([way.up for way in ways])).tagged(f"final {k}")
            for _ in range(len(shape) - 2):
                stacked = stacked.added(1, free=False)
            outs.append(_lined(stacked, shape))
    return outs


def _units(units: Array, shape: Sequence[int], tag: str) -> Labels:
    out = dense(units).tagged(tag)
    for axis, size in enumerate(shape[:-1]):
        out = out.added(axis, size, free=True)
    return out


def _lined(stacked: Labels, shape: Sequence[int]) -> Labels:
    out = stacked
    for axis in range(1, len(shape) - 1):
        out = out.freed(axis).as_free(axis, shape[axis])
    return out


def _settled(start: Array, again: Callable[[Array], Array]) -> Array:
    """Return labels that splitting them once more would not split."""
    now, count = start, 0
    for _ in range(_MOST):
        found = len(np.unique(now))
        if found == count:
            return now
        count = found
        now = again(now)
    raise Unread


class _Way:
    """One direction of a recurrent layer."""

    def __init__(self, c: Case, x: Labels, first: int, each: int, hidden: int, gates: int, way: int) -> None:
        self.first, self.hidden, self.gates, self.each = first, hidden, gates, each
        self.op, self.tag = c.node.op, (c.node.op, str(c.attrs.get("activation")), way)
        weights = [c.weight(first), c.weight(first + 1)]
        if weights[0] is None or weights[1] is None:
            raise Unread
        self.w_in, self.w_state = weights[0], weights[1]
        if self.w_in.shape[0] != gates * hidden or self.w_state.shape != (gates * hidden, hidden):
            raise Unread
        self.biases = [c.labels(first + k).dense(0).data.reshape(gates, hidden) for k in range(2, each)]
        starts = []
        for place in range(1 + each * int(c.attrs.get("directions", 1)), len(c.node.inputs)):
            if c.has(place):
                s = c.labels(place)
                if c.attrs.get("cell"):
                    own = s.dense(s.rank - 1)
                    for _ in range(s.rank - 1):
                        own = forgotten(own, 0)
                    starts.append(own.data)
                else:
                    own = s.dense(0).dense(s.rank - 1)
                    for _ in range(s.rank - 2):
                        own = forgotten(own, 1)
                    starts.append(np.broadcast_to(own.data, (own.shape[0], hidden))[way])
        self.starts = starts
        made, self.back_in = contracted(x.dense(0).added(0), "bi", self.w_in, "oi", "bo", *self.tag, "in")
        self.from_x = made.dense(1).data.reshape(gates, hidden)
        self.back_state: Back
        first_state = chained(np.full(hidden, word("state", *self.tag)), *self.starts)
        self.up = _settled(first_state, self._again)

    def _pre(self, state: Array) -> tuple[Array, Array]:
        """Return labels of the gates before their functions, and of what the state gives to them."""
        made, self.back_state = contracted(dense(state[None]), "bi", self.w_state, "oi", "bo", *self.tag, "state")
        from_state = made.dense(1).data.reshape(self.gates, self.hidden)
        return chained(self.from_x, from_state, *self.biases), from_state

    def _again(self, state: Array) -> Array:
        pre, _ = self._pre(state)
        return chained(state, *pre)

    def down(self, given: Sequence[Array]) -> tuple[dict[int, Given], Labels]:
        """Return labels of the gradients of the operands, and of what comes in."""
        pre, from_state = self._pre(self.up)
        extra = [from_state[-1]] if self.op == "gru" else []  # its reset gate scales what the state gives

        def gate(unit: Array) -> Array:
            return np.stack([chained(unit, *pre, *extra, word("gate", k)) for k in range(self.gates)])

        def again(unit: Array) -> Array:
            d = dense(gate(unit).reshape(1, -1))
            return chained(unit, self.back_state.signal(d).dense(1).data[0])

        unit = _settled(chained(self.up, *given), again)
        d = gate(unit)
        inner = d.copy()
        if self.op == "gru":
            inner[-1] = chained(d[-1], word("reset"))
        found: dict[int, Given] = {
            self.first: self.back_in.factors(dense(d.reshape(1, -1))),
            self.first + 1: self.back_state.factors(dense(inner.reshape(1, -1))),
        }
        for k in range(2, self.each):
            found[self.first + k] = dense((d if k == 2 else inner).reshape(-1))
        into = self.back_in.signal(dense(d.reshape(1, -1)))
        return found, into.dropped(0)
