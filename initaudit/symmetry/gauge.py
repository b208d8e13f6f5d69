"""A sign and a scale for every unit, chosen so that twins become copies.

What is made by a weight may be measured in a unit of its own, element by element: rows are divided by it, what reads it
is multiplied by it. An odd function lets a sign through, a positively homogeneous one a scale, a linear one both; what
mixes units in another way lets nothing through. So each value is asked what its readers let through, and each weight
then gives its rows the sign and the length that make proportional rows equal.

    allowed     what may be chosen for a value: nothing, a sign, a scale, or both; told by its readers, backward
    measure     what was chosen, an array along the axes of units; forward
    change      what a parameter is multiplied by then, seen from what comes in

Sums of two values need one choice for both: the later weight follows the earlier one, and where that does not do,
neither may choose. What is not understood lets nothing through, so that twins may be missed and none is made up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from initaudit.graph.view import View
from initaudit.types import Array, Node, Tensor

NOTHING, SIGN, SCALE, BOTH = 0, 1, 2, 3
_MOST = 1 << 22  # elements of a measure
_TRIES = 50
_SUMS = frozenset({"add", "sum", "sub"})


@dataclass(frozen=True, slots=True)
class Measure:
    """What the elements of a value are measured in: an array of the value's rank, of one element along most axes."""

    size: Array
    by: frozenset[int] = frozenset()  # the nodes that chose it


class Clash(Exception):  # noqa: N818  not an error: the nodes concerned choose nothing
    """Choices that do not go together."""

    def __init__(self, *by: int) -> None:
        super().__init__(by)
        self.by = by


@dataclass(frozen=True, slots=True)
class Rule:
    """How an operation treats measures."""

    lets: Lets  # (gauge, node, place, allowed for its result) -> for an operand
    makes: Makes  # (gauge, number of the node, node) -> of its result


Lets = Callable[["Gauge", Node, int, int], int]
Makes = Callable[["Gauge", int, Node], "Measure | None"]
rules: dict[str, Rule] = {}  # by operation


def rule(lets: Lets, *names: str) -> Callable[[Makes], Makes]:
    """Return the decorator that enters what operations let through, and what they make of measures."""

    def enter(makes: Makes) -> Makes:
        rules.update(dict.fromkeys(names, Rule(lets, makes)))
        return makes

    return enter


class Gauge:
    """Choices for all values of a graph."""

    def __init__(self, view: View) -> None:
        self.view = view
        self.pinned: set[int] = set()
        self.follows: dict[int, int] = {}
        self.changes: dict[str, Array] = {}  # of weights
        self.shifts: dict[str, Array] = {}  # of what is added
        self.measures: dict[str, Measure | None] = {}
        self.dry = True
        names: dict[object, int] = {}
        for tensor in view.graph.constants.values():
            key = tensor.storage or tensor.name
            names[key] = names.get(key, 0) + 1
        self.shared = {
            name
            for name, tensor in view.graph.constants.items()
            if names[tensor.storage or tensor.name] > 1 or len(view.readers(name)) != 1
        }
        self.allowed = self._allowed()
        self._choose()

    # ---- what operations ask

    def parameter(self, name: str) -> Tensor | None:
        """Return a constant that one operation alone reads."""
        tensor = self.view.graph.constants.get(name)
        return None if tensor is None or name in self.shared or not tensor.is_float else tensor

    def numbers(self, name: str) -> Array:
        """Return the values of a constant as float64."""
        tensor = self.view.graph.constants[name]
        if self.dry:
            return np.broadcast_to(np.ones(()), tensor.shape)
        found = np.asarray(tensor.load()).reshape(tensor.shape).astype(np.float64)
        if not np.isfinite(found).all():
            raise Clash
        return found

    def moves(self, name: str) -> bool:
        """Whether a value moves with the data."""
        return bool(name) and name not in self.view.fixed

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the extents of a value.

        Raises:
            Clash: they are not known.
        """
        graph = self.view.graph
        tensor = graph.constants.get(name)
        found = tensor.shape if tensor is not None else graph.inputs.get(name) or graph.shapes.get(name)
        if found is None or any(n is None for n in found):
            raise Clash
        return tuple(int(n or 0) for n in found)

    def of(self, name: str) -> Measure | None:
        """Return the measure of a value; None where it is one everywhere."""
        return self.measures.get(name)

    def by(self, at: int) -> frozenset[int]:
        """Return the nodes that what a node makes is measured by."""
        return frozenset((at, self.follows.get(at, at)))

    # ---- both ways

    def _allowed(self) -> dict[str, int]:
        out: dict[str, int] = dict.fromkeys(self.view.graph.outputs, NOTHING)
        for node in reversed(self.view.nodes):
            rule = rules.get(node.op)
            given = min((out.get(name, BOTH) for name in node.outputs if name), default=BOTH)
            for name in node.outputs:
                if name:
                    given &= out.get(name, BOTH)
            for place, name in enumerate(node.inputs):
                if self.moves(name):
                    lets = rule.lets(self, node, place, given) if rule is not None else NOTHING
                    out[name] = out.get(name, BOTH) & lets
        return out

    def _choose(self) -> None:
        """Look first, with made up numbers, which choices go together; then choose."""
        for self.dry in (True, False):
            for _ in range(_TRIES):
                self.measures, self.changes, self.shifts = {}, {}, {}
                if self._pass():
                    break
            else:
                self.measures, self.changes, self.shifts = {}, {}, {}
                return

    def _pass(self) -> bool:
        """Return whether all choices go together; those that do not are settled."""
        fits = True
        lost: set[str] = set()  # values of which nothing is known in this pass
        for at, node in enumerate(self.view.nodes):
            made = None
            if not lost.isdisjoint(node.inputs):
                lost.update(name for name in node.outputs if name)
            elif any(self.moves(name) for name in node.outputs):
                by = {k for name in node.inputs for k in self._by(name)}
                rule = rules.get(node.op)
                try:
                    made = rule.makes(self, at, node) if rule is not None else None
                    if (rule is None and by) or (made is not None and math.prod(made.size.shape) > _MOST):
                        raise Clash
                except (Clash, ValueError, IndexError, TypeError, KeyError) as fault:
                    self._settle(getattr(fault, "by", ()) or (by | {at}))
                    fits = False
                    made = next((self.of(name) for name in node.inputs if self._by(name)), None)
                    if node.op not in _SUMS or made is None:  # of a sum, the first one will be followed
                        made = None
                        lost.update(name for name in node.outputs if name)
            for name in node.outputs:
                if name:
                    self.measures[name] = made
        return fits

    def _by(self, name: str) -> frozenset[int]:
        found = self.measures.get(name) if name else None
        return found.by if found is not None else frozenset()

    def _settle(self, by: Iterable[int]) -> None:
        """Let the nodes that clash go together: a later one follows the first, or none may choose."""
        first, *rest = sorted(set(by))
        free = [k for k in rest if k not in self.follows and k not in self.pinned]
        if first in self.pinned or not free:
            self.pinned.update((first, *rest))
        for k in free:
            if first in self.pinned:
                self.pinned.add(k)
            else:
                self.follows[k] = first

    # ---- choices

    def chosen(self, at: int, out: str, rows: Array, shift: Array | None = None) -> Array | None:
        """Return a measure for each row of a weight, (rows, terms); None for one everywhere.

        Args:
            at: the node that makes them.
            out: its result.
            rows: as what comes in is measured.
            shift: what is added to each row.
        """
        lets = self.allowed.get(out, BOTH)
        if lets == NOTHING or at in self.pinned:
            return None
        if at in self.follows:
            found = self.of(self.view.nodes[self.follows[at]].outputs[0])
            if found is None:
                return None
            if found.size.size != len(rows):
                self.pinned.add(at)
                raise Clash(at)
            return found.size.reshape(-1)
        if self.dry:
            return np.random.default_rng(at).standard_normal(len(rows))
        if rows.shape[1]:
            random = np.random.default_rng(0).standard_normal(rows.shape[1])
            seen, length = rows @ random, np.sqrt((rows**2).sum(1))
        else:
            seen = length = np.zeros(len(rows))
        if shift is not None:
            seen, length = np.where(length == 0, shift, seen), np.where(length == 0, np.abs(shift), length)
        sign = np.where(seen < 0, -1.0, 1.0) if lets & SIGN else np.ones(len(rows))
        scale = np.where(length > 0, length, 1.0) if lets & SCALE else np.ones(len(rows))
        return np.asarray(sign * scale)


def along(measure: Measure | None, rank: int, axis: int) -> Array | None:
    """Return a measure that differs along one axis alone, as a vector.

    Raises:
        Clash: it differs along others.
    """
    if measure is None:
        return None
    if measure.size.ndim != rank or any(n > 1 for a, n in enumerate(measure.size.shape) if a != axis % rank):
        raise Clash(*measure.by)
    return measure.size.reshape(-1)


def changed(values: Array, change: Array, *, both: bool) -> Array:
    """Return numbers by another measure; those whose sign alone changes keep their dtype.

    Args:
        values: the numbers.
        change: what they are multiplied by on the way up.
        both: whether they are divided by it on the way back; then, scaled, they become complex: number and factor.
    """
    if bool((np.abs(change) == 1).all()):
        return np.where(change < 0, -values, values).astype(values.dtype)
    if not both:
        return values.astype(np.float64) * change
    kind = np.complex128 if values.dtype == np.float64 else np.complex64
    out = np.empty(values.shape, kind)
    out.real, out.imag = values, change
    return out


def measured(found: Mapping[str, Measure | None]) -> bool:
    """Whether anything was chosen but one."""
    return any(one is not None and bool((one.size != 1).any()) for one in found.values())
