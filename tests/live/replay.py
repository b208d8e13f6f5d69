"""Run a recorded graph call by call with real values: what it gives must be what the module gives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional
from torch.nn.functional import _VF

from initaudit.types import Graph, Node, Ref


def replay(graph: Graph, inputs: Mapping[str, torch.Tensor], held: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
    """Return the outputs of a graph for given inputs; `held` are parameters, buffers and other tensors by name."""
    values: dict[str, Any] = {name: torch.from_numpy(c.load().copy()) for name, c in graph.constants.items()}
    values |= {name: tensor.detach().clone() for name, tensor in held.items()}
    values |= inputs
    with torch.no_grad():
        for node in graph.nodes:
            for name, value in zip(node.outputs, _run(node, values), strict=False):
                if name:
                    values[name] = value
    return [values[name] for name in graph.outputs]


def _run(node: Node, values: Mapping[str, Any]) -> list[torch.Tensor]:
    assert node.call is not None
    name = node.call.target.removeprefix("aten.")
    args = [_value(arg, values) for arg in node.call.args]
    kwargs = {key: _value(arg, values) for key, arg in node.call.kwargs.items()}
    if name == "__setitem__":
        args[0][args[1]] = args[2]
        return [args[0]]
    for function in _functions(name):
        try:
            return _tensors(function(*args, **kwargs))
        except TypeError as error:  # torch.permute(x, dims) where x.permute(*dims) was meant
            failed = error
    raise failed


def _functions(name: str) -> list[Any]:
    if name.endswith(".__get__"):
        return [lambda x: getattr(x, name.removesuffix(".__get__"))]
    spaces = (functional, torch, torch.Tensor, torch._C._nn, _VF, torch.ops.aten)
    found = [getattr(space, name) for space in spaces if callable(getattr(space, name, None))]
    assert found, f"no torch function {name}"
    return found


def _value(arg: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(arg, Ref):
        value = values[arg.name]
        return value.clone() if isinstance(value, torch.Tensor) else value
    if isinstance(arg, tuple):
        return tuple(_value(item, values) for item in arg)
    if isinstance(arg, slice):
        return slice(*(_value(part, values) for part in (arg.start, arg.stop, arg.step)))
    if isinstance(arg, str) and isinstance(getattr(torch, arg, None), torch.dtype):
        return getattr(torch, arg)
    return arg


def _tensors(result: Any) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    return [tensor for item in result for tensor in _tensors(item)] if isinstance(result, tuple | list) else []
