"""One probe of one graph: the passes that it takes, and the signal of each layer in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from initaudit.layers.spots import Bend, Place, Places
from initaudit.live.probe import feeds
from initaudit.live.probe.back import Back
from initaudit.live.probe.cost import pass_limits
from initaudit.live.probe.gates import Gate, gates, shut, watched
from initaudit.live.probe.guard import Guard
from initaudit.live.probe.lockstep import Lockstep
from initaudit.live.probe.measures import excess_loss, spread, spread_of_all
from initaudit.live.probe.rows import joined, rounded, short, sized
from initaudit.live.probe.tied import Twins, tied, twins
from initaudit.live.probe.waking import Waking
from initaudit.live.probe.watching import Watching
from initaudit.types import Attending, Graph, Head, Layer, Signal, Signals

Feeds = Sequence[Mapping[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class Batch:
    """What a graph is run on, and how."""

    fed: Feeds  # one feed per run
    rows: int  # inputs in a run
    seed: int
    draws: int  # of the unit vectors that the ways back start with


@dataclass(frozen=True, slots=True)
class _Pass:
    """What one batch showed: squares of gradients are by id of the weight."""

    watching: Watching
    heads: tuple[Head, ...]
    alone: Mapping[int, float]
    common: Mapping[int, float]
    contrast: Mapping[int, float]
    tied: Mapping[int, float | None]  # by place of the layer


class Probing:
    """One probe of one graph on given feeds.

    Args:
        graph: as it was recorded.
        places: in it.
        layers: what to measure.
        targets: values that the ways back start from.
        batch: what it is run on.
    """

    def __init__(
        self, graph: Graph, places: Places, layers: Sequence[Layer], targets: Sequence[str], batch: Batch
    ) -> None:
        self.graph = graph
        self.places = places
        self.layers = layers
        self.own = [places.of(layer) for layer in layers]
        self.targets = targets
        self.batch = batch
        self.bends: dict[Bend, int] = {
            place.bend: layer.units for place, layer in zip(self.own, layers, strict=True) if place.bend is not None
        }
        self.runner = Lockstep(graph)
        self.outs = frozenset(out for place in self.own for out in place.outs)

    @property
    def finite(self) -> bool:
        """Whether all weights are: else more precision does not help."""
        return all(bool(torch.isfinite(leaf).all()) for leaf in self.runner.parameters.values())

    def made(self, dtype: torch.dtype) -> Signals:
        """Return what there is to say, computed in single or in double precision.

        Raises:
            UnsupportedError: the graph cannot be run.
            UsageError: on these feeds, it cannot.
        """
        self.runner = Lockstep(self.graph, training_norms=True, dtype=dtype, seed=self.batch.seed)
        found = gates(self.places, self.runner.parameters)
        first = self._pass(watched(found), closely=True)
        rows = [self._row(at, first) for at in range(len(self.own))]
        heads = first.heads
        closed = shut(found, first.watching.sizes)
        if closed:
            rows, heads = self._woken(rows, closed, first)
        attending = tuple(Attending(a.name, short(a.entropy), short(a.spread)) for a in first.watching.attending)
        return Signals(tuple(rounded(row) for row in rows), attending, heads)

    def _pass(self, sizes: set[str], *, closely: bool) -> _Pass:
        watching = Watching(self.places, self.outs, self.bends, sizes, closely, self.runner.constant)
        with Guard(*pass_limits()):
            values = self.runner.together(self.batch.fed, self.targets, watching)
        ends = {
            name: runs for name, runs in values.items() if all(v.is_floating_point() and v.requires_grad for v in runs)
        }
        ends = {name: ends[name] for name in ends if not self._inside(name, ends)}
        heads = tuple(self._head(name, runs) for name, runs in ends.items())
        return self._back(watching, ends, heads, closely)

    def _inside(self, name: str, ends: Mapping[str, object]) -> bool:
        """Whether another output is made of this one, as of the keys that a language model hands out."""
        makers = self.runner.maker(name)
        return any(
            other != name and makers is not None and makers != self.runner.maker(other)
            and makers in self.runner.ancestors(other)
            for other in ends
        )  # fmt: skip

    def _back(
        self, watching: Watching, ends: Mapping[str, Sequence[torch.Tensor]], heads: tuple[Head, ...], closely: bool
    ) -> _Pass:
        leaves = list(self.runner.parameters.values())
        random = torch.Generator().manual_seed(self.batch.seed + 1)
        way = Back(ends, leaves, self.batch.rows, len(self.batch.fed), random)
        if not closely:
            return _Pass(watching, heads, way.alone(last=True), {}, {}, {})
        copies, pairs = self._twins()

        def compare(leaf: torch.Tensor, gradient: torch.Tensor) -> None:
            for at, found in pairs.get(id(leaf), ()):
                copies[at] = tied(found, gradient)

        alone, common, contrast = [], [], []
        for k in range(self.batch.draws):
            own = way.alone(None if k else compare) if self.batch.draws > 1 else None
            both, apart = way.shared(compare if own is None else None, last=k == self.batch.draws - 1)
            common.append(both)
            contrast.append(apart)
            alone.append(_each(both, apart, way.inputs) if own is None else own)
        shared, told = _means(common), _means(contrast)
        count = feeds.different(self.batch.fed, way.inputs // len(self.batch.fed))
        common_of_all = {key: max(0.0, size - told.get(key, 0.0) / count) for key, size in shared.items()}
        return _Pass(watching, heads, _means(alone), common_of_all, told, copies)

    def _twins(self) -> tuple[dict[int, float | None], dict[int, list[tuple[int, Twins]]]]:
        """Return 0 for layers without units of equal weights, None where it is not known, and the other layers."""
        rest: dict[int, list[tuple[int, Twins]]] = {}
        told: dict[int, float | None] = {}
        for at, (place, layer) in enumerate(zip(self.own, self.layers, strict=True)):
            found = twins(self.places, place, layer, self.runner.parameters)
            told[at] = None if found is None else 0.0
            if isinstance(found, Twins):
                rest.setdefault(id(found.leaf), []).append((at, found))
        return told, rest

    def _head(self, name: str, runs: Sequence[torch.Tensor]) -> Head:
        apart = spread(runs)
        shape = tuple(runs[0].shape)
        ids = any(not value.is_floating_point() for value in self.batch.fed[0].values())
        logits = len(shape) > 1 and shape[-1] > 1 and (len(shape) == 2 or (len(shape) == 3 and ids))
        std = short(spread_of_all(runs)) if all(value.numel() for value in runs) else math.nan
        loss = short(excess_loss(runs)) if logits else None
        return Head(name, shape, short(apart.variance) if apart else math.nan, std, loss)

    def _row(self, at: int, seen: _Pass) -> Signal:
        place = self.own[at]
        leaves = {id(leaf): leaf for name in place.constants if (leaf := self.runner.parameters.get(name)) is not None}
        row = joined([s for out in place.outs if (s := seen.watching.spreads.get(out)) is not None])
        bend = seen.watching.slopes.get(place.bend) if place.bend is not None else self._gating(place, seen)
        square, size = _sum(leaves, seen.alone), sized(leaves.values())
        gradient = None if square is None else math.sqrt(square)
        return replace(
            row,
            dead=None if bend is None else bend[0],
            saturated=None if bend is None else bend[1],
            relative_gradient=gradient / size if gradient is not None and size else None,
            gradient=gradient,
            common=_sum(leaves, seen.common),
            contrast=_sum(leaves, seen.contrast),
            tied=seen.tied.get(at),
        )

    def _gating(self, place: Place, seen: _Pass) -> tuple[float, float | None] | None:
        """Return the shares of dead and of saturated gates of a recurrent layer."""
        every = [one for out in place.outs for one in seen.watching.driven.get(out, ())]
        own = [one for one in every if one.operands.intersection(place.constants)] or every
        if not own:
            return None
        told = [one.saturated for one in own if one.saturated is not None]
        return math.fsum(one.dead for one in own) / len(own), math.fsum(told) / len(told) if told else None

    def _woken(
        self, rows: Sequence[Signal], closed: Sequence[Gate], first: _Pass
    ) -> tuple[list[Signal], tuple[Head, ...]]:
        waking = Waking(self.places, closed, self.runner.parameters, self.batch.seed + 2)
        open_rows, heads = list(rows), first.heads

        def again() -> Mapping[int, float]:
            nonlocal open_rows, heads
            now = self._pass(set(), closely=False)
            open_rows, heads = [self._row(at, now) for at in range(len(self.own))], _opened(first.heads, now.heads)
            return now.alone

        def shut() -> list[Signal]:
            now = self._pass(set(), closely=False)
            return [self._row(at, now) for at in range(len(self.own))]

        waking.through(first.alone, again)
        return waking.rows(rows, open_rows, self.own, self.targets, shut), heads


def _opened(heads: Sequence[Head], now: Sequence[Head]) -> tuple[Head, ...]:
    by_name = {head.name: head for head in now}
    return tuple(
        head if (other := by_name.get(head.name)) is None
        else replace(head, open_variance=other.variance, open_std=other.std, open_excess_loss=other.excess_loss)
        for head in heads
    )  # fmt: skip


def _sum(leaves: Mapping[int, object], squares: Mapping[int, float]) -> float | None:
    own = [squares[key] for key in leaves if key in squares]
    return math.fsum(own) if own else None


def _each(common: Mapping[int, float], contrast: Mapping[int, float], inputs: int) -> dict[int, float]:
    """Return the mean square of the gradient of one input from its two parts: that saves a way back."""
    return {key: value + contrast.get(key, 0.0) * (inputs - 1) / inputs for key, value in common.items()}


def _means(draws: Sequence[Mapping[int, float]]) -> dict[int, float]:
    return {key: math.fsum(draw.get(key, 0.0) for draw in draws) / len(draws) for key in (draws[0] if draws else {})}
