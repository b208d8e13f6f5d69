"""A live module as a graph, from one forward pass in which nothing is computed.

The pass runs on stand-ins that have shapes and no values (fakes.py). What a model asks about values is answered so
that all its weights take part (answers.py). Where that fails, a pass on random values of the same shapes is made of a
copy of the module, if it is small.
"""

from __future__ import annotations

import copy
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initaudit.errors import InitauditError, UnsupportedError, UsageError
from initaudit.live.answers import Answers
from initaudit.live.captured import Captured, held
from initaudit.live.fakes import Fakes, fake_mode, has_values
from initaudit.live.feeding import Fed, fed, outputs_of
from initaudit.live.prune import pruned
from initaudit.live.recorder import Recorder
from initaudit.live.restore import untouched
from initaudit.live.scopes import Scopes
from initaudit.live.spec import Feed
from initaudit.live.tree import Storages
from initaudit.live.values import Values
from initaudit.torch_ops import Builder
from initaudit.types import Graph

MOST_REAL = 2 << 30  # bytes of parameters up to which a pass with values is tried
SEED = 0  # of the values of that pass
_LONGEST = 300  # characters of someone else's error that are passed on


@dataclass(frozen=True, slots=True)
class Traced:
    """A recorded forward pass."""

    graph: Graph
    how: str  # "fake": nothing was computed; "real": it ran on random values
    read: frozenset[str]  # names of the parameters and buffers that it read
    notes: tuple[str, ...] = ()  # what the reader of the report should know about how it was had


@dataclass(frozen=True, slots=True)
class _Way:
    """One way to run the pass."""

    real: bool = False
    train: bool = False
    grad: bool = True
    yes: bool = True
    number: int = 1


def trace(module: nn.Module, feed: Feed, *, prefix: str = "") -> Traced:
    """Record one forward pass of a module as a graph; the module is left as it was.

    Args:
        module: with real parameters, or with such that have shapes only (meta, or stand-ins of fakes.py).
        feed: the arguments of the pass.
        prefix: put before the names of parameters and buffers.

    Raises:
        UnsupportedError: the pass failed; the reason says where and how.
        UsageError: the arguments do not fit the module, or it has parameters without a shape.
    """
    root = unwrapped(module)
    lazy = [name for name, p in root.named_parameters() if is_lazy(p)]
    if lazy:
        raise UsageError(f"parameter {lazy[0]} gets its shape in the first forward pass: run the model once before")
    first = _first(root, feed, prefix)
    own = _parameters(root, prefix)
    if own <= first.read or first.how == "real":
        return first
    best = first
    for way, told in (
        (_Way(train=True), "recorded in training mode: that uses parameters that evaluation mode leaves out"),
        (_Way(yes=False, number=0), "recorded with conditions on values taken as not met: that uses more parameters"),
    ):
        try:
            other = _pass(root, feed, prefix, way)
        except InitauditError:
            continue
        if other.read & own > best.read & own:
            best = Traced(other.graph, other.how, other.read, (*other.notes, told))
        if own <= best.read:
            break
    return best


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside torch.compile's, DataParallel's and DistributedDataParallel's."""
    while True:
        if isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        elif isinstance(inner := module._modules.get("_orig_mod"), nn.Module):
            module = inner
        else:
            return module


def _first(root: nn.Module, feed: Feed, prefix: str) -> Traced:
    """Return the pass by the first way that succeeds."""
    error: InitauditError | None = None
    for way in (_Way(), _Way(grad=False), _Way(yes=False, number=0)):
        if error is not None and not way.grad and "grad" not in error.reason:
            continue
        try:
            return _pass(root, feed, prefix, way)
        except InitauditError as failed:
            error = error or failed
    assert error is not None
    size = sum(p.numel() * p.element_size() for p in root.parameters())
    if size >= MOST_REAL or not all(has_values(p) for p in (*root.parameters(), *root.buffers())):
        raise error
    try:
        traced = _pass(root, feed, prefix, _Way(real=True, grad=False))
    except InitauditError as failed:
        raise failed from error
    note = f"run on random values, for without values it fails: {error.reason}"
    return Traced(traced.graph, "real", traced.read, (*traced.notes, note))


def _pass(root: nn.Module, feed: Feed, prefix: str, way: _Way) -> Traced:
    module = _copied(root) if way.real else root
    with untouched(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _recorded(module, feed, prefix, way)


def _copied(root: nn.Module) -> nn.Module:
    computed = {id(tensor): tensor.detach().clone() for _, tensor in held(root) if tensor.grad_fn is not None}
    try:
        return copy.deepcopy(root, computed).to("cpu")
    except Exception as error:
        raise UnsupportedError(f"the model cannot be copied for a pass with values: {_line(error)}") from None


def _recorded(module: nn.Module, feed: Feed, prefix: str, way: _Way) -> Traced:
    builder = Builder("function")
    fakes = None if way.real else Fakes()
    scopes = Scopes(module)
    answers = None if fakes is None else Answers(fakes, scopes, way.yes, way.number)
    storages = Storages()
    own = _tensors(module, prefix)
    names = frozenset(name for name, _, _ in own)
    values = Values(builder, lambda: scopes.path, Captured(module, prefix, fakes, storages, names))
    records = [storages.tensor(name, tensor, buffer=buffer) for name, tensor, buffer in own]
    recorder = Recorder(values, fakes, answers)
    for (_, tensor, buffer), record in zip(own, records, strict=True):
        values.parameter(tensor if fakes is None else fakes.of(tensor, known=buffer), record)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            given = fed(module, feed, fakes)
    except InitauditError:
        raise
    except Exception as error:
        raise UsageError(f"the model cannot be fed: {_line(error)}") from None
    for tensor, name in given.named:
        values.input(tensor, name)
    try:
        with ExitStack() as stack:
            stack.enter_context(torch.set_grad_enabled(way.grad))
            stack.enter_context(torch.jit.optimized_execution(False))  # type: ignore[attr-defined]
            stack.enter_context(scopes)
            if fakes is not None:
                stack.enter_context(fake_mode())
            stack.enter_context(recorder.below)
            stack.enter_context(recorder)
            module.train(way.train)
            result = module(*given.args, **given.kwargs)
    except InitauditError:
        raise
    except Exception as error:
        raise UnsupportedError(f"the forward pass fails in {scopes.failed_in(error)}: {_line(error)}") from None
    outputs = _outputs(result, values, given, fakes)
    graph = builder.graph(outputs)
    if not graph.nodes:
        raise UnsupportedError("the forward pass calls no torch function")
    graph = pruned(graph)
    return Traced(graph, "real" if way.real else "fake", frozenset(name for name in values.read if name in names))


def _outputs(result: Any, values: Values, given: Fed, fakes: Fakes | None) -> list[str]:
    with torch._C.DisableTorchFunction():
        names = [values.name(t if fakes is None else fakes.of(t)) for t in outputs_of(result)]
    return list(dict.fromkeys(names))


def _tensors(module: nn.Module, prefix: str) -> list[tuple[str, torch.Tensor, bool]]:
    """Return name, tensor and whether it is a buffer, in the order of state_dict()."""
    found: list[tuple[str, torch.Tensor, bool]] = []
    for path, each in module.named_modules(remove_duplicate=False):
        at = f"{prefix}{path}." if path else prefix
        for entries, buffer in ((each._parameters, False), (each._buffers, True)):
            found += [(at + local, tensor, buffer) for local, tensor in entries.items() if tensor is not None]
    return found


def _parameters(module: nn.Module, prefix: str) -> frozenset[str]:
    seen: dict[int, str] = {}
    for name, tensor, buffer in _tensors(module, prefix):
        if not buffer:
            seen.setdefault(id(tensor), name)
    return frozenset(seen.values())


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return f"{type(error).__name__}: {short}"
