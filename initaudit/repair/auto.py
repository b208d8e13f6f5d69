"""How a layer is best drawn, by its kind, its activation, its place and the depth of its net: what `auto` means.

Every way of drawing a chain of layers is a Style: the textbook's, or one of a few that carry a signal further. Which of
them a net gets is decided by what theory says of each (see planning).
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from initaudit import activations, schemes
from initaudit.grounds import OPERATORS
from initaudit.repair.faults import Fault, operates
from initaudit.types import Evidence, Measured, Role

_RECURRENT = frozenset({"rnn", "lstm", "gru"})
_SELECTS = frozenset({"query", "key", "value"})
_STATE = re.compile(r"(^|[._])(weight_)?hh([._]|$)|recurrent_(weight|kernel)", re.IGNORECASE)
_STATISTICS = {"running_mean": "zeros", "running_var": "ones", "num_batches_tracked": "zeros"}


@dataclass(frozen=True, slots=True)
class Chosen:
    """How one tensor is drawn, and why so."""

    scheme: str
    about: str
    by_part: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Style:
    """A way to draw the weights of a chain."""

    name: str
    law: str = ""  # normal, orthogonal, delta-orthogonal, siren; empty: what the depth of the net asks for
    gain: str = "exact"  # exact: keeps the second moment; edge: of chaos; one
    times: float = 1.0  # of that gain
    carried: bool = False  # gates that mix a layer with what goes past it start nearly shut
    ends: str = "scaled"  # ends of residual branches without norms: scaled, zero, full

    @property
    def textbook(self) -> bool:
        """Whether it is the one that is tried first."""
        return self == TEXTBOOK


TEXTBOOK = Style("textbook")
STYLES = (
    TEXTBOOK,
    Style("a tenth smaller", times=0.9),  # smooth rectifiers: what is a little too large grows
    Style("normal", law="normal"),
    Style("orthogonal", law="orthogonal"),
    Style("edge of chaos", gain="edge"),
    Style("orthogonal at the edge of chaos", law="orthogonal", gain="edge"),
    Style("delta-orthogonal", law="delta-orthogonal"),
    Style("unit gain", gain="one"),
    Style("siren", law="siren"),
    Style("closed branches", ends="zero"),
    Style("closed branches, orthogonal", law="orthogonal", ends="zero"),
    Style("gates that carry", carried=True),
)
TIMES = (0.7, 1.4, 0.5, 2.0)  # of a gain, where none of the above does


_SMALL = 0.6  # of a gain, from which the output layer is drawn smaller too
_DEEP = 0.1  # sum of 1 / fan_in over a chain, from which independent draws make its gradient a lottery


class Auto:
    """The textbook, for the layers of one net.

    Source: Hanin 2018, theorem 1: the square of a gradient in a net of independent draws varies as the exponential of
    5 times the sum of 1 / width; orthogonal matrices keep it.

    Args:
        measured: all its layers.
    """

    def __init__(self, measured: Sequence[Measured]) -> None:
        self.normed = any(m.layer.kind == "norm" for m in measured)
        self.ends = sum(m.layer.role is Role.BRANCH_END and operates(m) for m in measured)
        small = [m for m in measured if m.identified is not None and m.identified.scheme.startswith("normal:std=0.02")]
        self.small = len(small) > 2
        chain = [m for m in measured if operates(m) and m.layer.role is Role.TRUNK and m.layer.normed is not True]
        self.deep = math.fsum(1 / m.layer.fan_in for m in chain if m.layer.fan_in) > _DEEP

    def weight(self, fault: Fault, style: Style = TEXTBOOK) -> Chosen:
        """Return how a weight is drawn in a style."""
        m = fault.m
        if not style.law:
            style = replace(style, law="orthogonal" if self.deep and fault.chain else "normal")
        layer = m.layer
        if layer.normed or layer.role is Role.GATE:
            style = replace(style, times=1.0)
        if layer.kind == "embedding" or layer.role is Role.EMBEDDING:
            return self._table(m)
        if layer.kind not in OPERATORS:
            return Chosen("normal:std=0.02", "a small table")
        if layer.kind in _RECURRENT:
            return _recurrent(m, style)
        if layer.role is Role.BRANCH_END and (fault.ends or not self.normed):
            return self._end(m, style)
        if layer.role is Role.ADAPTER:
            return Chosen("he-uniform:gain=0.5774", "as LoRA draws its first factor")
        if _SELECTS.intersection((*layer.tags, *layer.parts)):
            return _lawful(m, "xavier", "query, key and value", style)
        if layer.role in (Role.HEAD, Role.ROUTER):
            return Chosen("xavier" if style.times > _SMALL else f"xavier:gain={style.times:g}", f"{layer.role}, linear")
        if layer.role is Role.GATE:
            return _lawful(m, "xavier" if layer.activation == "sigmoid" else "lecun", "gate", style)
        return _trunk(m, style)

    def _end(self, m: Measured, style: Style) -> Chosen:
        layer = m.layer
        if style.ends == "zero":
            return Chosen("zeros", "end of a residual branch, closed at first")
        n = max(1, self.ends)
        if style.ends == "full" or n == 1:
            return _lawful(m, "xavier", "end of a residual branch", style)
        about = f"end of one of {n} residual branches without a norm"
        row = activations.find(layer.activation) if layer.activation else None
        gain = style.times * (row.forward_gain if row is not None and row.elementwise else 1.0)
        if style.law == "orthogonal" and m.layer.groups == 1:
            return Chosen(_orthogonal(m, gain / math.sqrt(n)), about)
        return Chosen(f"lecun:gain={gain:.4g},branches={n}" if gain != 1 else f"lecun:branches={n}", about)

    def _table(self, m: Measured) -> Chosen:
        if self.small or m.layer.fan_out is None:
            return Chosen("normal:std=0.02", "embedding")
        return Chosen(f"normal:std={1 / math.sqrt(max(1.0, m.layer.fan_out)):.4g}", "embedding, rows of length 1")

    @staticmethod
    def vector(m: Measured, name: str, *, bias: bool) -> Chosen:
        """Return what a bias, a norm's scale, a gate or a statistic starts as."""
        ending = name.rpartition(".")[2]
        if ending in _STATISTICS:
            return Chosen(_STATISTICS[ending], "as a norm makes it")
        if bias:
            forget = next((part for part in m.layer.parts if part.startswith("f")), "")
            if m.layer.kind == "lstm" and forget and not recurrent(m):
                return Chosen("zeros", "forget gate open", ((forget, "ones"),))
            return Chosen("zeros", "bias")
        if ending == "weight_g":
            return Chosen("ones", "length of a unit's weight")
        return Chosen("ones", "scale")


def _lawful(m: Measured, scheme: str, about: str, style: Style) -> Chosen:
    gain = style.times if style.gain != "exact" or style.times != 1 else 1.0
    if style.law == "orthogonal":
        return Chosen(_orthogonal(m, gain), about)
    return Chosen(scheme if gain == 1 else f"{scheme}:gain={gain:.4g}", about)


def recurrent(m: Measured) -> bool:
    """Whether a weight takes a layer's own state; without a graph its name says so."""
    return "recurrent" in m.layer.tags or bool(_STATE.search(m.layer.weight.name))


def _orthogonal(m: Measured, gain: float) -> str:
    """Return an orthogonal draw that hands on the variance per unit that independent draws of the same gain do.

    A matrix with more outputs than inputs keeps the length of its input, so that each output has less of it.
    """
    fans = schemes.fans_of(m.layer)
    rows, columns = fans.matrix if fans is not None else (1, 1)
    gain *= math.sqrt(max(1.0, rows / max(1, columns)))
    return "orthogonal" if abs(gain - 1) < 1e-3 else f"orthogonal:gain={gain:.4g}"


def _widens(m: Measured) -> bool:
    """Whether a convolution has an odd kernel and at least as many outputs as inputs: it can be delta-orthogonal."""
    layer = m.layer
    kernel = [n for label, n in zip(layer.axes, layer.weight.shape, strict=True) if label == "k"]
    fans = schemes.fans_of(layer)
    square = fans is not None and fans.matrix[0] * fans.kernel >= fans.matrix[1]
    return layer.kind == "conv" and bool(kernel) and all(n % 2 for n in kernel) and square


def _recurrent(m: Measured, style: Style) -> Chosen:
    gates = " per gate" if m.layer.parts else ""
    if recurrent(m):
        return Chosen("orthogonal", f"recurrent, orthogonal{gates}")
    if m.layer.kind == "rnn" and m.layer.activation == "relu":
        return Chosen("he", "input of a recurrent layer with ReLU")
    return Chosen("xavier", f"input of a recurrent layer{gates}")


def _trunk(m: Measured, style: Style) -> Chosen:
    """Return a draw with the gain of what follows."""
    layer = m.layer
    about = layer.activation or ("linear" if layer.activation_evidence > Evidence.ASSUMED else "activation not known")
    row = activations.find(layer.activation) if layer.activation else None
    if row is None and layer.activation is None and layer.activation_evidence is Evidence.ASSUMED:
        row = activations.get("relu")
    if row is None or not row.elementwise or row.gated:  # both halves of a gated unit are linear
        return _lawful(m, "lecun", f"followed by {about}" if layer.activation else about, style)
    gain = _gain(row.name, tuple(sorted(row.params.items())), style.gain) * style.times
    about = f"followed by {about}" if layer.activation else about
    if style.gain == "edge":
        about += ", at the edge of chaos"
    if style.times != 1:
        about += f", {style.times:g} of its gain"
    if style.law == "siren" and row.name == "sin":
        return Chosen("siren-first" if "input layer" in layer.tags else "siren", "followed by sin, as SIREN draws")
    if style.law == "delta-orthogonal" and _widens(m):
        return Chosen(f"delta-orthogonal:gain={gain:.4g}", about)
    if "orthogonal" in style.law:
        return Chosen(_orthogonal(m, gain), about)
    if style.gain == "exact" and style.times == 1:
        return Chosen(_named(m, row, gain), about)
    return Chosen("lecun" if abs(gain - 1) < 1e-3 else f"lecun:gain={gain:.4g}", about)


def _named(m: Measured, row: activations.Activation, gain: float) -> str:
    """Return the name under which the literature knows a draw with the forward gain."""
    if row.name == "relu":
        return "he"
    if row.family is activations.Family.SELF_NORMALISING or row.name == "identity":
        return "lecun"
    if row.family is activations.Family.RECTIFIER:
        return m.expected.scheme if m.expected is not None else f"lecun:gain={gain:.4g}"
    return "xavier" if row.name in ("tanh", "softsign", "hardtanh") else f"lecun:gain={gain:.4g}"


@cache
def _gain(name: str, params: tuple[tuple[str, float], ...], kind: str) -> float:
    row = activations.get(name).bind(**dict(params))
    if kind == "one":
        return 1.0
    if kind == "edge":
        return edge(row)
    return schemes.gain_of(name) if dict(params) == dict(activations.get(name).params) else row.forward_gain


def edge(row: activations.Activation) -> float:
    """Return the gain at which neighbouring inputs neither part nor meet: gain^2 E[f'(z)^2] = 1.

    z has the variance that the gain itself keeps: v = gain^2 E[f(z)^2]. Where signals shrink to nothing at that gain
    (odd saturating functions, whose edge lies at v = 0), it is the one of a signal of variance 1/4.

    Source: Poole et al. 2016, eq. 5; Schoenholz et al. 2017, section 3.
    """
    low, high = 0.1, 20.0
    for _ in range(40):
        gain = math.sqrt(low * high)
        variance = _kept(row, gain)
        slope = gain * gain * row.slope_square(variance)
        if variance < 0.25:
            slope = gain * gain * row.mean_square(0.25) / 0.25
        low, high = (gain, high) if slope < 1 else (low, gain)
    return math.sqrt(low * high)


def _kept(row: activations.Activation, gain: float) -> float:
    """Return the variance that stays as it is through layers with a gain; at most 100."""
    variance = 1.0
    for _ in range(60):
        new = min(100.0, max(1e-12, gain * gain * row.mean_square(variance)))
        if abs(new - variance) < 1e-6 * variance:
            break
        variance = new
    return variance
