"""What a probe would cost, told from weights and shapes before anything runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from initaudit.layers.spots import Places
from initaudit.types import Graph

Shape = tuple[int, ...]
_PASSES = 3  # forward, and backward to the input and to the weight
_EASY = 1.2e11  # multiplications of a probe that takes a few seconds
MOST = 2e12  # multiplications
MOST_BYTES = 6 << 30  # of weights, their gradients and the values that the way back needs
MOST_CALLS = 4
_FEWEST = 2


@dataclass(frozen=True, slots=True)
class Cost:
    """Multiplications and bytes of one run of the graph, and bytes of weights with gradients."""

    macs: float
    values: float
    weights: float


def cost(places: Places, graph: Graph, fed: Mapping[str, Shape], read: Iterable[str]) -> Cost:
    """Estimate one run; where shapes are not known, from the inputs' size."""
    largest = max((prod(shape) / max(1, shape[1] if len(shape) > 2 else 1) for shape in fed.values()), default=1.0)
    macs = 0.0
    for found in places.founds:
        if found.kind in ("embedding", "norm") or found.source in places.view.fixed:
            continue
        shape = _known(graph, found.out) or _known(graph, places.view.nodes[found.node].outputs[0])
        units = prod(n for label, n in zip(found.axes, found.weight.shape, strict=False) if label in "os")
        positions = prod(shape) / max(1, units) if shape else largest
        macs += found.weight.size * max(1.0, positions)
    numbers = sum(prod(shape) for name in graph.shapes if (shape := _known(graph, name)) is not None)
    weights = {t.identity: t.size for n in read if (t := graph.constants.get(n)) is not None and t.is_float}
    return Cost(macs, 4.0 * numbers, 8.0 * sum(weights.values()))


def calls(one: Cost, batch: int) -> tuple[int, str]:
    """Return how many runs to make of a graph that takes `batch` inputs at a time; 0 and why where it is too much."""
    several = MOST_CALLS if batch > 1 else 2 * MOST_CALLS
    while several > _FEWEST and _PASSES * one.macs * several > _EASY:
        several -= 1
    macs, size = _PASSES * one.macs * several, one.values * several + one.weights
    if macs > MOST:
        return 0, f"too large to run: about {macs:.1g} multiplications, at most {MOST:.0g}"
    if size > MOST_BYTES:
        return 0, f"too large to run: about {size / 2**30:.1f} GiB, at most {MOST_BYTES >> 30} GiB"
    return several, ""


def _known(graph: Graph, name: str) -> Shape | None:
    shape = graph.shapes.get(name)
    if shape is None or any(extent is None for extent in shape):
        return None
    return tuple(extent for extent in shape if extent is not None)
