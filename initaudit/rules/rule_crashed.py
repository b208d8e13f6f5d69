"""INI001."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.registry import rule
from initaudit.types import Audit, Finding, Severity


@rule("INI001", Severity.ERROR)
def rule_crashed(audit: Audit) -> Iterator[Finding]:
    """A rule, or what rules build on, failed on this model: a fault of initaudit, not of the model.

    ## Why it matters
    What the rule would have said is missing from the report; everything else in it still holds.

    ## How it is measured
    The flow around the rules catches the failure, names the rule and the cause, and the exit code is 2.

    ## When to ignore it
    Never; please report it. `--ignore` with the failing rule's code leaves the rule out.

    ## Seen in the wild
    Other tools that crash on a NaN in one layer say nothing about the others.

    ## Source
    Not a statement about the model.
    """
    yield from ()
