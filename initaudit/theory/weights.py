"""What theory needs to know of constants: moments from the measures of the layers, values of small ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from initaudit.errors import InitauditError
from initaudit.graph.view import View
from initaudit.layers.from_graph_found import computed
from initaudit.types import Array, Measured, Stats, Tensor, Units

_SMALL = 1 << 16  # elements of a constant whose values are looked at
_LARGE = 1 << 21  # of one that is loaded for its moments, where nobody measured it
_SURE = 6.0  # standard errors from which a mean is one
_STEPS = 24


@dataclass(frozen=True, slots=True)
class Weight:
    """Moments of a constant as an operation finds it."""

    sources: tuple[str, ...]  # values of the graph that hold it, where they are constants
    shape: tuple[int, ...]
    mean: float
    variance: float
    count: int  # of what was measured
    out_alike: float = 0.0  # second moment of the mean over output units, of which some may be copies: 1/n to 1
    in_alike: float = 0.0
    value: str = ""  # the value that it is, where it is computed from constants and its gradient goes on to these

    @property
    def square(self) -> float:
        """E[w^2]."""
        return self.variance + self.mean**2

    @property
    def centre(self) -> float:
        """The mean, 0 where it is no more than chance."""
        return self.mean if self.mean**2 * self.count > _SURE**2 * self.variance else 0.0

    @property
    def random(self) -> float:
        """E[w^2] about the centre."""
        return self.square - self.centre**2 if self.centre else self.square


class Weights:
    """Looks constants up, once each.

    Args:
        view: of the graph.
        measured: the layers.
        opened: moments to use instead of a constant's own, by name of the value.
        plain: of the graph before anything was fused, where tables can be computed step by step.
    """

    def __init__(
        self,
        view: View,
        measured: Sequence[Measured],
        opened: Mapping[str, tuple[float, float]] | None = None,
        plain: View | None = None,
    ) -> None:
        self.view = view
        self.plain = plain or view
        self.opened = dict(opened or {})
        self.ask: Callable[[str], tuple[float, float] | None] | None = None  # moments of what is computed
        self.shape_of: Callable[[str], tuple[int | None, ...] | None] | None = None  # where the graph leaves it open
        self._stats: dict[str, Stats] = {}
        for m in measured:
            for tensor, stats in m.tensors:
                for name in (tensor.name, *tensor.parts):
                    self._stats.setdefault(name, stats)
        self._found: dict[str, Weight | None] = {}
        self._values: dict[str, Array] = {}
        self._missed: dict[str, int] = {}
        self.clock = 0  # steps of the walk so far
        self._raw: dict[str, Array | None] = {}

    def with_opened(self, opened: Mapping[str, tuple[float, float]]) -> Weights:
        """Return the same constants but for some."""
        made = Weights(self.view, (), plain=self.plain)
        made._stats, made._values, made._raw = self._stats, self._values, self._raw
        made.opened = dict(opened)
        return made

    def of(self, name: str) -> Weight | None:
        """Return what is known of a value that does not move; None if it is no real number."""
        if name not in self._found:
            self._found[name] = self._look(name)
        return self._found[name]

    def belongs(self, name: str) -> bool:
        """Whether a constant was measured as part of a layer."""
        tensor = self.view.constant(name)
        return tensor is not None and tensor.name in self._stats

    def learns(self, name: str) -> bool:
        """Whether a constant is a parameter, as far as the model says; it is no buffer then."""
        tensor = self.view.graph.constants.get(name)
        return tensor is not None and tensor.is_float and not tensor.buffer

    def stats(self, tensor: Tensor) -> Stats | None:
        """Return the measures of a tensor, where it belongs to a layer."""
        return self._stats.get(tensor.name)

    def _look(self, name: str) -> Weight | None:
        view = self.view
        if name not in view.fixed:
            return None
        tensor = view.oriented(name)
        sources = self._sources(name)
        if tensor is not None and tensor.is_float:
            made = self._moments(tensor, sources)
        else:
            made = self._computed(name, sources)
        for source in (name, *sources):
            if made is not None and source in self.opened:
                mean, variance = self.opened[source]
                made = replace(made, mean=mean, variance=variance, out_alike=0.0, in_alike=0.0)
                break
        return made

    def _sources(self, name: str) -> tuple[str, ...]:
        """Return the constants that a value is moved or computed from, largest only where it is computed."""
        origin = self.view.origin.get(name)
        if origin is not None:
            return (origin,)
        if name in self.view.graph.constants:
            return (name,)
        wanted = [t.name for t in computed(self.view, name)]
        seen: set[str] = set()
        todo, found = [name], {}
        while todo and len(seen) < 200:
            at = todo.pop()
            if at in seen:
                continue
            seen.add(at)
            tensor = self.view.graph.constants.get(at)
            if tensor is not None:
                found[tensor.name] = at
            elif at in self.view.producer:
                todo += [n for n in self.view.nodes[self.view.producer[at]].inputs if n]
        held = [found[w] for w in wanted if w in found]
        joined = self.view.producer.get(name)
        if joined is not None and self.view.nodes[joined].op == "concat":
            return tuple(held)
        return tuple((held or [value for value in found.values() if self.learns(value)])[:1])  # 0.2 * a learned number

    def _moments(self, tensor: Tensor, sources: tuple[str, ...]) -> Weight | None:
        stats = self.stats(tensor)
        if stats is not None and stats.count:
            mean, variance = stats.mean, stats.variance
            if not (math.isfinite(mean) and math.isfinite(variance)):
                return None
            out, into = _alike(stats.rows), _alike(stats.columns)
            return Weight(sources, tensor.shape, mean, variance, stats.count, out, into)
        values = self._load(tensor)
        return _measured(values, sources, tensor.shape)

    def _computed(self, name: str, sources: tuple[str, ...]) -> Weight | None:
        values = self.values(name)
        if values is not None:
            small = _measured(values, sources, values.shape)
            learned = small is not None and any(self.learns(source) for source in sources)
            if small is not None and learned and self.ask is not None and self.ask(name) is not None:
                small = replace(small, value=name)  # its gradient goes on to what it is computed from
            return small
        made = computed(self.view, name)
        if not made:
            return None
        found = self._moments(made[0], sources)
        shape = self.view.graph.shapes.get(name)
        told = self.ask(name) if self.ask is not None else None
        if found is not None and told is not None:
            found = replace(found, mean=told[0], variance=told[1], value=name)
        if found is not None and shape is not None and all(n is not None for n in shape):
            found = replace(found, shape=tuple(int(n or 0) for n in shape))
        return found

    def loaded(self, tensor: Tensor) -> Array | None:
        """Return the values of a tensor that is not large."""
        return self._load(tensor)

    def _load(self, tensor: Tensor) -> Array | None:
        if not 0 < tensor.size <= _LARGE:
            return None
        key = f"{tensor.storage}:{tensor.name}:{tensor.offset}:{tensor.shape}:{tensor.strides}"
        if key not in self._raw:
            try:
                self._raw[key] = np.asarray(tensor.load())
            except (InitauditError, ValueError, TypeError, OSError, MemoryError):
                self._raw[key] = None
        return self._raw[key]

    def values(self, name: str) -> Array | None:
        """Return the values of what does not move and is small."""
        known = self._values.get(name)
        if known is None and self._missed.get(name) != self.clock:
            self._missed[name] = self.clock  # against loops; asked again once more shapes are known
            known = self._valued(name)
            if known is not None:
                self._values[name] = known
        return known

    def numbers(self, name: str) -> Array | None:
        """Return the values of a constant that is not too large to be loaded."""
        tensor = self.view.graph.constants.get(name)
        found = self.values(name) if tensor is None else self._load(tensor)
        return found if found is not None and found.dtype.kind in "fV" else None

    def _valued(self, name: str, depth: int = 0) -> Array | None:
        from initaudit.theory.small import evaluated  # noqa: PLC0415  it asks back for operands

        view = self.plain if name in self.plain.fixed else self.view
        if name not in view.fixed:
            return None
        tensor = view.graph.constants.get(name)
        if tensor is not None:
            return self._load(tensor) if tensor.size <= _SMALL else None
        at = view.producer.get(name)
        if at is None:
            return None
        return evaluated(view, view.nodes[at], name, self.values, _SMALL, self.shape_of)


def _measured(values: Array | None, sources: tuple[str, ...], shape: tuple[int, ...]) -> Weight | None:
    if values is None or not values.size or values.dtype.kind not in "fV":
        return None
    numbers = values.astype(np.float64).ravel()
    numbers = numbers[np.abs(numbers) < 1e4]  # masks hold -inf, or nearly so
    if not numbers.size:
        return None
    return Weight(sources, tuple(shape), float(numbers.mean()), float(numbers.var()), numbers.size)


def _alike(units: Units) -> float:
    """Return the sum over groups of equal units of their squared share: 1/n where all differ, 1 where none does."""
    n = len(units.hash)
    if n < 1:
        return 0.0
    _, counts = np.unique(units.hash, return_counts=True)
    return float(np.sum((counts / n) ** 2))
