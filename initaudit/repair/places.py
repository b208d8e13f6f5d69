"""Where in their storages tensors lie, and that no two recipes write the same place."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np

from initaudit.edits import Recipe
from initaudit.types import Array, Tensor


def places(tensor: Tensor) -> Array:
    """Return where in its storage each element of a tensor lies."""
    if tensor.strides is None:
        return tensor.offset + np.arange(tensor.size).reshape(tensor.shape)
    places = np.full(tensor.shape, tensor.offset)
    for axis, step in enumerate(tensor.strides):
        shape = [1] * len(tensor.shape)
        shape[axis] = tensor.shape[axis]
        places = places + step * np.arange(tensor.shape[axis]).reshape(shape)
    return places


def storage(tensor: Tensor) -> str:
    """Return what tells the memory that a tensor looks at."""
    return tensor.storage or tensor.name


def apart(recipes: Iterable[Recipe]) -> list[Recipe]:
    """Return recipes of which no two write the same place: of two that overlap the larger stays."""
    recipes = list(recipes)
    by_storage: dict[str, list[Recipe]] = defaultdict(list)
    for recipe in sorted(recipes, key=lambda r: -r.tensor.size):
        taken = by_storage[storage(recipe.tensor)]
        if not any(_overlap(recipe.tensor, other.tensor) for other in taken):
            taken.append(recipe)
    left = {id(recipe) for some in by_storage.values() for recipe in some}
    return [recipe for recipe in recipes if id(recipe) in left]


def _overlap(a: Tensor, b: Tensor) -> bool:
    if not a.size or not b.size:
        return False
    (low, high), (start, stop) = _span(a), _span(b)
    if high < start or stop < low:
        return False
    return np.intersect1d(places(a), places(b)).size > 0


def _span(tensor: Tensor) -> tuple[int, int]:
    """Return the first and the last place."""
    if tensor.strides is None:
        return tensor.offset, tensor.offset + tensor.size - 1
    ends = [(n - 1) * step for n, step in zip(tensor.shape, tensor.strides, strict=True)]
    return tensor.offset + sum(min(0, e) for e in ends), tensor.offset + sum(max(0, e) for e in ends)
