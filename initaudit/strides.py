"""How the elements of a tensor lie in its storage."""

from __future__ import annotations

from collections.abc import Sequence

from initaudit.types import Tensor


def contiguous(shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of an array in C order; an extent of 0 counts as 1, as in torch."""
    strides = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        strides[axis] = strides[axis + 1] * max(shape[axis + 1], 1)
    return tuple(strides)


def strides_of(tensor: Tensor) -> tuple[int, ...]:
    """Return the strides of a tensor, in elements of its storage."""
    return tensor.strides if tensor.strides is not None else contiguous(tensor.shape)
