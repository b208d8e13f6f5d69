"""What a probe would cost, told from weights and shapes before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from math import prod

from initaudit.layers.spots import Places
from initaudit.types import Graph

Shape = tuple[int, ...]
MOST = 1e12  # multiplications
MOST_BYTES = 6 << 30  # of weights, their gradients and the values that the way back needs
MOST_CALLS = 4
MOST_DRAWS = 4
_FEWEST = 2
_EASY = 1e11  # multiplications of a probe that takes a few seconds
_CHEAP = 1.5e9  # multiplications that double precision costs little for
_STEPS = 4e4  # operations, likewise
_MEGA = 1e6
_BACK = 2  # a way back goes to the input and to the weight
_SPEED = {False: 2.5e10, True: 8e9}  # multiplications a second of one thread, in single and in double precision


@dataclass(frozen=True, slots=True)
class Once:
    """One run of the graph."""

    macs: float
    values: float  # bytes of all that it makes, in single precision
    weights: float  # bytes, with their gradients
    nodes: int
    sure: bool  # all shapes are known, so that this is no guess


@dataclass(frozen=True, slots=True)
class Cost:
    """A whole probe, as it would be run."""

    runs: int
    draws: int  # of unit vectors to start the ways back with
    double: bool  # computed in double precision
    macs: float
    bytes: float
    refused: str = ""  # why it is not run

    @property
    def seconds(self) -> float:
        """A rough guess for one thread, which is all that is taken."""
        return self.macs / _SPEED[self.double]

    @property
    def sentence(self) -> str:
        """What a person is told: "about 12 GFLOP, 0.4 GiB, a few seconds"."""
        if self.refused:
            return self.refused
        time = next((word for most, word in _TIMES if self.seconds <= most), f"about {self.seconds / 60:.0f} minutes")
        about = "" if 2 * self.macs < _MEGA else "about "
        return f"{about}{_flop(self.macs)}, {_size(self.bytes)}, {time}"


_TIMES = ((1.0, "a second"), (8.0, "a few seconds"), (40.0, "half a minute"), (90.0, "a minute"))


def once(places: Places, graph: Graph, fed: Mapping[str, Shape], read: Iterable[str]) -> Once:
    """Estimate one run; extents that are not known are taken to be the inputs'."""
    largest = max((prod(shape) / max(1, shape[1] if len(shape) > 2 else 1) for shape in fed.values()), default=1.0)
    longest = max(fed.values(), key=prod, default=())
    macs, sure = 0.0, True
    for found in places.founds:
        if found.kind in ("embedding", "norm") or found.source in places.view.fixed:
            continue
        shape = _known(graph, found.out, longest) or _known(graph, places.view.nodes[found.node].outputs[0], longest)
        units = prod(n for label, n in zip(found.axes, found.weight.shape, strict=False) if label in "os")
        positions = prod(shape) / max(1, units) if shape else largest
        sure = sure and bool(shape) and None not in (graph.shapes.get(found.out) or (0,))[1:]
        macs += found.weight.size * max(1.0, positions)
    numbers = sum(prod(shape) for name in graph.shapes if (shape := _known(graph, name, longest)) is not None)
    weights = {t.identity: t.size for n in read if (t := graph.constants.get(n)) is not None and t.is_float}
    return Once(macs, 4.0 * numbers, 8.0 * sum(weights.values()), len(graph.nodes), sure)


def exact(one: Once, found: tuple[float, float] | None) -> Once:
    """Return an estimate with the multiplications and bytes that shapes told, where they did."""
    return one if found is None else replace(one, macs=found[0], values=found[1], sure=True)


def planned(one: Once, batch: int) -> Cost:
    """Return how to probe a graph that takes `batch` inputs at a time: less closely where it costs more."""
    runs = MOST_CALLS if batch > 1 else 2 * MOST_CALLS
    draws = MOST_DRAWS
    while draws > 1 and (_whole(one, runs, draws) > _CHEAP or one.nodes * runs * draws > _STEPS):
        draws //= 2
    while runs > _FEWEST and _whole(one, runs, draws) > _EASY:
        runs -= 1
    double = _whole(one, runs, draws) <= _CHEAP and 2 * _bytes(one, runs) <= MOST_BYTES / 6
    macs, size = _whole(one, runs, draws), _bytes(one, runs) * (1 + double)
    refused = ""
    if one.sure and macs > MOST:
        refused = f"too large to run: about {_flop(macs)}, at most {_flop(MOST)}; theory is used instead"
    elif (size if one.sure else one.weights) > MOST_BYTES:
        refused = f"too large to run: about {_size(size)}, at most {_size(MOST_BYTES)}; theory is used instead"
    return Cost(runs, draws, double, macs, size, refused)


def fewer(cost: Cost, inputs: int) -> Cost:
    """Return a plan with no more runs than there are different inputs, which take turns at each place."""
    runs = max(_FEWEST, min(cost.runs, inputs))
    part = runs / cost.runs
    return cost if runs == cost.runs else replace(cost, runs=runs, macs=cost.macs * part)


def doubled(cost: Cost) -> bool:
    """Whether a probe may be repeated in double precision, where single precision cannot tell."""
    return not cost.double and 2 * cost.bytes <= MOST_BYTES and cost.macs <= _EASY / 2


def pass_limits() -> tuple[float, float]:
    """Return the bytes and multiplications that one way forward may take, whatever was estimated."""
    return MOST_BYTES, MOST / (1 + 2 * _BACK)


def _whole(one: Once, runs: int, draws: int) -> float:
    return (1 + _BACK * (2 * draws + (draws > 1))) * one.macs * runs


def _bytes(one: Once, runs: int) -> float:
    return one.values * runs + one.weights


def _flop(macs: float) -> str:
    """Return operations: a multiplication comes with an addition."""
    for unit, size in (("TFLOP", 1e12), ("GFLOP", 1e9), ("MFLOP", _MEGA)):
        if 2 * macs >= size:
            count = 2 * macs / size
            return f"{count:.1f} {unit}" if count < 9.95 else f"{count:.0f} {unit}"
    return "less than 1 MFLOP"


def _size(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 0.1 * 2**30 else f"{max(1, round(size / 2**20))} MiB"


def _known(graph: Graph, name: str, fed: Shape) -> Shape | None:
    """Return a value's shape; extents that are open are those of the largest input."""
    shape = graph.shapes.get(name)
    if shape is None:
        return None
    filled = [n if n is not None else fed[k] if k < len(fed) else None for k, n in enumerate(shape)]
    return None if None in filled else tuple(n for n in filled if n is not None)
