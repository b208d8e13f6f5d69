"""Whole models that lie beside each other in one file and start as copies: weights and their average, net and teacher.

    state_dict.0.weight state_dict.2.weight    state_dict_ema.0.weight state_dict_ema.2.weight

What is drawn again in both is drawn alike, as if each were alone in the file, so that they stay copies.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from initaudit.edits import Recipe
from initaudit.grounds import OPERATORS
from initaudit.naming import pattern
from initaudit.types import Measured, Model, Tensor

_WHOLE = 0.9  # share of the operators that the copies hold together


def alike(recipes: Sequence[Recipe], model: Model, measured: Sequence[Measured]) -> tuple[Recipe, ...]:
    """Return recipes that know which part of a name says only which of the copies a tensor is of."""
    inside = {prefix for group in _groups(recipes, model, measured) for prefix in group}
    return tuple(replace(r, within=_outermost(r, inside)) for r in recipes) if inside else tuple(recipes)


def _outermost(recipe: Recipe, inside: set[str]) -> str:
    return min((prefix for prefix in inside if recipe.tensor.name.startswith(prefix)), key=len, default="")


def _groups(recipes: Sequence[Recipe], model: Model, measured: Sequence[Measured]) -> Iterator[tuple[str, str]]:
    """Yield the prefixes of two copies."""
    operators = [m.layer.name for m in measured if m.layer.kind in OPERATORS]
    seen: set[tuple[str, str]] = set()
    for one, other in _told_apart_by_a_word([r.tensor.name for r in recipes]):
        if (one, other) in seen:
            continue
        seen.add((one, other))
        if sum(name.startswith((one, other)) for name in operators) < _WHOLE * len(operators):
            continue
        if _same(_below(model, one), _below(model, other)):
            yield one, other


def _told_apart_by_a_word(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield prefixes of two names that go on alike; copies of a block are told apart by a number."""
    ends: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        parts = name.split(".")
        for k in range(1, len(parts)):
            prefix = ".".join(parts[:k]) + "."
            end = name[len(prefix) :]
            for other in ends[end]:
                words = prefix.split(".")[-2], other.split(".")[-2]
                if pattern(words[0]) != pattern(words[1]):
                    yield other, prefix
            ends[end].append(prefix)


def _below(model: Model, prefix: str) -> dict[str, Tensor]:
    return {t.name[len(prefix) :]: t for t in model.tensors if t.name.startswith(prefix)}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two models are equal to the bit; equal constants alone are no copies."""
    if one.keys() != other.keys():
        return False
    if any((t.shape, t.dtype) != (other[name].shape, other[name].dtype) for name, t in one.items()):
        return False
    varied = False
    for name, tensor in one.items():
        twin = other[name]
        if tensor.identity == twin.identity:  # one tensor under two names: it is written once
            return False
        try:
            left, right = np.ascontiguousarray(tensor.load()), np.ascontiguousarray(twin.load())
            if left.tobytes() != right.tobytes():
                return False
            varied = varied or bool((left != left.flat[0]).any() if left.size else False)
        finally:
            tensor.release()
            twin.release()
    return varied
