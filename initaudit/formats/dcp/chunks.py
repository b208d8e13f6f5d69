"""Tensors that several processes saved in parts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from initaudit.dtypes import numpy_dtype
from initaudit.errors import CorruptFileError, UnsupportedError
from initaudit.formats.torch.storage import QUANTISED
from initaudit.types import Array, Tensor

_MOST_CHECKED = 8192  # chunks of one tensor that are held against each other


@dataclass(frozen=True, slots=True)
class Chunk:
    """A box of a tensor: where it begins, how large it is, its values."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]
    tensor: Tensor


def assembled(name: str, shape: tuple[int, ...], dtype: str, chunks: Sequence[Chunk]) -> Tensor:
    """Return the tensor that chunks make up; a single one is taken as it lies.

    Raises:
        CorruptFileError: the chunks overlap, leave something out or reach beyond the tensor.
    """
    _check(name, shape, chunks)
    if len(chunks) == 1:
        return replace(chunks[0].tensor, name=name)
    parts = tuple(chunks)

    def load() -> Array:
        values = np.empty(shape, numpy_dtype(QUANTISED.get(dtype, dtype)))
        for part in parts:
            box = tuple(slice(at, at + size) for at, size in zip(part.offsets, part.sizes, strict=True))
            values[box] = part.tensor.load()
            part.tensor.release()
        return values

    return Tensor(name, shape, dtype, load, storage=f"{name} of {len(parts)} chunks")


def _check(name: str, shape: tuple[int, ...], chunks: Sequence[Chunk]) -> None:
    full = [chunk for chunk in chunks if math.prod(chunk.sizes)]
    for chunk in chunks:
        if len(chunk.offsets) != len(shape) or len(chunk.sizes) != len(shape):
            raise CorruptFileError(f"tensor {name!r} of {len(shape)} axes has a chunk of {len(chunk.sizes)}")
        if any(at + size > extent for at, size, extent in zip(chunk.offsets, chunk.sizes, shape, strict=True)):
            raise CorruptFileError(
                f"tensor {name!r} of shape {list(shape)} has a chunk of {list(chunk.sizes)} at {list(chunk.offsets)}"
            )
    held, wanted = sum(math.prod(chunk.sizes) for chunk in full), math.prod(shape)
    if held < wanted or (not chunks and not wanted):
        raise CorruptFileError(f"tensor {name!r} has {wanted} values, its chunks hold {held}: some are missing")
    if _overlap(full):
        raise CorruptFileError(f"tensor {name!r} has chunks that overlap")


def _overlap(chunks: Sequence[Chunk]) -> bool:
    if len(chunks) < 2 or not chunks[0].sizes:
        return len(chunks) > 1
    if len(chunks) > _MOST_CHECKED:
        raise UnsupportedError(f"a tensor of {len(chunks)} chunks; at most {_MOST_CHECKED} are read")
    starts = np.array([chunk.offsets for chunk in chunks], np.int64)
    stops = starts + np.array([chunk.sizes for chunk in chunks], np.int64)
    order = np.argsort(starts[:, 0], kind="stable")
    starts, stops = starts[order], stops[order]
    for at in range(len(chunks) - 1):
        last = int(np.searchsorted(starts[:, 0], stops[at, 0], "left"))  # those behind begin after this one ends
        low = np.maximum(starts[at + 1 : last], starts[at])
        high = np.minimum(stops[at + 1 : last], stops[at])
        if bool(np.any(np.all(low < high, axis=1))):
            return True
    return False
