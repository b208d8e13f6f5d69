"""Safetensors that the ranks of a training run wrote side by side, each with its part of the tensors.

"__metadata__": {"DCP_VERSION": "1.0", "DCP_SHARDING_INFO": text of {"w": {"saved_offsets": [4, 0]}}}
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from initaudit.errors import CorruptFileError, UnsupportedError
from initaudit.formats import safetensors
from initaudit.formats.dcp import SHARD, SHARDING
from initaudit.formats.dcp.chunks import Chunk, assembled
from initaudit.formats.json_text import json_object
from initaudit.formats.torch.storage import checked_shape
from initaudit.formats.torch.tensor import Found, Lost
from initaudit.types import Tensor


def sharding(path: Path) -> dict[str, Any] | None:
    """Return where the tensors of one file begin in the whole tensors, None if it does not say."""
    try:
        text = safetensors.metadata(path).get(SHARDING)
    except CorruptFileError:
        return None
    return None if text is None else json_object(text.encode(), SHARDING)


def sharded_headers(folder: Path) -> dict[str, tuple[Found, tuple[Chunk, ...]]]:
    """Return the tensors of all such files in a folder, and what each is made of.

    Raises:
        CorruptFileError: the parts do not fit together.
    """
    chunks: dict[str, list[Chunk]] = {}
    lost: dict[str, Found] = {}
    for path in sorted(entry for entry in folder.iterdir() if SHARD.fullmatch(entry.name)):
        places = sharding(path)
        if places is None:
            raise CorruptFileError(f"{path.name} does not say which part of the tensors it holds")
        try:
            model = safetensors.read(path)
        except UnsupportedError:
            continue
        lost.update({skip.name: Lost(skip.why) for skip in model.skipped})
        for tensor in model.tensors:
            chunks.setdefault(tensor.name, []).append(_chunk(path.name, tensor, places.get(tensor.name)))
    found: dict[str, tuple[Found, tuple[Chunk, ...]]] = {name: (why, ()) for name, why in lost.items()}
    for name, parts in chunks.items():
        dtypes = {part.tensor.dtype for part in parts}
        if len(dtypes) > 1:
            raise CorruptFileError(f"tensor {name!r} has parts of {', '.join(sorted(dtypes))}")
        rank = len(parts[0].sizes)
        if any(len(part.sizes) != rank for part in parts):
            raise CorruptFileError(f"tensor {name!r} has parts of different numbers of axes")
        shape = tuple(max(part.offsets[axis] + part.sizes[axis] for part in parts) for axis in range(rank))
        found[name] = assembled(name, shape, dtypes.pop(), parts), tuple(parts)
    return found


def _chunk(file: str, tensor: Tensor, place: object) -> Chunk:
    offsets = checked_shape(place.get("saved_offsets") if isinstance(place, dict) else None, "offset")
    if len(offsets) != len(tensor.shape):
        raise CorruptFileError(
            f"tensor {tensor.name!r} of {len(tensor.shape)} axes begins at {list(offsets)} in {file}"
        )
    return Chunk(offsets, tensor.shape, replace(tensor, storage=f"{file}:{tensor.storage}"))
