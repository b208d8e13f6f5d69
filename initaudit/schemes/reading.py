"""From the text of a scheme to its row, and the list that the command line prints."""

from __future__ import annotations

import math

from initaudit.errors import UsageError
from initaudit.schemes.row import Scheme, Value
from initaudit.schemes.table import METHODS, ROWS


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-").strip("-")


_NAMES = {_plain(name): row for row in reversed((*ROWS, *METHODS)) for name in (row.name, *row.aliases)}


def parse(text: str) -> tuple[Scheme, dict[str, Value]]:
    """Return the row and the parameters of "name:key=value,...".

    Raises:
        UsageError: unknown scheme or parameter (the reason lists what there is), or a value that does not fit.
    """
    name, _, tail = text.partition(":")
    row = _NAMES.get(_plain(name))
    if row is None:
        raise UsageError(f"no scheme {name!r}; there are {', '.join(r.name for r in (*ROWS, *METHODS))}")
    params: dict[str, Value] = {}
    for item in filter(None, (part.strip() for part in tail.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if not equals:
            raise UsageError(f"{item!r} in {text!r} is not name=value")
        try:
            params[key] = float(value)
        except ValueError:
            params[key] = value.lower()
    row.params(params)
    return row, params


def listing() -> tuple[str, ...]:
    """Return one line per scheme for the command line: name, other names, parameters, what it does, source."""
    lines: list[str] = []
    for row in (*ROWS, *METHODS):
        settings = ", ".join(
            f"{k}=" if isinstance(v, float) and math.isnan(v) else f"{k}={v}" if isinstance(v, str) else f"{k}={v:.4g}"
            for k, v in row.defaults.items()
        )
        lines.append(f"{row.name:18}{row.about}")
        lines.extend(
            f"{'':18}{what} {text}" for what, text in (("also", ", ".join(row.aliases)), ("with", settings)) if text
        )
        lines.append(f"{'':18}{row.source}")
    return tuple(lines)
