"""A live module as a graph, from forward passes in which nothing is computed.

A pass runs on stand-ins that have shapes and no values (fakes.py). Where its course depends on values, it is recorded
with conditions on them met and not met: the graph is that which reads more of the weights, of equal ones that in which
they are not met, for most guard against what is rare or end a loop early; the other is kept beside it. Where all that
fails, a pass on random values of the same shapes is made of a copy of the module, if it is small.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import nn
from torch.nn.parameter import is_lazy

from initaudit.errors import InitauditError, UsageError
from initaudit.live.fakes import has_values
from initaudit.live.passes import FailedError, Traced, Way, parameters, run
from initaudit.live.spec import Feed
from initaudit.types import Graph

__all__ = ["Traced", "attempt", "trace", "unwrapped"]

MOST_REAL = 2 << 30  # bytes of parameters up to which a pass with values is tried


def trace(module: nn.Module, feed: Feed, *, prefix: str = "", first: Traced | None = None) -> Traced:
    """Record a module as a graph; it is left as it was.

    Args:
        module: with real parameters, or with such that have shapes only (meta, or stand-ins of fakes.py).
        feed: the arguments of the pass.
        prefix: put before the names of parameters and buffers.
        first: what `attempt` returned for the same arguments.

    Raises:
        UnsupportedError: the pass failed; the reason says where and how.
        UsageError: the arguments do not fit the module, or it has parameters without a shape.
    """
    root = unwrapped(module)
    lazy = [name for name, p in root.named_parameters() if is_lazy(p)]
    if lazy:
        raise UsageError(f"parameter {lazy[0]} gets its shape in the first forward pass: run the model once before")
    first = first or _first(root, feed, prefix)
    if first.how == "real":
        return first
    own = parameters(root, prefix)
    best = _both(root, feed, prefix, first, own)
    if own <= best.read:
        return best
    try:
        training = _single(root, feed, prefix, Way(train=True))
    except InitauditError:
        return best
    training = _both(root, feed, prefix, training, own)
    if len(training.read & own) <= len(best.read & own):
        return best
    told = "recorded in training mode: that uses parameters that evaluation mode leaves out"
    # What training mode asks is mostly for chance: which layers to leave out, what to mask.
    return replace(training, notes=(*best.notes, told), other=best.other)


def attempt(module: nn.Module, feed: Feed, *, prefix: str = "") -> Traced:
    """Record a module in as few passes as can be, to see whether it takes these arguments.

    Raises:
        UnsupportedError: the pass failed; the reason says where and how.
        UsageError: the arguments do not fit the module.
    """
    return _single(unwrapped(module), feed, prefix, Way())


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside torch.compile's, DataParallel's and DistributedDataParallel's."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif "_orig_mod" in module._modules and isinstance(inner := module._modules["_orig_mod"], nn.Module):
            module = inner
        else:
            return module


def _single(root: nn.Module, feed: Feed, prefix: str, way: Way) -> Traced:
    """Return the pass with the first kind of answers that it comes to its end with."""
    error: FailedError | None = None
    ways = [replace(way, yes=yes, compared=compared) for compared in (True, False) for yes in (True, False)]
    for each in (*ways, replace(ways[-1], number=0)):
        try:
            return run(root, feed, prefix, each)
        except FailedError as failed:
            if not failed.asked or (error is not None and failed.reason == error.reason):
                raise
            error = failed
    assert error is not None
    raise error


def _first(root: nn.Module, feed: Feed, prefix: str) -> Traced:
    """Return the pass by the first way that succeeds."""
    try:
        return _single(root, feed, prefix, Way())
    except InitauditError as failed:
        error = failed
    if "grad" in error.reason:
        try:
            return _single(root, feed, prefix, Way(grad=False))
        except InitauditError:
            pass
    size = sum(p.numel() * p.element_size() for p in root.parameters())
    if size >= MOST_REAL or not all(has_values(p) for p in (*root.parameters(), *root.buffers())):
        raise error
    try:
        traced = run(root, feed, prefix, Way(real=True, grad=False))
    except InitauditError as failed:
        raise failed from error
    return replace(traced, notes=(*traced.notes, f"run on random values, for without values it fails: {error.reason}"))


def _both(root: nn.Module, feed: Feed, prefix: str, first: Traced, own: frozenset[str]) -> Traced:
    """Return the best of the passes with other answers than those of the first, if it asked for any."""
    done = [first]
    if first.truths and first.way.yes:
        done += _more(root, feed, prefix, replace(first.way, yes=False))
    if first.way.number and any(one.numbers for one in done):
        done += _more(root, feed, prefix, replace(first.way, yes=False, number=0))
    # Of equal ones: conditions are not met, but numbers are those of things that are there.
    best = max(done, key=lambda one: (len(one.read & own), one.way.number, not one.way.yes))
    other = _different(best.graph, [one.graph for one in done if one is not best])
    if not other:
        return best
    more = all(len(one.read & own) < len(best.read & own) for one in done if one is not best)
    if best.way.number != 1:
        taken = "conditions on them are taken as not met and numbers as 0"
    else:
        taken = f"conditions on them are taken as {'met' if best.way.yes else 'not met'}"
    told = f"the graph depends on values: {taken}{', which uses more parameters' if more else ''}"
    return replace(best, notes=(*best.notes, told), other=tuple(other))


def _more(root: nn.Module, feed: Feed, prefix: str, way: Way) -> list[Traced]:
    try:
        return [run(root, feed, prefix, way)]
    except InitauditError:
        return []


def _different(graph: Graph, others: Sequence[Graph]) -> list[Graph]:
    """Return those of other graphs that do something else, and each once."""
    seen = [_course(graph)]
    found: list[Graph] = []
    for one in others:
        course = _course(one)
        if course not in seen:
            seen.append(course)
            found.append(one)
    return found


def _course(graph: Graph) -> tuple[object, ...]:
    return (graph.outputs, *((node.op, node.inputs, node.outputs) for node in graph.nodes))
