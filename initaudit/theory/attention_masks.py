"""How many keys each query sees, and how many two queries see together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from initaudit.graph.view import View
from initaudit.theory.engine import Case, Walk
from initaudit.theory.feeds import indexes
from initaudit.theory.small import evaluated
from initaudit.types import Array, Node, Ref

_MOST = 1024  # tokens of which all pairs are looked at
_CELLS = 1 << 20  # of a mask that is computed
HIDDEN = -50.0  # what is added to logits that shall not count
_LEVELS = 24
_DEEP = 100  # nodes that one mask is followed back through
_COPIES = frozenset({"gather_nd", "gather", "expand", "bool", "reshape"})


@dataclass(frozen=True, slots=True)
class Seen:
    """Keys that queries see."""

    counts: tuple[tuple[float, float], ...]  # keys of a query, and the share of queries that see so many
    apart: float  # mean over two queries of (keys that both see) / (keys of the one * keys of the other)
    each: Array | None = None  # keys of each query, where they differ


def seen_by(
    c: Case, added: Sequence[int], queries: int, keys: int, causal: bool, masks: Sequence[tuple[int, bool]] = ()
) -> Seen:
    """Return what masks leave; masks that are not known hide nothing."""
    table: Array | None = None
    for place, seen in (*((place, None) for place in added), *masks):
        mask = _mask(c, place, queries, keys, seen)
        if mask is not None:
            table = mask if table is None else table[: len(mask)] & mask[: len(table)]
    if causal and queries <= _MOST and keys <= _MOST:
        lower = np.tri(queries, keys, dtype=bool)[None]
        table = lower if table is None else table & lower
    if table is None or table.all():
        return Seen(((float(keys), 1.0),), 1 / max(1, keys))
    return _told(table)


def _mask(c: Case, place: int, queries: int, keys: int, seen: bool | None) -> Array | None:
    """Return which keys each query sees, as (windows, queries, keys); None where all are seen or nothing is known."""
    if not c.has(place) or max(queries, keys) > _MOST:
        return None
    values = opened(c.walk, c.name(place))
    if values is None or values.ndim < 2 or values.shape[-1] != keys or values.shape[-2] not in (1, queries):
        return None
    if seen is not None:
        open_to = (values != 0) == seen
    else:
        open_to = values if values.dtype.kind == "b" else values.astype(np.float64) > HIDDEN
    whole = np.broadcast_to(open_to, (*open_to.shape[:-2], queries, keys)).reshape(-1, queries, keys)
    return None if whole.all() else whole[:64]


def opened(walk: Walk, name: str) -> Array | None:
    """Return what a value is if all masks let everything pass; None where it is made of anything else."""
    return _Open(walk.weights.plain, walk).of(name)


class _Open:
    """Computes masks with inputs that let everything pass, as the probe is fed."""

    def __init__(self, view: View, walk: Walk) -> None:
        self._view = view
        self._known = walk.values
        self._shape_of = walk.shape_of
        self._fed = walk.kernels
        self._depth = 0
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
        known = self._fed.get(name)
        if known is not None and float(known.own[0]) > 0:  # a signal, no mask
            return None
        at = self._view.producer.get(name)
        if at is None:
            return self._input(name)
        if self._depth > _DEEP:
            return None
        self._depth += 1
        try:
            return self._made(self._view.nodes[at], name)
        finally:
            self._depth -= 1

    def _made(self, node: Node, name: str) -> Array | None:
        made = evaluated(self._view, node, name, self.of, _CELLS, self._shape_of)
        return self._moved(node, name) if made is None and node.op in _COPIES else made

    def _input(self, name: str) -> Array | None:
        shape = self._shape_of(name) if self._fed.get(name, self) is None and not indexes(self._view, name) else None
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
    queries = table.shape[1]
    # the sum over all pairs of queries of what they see together, less that of each with itself
    total = float((weights.sum(1) ** 2).sum()) - float((weights**2).sum())
    apart = total / (len(table) * queries * (queries - 1)) if queries > 1 else 1.0
    flat = np.sort(counts.ravel())
    if len(flat) > _LEVELS:
        groups = np.array_split(flat, _LEVELS)
        told = tuple((float(1 / np.mean(1 / g)), len(g) / len(flat)) for g in groups)
    else:
        told = tuple((float(n), 1 / len(flat)) for n in flat)
    return Seen(told, apart, 1 / np.mean(1 / counts, 0))
