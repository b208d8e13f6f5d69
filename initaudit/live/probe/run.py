"""The probe: one small seeded batch through a graph, forward and backward."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from initaudit.errors import InitauditError
from initaudit.layers.spots import Places
from initaudit.live.probe import feeds
from initaudit.live.probe.cost import Cost, doubled, exact, fewer, once, planned
from initaudit.live.probe.data import Data, by_input
from initaudit.live.probe.examples import laws
from initaudit.live.probe.guard import TooLargeError
from initaudit.live.probe.lockstep import Lockstep
from initaudit.live.probe.probing import Batch, Probing
from initaudit.live.probe.rows import beyond
from initaudit.live.probe.shapes import counted
from initaudit.types import Graph, Layer, Signal, Signals, Tensor

_PROBABILITIES = frozenset({"softmax", "log_softmax"})
_MOST_GUESSED = 2_000_000  # numbers that a graph is fed with where it does not say how many it takes
_MEMORY: Any = torch.utils.deterministic
_STEPS = frozenset({"identity", "cast", "reshape", "squeeze"})


def probe(
    graph: Graph,
    layers: Sequence[Layer],
    given: Data | None = None,
    *,
    seed: int = 0,
    examples: Sequence[Tensor] = (),
) -> Signals:
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
        examples: what the caller fed the model with, by input name: what is drawn resembles it.

    Raises:
        UsageError: the data do not fit the graph's inputs.
    """
    places = Places(graph)
    data = by_input(given or {}, graph.inputs)
    targets = _targets(places)
    lacking = Lockstep(graph).lacking(targets)
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        return _refused(layers, f"it cannot be run: {lacking[0]}{more}")
    why = ""
    with _settled():
        for kinds in _attempts(places, data):
            plan, fed = _planned(graph, places, kinds, data, seed, examples)
            if plan.refused:
                return _refused(layers, plan.refused)
            batch = Batch(fed, feeds.batch(kinds), seed, plan.draws)
            try:
                made = _closely(Probing(graph, places, layers, targets, batch), plan)
            except InitauditError as error:
                if isinstance(error.__cause__, TooLargeError):
                    return _refused(layers, f"{error.__cause__.reason}; theory is used instead")
                why = why or error.reason
                continue
            return replace(made, inputs=plan.runs * batch.rows, macs=plan.macs)
    return _refused(layers, f"it cannot be run: {why}")


def estimate(graph: Graph, layers: Sequence[Layer] = (), given: Data | None = None) -> Cost:
    """Return what `probe` would cost; nothing is run.

    Raises:
        UsageError: the data do not fit the graph's inputs.
    """
    places = Places(graph)
    data = by_input(given or {}, graph.inputs)
    with _settled():
        return _planned(graph, places, next(_attempts(places, data)), data, 0)[0]


def _planned(
    graph: Graph,
    places: Places,
    kinds: Mapping[str, feeds.Kind],
    data: Mapping[str, torch.Tensor],
    seed: int,
    examples: Sequence[Tensor] = (),
) -> tuple[Cost, list[dict[str, torch.Tensor]]]:
    """Return what a probe on inputs of these kinds costs, and its feeds."""
    one = once(places, graph, {name: kind.shape for name, kind in kinds.items()}, graph.constants)
    if not one.sure:
        first = feeds.made(kinds, data, 1, seed)
        one = exact(one, counted(graph, first[0], _targets(places)))
    plan = planned(one, feeds.batch(kinds))
    if plan.refused:
        return plan, []
    like = laws(_examples(kinds, examples), {name: kind.word for name, kind in kinds.items()})
    if not data and len(like) == len(kinds):
        there = max((one.different or plan.runs for one in like.values()), default=plan.runs)
        plan = fewer(plan, there)
    return plan, feeds.made(kinds, data, plan.runs, seed, like)


def _examples(kinds: Mapping[str, feeds.Kind], examples: Sequence[Tensor]) -> dict[str, torch.Tensor]:
    """Return the values of examples that have the shape of the input."""
    fit = [one for one in examples if one.name in kinds and kinds[one.name].shape == one.shape]
    return {one.name: torch.from_numpy(np.array(one.load())) for one in fit}


def _closely(probing: Probing, plan: Cost) -> Signals:
    """Probe in double precision where it costs little, or where single precision cannot tell."""
    if plan.double:
        try:
            return probing.made(torch.float64)
        except InitauditError as error:  # numbers of the graph's own may be single
            if isinstance(error.__cause__, TooLargeError):
                raise
            return probing.made(torch.float32)
    made = probing.made(torch.float32)
    if doubled(plan) and beyond(made) and probing.finite:
        with suppress(InitauditError):
            return probing.made(torch.float64)
    return made


def _refused(layers: Sequence[Layer], why: str) -> Signals:
    return Signals(tuple(Signal() for _ in layers), why=why)


def _attempts(places: Places, data: Mapping[str, torch.Tensor]) -> Iterator[dict[str, feeds.Kind]]:
    """Yield what the inputs may be: larger where extents are open, integers where real numbers may be wrong."""
    seen: list[dict[str, feeds.Kind]] = []
    for sizes in feeds.SIZES:
        found = feeds.shaped(feeds.kinds(places.view, sizes, places.founds), data, places.view)
        open_ = {
            name for name, shape in places.view.graph.inputs.items() if shape is None or all(n is None for n in shape)
        }
        for change in (lambda kind: kind, feeds.as_integers, feeds.as_rows):
            kinds = {name: change(kind) if name in open_ else kind for name, kind in found.items()}
            if kinds not in seen and (not seen or feeds.numbers(kinds) <= _MOST_GUESSED):
                seen.append(kinds)
                yield kinds


@contextmanager
def _settled() -> Iterator[None]:
    """Sum in one order whatever the number of threads: with one, which also is the faster on a busy machine."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    threads, filled = torch.get_num_threads(), _MEMORY.fill_uninitialized_memory
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    _MEMORY.fill_uninitialized_memory = False  # nothing reads it, and it takes a tenth of the time
    try:
        with warnings.catch_warnings(), torch.enable_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.set_num_threads(threads)
        _MEMORY.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _targets(places: Places) -> tuple[str, ...]:
    """Return the values that the ways back start from."""
    return tuple(dict.fromkeys(_logits(places, name) for name in places.view.graph.outputs))


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
