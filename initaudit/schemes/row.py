"""What a row of the table is: a law, its variance and its parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from initaudit import activations
from initaudit.draws import CUT, DRAW, Draw, truncation
from initaudit.errors import UsageError
from initaudit.types import Array

Value = float | str
Params = Mapping[str, Value]

REQUIRED = math.nan  # a parameter without a default


@dataclass(frozen=True, slots=True)
class Fans:
    """What a variance may depend on: the operator's fans, and the ones torch.nn.init computes from the stored shape."""

    fan_in: float
    fan_out: float
    torch: tuple[float, float] | None = None
    rows: int = 0  # extent of the matrix (out, in * kernel) of one operator and group; 0: as the fans say
    columns: int = 0
    kernel: int = 1  # kernel positions

    def by_mode(self, mode: str, fans: str = "operator") -> float:
        """Return the fan that a mode means."""
        fan_in, fan_out = self.torch if fans == "torch" and self.torch else (self.fan_in, self.fan_out)
        return {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]

    @property
    def matrix(self) -> tuple[int, int]:
        """(rows, columns) of the matrix that an orthogonal law makes orthogonal."""
        return (self.rows or round(self.fan_out), self.columns or round(self.fan_in))


Variance = Callable[[Fans, Params], float]


@dataclass(frozen=True, slots=True, eq=False)
class Scheme:
    """One row of the table."""

    name: str
    law: str  # normal, uniform, truncated, orthogonal, constant, ... (a sampler of draws); "" for a method
    about: str
    source: str
    code: str  # the torch.nn.init call that does the same on a plain layer w
    spread: Variance = field(repr=False)
    defaults: Params = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    fixed: Params = field(default_factory=dict)  # parameters of the law that nobody may change
    fans: bool = False  # its variance follows from the layer's fans

    def params(self, given: Params) -> dict[str, Value]:
        """Return the defaults with the given parameters in their place.

        Raises:
            UsageError: no such parameter, a value of the wrong kind or out of range, or one missing.
        """
        for key, value in given.items():
            if key not in self.defaults:
                has = f"it has {', '.join(self.defaults)}" if self.defaults else "it has none"
                raise UsageError(f"scheme {self.name} has no parameter {key!r}; {has}")
            _checked(self.name, key, value, self.defaults[key])
        full = {**self.defaults, **given}
        for key, value in full.items():
            if isinstance(value, float) and math.isnan(value):
                raise UsageError(f"scheme {self.name} needs {key}=, as in {self.name}:{key}=0.02")
        return full

    def variance(self, fans: Fans, /, **given: Value) -> float:
        """Return the variance of the entries it draws, for the given fans and parameters.

        Raises:
            UsageError: a bad parameter, or a method, which has no variance of its own.
        """
        return self.spread(fans, self.params(given))

    def std(self, fans: Fans, /, **given: Value) -> float:
        """Return the standard deviation of the entries it draws."""
        return math.sqrt(self.variance(fans, **given))

    def sample(
        self, shape: tuple[int, ...], fans: Fans, rng: np.random.Generator, /, *, blocks: int = 1, **given: Value
    ) -> Array:
        """Return a draw of float64 values.

        Shapes:
            `shape` and the result are (out, in, *kernel); `blocks` operators (groups, gates) lie along out.

        Raises:
            UsageError: the shape does not allow this scheme.
        """
        params = self.params(given)
        drawn = Draw(self.spread(fans, params), {**params, **self.fixed}, blocks, rng)
        return DRAW[self.law](shape, drawn)

    def call(self, weight: str, fans: Fans, /, **given: Value) -> str:
        """Return a torch.nn.init call that draws the same law whatever the layout of `weight`."""
        params = self.params(given)
        std, mean = math.sqrt(self.spread(fans, params)), number(params, "mean", 0.0)
        if self.law == "normal":
            return f"torch.nn.init.normal_({weight}, {f'mean={mean:.6g}, ' if mean else ''}std={std:.6g})"
        if self.law == "uniform":
            half = math.sqrt(3) * std
            return f"torch.nn.init.uniform_({weight}, {mean - half:.6g}, {mean + half:.6g})"
        if self.law == "truncated":
            cut = number(params, "cut", CUT)
            nominal = std / truncation(cut)[0]
            ends = f"a={mean - cut * nominal:.6g}, b={mean + cut * nominal:.6g}"
            return f"torch.nn.init.trunc_normal_({weight}, mean={mean:.6g}, std={nominal:.6g}, {ends})"
        filled = self.code.replace("(w", f"({weight}")
        for key, value in params.items():
            filled = filled.replace(f"{{{key}}}", value if isinstance(value, str) else f"{value:.6g}")
        return filled

    def render(self, **given: Value) -> str:
        """Return how this scheme is written with those parameters, numbers with four digits; `parse` reads it back."""
        return self._written(given, lambda v: f"{v:.4g}")

    def spell(self, **given: Value) -> str:
        """Return what `render` does with every digit, so that `parse` gives the same numbers: for recipes."""
        return self._written(given, _digits)

    def _written(self, given: Params, digits: Callable[[float], str]) -> str:
        said = given if self.fans else {**{k: v for k, v in self.defaults.items() if k in _ALWAYS}, **given}
        shown = [
            f"{k}={v if isinstance(v, str) else digits(v)}"
            for k, v in said.items()
            if v != self.defaults[k] or (k in _ALWAYS and not self.fans)
        ]
        return f"{self.name}:{','.join(shown)}" if shown else self.name


def _digits(value: float) -> str:
    return str(int(value)) if float(value).is_integer() and abs(value) < 1e15 else repr(float(value))


_CHOICES = {
    "mode": ("fan_in", "fan_out", "fan_avg"),
    "fans": ("operator", "torch"),
    "kind": ("linear", "conv", "conv_transpose", "rnn"),
    "norms": ("file", "batch"),
}
_ALWAYS = {"std", "bound", "value"}  # said even where they are the default: they are what such a scheme is
_LEAST = {"std": 0.0, "bound": 0.0, "gain": 0.0, "branches": 1.0, "cut": 0.1, "omega": 1e-6, "sparsity": 0.0}
_LEAST |= {"tol": 1e-6, "tmax": 1.0, "target": 1e-12}


def _checked(scheme: str, key: str, value: Value, default: Value) -> None:
    if key == "activation":
        activations.get(str(value))
    elif isinstance(default, str):
        if value not in _CHOICES[key]:
            raise UsageError(f"{scheme}: {key} is one of {', '.join(_CHOICES[key])}, not {value!r}")
    elif isinstance(value, str) or not math.isfinite(value):
        raise UsageError(f"{scheme}: {key} is a finite number, not {value!r}")
    elif value < _LEAST.get(key, -math.inf) or (key == "sparsity" and value > 1):
        raise UsageError(f"{scheme}: {key}={value:g} is out of range")


def number(params: Params, key: str, default: float) -> float:
    """Return a numeric parameter, or the default where there is none of that name."""
    value = params.get(key, default)
    return value if isinstance(value, float | int) else default
