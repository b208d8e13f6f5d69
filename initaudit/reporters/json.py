"""The report contract, schema initaudit.report/1.

    {"schema": "initaudit.report/1", "tool": {"name": "initaudit", "version": "0.1.0"},
     "source": {"path": "model.onnx", "format": "onnx", "graph": "onnx"}, "model": {...}, "layers": [...],
     "symmetry": {...}, "findings": [...], "skipped": [...],
     "summary": {"errors": 1, ..., "verdict": "unhealthy", "coverage": 1.0}}

One path gives an object, several an array of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from initaudit.freedom import Freedom, LayerFreedom
from initaudit.reporters.agreement import FIGURES, compared
from initaudit.reporters.base import Reporter, Style, by_layer, counts
from initaudit.reporters.curing import command, remedy
from initaudit.types import Finding, Measured, Report, Severity, Signal, Signals
from initaudit.version import __version__

_NOTHING = Signal()
_MOST = 64  # sets of tied units of a layer, and units of a set, that are listed


def document(report: Report) -> dict[str, Any]:
    """Return the contract's object for one report, made of plain values; what is not finite is None."""
    n = counts(report)
    verdicts = by_layer(report)
    read = _read(report)
    made: dict[str, Any] = plain(
        {
            "schema": "initaudit.report/1",
            "tool": {"name": "initaudit", "version": __version__},
            "source": {"path": report.model.path, "format": report.model.format, "graph": report.model.graph_source},
            "model": {
                "parameters": report.parameters,
                "tensors": len(report.model.tensors),
                "layers": len(report.measured),
                "state": str(report.state),
                "state_reasons": list(report.state_reasons),
                "detail": report.model.detail,
            },
            "layers": [_layer(m, verdicts[m.layer.name], read) for m in report.measured],
            "symmetry": _symmetry(report.freedom),
            "findings": [_finding(f, report) for f in report.findings],
            "skipped": [{"name": s.name, "why": s.why} for s in report.skipped],
            "summary": {
                "errors": n[Severity.ERROR],
                "warnings": n[Severity.WARNING],
                "infos": n[Severity.INFO],
                "verdict": report.verdict,
                "coverage": report.coverage,
                "capped": sum(f.capped is not None for f in report.findings),
                "probe": _signals(report.probe),
                "theory": _signals(report.theory),
                "risk": _risk(report),
                "agreement": _agreement(report),
            },
        }
    )
    return made


def _layer(m: Measured, verdict: str, read: Collection[str]) -> dict[str, Any]:
    layer, stats = m.layer, m.stats
    signal = m.signal or _NOTHING
    return {
        "name": layer.name,
        "kind": layer.kind,
        "weight": layer.weight.name,
        "bias": layer.bias.name if layer.bias else None,
        "shape": list(layer.weight.shape),
        "dtype": layer.weight.dtype,
        "groups": layer.groups,
        "fan_in": _fan(layer.fan_in),
        "fan_out": _fan(layer.fan_out),
        "activation": layer.activation,
        "evidence": layer.evidence.label,
        "units": layer.units,
        "effective_width": m.freedom.width if m.freedom else None,
        "mean": stats.mean,
        "std": stats.std,
        "min": stats.min,
        "max": stats.max,
        "zeros": stats.zeros,
        "nonfinite": stats.nonfinite,
        "expected": {"scheme": m.expected.scheme, "std": m.expected.std} if m.expected else None,
        "variance_ratio": m.variance_ratio,
        "identified": {"scheme": m.identified.scheme, "law": m.identified.law} if m.identified else None,
        "forward_variance": signal.forward_variance,
        "relative_gradient": signal.relative_gradient,
        "verdict": verdict,
        "role": str(layer.role),
        "tags": list(layer.tags),
        "depth": list(layer.depth) if layer.depth else None,
        "fan_evidence": layer.fan_evidence.label,
        "activation_evidence": layer.activation_evidence.label,
        "role_evidence": layer.role_evidence.label,
        "kurtosis": stats.kurtosis,
        "parts": list(layer.parts),
        "part_std": [math.sqrt(v) if v >= 0 else None for v in stats.part_variance],
        "reasons": list(layer.reasons),
        "signal_by": "probe" if m.probed else "theory" if m.predicted else None,
        "second_moment": signal.second_moment,
        "input_correlation": signal.input_correlation,
        "dead": signal.dead,
        "saturated": signal.saturated,
        "gradient": signal.gradient,
        "common": signal.common,
        "contrast": signal.contrast,
        "tied": signal.tied,
        "behind_gate": signal.behind_gate if m.signal else None,
        "gate": _gate(signal),
        "theory": _theory_beside(m),
        "wake": _wake(m, read),
        "ties": _ties(m.freedom),
    }


def _read(report: Report) -> frozenset[str]:
    """Return the names of weights of which a graph tells when they first move."""
    graph = report.model.graph
    if report.freedom is None or graph is None or report.model.open:
        return frozenset()
    return frozenset(tensor.name for tensor in graph.constants.values())


def _wake(m: Measured, read: Collection[str]) -> int | None:
    """Return the step at which a weight first moves, 0 for never; None where no graph tells."""
    if m.movement is not None:
        return m.movement.wake
    return 1 if m.layer.weight.name in read else None


def _ties(own: LayerFreedom | None) -> dict[str, Any] | None:
    """Return which units stay equal, or alike in another way; None where there are none."""
    if own is None:
        return None
    sets = {"classes": own.classes, "nearly": own.nearly, "twins": own.twins}
    if not any(sets.values()):
        return None
    return {
        "start": own.start or None,
        "breaks": list(own.breaks),
        **{word: [list(units[:_MOST]) for units in found[:_MOST]] for word, found in sets.items()},
        "counts": {word: {"sets": len(found), "units": sum(map(len, found))} for word, found in sets.items()},
    }


def _symmetry(found: Freedom | None) -> dict[str, Any] | None:
    """Return what is said of the whole, and the parameters that do not move as a whole at the first step."""
    if found is None:
        return None
    return {
        "why": found.why or None,
        "unread": list(found.unread),
        "steps": found.steps,
        "parameters": [
            {
                "name": p.name,
                "size": p.size,
                "wake": p.wake,
                "late": [{"step": step, "elements": n} for step, n in p.late],
                "dead": p.dead,
                "cancelled": p.cancelled,
                "cause": p.cause.value if p.cause else None,
                "blocked_by": list(p.blocked_by),
            }
            for p in found.parameters
        ],
    }


def _theory_beside(m: Measured) -> dict[str, Any] | None:
    """Return what theory says where the probe's figures are shown."""
    if m.probed is None or m.predicted is None:
        return None
    return {
        "forward_variance": m.predicted.forward_variance,
        "relative_gradient": m.predicted.relative_gradient,
    }


def _gate(p: Signal) -> dict[str, Any] | None:
    """Return the gate that a layer sleeps behind, or how a gate itself is pulled."""
    if p.gate_gradient is None:
        return None
    return {
        "behind": p.gate or None,
        "gradient": p.gate_gradient,
        "open_forward_variance": p.open_forward_variance,
        "open_relative_gradient": p.open_relative_gradient,
    }


def _signals(told: Signals | None) -> dict[str, Any] | None:
    """Return what a judge says of the whole: attention, outputs, and what it could not read."""
    if told is None:
        return None
    return {
        "why": told.why or None,
        "unread": list(told.unread),
        "folded": told.folded,
        "inputs": told.inputs,
        "macs": told.macs,
        "attention": [{"name": a.name, "entropy": a.entropy, "spread": a.spread} for a in told.attention],
        "outputs": [
            {"name": h.name, "shape": list(h.shape), "variance": h.variance, "std": h.std, "excess_loss": h.excess_loss}
            for h in told.heads
        ],
    }


def _risk(report: Report) -> dict[str, Any] | None:
    risk = report.risk
    if risk is None:
        return None
    return {
        "value": None if report.folded else risk.value,
        "by": risk.by,
        "symptoms": [
            {
                "kind": s.kind,
                "severity": s.severity.label,
                "risk": s.risk,
                "value": s.value,
                "layers": list(s.layers),
                "factor": s.factor,
                "depth": s.depth,
                "capped": s.capped or None,
            }
            for s in risk.symptoms
        ],
    }


def _agreement(report: Report) -> dict[str, Any] | None:
    """Return how far theory and probe are apart; None where only one of them spoke."""
    found = [a for a in (compared(report, figure) for figure in FIGURES) if a is not None]
    if not found:
        return None
    told: dict[str, Any] = {
        a.figure: {"layers": a.layers, "median": a.median, "worst": a.worst, "worst_layer": a.worst_layer}
        for a in found
    }
    return {**told, "disagreement": (report.risk.disagreement if report.risk else "") or None}


def _fan(fan: float | None) -> int | None:
    return None if fan is None else max(1, round(fan))


def _finding(f: Finding, report: Report) -> dict[str, Any]:
    return {
        "rule": f.rule,
        "name": f.name,
        "severity": f.severity.label,
        "layer": f.layer,
        "tensor": f.tensor,
        "message": f.message,
        "evidence": f.evidence,
        "remedy": remedy(f, report),
        "fix": command(f, report) or None,
        "capped_from": f.capped.label if f.capped is not None else None,
    }


def plain(value: Any) -> Any:
    """Return plain Python values: numpy scalars unwrapped, what is not finite as None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _render(reports: Sequence[Report], style: Style) -> str:
    documents = [document(r) for r in reports]
    return (
        json.dumps(documents if style.many else documents[0] if documents else [], indent=2, ensure_ascii=True) + "\n"
    )


REPORTER = Reporter("json", _render)
