"""How likely a model is not to train, from what its signal and gradient do in the whole graph."""

from __future__ import annotations

from dataclasses import replace

from initaudit.grounds import OPERATORS, analysed, born
from initaudit.risk import model, symptoms
from initaudit.risk.features import Features, measure, shares
from initaudit.types import Audit, Measured, Risk, Signals

__all__ = ["judge", "observe"]
_FOLDED = "batch norms are folded into the weights, so that this is not the signal of training"
_ENOUGH = 0.5  # of the weights, by number of values


def observe(audit: Audit, signals: Signals) -> Features | None:
    """Return what the risk is told by; None where no gradient is known."""
    return measure(audit.measured, signals, shares(audit.measured, signals, sure=analysed(audit.freedom)))


def judge(audit: Audit) -> Risk | None:
    """Return the risk that a model does not train, and the symptoms behind it; None where nothing is known.

    The probe speaks where it ran, else theory. A model that is trained has none, nor has one with NaN or infinite
    weights, of which any figure would be noise.
    """
    if not born(audit) or any(m.stats.nonfinite for m in audit.measured):
        return None
    for signals in (audit.probe, audit.theory):
        if signals is None:
            continue
        found = shares(audit.measured, signals, sure=analysed(audit.freedom))
        own = measure(audit.measured, signals, found)
        if own is None:
            continue
        told = symptoms.find(own, found, audit.measured, signals)
        capped = _FOLDED if signals.folded else _partly(audit.measured, signals)
        if capped:
            told = tuple(replace(one, capped=capped) for one in told)
        return Risk(model.risk(own), signals.by, told, _disagreement(audit, signals, model.risk(own)))
    return None


def _partly(measured: tuple[Measured, ...], signals: Signals) -> str:
    rows = [
        (m, s)
        for m, s in zip(measured, signals.layers, strict=False)
        if m.layer.kind in OPERATORS and not m.layer.weight.buffer  # a graph's adjacency has no gradient to be known
    ]
    every = sum(m.stats.count for m, _ in rows)
    known = sum(m.stats.count for m, s in rows if s.gradient is not None)
    return "" if known >= _ENOUGH * every else f"gradients are known of {known} of {every} values only"


def _disagreement(audit: Audit, used: Signals, value: float) -> str:
    if used is not audit.probe or audit.theory is None:
        return ""
    other = observe(audit, audit.theory)
    if other is None or model.severity(model.risk(other)) == model.severity(value):
        return ""
    return f"the probe gives a risk of {value:.2g}, theory one of {model.risk(other):.2g}"
