"""The walk through a graph, up with labels of values and down with labels of gradients, and the table of operations.

    @op("neg")
    def _neg(c: Case) -> Step:
        x = c.labels(0)
        return Step((x.tagged("neg"),), lambda d: {0: d[0].tagged("neg back")})

An operation says how each element of its result is made of elements of its operands: two elements get one label only if
they are made in the same way of elements with the same labels. The way back says the same of gradients. A parameter
carries two things: its numbers, and labels of the gradient that it gets, as told by the round before. Rounds are
repeated until no label splits any more. Then what has one label is equal, and stays so:

    by induction over the nodes, in order: what is made in the same way of equals is equal,
    by induction over steps: equal gradients added to numbers with equal sums leave equal sums.

What is not understood makes all elements of its operands and results different.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from initaudit.errors import InitauditError
from initaudit.graph.operands import Operands
from initaudit.graph.view import View
from initaudit.registry import ByName
from initaudit.symmetry.combining import added, combined
from initaudit.symmetry.exact import NotFinite
from initaudit.symmetry.labels import ZERO, Labels, TooMany, dense, even, free, word
from initaudit.symmetry.numbers import Numbers
from initaudit.symmetry.reading import EXACT, Reading
from initaudit.symmetry.shares import merged
from initaudit.types import Array, Node, Tensor

_MOST_ROUNDS = 300
_SMALL = 4096


class Unread(Exception):  # noqa: N818  not an error: the operation is told as not understood
    """An operation, or a use of it, that this analysis does not understand."""


@dataclass(frozen=True, slots=True)
class Weight:
    """Numbers that take part in products, and labels of the gradient they get; their labels together label it."""

    numbers: Callable[[], Array]
    shape: tuple[int, ...]
    factors: tuple[Labels, ...] = ()
    reading: Reading = EXACT

    def labels(self) -> Labels:
        """Return labels of the numbers as values: equal where number and gradient are equal."""
        values = self.numbers()
        return combined((dense(self.reading.values(values)), *self.factors), "leaf")


Value = Labels | Weight
Given = Labels | Sequence[Labels]  # the gradient of an operand; of a weight, several that label it together
Down = Callable[[Sequence[Any]], Mapping[int, Given]]


@dataclass(frozen=True, slots=True)
class Step:
    """What an operation makes, and how a gradient passes back through it."""

    outs: tuple[Value | None, ...]
    back: Down


@dataclass(frozen=True, slots=True)
class Use:
    """Where a weight meets the data."""

    node: int
    place: int  # of the operand
    out: str  # the value it makes
    axes: tuple[tuple[int, int], ...]  # which axis of the result the units along an axis of the weight are
    groups: int = 1  # of a transposed convolution: what stands along its first axis
    units: Array | None = None  # labels of the rows, where the result does not hold them


_FAULTS = (
    Unread, TooMany, NotFinite, InitauditError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError,
    AttributeError, AssertionError, MemoryError, StopIteration,
)  # fmt: skip
op: ByName[Callable[[Case], Step]] = ByName()  # what this analysis knows of operations


class Case(Operands):
    """A node to be understood."""

    def __init__(self, walk: Walk, at: int) -> None:
        super().__init__(walk.view.nodes[at])
        self.walk = walk
        self.at = at

    def value(self, place: int) -> Value:
        """Return an operand.

        Raises:
            Unread: there is none, or nothing is known of it.
        """
        if not self.has(place):
            raise Unread
        found = self.walk.value(self.node.inputs[place])
        if found is None:
            raise Unread
        return found

    def labels(self, place: int) -> Labels:
        """Return the labels of an operand, a weight's too."""
        found = self.value(place)
        return found.labels() if isinstance(found, Weight) else found

    def weight(self, place: int) -> Weight | None:
        """Return an operand that is a weight, None for any other."""
        found = self.value(place) if self.has(place) else None
        return found if isinstance(found, Weight) else None

    def moves(self, place: int) -> bool:
        """Whether an operand moves with the data."""
        return self.has(place) and self.node.inputs[place] not in self.walk.view.fixed

    def numbers(self, place: int) -> Array | None:
        """Return the values of a small constant that no step changes, None for any other operand."""
        found = self.value(place) if self.has(place) else None
        if isinstance(found, Weight) and not found.factors and math.prod(found.shape) <= _SMALL:
            return found.numbers()
        return None

    def ints(self, place: int, *names: str) -> tuple[int, ...] | None:
        """Return whole numbers from an attribute, else from a constant operand; None where neither is there."""
        if (given := self.listed(*names)) is not None:
            return given
        found = self.numbers(place) if place >= 0 else None
        if found is None or found.dtype.kind not in "iubf" or np.any(found != np.floor(found)):
            return None
        return tuple(int(n) for n in found.ravel())

    def shape(self, output: int = 0) -> tuple[int, ...] | None:
        """Return what the graph says of the shape of an output."""
        if output >= len(self.node.outputs):
            return None
        return self.walk.shape(self.node.outputs[output])

    def used(
        self, place: int, axes: Mapping[int, int], out: int = 0, groups: int = 1, units: Array | None = None
    ) -> None:
        """Tell that an operand is a weight, and which axes of a result its output units are along."""
        pairs = tuple(sorted(axes.items()))
        self.walk.uses.append(Use(self.at, place, self.node.outputs[out], pairs, groups, units))


class Walk:
    """Rounds of labels through a graph."""

    def __init__(self, view: View, frozen: Callable[[Tensor], bool], reading: Reading = EXACT) -> None:
        self.view = view
        self.reading = reading
        self.frozen = frozen
        self.values: dict[str, Value | None] = {}
        self.steps: dict[int, Step] = {}
        self.grads: dict[str, list[Given]] = {}
        self.factors: dict[str, tuple[Labels, ...]] = {}  # by key of a parameter: gradients of the round before
        self.uses: list[Use] = []
        self.unread: dict[int, str] = {}
        self.rounds = 0
        self.stable = False  # no label splits any more: what has one label is tied
        self.enough = False  # stopped before that, because all that was asked for differs
        read = {name for node in view.nodes for name in node.inputs} | set(view.graph.outputs)
        self._keys, self._odd = _keys(view.graph.constants, read)
        self._numbers = Numbers()

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Return the shape of a value as far as the graph says."""
        graph = self.view.graph
        tensor = graph.constants.get(name)
        if tensor is not None:
            return tensor.shape
        found = graph.inputs.get(name) or graph.shapes.get(name)
        return None if found is None or any(n is None for n in found) else tuple(int(n or 0) for n in found)

    def value(self, name: str) -> Value | None:
        """Return what is known of a value."""
        if name not in self.values and name in self.view.graph.constants:
            self.values[name] = self._constant(name)
        return self.values.get(name)

    def _constant(self, name: str) -> Weight:
        tensor = self.view.graph.constants[name]
        factors: tuple[Labels, ...] = ()
        if tensor.is_float and not self.frozen(tensor):
            key = self._keys[name]
            if key in self._odd:
                factors = (free(tensor.shape, word("shared", name)),)
            else:
                factors = self.factors.get(key, (even(tensor.shape, word("at first")),))
        return Weight(lambda: self._numbers.of(name, tensor), tensor.shape, factors, self.reading)

    # ---- rounds

    def run(self, enough: Callable[[Walk], bool] = lambda walk: False) -> None:
        """Repeat rounds until no label splits any more, or enough is known.

        Args:
            enough: asked after each way up. Labels only split: what is made of parts that differ in one round is made
                of parts that differ in the next one. So what is told apart once stays apart, and where all that is
                asked for is told apart no more rounds are needed. What has one label then need not be tied.
        """
        before = (0, 0)
        while self.rounds < _MOST_ROUNDS:
            self.rounds += 1
            self.up()
            self.enough = enough(self)
            self._numbers.done()
            if self.enough:
                return
            self.down()
            count = self._classes()
            if count == before:
                self.stable = True
                return
            before = count

    def up(self) -> None:
        """Label all values, in the order of execution."""
        self.values = {}
        self.uses = []
        self.unread = {}
        for name in self.view.graph.inputs:
            shape = self.shape(name)
            self.values[name] = None if shape is None else free(shape, word("input", name))
        for at, node in enumerate(self.view.nodes):
            rule = op.get(node.op)
            mark = len(self.uses)
            try:
                if rule is None:
                    raise Unread
                with np.errstate(all="ignore"):
                    step = rule(Case(self, at))
            except _FAULTS as fault:
                del self.uses[mark:]
                step = self._unknown(at, node)
                self.unread[at] = node.op if isinstance(fault, Unread) else f"{node.op}: {type(fault).__name__}"
            self.steps[at] = step
            for name, out in zip(node.outputs, step.outs, strict=False):
                if name:
                    self.values[name] = out
            self._numbers.done()

    def down(self) -> None:
        """Label all gradients, in reverse order, and keep those of parameters."""
        self.grads = {}
        lost: set[str] = set()  # values of no known shape, whose gradient may be anything
        for name in self.view.graph.outputs:
            shape = self._shape_of(name)
            if shape is None:
                lost.add(name)
            else:
                self.grads.setdefault(name, []).append(free(shape, word("output", name)))
        for at in range(len(self.view.nodes) - 1, -1, -1):
            node = self.view.nodes[at]
            missing = any(name in lost for name in node.outputs)
            if not missing and not any(self.grads.get(name) for name in node.outputs):
                continue
            lost.update(name for name in node.inputs if name and self._shape_of(name) is None)
            if missing:
                self.steps[at] = self._unknown(at, node)
            with np.errstate(all="ignore"):
                try:
                    given = [self.gradient(name) for name in node.outputs]
                    found = self.steps[at].back([even((), ZERO) if g is None else g for g in given])
                except _FAULTS as fault:
                    self.unread[at] = f"{node.op}, backward: {type(fault).__name__}"
                    found = self._unknown(at, node).back([])
            for place, grad in found.items():
                name = node.inputs[place] if place < len(node.inputs) else ""
                if name:
                    self.grads.setdefault(name, []).append(grad)
            self._numbers.done()
        self._keep()

    def gradient(self, name: str) -> Given | None:
        """Return the labels of the gradient of a value; of a weight, several that label it together."""
        given = self.grads.get(name) if name else None
        value = self.values.get(name) if name else None
        if value is None:
            return None
        if not given:
            return even(value.shape, ZERO)
        if isinstance(value, Weight):
            return merged(given)
        return added([one if isinstance(one, Labels) else combined(one, "joint") for one in given])

    def _keep(self) -> None:
        found: dict[str, list[Labels]] = {}
        for name, tensor in self.view.graph.constants.items():
            if name in self.grads and tensor.is_float and not self.frozen(tensor):
                grad = self.gradient(name)
                if grad is not None:
                    found.setdefault(self._keys[name], []).extend((grad,) if isinstance(grad, Labels) else grad)
        self.factors = {key: tuple(factors) for key, factors in found.items()}

    def _classes(self) -> tuple[int, int]:
        """Return the number of labels of gradients of parameters, of all and of each: all else is made of these.

        Along a free axis every index counts: what becomes free has split.
        """
        parts = [
            (np.unique(f.data), math.prod(f.sizes[a] for a in np.flatnonzero(f.free))) for f in self._all_factors()
        ]
        if not parts:
            return 0, 0
        return len(np.unique(np.concatenate([own for own, _ in parts]))), sum(len(own) * n for own, n in parts)

    def _all_factors(self) -> list[Labels]:
        return [f for factors in self.factors.values() for f in factors]

    # ---- what is not understood

    def _shape_of(self, name: str) -> tuple[int, ...] | None:
        value = self.values.get(name)
        return value.shape if value is not None else self.shape(name)

    def _unknown(self, at: int, node: Node) -> Step:
        outs: list[Value | None] = []
        for k, name in enumerate(node.outputs):
            shape = self.shape(name)
            outs.append(None if shape is None else free(shape, word("unknown", at, k)))

        def back(_: Sequence[Labels]) -> Mapping[int, Given]:
            found: dict[int, Given] = {}
            for place, name in enumerate(node.inputs):
                shape = self._shape_of(name) if name else None
                if shape is not None:
                    found[place] = free(shape, word("unknown", at, "back", place))
            return found

        return Step(tuple(outs), back)


def _keys(constants: Mapping[str, Tensor], read: Collection[str]) -> tuple[dict[str, str], frozenset[str]]:
    """Return a key per constant, equal for names of the same values, and the keys of those that share only a part.

    Args:
        constants: by name.
        read: those that anything reads.
    """
    names: dict[object, str] = {}
    storages: dict[str, dict[str, tuple[int, int]]] = {}
    out: dict[str, str] = {}
    for name, tensor in constants.items():
        key = out[name] = names.setdefault(tensor.identity, name)
        if name in read:
            storages.setdefault(tensor.storage or tensor.name, {})[key] = _extent(tensor)
    odd: set[str] = set()
    for held in storages.values():
        end, last = 0, ""
        for key, (start, stop) in sorted(held.items(), key=lambda one: one[1]):
            if last and start < end:
                odd |= {key, last}
            end, last = max(end, stop), key if stop >= end else last
    return out, frozenset(odd)


def _extent(tensor: Tensor) -> tuple[int, int]:
    """Return the first place of a tensor in its storage, and the one after its last."""
    size = tensor.size
    if tensor.strides is not None:
        size = 1 + sum((n - 1) * abs(step) for n, step in zip(tensor.shape, tensor.strides, strict=True))
    return tensor.offset, tensor.offset + size
