"""Modules built without their weights: parameters live on torch's meta device, so they have a shape and no values.

    with bare():
        model = build()          # nn.Linear(4096, 4096) takes no memory and its init no time

Buffers stay real, for constructors compute with them (`linspace().tolist()`, rope tables). What a constructor does to a
parameter's values is left out: there are none. Where one asks for such a value torch raises NotImplementedError, and
the caller builds for real.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

_LARGE = 1 << 20  # elements of a random tensor that is worth not drawing
_DRAWN = {torch.empty, torch.rand, torch.randn}  # their values say nothing to a constructor
_KEEP = frozenset({"__get__", "__getitem__", "device", "to", "detach", "requires_grad_", "size", "dim", "numel"})
_LOCK = threading.Lock()


@contextmanager
def bare() -> Iterator[None]:
    """Make every nn.Parameter that is created inside one without values. Not for two threads at once."""
    original = nn.Parameter.__new__
    made: Any = WeakTensorKeyDictionary()  # a tensor given to two parameters stays one

    def new(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        if cls is nn.Parameter and type(data) in (torch.Tensor, nn.Parameter) and data.device.type == "cpu":
            known = made.get(data)
            if known is None:
                known = made[data] = _empty(data)
            data = known
        return original(cls, data, requires_grad)

    with _LOCK:
        nn.Parameter.__new__ = new  # type: ignore[method-assign]
        try:
            with _Standins():
                yield
        finally:
            nn.Parameter.__new__ = original  # type: ignore[method-assign]


def _empty(data: torch.Tensor) -> torch.Tensor:
    with torch._C.DisableTorchFunction():
        return torch.empty_strided(data.shape, data.stride(), dtype=data.dtype, device="meta")


class _Standins(TorchFunctionMode):
    """Lets tensors without values meet real ones: the result has no values either."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one torch function, leaving out what would only change values that are not there."""
        settings = dict(kwargs or {})
        if func in _DRAWN and settings.get("device") is None and settings.get("out") is None:
            if _elements(args, settings) >= _LARGE and not _default_device():
                settings["device"] = "meta"
            return func(*args, **settings)
        name = getattr(func, "__name__", "")
        if name in _KEEP or not any(map(_valueless, (*args, *settings.values()))):
            return func(*args, **settings)
        first = args[0] if args else None
        if name == "__set__":  # p.data = ..., p.grad = ...
            if isinstance(first, torch.Tensor) and not first.is_meta:
                args = (first, torch.zeros(args[1].shape, dtype=args[1].dtype))
            else:
                args = tuple(map(_as_meta, args))
            return func(*args)
        if name == "__setitem__":
            return None
        if isinstance(first, torch.Tensor) and not first.is_meta and name.endswith("_") and not name.endswith("__"):
            return first  # a buffer would take values that are not there
        if getattr(func, "__module__", "") == "torch.nn.init":
            return settings.get("tensor", first)
        return func(*map(_as_meta, args), **{key: _as_meta(value) for key, value in settings.items()})


def _valueless(value: object) -> bool:
    if isinstance(value, torch.Tensor):
        return value.is_meta
    return isinstance(value, list | tuple) and any(map(_valueless, value))


def _as_meta(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value if value.is_meta or type(value) not in (torch.Tensor, nn.Parameter) else value.to("meta")
    if type(value) in (list, tuple):
        return type(value)(map(_as_meta, value))
    return value


def _elements(args: tuple[Any, ...], settings: Mapping[str, Any]) -> int:
    """Return how many elements torch.empty and the like are asked for, 0 where that is not plain."""
    size = settings.get("size", args)
    sizes = size[0] if len(size) == 1 and isinstance(size[0], list | tuple) else size
    return math.prod(sizes) if sizes and all(type(n) is int for n in sizes) else 0


def _default_device() -> bool:
    """Whether something other than the CPU was asked for with torch.set_default_device."""
    return torch.get_default_device().type != "cpu"
