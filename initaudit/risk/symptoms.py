"""Which symptoms stand behind a high risk, from which layer to which, and how grave each of them alone would be.

A feature that is high is explained by what the layers do: each candidate accounts for some decades of it, and its own
risk is what the fit gives for that many. The one that accounts for most carries the whole risk of the feature; others
behind the same feature follow from it, and are told as info where it is as grave. The gravest of all carries the risk
of the net, so that what the summary says is always told by some symptom.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from initaudit.grounds import OPERATORS
from initaudit.risk import model
from initaudit.risk.features import NAMES, NEVER, SETTLED, Features, Share, idle, settled
from initaudit.risk.fit import WARNING
from initaudit.risk.runs import Run, decades, fall, growth
from initaudit.types import Measured, Role, Signal, Signals, Symptom

_HEALTHY = {"slow": 0.5, "loud": 1.5, "rough": 0.5, "tied": 0.0, "idle": 0.0}  # what nets have that train at once
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
    whole = model.risk(features)
    if whole < WARNING:
        return ()
    net = _Net(features, found, measured, signals)
    alone = {name: model.alone(name, getattr(features, name)) for name in NAMES}
    high = [name for name in NAMES if alone[name] >= WARNING] or [max(NAMES, key=alone.__getitem__)]
    made: dict[str, Symptom] = {}
    for name in sorted(high, key=alone.__getitem__, reverse=True):
        told = list(_told(name, net))
        steps = max(cause.steps for cause in told)
        first = told[0].kind
        for at, cause in enumerate(told):
            risk = alone[name] if at == 0 else model.alone(name, min(net.value(name), _HEALTHY[name] + cause.decades))
            if not made:
                risk = whole
            if cause.kind in made or (risk < WARNING and at):
                continue
            grave = model.severity(risk)
            follows = bool(at) and made[first].severity >= grave
            made[cause.kind] = Symptom(
                cause.kind,
                risk,
                cause.value,
                cause.layers,
                cause.factor,
                _depth(name, net.value(name), steps) if cause.steps > 1 else None,
                f"it follows from {first}" if follows else "",
                grave,
            )
    return tuple(sorted(made.values(), key=lambda s: (-s.risk, bool(s.capped))))


def _told(name: str, net: _Net) -> Iterator[_Cause]:
    """Yield what explains a feature, the main cause first; what explains much less than that is left out."""
    known = sorted((c for make in _EXPLAINED[name] for c in make(net)), key=lambda c: -c.decades)
    seen: set[str] = set()
    for cause in [c for c in known if c.decades >= _BESIDE * known[0].decades] or [_unexplained(name, net)]:
        if cause.kind not in seen:
            seen.add(cause.kind)
            yield cause


def _depth(name: str, value: float, steps: int) -> float | None:
    """Return of how many layers a net could be that does the same in each, and still trains.

    Args:
        name: of the feature.
        value: of this net.
        steps: layers that bring it about, of the longest of the runs that explain it.
    """
    least = _HEALTHY[name]
    if steps < 2 or not value > least:
        return None
    return steps * max(0.0, model.bearable(name) - least) / (value - least)


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

    def value(self, name: str) -> float:
        """Return a feature of the net."""
        value: float = getattr(self.features, name)
        return value

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
            kind, run.decades / 2, told, _once(names[run.start + 1 : run.end + 1]), told ** (1 / run.steps), run.steps
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
    lost = -(decades(told) or 0.0) / 2
    if lost >= _WORTH:
        steps = run.steps if run is not None and layers else 0
        yield _Cause("indistinguishable-inputs", min(lost, NEVER), told, layers, None, steps)


def _vanishing_gradient(net: _Net) -> Iterator[_Cause]:
    names, values = net.rates()
    run = fall(values)
    if run is not None and run.decades >= _WORTH:
        yield _backwards("vanishing-gradient", run, names, -1)


def _exploding_gradient(net: _Net) -> Iterator[_Cause]:
    names, values = net.rates()
    run = growth(values)
    if run is not None and run.decades >= _WORTH:
        yield _backwards("exploding-gradient", run, names, 1)


def _backwards(kind: str, run: Run, names: Sequence[str], sign: int) -> _Cause:
    told = 10 ** (sign * min(run.decades, 150.0))
    layers = _once(names[run.start : run.end + 1])
    return _Cause(kind, run.decades, told, layers, told ** (2 / run.steps), run.steps)


def _dead(net: _Net) -> Iterator[_Cause]:
    yield from _worst("dead-units", [(m, s.dead) for m, s in net.awake])


def _saturated(net: _Net) -> Iterator[_Cause]:
    yield from _worst("saturated-units", [(m, s.saturated) for m, s in net.awake])


def _worst(kind: str, shares: Sequence[tuple[Measured, float | None]]) -> Iterator[_Cause]:
    known = sorted(((share, m.layer.name) for m, share in shares if share is not None and share >= _MANY), reverse=True)
    if known:
        lost = math.fsum(-(decades(1 - min(share, 1.0)) or 0.0) for share, _ in known) / 2
        yield _Cause(kind, min(lost, NEVER), known[0][0], _once([name for _, name in known]))


def _collapsed(net: _Net) -> Iterator[_Cause]:
    few = sorted((a for a in net.signals.attention if a.entropy < SETTLED), key=lambda a: a.entropy)
    if few:
        spread = max(settled(net.signals), math.fsum(max(0.0, decades(a.spread) or 0.0) for a in few))
        yield _Cause("collapsed-attention", spread, few[0].entropy, _once(n for a in few for n in net.choosing(a.name)))


def _high_loss(net: _Net) -> Iterator[_Cause]:
    losses = [h.excess_loss for h in net.signals.heads if h.excess_loss is not None and math.isfinite(h.excess_loss)]
    worst = max(losses, default=0.0)
    if worst > 1:
        heads = [m.layer.name for m, _ in net.carrying if m.layer.role is Role.HEAD]
        yield _Cause("high-initial-loss", math.log10(worst) / 2, worst, _once(heads))  # as a rule it follows


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


def _still(net: _Net) -> Iterator[_Cause]:
    """Yield the layers that never learn: as dead units where these are the reason, else as a gradient that is zero."""
    places = idle(net.measured, net.signals)
    names = _once(net.measured[at].layer.name for at in places)
    dead = [net.signals.layers[at].dead or 0.0 for at in places]
    if any(share >= _MANY for share in dead):
        own = [name for name, share in zip(names, dead, strict=False) if share >= _MANY]
        yield _Cause("dead-units", 1.0, max(dead), _once(own))
    elif names:
        yield _Cause("vanishing-gradient", 1.0, 0.0, names)


def _unexplained(name: str, net: _Net) -> _Cause:
    """Return the plain statement of a feature that no layer stands out for."""
    names, values = net.rates()
    if name == "tied":
        return _Cause("tied-units", net.features.tied, net.features.tied)
    if name == "idle":
        return _Cause("vanishing-gradient", net.features.idle, 0.0)
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
    "idle": (_still,),
}
