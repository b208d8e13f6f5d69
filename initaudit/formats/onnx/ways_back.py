"""How nodes that made a weight are undone: which values of its parts give the weight that is wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from initaudit.formats.onnx.lazy import Recipe
from initaudit.types import Array, Tensor

_CLOSE = 1e-4  # to within this, and to within a few of the last digits of the type
_DIGITS = 8
_MOST_LEAVES = 8


@dataclass(frozen=True, slots=True)
class WayBack:
    """From a weight to the tensors that it is made of."""

    parts: tuple[Tensor, ...]
    values: Callable[[Array], Sequence[Array]]  # of the whole -> of each part
    masks: Callable[[Array], Sequence[Array]]  # which elements of the whole change -> the same for each part


def way_back(whole: Tensor) -> WayBack | None:
    """Return how a tensor that was worked out is undone; None where it cannot be."""
    recipe = whole.load
    if not isinstance(recipe, Recipe) or not recipe.parts:
        return None
    if recipe.undo is not None:
        return WayBack(recipe.parts, recipe.undo, recipe.undo)
    if recipe.what in ("mul", "div"):
        return _weight_norm(whole)
    return None


def _weight_norm(whole: Tensor) -> WayBack | None:
    """Return v = w and g = |w|, if that is what makes w = g v / |v| of them: tried out, whatever the nodes are.

    Salimans & Kingma 2016, "Weight Normalization", equation 2.
    """
    leaves = [leaf for leaf in _leaves(whole).values() if leaf.is_float and leaf.size > 1]
    v = next((leaf for leaf in leaves if leaf.shape == whole.shape), None)
    g = next((leaf for leaf in leaves if leaf is not v), None)
    if v is None or g is None or len(leaves) != 2 or len(g.shape) > len(v.shape) or v.dtype != g.dtype:
        return None
    lined = (1,) * (len(v.shape) - len(g.shape)) + g.shape
    if any(extent not in (1, full) for extent, full in zip(lined, v.shape, strict=True)):
        return None
    axes = tuple(axis for axis, extent in enumerate(lined) if extent == 1)

    def values(w: Array) -> tuple[Array, Array]:
        norm = np.sqrt(np.square(w.astype(np.float64)).sum(axes, keepdims=True))
        return np.where(norm > 0, w, 1.0), norm.reshape(g.shape)  # of a row of zeros g is zero, and v / |v| a number

    def masks(changed: Array) -> tuple[Array, Array]:
        lines = changed.any(axes, keepdims=True)
        return np.broadcast_to(lines, v.shape), lines.reshape(g.shape)

    trial = np.random.default_rng(0).standard_normal(v.shape).astype(np.asarray(v.load()).dtype)
    given = {key(v): trial, key(g): values(trial)[1].astype(trial.dtype)}
    made = np.asarray(evaluated(whole, given)).astype(np.float64)
    close = max(_CLOSE, _DIGITS * _precision(trial.dtype))
    if made.shape != v.shape or not np.allclose(made, trial.astype(np.float64), rtol=close, atol=close):
        return None
    return WayBack((v, g), values, masks)


def _precision(dtype: np.dtype[Any]) -> float:
    """Return the distance of 1 from the next larger number."""
    one = np.ones((), dtype)
    step = 1.0
    while float((one + np.asarray(step / 2, dtype)).astype(dtype)) > 1.0:
        step /= 2
    return step


def key(tensor: Tensor) -> str:
    """Return what a tensor of the file is known by."""
    return tensor.storage or tensor.name


def _leaves(tensor: Tensor) -> dict[str, Tensor]:
    """Return the tensors of the file that a tensor is worked out from, none if there are many."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    todo = [tensor]
    while todo and len(found) <= _MOST_LEAVES:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one.load, Recipe) and one.load.parts:
            todo += one.load.parts
        else:
            found.setdefault(key(one), one)
    return found if not todo else {}


def evaluated(tensor: Tensor, given: Mapping[str, Array]) -> Array:
    """Return the values of a tensor if some tensors of the file had these."""
    load = tensor.load
    if not isinstance(load, Recipe) or not load.parts:
        return given[key(tensor)] if key(tensor) in given else load()
    return load.compute(*[evaluated(part, given) for part in load.parts])
