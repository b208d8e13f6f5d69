"""Activations on the way up and down."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from initaudit import ops
from initaudit.graph.evaluate import POINTWISE
from initaudit.theory.bending import Bender, Bent, bender, bent
from initaudit.theory.engine import Case, Step, Unread, constant, op
from initaudit.theory.kernel import BATCH, PLACE, Back, Kernel
from initaudit.types import Array

_NAMED = {
    "fast_gelu": "gelu", "bias_gelu": "gelu", "quick_gelu": "quick_gelu", "scaled_tanh": "tanh",
    "parametric_softplus": "softplus", "shrink": "hardshrink",
}  # fmt: skip
_PARAMS = {"alpha": ("alpha", "negative_slope", "beta", "threshold"), "beta": ("beta",)}
_DEFAULTS = {"hardsigmoid": {"alpha": 0.2, "beta": 0.5}}  # ONNX's; torch's come with the node
_NO_SLOPE = 1e-6
_LITTLE = 0.05


def function_of(c: Case) -> Bender:
    """Return the function of one number that a node is.

    Raises:
        Unread: it is none that is known.
    """
    name = _NAMED.get(c.node.op, c.node.op)
    given = {**_DEFAULTS.get(name, {})}
    for key, value in c.attrs.items():
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(float(value)):
            given[key] = float(value)
    if name in ("leaky_relu", "rrelu", "prelu") and "alpha" in given:
        given["negative_slope"] = given.pop("alpha")
    if name == "threshold" and "alpha" in given:
        given["threshold"] = given.pop("alpha")
    if name in ("silu", "swish") and "alpha" in given:
        given["beta"] = given.pop("alpha")
    if name == "prelu":
        given = {"negative_slope": c.weight(1).mean}
    if name == "clip":
        name, given = "hardtanh", _bounds(c)
    given.pop("constant", None)
    found = bender(name, tuple(sorted(given.items())))
    if found is None:
        raise Unread
    return found


def _bounds(c: Case) -> dict[str, float]:
    low, high = (
        c.number(place) if c.has(place) else c.real(name, limit)
        for place, name, limit in ((1, "min", -1e30), (2, "max", 1e30))
    )
    if low is None or high is None:
        raise Unread
    return {"min_val": max(low, -1e30), "max_val": min(high, 1e30)}


def applied(x: Kernel, function: Bender) -> tuple[Kernel, Bent]:
    """Return f(x) and its moments."""
    q = x.spread
    made = bent(function, x.mean, q)
    rho, base, gap = correlations(x, q)
    own, _ = made.gaps(rho, base, gap)
    shared, _ = made.at(base)
    alike = x.alike if own[0] > 0 else 0.0
    out = Kernel(x.axes, x.grid, own, shared, made.mean, alike, x.profile, (function, x))
    return out, made


def correlations(x: Kernel, q: float) -> tuple[Array, Array, Array]:
    """Return the correlations of the same input, of two inputs, and their difference, by offset."""
    if not q > 0:
        zero = np.zeros_like(x.own)
        return zero, zero, zero
    gap = x.own / q
    base = x.shared / q
    return np.clip(base + gap, -1.0, 1.0), np.clip(base, -1.0, 1.0), gap


def returned(x: Kernel, made: Bent, back: Back, function: Bender | None = None) -> Back:
    """Return the gradient of x from that of f(x); with the function, it keeps in mind what it passed."""
    q = x.spread
    if not q > 0:
        return back.scaled(made.value)
    rho, base, gap = correlations(x, q)
    _, slope = made.gaps(rho, base, gap)
    _, cross = made.at(base)
    slope = slope.copy()
    if np.isfinite(made.slope) and made.slope > 0:  # nothing is cut off where both are the same
        slope[0] = min(slope[0], max(0.0, made.slope)) if slope[0] > 0 else max(slope[0], 0.0)
    out = back.times((cross + slope) / q, cross / q, slope / q)
    if function is None:
        return out
    keeps = function.homogeneous or function.name.startswith("relu6")  # f(c x) = c f(x)
    return replace(out, radial=back.radial if keeps else 0.0, bend=(function, back))


def nothing(c: Case) -> Kernel:
    """Return zeros in the shape of a node's output."""
    shape = c.shape()
    if shape is None or any(n is None for n in shape):
        raise Unread
    return constant([int(n or 0) for n in shape], "p" * (len(shape) - 1) + "u" if shape else "", 0.0, 0.0)


@op(*sorted(
    {name for name, row in ops.OPS.items() if row.family == "activation"} - {"glu", "composite", "bias_split_gelu"}
    | {"clip", "sin", "exp"}
))  # fmt: skip
def _activation(c: Case) -> Step:
    if c.attrs.get("constant"):  # of what lies far outside: nothing is left of it
        return Step((nothing(c),), lambda _: {})
    if c.node.op == "bias_gelu" and c.has(1):
        raise Unread
    x = c.kernel(0)
    function = function_of(c)
    out, made = applied(x, function)
    return Step((out,), lambda d: {0: returned(x, made, d[0], function) if d[0] is not None else None})


def numeric(name: str, f: object, step: float = 1e-4, kinks: tuple[float, ...] = ()) -> Bender:
    """Return a function without a row, its slope taken by differences."""
    if not callable(f):
        raise Unread
    call = f
    return Bender(
        name, lambda x: np.asarray(call(x), np.float64), lambda x: (call(x + step) - call(x - step)) / (2 * step), kinks
    )


@op("abs", "square", "cos", "atan", "erf", "log1p", "expm1", "softsign", "sinh", "cosh", "tan", "asinh", "erfc")
def _pointwise(c: Case) -> Step:
    x = c.kernel(0)
    run = POINTWISE[c.node.op]
    attrs = dict(c.attrs)
    function = numeric(c.node.op, lambda v: run([v], attrs), kinks=(0.0,) if c.node.op == "abs" else ())
    out, made = applied(x, function)
    return Step((out,), lambda d: {0: returned(x, made, d[0]) if d[0] is not None else None})


@dataclass(frozen=True, slots=True)
class Slopes:
    """How many units an activation leaves without a slope."""

    dead: float
    saturated: float | None


def slopes(x: Kernel, function: Bender, inputs: int) -> Slopes | None:
    """Return the shares of units that have no slope for any of some inputs, or hardly any on the mean."""
    if not (math.isfinite(x.mean) and math.isfinite(x.spread)):
        return None
    z = np.linspace(-4.5, 4.5, 181)
    density = np.exp(-0.5 * z * z)
    density /= density.sum()
    shared = math.sqrt(max(0.0, float(x.shared[0])))
    own = math.sqrt(max(0.0, float(x.own[0])))
    places = x.count(PLACE)
    # values of one unit that are independent: inputs, and positions as far as they are
    mean = x.grid.mean(x.own)
    effective = 1.0 if not x.own[0] > 0 else min(float(places), float(x.own[0]) / max(mean, float(x.own[0]) / places))
    draws = max(1.0, inputs * effective)
    centres = x.mean + shared * z
    values = centres[:, None] + own * z[None, :]
    with np.errstate(all="ignore"):
        sizes = np.abs(function.df(values.ravel())).reshape(values.shape)
    none = (sizes <= _NO_SLOPE) @ density
    dead = float(density @ np.where(none > 1 - 1e-9, 1.0, none**draws))
    saturated = None
    if function.saturating:
        saturated = float(density @ ((sizes @ density) < _LITTLE * function.steepest))
    return Slopes(min(1.0, dead), saturated)


def batch_of(x: Kernel) -> int:
    """Return how many inputs a value holds."""
    return x.count(BATCH)
