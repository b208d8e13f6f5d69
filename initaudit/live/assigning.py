"""New values into a live module: all of them or none, its ties, dtypes, devices and memory as they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from initaudit.edits import Edit
from initaudit.errors import UnsupportedError, WriteError
from initaudit.live.trace import unwrapped


def assign(module: nn.Module, edits: Sequence[Edit]) -> None:
    """Write new values into the parameters and buffers of a module, under no_grad.

    Args:
        module: as `audit.live` read it.
        edits: of its tensors, with values of their dtypes.

    Raises:
        UnsupportedError: a tensor is of a kind that no values can be copied into.
        WriteError: torch refused; then nothing has changed.
    """
    root = unwrapped(module)
    named = {**dict(root.named_buffers(remove_duplicate=False)), **dict(root.named_parameters(remove_duplicate=False))}
    places = [_place(named, edit) for edit in edits]
    old: list[tuple[torch.Tensor, torch.Tensor]] = []
    with torch.no_grad():
        try:
            for place, edit in zip(places, edits, strict=True):
                new = _tensor(edit.values(), place.dtype)
                old.append((place, place.clone()))
                place.copy_(new)
        except BaseException as error:
            for place, values in reversed(old):
                place.copy_(values)
            if isinstance(error, RuntimeError):
                raise WriteError(f"the module is as it was: {str(error).splitlines()[0]}") from error
            raise


def _place(named: dict[str, torch.Tensor], edit: Edit) -> torch.Tensor:
    """Return the memory that an edit is about."""
    record = edit.tensor
    tensor = named.get(record.name)
    if tensor is None or tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_meta:
        raise UnsupportedError(f"{record.name} is no plain tensor with values of its own")
    if tuple(tensor.shape) == record.shape and int(tensor.storage_offset()) == record.offset:
        return tensor
    flat = tensor.detach()
    strides = record.strides or _contiguous(record.shape)
    return torch.as_strided(flat, record.shape, strides, record.offset)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


def _tensor(values: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
    """Return values of a numpy or ml_dtypes type as a tensor; they are of that dtype already, so nothing is rounded."""
    if values.dtype.isbuiltin == 1:
        return torch.from_numpy(np.array(values, dtype=values.dtype.newbyteorder("="), order="C")).to(dtype)
    return torch.from_numpy(np.array(values, dtype=np.float32, order="C")).to(dtype)
