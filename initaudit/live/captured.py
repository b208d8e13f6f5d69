"""Tensors that a pass uses and that are neither parameters nor results: plain attributes, constants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from initaudit.live.fakes import Fakes, has_values
from initaudit.live.tree import Storages
from initaudit.types import Tensor


class Captured:
    """Names and records for tensors that a pass uses and that are no parameters."""

    def __init__(
        self, module: nn.Module, prefix: str, fakes: Fakes | None, storages: Storages, taken: frozenset[str]
    ) -> None:
        self._module = module
        self._prefix = prefix
        self._fakes = fakes
        self._storages = storages
        self._taken = set(taken)
        self._paths: dict[int, str] | None = None
        self._count = 0

    def is_own(self, tensor: torch.Tensor) -> bool:
        """Whether a stand-in was made for a tensor of the user's, so that nothing else looks into its memory."""
        return self._fakes is not None and self._fakes.origin(tensor) is not tensor

    def record(self, tensor: torch.Tensor) -> Tensor:
        """Return the record of a tensor under the attribute that holds it, or under a name of its own."""
        origin = tensor if self._fakes is None else self._fakes.origin(tensor)
        if self._paths is None:
            self._paths = {id(tensor): path for path, tensor in held(self._module)}
        path = self._paths.get(id(origin), "")
        name = self._prefix + path
        if not path or name in self._taken:
            self._count += 1
            name = f"%k{self._count}"
        self._taken.add(name)
        real = self._fakes.real(tensor) if self._fakes is not None else None
        return self._storages.tensor(name, origin if has_values(origin) or real is None else real, buffer=True)


def held(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors that modules hold as plain attributes, or in lists and dicts of these, with their paths."""
    for path, each in module.named_modules():
        at = f"{path}." if path else ""
        for name, value in vars(each).items():
            if name not in {"_parameters", "_buffers", "_modules"}:
                yield from _within(value, at + name, 3)


def _within(value: Any, path: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif depth and isinstance(value, list | tuple) and len(value) <= 1024:
        for at, item in enumerate(value):
            yield from _within(item, f"{path}.{at}", depth - 1)
    elif depth and isinstance(value, dict) and len(value) <= 1024:
        for key, item in value.items():
            yield from _within(item, f"{path}.{key}", depth - 1)
