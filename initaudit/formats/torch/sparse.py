"""Sparse tensors of every torch layout, as the dense tensors they stand for."""

from __future__ import annotations

import numpy as np

from initaudit.dtypes import numpy_dtype
from initaudit.errors import CorruptFileError
from initaudit.formats.torch.storage import product
from initaudit.types import Array, Tensor

MAX_DENSE = 2**28  # elements; above, only where at least one in a hundred is stored
COMPRESSED = {"csr": False, "bsr": False, "csc": True, "bsc": True}  # layout -> whether columns are compressed


def dense(kind: str, parts: list[Tensor], shape: tuple[int, ...]) -> Tensor | str:
    """Return the nameless dense tensor of a sparse one, or why there is none.

    `parts` are indices and values (coo), or compressed indices, plain indices and values.

    Raises:
        CorruptFileError: an index lies outside `shape`.
    """
    values = parts[-1]
    if product(shape) > MAX_DENSE and product(shape) > 100 * values.size:
        return f"a sparse tensor of shape {shape} with {values.size} values is too large to be judged as a dense one"
    if any(part.dtype not in ("int64", "int32") for part in parts[:-1]):
        raise CorruptFileError("a sparse tensor whose indices are no integers")
    if kind == "coo":
        index = _coo_index(parts[0].load(), values.shape, shape)

        def load() -> Array:
            out = np.zeros(shape, numpy_dtype(values.dtype))
            np.add.at(out, tuple(index), values.load())
            return out

    elif (
        kind in COMPRESSED
        and len(shape) == 2
        and parts[0].shape[:-1] == ()
        and values.shape[1:] in ((), values.shape[1:3])
    ):
        rows, columns, block = _compressed_index(kind, parts, shape)

        def load() -> Array:
            height, width = block
            out = np.zeros((shape[0] // height, height, shape[1] // width, width), numpy_dtype(values.dtype))
            out[rows, :, columns, :] = values.load().reshape(-1, height, width)
            return out.reshape(shape)

    else:
        return f"a sparse tensor of layout {kind or '?'} and shape {shape} is not read yet"
    # the values do not lie in the file as they are loaded: the storage named is that of the stored ones
    return Tensor("", shape, values.dtype, load, storage=f"{values.storage} sparse", offset=values.offset)


def _coo_index(index: Array, stored: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    if index.ndim != 2 or index.shape[0] > len(shape) or stored != (index.shape[1], *shape[index.shape[0] :]):
        raise CorruptFileError(f"a sparse tensor of shape {shape} with indices {index.shape} and values {stored}")
    extents = np.array(shape[: index.shape[0]]).reshape(-1, 1)
    if index.size and ((index < 0).any() or (index >= extents).any()):
        raise CorruptFileError(f"a sparse tensor of shape {shape} with an index outside it")
    return index


def _compressed_index(kind: str, parts: list[Tensor], shape: tuple[int, ...]) -> tuple[Array, Array, tuple[int, int]]:
    compressed, plain, stored = parts[0].load(), parts[1].load(), parts[2].shape
    block = (stored[1], stored[2]) if len(stored) == 3 else (1, 1)
    if min(block) < 1 or shape[0] % block[0] or shape[1] % block[1]:
        raise CorruptFileError(f"a sparse tensor of shape {shape} in blocks of {block}")
    grid = (shape[0] // block[0], shape[1] // block[1])
    along, across = grid[::-1] if COMPRESSED[kind] else grid
    steps = np.diff(compressed)
    fits = compressed.shape == (along + 1,) and plain.shape == stored[:1] and compressed[0] == 0
    if not fits or compressed[-1] != len(plain) or (steps < 0).any():
        raise CorruptFileError(f"a sparse tensor of shape {shape} whose indices do not fit")
    if plain.size and not (plain.min() >= 0 and plain.max() < across):
        raise CorruptFileError(f"a sparse tensor of shape {shape} with an index outside it")
    major = np.repeat(np.arange(along), steps)
    return (plain, major, block) if COMPRESSED[kind] else (major, plain, block)
