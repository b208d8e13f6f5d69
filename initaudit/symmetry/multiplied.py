"""Products of several operands: with one that is a weight, and all others that it meets as one signal."""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence

from initaudit.symmetry.combining import combined
from initaudit.symmetry.engine import Case, Given, Step, Unread, Value, Weight, op
from initaudit.symmetry.labels import Labels, free, word
from initaudit.symmetry.products import (
    Back,
    alone,
    arranged,
    contracted,
    finished,
    looked_up,
    outer,
    paired,
    with_bias,
)


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
    out = arranged(x, letters, right, inner)
    for _ in inner:
        out = out.summed(out.rank - 1, keep=False)

    def back(d: Labels) -> Labels:
        has = right
        for a in inner:
            d = d.added(d.rank, x.shape[letters.index(a)])
            has += a
        return arranged(d, has, letters)

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
