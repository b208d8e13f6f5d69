"""How rules tell a symptom of the whole graph: shared by those on signal and gradient, so that each says its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from initaudit.grounds import born, certainty, operator, plain, varied, wakes
from initaudit.registry import Rule
from initaudit.types import Audit, Evidence, Finding, Measured, Role, Severity, Signals, Symptom

CODES = {
    "vanishing-signal": "INI501", "exploding-signal": "INI502", "indistinguishable-inputs": "INI503",
    "vanishing-gradient": "INI504", "exploding-gradient": "INI505", "uneven-rates": "INI506",
    "saturated-units": "INI507", "dead-units": "INI508", "collapsed-attention": "INI509",
    "high-initial-loss": "INI510", "growing-residual": "INI511", "tied-units": "INI512",
}  # fmt: skip
_RUN = 3  # layers from which a factor per layer says something
_OFF = 1.5  # of a layer's variance against He or Xavier, from which drawing it again changes much
_FAR = 16.0  # the same where the layers stand in residual branches, whose ends matter more
_BIAS = 0.5  # root mean square of a bias that outweighs a signal of variance 1


@dataclass(frozen=True, slots=True)
class Case:
    """A symptom with the layers that it is about, in its order: where it starts first, where it ends last."""

    rule: Rule
    audit: Audit
    symptom: Symptom
    run: tuple[Measured, ...]
    by: str  # "probe" or "theory"

    @property
    def signals(self) -> Signals | None:
        """All that the judge of this symptom said."""
        return self.audit.probe if self.by == "probe" else self.audit.theory

    @property
    def value(self) -> str:
        """The figure of the symptom, as a number in a sentence."""
        return number(self.symptom.value)

    @property
    def path(self) -> str:
        """Where it happens: "through 29 layers, from a to b, "; empty where that is not known."""
        if not self.run:
            return ""
        first, last = self.run[0].layer.name, self.run[-1].layer.name
        if first == last:
            return f"in {first}, "
        return f"through {len(self.run)} layers, from {first} to {last}, "

    @property
    def rate(self) -> str:
        """The factor per layer, after a comma; empty where it is not known, or no run of layers."""
        if self.symptom.factor is None or len(self.run) < _RUN:
            return ""
        return f", {number(self.symptom.factor)}x per layer"

    @property
    def squared_rate(self) -> str:
        """The same for gradients, whose factor is that of the square."""
        return self.rate and f", its square {self.rate[2:]}"

    @property
    def worst(self) -> str:
        """The layer that it is told by, and how many more there are."""
        more = len(self.run) - 1
        name = self.run[0].layer.name if self.run else "a layer"
        return name + (f" (and of {more} more layer{'s' * (more != 1)})" if more > 0 else "")

    @property
    def relative_gradients(self) -> list[float | None]:
        """Gradient over weight of each layer."""
        return [m.signal.relative_gradient if m.signal else None for m in self.run]

    @property
    def reach(self) -> str:
        """At what depth this net would still train, after a semicolon; empty where it is not known."""
        whole = int(self.symptom.depth or 0)
        if whole < 1 or len(self.run) < _RUN:
            return ""
        return f"; at this rate a net of {whole} layer{'s' * (whole != 1)} would still train"

    @property
    def variances(self) -> dict[str, float | None]:
        """Variance across inputs where it starts and where it ends."""
        return self._ends("forward_variance")

    @property
    def gradients(self) -> dict[str, float | None]:
        """Gradient over weight where it starts and where it ends."""
        return self._ends("relative_gradient")

    @property
    def _reason(self) -> str:
        """Why it is told as info at most; where it follows from another symptom, by the code of that."""
        start, _, kind = self.symptom.capped.rpartition(" ")
        code = CODES.get(kind)
        return f"{start} {code}" if code and start else self.symptom.capped

    @property
    def _constant(self) -> tuple[str, ...]:
        """Names of plain weights of the run that hold one number: INI103 and INI104 tell these as errors."""
        return tuple(
            m.layer.name
            for m in self.run
            if operator(m)
            and plain(m)
            and m.stats.constant
            and certainty(m) is Evidence.TRACED
            and (m.layer.units // m.layer.groups > 1 if m.stats.zeros == 0 else not wakes(m, self.audit))
        )

    @property
    def _copied(self) -> tuple[str, ...]:
        """Names of plain weights of the run of which half the units are copies: INI201 tells these as errors."""
        if self.symptom.kind != "tied-units":
            return ()
        return tuple(
            m.layer.name
            for m in self.run
            if operator(m) and plain(m) and varied(m) and certainty(m) is Evidence.TRACED and _twins(m)
        )

    def _ends(self, figure: str) -> dict[str, float | None]:
        if not self.run:
            return {}
        first, last = (getattr(m.signal, figure, None) for m in (self.run[0], self.run[-1]))
        return {f"{figure}_at_start": first, f"{figure}_at_end": last}

    def finding(self, message: str, remedy: str, **figures: Any) -> Finding:
        """Return the finding, no graver than what is known of the graph allows."""
        symptom = self.symptom
        severity, doubt = symptom.severity, ""
        if symptom.capped:
            severity, doubt = Severity.INFO, f" [info at most: {self._reason}]"
        elif self._constant:
            severity = Severity.INFO
            doubt = f" [explained by {_some(self._constant)}: one number throughout, see INI103 and INI104]"
        elif self._copied:
            severity = Severity.INFO
            doubt = f" [explained by {_some(self._copied)}: units that are copies, see INI201]"
        elif self.by == "theory" and self.signals is not None and self.signals.unread:
            severity = min(severity, Severity.WARNING)
            doubt = f" [theory does not follow {_some(self.signals.unread)}; --probe would measure it]"
        judged = "predicted from the weights" if self.by == "theory" else "measured on a small batch"
        if self.audit.model.open and not symptom.capped:
            judged += "; no common activation between them but SELU would make it train"
        where = self.run[0] if self.run else None
        names = [m.layer.name for m in self.run]
        return self.rule.at(
            where,
            f"{message} ({judged}){doubt}",
            severity=severity,
            needs=self.audit.model.graph_evidence if self.audit.model.graph is not None else Evidence.NAMED,
            remedy=remedy,
            also=tuple(names[1:]),
            risk=symptom.risk,
            by=self.by,
            value=symptom.value,
            factor=symptom.factor,
            depth=symptom.depth,
            start=names[0] if names else None,
            end=names[-1] if names else None,
            layers=len(names),
            **figures,
        )


def _twins(m: Measured) -> bool:
    hashes = m.stats.rows.hash
    return 2 * np.unique(hashes).size <= hashes.size


def cases(rule: Rule, audit: Audit) -> Iterator[Case]:
    """Yield the symptoms that a rule of the same name tells; a trained model has none, its weights are no draw."""
    if audit.risk is None or not born(audit):
        return
    by_name = {m.layer.name: m for m in audit.measured}
    for symptom in audit.risk.symptoms:
        if symptom.kind == rule.name:
            run = tuple(by_name[name] for name in symptom.layers if name in by_name)
            yield Case(rule, audit, symptom, run, audit.risk.by)


def number(value: float) -> str:
    """Return a number for a sentence: two digits, large ones in full."""
    return f"{value:,.0f}" if 10 <= abs(value) < 1e4 else f"{value:.2g}"


def share(value: float) -> str:
    """Return a share in percent, rounded to all only where it is all."""
    text = f"{100 * value:.3g}"
    return f"{text} %" if text != "100" or value == 1 else "more than 99.9 %"


_DEEP = (
    "no scale carries this depth: put a norm (LayerNorm, BatchNorm) after each layer or residual connections around"
    " them, or use fewer layers"
)


def redraw_run(case: Case, otherwise: str = _DEEP, beyond: float = _OFF) -> str:
    """Say how to draw the layers of a run again; where they are drawn well already, what else there is to do.

    Args:
        case: whose layers.
        otherwise: what else.
        beyond: what factor of the expected variance is worth drawing again.
    """
    own = [m for m in case.run if operator(m)]
    biased = [m.layer.name for m in own if _bias(m) > _BIAS]
    if biased:
        return f"start the bias{'es' if len(biased) > 1 else ''} of {_some(tuple(biased))} at zero"
    shut = _shut_norms(case)
    if shut:
        return f"start the scale{'s' if len(shut) > 1 else ''} of {_some(shut)} at one"
    off = [m for m in own if (ratio := m.variance_ratio) is not None and not 1 / beyond <= ratio <= beyond]
    if not off:
        return otherwise
    schemes = Counter(m.expected.scheme for m in off if m.expected is not None)
    scheme = schemes.most_common(1)[0][0]
    like = next(m for m in off if m.expected is not None and m.expected.scheme == scheme)
    assert like.expected is not None
    name = like.layer.name
    if len(off) == 1:
        return f"draw {name} by {scheme} (std {like.expected.std:.3g})"
    return (
        f"draw these {len(off)} layers, {name} first, by {scheme} (std {like.expected.std:.3g} at {name}), or put a"
        " norm after each"
    )


def tame(case: Case) -> str:
    """Say how to keep layers from multiplying: at the ends of residual branches where these do it."""
    if any(m.layer.role is Role.BRANCH_END for m in case.run):
        collapsed = case.audit.risk is not None and "collapsed-attention" in (s.kind for s in case.audit.risk.symptoms)
        first = "first the attention that has collapsed (INI509)" if collapsed else scale_branches(case)
        return redraw_run(case, first, _FAR)
    return redraw_run(case)


def _shut_norms(case: Case) -> tuple[str, ...]:
    """Return the norms with a scale of zero between the layer before a run and its end."""
    places = [k for k, m in enumerate(case.audit.measured) if m in case.run]
    if not places:
        return ()
    rows = case.audit.measured
    start = next((k for k in range(places[0] - 1, -1, -1) if operator(rows[k])), -1)
    between = rows[start + 1 : places[-1]]
    return tuple(m.layer.name for m in between if m.layer.kind == "norm" and m.stats.zeros == m.stats.count)


def _bias(m: Measured) -> float:
    """Return the root mean square of a layer's bias."""
    stats = m.others.get(m.layer.bias.name) if m.layer.bias is not None else None
    return 0.0 if stats is None else (stats.mean**2 + stats.variance) ** 0.5


def scale_branches(case: Case) -> str:
    """Say how the ends of residual branches are scaled with depth."""
    ends = sum(m.layer.role is Role.BRANCH_END and operator(m) for m in case.audit.measured)
    by = f"1/sqrt({ends}) = {ends**-0.5:.2g}, one over the root of the number of branches" if ends > 1 else "1/sqrt(N)"
    return (
        f"scale the last weight of each residual branch by {by}, or start it at zero, or put a norm before each branch"
    )


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
