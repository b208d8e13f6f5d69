"""The arguments of a pass, made from what was asked for, and the tensors among its results."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from initaudit.errors import UsageError
from initaudit.live.fakes import Fakes, fake_mode
from initaudit.live.spec import Feed, Spec

_DEPTH = 6  # of lists in dicts in objects that are searched for tensors


@dataclass(frozen=True, slots=True)
class Fed:
    """Arguments as the module is called with them, and the names of the tensors in them."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    named: tuple[tuple[torch.Tensor, str], ...]


def fed(module: nn.Module, feed: Feed, fakes: Fakes | None) -> Fed:
    """Return the arguments with a tensor for every Spec: a stand-in, or random values where there are no `fakes`.

    Raises:
        UsageError: a Spec names no dtype of torch's.
    """
    args = tuple(_made(value, fakes) for value in feed.args)
    kwargs = {name: _made(value, fakes) for name, value in feed.kwargs.items()}
    named: dict[int, tuple[torch.Tensor, str]] = {}
    for name, value in _by_name(module, args, kwargs):
        for path, tensor in _tensors(value, name, _DEPTH):
            named.setdefault(id(tensor), (tensor, path))
    return Fed(args, kwargs, tuple(named.values()))


def given(module: nn.Module, feed: Feed) -> dict[str, torch.Tensor]:
    """Return the tensors that the user feeds a module with, as they are, under the names that `fed` gives them."""
    named: dict[int, tuple[str, torch.Tensor]] = {}
    for name, value in _by_name(module, feed.args, feed.kwargs):
        for path, tensor in _tensors(value, name, _DEPTH):
            named.setdefault(id(tensor), (path, tensor))
    return dict(named.values())


def outputs_of(result: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a result: in tuples, dicts, dataclasses and other objects."""
    for _, tensor in _tensors(result, "", _DEPTH):
        yield tensor


def _made(value: Any, fakes: Fakes | None) -> Any:
    if isinstance(value, Spec):
        return _from_spec(value, fakes)
    if isinstance(value, torch.Tensor):
        return fakes.of(value) if fakes is not None else value.detach().to("cpu", copy=True)
    if isinstance(value, PackedSequence):
        return value._replace(**{key: _made(part, fakes) for key, part in value._asdict().items()})
    if isinstance(value, list | tuple):
        items = [_made(item, fakes) for item in value]
        if isinstance(value, tuple):
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        return items
    if isinstance(value, Mapping):
        return {key: _made(item, fakes) for key, item in value.items()}
    return value


def _from_spec(spec: Spec, fakes: Fakes | None) -> torch.Tensor:
    dtype = getattr(torch, spec.dtype, None)
    if not isinstance(dtype, torch.dtype):
        raise UsageError(f"torch has no dtype {spec.dtype}")
    if fakes is not None:
        with fake_mode():
            return torch.empty(spec.shape, dtype=dtype)
    if dtype.is_floating_point or dtype.is_complex:
        return torch.randn(spec.shape).to(dtype)
    return torch.randint(0, max(1, spec.below), spec.shape).to(dtype)


def _by_name(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the arguments under the names that the module's forward gives them."""
    try:
        signature = inspect.signature(module.forward)
        bound = signature.bind(*args, **kwargs)
    except (TypeError, ValueError):
        yield from ((f"input_{at}", value) for at, value in enumerate(args))
        yield from kwargs.items()
        return
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            yield from ((f"{name}.{at}" if len(value) > 1 else name, item) for at, item in enumerate(value))
        elif kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield name, value


def _tensors(value: Any, path: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
        return
    if depth == 0 or value is None or isinstance(value, str | int | float | bool | nn.Module):
        return
    parts: Iterator[tuple[Any, Any]]
    if isinstance(value, Mapping):
        parts = iter(value.items())
    elif isinstance(value, list | tuple):
        parts = iter(enumerate(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = ((each.name, getattr(value, each.name, None)) for each in dataclasses.fields(value))
    elif hasattr(value, "__dict__") and not callable(value):
        parts = iter(vars(value).items())
    else:
        return
    for key, part in parts:
        yield from _tensors(part, f"{path}.{key}" if path else str(key), depth - 1)
