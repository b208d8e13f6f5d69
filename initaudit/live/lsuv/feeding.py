"""What a graph is fed with while its weights are scaled: all of the user's data, or as much as tells a variance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from initaudit.errors import UsageError
from initaudit.layers.spots import Places
from initaudit.live.probe import feeds
from initaudit.live.probe.cost import MOST, MOST_BYTES, Once, exact, once
from initaudit.live.probe.data import by_input
from initaudit.live.probe.examples import laws
from initaudit.live.probe.run import _attempts, _examples
from initaudit.live.probe.shapes import counted
from initaudit.types import Graph, Tensor

INPUTS = 32  # drawn where there are no data
_LEAST = 2
_IMAGES = (32, 28, 96, 128, 256, 384, 299)
_PASSES = 4  # a product is made about so often
_EASY = 1e11  # multiplications that take some seconds
_ROOM = MOST_BYTES / 3  # of values that are drawn for
_SPEED = 2.5e10  # multiplications a second of one thread


@dataclass(frozen=True, slots=True)
class Fed:
    """What a graph is fed with."""

    feeds: tuple[Mapping[str, torch.Tensor], ...]
    inputs: int
    macs: float
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """A rough guess for one thread."""
        return self.macs / _SPEED

    @property
    def sentence(self) -> str:
        """What a person is told."""
        return f"{self.inputs} inputs, about {self.macs * 2 / 1e9:.0f} GFLOP"


def attempts(graph: Graph, places: Places, data: Any, seed: int, examples: Sequence[Tensor]) -> Iterator[Fed]:
    """Yield what a graph may be fed with, the likeliest first.

    Raises:
        UsageError: the data are not finite, are all zero, or do not fit the graph's inputs.
    """
    given = by_input(data or {}, graph.inputs)
    _checked(given)
    for kinds in (*_attempts(places, given), *_of_other_sizes(places, given)):
        for wide in _widened(graph, kinds, given):
            yield _fed(graph, places, wide, given, seed, examples)


def _of_other_sizes(places: Places, given: Mapping[str, torch.Tensor]) -> Iterator[dict[str, feeds.Kind]]:
    """Yield images of further sizes, where the graph leaves the size open and yet takes one only."""
    inputs = places.view.graph.inputs
    if any(name not in given and shape is not None and len(shape) == 4 for name, shape in inputs.items()):
        known = {size for _, size in feeds.SIZES}
        for size in (n for n in _IMAGES if n not in known):
            yield feeds.shaped(feeds.kinds(places.view, (feeds.SIZES[0][0], size), places.founds), given, places.view)


def _checked(given: Mapping[str, torch.Tensor]) -> None:
    floats = {name: value for name, value in given.items() if value.is_floating_point() or value.is_complex()}
    for name, value in floats.items():
        if not bool(torch.isfinite(value).all()):
            raise UsageError(
                f"the data for {name[:80]} hold NaN or infinite values, which lsuv would write into weights"
            )
    if floats and not any(bool((value != 0).any()) for value in floats.values()):
        raise UsageError("the data are all zero: there is no variance that lsuv could set")
    for name, value in given.items():
        if not value.numel():
            raise UsageError(f"the data for {name[:80]} are empty")


def _widened(
    graph: Graph, kinds: Mapping[str, feeds.Kind], given: Mapping[str, torch.Tensor]
) -> Iterator[dict[str, feeds.Kind]]:
    """Yield kinds with more inputs per run where the graph leaves their number open, then as they are."""
    open_ = [n for n, shape in graph.inputs.items() if shape and shape[0] is None and kinds[n].shape]
    if open_ and len(open_) == len(graph.inputs):
        count = max((len(v) for v in given.values() if v.dim()), default=INPUTS)
        rows = min(count, INPUTS)
        if rows > feeds.batch(kinds):
            yield {n: replace(k, shape=(rows, *k.shape[1:])) for n, k in kinds.items()}
    yield dict(kinds)


def _fed(
    graph: Graph,
    places: Places,
    kinds: Mapping[str, feeds.Kind],
    given: Mapping[str, torch.Tensor],
    seed: int,
    examples: Sequence[Tensor],
) -> Fed:
    rows = max(1, feeds.batch(kinds))
    one = once(places, graph, {name: kind.shape for name, kind in kinds.items()}, graph.constants)
    if not one.sure:
        one = exact(one, counted(graph, feeds.made(kinds, given, 1, seed)[0], graph.outputs))
    count = max((len(v) for v in given.values() if v.dim()), default=0)
    notes: list[str] = []
    if count:
        calls = _whole(count, rows)
        most = max(1, int(min(_most(one, MOST_BYTES), MOST / max(1.0, _PASSES * one.macs))))
        if calls > most:
            notes.append(f"of {count} inputs {most * rows} are used: more would take too much memory or time")
            calls = most
    else:
        easy = _EASY / max(1.0, _PASSES * one.macs)
        calls = int(max(_LEAST / rows, min(math.ceil(INPUTS / rows), easy, _most(one, _ROOM))))
        calls = max(1, calls)
    like = laws(_examples(kinds, examples), {name: kind.word for name, kind in kinds.items()})
    made = feeds.made(kinds, given, calls, seed, like)
    return Fed(tuple(made), calls * rows, _PASSES * one.macs * calls, tuple(notes))


def _most(one: Once, room: float) -> float:
    return max(1.0, (room - one.weights) / max(1.0, one.values))


def _whole(count: int, rows: int) -> int:
    """Return how many runs take all inputs equally often, if these are few, else how many take all of them."""
    calls = math.lcm(count, rows) // rows
    return calls if calls * rows <= 4 * count else -(-count // rows)
