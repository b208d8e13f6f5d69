"""What cures a finding: the command that does it, where there is one, beside the rule's own words."""

from __future__ import annotations

import shlex

from initaudit.cures import cured
from initaudit.types import Finding, Report, Severity, State


def command(finding: Finding, report: Report) -> str:
    """Return the command that cures a finding; empty where drawing weights again does not, or is not offered.

    A live module has no path: there it is the call. A trained model is not drawn again on a report's advice.
    """
    if finding.severity < Severity.WARNING or not cured(finding.rule) or report.state is State.TRAINED:
        return ""
    if report.model.format == "module" and not report.given:
        return "initaudit.fix(model)"
    return " ".join(
        part for part in ("initaudit fix", typed(report.given or report.model.path), report.options) if part
    )


def typed(path: str) -> str:
    """Return a path as it is typed on a command line: quoted where it must be, and never an option."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)


def remedy(finding: Finding, report: Report) -> str:
    """Return what to do in one line: the command, then the words; empty where there is nothing to do."""
    return "; or by hand: ".join(part for part in (command(finding, report), finding.remedy) if part)
