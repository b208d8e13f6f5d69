"""Which symptoms stand behind a high risk, from which layer to which, and how grave each of them alone would be.

A feature that is high is explained by what the layers do: each candidate accounts for some decades of it, and its own
risk is what the fit gives for that many. The one that accounts for most carries the whole risk of the feature, so that
what the summary says is always told by some symptom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from initaudit.grounds import OPERATORS
from initaudit.risk import model
from initaudit.risk.features import NEVER, Features, Share
from initaudit.risk.fit import WARNING
from initaudit.risk.runs import Run, decades, fall, growth
from initaudit.types import Measured, Role, Signal, Signals, Symptom

_HEALTHY = {"slow": 0.0, "loud": 1.5, "rough": 0.5, "tied": 0.0}  # what nets have that train at once
_FEW = 0.3  # of a query's entropy: attention that looks at a few keys only
_MANY = 0.5  # share of units
_WORTH = 0.3  # decades below which nothing is explained
_BESIDE = 0.4  # of what the main cause explains, from which another one is told too


_SELECTS = frozenset({"query", "key"})  # a softmax stands between them and the signal


@dataclass(frozen=True, slots=True)
class _Cause:
    """Something that may explain a feature."""

    kind: str
    decades: float  # of the feature
    value: float
    layers: tuple[str, ...] = ()
    factor: float | None = None
    steps: int = 0


def find(
    features: Features, found: Sequence[Share], measured: Sequence[Measured], signals: Signals
) -> tuple[Symptom, ...]:
    """Return the symptoms behind the features that are worth a warning, gravest first."""
    net = _Net(features, found, measured, signals)
    made: dict[str, Symptom] = {}
    for name, causes in _EXPLAINED.items():
        value = getattr(features, name)
        whole = model.alone(name, value)
        if whole < WARNING:
            continue
        known = sorted((c for make in causes for c in make(net)), key=lambda c: -c.decades)
        told = [c for c in known if c.decades >= _BESIDE * known[0].decades] or [_unexplained(name, net)]
        for at, cause in enumerate(told):
            risk = whole if at == 0 else model.alone(name, min(value, _HEALTHY[name] + cause.decades))
            if risk >= WARNING and (cause.kind not in made or made[cause.kind].risk < risk):
                made[cause.kind] = Symptom(
                    cause.kind,
                    risk,
                    cause.value,
                    cause.layers,
                    cause.factor,
                    _depth(name, value, cause),
                    severity=model.severity(risk),
                )
    return tuple(sorted(made.values(), key=lambda s: -s.risk))


def _depth(name: str, value: float, cause: _Cause) -> float | None:
    """Return over how many layers the net could do the same and still train; None where it is not done by layers."""
    least = _HEALTHY[name]
    if cause.steps < 2 or not value > least:
        return None
    return cause.steps * max(0.0, model.bearable(name) - least) / (value - least)


class _Net:
    """The layers that carry the signal, in execution order, with what was said of them."""

    def __init__(
        self, features: Features, found: Sequence[Share], measured: Sequence[Measured], signals: Signals
    ) -> None:
        self.features = features
        self.found = found
        self.measured = measured
        self.signals = signals
        rows = list(zip(measured, signals.layers, strict=False))
        self.carrying = [(m, s) for m, s in rows if m.layer.kind in OPERATORS and not m.layer.tied]
        stops = {id(m) for m, s in rows if m.layer.role is Role.NORM and s.forward_variance == 0}
        carrying = {id(m) for m, _ in self.carrying}
        self.awake = [(m, s) for m, s in rows if (id(m) in carrying and not s.behind_gate) or id(m) in stops]

    def choosing(self, attention: str) -> list[str]:
        """Return the layers that make the logits of an attention, its own name where they are not known."""
        inside = [m.layer for m, _ in self.carrying if m.layer.name.startswith(f"{attention}.") or not attention]
        own = [layer.name for layer in inside if _SELECTS.intersection((*layer.tags, *layer.parts))]
        return own or [attention]

    def series(self, figure: Callable[[Measured, Signal], float | None]) -> tuple[list[str], list[float]]:
        """Return names and logarithms of a figure where it is known."""
        known = [(m.layer.name, v) for m, s in self.awake if (v := decades(figure(m, s))) is not None]
        return [name for name, _ in known], [value for _, value in known]

    def rates(self) -> tuple[list[str], list[float]]:
        """Return names and logarithms of gradient over weight, from the last layer to the first."""
        known = [
            (self.measured[s.at].layer.name, v)
            for s in reversed(self.found)
            if s.rate is not None and (v := decades(s.rate)) is not None
            and not self.signals.layers[s.at].behind_gate
            and not _SELECTS.intersection(self.measured[s.at].layer.tags)
        ]  # fmt: skip
        return [name for name, _ in known], [value for _, value in known]


def _variances(net: _Net) -> tuple[list[str], list[float]]:
    return net.series(lambda m, s: s.forward_variance)


def _along(kind: str, run: Run | None, names: Sequence[str], sign: int) -> Iterator[_Cause]:
    """Yield what a change of the signal going up explains: by the layers that make it."""
    if run is not None and run.decades >= _WORTH:
        told = 10 ** (sign * min(run.decades, 300.0))
        yield _Cause(
            kind, run.decades, told, _once(names[run.start + 1 : run.end + 1]), told ** (1 / run.steps), run.steps
        )


def _vanishing_signal(net: _Net) -> Iterator[_Cause]:
    names, values = _variances(net)
    yield from _along("vanishing-signal", fall([0.0, *values]), ["", *names], -1)


def _exploding_signal(net: _Net) -> Iterator[_Cause]:
    names, values = _variances(net)
    ends = [m.layer.name for m, _ in net.awake if m.layer.role is Role.BRANCH_END]
    run = growth([0.0, *values])
    if len(ends) < 2:
        yield from _along("exploding-signal", run, ["", *names], 1)
        return
    at = {name: k for k, name in enumerate(names)}
    own = [name for name in ends if name in at]
    yield from _along("growing-residual", growth([values[at[name]] for name in own]), own, 1)


def _indistinguishable(net: _Net) -> Iterator[_Cause]:
    contrast = math.fsum(s.contrast for s in net.found)
    every = contrast + math.fsum(s.common for s in net.found)
    if not every > 0:
        return
    told = contrast / every
    names, values = net.series(lambda m, s: None if s.input_correlation is None else 1 - s.input_correlation)
    run = fall([0.0, *values])
    layers = _once(names[run.start : run.end]) if run is not None and run.decades >= _WORTH else ()
    lost = -(decades(told) or 0.0)
    if lost >= _WORTH:
        steps = run.steps if run is not None and layers else 0
        yield _Cause("indistinguishable-inputs", min(lost, NEVER), told, layers, None, steps)


def _vanishing_gradient(net: _Net) -> Iterator[_Cause]:
    names, values = net.rates()
    run = fall(values)
    if run is not None and 2 * run.decades >= _WORTH:
        yield _backwards("vanishing-gradient", run, names, -1)


def _exploding_gradient(net: _Net) -> Iterator[_Cause]:
    names, values = net.rates()
    run = growth(values)
    if run is not None and run.decades >= _WORTH:
        cause = _backwards("exploding-gradient", run, names, 1)
        yield _Cause(cause.kind, run.decades, cause.value, cause.layers, cause.factor, cause.steps)


def _backwards(kind: str, run: Run, names: Sequence[str], sign: int) -> _Cause:
    told = 10 ** (sign * min(run.decades, 150.0))
    layers = _once(names[run.start : run.end + 1])
    return _Cause(kind, 2 * run.decades, told, layers, told ** (2 / run.steps), run.steps)


def _dead(net: _Net) -> Iterator[_Cause]:
    yield from _worst("dead-units", [(m, s.dead) for m, s in net.awake])


def _saturated(net: _Net) -> Iterator[_Cause]:
    yield from _worst("saturated-units", [(m, s.saturated) for m, s in net.awake])


def _worst(kind: str, shares: Sequence[tuple[Measured, float | None]]) -> Iterator[_Cause]:
    known = sorted(((share, m.layer.name) for m, share in shares if share is not None and share >= _MANY), reverse=True)
    if known:
        lost = math.fsum(-(decades(1 - min(share, 1.0)) or 0.0) for share, _ in known)
        yield _Cause(kind, min(lost, NEVER), known[0][0], _once([name for _, name in known]))


def _collapsed(net: _Net) -> Iterator[_Cause]:
    few = sorted((a for a in net.signals.attention if a.entropy < _FEW), key=lambda a: a.entropy)
    if few:
        spread = math.fsum(max(0.0, decades(a.spread) or 0.0) for a in few)
        yield _Cause("collapsed-attention", spread, few[0].entropy, _once(n for a in few for n in net.choosing(a.name)))


def _high_loss(net: _Net) -> Iterator[_Cause]:
    losses = [h.excess_loss for h in net.signals.heads if h.excess_loss is not None and math.isfinite(h.excess_loss)]
    worst = max(losses, default=0.0)
    if worst > 1:
        heads = [m.layer.name for m, _ in net.carrying if m.layer.role is Role.HEAD]
        yield _Cause("high-initial-loss", math.log10(worst), worst, _once(heads))


def _uneven(net: _Net) -> Iterator[_Cause]:
    names, values = net.rates()
    known = [(value, name) for value, name in zip(values, names, strict=True) if value > -NEVER]
    if len(known) > 1:
        slow, fast = min(known), max(known)
        apart = fast[0] - slow[0]
        run = growth(values)
        if apart >= 2 and (run is None or run.steps < len(values) / 2):  # else the run of layers says it better
            yield _Cause("uneven-rates", apart / 2, 10**apart, (slow[1], fast[1]))


def _tied(net: _Net) -> Iterator[_Cause]:
    lost = sorted(((max(s.lost, s.copied or 0.0), s.at) for s in net.found), key=lambda pair: (-pair[0], pair[1]))
    names = [net.measured[at].layer.name for share, at in lost if share >= _MANY]
    if names:
        yield _Cause("tied-units", lost[0][0], lost[0][0], _once(names))


def _unexplained(name: str, net: _Net) -> _Cause:
    """Return the plain statement of a feature that no layer stands out for."""
    names, values = net.rates()
    if name == "tied":
        return _Cause("tied-units", net.features.tied, net.features.tied)
    slow = name == "slow"
    at = (min if slow else max)(range(len(values)), key=values.__getitem__, default=None)
    kind = "vanishing-gradient" if slow else "exploding-gradient"
    told = 10 ** (-net.features.slow if slow else getattr(net.features, name))
    return _Cause(kind, getattr(net.features, name), told, () if at is None else (names[at],))


def _once(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


_EXPLAINED: Mapping[str, tuple[Callable[[_Net], Iterator[_Cause]], ...]] = {
    "slow": (_dead, _vanishing_signal, _indistinguishable, _vanishing_gradient, _saturated),
    "loud": (_exploding_signal, _exploding_gradient, _high_loss, _uneven),
    "rough": (_collapsed, _saturated, _exploding_gradient),
    "tied": (_tied,),
}
