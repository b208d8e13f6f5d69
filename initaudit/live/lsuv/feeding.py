"""What a graph is fed with while its weights are scaled: all of the user's data, or as much as tells a variance."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from initaudit.errors import UsageError
from initaudit.layers.spots import Places
from initaudit.live.lsuv.frontier import frontier
from initaudit.live.probe import feeds
from initaudit.live.probe.cost import MOST_BYTES
from initaudit.live.probe.data import Data, by_input
from initaudit.live.probe.examples import laws
from initaudit.live.probe.run import _attempts, _examples
from initaudit.types import Graph, Tensor

INPUTS = 32  # drawn where there are no data
_WIDEST = 256  # of a run, where the graph leaves it open
_LEAST = 2
_SIZES = (28, 96, 128, 256, 384, 299, 512, *range(8, 64), 112, 160, 192, 320, 448)  # after those of the probe
_DOUBTFUL = 12  # feeds of which shapes alone do not say whether they fit
_PASSES = 4  # a product is made about so often
_EASY = 1e11  # multiplications that take some seconds
_MOST = 1e13  # multiplications that are done at all
_ROOM = MOST_BYTES / 3  # of values that are drawn for
_SPEED = 2.5e10  # multiplications a second of one thread


@dataclass(frozen=True, slots=True)
class Fed:
    """What a graph is fed with."""

    feeds: tuple[Mapping[str, torch.Tensor], ...]
    inputs: int
    macs: float
    notes: tuple[str, ...] = ()
    sure: bool = True  # shapes alone say that it fits

    @property
    def seconds(self) -> float:
        """A rough guess for one thread."""
        return self.macs / _SPEED

    @property
    def sentence(self) -> str:
        """What a person is told."""
        return f"{self.inputs} inputs, about {self.macs * 2 / 1e9:.0f} GFLOP"


def attempts(
    graph: Graph, places: Places, data: Data, seed: int, examples: Sequence[Tensor], wanted: Sequence[str]
) -> Iterator[Fed]:
    """Yield what a graph may be fed with, the likeliest first.

    Args:
        graph: to be run.
        places: in it.
        data: of the user, may be empty.
        seed: of what is drawn.
        examples: what the caller fed the model with.
        wanted: values of the graph that are made.

    Raises:
        UsageError: the data are not finite, are all zero, or do not fit the graph's inputs;
    """
    given = by_input(data, graph.inputs)
    _checked(given)
    doubtful: list[Fed] = []
    for own in _spelled(places, given):
        for kinds in _candidates(places, own):
            for wide in _widened(graph, kinds, own):
                fed = _fed(graph, wide, own, seed, examples, wanted)
                if fed is not None and fed.sure:
                    yield fed
                elif fed is not None and len(doubtful) < _DOUBTFUL:
                    doubtful.append(fed)
    yield from doubtful


def _spelled(places: Places, given: Mapping[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the data as they are, then with real numbers for integers that look nothing up, as of images in bytes."""
    yield dict(given)
    words = {name: kind.word for name, kind in feeds.kinds(places.view, feeds.SIZES[0], places.founds).items()}
    real = {
        name: value.float() if words.get(name) == "numbers" and not _real(value) else value
        for name, value in given.items()
    }
    if any(real[name] is not value for name, value in given.items()):
        yield real


def _real(value: torch.Tensor) -> bool:
    return value.is_floating_point() or value.is_complex()


def guessed(graph: Graph, data: Data) -> bool:
    """Whether the extents of an input are neither in the graph nor in the data."""
    given = by_input(data, graph.inputs)
    return any(
        name not in given and (shape is None or any(extent is None for extent in shape[1:]))
        for name, shape in graph.inputs.items()
    )


def _candidates(places: Places, given: Mapping[str, torch.Tensor]) -> Iterator[dict[str, feeds.Kind]]:
    """Yield what the inputs may be; of extents that nothing tells, further sizes: a graph may take one only."""
    yield from _attempts(places, given)
    if guessed(places.view.graph, given):
        for size in _SIZES:
            yield feeds.shaped(feeds.kinds(places.view, (size, size), places.founds), given, places.view)


def _checked(given: Mapping[str, torch.Tensor]) -> None:
    floats = {name: value for name, value in given.items() if _real(value)}
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
        divisor = max(n for n in range(1, min(count, _WIDEST) + 1) if count % n == 0)
        for rows in (divisor, min(count, INPUTS)) if divisor > INPUTS else (min(count, INPUTS),):
            if rows > feeds.batch(kinds):
                yield {n: replace(k, shape=(rows, *k.shape[1:])) for n, k in kinds.items()}
    yield dict(kinds)


def _fed(
    graph: Graph,
    kinds: Mapping[str, feeds.Kind],
    given: Mapping[str, torch.Tensor],
    seed: int,
    examples: Sequence[Tensor],
    wanted: Sequence[str],
) -> Fed | None:
    """Return what a graph is fed with on inputs of these kinds; None where not even one run of them has room.

    Raises:
        UsageError: the data do not fit.
    """
    rows = max(1, feeds.batch(kinds))
    told = frontier(graph, feeds.made(kinds, given, 1, seed)[0], wanted)
    macs, held = told or (0.0, 0.0)
    count = max((len(v) for v in given.values() if v.dim()), default=0)
    most = int(min(_MOST / max(1.0, _PASSES * macs), MOST_BYTES / max(1.0, held)))
    if most < 1:
        return None
    notes: list[str] = []
    if count:
        calls = _whole(count, rows)
        if calls > most:
            notes.append(f"of {count} inputs {most * rows} are used: more would take too much memory or time")
            calls = most
    else:
        easy = int(min(_EASY / max(1.0, _PASSES * macs), _ROOM / max(1.0, held)))
        calls = min(most, max(math.ceil(_LEAST / rows), min(math.ceil(INPUTS / rows), easy)))
    like = laws(_examples(kinds, examples), {name: kind.word for name, kind in kinds.items()})
    made = feeds.made(kinds, given, calls, seed, like)
    return Fed(tuple(made), calls * rows, _PASSES * macs * calls, tuple(notes), told is not None)


def _whole(count: int, rows: int) -> int:
    """Return how many runs take all inputs equally often, if these are few, else how many take all of them."""
    calls = math.lcm(count, rows) // rows
    return calls if calls * rows <= 4 * count else -(-count // rows)
