"""One row per initializer: its law, its variance, how to draw it, what it is called, and where it comes from.

The same row is what a layer is compared with, what a tensor is identified as, and what a repair draws. A scheme is
written as `name` or `name:key=value,...`: `he`, `kaiming-uniform:mode=fan_out`, `normal:std=0.02`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from initaudit import activations
from initaudit.draws import CUT, DRAW, Draw, truncation
from initaudit.errors import UsageError
from initaudit.types import Array, Evidence, Expectation, Layer, Role

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
    law: str  # normal, uniform, truncated, orthogonal, constant, identity, dirac, sparse, delta-orthogonal
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
        """Return the variance of the entries it draws, for the given fans and parameters."""
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
        return DRAW[self.law](shape, Draw(self.spread(fans, params), {**params, **self.fixed}, blocks, rng))

    def call(self, weight: str, fans: Fans, /, **given: Value) -> str:
        """Return a torch.nn.init call that draws the same law whatever the layout of `weight`."""
        params = self.params(given)
        std = math.sqrt(self.spread(fans, params))
        call = {
            "normal": f"normal_({weight}, std={std:.6g})",
            "uniform": f"uniform_({weight}, {-math.sqrt(3) * std:.6g}, {math.sqrt(3) * std:.6g})",
        }
        if self.law == "truncated":
            nominal = std / truncation(_number(params, "cut", CUT))[0]
            bound = _number(params, "cut", CUT) * nominal
            return f"torch.nn.init.trunc_normal_({weight}, std={nominal:.6g}, a={-bound:.6g}, b={bound:.6g})"
        if self.law in call:
            return f"torch.nn.init.{call[self.law]}"
        filled = self.code.replace("(w", f"({weight}")
        for key, value in params.items():
            filled = filled.replace(f"{{{key}}}", str(value))
        return filled

    def render(self, **given: Value) -> str:
        """Return how this scheme is written with those parameters; `parse` reads it back."""
        said = given if self.fans else {**{k: v for k, v in self.defaults.items() if k in _ALWAYS}, **given}
        shown = [
            f"{k}={v if isinstance(v, str) else f'{v:.4g}'}"
            for k, v in said.items()
            if v != self.defaults[k] or (k in _ALWAYS and not self.fans)
        ]
        return f"{self.name}:{','.join(shown)}" if shown else self.name


_CHOICES = {
    "mode": ("fan_in", "fan_out", "fan_avg"),
    "fans": ("operator", "torch"),
    "kind": ("linear", "conv", "conv_transpose", "rnn"),
}
_ALWAYS = {"std", "bound", "value"}  # said even where they are the default: they are what such a scheme is
_POSITIVE = {"std", "bound", "gain", "branches", "cut", "omega"}  # or zero


def _checked(scheme: str, key: str, value: Value, default: Value) -> None:
    if key == "activation":
        activations.get(str(value))
    elif isinstance(default, str):
        if value not in _CHOICES[key]:
            raise UsageError(f"{scheme}: {key} is one of {', '.join(_CHOICES[key])}, not {value!r}")
    elif isinstance(value, str) or not math.isfinite(value):
        raise UsageError(f"{scheme}: {key} is a finite number, not {value!r}")
    elif (key in _POSITIVE and value < 0) or (key == "sparsity" and not 0 <= value <= 1):
        raise UsageError(f"{scheme}: {key}={value:g} is out of range")


def _number(params: Params, key: str, default: float) -> float:
    value = params.get(key, default)
    return value if isinstance(value, float | int) else default


def gain_of(activation: str) -> float:
    """Return the forward gain for what follows a weight: exactly sqrt(2) for ReLU, 1 for nothing.

    Source: He et al. 2015 eq. 10 for ReLU; for others 1/sqrt(E f(z)^2), z ~ N(0, 1), by quadrature.
    """
    row = activations.get(activation)
    if row.name == "relu":
        return math.sqrt(2)
    return row.forward_gain if row.elementwise else 1.0


def _scaled(gain: float) -> Variance:
    """Return gain^2 / fan, where `gain` is the default that `gain=` or `activation=` replaces."""

    def variance(fans: Fans, p: Params) -> float:
        g = _number(p, "gain", gain)
        if p.get("activation", "relu") != "relu":
            g *= gain_of(str(p["activation"])) / math.sqrt(2)
        fan = fans.by_mode(str(p.get("mode", "fan_in")), str(p.get("fans", "operator")))
        return g * g / max(fan, 1e-300) / _number(p, "branches", 1)

    return variance


def _fixed(fans: Fans, p: Params) -> float:
    return _number(p, "std", 0.02) ** 2 / _number(p, "branches", 1)


def _torch_default(fans: Fans, p: Params) -> float:
    fan = fans.fan_out if p["kind"] in ("conv_transpose", "rnn") else fans.fan_in
    return 1 / (3 * max(fan, 1e-300)) / _number(p, "branches", 1)


def _siren(fans: Fans, p: Params) -> float:
    return 2 / max(fans.fan_in, 1e-300) / _number(p, "omega", 30.0) ** 2


def _siren_first(fans: Fans, p: Params) -> float:
    return 1 / (3 * max(fans.fan_in, 1e-300) ** 2)


def _uniform(fans: Fans, p: Params) -> float:
    return _number(p, "bound", 0.05) ** 2 / 3


def _orthogonal(fans: Fans, p: Params) -> float:
    return _number(p, "gain", 1) ** 2 / max(*fans.matrix, 1)


def _delta(fans: Fans, p: Params) -> float:
    rows, columns = fans.matrix
    return _number(p, "gain", 1) ** 2 * min(rows, columns // fans.kernel) / max(rows * columns, 1)


def _none(fans: Fans, p: Params) -> float:
    return 0.0


def _sparse(fans: Fans, p: Params) -> float:
    return (1 - _number(p, "sparsity", 0.9)) * _number(p, "std", 0.01) ** 2


def _family(name: str, spread: Variance, defaults: Params, aliases: tuple[str, ...], source: str) -> Iterator[Scheme]:
    """Yield the normal, uniform and truncated rows of a scheme that fixes the variance only."""
    torch = {"he": "kaiming", "xavier": "xavier"}.get(name)
    told = ", mode='{mode}', nonlinearity='{activation}'" if name == "he" else ", gain={gain}"
    for law, ending in (("normal", ""), ("uniform", "-uniform"), ("truncated", "-truncated")):
        code = f"torch.nn.init.{torch}_{law}_(w{told})" if torch and law != "truncated" else ""
        names = tuple(f"{a}{e}" for a in (name, *aliases) for e in ([ending, "-normal"] if not ending else [ending]))
        about = {
            "he": "keeps the second moment through a rectifier: variance gain^2 / fan_in",
            "xavier": "compromise of forward and backward: variance 2 / (fan_in + fan_out)",
            "lecun": "keeps the variance through linear units: variance 1 / fan_in",
        }[name]
        if law == "truncated":
            about += "; cut at 2 standard deviations, the lost variance given back"
        yield Scheme(name + ending, law, about, source, code, spread, defaults, names[1:], fans=True)


_MODES: Params = {"gain": 1.0, "mode": "fan_in", "fans": "operator", "branches": 1.0}
_HE: Params = {**_MODES, "gain": math.sqrt(2), "activation": "relu"}
_XAVIER: Params = {**_MODES, "mode": "fan_avg"}

ROWS: tuple[Scheme, ...] = (
    *_family(
        "he", _scaled(math.sqrt(2)), _HE, ("kaiming", "msra"), "He et al. 2015, eq. 10 (forward) and 14 (backward)"
    ),
    *_family("xavier", _scaled(1.0), _XAVIER, ("glorot",), "Glorot & Bengio 2010, eq. 12 and 16"),
    *_family("lecun", _scaled(1.0), _MODES, (), "LeCun et al. 1998, eq. 16; Klambauer et al. 2017 for SELU"),
    Scheme(
        "simple-uniform",
        "uniform",
        "U(-1/sqrt(fan), 1/sqrt(fan)): a third of the variance that linear units need",
        "LeCun et al. 1998 as usually shortened; Glorot & Bengio 2010, eq. 1",
        "torch.nn.init.kaiming_uniform_(w, a=5**0.5)",
        _scaled(math.sqrt(1 / 3)),
        {"gain": math.sqrt(1 / 3), "mode": "fan_in", "fans": "operator", "branches": 1.0},
        ("simple", "uniform-1/sqrt(n)", "1/sqrt(n)"),
        fans=True,
    ),
    Scheme(
        "torch-default",
        "uniform",
        "what nn.Linear and nn.ConvNd draw: U(+-1/sqrt(fan_in)); fan_out for ConvTranspose, hidden size for RNNs",
        "torch.nn: reset_parameters of Linear, _ConvNd and RNNBase",
        "torch.nn.init.kaiming_uniform_(w, a=5**0.5)",
        _torch_default,
        {"kind": "linear", "branches": 1.0},
        ("pytorch", "pytorch-default", "torch", "default"),
        fans=True,
    ),
    Scheme(
        "normal",
        "normal",
        "a fixed standard deviation, whatever the layer",
        "Radford et al. 2018 and Devlin et al. 2019 for 0.02; Radford et al. 2019 for the division by sqrt(branches)",
        "torch.nn.init.normal_(w, mean={mean}, std={std})",
        _fixed,
        {"std": 0.02, "mean": 0.0, "branches": 1.0},
        ("gaussian",),
    ),
    Scheme(
        "truncated",
        "truncated",
        "a fixed standard deviation after cutting: what the cut takes is given back",
        "variance of the doubly truncated normal distribution",
        "torch.nn.init.trunc_normal_(w, std={std})",
        _fixed,
        {"std": 0.02, "mean": 0.0, "cut": CUT, "branches": 1.0},
        ("truncated-normal", "trunc-normal", "trunc"),
    ),
    Scheme(
        "uniform",
        "uniform",
        "U(-bound, bound), shifted by the mean",
        "variance bound^2 / 3",
        "torch.nn.init.uniform_(w, -{bound}, {bound})",
        _uniform,
        {"bound": 0.05, "mean": 0.0},
    ),
    Scheme(
        "siren",
        "uniform",
        "U(+-sqrt(6/fan_in)/omega): keeps the law of sin(omega z)",
        "Sitzmann et al. 2020, section 3.2",
        "",
        _siren,
        {"omega": 30.0},
        fans=True,
    ),
    Scheme(
        "siren-first",
        "uniform",
        "U(+-1/fan_in): the first layer of a SIREN",
        "Sitzmann et al. 2020, supplement",
        "",
        _siren_first,
        fans=True,
    ),
    Scheme(
        "orthogonal",
        "orthogonal",
        "all singular values equal to the gain, per gate and per group",
        "Saxe et al. 2014",
        "torch.nn.init.orthogonal_(w, gain={gain})",
        _orthogonal,
        {"gain": 1.0},
        ("orthonormal",),
        fans=True,
    ),
    Scheme(
        "delta-orthogonal",
        "delta-orthogonal",
        "an orthogonal matrix at the kernel's centre, zero around it: every frequency passes alike",
        "Xiao et al. 2018",
        "",
        _delta,
        {"gain": 1.0},
        fans=True,
    ),
    Scheme(
        "dirac",
        "dirac",
        "one 1 at the kernel's centre per filter: the convolution is the identity",
        "Zagoruyko & Komodakis 2017",
        "torch.nn.init.dirac_(w)",
        _delta,
        {"gain": 1.0},
        fans=True,
    ),
    Scheme(
        "identity",
        "identity",
        "the identity matrix times the gain",
        "Le, Jaitly & Hinton 2015",
        "torch.nn.init.eye_(w)",
        _delta,
        {"gain": 1.0},
        ("eye",),
        fans=True,
    ),
    Scheme(
        "zeros",
        "constant",
        "all 0: for biases and branches that start closed",
        "-",
        "torch.nn.init.zeros_(w)",
        _none,
        aliases=("zero",),
    ),
    Scheme(
        "ones",
        "constant",
        "all 1: for the scales of norms",
        "-",
        "torch.nn.init.ones_(w)",
        _none,
        aliases=("one",),
        fixed={"value": 1.0},
    ),
    Scheme(
        "constant",
        "constant",
        "one value everywhere: units of a weight stay equal",
        "-",
        "torch.nn.init.constant_(w, {value})",
        _none,
        {"value": REQUIRED},
        ("const",),
    ),
    Scheme(
        "sparse",
        "sparse",
        "zeros in equal numbers per column, a normal law elsewhere",
        "Martens 2010",
        "torch.nn.init.sparse_(w, sparsity={sparsity}, std={std})",
        _sparse,
        {"sparsity": 0.9, "std": 0.01},
    ),
)


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-").strip("-")


_NAMES = {_plain(name): row for row in reversed(ROWS) for name in (row.name, *row.aliases)}


def parse(text: str) -> tuple[Scheme, dict[str, Value]]:
    """Return the row and the parameters of "name:key=value,...".

    Raises:
        UsageError: unknown scheme or parameter (the reason lists what there is), or a value that does not fit.
    """
    name, _, tail = text.partition(":")
    row = _NAMES.get(_plain(name))
    if row is None:
        raise UsageError(f"no scheme {name!r}; there are {', '.join(r.name for r in ROWS)}")
    params: dict[str, Value] = {}
    for item in filter(None, (part.strip() for part in tail.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise UsageError(f"{item!r} in {text!r} is not name=value")
        try:
            params[key] = float(value)
        except ValueError:
            params[key] = value.lower()
    row.params(params)
    return row, params


def fans_of(layer: Layer) -> Fans | None:
    """Return the fans of a layer with what torch.nn.init would compute from its stored shape, or None without fans."""
    if layer.fan_in is None or layer.fan_out is None:
        return None
    shape, axes = layer.weight.shape, layer.axes
    kernel = math.prod(n for label, n in zip(axes, shape, strict=True) if label == "k")
    torch = None
    if len(shape) >= 2:
        rest = math.prod(shape[2:])
        torch = (float(shape[1] * rest), float(shape[0] * rest))
    rows = math.prod(n for label, n in zip(axes, shape, strict=True) if label == "o")
    columns = math.prod(n for label, n in zip(axes, shape, strict=True) if label in "ik")
    if axes.find("i") > axes.find("o"):
        rows //= max(layer.groups, 1)
    else:
        columns //= max(layer.groups, 1)
    return Fans(layer.fan_in, layer.fan_out, torch, rows // max(len(layer.parts), 1), columns, kernel)


_NO_FANS = {Role.NORM, Role.EMBEDDING}


def expect(layer: Layer) -> Expectation | None:
    """Return what He, Xavier or LeCun would draw here, or None where the literature says nothing.

    He with the activation's gain before rectifiers and where the activation is not known, Xavier before saturating
    functions and where nothing follows, LeCun before SELU; None for norms, vectors and embeddings.

    Source: He et al. 2015 eq. 10; Glorot & Bengio 2010 eq. 12; Klambauer et al. 2017 section 2.
    """
    fans = fans_of(layer)
    if fans is None or "i" not in layer.axes or "o" not in layer.axes:
        return None
    if layer.role in _NO_FANS or layer.kind in ("norm", "embedding") or not fans.fan_in > 0:
        return None
    he, xavier, lecun = (_NAMES[n] for n in ("he", "xavier", "lecun"))
    if layer.activation is None:
        known = layer.activation_evidence > Evidence.ASSUMED
        row = xavier if known or layer.kind in ("rnn", "lstm", "gru") else he
        return Expectation(row.name, row.std(fans))
    activation = activations.find(layer.activation)
    if activation is None:
        return Expectation(he.name, he.std(fans))
    if activation.family is activations.Family.SELF_NORMALISING:
        return Expectation(lecun.name, lecun.std(fans))
    if activation.family is activations.Family.RECTIFIER:
        params: dict[str, Value] = {} if activation.name == "relu" else {"activation": activation.name}
        if activation.params != activations.get(activation.name).params:
            params = {"gain": activation.forward_gain}
        return Expectation(he.render(**params), he.std(fans, **params))
    return Expectation(xavier.name, xavier.std(fans))


def listing() -> tuple[str, ...]:
    """Return one line per scheme for the command line: name, other names, parameters, what it does, source."""
    lines: list[str] = []
    for row in ROWS:
        settings = ", ".join(
            f"{k}=" if isinstance(v, float) and math.isnan(v) else f"{k}={v}" if isinstance(v, str) else f"{k}={v:.4g}"
            for k, v in row.defaults.items()
        )
        lines.append(f"{row.name:18}{row.about}")
        lines.extend(
            f"{'':18}{what} {text}" for what, text in (("also", ", ".join(row.aliases)), ("with", settings)) if text
        )
        lines.append(f"{'':18}{row.source}")
    return tuple(lines)
