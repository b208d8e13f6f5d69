"""One row per activation: its function, its derivative, its kinks, and every name it goes by.

The gains follow from the function alone: for a pre-activation z ~ N(mean, variance) the expectations of f(z), f(z)^2,
f'(z)^2 and f(u) f(v) come from quadrature split at the kinks, so a new row needs no hand-made constant. `find` looks a
name up in any spelling (torch.nn.functional, torch module class, ONNX op, HuggingFace or timm config); `identify`
tells which row an unknown function is by its effect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TypedDict

import numpy as np

from initaudit import functions as fn
from initaudit.errors import UnsupportedError, UsageError
from initaudit.quadrature import expectation, pair_expectation
from initaudit.types import Array


class Family(StrEnum):
    """What decides between the initializers of the literature."""

    RECTIFIER = "rectifier"  # passes one side, loses the other: He
    SATURATING = "saturating"  # odd or bounded, about linear at its centre: Xavier
    LINEAR = "linear"  # about linear for large inputs on both sides: Xavier
    SELF_NORMALISING = "self-normalising"  # keeps mean 0 and variance 1 by itself: LeCun


class _Shape(TypedDict):
    kinks: tuple[float, ...]
    period: float


def _no_kinks(**_: float) -> tuple[float, ...]:
    return ()


@dataclass(frozen=True, slots=True, eq=False)
class Activation:
    """One row of the table.

    A gated row is u * f(v) of the two halves (u, v) of its input. Its moments are those of the product for independent
    halves, its `slope_square` the mean of the squared derivatives over both halves.
    """

    name: str  # as torch.nn.functional spells it
    family: Family
    f: Callable[..., Array]
    df: Callable[..., Array]
    params: Mapping[str, float] = field(default_factory=dict)
    kinks: Callable[..., tuple[float, ...]] = _no_kinks
    aliases: tuple[str, ...] = ()  # beyond what differs from the name by case, dashes or "Activation" only
    elementwise: bool = True
    gated: bool = False
    period: Callable[..., float] | None = None
    note: str = ""

    def __call__(self, x: Array) -> Array:
        """Return f(x)."""
        return self.f(x, **self.params)

    def slope(self, x: Array) -> Array:
        """Return f'(x)."""
        return self.df(x, **self.params)

    def bind(self, **params: float) -> Activation:
        """Return this row with other parameters.

        Raises:
            UsageError: it has no parameter of that name.
        """
        unknown = sorted(params.keys() - self.params.keys())
        if unknown:
            raise UsageError(f"{self.name} has no parameter {unknown[0]}; it has {', '.join(self.params) or 'none'}")
        return replace(self, params=MappingProxyType({**self.params, **params})) if params else self

    def _expect(self, f: Callable[[Array], Array], mean: float, variance: float) -> float:
        if not self.elementwise:
            raise UnsupportedError(f"{self.name} is not a function of one number, so it has no gain of its own")
        return expectation(f, mean=mean, variance=variance, **self._shape())

    def _shape(self) -> _Shape:
        period = self.period(**self.params) if self.period else math.inf
        return {"kinks": self.kinks(**self.params), "period": period}

    def mean(self, variance: float = 1.0, mean: float = 0.0) -> float:
        """E[f(z)] for z ~ N(mean, variance)."""
        value = self._expect(self, mean, variance)
        return value * mean if self.gated else value

    def mean_square(self, variance: float = 1.0, mean: float = 0.0) -> float:
        """E[f(z)^2] for z ~ N(mean, variance)."""
        value = self._expect(lambda z: np.square(self(z)), mean, variance)
        return value * (variance + mean * mean) if self.gated else value

    def slope_square(self, variance: float = 1.0, mean: float = 0.0) -> float:
        """E[f'(z)^2] for z ~ N(mean, variance)."""
        value = self._expect(lambda z: np.square(self.slope(z)), mean, variance)
        if self.gated:
            open_gate = self._expect(lambda z: np.square(self(z)), mean, variance)
            return (value * (variance + mean * mean) + open_gate) / 2
        return value

    def correlation(self, rho: float, variance: float = 1.0, mean: float = 0.0) -> float:
        """E[f(u) f(v)] for u, v ~ N(mean, variance) with correlation rho (a covariance map, not normalised)."""
        if not self.elementwise:
            raise UnsupportedError(f"{self.name} is not a function of one number, so it has no correlation map")
        value = pair_expectation(self, rho, mean=mean, variance=variance, **self._shape())
        return value * (rho * variance + mean * mean) if self.gated else value

    @property
    def forward_gain(self) -> float:
        """1 / sqrt(E f(z)^2), z ~ N(0, 1): what keeps the second moment of the signal."""
        return 1 / math.sqrt(self.mean_square())

    @property
    def backward_gain(self) -> float:
        """1 / sqrt(E f'(z)^2), z ~ N(0, 1): what keeps the second moment of the gradient."""
        return 1 / math.sqrt(self.slope_square())


_R, _S, _L, _N = Family.RECTIFIER, Family.SATURATING, Family.LINEAR, Family.SELF_NORMALISING


def _zero(**_: float) -> tuple[float, ...]:
    return (0.0,)


def _at(*kinks: float) -> Callable[..., tuple[float, ...]]:
    return lambda **_: kinks


ROWS: tuple[Activation, ...] = (
    Activation("identity", _L, fn.identity, fn.d_identity, aliases=("linear", "none", "noop")),
    Activation("relu", _R, fn.relu, fn.d_relu, kinks=_zero, aliases=("rectify", "rectifier", "fused_relu")),
    Activation("relu6", _R, fn.relu6, fn.d_relu6, kinks=_at(0.0, 6.0)),
    Activation(
        "leaky_relu",
        _R,
        fn.leaky_relu,
        fn.d_leaky_relu,
        {"negative_slope": 0.01},
        _zero,
        aliases=("lrelu", "leaky", "fused_leaky_relu"),
    ),
    Activation("prelu", _R, fn.leaky_relu, fn.d_leaky_relu, {"negative_slope": 0.25}, _zero),
    Activation(
        "rrelu",
        _R,
        fn.rrelu,
        fn.d_rrelu,
        {"lower": 1 / 8, "upper": 1 / 3},
        _zero,
        note="as in evaluation: the mean slope",
    ),
    Activation("elu", _R, fn.elu, fn.d_elu, {"alpha": 1.0}, _zero),
    Activation("selu", _N, fn.selu, fn.d_selu, kinks=_zero),
    Activation("celu", _R, fn.celu, fn.d_celu, {"alpha": 1.0}, _zero),
    Activation(
        "gelu",
        _R,
        fn.gelu,
        fn.d_gelu,
        aliases=(
            "gelu_new", "gelu_fast", "gelu_10", "gelu_python", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_tanh",
            "gelu_accurate", "gelu_erf", "NewGELU", "FastGELU", "AccurateGELU", "ClippedGELU", "GELUTanh", "GeluNew",
            "PytorchGELUTanh", "BiasGelu", "gelu_approximate", "ApproximateGELU", "gelu_impl",
        ),
        note="exact or by tanh: they differ by less than 5e-4",
    ),
    Activation("quick_gelu", _R, fn.quick_gelu, fn.d_quick_gelu, aliases=("gelu_quick",)),
    Activation(
        "silu", _R, fn.silu, fn.d_silu, {"beta": 1.0}, aliases=("swish", "swish1", "SwishMe", "MemoryEfficientSwish")
    ),
    Activation("mish", _R, fn.mish, fn.d_mish),
    Activation("hardswish", _R, fn.hardswish, fn.d_hardswish, kinks=_at(-3.0, 3.0), aliases=("hswish", "hard_silu")),
    Activation("hard_mish", _R, fn.hard_mish, fn.d_hard_mish, kinks=_at(-2.0, 0.0)),
    Activation("softplus", _R, fn.softplus, fn.d_softplus, {"beta": 1.0}),
    Activation("logsigmoid", _R, fn.logsigmoid, fn.d_logsigmoid),
    Activation(
        "relu2", _R, fn.relu2, fn.d_relu2, kinks=_zero, aliases=("relu_squared", "squared_relu", "sqrelu", "ReLUSq")
    ),
    Activation(
        "star_relu", _R, fn.star_relu, fn.d_star_relu, {"scale": 0.8944, "bias": -0.4472}, _zero
    ),
    Activation(
        "threshold",
        _R,
        fn.threshold,
        fn.d_threshold,
        {"threshold": 1.0, "value": 0.0},
        lambda threshold, value: (threshold,),
        aliases=("ThresholdedRelu",),
    ),
    Activation("exp", _R, fn.exp, fn.exp, aliases=("exponential",)),
    Activation("tanh", _S, fn.tanh, fn.d_tanh),
    Activation("sigmoid", _S, fn.sigmoid, fn.d_sigmoid, aliases=("logistic",)),
    Activation(
        "hardsigmoid",
        _S,
        fn.hardsigmoid,
        fn.d_hardsigmoid,
        {"alpha": 1 / 6, "beta": 0.5},
        lambda alpha, beta: (-beta / alpha, (1 - beta) / alpha),
        aliases=("hsigmoid",),
    ),
    Activation(
        "hardtanh",
        _S,
        fn.hardtanh,
        fn.d_hardtanh,
        {"min_val": -1.0, "max_val": 1.0},
        lambda min_val, max_val: (min_val, max_val),
        aliases=("htanh", "clamp"),
    ),
    Activation("softsign", _S, fn.softsign, fn.d_softsign, kinks=_zero),
    Activation("laplace", _S, fn.laplace, fn.d_laplace, {"mu": 0.707107, "sigma": 0.282095}),
    Activation(
        "sin",
        _S,
        fn.sin,
        fn.d_sin,
        {"omega": 1.0},
        period=lambda omega: 2 * math.pi / abs(omega) if omega else math.inf,
        aliases=("sine", "siren"),
    ),
    Activation(
        "snake",
        _L,
        fn.snake,
        fn.d_snake,
        {"alpha": 1.0},
        period=lambda alpha: math.pi / abs(alpha) if alpha else math.inf,
        aliases=("Snake1d", "SnakeBeta"),
    ),
    Activation("tanhshrink", _L, fn.tanhshrink, fn.d_tanhshrink),
    Activation("softshrink", _L, fn.softshrink, fn.d_shrink, {"lambd": 0.5}, lambda lambd: (-lambd, lambd)),
    Activation("hardshrink", _L, fn.hardshrink, fn.d_shrink, {"lambd": 0.5}, lambda lambd: (-lambd, lambd)),
    Activation("glu", _S, fn.sigmoid, fn.d_sigmoid, gated=True),
    Activation("reglu", _R, fn.relu, fn.d_relu, kinks=_zero, gated=True),
    Activation("geglu", _R, fn.gelu, fn.d_gelu, gated=True, aliases=("gated_gelu", "gated-gelu", "GeluGated")),
    Activation("swiglu", _R, fn.silu, fn.d_silu, {"beta": 1.0}, gated=True, aliases=("gated_silu", "SwiGLUPacked")),
    Activation("softmax", _L, fn.softmax, fn.undefined, elementwise=False, aliases=("Softmax2d", "softmin")),
    Activation("log_softmax", _L, fn.log_softmax, fn.undefined, elementwise=False),
)  # fmt: skip


def _plain(name: str) -> str:
    return "".join(c for c in name.lower() if c.isalnum())


_NAMES: dict[str, Activation] = {}
for _row in ROWS:
    for _name in (_row.name, *_row.aliases):
        _NAMES.setdefault(_plain(_name), _row)
_ENDINGS = ("activation", "jitme", "jit", "me", "inplace", "module")  # what libraries append to the same function


def _lookup(name: str) -> Activation | None:
    plain = _plain(name.rpartition(".")[2])
    stems = (plain, *(plain.removesuffix(ending) for ending in _ENDINGS))
    return next((_NAMES[stem] for stem in stems if stem in _NAMES), None)


def find(name: str) -> Activation | None:
    """Return the row for a name in any spelling, or None: "ReLU", "torch.nn.GELU", "gelu_new", "LeakyRelu".

    Parameters may follow, as in "leaky_relu:negative_slope=0.2".

    Raises:
        UsageError: the row has no such parameter, or its value is not a number.
    """
    head, _, tail = name.partition(":")
    row = _lookup(head)
    if row is None or not tail:
        return row
    params: dict[str, float] = {}
    for item in tail.split(","):
        key, _, value = item.partition("=")
        try:
            params[key.strip()] = float(value)
        except ValueError as e:
            raise UsageError(f"{item!r} in {name!r} is not name=number") from e
    return row.bind(**params)


def get(name: str) -> Activation:
    """Return the row for a name in any spelling.

    Raises:
        UsageError: there is none; the reason lists what there is.
    """
    row = find(name)
    if row is None:
        raise UsageError(f"no activation {name!r}; there are {', '.join(r.name for r in ROWS)}")
    return row


def named(name: str) -> str:
    """Return how this package spells an activation, its parameters kept where they were given.

    Raises:
        UsageError: there is no such activation; the reason lists what there is.
    """
    row, default = get(name), get(name.partition(":")[0])
    changed = [f"{k}={v:g}" for k, v in row.params.items() if v != default.params[k]]
    return f"{row.name}:{','.join(changed)}" if changed else row.name


def listing() -> tuple[str, ...]:
    """Return one line per activation for the command line: name, family, gains of both directions, parameters."""
    lines = [f"{'activation':14}{'family':18}{'forward gain':>13}{'backward gain':>15}  parameters"]
    for row in ROWS:
        gains = f"{row.forward_gain:13.5f}{row.backward_gain:15.5f}" if row.elementwise else f"{'-':>13}{'-':>15}"
        lines.append(f"{row.name:14}{row.family:18}{gains}  {', '.join(f'{k}={v:g}' for k, v in row.params.items())}")
    return tuple(line.rstrip() for line in lines)


_INNER = np.linspace(-6.0, 6.0, 241)
_OUTER = np.array([-100.0, -50.0, -25.0, -12.0, -8.0, 8.0, 12.0, 25.0, 50.0, 100.0])
_NEAR = np.array([-1e-2, 1e-2])
_SAMPLE = np.concatenate([_INNER, _OUTER, _NEAR])
_ABSOLUTE, _RELATIVE = 1e-3, 1e-3


_SLACK = np.where(np.abs(_SAMPLE) > 6, _RELATIVE, 0.0)


def _misfit(y: Array, g: Array) -> float:
    """Return the largest deviation in units of what is allowed, over the finite y; at most 1: they agree."""
    seen = np.isfinite(y)
    off = np.abs(y - g)[seen] / (_ABSOLUTE + _SLACK[seen] * np.abs(g[seen]))
    return float(np.max(off)) if np.isfinite(off).all() else math.inf


def _value(y: Array, x: float) -> float:
    return float(y[int(np.argmin(np.abs(_SAMPLE - x)))])


def _fitted(y: Array) -> list[tuple[str, dict[str, float], float]]:
    """Return (name, parameters, scale) of the rows with parameters whose few telling values are those of y."""
    right = (_value(y, 5) - _value(y, 4)) / 1.0
    left = (_value(y, -4) - _value(y, -5)) / 1.0
    low, high, zero = _value(y, -100), _value(y, 100), _value(y, 0)
    tries: list[tuple[str, dict[str, float], float]] = []
    if abs(right) > 1e-6 and left / right > -1:  # |x| and steeper are nobody's leaky ReLU
        tries.append(("leaky_relu", {"negative_slope": left / right}, right))
        tries += [(n, {"alpha": -low / right}, right) for n in ("elu", "celu") if low < 0]
    if -100 < low < high < 100:  # a bound on either side
        tries.append(("hardtanh", {"min_val": low, "max_val": high}, 1.0))
    if 0 < zero < 1:
        tries.append(("hardsigmoid", {"alpha": (_value(y, 1e-2) - _value(y, -1e-2)) / 2e-2, "beta": zero}, 1.0))
    if zero > 0:
        tries.append(("softplus", {"beta": math.log(2) / zero}, 1.0))
    if 0 < _value(y, 1) < 1:
        one = _value(y, 1)
        tries.append(("silu", {"beta": math.log(one / (1 - one))}, 1.0))
    if 100 - high > 1e-6:
        tries.append(("softshrink", {"lambd": 100 - high}, 1.0))
    middle = (_value(y, 1e-2) - _value(y, -1e-2)) / 2e-2
    if 1e-3 < abs(middle) < 1e3:
        tries.append(("sin", {"omega": middle}, 1.0))
        tries.append(("sin", {"omega": 30.0}, 1.0))  # SIREN's, too fast for a slope at this spacing
    tries.append(("star_relu", {"scale": _value(y, 1) - _value(y, -1), "bias": _value(y, -1)}, 1.0))
    return tries


def identify(f: Callable[[Array], Array]) -> tuple[str, dict[str, float]] | None:
    """Return which row an elementwise function is, with its parameters, or None.

    It is sampled on [-6, 6], where it must agree to 1e-3, and beyond, where it must agree to 1e-3 of its size. The
    parameters name what differs from the row's defaults, "scale" where it is a multiple of the row, and "mirrored"
    where it is one of relu(-x). Affine and constant functions are None, and so is whatever no row equals. Both forms of
    GELU are "gelu".
    """
    with np.errstate(all="ignore"):
        y = np.asarray(f(_SAMPLE.copy()), np.float64)
        if y.shape != _SAMPLE.shape or not np.isfinite(y[: _INNER.size]).all():
            return None
        line = np.polynomial.polynomial.polyfit(_INNER, y[: _INNER.size], 1)
        if _misfit(y, line[0] + line[1] * _SAMPLE) <= 1:
            return None
        rows = [row for row in ROWS if row.elementwise and not row.gated and row.name != "identity"]
        best = min((_misfit(y, row(_SAMPLE)), i) for i, row in enumerate(rows))
        if best[0] <= 1:
            return rows[best[1]].name, {}
        found: list[tuple[float, str, dict[str, float]]] = []
        for row in rows:
            g = row(_INNER)
            scale = float(np.dot(g, y[: _INNER.size]) / max(float(np.dot(g, g)), 1e-300))
            if 1e-3 <= abs(scale) <= 1e3:
                found.append((_misfit(y, scale * row(_SAMPLE)), row.name, _shown(row, {}, scale)))
        for name, params, scale in _fitted(y):
            row = _NAMES[_plain(name)].bind(**params)
            found.append((_misfit(y, scale * row(_SAMPLE)), name, _shown(row, params, scale)))
        if (left := (_value(y, -4) - _value(y, -5))) and _misfit(y, left * np.minimum(_SAMPLE, 0.0)) <= 1:
            shown = _shown(_NAMES["relu"], {}, -left)  # -relu(-x), which all that is symmetric takes for relu
            return "relu", {"mirrored": 1.0, **shown}
        good = [(error, name, params) for error, name, params in found if error <= 1]
        return (good[0][1], good[0][2]) if good else None


def _shown(row: Activation, params: Mapping[str, float], scale: float) -> dict[str, float]:
    default = _NAMES[_plain(row.name)].params
    shown = {
        k: float(f"{v:.6g}") for k, v in params.items() if not math.isclose(v, default[k], rel_tol=1e-3, abs_tol=1e-6)
    }
    return shown if math.isclose(scale, 1.0, rel_tol=1e-3) else {**shown, "scale": float(f"{scale:.6g}")}
