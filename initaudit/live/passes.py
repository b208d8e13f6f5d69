"""One forward pass of a module, recorded: in one mode, with one kind of answer to what it asks about values."""

from __future__ import annotations

import copy
import warnings
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from initaudit.errors import InitauditError, UnsupportedError, UsageError
from initaudit.live.answers import Answers
from initaudit.live.captured import Captured, held
from initaudit.live.fakes import Fakes, fake_mode
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

SEED = 0  # of the values of a pass that has some
_LONGEST = 300  # characters of someone else's error that are passed on


@dataclass(frozen=True, slots=True)
class Way:
    """One way to run the pass."""

    real: bool = False  # with values
    train: bool = False
    grad: bool = True
    yes: bool = True  # what conditions on values come out as
    number: int = 1  # what numbers do
    compared: bool = True  # whether comparing a real number is such a condition


@dataclass(frozen=True, slots=True)
class Traced:
    """A recorded forward pass."""

    graph: Graph
    how: str  # "fake": nothing was computed; "real": it ran on random values
    read: frozenset[str]  # names of the parameters and buffers that it read
    notes: tuple[str, ...] = ()  # what the reader of the report should know about how it was had
    other: tuple[Graph, ...] = ()  # where that depends on values: what else it may do
    way: Way = field(default_factory=Way)
    truths: int = 0  # conditions that came out as the way has it
    numbers: int = 0  # and numbers


class FailedError(UnsupportedError):
    """The pass did not come to its end."""

    asked = False  # whether it had asked about values that nobody has computed


def run(root: nn.Module, feed: Feed, prefix: str, way: Way) -> Traced:
    """Record one pass of a module; it is left as it was.

    Raises:
        FailedError: the pass failed; the reason says where and how.
        UsageError: the arguments do not fit.
    """
    module = _copied(root) if way.real else root
    with untouched(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _recorded(module, feed, prefix, way)


def parameters(module: nn.Module, prefix: str) -> frozenset[str]:
    """Return the names of a module's parameters, of a shared one the first."""
    seen: dict[int, str] = {}
    for name, tensor, buffer in _tensors(module, prefix):
        if not buffer:
            seen.setdefault(id(tensor), name)
    return frozenset(seen.values())


def _copied(root: nn.Module) -> nn.Module:
    computed = {id(tensor): tensor.detach().clone() for _, tensor in held(root) if tensor.grad_fn is not None}
    try:
        return copy.deepcopy(root, computed).to("cpu")
    except Exception as error:
        raise UnsupportedError(f"the model cannot be copied for a pass with values: {_line(error)}") from None


def _recorded(module: nn.Module, feed: Feed, prefix: str, way: Way) -> Traced:
    builder = Builder("function")
    fakes = None if way.real else Fakes()
    scopes = Scopes(module)
    answers = None if fakes is None else Answers(fakes, scopes, way.yes, way.number, way.compared)
    storages = Storages()
    own = _tensors(module, prefix)
    names = frozenset(name for name, _, _ in own)
    values = Values(builder, lambda: scopes.path, Captured(module, prefix, fakes, storages, names))
    if answers is not None:
        answers.read = values.read
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
            with suppress(Exception):  # an exported program has one mode, and says so
                module.train(way.train)
            result = module(*given.args, **given.kwargs)
    except InitauditError:
        raise
    except Exception as error:
        failed = FailedError(f"the forward pass fails in {scopes.failed_in(error)}: {_line(error)}")
        failed.asked = answers is not None and answers.truths + answers.numbers > 0
        raise failed from None
    outputs = _outputs(result, values, given, fakes)
    graph = builder.graph(outputs)
    if not graph.nodes:
        raise FailedError("the forward pass calls no torch function")
    notes = ("values leave torch and come back: what becomes of them there is not known",) if recorder.returned else ()
    return Traced(
        pruned(graph), "real" if way.real else "fake", frozenset(name for name in values.read if name in names),
        notes, way=way, truths=answers.truths if answers else 0, numbers=answers.numbers if answers else 0,
    )  # fmt: skip


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


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or "no reason given"
    short = text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
    return f"{type(error).__name__}: {short}"
