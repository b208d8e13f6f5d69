"""Which operator each element of a weight belongs to: a gate, a projection, an expert; each is scaled by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from initaudit.edits import Recipe
from initaudit.live.lsuv.stored import same_places
from initaudit.types import Array, Layer

FIXED = -1  # label of what keeps its scale


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a tensor."""

    labels: Array  # broadcasts to the tensor's shape; FIXED for elements that are not scaled
    names: tuple[str, ...]  # by label

    @property
    def one(self) -> bool:
        """Whether all of the tensor is one part."""
        return len(self.names) == 1 and self.labels.size == 1

    def scaled(self, values: Array, scales: Sequence[float]) -> Array:
        """Return values times the scale of their part."""
        table = np.array([*scales, 1.0], np.float32 if values.dtype == np.float32 else np.float64)  # last: label -1
        made: Array = values * table[self.labels]
        return made


def parts(recipe: Recipe, lsuv: str) -> Parts:
    """Return the parts of a recipe's tensor; those with another scheme than `lsuv` keep their scale."""
    layer = recipe.measured.layer
    labels, names = _of(layer)
    if recipe.by_part:
        for at, name in enumerate(layer.parts):
            if not recipe.by_part.get(name, recipe.scheme).startswith(lsuv):
                labels = np.where(labels % len(layer.parts) == at, FIXED, labels)
    if recipe.units is not None:
        chosen = np.isin(_units(layer), recipe.units)
        labels = np.where(chosen, labels, FIXED)
    tensor = recipe.tensor
    if labels.size == 1:
        return Parts(labels.reshape((1,) * len(tensor.shape)), names)
    if tensor.identity == layer.weight.identity:
        return Parts(labels, names)
    if tensor.name != layer.weight.name and tensor.shape == labels.shape:  # the norms of a weight: one for each unit
        return Parts(labels, names)
    seen = same_places(layer.weight, np.broadcast_to(labels, layer.weight.shape), tensor)
    if seen is not None:
        return Parts(seen.astype(np.int64), names)
    if tensor.shape == layer.weight.shape:  # a copy of it in another type
        return Parts(labels, names)
    return Parts(np.zeros((1,) * len(tensor.shape), np.int64), ("",))


def _of(layer: Layer) -> tuple[Array, tuple[str, ...]]:
    """Return the label of each element of a weight: stacked operators, then parts along o."""
    own = layer.parts or ("",)
    stacks = prod(n for label, n in zip(layer.axes, layer.weight.shape, strict=True) if label == "s")
    labels = np.zeros((1,) * len(layer.axes), np.int64)
    if stacks > 1 and layer.kind not in ("embedding", "lstm", "gru", "rnn"):
        labels = labels + _along(layer, "s") * len(own)
        word = "expert" if any("expert" in tag for tag in layer.tags) else "operator"
        names = tuple(" ".join(filter(None, (f"{word} {s}", p))) for s in range(stacks) for p in own)
    else:
        names = own
    if len(own) > 1:
        outs = _along(layer, "o")
        labels = labels + outs * len(own) // (int(outs.max(initial=0)) + 1)
    return labels, names


def _along(layer: Layer, label: str) -> Array:
    """Return the index along the axes of one label, the first the slowest, for each element."""
    index = np.zeros((1,) * len(layer.axes), np.int64)
    for axis, (own, extent) in enumerate(zip(layer.axes, layer.weight.shape, strict=True)):
        if own == label:
            index = index * extent + np.arange(extent).reshape([-1 if a == axis else 1 for a in range(len(layer.axes))])
    return index


def _units(layer: Layer) -> Array:
    """Return the output unit of each element: stack, then group, then out."""
    index = _along(layer, "s") * _extent(layer, "o") + _along(layer, "o")
    if layer.groups > 1 and "i" in layer.axes and layer.axes.find("i") < layer.axes.find("o"):
        each = max(1, _extent(layer, "i") // layer.groups)
        index = _along(layer, "i") // each * _extent(layer, "o") + index
    return index


def _extent(layer: Layer, label: str) -> int:
    return prod(n for own, n in zip(layer.axes, layer.weight.shape, strict=True) if own == label)
