"""Small models of one and of several files, edits of them, and what a folder holds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from initaudit import formats
from initaudit.edits import Edit
from initaudit.types import Array, Tensor


def single(path: Path, tensors: Sequence[str] = ("a.weight", "b.weight", "c.weight"), seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    safetensors.numpy.save_file({name: rng.normal(size=(16, 8)).astype("f4") for name in tensors}, path)
    return path


def sharded(folder: Path, count: int = 3) -> Path:
    """Return the index of a model of `count` shards with two tensors each."""
    folder.mkdir(parents=True, exist_ok=True)
    places: dict[str, str] = {}
    for number in range(1, count + 1):
        name = f"model-{number:05}-of-{count:05}.safetensors"
        tensors = [f"layer{number}.weight", f"layer{number}.bias"]
        single(folder / name, tensors, number)
        places |= dict.fromkeys(tensors, name)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "config.json").write_text('{"model_type": "bert"}')
    (folder / "tokenizer.json").write_text("{}")
    return index


def edits(path: Path, *wanted: str, value: float = 0.5) -> list[Edit]:
    """Return edits of some tensors, of all if none is named."""
    tensors = formats.read(path).tensors
    return [edit(tensor, value) for tensor in tensors if not wanted or tensor.name in wanted]


def edit(tensor: Tensor, value: float = 0.5) -> Edit:
    def values() -> Array:
        return np.full(tensor.shape, value)

    return Edit(tensor, values)


def held(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def values(path: Path) -> dict[str, Array]:
    return {tensor.name: np.array(tensor.load()) for tensor in formats.read(path).tensors}
