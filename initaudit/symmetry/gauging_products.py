"""Products with a weight: its rows choose the sign and the scale of what they make; see gauge.py."""

from __future__ import annotations

import math
import string
from dataclasses import dataclass

import numpy as np

from initaudit.symmetry.gauge import BOTH, NOTHING, SIGN, Clash, Gauge, Measure, along, rule
from initaudit.types import Array, Node


@dataclass(frozen=True, slots=True)
class _Product:
    """A product of what comes in and a weight, with letters for the axes of both and of the result."""

    place: int  # of what comes in
    coming: str
    weight: str
    result: str
    groups: int = 1

    @property
    def units(self) -> str:
        """The letters of a weight that the result has."""
        return "".join(a for a in self.weight if a in self.result)

    @property
    def stacked(self) -> bool:
        """Whether several products stand side by side, each with units of its own that come in."""
        return self.groups > 1 or any(a in self.coming for a in self.units)


def _product(g: Gauge, node: Node, place: int) -> _Product:
    """Return how the axes of a product go together.

    Raises:
        Clash: that is not understood.
    """
    attrs = node.attrs
    if len(node.inputs) < 2 or place > 1 or any(attrs.get(name, 1) != 1 for name in ("alpha", "beta")):
        raise Clash
    x, w = len(g.shape(node.inputs[place])), len(g.shape(node.inputs[1 - place]))
    batch = string.ascii_uppercase[: x - 1]
    if node.op == "einsum":
        left, arrow, result = str(attrs.get("equation", "")).replace(" ", "").partition("->")
        terms = left.split(",")
        if not arrow or "." in left or len(terms) != 2 or any(len(set(t)) < len(t) for t in terms):
            raise Clash
        return _Product(place, terms[place], terms[1 - place], result)
    if "conv" in node.op:
        space = string.ascii_uppercase[: w - 2]
        kernel, lead = space.lower(), "n" if x == w else ""
        turned, groups = node.op == "conv_transpose", int(attrs.get("group", 1))
        if turned and groups > 1:
            raise Clash
        return _Product(0, f"{lead}y{space}", ("yz" if turned else "zy") + kernel, f"{lead}z{space}", groups)
    if w != 2 or attrs.get("transA"):
        raise Clash
    if place == 1 and node.op == "matmul" and x > 1:  # weight @ x
        return _Product(1, f"{batch[:-1]}yT", "zy", f"{batch[:-1]}zT")
    if place:
        raise Clash
    turned = node.op == "matmul" or (node.op == "gemm" and not attrs.get("transB"))
    return _Product(0, f"{batch}y", "yz" if turned else "zy", f"{batch}z")


def _onto(size: Array, letters: str, wanted: str) -> Array:
    """Return an array with the axes of other letters.

    Raises:
        Clash: it differs along one that is not wanted.
    """
    if size.ndim != len(letters) or any(n > 1 and a not in wanted for a, n in zip(letters, size.shape, strict=True)):
        raise Clash
    kept = sorted((a for a in letters if a in wanted), key=wanted.index)
    thin = size.transpose([letters.index(a) for a in kept] + [k for k, a in enumerate(letters) if a not in wanted])
    return thin.reshape([size.shape[letters.index(a)] if a in kept else 1 for a in wanted])


def _reads(g: Gauge, node: Node, place: int, _: int) -> int:
    try:
        product = _product(g, node, place)
    except Clash:
        return NOTHING
    if g.parameter(node.inputs[1 - place]) is None:
        return NOTHING
    # A scale changes how fast the weights move that it meets: of units with one weight each, not two of them alike.
    shape = g.shape(node.inputs[1 - place])
    inner = shape[1] if product.groups > 1 else math.prod(
        n for a, n in zip(product.weight, shape, strict=True) if a not in product.result
    )  # fmt: skip
    return SIGN if product.stacked and inner == 1 else BOTH


@rule(_reads, "linear", "gemm", "matmul", "conv", "conv_transpose", "einsum")
def _weigh(g: Gauge, at: int, node: Node) -> Measure | None:
    place = 0 if g.moves(node.inputs[0]) else 1
    name, out = node.inputs[1 - place], node.outputs[0]
    given, own = g.of(node.inputs[place]), g.parameter(name)
    if given is None and (own is None or g.allowed.get(out, BOTH) == NOTHING or at in g.pinned):
        return None
    product = _product(g, node, place)
    if own is None:
        raise Clash
    letters, units = product.weight, product.units
    change = np.ones((1,) * len(letters))
    if given is not None and product.groups > 1:
        each = along(given, len(product.coming), product.coming.index("y"))
        inner = np.repeat(np.asarray(each).reshape(product.groups, -1), own.shape[0] // product.groups, 0)
        change = inner.reshape(*own.shape[:2], *[1] * (len(letters) - 2))
    elif given is not None:
        change = _onto(given.size, product.coming, letters)
    free = None
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2] else ""
    sizes = [own.shape[letters.index(a)] for a in units]
    if not bias or (g.parameter(bias) is not None and g.shape(bias) == tuple(sizes)):
        order = [letters.index(a) for a in units] + [k for k, a in enumerate(letters) if a not in units]
        rows = (g.numbers(name) * change).transpose(order).reshape(math.prod(sizes), -1)
        free = g.chosen(at, out, rows, g.numbers(bias) if bias else None)
    if free is None:
        if given is not None:
            g.changes[name] = change
        return None
    free = free.reshape(sizes)
    g.changes[name] = change / _onto(free, units, letters)
    if bias:
        g.shifts[bias] = 1.0 / free
    return Measure(_onto(free, units, product.result), g.by(at))


@rule(lambda g, node, place, out: NOTHING, "embedding")
def _embedding(g: Gauge, at: int, node: Node) -> Measure | None:
    w, out = node.inputs[0], node.outputs[0]
    own = g.parameter(w)
    if own is None or len(own.shape) != 2 or g.allowed.get(out, BOTH) == NOTHING or at in g.pinned:
        return None
    free = g.chosen(at, out, g.numbers(w).T)
    if free is None:
        return None
    g.changes[w] = 1.0 / free[None]
    rank = len(g.shape(out))
    return Measure(free.reshape([-1 if a == rank - 1 else 1 for a in range(rank)]), g.by(at))
