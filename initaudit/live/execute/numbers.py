"""Numbers among the values of a graph: sizes of tensors, which scripts compute with before they use them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from initaudit.live.execute.functions import tried

SIZES: Mapping[str, Callable[..., Any]] = {
    "size": lambda x, dim=None: list(x.shape) if dim is None else x.shape[dim],
    "sym_size": lambda x, dim=None: list(x.shape) if dim is None else x.shape[dim],
    "shape": lambda x: list(x.shape),
    "shape.__get__": lambda x: list(x.shape),
    "_shape_as_tensor": lambda x: torch.tensor(x.shape, dtype=torch.long),
    "numel": lambda x: x.numel(),
    "sym_numel": lambda x: x.numel(),
    "dim": lambda x: x.dim(),
    "ndimension": lambda x: x.dim(),
    "len": lambda x: x.shape[0],
}


def calculated(name: str, target: str, args: Sequence[Any], kwargs: Mapping[str, Any], count: int) -> list[Any]:
    """Return what a function makes of numbers: a number again, in double precision."""
    if name in {"div", "true_divide", "truediv"} and len(args) == 2 and not kwargs:
        return [args[0] / args[1]]
    results = tried(target, [_value(a) for a in args], {k: _value(v) for k, v in kwargs.items()}, count)
    return [r.item() if r.dim() == 0 else r for r in results]


def _value(given: Any) -> Any:
    """Return a number as a tensor."""
    if isinstance(given, bool | int):
        return torch.tensor(given)
    return torch.tensor(given, dtype=torch.float64) if isinstance(given, float) else given
