"""Stand-ins for tensors: a shape, a dtype and a place in memory that is never taken."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import _disable_current_modes, is_traceable_wrapper_subclass

KNOWN_VALUES = 1 << 18  # elements up to which the real values of a constant are kept beside its stand-in


@functools.cache
def fake_mode() -> FakeTensorMode:
    """Return the one mode that every stand-in belongs to: those of two modes do not mix."""
    return FakeTensorMode(allow_non_fake_inputs=True)


def is_fake(tensor: torch.Tensor) -> bool:
    """Whether a tensor is a stand-in of ours."""
    return isinstance(tensor, FakeTensor) and tensor.fake_mode is fake_mode()


def as_fake(tensor: torch.Tensor) -> torch.Tensor:
    """Return a stand-in on the CPU for a tensor that is real, meta or another mode's; one of ours as it is."""
    if is_fake(tensor):
        return tensor
    mode = fake_mode()
    if is_traceable_wrapper_subclass(tensor) or not _is_dense(tensor):
        made: torch.Tensor = mode.from_tensor(tensor, static_shapes=True)
        return made
    with mode, torch.no_grad():
        made = torch.empty_strided(tuple(tensor.size()), tensor.stride(), dtype=tensor.dtype, device="cpu")
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made.requires_grad_(tensor.requires_grad)


def _is_dense(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_quantized and not tensor.is_nested


def has_values(tensor: torch.Tensor) -> bool:
    """Whether the numbers of a tensor are in memory."""
    return not tensor.is_meta and not isinstance(tensor, FakeTensor)


class Fakes:
    """The stand-ins of one pass: one for each tensor of the user's, and the real values of small constants."""

    def __init__(self) -> None:
        self._made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # id of the original: it, its stand-in
        self._origins: dict[int, torch.Tensor] = {}  # id of the stand-in (kept in _made): the original
        self._real: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # id of a stand-in: it, its values
        self._lost: dict[int, Any] = {}  # storages that hold values no longer right; kept, so that no id comes back

    def of(self, tensor: torch.Tensor, *, known: bool = True) -> torch.Tensor:
        """Return the stand-in for a tensor, always the same one, and keep its values if they are few."""
        if is_fake(tensor):
            return tensor
        held = self._made.get(id(tensor))
        if held is None:
            held = (tensor, as_fake(tensor))
            self._made[id(tensor)] = held
            self._origins[id(held[1])] = tensor
            if known and has_values(tensor) and tensor.numel() <= KNOWN_VALUES and _is_plain(tensor):
                with _disable_current_modes():
                    self.know(held[1], tensor.detach().cpu().clone())
        return held[1]

    def origin(self, fake: torch.Tensor) -> torch.Tensor:
        """Return the tensor that a stand-in was made for, or the stand-in itself."""
        return self._origins.get(id(fake), fake)

    def know(self, fake: torch.Tensor, real: torch.Tensor) -> None:
        """Keep the values of a stand-in."""
        self._real[id(fake)] = (fake, real)

    def real(self, fake: torch.Tensor) -> torch.Tensor | None:
        """Return the values of a stand-in, if they are known."""
        held = self._real.get(id(fake))
        if held is None:
            return None
        if self._lost and held[1].untyped_storage()._cdata in self._lost:
            del self._real[id(fake)]
            return None
        return held[1]

    def forget(self, fake: torch.Tensor) -> None:
        """Drop the values of a stand-in and of all that look at the same memory."""
        held = self._real.pop(id(fake), None)
        if held is not None:
            storage = held[1].untyped_storage()
            self._lost[storage._cdata] = storage


def _is_plain(tensor: torch.Tensor) -> bool:
    return _is_dense(tensor) and not is_traceable_wrapper_subclass(tensor)
