"""What a reporter is, and the words every reporter uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from initaudit.types import Report, Severity


@dataclass(frozen=True, slots=True)
class Style:
    """How much to say, and on what: nothing else reaches a reporter."""

    width: int = 80
    colour: bool = False
    verbosity: int = 0  # -1 findings only, 0 folded table, 1 every row and every skip
    many: bool = False  # several paths were given, whatever became of them


@dataclass(frozen=True, slots=True)
class Reporter:
    """An output format: a pure function from reports to text."""

    name: str
    render: Callable[[Sequence[Report], Style], str]


def printable(text: str) -> str:
    """Return text with control characters spelled out: names come from strangers, and a terminal obeys what it gets."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def counts(report: Report) -> dict[Severity, int]:
    """Return the number of findings by severity, all severities present."""
    return {s: sum(f.severity is s for f in report.findings) for s in Severity}


def by_layer(report: Report) -> dict[str, str]:
    """Return the contract's verdict for each layer name: ok, info, warning or error."""
    worst: dict[str | None, Severity] = {}
    for f in report.findings:
        for name in (f.layer, *f.also):
            worst[name] = max(f.severity, worst.get(name, f.severity))
    return {m.layer.name: worst[m.layer.name].label if m.layer.name in worst else "ok" for m in report.measured}


def unjudged(report: Report) -> str:
    """Return why nobody told signal and gradient, and which option would; empty where someone did."""
    if any(m.signal is not None for m in report.measured):
        return ""
    if report.theory is not None and report.theory.why:
        return report.theory.why
    return "there is no graph (--model, --arch or an ONNX export gives one)" if report.model.graph is None else ""
