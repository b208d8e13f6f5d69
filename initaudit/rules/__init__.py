"""One file per rule; `catalogue()` finds them all."""

from __future__ import annotations

import sys
from functools import cache

from initaudit.registry import Rule, members


@cache
def catalogue() -> tuple[Rule, ...]:
    """Return every rule, by code."""
    return tuple(sorted(members(sys.modules[__name__], Rule), key=lambda rule: rule.code))
