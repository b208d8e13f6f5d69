"""Which gates wake, in which order, and which layers sleep until they do.

A gate with a gradient opens at the first step of training; what it kept shut may hold further gates, which get their
gradients then. Two zero factors that multiply each other never get any: they are dead, and are not opened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import torch

from initaudit.layers.spots import Place, Places, reached
from initaudit.live.probe.gates import Gate, free, opened, zeroed
from initaudit.live.probe.rows import sized
from initaudit.types import Signal

_WAKES = 10.0  # times the gradient that a layer gets once gates are open, if it sleeps behind one
_STIRS = 100.0  # times the variance that it hands on then
_LEFT = 0.01  # of a gradient or a variance, with gates at 0, where it comes past them
_ROUNDS = 4  # gates behind gates
_NONE = 1e-9  # of its values when open: a gradient with which a gate never opens

Squares = Mapping[int, float]  # of gradients, by id of the weight


class Waking:
    """The gates of one model.

    Args:
        places: of the graph.
        closed: the gates that are shut.
        parameters: weights by value name.
        seed: of what gates are opened with.
    """

    def __init__(
        self, places: Places, closed: Sequence[Gate], parameters: Mapping[str, torch.Tensor], seed: int
    ) -> None:
        self._places = places
        self._parameters = parameters
        self._seed = seed
        self._closed = tuple(closed)
        self.gradients: dict[str, float] = {}  # of each gate as it wakes, relative to its values when open
        self.awake: tuple[Gate, ...] = ()
        with opened(self._closed, parameters, seed):
            self._sizes = {gate.value: sized([parameters[gate.value]]) for gate in self._closed}

    def through(self, now: Squares, again: Callable[[], Squares]) -> bool:
        """Open gates in the order in which they wake; return whether there are any.

        Args:
            now: gradients with all gates as they are.
            again: measures them anew, with gates open.
        """
        for _ in range(_ROUNDS):
            eager = {gate: self._relative(gate, now) for gate in self._closed if gate not in self.awake}
            self.gradients.update((gate.value, size) for gate, size in eager.items())
            new = tuple(gate for gate, size in eager.items() if size > _NONE)
            if not new:
                break
            self.awake += new
            with opened(self.awake, self._parameters, self._seed):
                now = again()
        return bool(self.awake)

    def rows(
        self,
        rows: Sequence[Signal],
        open_rows: Sequence[Signal],
        own: Sequence[Place],
        ends: Sequence[str],
        again: Callable[[], Sequence[Signal]],
    ) -> list[Signal]:
        """Return the signals of layers, with what they are once gates are open.

        A layer sleeps where gradient, or signal, come to it through gates only: the graph may leave ways past them that
        nothing goes, as from all tokens to the one that is read. Then what is left with the gates at 0 tells.

        Args:
            rows: as the gates are.
            open_rows: with the gates that wake open.
            own: the places of the layers.
            ends: values that the ways back start from.
            again: measures the layers anew.
        """
        view = self._places.view
        past = free(self._places, self.awake, ends)
        fed = _fed(self._places, self.awake)
        shut = cache(lambda: self._shut(rows, again))
        by_node = {at: gate for gate in self.awake for at in gate.nodes}
        below = cache(lambda gate: _below(self._places, gate))
        out: list[Signal] = []
        for at_row, (before, now, place) in enumerate(zip(rows, open_rows, own, strict=True)):
            mine = next((gate for gate in self._closed if gate.value in place.constants), None)
            nodes = frozenset(place.nodes)
            gate = None
            passed = before.gradient and (mine in self.awake or past & nodes)
            if _wakes(before, now) and not (
                passed and (mine in self.awake or _stays(before.gradient, shut()[at_row].gradient))
            ):
                at = reached(view, place.nodes, frozenset(by_node) - nodes)
                gate = None if at is None else by_node[at]
            stirs = gate is None and mine is None and _stirs(before, now)
            passed = before.forward_variance and fed & nodes
            if stirs and not (passed and _stays(before.forward_variance, shut()[at_row].forward_variance)):
                gate = next((g for g in reversed(self.awake) if below(g) & nodes), None)
            told = mine or gate
            row = replace(before, gate_gradient=None if told is None else self.gradients[told.value])
            if self.awake:
                row = replace(
                    row,
                    open_forward_variance=now.forward_variance,
                    open_relative_gradient=now.relative_gradient,
                )
            out.append(row if gate is None else replace(row, behind_gate=True, gate=gate.name))
        return out

    def _shut(self, rows: Sequence[Signal], again: Callable[[], Sequence[Signal]]) -> Sequence[Signal]:
        """Return the signals with the gates that wake at 0, where they are no zeros already."""
        if not any(bool(self._parameters[gate.value].any()) for gate in self.awake):
            return rows
        with zeroed(self.awake, self._parameters):
            return again()

    def _relative(self, gate: Gate, squares: Squares) -> float:
        return math.sqrt(squares.get(id(self._parameters[gate.value]), 0.0)) / self._sizes[gate.value]


def _wakes(row: Signal, now: Signal) -> bool:
    return row.gradient is not None and bool(now.gradient) and (now.gradient or 0.0) >= _WAKES * row.gradient


def _stirs(row: Signal, now: Signal) -> bool:
    if row.forward_variance is None or not now.forward_variance:
        return False
    return now.forward_variance >= _STIRS * row.forward_variance


def _stays(before: float | None, shut: float | None) -> bool:
    """Whether what there was is still there with gates at 0."""
    return not before or (shut or 0.0) >= _LEFT * before


def _below(places: Places, gate: Gate) -> frozenset[int]:
    """Return the nodes that what a gate lets through comes to."""
    return _down(places, gate.nodes, frozenset()) - gate.nodes


def _fed(places: Places, awake: Sequence[Gate]) -> frozenset[int]:
    """Return the nodes that an input comes to past all gates."""
    barred = frozenset(at for gate in awake for at in gate.nodes)
    starts = {use.node for name in places.view.graph.inputs for use in places.view.readers(name)}
    return _down(places, frozenset(starts) - barred, barred)


def _down(places: Places, starts: frozenset[int], barred: frozenset[int]) -> frozenset[int]:
    view = places.view
    todo, seen = list(starts), set(starts)
    while todo:
        for name in view.nodes[todo.pop()].outputs:
            for use in view.readers(name) if name else ():
                if use.node not in seen and use.node not in barred:
                    seen.add(use.node)
                    todo.append(use.node)
    return frozenset(seen)
