"""What an activation does to kernels: its Hermite coefficients about a normal pre-activation.

For u, v ~ N(m, q) with correlation rho, E[f(u) f(v)] = sum a_n^2 rho^n and E[f'(u) f'(v)] = sum n a_n^2 rho^(n-1) / q
(Daniely, Frostig, Singer 2016), a_n from the quadrature of `initaudit.quadrature`. Functions with kinks have
coefficients that fall off as a power of n: beyond the first ones a power law stands for them, fitted to what E[f^2] and
E[f'^2] leave, so that two inputs that are nearly equal are still told apart by the right amount.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from initaudit import activations
from initaudit.quadrature import nodes
from initaudit.types import Array

_TERMS = 48
_TAIL = 64  # logarithmic steps that stand for the terms beyond
_BEYOND = 1e16
_SMOOTH = 1e-11
_STEP = 0.01  # natural logarithm by which q is rounded for the cache
_SHIFT = 0.02  # of a standard deviation, by which m is

Plain = Callable[[Array], Array]


@dataclass(frozen=True)
class Bender:
    """An elementwise function, hashable by its name and parameters."""

    name: str
    f: Plain
    df: Plain
    kinks: tuple[float, ...] = ()
    period: float = math.inf
    homogeneous: bool = False  # f(c x) = c f(x) for c > 0
    saturating: bool = False
    steepest: float = 1.0

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Bender) and other.name == self.name


@lru_cache(maxsize=256)
def bender(name: str, params: tuple[tuple[str, float], ...] = ()) -> Bender | None:
    """Return the function of a row of the table of activations, None if there is none of one number.

    Args:
        name: in any spelling.
        params: those that differ; "scale" multiplies the result, "mirrored" makes it a function of -x.
    """
    row = activations.find(name)
    if row is None or not row.elementwise or row.gated:
        return None
    given = dict(params)
    scale = given.pop("scale", 1.0) if "scale" not in row.params else 1.0
    mirrored = bool(given.pop("mirrored", 0.0))
    row = row.bind(**{k: v for k, v in given.items() if k in row.params})
    sign = -1.0 if mirrored else 1.0
    kinks = tuple(sign * k for k in row.kinks(**row.params))
    steepest = float(np.max(np.abs(row.slope(np.linspace(-6, 6, 241)))))
    return Bender(
        f"{row.name}{sorted(given.items())}{scale}{mirrored}",
        lambda x: scale * row(sign * x),
        lambda x: sign * scale * row.slope(sign * x),
        kinks,
        row.period(**row.params) if row.period else math.inf,
        row.name in ("relu", "leaky_relu", "prelu", "rrelu", "identity"),
        row.family is activations.Family.SATURATING,
        abs(scale) * steepest,
    )


@dataclass(frozen=True, slots=True)
class Bent:
    """Moments of f(u), u ~ N(m, q)."""

    mean: float
    orders: Array  # n
    weights: Array  # a_n^2, of f with u = m + sqrt(q) z
    slope: float  # E[f'^2] q
    value: float  # f'(m)^2 q, where q is 0
    bump: float = 0.0  # E[f'] sqrt(q)

    def gaps(self, rho: Array, base: Array, gap: Array) -> tuple[Array, Array]:
        """Return E[f f] at rho less that at base, and the same of q f' f'; gap = rho - base, which may be tiny."""
        return _gaps(self.orders, self.weights, rho, base, gap)

    def at(self, rho: Array) -> tuple[Array, Array]:
        """Return the covariance of f(u) and f(v), and q E[f'(u) f'(v)]."""
        power = _powers(self.orders, rho)
        return power @ self.weights, _slopes(self.orders, rho) @ self.weights


def bent(function: Bender, mean: float, q: float) -> Bent:
    """Return the moments of a function of a normal variable; q may be 0."""
    if not (math.isfinite(mean) and math.isfinite(q)) or q < 0:
        raise ArithmeticError
    deviation = math.sqrt(q)
    if deviation == 0 or (mean != 0 and deviation < 1e-9 * abs(mean) and not function.homogeneous):
        slope = float(function.df(np.array([mean]))[0])
        return Bent(
            float(function.f(np.array([mean]))[0]), np.array([1.0]), np.array([slope**2 * q]), slope**2 * q,
            slope**2, slope * deviation,
        )  # fmt: skip
    shift = round(mean / deviation / _SHIFT) * _SHIFT if abs(mean) > 1e-12 * deviation else 0.0
    if function.homogeneous:
        shift = max(-30.0, min(30.0, shift))
        made = _made(function, shift, 0.0)
        # A rounded shift leaves a small error in the mean: the slope there sets it right.
        low = made.mean + made.bump * (max(-30.0, min(30.0, mean / deviation)) - shift)
        if abs(mean / deviation) > 30:
            low = float(function.f(np.array([mean]))[0]) / deviation
        return Bent(low * deviation, made.orders, made.weights * q, made.slope * q, 0.0, made.bump * deviation)
    level = round(math.log(q) / _STEP) * _STEP
    made = _made(function, shift, level) if abs(shift) < 1e3 else _made(function, mean / deviation, level)
    ratio = q / math.exp(level)
    low = made.mean + made.bump * (mean / deviation - shift) if abs(shift) < 1e3 else made.mean
    return Bent(low, made.orders, made.weights * ratio, made.slope * ratio, 0.0, made.bump)


@lru_cache(maxsize=4096)
def _made(function: Bender, shift: float, level: float) -> Bent:
    q = math.exp(level)
    deviation = math.sqrt(q)
    mean = shift * deviation
    z, w = nodes(mean, q, function.kinks, function.period)
    f, slope = function.f(z), function.df(z)
    t = (z - mean) / deviation
    first = float(w @ f)
    energy = float(w @ np.square(f - first))
    slopes = q * float(w @ np.square(slope))
    weights = np.empty(_TERMS)
    before, now = np.ones_like(t), t
    weighted = w * (f - first)
    for n in range(1, _TERMS + 1):
        weights[n - 1] = float(weighted @ now) ** 2
        before, now = now, (t * now - math.sqrt(n) * before) / math.sqrt(n + 1)
    bump = float(w @ slope) * deviation
    # By parts: what f' gives is better where f is nearly constant, as of tanh far out.
    orders = np.arange(1.0, _TERMS + 1)
    extra_orders, extra = _tail(energy - float(weights.sum()), slopes - float(orders @ weights), energy, function)
    return Bent(
        first, np.concatenate([orders, extra_orders]), np.concatenate([weights, extra]), slopes, 0.0, bump
    )  # fmt: skip


def _tail(energy: float, slopes: float, whole: float, function: Bender) -> tuple[Array, Array]:
    """Return orders and weights that stand for the terms beyond the first ones."""
    if not energy > _SMOOTH * whole or not slopes > 0:
        return np.zeros(0), np.zeros(0)
    start = _TERMS + 0.5
    wanted = slopes / energy
    first = wanted / 3  # of a pure power of -5/2, as a kink has it
    kink = bool(function.kinks) and 0.7 < first / start < 1.4
    edges = np.geomspace(first if kink else start, _BEYOND, _TAIL + 1)
    orders = np.sqrt(edges[1:] * edges[:-1])
    if kink:
        weights = edges[:-1] ** -1.5 - edges[1:] ** -1.5
        weights *= energy / float(weights.sum())
        return (edges[:-1] ** -0.5 - edges[1:] ** -0.5) * 3 / (edges[:-1] ** -1.5 - edges[1:] ** -1.5), weights
    best: Array | None = None
    for power in (2.5, 1.5):
        shape = (edges[:-1] ** (1 - power) - edges[1:] ** (1 - power)) / (power - 1)
        low, high = math.log(start / 30), math.log(_BEYOND)
        for _ in range(50):  # a cut-off that gives both moments
            middle = (low + high) / 2
            weights = shape * np.exp(-orders / math.exp(middle))
            total = float(weights.sum())
            if total > 0 and float(orders @ weights) / total > wanted:
                high = middle
            else:
                low = middle
        weights = shape * np.exp(-orders / math.exp((low + high) / 2))
        total = float(weights.sum())
        if not total > 0:
            continue
        best = weights * (energy / total)
        if float(orders @ best) >= 0.8 * slopes:
            break
    return (orders, best) if best is not None else (np.zeros(0), np.zeros(0))


def _powers(orders: Array, rho: Array) -> Array:
    """Return rho^n, one row per rho; for large n and negative rho it is 0 all the same."""
    size = np.abs(rho)[:, None]
    with np.errstate(all="ignore"):
        out = np.where(size > 0, np.exp(orders * np.log(np.maximum(size, 1e-300))), 0.0)
    out = np.where(orders == 0, 1.0, out)
    odd = (orders % 2 == 1) & (orders <= _TERMS)
    out = np.where((rho[:, None] < 0) & odd, -out, out)
    return np.where((rho[:, None] < 0) & (orders > _TERMS), 0.0, out)


def _slopes(orders: Array, rho: Array) -> Array:
    """Return n rho^(n - 1)."""
    return orders * _powers(orders - 1.0, rho) if len(orders) else np.zeros((len(rho), 0))


def _gaps(orders: Array, weights: Array, rho: Array, base: Array, gap: Array) -> tuple[Array, Array]:
    few = int(np.sum(orders <= _TERMS)) if len(orders) > 1 else len(orders)
    value, slope = np.zeros_like(rho), np.zeros_like(rho)
    # rho^n - base^n = gap * T_n, T_n = rho T_(n-1) + base^(n-1): nothing cancels
    t, before, power = np.ones_like(rho), np.zeros_like(rho), np.ones_like(rho)
    for k in range(few):
        value = value + weights[k] * t
        slope = slope + weights[k] * orders[k] * before
        power = power * base
        before, t = t, rho * t + power
    value, slope = value * gap, slope * gap
    if few == len(orders):
        return value, slope
    n, w = orders[few:], weights[few:]
    high, low = np.maximum(rho, base), np.minimum(rho, base)
    with np.errstate(all="ignore"):
        top = np.where(high > 0, np.log(np.maximum(high, 1e-300)), -np.inf)[:, None]
        step = np.where(low > 0, np.log1p(np.abs(gap) / np.maximum(low, 1e-300)), np.inf)[:, None]
        value = value + np.sign(gap) * ((np.exp(n * top) * -np.expm1(-n * step)) @ w)
        slope = slope + np.sign(gap) * ((n * np.exp((n - 1) * top) * -np.expm1(-(n - 1) * step)) @ w)
    return value, slope
