"""Weights that are being repaired, in the place of those of the file: every constant of a graph that looks at them.

A constant may be the tensor itself, a view of it (turned, cut, one direction of two), or a copy in another type. What
is put in its place is rounded to the type of the file, so that what is measured holds after it is written.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from initaudit.dtypes import numpy_dtype
from initaudit.errors import InitauditError
from initaudit.types import Array, Graph, Tensor

Put = Callable[[str, Array], None]

_MOST_AXES = 4  # of a copy whose axes may have changed places


@dataclass(frozen=True, slots=True)
class _Copy:
    """A constant whose values are those of a tensor, with its axes in this order."""

    at: int
    order: tuple[int, ...]


class Stored:
    """New values of some tensors, as an executor's graph sees them.

    Args:
        graph: that the executor runs.
        tensors: what gets new values.
        values: of each, in its stored order.
    """

    def __init__(self, graph: Graph, tensors: Sequence[Tensor], values: Mapping[int, Array]) -> None:
        self.tensors = tensors
        self.values = {at: np.asarray(value) for at, value in values.items()}
        self.readers: dict[int, set[str]] = {at: set() for at in range(len(tensors))}  # names of constants
        self._graph = graph
        self._spans: dict[str, list[int]] = {}  # a constant's name -> tensors of the same storage
        self._copies: dict[str, _Copy] = {}
        storages: dict[str, list[int]] = {}
        names: dict[str, list[int]] = {}
        for at, tensor in enumerate(tensors):
            storages.setdefault(tensor.storage or tensor.name, []).append(at)
            names.setdefault(tensor.name, []).append(at)
        for name, constant in graph.constants.items():
            same = [at for at in storages.get(constant.storage or constant.name, ()) if _meet(constant, tensors[at])]
            if same:
                self._spans[name] = same
            elif constant.is_float and constant.size > 1:
                copy = next(
                    (c for at in names.get(constant.name, ()) if (c := _copied(at, tensors[at], constant))), None
                )
                if copy is None:
                    continue
                self._copies[name] = copy
                same = [copy.at]
            for at in same:
                self.readers[at].add(name)

    def place(self, put: Put, which: Sequence[int], values: Mapping[int, Array] | None = None) -> None:
        """Let a graph be computed with the values of some tensors.

        Args:
            put: takes the name of a constant and its new values.
            which: tensors whose values have changed.
            values: in place of their own, for now.
        """
        now = {**self.values, **(values or {})}
        for name in sorted({name for at in which for name in self.readers[at]}):
            put(name, self._seen(name, now))

    def rounded(self, at: int, value: Array) -> Array:
        """Return values as the file will hold them."""
        return _rounded(value, self.tensors[at].dtype)

    def _seen(self, name: str, values: Mapping[int, Array]) -> Array:
        constant = self._graph.constants[name]
        copy = self._copies.get(name)
        if copy is not None:
            return _rounded(values[copy.at], self.tensors[copy.at].dtype).transpose(copy.order)
        own = [at for at in self._spans[name] if at in values]
        tensors = [self.tensors[at] for at in own]
        if len(own) == 1 and tensors[0].identity[1:] == constant.identity[1:]:
            return _rounded(values[own[0]], tensors[0].dtype)
        low = min(_bounds(t)[0] for t in (constant, *tensors))
        high = max(_bounds(t)[1] for t in (constant, *tensors))
        before = np.asarray(constant.load())
        flat = np.zeros(high - low + 1, np.float64)
        _through(flat, constant, low)[...] = before
        for at, tensor in zip(own, tensors, strict=True):
            _through(flat, tensor, low)[...] = _rounded(values[at], tensor.dtype)
        return np.array(_through(flat, constant, low))


def _rounded(value: Array, dtype: str) -> Array:
    if dtype in ("float64", "complex128"):
        return value
    with np.errstate(over="ignore", invalid="ignore"):
        short = value.astype(numpy_dtype(dtype), copy=False)
    return short if dtype in ("float32", "complex64") else short.astype(np.float32)


def strides_of(tensor: Tensor) -> tuple[int, ...]:
    """Return the strides of a tensor, in elements of its storage."""
    if tensor.strides is not None:
        return tensor.strides
    steps, step = [], 1
    for extent in reversed(tensor.shape):
        steps.append(step)
        step *= max(extent, 1)
    return tuple(reversed(steps))


def _bounds(tensor: Tensor) -> tuple[int, int]:
    """Return the first and the last element of its storage that a tensor looks at."""
    reach = [step * (extent - 1) for step, extent in zip(strides_of(tensor), tensor.shape, strict=True)]
    return tensor.offset + sum(r for r in reach if r < 0), tensor.offset + sum(r for r in reach if r > 0)


def _meet(a: Tensor, b: Tensor) -> bool:
    if not a.size or not b.size:
        return False
    (low, high), (first, last) = _bounds(a), _bounds(b)
    return low <= last and first <= high


def _through(flat: Array, tensor: Tensor, low: int) -> Array:
    """Return a tensor's view of its storage, of which `flat` holds what lies behind element `low`."""
    steps = [step * flat.itemsize for step in strides_of(tensor)]
    return np.lib.stride_tricks.as_strided(flat[tensor.offset - low :], tensor.shape, steps)


def same_places(source: Tensor, values: Array, target: Tensor) -> Array | None:
    """Return what `target` sees of values that lie where `source` does; None where it sees something else too."""
    if source.identity == target.identity:
        return values
    if (source.storage or source.name) != (target.storage or target.name) or not _meet(source, target):
        return None
    low = min(_bounds(source)[0], _bounds(target)[0])
    flat = np.full(max(_bounds(source)[1], _bounds(target)[1]) - low + 1, np.nan)
    _through(flat, source, low)[...] = values
    seen = np.array(_through(flat, target, low))
    return None if np.isnan(seen).any() else seen


def _copied(at: int, tensor: Tensor, constant: Tensor) -> _Copy | None:
    """Return how a constant of the same name is a copy of a tensor, cast or with its axes moved, by its values."""
    if sorted(tensor.shape) != sorted(constant.shape) or len(tensor.shape) > _MOST_AXES:
        return None
    try:
        own, other = np.asarray(tensor.load()), np.asarray(constant.load())
    except InitauditError:
        return None
    own = own.astype(other.dtype)
    for order in itertools.permutations(range(len(tensor.shape))):
        turned = own.transpose(order)
        if turned.shape == other.shape and np.array_equal(turned, other, equal_nan=True):
            return _Copy(at, order)
    return None
