"""Values out of nothing: numbers, fillings, positions, random draws; and weights split into direction and length."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from initaudit.theory.engine import Case, Grads, Step, Unread, constant, noise, op
from initaudit.theory.kernel import Back, Kernel

_RANDOM = {  # torch's, with mean and variance
    "randn": (0.0, 1.0), "randn_like": (0.0, 1.0), "rand": (0.5, 1 / 12), "rand_like": (0.5, 1 / 12),
    "normal": (0.0, 1.0), "normal_": (0.0, 1.0), "uniform_": (0.5, 1 / 12), "bernoulli": (0.5, 0.25),
}  # fmt: skip


def filled(shape: tuple[int, ...], mean: float, variance: float) -> Kernel:
    """Return a constant with these moments."""
    kinds = "".join("u" if a == len(shape) - 1 or (len(shape) > 3 and a == 1) else "p" for a in range(len(shape)))
    return constant(shape, kinds if len(shape) < 4 else kinds[:-1] + "p", mean, variance)


def _shape(c: Case) -> tuple[int, ...]:
    told = c.shape()
    if told is not None and all(n is not None for n in told):
        return tuple(int(n or 0) for n in told)
    given = c.values(0) if c.has(0) else None
    if c.node.op == "constant_of_shape" and given is not None:
        return tuple(int(n) for n in given.ravel())
    raise Unread


def drawn(c: Case, mean: float, variance: float) -> Step:
    """Return random numbers, drawn for each input anew."""
    shape = _shape(c)
    if shape and shape[0] == c.walk.batch and shape[0] > 1:
        kinds = "b" + ("u" + "p" * (len(shape) - 2) if len(shape) > 3 else "p" * (len(shape) - 2) + "u")
        return Step((replace(noise(shape, kinds[: len(shape)]).scaled(math.sqrt(variance)), mean=mean),), lambda _: {})
    return Step((filled(shape, mean, variance),), lambda _: {})


@op("source", "constant_of_shape", "range", "eye_like")
def _source(c: Case) -> Step:
    word = "" if c.node.call is None else c.node.call.target.rpartition(".")[2]
    if word in _RANDOM:
        return drawn(c, *_RANDOM[word])
    values = c.walk.values(c.node.outputs[0])
    if values is not None and values.dtype.kind in "fiub":
        numbers = values.astype(np.float64)
        return Step((filled(values.shape, float(numbers.mean()), float(numbers.var())),), lambda _: {})
    value = c.attrs.get("value", 0.0 if c.node.op == "constant_of_shape" else None)
    if not isinstance(value, (bool, int, float)) or not math.isfinite(float(value)):
        raise Unread
    return Step((filled(_shape(c), float(value), 0.0),), lambda _: {})


@op("random_normal", "random_normal_like")
def _random_normal(c: Case) -> Step:
    return drawn(c, c.real("mean", 0.0), c.real("scale", 1.0) ** 2)


@op("random_uniform", "random_uniform_like")
def _random_uniform(c: Case) -> Step:
    low, high = c.real("low", 0.0), c.real("high", 1.0)
    return drawn(c, (low + high) / 2, (high - low) ** 2 / 12)


@op("weight_norm")
def _weight_norm(c: Case) -> Step:
    """Return v g / |v|, the length of each row being its g."""
    v, g = c.kernel(0), c.weight(1)
    rows = max(1, math.prod(g.shape))
    fan = max(1.0, v.size / rows)
    square = float(v.same[0])
    if not square > 0:
        raise Unread
    wanted = g.square / fan
    factor = wanted / square
    out = replace(v, own=v.own * factor, shared=v.shared * factor, mean=v.mean * math.sqrt(factor), bend=None)

    def down(d: Grads) -> dict[int, Back | None]:
        back = d[0]
        if back is None:
            return {}
        elements = v.size / rows  # of a row: one direction is that of g
        total = v.grid.total
        unit = [total(f) * v.units / rows / elements for f in (back.each, back.cross, back.own)]
        c.learn(g, rows * unit[0], rows * unit[1], rows * unit[2])
        return {0: back.scaled(factor * max(0.0, 1 - 1 / elements))}

    return Step((out,), down)
