"""A model whose tensors show new values, nothing being written: how a live module is judged before it is changed.

And how a plan is: its graph shows what would be drawn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from initaudit.dtypes import numpy_dtype
from initaudit.edits import Edit
from initaudit.errors import UnsupportedError
from initaudit.formats.patching import cast
from initaudit.repair.places import places, storage
from initaudit.strides import strides_of
from initaudit.types import Array, Graph, Model, Tensor


@dataclass(frozen=True, slots=True)
class _Kept:
    """Values that were worked out once."""

    values: Array

    def __call__(self) -> Array:
        return self.values


def kept(edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """Return the edits with their values worked out and rounded to their tensors' dtypes."""
    return tuple(replace(edit, values=_Kept(cast(edit.tensor, edit.values()))) for edit in edits)


def overlaid(model: Model, edits: Sequence[Edit]) -> Model:
    """Return a model in which every tensor shows what is edited of the storage that it looks at.

    Its tensors must be views of storages, as those of a live module are.
    """
    by_storage: dict[str, list[Edit]] = defaultdict(list)
    for edit in edits:
        by_storage[storage(edit.tensor)].append(edit)
    views: dict[str, list[Tensor]] = defaultdict(list)
    for tensor in _tensors(model):
        views[storage(tensor)].append(tensor)
    flats = {name: _flat([*views[name], *(e.tensor for e in some)]) for name, some in by_storage.items()}
    for name, flat in flats.items():
        for tensor in views[name]:
            _view(flat, tensor)[...] = tensor.load()
        for edit in by_storage[name]:
            _view(flat, edit.tensor)[...] = edit.values()

    def shown(tensor: Tensor) -> Tensor:
        flat = flats.get(storage(tensor))
        return tensor if flat is None else replace(tensor, load=_Kept(_view(flat, tensor)))

    return replace(
        model,
        tensors=tuple(map(shown, model.tensors)),
        graph=None if model.graph is None else _over(model.graph, shown),
        other=tuple(_over(graph, shown) for graph in model.other),
    )


def laid(model: Model, edits: Sequence[Edit]) -> Model:
    """Return a model whose graph shows what is edited of the same places of its storages, should anyone ask."""
    by_storage: dict[str, list[Edit]] = defaultdict(list)
    for edit in edits:
        by_storage[storage(edit.tensor)].append(edit)

    def shown(tensor: Tensor) -> Tensor:
        some = by_storage.get(storage(tensor))
        return tensor if some is None else replace(tensor, load=partial(_mixed, tensor, some))

    return replace(model, graph=None if model.graph is None else _over(model.graph, shown))


def _mixed(tensor: Tensor, edits: Sequence[Edit]) -> Array:
    """Return the values of a tensor with those that are edited at the same places."""
    values = np.array(tensor.load())
    shown = places(tensor)
    for edit in edits:
        if edit.tensor.identity == tensor.identity:
            values = edit.values().astype(values.dtype)
            continue
        new = edit.values().ravel()
        own = places(edit.tensor).ravel()
        order = np.argsort(own)
        at = np.searchsorted(own, shown, sorter=order).clip(max=own.size - 1)
        hit = own[order[at]] == shown
        values[hit] = new[order[at[hit]]].astype(values.dtype)
    return values


def _over(graph: Graph, shown: Callable[[Tensor], Tensor]) -> Graph:
    return replace(graph, constants={value: shown(tensor) for value, tensor in graph.constants.items()})


def _tensors(model: Model) -> Iterable[Tensor]:
    yield from model.tensors
    for graph in (model.graph, *model.other):
        if graph is not None:
            yield from graph.constants.values()


def _flat(tensors: Sequence[Tensor]) -> Array:
    """Return a run of elements that holds all of them."""
    extent = 0
    for tensor in tensors:
        if tensor.size:
            last = sum((n - 1) * step for n, step in zip(tensor.shape, strides_of(tensor), strict=True))
            extent = max(extent, tensor.offset + last + 1)
    kinds = {tensor.dtype for tensor in tensors}
    if len(kinds) > 1:
        raise UnsupportedError(f"{tensors[0].name}: one memory is looked at as {' and '.join(sorted(kinds))}")
    return np.zeros(extent, numpy_dtype(kinds.pop()))


def _view(flat: Array, tensor: Tensor) -> Array:
    if not tensor.size:
        return flat[:0].reshape(tensor.shape)
    strides = tuple(step * flat.itemsize for step in strides_of(tensor))
    return np.lib.stride_tricks.as_strided(flat[tensor.offset :], tensor.shape, strides)
