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
from initaudit.live.probe.gates import Gate, free, opened
from initaudit.live.probe.rows import sized
from initaudit.types import Signal

_WAKES = 10.0  # times the gradient that a layer gets once gates are open, if it sleeps behind one
_STIRS = 100.0  # times the variance that it hands on then
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
        self, rows: Sequence[Signal], open_rows: Sequence[Signal], own: Sequence[Place], ends: Sequence[str]
    ) -> list[Signal]:
        """Return the signals of layers, with what they are once gates are open."""
        view = self._places.view
        past = free(self._places, self.awake, ends)
        fed = _fed(self._places, self.awake)
        by_node = {at: gate for gate in self.awake for at in gate.nodes}
        below = cache(lambda gate: _below(self._places, gate))
        out = []
        for before, now, place in zip(rows, open_rows, own, strict=True):
            mine = next((gate for gate in self._closed if gate.value in place.constants), None)
            nodes = frozenset(place.nodes)
            gate = None
            if _wakes(before, now) and not (before.gradient and (mine in self.awake or past & nodes)):
                at = reached(view, place.nodes, frozenset(by_node) - nodes)
                gate = None if at is None else by_node[at]
            if gate is None and mine is None and _stirs(before, now) and not (before.forward_variance and fed & nodes):
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

    def _relative(self, gate: Gate, squares: Squares) -> float:
        return math.sqrt(squares.get(id(self._parameters[gate.value]), 0.0)) / self._sizes[gate.value]


def _wakes(row: Signal, now: Signal) -> bool:
    return row.gradient is not None and bool(now.gradient) and (now.gradient or 0.0) >= _WAKES * row.gradient


def _stirs(row: Signal, now: Signal) -> bool:
    if row.forward_variance is None or not now.forward_variance:
        return False
    return now.forward_variance >= _STIRS * row.forward_variance


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
