"""One file per output format; `reporters()` finds them all."""

from __future__ import annotations

import sys
from functools import cache

from initaudit.registry import members
from initaudit.reporters.base import Reporter


@cache
def reporters() -> dict[str, Reporter]:
    """Return every reporter, by name."""
    return {r.name: r for r in members(sys.modules[__name__], Reporter)}
