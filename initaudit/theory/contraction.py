"""Products of two signals, summed over what they share: matmul, einsum, bilinear; and of a signal with stacked weights.

Values of the two are taken to be independent. Every axis of positions is told apart only as same or other, in a table
with one axis of two for each: products of kernels are products of tables, sums over positions are weighted sums over
its axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from initaudit.theory.align import relabelled, reread
from initaudit.theory.dense import product
from initaudit.theory.engine import Case, Down, Grads, Step, Unread, op
from initaudit.theory.grid import Grid
from initaudit.theory.kernel import BATCH, PLACE, UNIT, Atom, Axis, Back, Batched, Kernel, extent
from initaudit.theory.moves_axes import kinds, rebuilt
from initaudit.types import Array

Labels = Sequence[str]
Way = Callable[[Back], Back]


# ---- tables


def tabled(grid: Grid, f: Array) -> Array:
    """Return a function of the offset as a table: along each axis of the grid the same place, or another one."""
    shape = (2,) * len(grid.extents)
    sums, counts = np.zeros(shape), np.zeros(shape)
    near = grid.counts
    for k, offset in enumerate(np.ndindex(*grid.shape)):
        place = tuple(int(o > 0) for o in offset)
        sums[place] += near[k] * f[k]
        counts[place] += near[k]
    whole = pairs(grid.extents)
    sums += np.maximum(0.0, whole - counts) * f[-1]
    out: Array = np.divide(sums, whole, out=np.full(shape, float(f[-1])), where=whole > 0)
    return out


def pairs(extents: Sequence[int]) -> Array:
    """Return how many ordered pairs of positions each entry of a table stands for."""
    out = np.ones(())
    for n in extents:
        out = np.multiply.outer(out, np.array([n, n * (n - 1.0)]))
    return out


def untabled(grid: Grid, table: Array) -> Array:
    """Return a table as a function of the offset, with the same mean over all pairs."""
    out = np.zeros(grid.size)
    for k, offset in enumerate(np.ndindex(*grid.shape)):
        out[k] = table[tuple(int(o > 0) for o in offset)]
    counts = grid.counts
    out[-1] = table[(1,) * len(grid.extents)]
    if counts[-1] > 0:
        whole = float((pairs(grid.extents) * table).sum())
        rest = whole - float(counts[:-1] @ out[:-1])
        size = float(counts[:-1] @ np.abs(out[:-1]))
        out[-1] = rest / counts[-1] if abs(rest) > 1e-12 * size else 0.0
    return out


# ---- two signals


@dataclass(frozen=True, slots=True)
class _Side:
    """An operand: its kernel, the labels of its axes, and for each axis of its grid a name that both sides share."""

    x: Kernel
    labels: tuple[str, ...]
    names: tuple[str, ...]

    def table(self, f: Array, names: Sequence[str]) -> Array:
        """Return a function of the own grid as a table over all names, ready to be multiplied."""
        own = tabled(self.x.grid, f)
        order = [self.names.index(n) for n in names if n in self.names]
        turned = own.transpose(order) if own.ndim > 1 else own
        return turned.reshape([2 if n in self.names else 1 for n in names])


def _side(x: Kernel, labels: Labels) -> _Side:
    names = [""] * len(x.grid.extents)
    for label, axis in zip(labels, x.axes, strict=True):
        for k, atom in enumerate(a for a in axis if a.kind == PLACE):
            names[atom.at] = f"{label}{k}"
    if "" in names:
        raise Unread
    return _Side(x, tuple(labels), tuple(names))


def contracted(a: Kernel, b: Kernel, first: Labels, second: Labels, out: Labels) -> tuple[Kernel, tuple[Way, Way]]:
    """Return sum a * b over the labels that `out` lacks, and the ways back to both. Raises Unread."""
    a, b = _agreed(a, b, first, second)
    one, other = _side(a, first), _side(b, second)
    sizes: dict[str, int] = {}
    for side in (one, other):
        sizes.update(zip(side.names, side.x.grid.extents, strict=True))
    names = list(sizes)
    axes, grid, kept = _axes(one, other, out)
    gone = [k for k, n in enumerate(names) if n not in kept]
    weights = [np.array([sizes[n], sizes[n] * (sizes[n] - 1.0)]) for n in names]
    shared = [label for label in first if label in second and label not in out]
    fan = float(math.prod(_units(a, first, label) for label in shared))
    lone = fan * math.prod(sizes[names[k]] for k in gone)

    def summed(table: Array) -> Array:
        full = np.broadcast_to(table, [2] * len(names))
        for k in sorted(gone, reverse=True):
            full = np.tensordot(full, weights[k], axes=(k, 0))
        left = [n for n in names if n in kept]
        return full.transpose([left.index(n) for n in kept]) if full.ndim > 1 else full

    ta, tb = ([side.table(f, names) for f in (side.x.own, side.x.cross)] for side in (one, other))
    own = fan * summed(ta[0] * (tb[0] + tb[1]) + ta[1] * tb[0])
    cross = fan * summed(ta[1] * tb[1])
    mean = lone * a.mean * b.mean
    square = a.mean**2 * b.mean**2 * fan * summed(np.ones([1] * len(names)))
    made = Kernel(
        tuple(axes), grid, untabled(grid, own), untabled(grid, cross - square), mean, _alike(axes, one, other)
    )
    return made, (
        _way(one, other, names, weights, kept, grid, out), _way(other, one, names, weights, kept, grid, out)
    )  # fmt: skip


def _alike(axes: Sequence[Axis], one: _Side, other: _Side) -> float:
    units = math.prod(atom.extent for axis in axes for atom in axis if atom.kind == UNIT)
    return max(1 / max(1, units), min(one.x.alike, other.x.alike) if units > 1 else 1.0)


def _way(
    mine: _Side, other: _Side, names: list[str], weights: list[Array], kept: Sequence[str], grid: Grid, out: Labels
) -> Way:
    """Return the way back to one side."""
    gone = [k for k, n in enumerate(names) if n not in mine.names]
    fan = float(math.prod(_units(other.x, other.labels, label) for label in other.labels
                          if label in out and label not in mine.labels))  # fmt: skip
    repeated = float(math.prod(_units(other.x, other.labels, label) // max(1, _units(mine.x, mine.labels, label))
                               for label in other.labels if label in out and label in mine.labels))  # fmt: skip
    times = fan * max(1.0, repeated)

    def back(d: Back) -> Back:
        def spread(f: Array) -> Array:
            own = tabled(grid, f)
            order = [list(kept).index(n) for n in names if n in kept]
            turned = own.transpose(order) if own.ndim > 1 else own
            return turned.reshape([2 if n in kept else 1 for n in names])

        def summed(table: Array) -> Array:
            full = np.broadcast_to(table, [2] * len(names))
            for k in sorted(gone, reverse=True):
                full = np.tensordot(full, weights[k], axes=(k, 0))
            left = [n for n in names if n in mine.names]
            turned = full.transpose([left.index(n) for n in mine.names]) if full.ndim > 1 else full
            return untabled(mine.x.grid, times * turned)

        to, tc = (other.table(f, names) for f in (other.x.own, other.x.cross))
        each, own, cross = (spread(f) for f in (d.each, d.own, d.cross))
        batched = None
        if d.batched is not None:
            b = [spread(f) for f in (d.batched.own, d.batched.cross, d.batched.more)]
            batched = Batched(summed(b[0] * (to + tc) + b[1] * to), summed(b[1] * tc), summed(b[2] * tc))
        return Back(
            mine.x.grid, summed(each * (to + tc)), summed(own * (to + tc) + cross * to), summed(cross * tc),
            1 / max(1, mine.x.units), (), batched,
        )  # fmt: skip

    return back


def _units(x: Kernel, labels: Labels, label: str) -> int:
    axis = x.axes[list(labels).index(label)]
    return math.prod(atom.extent for atom in axis if atom.kind == UNIT)


def _agreed(a: Kernel, b: Kernel, first: Labels, second: Labels) -> tuple[Kernel, Kernel]:
    """Return both with axes of one label read in one way: as positions where one of them does."""
    for label in first:
        if label not in second:
            continue
        i, j = list(first).index(label), list(second).index(label)
        if extent(a.axes[i]) < 2 or extent(b.axes[j]) < 2:
            continue
        if extent(a.axes[i]) != extent(b.axes[j]):
            raise Unread
        mine, its = kinds(a.axes[i]), kinds(b.axes[j])
        if mine == its:
            continue
        if mine | its != {UNIT, PLACE} or len(mine) > 1 or len(its) > 1:
            raise Unread
        if mine == {UNIT}:
            a = relabelled(a, i, b.axes[j])
        else:
            b = relabelled(b, j, a.axes[i])
    return a, b


def _axes(one: _Side, other: _Side, out: Labels) -> tuple[list[Axis], Grid, list[str]]:
    axes: list[Axis] = []
    extents: list[int] = []
    reach: list[int] = []
    kept: list[str] = []
    for label in out:
        options = [(s, s.x.axes[s.labels.index(label)]) for s in (one, other) if label in s.labels]
        if not options:
            raise Unread
        side, axis = max(options, key=lambda o: extent(o[1]))
        made: list[Atom] = []
        count = 0
        for atom in axis:
            if atom.kind == PLACE:
                made.append(replace(atom, at=len(extents)))
                extents.append(atom.extent)
                reach.append(side.x.grid.reach[atom.at])
                kept.append(f"{label}{count}")
                count += 1
            else:
                made.append(atom)
        axes.append(tuple(made))
    return axes, Grid(tuple(extents), tuple(reach)), kept


# ---- operations


@op("matmul")
def _matmul(c: Case) -> Step:
    if c.is_weight(1) and not (c.has(0) and c.is_weight(0)):
        weight = c.weight(1)
        out, down = product(c, c.kernel(0), weight, -1, weight.shape[-1])
        return Step((out,), down)
    if c.is_weight(0):
        weight = c.weight(0)
        out, down = product(c, c.kernel(1), weight, -2, weight.shape[-2])
        return Step((out,), lambda d: {1: down(d).get(0)})
    a, b = c.kernel(0), c.kernel(1)
    rank = max(len(a.axes), len(b.axes))
    if min(len(a.axes), len(b.axes)) < 2:
        raise Unread
    batch = [f"n{k}" for k in range(rank - 2)]
    first = (*batch[rank - len(a.axes) :], "i", "c")
    second = (*batch[rank - len(b.axes) :], "c", "j")
    return _both(a, b, first, second, (*batch, "i", "j"))


def _both(a: Kernel, b: Kernel, first: Labels, second: Labels, out: Labels) -> Step:
    plain = a
    a = _batched(a, b, first, second)
    b, rebuild = _grouped(a, b, first, second)
    made, (to_a, to_b) = contracted(a, b, first, second, out)

    def down(d: Grads) -> Mapping[int, Back | None]:
        if d[0] is None:
            return {}
        return {0: reread(to_a(d[0]), plain.grid), 1: rebuild(to_b(d[0]))}

    return Step((made,), down)


def _grouped(a: Kernel, b: Kernel, first: Labels, second: Labels) -> tuple[Kernel, Way]:
    """Return the second operand with positions of shared axes grouped as in the first, and the way back."""
    way: Way = _unchanged
    for i, label in enumerate(first):
        if label not in second:
            continue
        j = list(second).index(label)
        sizes = [[t.extent for t in x.axes[k] if t.kind == PLACE] for x, k in ((a, i), (b, j))]
        if sizes[0] != sizes[1] and math.prod(sizes[0]) == math.prod(sizes[1]) > 1:
            b, back = rebuilt(b, j, a.axes[i])
            way = _then(way, back)
    return b, way


def _batched(a: Kernel, b: Kernel, first: Labels, second: Labels) -> Kernel:
    """Return the first operand with an axis of tokens read as inputs and tokens, where that of the second is so."""
    for i, label in enumerate(first):
        axis = b.axes[list(second).index(label)] if label in second else ()
        mine = a.axes[i]
        if len(mine) != 1 or mine[0].kind != PLACE or a.grid.reach[mine[0].at] or len(a.grid.extents) > 1:
            continue
        if extent(axis) != extent(mine) or not any(t.kind == BATCH and t.extent > 1 for t in axis):
            continue
        places = [t.extent for t in axis if t.kind == PLACE]
        grid = Grid(tuple(places), (0,) * len(places))
        numbers = iter(range(len(places)))
        axes = list(a.axes)
        axes[i] = tuple(replace(t, at=next(numbers)) if t.kind == PLACE else t for t in axis)
        own, shared = (np.array([f[0], f[-1]]) for f in (a.own, a.shared))
        return replace(a, axes=tuple(axes), grid=grid, own=own, shared=shared, profile=(), bend=None)
    return a


def _unchanged(d: Back) -> Back:
    return d


def _then(first: Way, then: Way) -> Way:
    return lambda d: first(then(d))


@op("einsum")
def _einsum(c: Case) -> Step:
    equation = c.text("equation").replace(" ", "")
    sides, arrow, out = equation.partition("->")
    terms = sides.split(",")
    if not arrow or "." in equation:
        raise Unread
    if len(terms) == 1 and sorted(terms[0]) == sorted(out):
        x = c.kernel(0)
        return Step((replace(x, axes=tuple(x.axes[terms[0].index(label)] for label in out), bend=None),),
                    lambda d: {0: d[0]})  # fmt: skip
    weights = [k for k in range(len(terms)) if c.is_weight(k)]
    if len(terms) == 2 and not weights:
        return _both(c.kernel(0), c.kernel(1), terms[0], terms[1], out)
    if len(weights) != 1 or len(terms) > 3:
        raise Unread
    places = [k for k in range(len(terms)) if k not in weights]
    mine, its = terms[places[0]], terms[weights[0]]
    if len(places) == 1:
        made, down = _weighted(c, c.kernel(places[0]), mine, its, out, weights[0])
        return Step((made,), lambda d: {places[0]: down(d).get(0)})
    if not set(terms[places[1]]) <= set(mine):
        places.reverse()
        mine = terms[places[0]]
    x, (to_a, to_b) = contracted(c.kernel(places[0]), c.kernel(places[1]), mine, terms[places[1]], mine)
    made, inner = _weighted(c, x, mine, its, out, weights[0])

    def both(d: Grads) -> Mapping[int, Back | None]:
        back = inner(d).get(0)
        return {} if back is None else {places[0]: to_a(back), places[1]: to_b(back)}

    return Step((made,), both)


def _weighted(c: Case, x: Kernel, mine: str, its: str, out: str, place: int) -> tuple[Kernel, Down]:
    """Return a signal times a weight by the labels of their axes, and the way back to operand 0."""
    weight = c.weight(place)
    gone = [label for label in mine if label not in out]
    new = [label for label in its if label not in mine]
    if any(label not in its for label in gone) or any(label not in out for label in new) or not gone:
        raise Unread
    first = mine.index(gone[0])
    if [mine.index(label) for label in gone] != list(range(first, first + len(gone))):
        raise Unread
    joined = replace(x, axes=(*x.axes[:first], sum((x.axes[first + k] for k in range(len(gone))), ()),
                              *x.axes[first + len(gone) :]))  # fmt: skip
    outs = math.prod(weight.shape[its.index(label)] for label in new)
    made, down = product(c, joined, weight, first, outs)
    whole = [label for label in mine if label not in gone]
    whole[first:first] = ["*"]
    axes = dict(zip(whole, made.axes, strict=True))
    sizes = {label: weight.shape[its.index(label)] for label in new}
    for label, n in sizes.items():
        axes[label] = (Atom(UNIT, n),) if n > 1 else ()
    if any(atom.kind == PLACE for atom in axes["*"]):
        raise Unread
    result = replace(made, axes=tuple(axes[label] for label in out))
    return result, down


@op("bilinear")
def _bilinear(c: Case) -> Step:
    a, weight, b = c.kernel(0), c.weight(1), c.kernel(2)
    if len(weight.shape) != 3:
        raise Unread
    outs, n, m = weight.shape
    if len(a.grid.extents) or len(b.grid.extents) or kinds(a.axes[-1]) - {UNIT}:
        raise Unread
    scale = n * m * weight.random
    own = scale * (a.own * (b.own + b.cross) + a.cross * b.own)
    shared = scale * a.cross * b.cross
    out = Kernel((*a.axes[:-1], (Atom(UNIT, outs),)), a.grid, own, shared, 0.0, 1 / outs)

    def down(d: Grads) -> Mapping[int, Back | None]:
        g = d[0]
        if g is None:
            return {}
        gap = a.own * b.same + a.cross * b.own
        c.learn(weight, *g.met(g.grid.peak(float(outs * n * m)), a.same * b.same, a.cross * b.cross, gap))
        times = outs * weight.random
        return {
            0: g.times(times * m * b.same, times * m * b.cross, times * m * b.own),
            2: g.times(times * n * a.same, times * n * a.cross, times * n * a.own),
        }

    return Step((out,), down)
