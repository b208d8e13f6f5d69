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
from initaudit.symmetry.engine import Case, Given, Step, Unread, Value, Weight, op
from initaudit.symmetry.labels import MOST, Labels, TooMany, bag, chained, free, word
from initaudit.types import Array

_ROWS = 64  # sets of labels of one weight; more are told apart without looking


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


def _arranged(x: Labels, letters: str, *order: str) -> Labels:
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
            data = _entries(_arranged(factor, letters, stack, rows, terms), groups)
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
    up = _few(_arranged(x, kept, sets, stack, terms), len(sets))
    out = back.label(up, len(terms), turned=False)

    back.x, back.xl, back.kept, back.ol = up, xl, kept, ol
    return _arranged(out, sets + stack + rows, ol), back


def _few(x: Labels, sets: int) -> Labels:
    """Return labels with the first axes free, if they have many entries."""
    n = math.prod(x.data.shape[a] for k in range(sets) for a in x.span(k))
    if n > _ROWS:
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
        down = _few(_arranged(d, self.ol, self.sets, self.stack, self.rows), len(self.sets))
        made = self.label(down, len(self.rows), turned=True)
        out = _arranged(made, self.sets + self.stack + self.terms, self.kept)
        for k, a in enumerate(self.xl):
            if a not in self.kept:
                out = out.added(k, self.sizes[a])
        return out

    def factors(self, d: Labels) -> list[Labels]:
        """Return labels that together label the gradient of the weight."""
        out = []
        for labels, letters, side in (
            (_arranged(d, self.ol, self.sets, self.stack, self.rows), self.stack + self.rows, "rows"),
            (self.x, self.stack + self.terms, "terms"),
        ):
            own, has = labels, letters
            for _ in self.sets:
                own = forgotten(own, 0)
            for a in self.wl:
                if a not in has:
                    own = own.added(own.rank, self.sizes[a])
                    has += a
            out.append(_arranged(own, has, self.wl).tagged(side, int(self.tag)))
        return out


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
        out = _arranged(out, order, ol, inner)
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


# ---- operations


def _multiply(
    c: Case,
    values: Sequence[Value],
    letters: Sequence[str],
    ol: str,
    *tag: object,
    places: Sequence[int | None] | None = None,
    whole: str = "",
) -> tuple[Labels, Mapping[int, object]]:
    """Return labels of a product of operands and, by operand, the function that gives its gradient.

    Args:
        c: the node.
        values: the operands.
        letters: their axes.
        ol: those of the result.
        tag: what tells this product from others.
        places: where the operands stand among those of the node; None for what is none of them.
        whole: the axes of what the node makes, where that is made in several steps.
    """
    whole = whole or ol
    places = range(len(values)) if places is None else places
    for k in reversed(range(len(values))):
        weight = values[k]
        if isinstance(weight, Weight) and len(values) > 1:
            others = [j for j in range(len(values)) if j != k]
            signals = [values[j] for j in others]
            xs = [v.labels() if isinstance(v, Weight) else v for v in signals]
            try:
                found = _weighed(weight, letters[k], xs, [letters[j] for j in others], ol, *tag)
            except Unread:
                continue
            out, back, downs = found
            place = places[k]
            units = back.stack + back.rows
            if place is not None and all(a in whole for a in units):
                c.used(place, {letters[k].index(a): whole.index(a) for a in units})
            return out, {k: back.factors, **dict(zip(others, downs, strict=True))}
    if len(values) != 2:
        raise Unread
    a, b = (v.labels() if isinstance(v, Weight) else v for v in values)
    out, pairs = paired(a, letters[0], b, letters[1], ol, *tag)
    return out, {0: pairs.first, 1: pairs.second}


def _weighed(
    weight: Weight, wl: str, xs: Sequence[Labels], letters: Sequence[str], ol: str, *tag: object
) -> tuple[Labels, Back, list[Callable[[Labels], Labels]]]:
    """Return labels of a product of a weight and signals, the way back to the weight, and those to the signals."""
    if len(xs) == 1:
        out, back = contracted(xs[0], letters[0], weight, wl, ol, *tag)
        return out, back, [back.signal]
    whole, wide = outer(xs, letters, *tag)
    out, back = contracted(whole, wide, weight, wl, ol, *tag)

    def down(k: int) -> Callable[[Labels], Labels]:
        def signal(d: Labels) -> Labels:
            others = [j for j in range(len(xs)) if j != k]
            given, own = outer([d, *(xs[j] for j in others)], [ol, *(letters[j] for j in others)], *tag, "back", k)
            known = "".join(a for a in letters[k] if a in own + wl)
            made, _ = contracted(given, own, weight, wl, known, *tag, "back", k)
            for j, a in enumerate(letters[k]):
                if a not in known:
                    made = made.added(j, xs[k].shape[j])
            return made

        return signal

    return out, back, [down(k) for k in range(len(xs))]


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
        both.append(_arranged(x, has, order))
    parts = aligned(both)
    if math.prod(max(p.data.shape[k] for p in parts) for k in range(parts[0].data.ndim)) > MOST:
        raise TooMany
    return combined(parts, *tag, *letters), order


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


@op("linear")
def _linear(c: Case) -> Step:
    x, w = c.labels(0), c.value(1)
    batch = string.ascii_uppercase[: x.rank - 1]
    if len(w.shape) != 2:
        raise Unread
    out, backs = _multiply(c, (x, w), (f"{batch}i", "oi"), f"{batch}o", "product")
    if not isinstance(w, Weight) and not c.moves(1):  # computed from parameters
        c.used(1, {0: x.rank - 1})
    out, bias = with_bias(c, out, 2)
    return finished(out, backs, bias)


@op("matmul")
def _matmul(c: Case) -> Step:
    return finished(*_matrices(c, c.value(0), c.value(1)))


def _matrices(c: Case, a: Value, b: Value) -> tuple[Labels, Mapping[int, object]]:
    ra, rb = len(a.shape), len(b.shape)
    if not ra or not rb:
        raise Unread
    deep = max(ra, rb, 2) - 2
    al, bl, ol = [], [], []
    for k in range(deep):
        n = [s[k - deep + len(s) - 2] if k - deep + len(s) - 2 >= 0 else 0 for s in (a.shape, b.shape)]
        letter = string.ascii_uppercase[k]
        if n[0] == 1 and n[1] > 1:
            al.append(string.ascii_lowercase[20 - k])
            bl.append(letter)
        elif n[1] == 1 and n[0] > 1:
            al.append(letter)
            bl.append(string.ascii_lowercase[20 - k])
        else:
            al += [letter] if n[0] else []
            bl += [letter] if n[1] else []
        ol.append(letter)
    first = "".join(al) + ("mi" if ra > 1 else "i")
    second = "".join(bl) + ("io" if rb > 1 else "i")
    out = "".join(ol) + ("m" if ra > 1 else "") + ("o" if rb > 1 else "")
    return _multiply(c, (a, b), (first, second), out, "product")


@op("einsum")
def _einsum(c: Case) -> Step:
    equation = str(c.attrs.get("equation", "")).replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(c.node.inputs):
        raise Unread
    values = [c.value(k) for k in range(len(terms))]
    if "..." in equation:
        if "..." not in right:
            raise Unread
        spare = [a for a in string.ascii_letters if a not in equation]
        deep = [len(v.shape) - len(t.replace("...", "")) for v, t in zip(values, terms, strict=True)]
        dots = "".join(spare[: max(deep)])
        terms = [t.replace("...", dots[len(dots) - n :] if n else "") for t, n in zip(terms, deep, strict=True)]
        right = right.replace("...", dots)
    elif not arrow:
        letters = "".join(terms)
        right = "".join(sorted(a for a in set(letters) if letters.count(a) == 1))
    if len(terms) == 1:
        return finished(*_alone(values[0], terms[0], right))
    if len(terms) > 2 and sum(isinstance(v, Weight) for v in values) != 1:
        return finished(*_in_turn(c, values, terms, right))
    out, backs = _multiply(c, values, terms, right, "product")
    return finished(out, backs)


def _alone(value: Value, letters: str, right: str) -> tuple[Labels, Mapping[int, object]]:
    """Return labels of one operand's sums over axes."""
    x = value.labels() if isinstance(value, Weight) else value
    if len(set(letters)) < len(letters) or set(right) - set(letters):
        raise Unread
    inner = "".join(a for a in letters if a not in right)
    out = _arranged(x, letters, right, inner)
    for _ in inner:
        out = out.summed(out.rank - 1, keep=False)

    def back(d: Labels) -> Labels:
        has = right
        for a in inner:
            d = d.added(d.rank, x.shape[letters.index(a)])
            has += a
        return _arranged(d, has, letters)

    return out.tagged("sums", letters, right), {0: back}


def _in_turn(c: Case, values: Sequence[Value], terms: Sequence[str], right: str) -> tuple[Labels, Mapping[int, object]]:
    """Return labels of a product of several operands, two at a time."""
    made, has = values[0], terms[0]
    steps: list[Mapping[int, object]] = []
    for k in range(1, len(values)):
        later = "".join((*terms[k + 1 :], right))
        kept = "".join(a for a in dict.fromkeys(has + terms[k]) if a in later) if k < len(values) - 1 else right
        pair: tuple[Value, Value] = (made, values[k])
        out, backs = _multiply(
            c, pair, (has, terms[k]), kept, "product", k, places=(0 if k == 1 else None, k), whole=right
        )
        steps.append(backs)
        made, has = out, kept

    def down(place: int) -> Callable[[Labels], object]:
        def back(d: Labels) -> object:
            for k in range(len(steps) - 1, max(place, 1) - 1, -1):
                d = steps[k][0](d)  # type: ignore[operator]
            return steps[max(place, 1) - 1][0 if place == 0 else 1](d)  # type: ignore[operator]

        return back

    if not isinstance(made, Labels):
        raise Unread
    return made, {k: down(k) for k in range(len(values))}


@op("gemm")
def _gemm(c: Case) -> Step:
    if any(c.attrs.get(name, 1) != 1 for name in ("alpha", "beta")):
        raise Unread
    al = "im" if c.attrs.get("transA") else "mi"
    bl = "oi" if c.attrs.get("transB") else "io"
    out, backs = _multiply(c, (c.value(0), c.value(1)), (al, bl), "mo", "product")
    out, bias = with_bias(c, out, 2)
    return finished(out, backs, bias)


@op("bilinear")
def _bilinear(c: Case) -> Step:
    x, weight, y = c.labels(0), c.value(1), c.labels(2)
    batch = string.ascii_uppercase[: x.rank - 1]
    out, backs = _multiply(c, (x, weight, y), (f"{batch}i", "oij", f"{batch}j"), f"{batch}o", "product")
    out, bias = with_bias(c, out, 3)
    return finished(out, backs, bias)


@op("embedding", "embedding_bag")
def _embedding(c: Case) -> Step:
    weight = c.weight(0)
    if weight is None or len(weight.shape) != 2:
        raise Unread
    if c.node.op == "embedding":
        return looked_up(c, weight, c.labels(1), 0)
    shape = c.shape()
    if shape is None or len(shape) != 2 or shape[1] != weight.shape[1]:
        raise Unread
    others = [alone(c.labels(k)) for k in range(1, len(c.node.inputs)) if c.has(k)]
    bags = combined(others, "bag", str(c.attrs.get("mode"))).added(0, shape[0], free=True)
    step = looked_up(c, weight, bags, 0)

    def back(d: Sequence[Labels]) -> Mapping[int, Given]:
        found = dict(step.back(d))
        if c.has(3):  # how much each counts
            found[3] = free(c.labels(3).shape, word("weights", c.at))
        return found

    return Step(step.outs, back)


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
