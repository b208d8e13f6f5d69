"""Products: sums of weights over classes where one side is a weight, bags of pairs where both sides move.

Letters say which axes go together, as in an einsum: those that only the weight and the result have are its output
units, those that only the weight and what comes in have are summed over.
"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence

import numpy as np

from initaudit.symmetry.combining import added, aligned, combined, reduced, reshaped
from initaudit.symmetry.engine import Case, Given, Step, Unread, Weight
from initaudit.symmetry.labels import MOST, Labels, TooMany, bag, chained, free, word
from initaudit.types import Array

_ROWS, _WORK = 64, 1 << 24  # sets of labels of one weight, and those times weights: above both they are told apart


def forgotten(x: Labels, axis: int) -> Labels:
    """Return labels without an axis, what was along it told by the label of each element that is left."""
    return x.freed(axis).dropped_free(axis)


def alone(x: Labels, rank: int = 0) -> Labels:
    """Return one label for all of a value, on axes of one element."""
    while x.rank:
        x = forgotten(x, 0)
    for _ in range(rank):
        x = x.added(0)
    return x


def arranged(x: Labels, letters: str, *order: str) -> Labels:
    """Return labels with the axes in another order, by letters."""
    return x.permuted([letters.index(a) for part in order for a in part])


def _entries(x: Labels, groups: Sequence[int]) -> Array:
    """Return entries with one axis per group of axes, of one entry where nothing differs along the whole group."""
    out, axis, shape = x, 0, []
    for count in groups:
        own = range(axis, axis + count)
        wide = any(not x.is_even(k) and x.shape[k] > 1 for k in own)
        for k in own:
            out = out.dense(k) if wide else out.whole(k)
        shape.append(math.prod(x.shape[k] for k in own) if wide else 1)
        axis += count
    return out.data.reshape(shape)


class _Sides:
    """The factors of a weight's gradient, by which of its sides they differ along."""

    def __init__(self, weight: Weight, letters: str, stack: str, rows: str, terms: str) -> None:
        groups = (len(stack), len(rows), len(terms))
        self.reading = weight.reading
        self.rows: list[Array] = []
        self.terms: list[Array] = []
        self.both: list[Array] = []
        for factor in weight.factors:
            data = _entries(arranged(factor, letters, stack, rows, terms), groups)
            where = (
                self.both
                if data.shape[1] > 1 and data.shape[2] > 1
                else (self.terms if data.shape[2] > 1 else self.rows)
            )
            where.append(data)

    def label(self, numbers: Array, x: Array, tag: Array, *, turned: bool) -> Array:
        """Return labels (sets, stack, rows) of sums over terms labelled `x` (sets, stack, terms)."""
        rows, terms = (self.terms, self.rows) if turned else (self.rows, self.terms)
        if turned:
            numbers = numbers.transpose(0, 2, 1)
        own = chained(tag, x, *(f.reshape(1, f.shape[0], -1) for f in terms))
        parts = [bag(own, 2), self.reading.sums(numbers, x, turned)]
        parts += [f.reshape(1, f.shape[0], -1) for f in rows]
        for both in self.both:
            f = both.transpose(0, 2, 1) if turned else both
            if x.size * f.shape[1] > MOST:
                raise TooMany
            parts.append(bag(chained(x[:, :, None, :], f[None]), 3)[..., 0])
        return np.broadcast_to(chained(tag, *parts), (len(x), *numbers.shape[:2]))


def contracted(x: Labels, xl: str, weight: Weight, wl: str, ol: str, *tag: object) -> tuple[Labels, Back]:
    """Return labels of the product of a signal and a weight, and the way back.

    Raises:
        Unread: the letters say what is no product of this kind.
    """
    if len(set(xl)) < len(xl) or len(set(wl)) < len(wl) or len(set(ol)) < len(ol):
        raise Unread
    stack = "".join(a for a in wl if a in xl and a in ol)
    rows = "".join(a for a in wl if a in ol and a not in xl)
    terms = "".join(a for a in wl if a in xl and a not in ol)
    sets = "".join(a for a in ol if a not in wl)
    if len(stack + rows + terms) < len(wl) or any(a not in xl for a in sets):
        raise Unread
    sizes = dict(zip(xl, x.shape, strict=True)) | dict(zip(wl, weight.shape, strict=True))
    if any(sizes[a] != n for a, n in zip(xl, x.shape, strict=True)):
        raise Unread  # broadcast
    alone = [k for k, a in enumerate(xl) if a not in ol and a not in wl]
    for k in reversed(alone):
        x = x.summed(k, keep=False)
    kept = "".join(a for a in xl if a in ol or a in wl)
    back = Back(weight, wl, stack, rows, terms, sets, sizes, word(*tag, xl, wl, ol))
    up = _few(arranged(x, kept, sets, stack, terms), len(sets), math.prod(weight.shape))
    out = back.label(up, len(terms), turned=False)

    back.x, back.xl, back.kept, back.ol = up, xl, kept, ol
    return arranged(out, sets + stack + rows, ol), back


def _few(x: Labels, sets: int, size: int) -> Labels:
    """Return labels with the first axes free, if they have many entries."""
    n = math.prod(x.data.shape[a] for k in range(sets) for a in x.span(k))
    if n > _ROWS and n * size > _WORK:
        for k in range(sets):
            x = x.freed(k)
    return x


class Back:
    """A product of a signal and a weight: both ways through it."""

    x: Labels
    xl: str
    kept: str
    ol: str

    def __init__(
        self,
        weight: Weight,
        wl: str,
        stack: str,
        rows: str,
        terms: str,
        sets: str,
        sizes: Mapping[str, int],
        tag: Array,
    ) -> None:
        self.weight, self.wl = weight, wl
        self.stack, self.rows, self.terms, self.sets = stack, rows, terms, sets
        self.sizes = sizes
        self.tag = tag

    def label(self, x: Labels, count: int, *, turned: bool) -> Labels:
        """Return labels (sets, stack, other side) for (sets, stack, one side)."""
        sets = len(self.sets)
        for k in range(sets, x.rank):
            x = x.dense(k)
        atoms = sum(x.groups[:sets])
        size = [math.prod(self.sizes[a] for a in part) for part in (self.stack, self.rows, self.terms)]
        data = x.data.reshape(-1, size[0], size[1] if turned else size[2])
        numbers = self.weight.numbers().transpose([self.wl.index(a) for a in self.stack + self.rows + self.terms])
        sides = _Sides(self.weight, self.wl, self.stack, self.rows, self.terms)
        made = sides.label(numbers.reshape(size), data, chained(self.tag, np.asarray(turned, np.uint64)), turned=turned)
        other = self.terms if turned else self.rows
        shape = [self.sizes[a] for a in self.stack + other]
        return Labels(
            made.reshape([*x.data.shape[:atoms], *shape]), (*x.sizes[:atoms], *shape),
            (*x.free[:atoms], *([False] * len(shape))), (*x.groups[:sets], *([1] * len(shape))),
        )  # fmt: skip

    def signal(self, d: Labels) -> Labels:
        """Return labels of the gradient of the signal."""
        down = _few(
            arranged(d, self.ol, self.sets, self.stack, self.rows), len(self.sets), math.prod(self.weight.shape)
        )
        made = self.label(down, len(self.rows), turned=True)
        out = arranged(made, self.sets + self.stack + self.terms, self.kept)
        for k, a in enumerate(self.xl):
            if a not in self.kept:
                out = out.added(k, self.sizes[a])
        return out

    def factors(self, d: Labels) -> list[Labels]:
        """Return labels that together label the gradient of the weight."""
        out = []
        for labels, letters, side in (
            (arranged(d, self.ol, self.sets, self.stack, self.rows), self.stack + self.rows, "rows"),
            (self.x, self.stack + self.terms, "terms"),
        ):
            own, has = labels, letters
            for _ in self.sets:
                own = forgotten(own, 0)
            for a in self.wl:
                if a not in has:
                    own = own.added(own.rank, self.sizes[a])
                    has += a
            out.append(arranged(own, has, self.wl).tagged(side, int(self.tag)))
        return out


def outer(xs: Sequence[Labels], letters: Sequence[str], *tag: object) -> tuple[Labels, str]:
    """Return labels of the outer product of values, and the letters of its axes."""
    order = "".join(dict.fromkeys("".join(letters)))
    both = []
    for given, own in zip(xs, letters, strict=True):
        if len(set(own)) < len(own):
            raise Unread
        x, has = given, own
        for a in order:
            if a not in has:
                x = x.added(x.rank)
                has += a
        both.append(arranged(x, has, order))
    parts = aligned(both)
    if math.prod(max(p.data.shape[k] for p in parts) for k in range(parts[0].data.ndim)) > MOST:
        raise TooMany
    return combined(parts, *tag, *letters), order


def paired(a: Labels, al: str, b: Labels, bl: str, ol: str, *tag: object) -> tuple[Labels, Pairs]:
    """Return labels of the product of two values, each element the bag of pairs that it is the sum over.

    Raises:
        Unread: the letters say what is no product of this kind.
    """
    pairs = Pairs(a, al, b, bl, ol, tag)
    return pairs.product(a, al, b, bl, ol), pairs


class Pairs:
    """A product of two values: both ways through it."""

    def __init__(self, a: Labels, al: str, b: Labels, bl: str, ol: str, tag: tuple[object, ...]) -> None:
        if len(set(al)) < len(al) or len(set(bl)) < len(bl) or len(set(ol)) < len(ol) or set(ol) - set(al + bl):
            raise Unread
        self.a, self.al, self.b, self.bl, self.ol, self.tag = a, al, b, bl, ol, tag

    def product(self, a: Labels, al: str, b: Labels, bl: str, ol: str) -> Labels:
        """Return labels of one product."""
        out, order = outer((a, b), (al, bl), *self.tag, ol)
        inner = "".join(c for c in order if c not in ol)
        out = arranged(out, order, ol, inner)
        for _ in inner:
            out = out.summed(out.rank - 1, keep=False)
        return out

    def first(self, d: Labels) -> Labels:
        """Return labels of the gradient of the first value."""
        return self._back(d, self.b, self.bl, self.a, self.al)

    def second(self, d: Labels) -> Labels:
        """Return labels of the gradient of the second value."""
        return self._back(d, self.a, self.al, self.b, self.bl)

    def _back(self, d: Labels, other: Labels, ol: str, own: Labels, letters: str) -> Labels:
        known = "".join(c for c in letters if c in self.ol + ol)
        out = self.product(d, self.ol, other, ol, known)
        for k, c in enumerate(letters):
            if c not in known:
                out = out.added(k, own.shape[k])
        return reduced(out, own.shape) if out.shape != own.shape else out


def with_bias(c: Case, out: Labels, place: int, axis: int = -1) -> tuple[Labels, Mapping[int, object]]:
    """Return labels with a bias added along an axis, and the function that gives its gradient."""
    if not c.has(place):
        return out, {}
    bias = c.labels(place)
    shape = bias.shape
    if bias.rank == 1:
        for _ in range(out.rank - 1 - axis % out.rank):
            bias = bias.added(bias.rank)
    wide = bias.shape

    def back(d: Labels) -> Labels:
        return reshaped(reduced(d, wide), shape)

    return added((out, bias)), {place: back}


def finished(out: Labels, *backs: Mapping[int, object]) -> Step:
    """Return a step whose gradients are functions of the gradient of its one result."""
    all_ = {place: back for given in backs for place, back in given.items()}

    def down(d: Sequence[Labels]) -> Mapping[int, Given]:
        return {place: back(d[0]) for place, back in all_.items()}  # type: ignore[operator]

    return Step((out,), down)


def looked_up(c: Case, weight: Weight, ids: Labels, axis: int) -> Step:
    """Return a step that takes parts of a weight by values: any index along the axis may come anywhere."""
    for k in range(ids.rank):
        ids = ids.freed(k)
    letters = string.ascii_lowercase[: len(weight.shape)]
    rest = letters[:axis] + letters[axis + 1 :]
    one_hot = free((1, weight.shape[axis]), word("row"))
    made, back = contracted(one_hot, f"Z{letters[axis]}", weight, letters, f"Z{rest}", "embedding")
    made, where = made.dropped(0), ids
    for k in range(ids.rank):
        made = made.added(axis + k)
    for _ in range(axis):
        where = where.added(0)
    for _ in range(len(rest) - axis):
        where = where.added(where.rank)
    out = combined((where, made), "embedded")
    c.used(0, {k: k if k < axis else k - 1 + ids.rank for k in range(len(letters)) if k != axis})

    def factors(d: Labels) -> list[Labels]:
        for _ in range(ids.rank):
            d = forgotten(d, axis)
        return back.factors(d.added(0))

    return finished(out, {0: factors})
