"""How many keys each query sees, and how many two queries see together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from initaudit.graph.view import View
from initaudit.theory.engine import Case, Walk
from initaudit.theory.small import evaluated
from initaudit.types import Array, Node, Ref

_MOST = 1024  # tokens of which all pairs are looked at
_CELLS = 1 << 20  # of a mask that is computed
_HIDDEN = -50.0  # what is added to logits that shall not count
_LEVELS = 24
_COPIES = frozenset({"gather_nd", "gather", "expand", "bool", "reshape"})


@dataclass(frozen=True, slots=True)
class Seen:
    """Keys that queries see."""

    counts: tuple[tuple[float, float], ...]  # keys of a query, and the share of queries that see so many
    apart: float  # mean over two queries of (keys that both see) / (keys of the one * keys of the other)
    each: Array | None = None  # keys of each query, where they differ


def seen_by(c: Case, added: Sequence[int], queries: int, keys: int, causal: bool) -> Seen:
    """Return what masks leave; masks that are not known hide nothing."""
    table: Array | None = None
    for place in added:
        mask = _mask(c, place, queries, keys)
        if mask is not None:
            table = mask if table is None else table[: len(mask)] & mask[: len(table)]
    if causal and queries <= _MOST and keys <= _MOST:
        lower = np.tri(queries, keys, dtype=bool)[None]
        table = lower if table is None else table & lower
    if table is None or table.all():
        return Seen(((float(keys), 1.0),), 1 / max(1, keys))
    return _told(table)


def _mask(c: Case, place: int, queries: int, keys: int) -> Array | None:
    """Return which keys each query sees, as (windows, queries, keys); None where all are seen or nothing is known."""
    if not c.has(place) or max(queries, keys) > _MOST:
        return None
    values = _Open(c.walk.weights.plain, c.walk).of(c.name(place))
    if values is None or values.ndim < 2 or values.shape[-1] != keys or values.shape[-2] not in (1, queries):
        return None
    open_to = values if values.dtype.kind == "b" else values.astype(np.float64) > _HIDDEN
    whole = np.broadcast_to(open_to, (*open_to.shape[:-2], queries, keys)).reshape(-1, queries, keys)
    return None if whole.all() else whole[:64]


class _Open:
    """Computes masks with inputs that let everything pass, as the probe is fed."""

    def __init__(self, view: View, walk: Walk) -> None:
        self._view = view
        self._known = walk.values
        self._shape_of = walk.shape_of
        self._fed = walk.kernels
        self._found: dict[str, Array | None] = {}

    def of(self, name: str) -> Array | None:
        """Return the values of a mask, None where they are not known."""
        if name not in self._found:
            self._found[name] = None  # against loops
            self._found[name] = self._computed(name)
        return self._found[name]

    def _computed(self, name: str) -> Array | None:
        if name in self._view.fixed:
            return self._known(name)
        at = self._view.producer.get(name)
        if at is None:
            return self._input(name)
        node = self._view.nodes[at]
        made = evaluated(self._view, node, name, self.of, _CELLS, self._shape_of)
        return self._moved(node, name) if made is None and node.op in _COPIES else made

    def _input(self, name: str) -> Array | None:
        shape = self._shape_of(name) if self._fed.get(name, self) is None else None
        if shape is None:
            return None
        extents = [int(n or 1) for n in shape]
        return np.ones(extents, np.int64) if int(np.prod(extents)) <= _CELLS else None

    def _moved(self, node: Node, name: str) -> Array | None:
        """Return what choices and copies make of a mask; where all is one number, that number."""
        data = self.of(node.inputs[0])
        shape = self._view.graph.shapes.get(name)
        if data is not None and data.size and shape is None and node.op == "expand" and len(node.inputs) > 1:
            wanted = self.of(node.inputs[1])
            shape = None if wanted is None else np.broadcast_shapes(data.shape, tuple(int(n) for n in wanted.ravel()))
        if data is None or shape is None or any(n is None for n in shape) or not data.size:
            return None
        extents = [int(n or 0) for n in shape]
        if int(np.prod(extents)) > _CELLS:
            return None
        if node.op == "expand" or (node.op == "bool" and data.ndim == len(extents)):
            try:
                return np.broadcast_to(data, extents)
            except ValueError:
                return None
        if bool(np.all(data == data.flat[0])):
            return np.full(extents, data.flat[0])
        index = node.attrs.get("index")
        if node.op == "gather_nd" and isinstance(index, tuple):
            places = [self.of(i.name) if isinstance(i, Ref) else i for i in index]
            if all(p is not None for p, i in zip(places, index, strict=True) if isinstance(i, Ref)):
                return np.asarray(data[tuple(p.astype(int) if isinstance(p, np.ndarray) else p for p in places)])
        return None


def _told(table: Array) -> Seen:
    counts = table.sum(2).astype(np.float64)
    counts[counts == 0] = table.shape[2]  # a row that sees nothing sees all alike
    weights = table / counts[:, :, None]
    together = np.einsum("wqk,wpk->wqp", weights, weights)
    queries = table.shape[1]
    total = float(together.sum()) - float(np.einsum("wqq->", together))
    apart = total / (len(table) * queries * (queries - 1)) if queries > 1 else 1.0
    flat = np.sort(counts.ravel())
    if len(flat) > _LEVELS:
        groups = np.array_split(flat, _LEVELS)
        told = tuple((float(1 / np.mean(1 / g)), len(g) / len(flat)) for g in groups)
    else:
        told = tuple((float(n), 1 / len(flat)) for n in flat)
    return Seen(told, apart, 1 / np.mean(1 / counts, 0))
