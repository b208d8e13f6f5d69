"""What a torch function is called, and its arguments as the graph holds them."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch._ops import OpOverload, OpOverloadPacket

from initaudit.live.compared import Number

Called = tuple[str, tuple[Any, ...], dict[str, Any]]  # a function's name, its arguments

ATTRIBUTES = "__get__", "__set__"
_CHECKS = frozenset({"has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"})
_EMBEDDING_BAG = (1, 0, 2, None, None, 3, 4, 5, 6, 7, 8)

# torch's own function of that name takes its arguments in another order than torch.nn.functional's: where each of the
# latter is among the former, None where it is not.
_ORDER: dict[str, tuple[int | None, ...]] = {
    "embedding": (1, 0, 2, None, None, 3, 4),
    "embedding_bag": _EMBEDDING_BAG,
    "_embedding_bag": _EMBEDDING_BAG,
    "batch_norm": (0, 3, 4, 1, 2, 5, 6, 7),
    "native_batch_norm": (0, 3, 4, 1, 2, 5, 6, 7),
    "_native_batch_norm_legit": (0, 3, 4, 1, 2, 5, 6, 7),
    "_native_batch_norm_legit_no_training": (0, 3, 4, 1, 2, None, 5, 6),
    "_batch_norm_impl_index": (0, 3, 4, 1, 2, 5, 6, 7),
    "instance_norm": (0, 3, 4, 1, 2, 5, 6, 7),
}
_FUNCTIONAL = {
    "_embedding_bag": "embedding_bag",
    "native_batch_norm": "batch_norm",
    "_native_batch_norm_legit": "batch_norm",
    "_native_batch_norm_legit_no_training": "batch_norm",
    "_batch_norm_impl_index": "batch_norm",
}
_LIKENESSES = {  # functions that take a tensor for its shape alone -> those that take the shape
    **{f"{name}_like": name for name in ("zeros", "ones", "full", "empty", "rand", "randn")},
    **{f"new_{name}": name for name in ("zeros", "ones", "full", "empty")},
}
_AFTER = {"reshape_as": "reshape", "view_as": "view", "expand_as": "expand"}


def name_of(func: Any) -> str:
    """Return the bare name of a torch function: "conv2d", "add_", "T.__get__", "mul" of aten::mul.Tensor.

    >>> name_of(torch.Tensor.add_), name_of(torch.Tensor.T.__get__), name_of(torch.ops.aten.mul.Tensor)
    ('add_', 'T.__get__', 'mul')
    """
    if isinstance(func, OpOverload):
        return str(func._schema.name.rpartition("::")[2])
    if isinstance(func, OpOverloadPacket):
        return str(func._qualified_op_name.rpartition("::")[2])
    name = str(getattr(func, "__name__", type(func).__name__))
    if name in ATTRIBUTES:
        return f"{getattr(func.__self__, '__name__', '?')}.{name}"
    return name


def is_operator(func: Any) -> bool:
    """Whether a function is one of ATen's own or of an extension, not of torch's Python side."""
    return isinstance(func, OpOverload | OpOverloadPacket)


def reentrant(func: Any) -> Callable[..., Any] | None:
    """Return a Python function of torch without its question whether someone overrides it; None for one in C++.

    Called under a recording mode, the function then runs its body and the mode sees what that calls.
    """
    if not isinstance(func, types.FunctionType) or not _CHECKS.intersection(func.__code__.co_names):
        return None
    blind = {**func.__globals__, **dict.fromkeys(_CHECKS, _nobody)}
    body = types.FunctionType(func.__code__, blind, func.__name__, func.__defaults__, func.__closure__)
    body.__kwdefaults__ = func.__kwdefaults__
    return body


def _nobody(*_: object) -> bool:
    return False


def as_functional(func: Any, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Called:
    """Return a call of torch.embedding and the like as one of torch.nn.functional's function of that name."""
    order = _ORDER.get(name)
    if order is None or isinstance(func, types.FunctionType) or kwargs:
        return name, tuple(args), dict(kwargs)
    moved = [args[at] if at is not None and at < len(args) else None for at in order]
    while len(moved) > 1 and moved[-1] is None:
        moved.pop()
    return _FUNCTIONAL.get(name, name), tuple(moved), {}


def by_shape(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: torch.Tensor) -> Called | None:
    """Return zeros_like(x) as zeros(shape), x.view_as(y) as x.view(shape) and so on; None for other functions."""
    if name in _AFTER:
        return _AFTER[name], (args[0], tuple(result.shape)), {}
    plainly = _LIKENESSES.get(name)
    if plainly is None:
        return None
    filled = (kwargs.get("fill_value", args[-1] if len(args) > 1 else None),) if plainly == "full" else ()
    return plainly, (tuple(result.shape), *filled), {"dtype": result.dtype}


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors in an argument or result, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, slice):
        yield from tensors((value.start, value.stop, value.step))


def mapped(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return an argument with `change` applied to all that is no container; the same object where nothing changed."""
    if isinstance(value, torch.Tensor) or value is None:
        return change(value)
    if isinstance(value, list | tuple):
        items = [mapped(item, change) for item in value]
        if all(new is old for new, old in zip(items, value, strict=True)):
            return value
        if isinstance(value, tuple) and hasattr(value, "_fields"):
            return type(value)(*items)
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, dict):
        return {key: mapped(item, change) for key, item in value.items()}
    if isinstance(value, slice):
        parts = [mapped(part, change) for part in (value.start, value.stop, value.step)]
        return slice(*parts)
    return change(value)


def plain(value: Any) -> Any:
    """Return something that is no tensor as a Call holds it: numbers, text, dtypes by name, None for places."""
    if isinstance(value, Number):
        return float(value)
    if value is None or isinstance(value, bool | int | float | complex | str) or value is Ellipsis:
        return value
    if isinstance(value, torch.dtype):
        return str(value).removeprefix("torch.")
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, torch.device | torch.layout | torch.memory_format | torch.Generator):
        return None
    if isinstance(value, torch.SymInt):
        return int(value)
    return getattr(value, "__name__", type(value).__name__)
