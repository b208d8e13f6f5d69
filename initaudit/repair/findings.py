"""What findings mean for a repair: which ones are to be cured, and by whom they are told."""

from __future__ import annotations

from collections.abc import Iterable

from initaudit.cures import CURED, Cure
from initaudit.types import Finding, Severity


def grave(findings: Iterable[Finding]) -> list[Finding]:
    """Return what is at least a warning, gravest first."""
    return sorted((f for f in findings if f.severity >= Severity.WARNING), key=lambda f: -f.severity)


def told(finding: Finding) -> bool:
    """Whether a finding is at least a warning, or would be if another one did not say the same."""
    return finding.severity >= Severity.WARNING or bool(finding.evidence.get("explained"))


def exact(finding: Finding) -> bool:
    """Whether a finding is one of the analysis of ties, which tells the sets of units."""
    return CURED.get(finding.rule) is Cure.TIES and "members" in finding.evidence


def signal(finding: Finding) -> bool:
    """Whether a finding is one on signal and gradient in the whole graph."""
    cure = CURED.get(finding.rule)
    by_risk = cure is Cure.TIES and not exact(finding)
    return by_risk or cure in (Cure.CHAIN, Cure.BRANCHES, Cure.ATTENTION, Cure.HEAD)
