"""The walk through a graph, up with kernels and down with gradients, and the table of operations.

An operation is a function of a Case that returns a Step: what it makes, and how a gradient passes back through it.

    @op("neg")
    def _neg(c: Case) -> Step:
        x = c.kernel(0)
        return Step((x.scaled(-1.0),), lambda d: {0: d[0]})

It raises Unread where it does not understand the node; what follows is then not known. The way back takes one gradient
per output (None where nothing reads it) and returns gradients by place of the operand, each on the grid of that
operand's Kernel. Weights that enter a product tell their gradient by `Case.learn`; for what is scaled or added element
by element it is enough to hand its gradient back like any other operand's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from initaudit.errors import InitauditError
from initaudit.graph.operands import Operands
from initaudit.graph.view import View
from initaudit.layers.from_graph_found import computed
from initaudit.registry import ByName
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import Back, Batched, Kernel, corrected, plain_axes, start
from initaudit.theory.weights import Weight, Weights
from initaudit.types import Array, Attending, Graph, Node

Grads = Sequence[Back | None]
Down = Callable[[Grads], Mapping[int, Back | None]]
BATCH = 2  # inputs where the graph leaves it open
INPUTS = 16  # in the batch of a step of training, whatever batch the graph was recorded with
LENGTH = 16  # tokens likewise
_FAR = 20
NO_SIGNAL = frozenset({  # what makes truth values and places of numbers, and what is constant between steps
    "equal", "not_equal", "greater", "less", "greater_or_equal", "less_or_equal", "not", "and", "or", "xor", "is_nan",
    "is_inf", "argmax", "argmin", "non_zero", "shape", "size", "one_hot", "sign", "floor", "ceil", "round", "argsort",
    "unique", "bitwise_and", "bitwise_or", "bitwise_not",
})  # fmt: skip
_MANY = 500  # values
_CHANCE = 6.0  # standard deviations


class Unread(Exception):  # noqa: N818  not an error: the operation is told as not understood
    """An operation, or a use of it, that theory does not understand."""


class _Unknown(Exception):  # noqa: N818
    """An operand is not known, because something before it was not understood."""


@dataclass(frozen=True, slots=True)
class Step:
    """What an operation makes, one Kernel per output (None for what is no signal), and the way back through it."""

    outs: tuple[Kernel | None, ...]
    back: Down


@dataclass(slots=True)
class Learned:
    """Squared gradient of a parameter; see `Signal.gradient`, `common` and `contrast`."""

    square: float = 0.0  # of one input
    cross: float = 0.0  # product of the gradients of two inputs under one cotangent
    apart: float = 0.0  # square of one less the product of two, under one cotangent
    batch: float = 0.0  # what a product of two of one batch is more, times the inputs in it
    contrast: float = 0.0  # as `apart`, for weights over inputs that sum to zero


_FAULTS = (
    Unread, InitauditError, ArithmeticError, LookupError, TypeError, ValueError, RecursionError, AttributeError,
    AssertionError, MemoryError,
)  # fmt: skip
op: ByName[Callable[[Case], Step]] = ByName()  # what theory knows of operations


def known(name: str) -> bool:
    """Whether there is a rule for an operation."""
    return name in op


class Case(Operands):
    """A node to be understood."""

    def __init__(self, walk: Walk, node: Node) -> None:
        super().__init__(node)
        self.walk = walk

    def name(self, place: int) -> str:
        """Return the name of an operand, "" if it is absent."""
        return self.node.inputs[place] if place < len(self.node.inputs) else ""

    def moves(self, place: int) -> bool:
        """Whether an operand moves with the data."""
        return self.has(place) and self.node.inputs[place] not in self.walk.view.fixed

    def kernel(self, place: int) -> Kernel:
        """Return the kernel of an operand, a constant or not.

        Raises:
            Unread: there is none.
        """
        if not self.has(place):
            raise Unread
        return self.walk.kernel(self.node.inputs[place])

    def weight(self, place: int) -> Weight:
        """Return what is known of a weight, in the orientation that the operation finds it in.

        Raises:
            Unread: the operand moves, or nothing is known of it.
        """
        if not self.has(place) or self.moves(place):
            raise Unread
        found = self.walk.weights.of(self.node.inputs[place])
        if found is None:
            raise Unread
        return found

    def is_weight(self, place: int) -> bool:
        """Whether an operand is a constant operator of at least two axes, as products have them."""
        if not self.has(place) or self.moves(place):
            return False
        found = self.walk.weights.of(self.node.inputs[place])
        return found is not None and len(found.shape) > 1

    def number(self, place: int) -> float | None:
        """Return the one number that an operand is throughout."""
        return self.walk.number(self.name(place)) if self.has(place) else None

    def values(self, place: int) -> Array | None:
        """Return the values of a small constant, None for any other operand."""
        return self.walk.values(self.name(place)) if self.has(place) else None

    def ints(self, place: int, *names: str) -> tuple[int, ...] | None:
        """Return whole numbers from an attribute, else from a constant operand; None where neither is there."""
        if (given := self.listed(*names)) is not None:
            return given
        found = self.values(place) if place >= 0 else None
        if found is None or found.dtype.kind not in "iubf" or found.size > 4096 or np.any(found != np.floor(found)):
            return None
        return tuple(int(n) for n in found.ravel())

    def real(self, name: str, default: float) -> float:
        """Return an attribute that is a number."""
        given = self.attrs.get(name)
        return float(given) if isinstance(given, (int, float)) else default

    def text(self, name: str) -> str:
        """Return an attribute that is text, "" for any other."""
        given = self.attrs.get(name)
        return given.decode("utf-8", "replace") if isinstance(given, bytes) else given if isinstance(given, str) else ""

    def shape(self, output: int = 0) -> tuple[int | None, ...] | None:
        """Return what the graph says of the shape of an output."""
        if output >= len(self.node.outputs):
            return None
        return self.walk.view.graph.shapes.get(self.node.outputs[output])

    def learn(
        self, weight: Weight, square: float, cross: float, apart: float, batch: float = 0.0,
        contrast: float | None = None,
    ) -> None:  # fmt: skip
        """Tell the squared gradient of a weight, see `Learned`; it may be called several times for one."""
        given = (square, cross, apart, batch, apart if contrast is None else contrast)
        if weight.value:
            self.walk.returned(weight.value, given)
        else:
            self.walk.learn(weight.sources, given)


class Walk:
    """One walk through a graph."""

    def __init__(self, view: View, weights: Weights) -> None:
        self.view = view
        self.weights = weights
        weights.ask = self._moments
        weights.shape_of = self.shape_of
        self.kernels: dict[str, Kernel | None] = {}
        self.steps: dict[int, Step] = {}
        self.backs: dict[str, Back | None] = {}
        self.learned: dict[str, Learned] = {}
        self.attending: list[Attending] = []
        self.parts: Any = None  # composite.Parts: the graph before nodes were fused
        self.batch = 1  # inputs that the graph was recorded with
        self.guessed: set[int] = set()  # nodes that are not understood
        self.lost: set[str] = set()  # values of which the gradient is not known
        self.unread: dict[str, None] = {}
        self._tried: set[int] = set()

    def shape_of(self, name: str) -> tuple[int | None, ...] | None:
        """Return the shape that a value has in this walk, of ids and masks too."""
        for _ in range(_FAR):
            known = self.kernels.get(name)
            if known is not None:
                return known.shape
            declared = self.view.graph.inputs.get(name) or self.view.graph.shapes.get(name)
            if declared is not None:
                return tuple(n if n is not None else LENGTH if k else BATCH for k, n in enumerate(declared))
            at = self.view.producer.get(name)
            if at is None:
                return None
            node = self.view.nodes[at]
            if node.op == "reshape" and len(node.inputs) > 1:
                return self._refilled(node)
            if node.op == "top_k" and name != node.outputs[0]:
                name = node.outputs[0]
                continue
            if node.op not in ("identity", "cast", "cast_like", "not", "equal", "greater"):
                return None
            name = node.inputs[0]
        return None

    def _refilled(self, node: Node) -> tuple[int | None, ...] | None:
        """Return the shape that a reshape asks for, its open extent worked out."""
        wanted, before = self.values(node.inputs[1]), self.shape_of(node.inputs[0])
        if wanted is None or before is None or any(n is None for n in before):
            return None
        told = [int(n) for n in wanted.ravel()]
        told = [int(before[k] or 1) if n == 0 and k < len(before) else n for k, n in enumerate(told)]
        rest = math.prod(int(n or 1) for n in before) // max(1, math.prod(n for n in told if n > 0))
        return tuple(rest if n < 0 else n for n in told)

    # ---- up

    def up(self, feeds: Mapping[str, Kernel | None]) -> None:
        """Go through the whole graph, from the kernels of its inputs."""
        self.kernels.update(feeds)
        self.batch = max((k.inputs for k in feeds.values() if k is not None), default=1)
        for at, node in enumerate(self.view.nodes):
            if self.view.moving(node):
                self._forward(at)

    def kernel(self, name: str) -> Kernel:
        """Return the kernel of a value. Raises `_Unknown` or `Unread` where there is none."""
        if name not in self.kernels:
            self.kernels[name] = self._fixed(name)
        found = self.kernels[name]
        if found is None:
            raise _Unknown
        return found

    def _fixed(self, name: str) -> Kernel | None:
        """Return the kernel of what does not move with the data: a constant, or made of constants."""
        if name in self.view.graph.constants:
            return self._leaf(name)
        at = self.view.producer.get(name)
        if at is None:
            return None
        values = self.values(name)
        leaves = self._leaves(name) if values is not None and values.size > 1 else None
        if values is not None and leaves is not None and not any(map(self.weights.learns, leaves)):
            found = self._tabled(values)  # they tell more than their moments step by step
            if found is not None:
                return found
        self._forward(at)
        made = self.kernels.get(name)
        return made if made is None or values is None else corrected(made, values)

    def _leaves(self, name: str) -> set[str] | None:
        """Return the constants that a value is computed from; None where it is made of very much."""
        seen: set[str] = set()
        todo = [name]
        while todo:
            if len(seen) > _MANY:
                return None
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                at = self.view.producer.get(one)
                todo += [] if at is None else [n for n in self.view.nodes[at].inputs if n]
        return {one for one in seen if one in self.view.graph.constants}

    def _leaf(self, name: str) -> Kernel | None:
        tensor = self.view.graph.constants[name]
        found = self.weights.of(name)
        if found is None or len(tensor.shape) > 6:
            return None
        shape = found.shape
        last = len(shape) - 1
        units = 1 if len(shape) > 3 and shape[1] > 1 and shape[-1] == 1 else last
        kinds = "".join("u" if a == units or (len(shape) > 3 and a == 1) else "p" for a in range(len(shape)))
        if len(shape) > 3 and kinds.count("u") > 1:
            kinds = kinds[:-1] + "p"
        made = constant(shape, kinds, found.centre, found.variance + max(0.0, found.mean**2 - found.centre**2))
        return alike_places(made, self.weights.numbers(name), kinds)

    def _forward(self, at: int) -> None:
        if at in self._tried:
            return
        self._tried.add(at)
        node = self.view.nodes[at]
        rule = op.get(node.op)
        step: Step | None = None
        lost = False
        before = set(self.unread)
        try:
            if rule is None:
                for place in self.view.moving(node):
                    self.kernel(node.inputs[place])
                raise Unread
            with np.errstate(all="ignore"):
                step = rule(Case(self, node))
        except _Unknown:
            lost = True
        except _FAULTS:
            lost = False
            if node.op not in NO_SIGNAL:
                self.unread.setdefault(node.op)
        if step is None:
            known = [self._numbers(name) for name in node.outputs if name]
            if all(values is not None for values in known) and node.op not in before:
                self.unread.pop(node.op, None)
            elif any(values is None for values in known):
                step = self._neutral(node, lost)
                self.guessed.add(at)
            if step is None:
                for name, values in zip((n for n in node.outputs if n), known, strict=True):
                    self.kernels[name] = None if values is None else self._tabled(values)
                return
        self.steps[at] = step
        self.weights.clock += 1
        for k, name in enumerate(node.outputs):
            self.kernels[name] = step.outs[k] if k < len(step.outs) else None

    def _neutral(self, node: Node, lost: bool) -> Step | None:
        """Return what is taken for an operation that is not understood; `lost`: because of what it reads."""
        from initaudit.theory.neutral import neutral  # noqa: PLC0415  it needs a Case

        try:
            step = neutral(Case(self, node))
        except (*_FAULTS, _Unknown):
            return None
        if lost:
            self.unread.setdefault(node.op)
        return step

    def _numbers(self, name: str) -> Array | None:
        """Return the numbers that nodes compute from constants, and from masks that let everything pass."""
        from initaudit.theory.attention_masks import opened  # noqa: PLC0415  it asks back for shapes

        return self.values(name) if name in self.view.fixed else opened(self, name)

    def _tabled(self, values: Array) -> Kernel | None:
        if not values.size or values.dtype.kind not in "fiu" or values.ndim > 6:
            return None
        numbers = values.astype(np.float64)
        if not np.all(np.isfinite(numbers)):
            return None
        kinds = "".join("u" if a == values.ndim - 1 else "p" for a in range(values.ndim))
        made = constant(values.shape, kinds, float(numbers.mean()), float(numbers.var()))
        return alike_places(made, numbers, kinds)

    # ---- down

    def down(self, ends: Iterable[str]) -> None:
        """Go back from random vectors of unit size on some values."""
        ends = tuple(ends)
        needed = self._needed(ends)
        for name in ends:
            value = self.kernels.get(name)
            if value is None:
                self.lost.add(name)
            else:
                self._add(name, start(value))
        for at in range(len(self.view.nodes) - 1, -1, -1):
            if at in needed:
                self._backward(at)
        for name in self.view.graph.constants:
            back, value = self.backs.get(name), self.kernels.get(name)
            if back is not None and value is not None:
                one = value.grid.peak(1.0)
                self.learn((name,), back.met(one * value.size, one, one, 0 * one))

    def _needed(self, ends: Iterable[str]) -> set[int]:
        seen: set[int] = set()
        todo = list(ends)
        while todo:
            at = self.view.producer.get(todo.pop())
            if at is not None and at not in seen:
                seen.add(at)
                todo += self.view.nodes[at].inputs
        return seen

    def _backward(self, at: int) -> None:
        node = self.view.nodes[at]
        step = self.steps.get(at)
        outs = [name for name in node.outputs if name]
        if step is None or any(name in self.lost for name in outs):
            if any(name in self.lost or self.backs.get(name) is not None for name in outs):
                self._lose(node)  # else no gradient comes here at all
            return
        given = [self.backs.get(name) if name else None for name in node.outputs]
        if all(d is None for d in given):
            return
        try:
            with np.errstate(all="ignore"):
                found = step.back(given)
        except (*_FAULTS, _Unknown):
            self.unread.setdefault(node.op)
            self._lose(node)
            return
        for place, back in found.items():
            if back is not None and place < len(node.inputs):
                self._add(node.inputs[place], back)

    def _lose(self, node: Node) -> None:
        """Note that what a node hands back is not known; what only asks for a shape hands back nothing."""
        fixed = self.view.fixed.issuperset(name for name in node.outputs if name)
        self.lost.update(name for name in node.inputs if name and (not fixed or name in self.view.fixed))

    def _add(self, name: str, back: Back) -> None:
        value = self.kernels.get(name)
        if value is not None and value.grid != back.grid:
            self.lost.add(name)
            return
        before = self.backs.get(name)
        self.backs[name] = back if before is None else before.plus(back)

    def learn(self, names: Sequence[str], given: Sequence[float]) -> None:
        """Add to the squared gradient of constants, in equal parts where there are several."""
        for name in names:
            row = self.learned.setdefault(name, Learned())
            square, cross, apart, batch, contrast = (float(f) / len(names) for f in given)
            row.square += square
            row.cross += cross
            row.apart += apart
            row.batch += batch
            row.contrast += contrast

    def returned(self, name: str, given: Sequence[float]) -> None:
        """Hand the gradient of a weight that is computed from others back to these."""
        value = self.kernels.get(name)
        if value is None:
            return
        square, cross, apart, batch, contrast = (value.grid.peak(float(f) / max(1, value.size)) for f in given)
        batched = Batched(contrast, cross, batch)
        self._add(name, Back(value.grid, square, apart, cross, 1 / max(1, value.units), (), batched))

    def _moments(self, name: str) -> tuple[float, float] | None:
        """Return mean and variance of what is computed from constants."""
        before = dict(self.unread)
        try:
            found = self.kernel(name)
        except (Unread, _Unknown, RecursionError):
            self.unread = before  # the largest constant that it is made of stands for it
            return None
        mean, variance = found.mean, found.spread
        return (mean, max(0.0, variance)) if math.isfinite(mean) and math.isfinite(variance) else None

    # ---- constants

    def number(self, name: str) -> float | None:
        """Return the one number that a value is throughout."""
        found = self.values(name)
        if found is None or not found.size or found.dtype.kind not in "iufb":
            return None
        first = float(found.flat[0])
        return first if bool(np.all(found == found.flat[0])) else None

    def values(self, name: str) -> Array | None:
        """Return the values of a small constant."""
        return self.weights.values(name)

    def made_of(self, name: str) -> tuple[str, ...]:
        """Return the names of the constants that a value is computed from, largest first."""
        return tuple(t.name for t in computed(self.view, name))


def constant(shape: Sequence[int], kinds: str, mean: float, variance: float) -> Kernel:
    """Return the kernel of a constant with these moments, its elements independent of each other."""
    axes, grid = plain_axes(shape, kinds)
    return Kernel(axes, grid, grid.full(0.0), grid.peak(variance), mean)


def alike_places(x: Kernel, values: Array | None, kinds: str) -> Kernel:
    """Return the kernel of a constant with what its positions have in common, where that is more than chance.

    Sines and cosines of low frequency are nearly the same at all positions.
    """
    if values is None or values.ndim != len(kinds) or x.grid.positions < 2 or values.shape != x.shape:
        return x
    order = [a for a, kind in enumerate(kinds) if kind == "p"] + [a for a, kind in enumerate(kinds) if kind != "p"]
    rows = values.astype(np.float64).transpose(order).reshape(x.grid.positions, -1) - x.mean
    far = common(rows)
    if not math.isfinite(far) or abs(far) < _CHANCE * x.spread / (x.grid.positions * math.sqrt(rows.shape[1])):
        return x
    shared = np.full(x.grid.size, far)
    shared[0] = x.shared[0]
    return replace(x, shared=shared)


def common(rows: Array) -> float:
    """Return the mean product of two different rows, per column."""
    count, width = rows.shape
    if count < 2 or not width:
        return 0.0
    total = float(np.sum(rows.sum(0) ** 2)) - float(np.sum(rows**2))
    return float(total / (count * (count - 1.0) * width))


def noise(shape: Sequence[int], kinds: str) -> Kernel:
    """Return the kernel of inputs drawn from N(0, 1), "bupp" saying what the axes are."""
    axes, grid = plain_axes(shape, kinds)
    made = Kernel(axes, grid, grid.peak(1.0), grid.full(0.0))
    return replace(made, alike=1 / max(1, made.units))


def flat(grid: Grid) -> Array:
    """Return zeros on a grid."""
    return grid.full(0.0)


def finite(value: float | None) -> float | None:
    """Return a number, None where it is not finite."""
    return None if value is None or not math.isfinite(value) else float(value)


def graph_of(view: View) -> Graph:
    """Return the graph that a view is of."""
    return view.graph
