"""Recurrent layers: the labels of their units hold at every time, so they are refined until they agree with themselves.

A step of a cell makes each unit of the state from its own gates, and each gate from what comes in and from the state.
So the label of a unit joins those of its gates, and is made again until it splits no more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from initaudit.symmetry.combining import added
from initaudit.symmetry.engine import Case, Given, Step, Unread, Value, Weight, op
from initaudit.symmetry.labels import Labels, chained, dense, word
from initaudit.symmetry.moves import indexed
from initaudit.symmetry.pointwise import number
from initaudit.symmetry.products import Back, contracted, forgotten
from initaudit.symmetry.shares import merged, placed
from initaudit.types import Array

_MOST = 1000
_GATES = {"lstm": 4, "gru": 3, "rnn": 1}


@op("lstm", "gru", "rnn")
def _recurrent(c: Case) -> Step:
    layout = _Layout(c)
    x = c.labels(0)
    for k in range(x.rank - 1):
        x = x.freed(k)
    ways = [_Way(c, layout, dense(_alone(x, [x.rank - 1])), way) for way in range(layout.ways)]
    outs: list[Labels | None] = []
    for k, name in enumerate(c.node.outputs):
        units = np.stack([way.cells if k == 2 or (layout.cell and k == 1) else way.state for way in ways])
        shape = layout.shape(k, x.shape, units.shape[1])
        outs.append(layout.shaped(chained(units, word("state", k)), shape, k) if name else None)
    for way in ways:
        for place, held in way.weighted:
            rows = np.concatenate([chained(way.cells, word("gate", k)) for k in range(layout.gates)])
            if held is way.mixed:
                rows = way.state
            wide = np.zeros((layout.ways, len(rows)), np.uint64)
            wide[way.number] = rows
            c.used(place, {}, units=rows if held.cut is None else wide)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        given = [
            None if outs[k] is None or (one.data.size == 1 and not one.data.any()) else layout.units(one, k)
            for k, one in enumerate(d)
        ]
        found: dict[int, list[Given]] = {}
        inputs: list[Labels] = []
        starts: dict[int, list[Array]] = {place: [] for place in layout.states}
        for way in ways:
            into = way.down([None if units is None else units[way.number] for units in given])
            for place, grad in way.grads():
                found.setdefault(place, []).append(grad)
            for place, units in zip(layout.states, way.first_grads, strict=False):
                starts[place].append(units)
            inputs.append(into)
        into_x = added(inputs) if len(inputs) > 1 else inputs[0]
        for axis, size in enumerate(x.shape[:-1]):
            into_x = into_x.added(axis, size, free=True)
        out: dict[int, Given] = {0: into_x}
        for place, grads in found.items():
            out[place] = merged(grads) if c.weight(place) is not None else added([placed(grad) for grad in grads])
        for place, states in starts.items():
            if states:
                out[place] = layout.shaped(np.stack(states), c.labels(place).shape, 1)
        return out

    return Step(tuple(outs), back)


def _alone(x: Labels, axes: Sequence[int]) -> Array:
    """Return one label per index of some axes, of all that is along the others."""
    for axis in axes:
        x = x.dense(axis)
    for axis in reversed(range(x.rank)):
        if axis not in axes:
            x = forgotten(x, axis)
    return np.broadcast_to(x.data, x.shape)


class _Layout:
    """What stands where around a node: in torch's order, or in that of ONNX."""

    def __init__(self, c: Case) -> None:
        self.op, self.gates = c.node.op, _GATES[c.node.op]
        self.torch = c.attrs.get("layout") == "torch"
        self.cell = bool(c.attrs.get("cell"))
        self.first = not self.torch and bool(c.attrs.get("layout"))  # inputs of the batch before all else
        if self.torch:
            self.ways = int(c.attrs.get("directions", 1))
            self.biases = 2 if c.attrs.get("biases") else 0
            self.each = 2 + self.biases + bool(c.attrs.get("projections"))
            self.states = tuple(range(1 + self.ways * self.each, len(c.node.inputs)))
        else:
            self.ways = c.value(2).shape[0]
            self.states = tuple(k for k in (5, 6) if c.has(k))
        self.told = [c.shape(k) for k in range(len(c.node.outputs))]
        self.around = [c.labels(k).shape[:-1] for k in self.states]

    def axis(self, output: int) -> int | None:
        """Return the axis of directions in an output, or in a state; None where they are along the last with units."""
        if self.torch:
            return None if self.cell or output == 0 else 0
        return (2 if self.first else 1) if output == 0 else int(self.first)

    def shape(self, output: int, x: Sequence[int], units: int) -> tuple[int, ...]:
        """Return the shape of an output."""
        told = self.told[output]
        if told is not None:
            return told
        if self.torch and (self.cell or output == 0):
            return (*x[:-1], self.ways * units)
        if self.around:
            return (*self.around[0], units)
        if self.torch:
            raise Unread
        batch = x[0] if self.first else x[1]
        if output:
            return (batch, self.ways, units) if self.first else (self.ways, batch, units)
        return (*x[:2], self.ways, units) if self.first else (x[0], self.ways, batch, units)

    def units(self, x: Labels, output: int) -> Array:
        """Return labels (directions, units) of what has the axes of an output."""
        axis = self.axis(output)
        if axis is None:
            return _alone(x, [x.rank - 1]).reshape(self.ways, -1)
        return np.broadcast_to(_alone(x, [axis, x.rank - 1]), (self.ways, x.shape[-1]))

    def shaped(self, units: Array, shape: Sequence[int], output: int) -> Labels:
        """Return labels of what has the axes of an output, from labels (directions, units)."""
        axis = self.axis(output)
        kept = [len(shape) - 1] if axis is None else [axis, len(shape) - 1]
        out = dense(units.reshape(-1) if axis is None else units)
        for k, size in enumerate(shape):
            if k not in kept:
                out = out.added(k, size, free=True)
        if out.shape != tuple(shape):
            raise Unread
        return out

    def started(self, c: Case, place: int, way: int) -> Array | None:
        """Return labels of the first state of a direction; None where it is zero."""
        given = c.labels(place)
        if given.data.size == 1 and not any(given.free) and int(given.data.flat[0]) == int(number(0.0)):
            return None
        out: Array = self.units(given, 1)[way]
        return out


@dataclass(frozen=True, slots=True)
class _Held:
    """What a direction has of an operand."""

    value: Value
    cut: Step | None = None  # that took it out of the whole

    @property
    def weight(self) -> Weight:
        """It, where it is a weight. Raises Unread."""
        if not isinstance(self.value, Weight):
            raise Unread
        return self.value

    @property
    def labels(self) -> Labels:
        """Its labels, as of a value."""
        return self.value.labels() if isinstance(self.value, Weight) else self.value

    def part(self, *index: object) -> _Held:
        """Return some of it."""
        step = indexed(self.value, index)
        if step.outs[0] is None:
            raise Unread
        return _Held(step.outs[0], step)

    def whole(self, given: Given) -> Given:
        """Return the gradient of the whole."""
        return given if self.cut is None else self.cut.back([given])[0]


class _Way:
    """One direction."""

    def __init__(self, c: Case, layout: _Layout, x: Labels, way: int) -> None:
        self.number, self.op, self.gates = way, c.node.op, layout.gates
        self.mixed: _Held | None = None  # a projection of the cells to the state
        self.peeps: Array | None = None
        self.places: dict[str, tuple[int, _Held]] = {}
        if layout.torch:
            first = 1 + way * layout.each
            names = ["in", "state", *["bias", "hidden bias"][: layout.biases], *["mix"] * (layout.each % 2)]
            self.places = {name: (first + k, _Held(c.value(first + k))) for k, name in enumerate(names)}
            biases = [self.places[n][1].labels.dense(0).data for n in names if "bias" in n]
            self.mixed = self.places["mix"][1] if "mix" in names else None
        else:
            for name, place in (("in", 1), ("state", 2), ("bias", 3), ("peepholes", 7)):
                if c.has(place):
                    self.places[name] = (place, _Held(c.value(place)).part(way))
            bias = self.places["bias"][1].labels.dense(0).data if "bias" in self.places else None
            biases = [] if bias is None else list(bias.reshape(2, -1))
            if "peepholes" in self.places:
                self.peeps = chained(*self.places["peepholes"][1].labels.dense(0).data.reshape(3, -1))
        self.w_in, self.w_state = self.places["in"][1], self.places["state"][1]
        rows, self.width = self.w_state.weight.shape
        self.hidden = rows // self.gates
        if self.w_in.weight.shape[0] != rows or rows % self.gates:
            raise Unread
        self.biases = [np.broadcast_to(b, rows).reshape(self.gates, -1) for b in biases]
        self.tag = (self.op, way, *(str(c.attrs.get(k)) for k in ("activation", "activations", "clip", "input_forget")))
        self.reset_first = self.op == "gru" and not layout.torch and not c.attrs.get("linear_before_reset")
        pieces = (
            [slice(0, rows)]
            if not self.reset_first
            else [slice(0, rows - self.hidden), slice(rows - self.hidden, rows)]
        )
        self.pieces = [self.w_state if len(pieces) == 1 else self.w_state.part(piece) for piece in pieces]
        starts = [layout.started(c, place, way) for place in layout.states]
        self.first_state = starts[0] if starts else None
        carried = starts[1:] if self.op == "lstm" else starts if self.op == "gru" else []
        made, self.back_in = contracted(x.added(0), "bi", self.w_in.weight, "oi", "bo", *self.tag, "in")
        self.from_x: Array = made.dense(1).data.reshape(self.gates, -1)
        self.cells: Array
        self.backs: list[tuple[_Held, Back]] = []
        self.back_mix: Back | None = None
        begin = chained(np.full(self.hidden, word("cells", *self.tag)), *(s for s in carried if s is not None))
        if layout.cell:
            self.cells = chained(begin, *self._gates([self.first_state]))
            self.pre = self._gates([self.first_state])
        else:
            self.cells = _settled(
                begin, lambda cells: chained(cells, *self._gates([self.first_state, self._mix(cells)]))
            )
            self.pre = self._gates([self.first_state, self._mix(self.cells)])
        self.state = self._mix(self.cells)
        self.layout = layout

    @property
    def weighted(self) -> list[tuple[int, _Held]]:
        """The weights, with their places."""
        return [self.places[name] for name in ("in", "state", "mix") if name in self.places]

    def _mix(self, cells: Array) -> Array:
        """Return labels of the state, from those of the cells."""
        if self.mixed is None:
            return cells
        made, self.back_mix = contracted(dense(cells[None]), "bi", self.mixed.weight, "oi", "bo", *self.tag, "mix")
        return _flat(made)

    def _gates(self, states: Sequence[Array | None]) -> Array:
        """Return labels of the gates before their functions, of a state that is one of several."""
        known = [state for state in states if state is not None]
        parts = [self.from_x, *self.biases]
        self.backs = []
        for k, piece in enumerate(self.pieces):
            rows = piece.weight.shape[0] // self.hidden
            at = slice(0, rows) if k == 0 else slice(self.gates - rows, self.gates)
            for state in known:
                # What the reset gate leaves of the state.
                left = chained(state, *(part[1] for part in parts), word("reset")) if k else state
                made, back = contracted(dense(left[None]), "bi", piece.weight, "oi", "bo", *self.tag, "state", k)
                self.backs.append((piece, back))
                own = made.dense(1).data.reshape(rows, -1)
                parts[0] = parts[0].copy()
                parts[0][at] = chained(parts[0][at], own)
        out = chained(*parts)
        return out if self.peeps is None else chained(out, self.peeps)

    def down(self, given: Sequence[Array | None]) -> Labels:
        """Work out labels of the gradients of the operands, and return those of what comes in."""
        of_cells = {2} if not self.layout.cell else {1}
        if self.op != "lstm":
            of_cells = set()
        known = [(k in of_cells, units) for k, units in enumerate(given) if units is not None]
        below = chained(np.full(self.width, word("state back")), *(units for cells, units in known if not cells))
        start = chained(self.cells, *(units for cells, units in known if cells), self._unmix(below))
        if self.layout.cell:
            unit = start
        else:
            unit = _settled(start, lambda now: chained(now, self._unmix(chained(below, *self._signals(now)))))
        d = self._slopes(unit)
        self.found: list[tuple[int, Given]] = []
        rows = [d[: len(d) - 1], d[-1:]] if self.reset_first else [d]
        shares: dict[int, list[Labels]] = {}
        for piece, back in self.backs:
            k = self.pieces.index(piece)
            shares.setdefault(k, []).extend(back.factors(dense(rows[k].reshape(1, -1))))
        wide = merged([self.pieces[k].whole(one) if self.reset_first else one for k, one in shares.items()])
        inner = d.copy()
        if self.op == "gru":
            inner[-1] = chained(d[-1], word("reset"))
        self._gives("in", self.back_in.factors(dense(d.reshape(1, -1))))
        if wide:
            self._gives("state", wide)
        if self.back_mix is not None:
            self._gives("mix", self.back_mix.factors(dense(chained(below, *self._signals(unit))[None])))
        if self.layout.torch:
            self._gives("bias", dense(d.reshape(-1)))
            self._gives("hidden bias", dense(inner.reshape(-1)))
        else:
            self._gives("bias", dense(np.concatenate([d.reshape(-1), inner.reshape(-1)])))
            self._gives("peepholes", dense(np.concatenate([chained(unit, word("peephole", k)) for k in range(3)])))
        into_state = chained(np.full(self.width, word("first state")), *self._signals(unit))
        if self.op == "gru":
            into_state = chained(into_state, unit)
        self.first_grads = [into_state, chained(unit, word("first cells"))]
        return self.back_in.signal(dense(d.reshape(1, -1))).dropped(0)

    def _gives(self, name: str, given: Given) -> None:
        if name in self.places:
            place, held = self.places[name]
            self.found.append((place, held.whole(given)))

    def grads(self) -> Sequence[tuple[int, Given]]:
        """Return labels of the gradients of the operands that belong to this direction, by place."""
        return self.found

    def _unmix(self, state: Array) -> Array:
        """Return labels of what comes back to the cells, from what comes back to the state."""
        if self.back_mix is None:
            return state
        return _flat(self.back_mix.signal(dense(state[None])))

    def _slopes(self, unit: Array) -> Array:
        """Return labels of the gradients of the gates, from those of the cells."""
        d = np.stack([chained(unit, *self.pre, word("gate", k)) for k in range(self.gates)])
        if self.reset_first and self.backs:
            through = self._back(1).signal(dense(d[-1:])).dense(1).data[0]
            d[:-1] = chained(d[:-1], through)
        return d

    def _signals(self, unit: Array) -> list[Array]:
        """Return labels of what comes back to the state from the gates; none where the state is zero for ever."""
        if not self.backs:
            return []
        d = self._slopes(unit)
        rows = [d[:-1], d[-1:]] if self.reset_first else [d]
        return [self._back(k).signal(dense(own.reshape(1, -1))).dense(1).data[0] for k, own in enumerate(rows)]

    def _back(self, k: int) -> Back:
        return next(back for piece, back in reversed(self.backs) if piece is self.pieces[k])


def _flat(x: Labels) -> Array:
    """Return the labels of one row."""
    out: Array = x.dense(1).data[0]
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
