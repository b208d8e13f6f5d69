"""Which parameters can ever move, and at which step of training they first do.

Every step is walked twice: up with bounds of values, down with whether gradients can be other than zero. A parameter
moves where something can come in and something can come back; what has moved may be anything from then on. Steps are
repeated until nothing more moves: what has not moved by then never will.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from initaudit.errors import InitauditError
from initaudit.graph.operands import Operands
from initaudit.graph.view import View
from initaudit.registry import ByName
from initaudit.symmetry.numbers import Numbers
from initaudit.symmetry.zones import Grad, Held, Zone, alive, anything, dead, lined, loosened, merged, slim
from initaudit.types import Array, Node, Tensor

_MOST = 64  # steps
Given = Mapping[int, Grad]
Down = Callable[[Sequence[Grad]], Given]


class Unread(Exception):  # noqa: N818  not an error: the operation may do anything
    """An operation that is not understood here."""


@dataclass(frozen=True, slots=True)
class Step:
    """What an operation makes, and the way back through it."""

    outs: tuple[Zone | Held | None, ...]
    back: Down


_FAULTS = (
    Unread, InitauditError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, AssertionError,
    MemoryError,
)  # fmt: skip
rule: ByName[Callable[[Case], Step]] = ByName()  # what is known of operations


class Ties(Protocol):
    """What is known of ties between elements."""

    def value(self, name: str, axes: Iterable[int]) -> Array:
        """Return where all elements along axes are tied; those axes stay, of one entry."""

    def units(self, name: str, axis: int) -> Array:
        """Return labels of gradients along an axis, of all that is along the others; none where they are not known."""

    def settled(self, name: str, g: Grad) -> Grad:
        """Return a gradient without what sums to zero over equals."""


@dataclass(frozen=True, slots=True)
class Moving:
    """When the elements of a parameter first move."""

    step: Array  # int8, of the parameter's shape or broadcast to it: the first step; 0 for never
    cancelled: Array  # bool: never, because what comes back sums to zero
    reach: Array  # bool: whether this graph reads it


class Case(Operands):
    """A node to be understood."""

    def __init__(self, walk: Walk, at: int) -> None:
        super().__init__(walk.view.nodes[at])
        self.walk = walk
        self.at = at

    def value(self, place: int) -> Zone | Held:
        """Return an operand. Raises Unread where nothing is known of it."""
        if not self.has(place):
            raise Unread
        found = self.walk.value(self.node.inputs[place])
        if found is None:
            raise Unread
        return found

    def zone(self, place: int) -> Zone:
        """Return the bounds of an operand."""
        found = self.value(place)
        zone = found.zone() if isinstance(found, Held) else found
        return loosened(zone) if self.walk.loose else zone

    def held(self, place: int) -> Held | None:
        """Return an operand that is a parameter or a constant, None for any other."""
        found = self.value(place)
        return found if isinstance(found, Held) else None

    def shape(self, output: int = 0) -> tuple[int, ...]:
        """Return the shape of an output. Raises Unread where the graph does not say."""
        found = self.walk.shape(self.node.outputs[output])
        if found is None:
            raise Unread
        return found

    def ints(self, place: int, *names: str) -> tuple[int, ...] | None:
        """Return whole numbers from an attribute, else from a constant operand; None where neither is there."""
        if (given := self.listed(*names)) is not None:
            return given
        found = self.held(place) if place >= 0 and self.has(place) else None
        if found is None or found.moved.any():
            return None
        values = np.asarray(found.numbers())
        if values.size > 4096 or values.dtype.kind not in "iu":
            return None
        return tuple(int(n) for n in values.ravel())

    def tied(self, place: int, axes: Sequence[int]) -> Array:
        """Return where all elements of an operand along axes are tied; those axes stay, of one entry."""
        ties = self.walk.alike
        return np.zeros((), bool) if ties is None else ties.value(self.node.inputs[place], axes)


class Walk:
    """Steps of training, as far as zeros go.

    Args:
        view: of the graph.
        frozen: whether a tensor is no trainable parameter.
        generic: every number of the graph may be anything: what is still zero then, nothing reads.
        freed: by the value that holds it and tensor, which elements may be anything.
        loose: whatever is not identically zero has no bounds.
        alike: what is known of ties that last.
        first: what is known of ties at the first step.
        open: whether other inputs may be larger or smaller than these.
    """

    def __init__(
        self,
        view: View,
        frozen: Callable[[Tensor], bool],
        *,
        generic: bool = False,
        freed: Callable[[str, Tensor], Array | bool] | None = None,
        loose: bool = False,
        alike: Ties | None = None,
        first: Ties | None = None,
        open: bool = False,
    ) -> None:
        self.view = view
        self.open = open
        self.lasting, self.first = alike, first
        self.generic = generic
        self.freed = freed
        self.loose = loose
        self.frozen = frozen
        self.values: dict[str, Zone | Held | None] = {}
        self.steps: dict[int, Step] = {}
        self.grads: dict[str, list[Grad]] = {}
        self.moving: dict[str, Moving] = {}
        self.count = 0
        self.names: dict[object, str] = {}
        self.key: dict[str, str] = {}
        for name, tensor in view.graph.constants.items():
            self.key[name] = self.names.setdefault(tensor.identity, name)
        self.numbers = Numbers()

    def like(self, *, generic: bool = False, freed: Callable[[str, Tensor], Array | bool] | None = None,
             loose: bool = False) -> Walk:  # fmt: skip
        """Return a walk through the same graph that knows of no ties."""
        return Walk(self.view, self.frozen, generic=generic, freed=freed, loose=loose, open=self.open)

    @property
    def alike(self) -> Ties | None:
        """What is known of ties at the present step."""
        return self.first if self.count == 1 and self.first is not None else self.lasting

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a value as far as the graph says."""
        graph = self.view.graph
        if name in graph.constants:
            return graph.constants[name].shape
        found = graph.inputs.get(name) or graph.shapes.get(name)
        return None if found is None or any(n is None for n in found) else tuple(int(n or 0) for n in found)

    def value(self, name: str) -> Zone | Held | None:
        """Return what is known of a value."""
        tensor = self.view.graph.constants.get(name)
        if name not in self.values and tensor is not None:
            known = self.moving.get(self.key[name])
            moved = known.step > 0 if known is not None else np.zeros((1,) * len(tensor.shape), bool)
            if tensor.is_float and (self.generic or self.freed is not None):
                free = np.asarray(self.generic or (self.freed is not None and self.freed(self.key[name], tensor)))
                moved = moved | lined(free, len(tensor.shape))
            self.values[name] = Held(lambda: self.numbers.of(name, tensor), tensor.shape, _thin(moved))
        return self.values.get(name)

    def run(self) -> None:
        """Repeat steps until nothing more moves."""
        while self.count < _MOST:
            self.count += 1
            with np.errstate(all="ignore"):
                self.up()
                self.down()
                if not self._step() or not self._left():
                    return

    def _left(self) -> bool:
        """Whether anything is left that could still move."""
        for name, tensor in self.view.graph.constants.items():
            if tensor.is_float and not self.frozen(tensor) and self.view.readers(name):
                known = self.moving.get(self.key[name])
                if known is None or not ((known.step > 0) | ~known.reach).all():
                    return True
        return False

    def once(self) -> None:
        """Walk one step."""
        self.count = 1
        with np.errstate(all="ignore"):
            self.up()
            self.down()
            self._step()

    def up(self) -> None:
        """Bound all values."""
        self.values = {}
        for name in self.view.graph.inputs:
            shape = self.shape(name)
            self.values[name] = None if shape is None else anything(shape)
        for at, node in enumerate(self.view.nodes):
            known = rule.get(node.op)
            try:
                if known is None:
                    raise Unread
                step = known(Case(self, at))
                for name, out in zip(node.outputs, step.outs, strict=False):
                    told = self.shape(name) if name and out is not None else None
                    if told is not None and out is not None and out.shape != told:
                        raise Unread
            except _FAULTS:
                step = self._unknown(node)
            self.steps[at] = step
            for name, out in zip(node.outputs, step.outs, strict=False):
                if name:
                    self.values[name] = slim(out) if isinstance(out, Zone) else out
            self.numbers.done()

    def down(self) -> None:
        """Tell which gradients can be other than zero."""
        self.grads = {}
        lost: set[str] = set()  # values of no known shape, which may get any gradient
        for name in self.view.graph.outputs:
            shape = self._shape(name)
            if shape is None:
                lost.add(name)
            else:
                self.grads.setdefault(name, []).append(alive(shape))
        for at in range(len(self.view.nodes) - 1, -1, -1):
            node = self.view.nodes[at]
            missing = any(name in lost for name in node.outputs)
            if not missing and not any(self.grads.get(name) for name in node.outputs):
                continue
            given = [self.gradient(name) for name in node.outputs]
            try:
                found = self._unknown(node).back([alive(())]) if missing else self.steps[at].back(given)
            except _FAULTS:
                found = self._unknown(node).back(given)
            lost.update(name for name in node.inputs if name and self._shape(name) is None)
            for place, grad in found.items():
                name = node.inputs[place] if place < len(node.inputs) else ""
                if name:
                    self.grads.setdefault(name, []).append(grad)
            self.numbers.done()

    def gradient(self, name: str) -> Grad:
        """Return the gradient of a value."""
        given = self.grads.get(name) if name else None
        shape = self._shape(name) if name else None
        if not given:
            return dead(shape or ())
        if isinstance(self.values.get(name), Held):
            live, cancelled, reach = (np.zeros((1,) * len(shape or ()), bool) for _ in range(3))
            if len(given) == 1 and given[0].reach is True:
                one = np.asarray(given[0].cancelled)
                return Grad(given[0].live, given[0].shape, cancelled=one & ~given[0].live if one.any() else False)
            for g in given:
                own = np.asarray(g.reach)
                live = live | (g.live & own)
                cancelled = cancelled | (np.asarray(g.cancelled) & own)
                reach = reach | own
            return Grad(live, given[0].shape, cancelled=cancelled & ~live, reach=reach)
        grad = merged(given)
        try:
            return grad if self.alike is None else self.alike.settled(name, grad)
        except _FAULTS:  # what is not known of ties of one value costs that value only
            return grad

    def _step(self) -> bool:
        any_ = False
        found: dict[str, list[Grad]] = {}
        for name, tensor in self.view.graph.constants.items():
            if tensor.is_float and (self.generic or not self.frozen(tensor)) and self.grads.get(name):
                self.value(name)
                found.setdefault(self.key[name], []).append(self.gradient(name))
        for key, grads in found.items():
            live = grads[0].live
            cancelled, reach = np.asarray(grads[0].cancelled), np.asarray(grads[0].reach)
            for g in grads[1:]:
                live, cancelled, reach = live | g.live, cancelled | g.cancelled, reach | g.reach
            before = self.moving.get(key)
            old = before.step if before is not None else np.zeros((1,) * live.ndim, np.int8)
            new = np.where((old == 0) & live, np.int8(self.count), old)
            any_ |= bool(((new > 0) & (old == 0)).any())
            self.moving[key] = Moving(new, cancelled & ~live, lined(reach, live.ndim))
        return any_

    def _shape(self, name: str) -> tuple[int, ...] | None:
        value = self.values.get(name)
        return value.shape if value is not None else self.shape(name)

    def _unknown(self, node: Node) -> Step:
        outs: list[Zone | None] = []
        for name in node.outputs:
            shape = self.shape(name)
            outs.append(None if shape is None else anything(shape))

        def back(d: Sequence[Grad]) -> Given:
            shapes = {place: self._shape(name) for place, name in enumerate(node.inputs) if name}
            how = alive if any(not g.none for g in d) else dead
            return {place: how(shape) for place, shape in shapes.items() if shape is not None}

        return Step(tuple(outs), back)


def _thin(x: Array) -> Array:
    """Return one entry for all, where all are the same."""
    return x.reshape(-1)[:1].reshape((1,) * x.ndim) if x.size and (x.all() or not x.any()) else x


__all__ = ["Case", "Down", "Given", "Moving", "Step", "Unread", "Walk", "replace", "rule"]
