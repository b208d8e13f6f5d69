"""The probe: one small seeded batch through a graph, forward and backward."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from initaudit.errors import InitauditError
from initaudit.layers.spots import Bend, Place, Places, reached
from initaudit.live.probe import cost, feeds
from initaudit.live.probe.data import Data, by_input
from initaudit.live.probe.gates import Gate, free, gates, opened, shut, watched
from initaudit.live.probe.lockstep import Lockstep
from initaudit.live.probe.measures import excess_loss, spread
from initaudit.live.probe.watching import Watching
from initaudit.types import Graph, Head, Layer, Signal, Signals

_WAKES = 10.0  # times the gradient that a layer gets once gates are open, if it sleeps behind one
_PROBABILITIES = frozenset({"softmax", "log_softmax"})
_STEPS = frozenset({"identity", "cast", "reshape", "squeeze"})


@dataclass(frozen=True, slots=True)
class _Pass:
    """What one batch showed."""

    watching: Watching
    gradients: Mapping[int, float]  # size of the gradient by id of the weight
    heads: tuple[Head, ...]


def probe(graph: Graph, layers: Sequence[Layer], given: Data | None = None, *, seed: int = 0) -> Signals:
    """Run a small batch through a graph, forward and backward, and measure what each layer does to it.

    Batch norms use the statistics of the batch, dropout is off. The way back starts with a random unit vector per input
    on each output that no other output is made of. Gradients are those of one input: the root of the sum of squares
    over the batch is divided by the root of its size. Where zero or small parameters shut branches off, a second
    pass with these opened says what the branches would do.

    Args:
        graph: from whatever source.
        layers: what to measure.
        given: data by input name; drawn where there is none.
        seed: of what is drawn.

    Raises:
        UsageError: the data do not fit the graph's inputs.
    """
    places = Places(graph)
    own = [places.of(layer) for layer in layers]
    data = by_input(given or {}, graph.inputs)
    runner = Lockstep(graph, training_norms=True, seed=seed)
    targets = tuple(dict.fromkeys(_logits(places, name) for name in graph.outputs))
    lacking = runner.lacking(targets)
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        return _refused(layers, f"it cannot be run: {lacking[0]}{more}")
    why = ""
    with _settled():
        for kinds in _attempts(places, data):
            one = cost.cost(places, graph, {name: kind.shape for name, kind in kinds.items()}, graph.constants)
            count, large = cost.calls(one, feeds.batch(kinds))
            if not count:
                return _refused(layers, large)
            fed = feeds.made(kinds, data, count, seed)
            try:
                made = _Probing(places, runner, layers, own, targets, fed, seed).made()
            except InitauditError as error:
                why = why or error.reason
                continue
            return replace(made, inputs=count * feeds.batch(kinds), macs=3 * one.macs * count)
    return _refused(layers, f"it cannot be run: {why}")


def _refused(layers: Sequence[Layer], why: str) -> Signals:
    return Signals(tuple(Signal() for _ in layers), why=why)


def _attempts(places: Places, data: Mapping[str, torch.Tensor]) -> Iterator[dict[str, feeds.Kind]]:
    """Yield what the inputs may be: larger where extents are open, integers where real numbers may be wrong."""
    seen: list[dict[str, feeds.Kind]] = []
    for sizes in feeds.SIZES:
        found = feeds.shaped(feeds.kinds(places.view, sizes), data, places.view)
        for kinds in (found, {name: feeds.as_integers(kind) for name, kind in found.items()}):
            if kinds not in seen:
                seen.append(kinds)
                yield kinds


@contextmanager
def _settled() -> Iterator[None]:
    """Sum in one order whatever the number of threads, as far as torch can."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _logits(places: Places, name: str) -> str:
    """Return what an output of probabilities was made of: losses are taken there."""
    at = places.view.producer.get(name)
    passed = name
    while at is not None:
        node = places.view.nodes[at]
        if node.op in _PROBABILITIES and node.inputs:
            return node.inputs[0]
        if node.op not in _STEPS or not node.inputs:
            break
        passed = node.inputs[0]
        at = places.view.producer.get(passed)
    return name


class _Probing:
    """One probe of one graph on given feeds."""

    def __init__(
        self,
        places: Places,
        runner: Lockstep,
        layers: Sequence[Layer],
        own: Sequence[Place],
        targets: Sequence[str],
        fed: Sequence[Mapping[str, torch.Tensor]],
        seed: int,
    ) -> None:
        self.places = places
        self.runner = runner
        self.layers = layers
        self.own = own
        self.targets = targets
        self.fed = fed
        self.seed = seed
        self.bends: dict[Bend, int] = {
            place.bend: layer.units for place, layer in zip(own, layers, strict=True) if place.bend is not None
        }
        self.outs = frozenset(out for place in own for out in place.outs)

    def made(self) -> Signals:
        """Return what there is to say."""
        found = gates(self.places, self.runner.parameters)
        first = self._pass(watched(found), closely=True)
        rows = [self._row(place, layer, first) for place, layer in zip(self.own, self.layers, strict=True)]
        closed = shut(found, first.watching.sizes)
        if closed:
            rows = self._woken(rows, closed, first)
        return Signals(
            tuple(_rounded(row) for row in rows),
            tuple(replace(a, entropy=_short(a.entropy), spread=_short(a.spread)) for a in first.watching.attending),
            first.heads,
        )

    def _pass(self, sizes: set[str], *, closely: bool) -> _Pass:
        watching = Watching(self.places, self.outs, self.bends, sizes, closely)
        values = self.runner.together(self.fed, self.targets, watching)
        ends = {
            name: runs for name, runs in values.items() if all(v.is_floating_point() and v.requires_grad for v in runs)
        }
        ends = {name: ends[name] for name in ends if not self._inside(name, ends)}
        return _Pass(watching, self._back(ends), tuple(self._head(name, runs) for name, runs in ends.items()))

    def _inside(self, name: str, ends: Mapping[str, object]) -> bool:
        """Whether another output is made of this one, as of the keys that a language model hands out."""
        makers = self.runner.maker(name)
        return any(
            other != name and makers is not None and makers != self.runner.maker(other)
            and makers in self.runner.ancestors(other)
            for other in ends
        )  # fmt: skip

    def _back(self, ends: Mapping[str, Sequence[torch.Tensor]]) -> dict[int, float]:
        leaves = {id(leaf): leaf for leaf in self.runner.parameters.values()}
        if not ends:
            return {}
        random = torch.Generator().manual_seed(self.seed + 1)
        batch = max((v.shape[0] for feed in self.fed[:1] for v in feed.values() if v.dim()), default=1)
        values, directions = [], []
        for runs in ends.values():
            for value in runs:
                rows = value.shape[0] if value.dim() > 1 and value.shape[0] == batch else 1
                one = torch.randn(value.shape, generator=random) if value.dim() else torch.ones(())
                flat = one.reshape(rows, -1)
                flat = flat / flat.norm(dim=1, keepdim=True).clamp(min=1e-30)
                values.append(value)
                directions.append((flat.reshape(value.shape) / math.sqrt(rows * len(runs))).to(value.dtype))
        found = torch.autograd.grad(values, list(leaves.values()), directions, allow_unused=True)
        return {
            key: 0.0 if g is None else float(torch.linalg.vector_norm(torch.view_as_real(g) if g.is_complex() else g,
                                                                      dtype=torch.float64))
            for key, g in zip(leaves, found, strict=True)
        }  # fmt: skip

    def _head(self, name: str, runs: Sequence[torch.Tensor]) -> Head:
        apart = spread(runs)
        shape = tuple(runs[0].shape)
        ids = any(not value.is_floating_point() for value in self.fed[0].values())
        logits = len(shape) > 1 and shape[-1] > 1 and (len(shape) == 2 or (len(shape) == 3 and ids))
        every = torch.cat([value.detach().reshape(-1) for value in runs]).double()
        std = _short(float(every.std(correction=0))) if every.numel() else math.nan
        loss = _short(excess_loss(runs)) if logits else None
        return Head(name, shape, _short(apart.variance) if apart else math.nan, std, loss)

    def _row(self, place: Place, layer: Layer, seen: _Pass) -> Signal:
        spreads = [s for out in place.outs if (s := seen.watching.spreads.get(out)) is not None]
        bend = seen.watching.slopes.get(place.bend) if place.bend is not None else None
        gradient, size = self._gradient(place, seen)
        return Signal(
            forward_variance=_mean([s.variance for s in spreads]),
            input_correlation=_mean([s.correlation for s in spreads if s.correlation is not None]),
            dead=None if bend is None else bend[0],
            saturated=None if bend is None else bend[1],
            relative_gradient=gradient / size if gradient is not None and size else None,
            gradient=gradient,
        )

    def _gradient(self, place: Place, seen: _Pass) -> tuple[float | None, float]:
        """Return the sizes of a weight's gradient and of the weight."""
        leaves = {id(leaf): leaf for name in place.constants if (leaf := self.runner.parameters.get(name)) is not None}
        own = [seen.gradients[key] for key in leaves if key in seen.gradients]
        if not own:
            return None, 0.0
        with torch.no_grad():
            sizes = [float(torch.linalg.vector_norm(_real(leaf), dtype=torch.float64)) for leaf in leaves.values()]
        return math.hypot(*own), math.hypot(*sizes)

    # ---- gates

    def _woken(self, rows: Sequence[Signal], closed: Sequence[Gate], first: _Pass) -> list[Signal]:
        with opened(closed, self.runner.parameters, self.seed + 2):
            second = self._pass(set(), closely=False)
            open_rows = [self._row(place, layer, second) for place, layer in zip(self.own, self.layers, strict=True)]
            sizes = {
                gate.value: float(torch.linalg.vector_norm(self.runner.parameters[gate.value], dtype=torch.float64))
                for gate in closed
            }
        eager = {
            gate.value: first.gradients[id(self.runner.parameters[gate.value])] / sizes[gate.value] for gate in closed
        }
        past = free(self.places, closed, self.targets)
        by_node = {at: gate for gate in closed for at in gate.nodes}
        out = []
        for row, now, place in zip(rows, open_rows, self.own, strict=True):
            mine = next((gate for gate in closed if gate.value in place.constants), None)
            own = replace(row, gate_gradient=_short(eager[mine.value])) if mine is not None else row
            sleeps = _wakes(row, now) and not (row.gradient and past.intersection(place.nodes))
            gate = self._before(place, by_node) if sleeps else None
            if gate is None:
                out.append(own)
                continue
            out.append(
                replace(
                    own,
                    behind_gate=True,
                    gate=gate.name,
                    gate_gradient=own.gate_gradient if mine is not None else _short(eager[gate.value]),
                    open_forward_variance=now.forward_variance,
                    open_relative_gradient=now.relative_gradient,
                )
            )
        return out

    def _before(self, place: Place, by_node: Mapping[int, Gate]) -> Gate | None:
        """Return the first gate that what a layer makes comes to."""
        goals = frozenset(by_node) - frozenset(place.nodes)
        at = reached(self.places.view, place.nodes, goals)
        return None if at is None else by_node[at]


def _wakes(row: Signal, now: Signal) -> bool:
    if row.gradient is None or not now.gradient:
        return False
    return now.gradient >= _WAKES * row.gradient


def _real(value: torch.Tensor) -> torch.Tensor:
    return torch.view_as_real(value) if value.is_complex() else value


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


def _short(value: float) -> float:
    """Round to six digits: what differs beyond is the order of sums."""
    return float(f"{value:.6g}")


def _rounded(row: Signal) -> Signal:
    def short(value: float | None) -> float | None:
        return None if value is None else _short(value)

    return replace(
        row,
        forward_variance=short(row.forward_variance),
        input_correlation=short(row.input_correlation),
        dead=short(row.dead),
        saturated=short(row.saturated),
        relative_gradient=short(row.relative_gradient),
        gradient=short(row.gradient),
        open_forward_variance=short(row.open_forward_variance),
        open_relative_gradient=short(row.open_relative_gradient),
    )
