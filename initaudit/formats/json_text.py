"""JSON from a file nobody vouches for: one object, no key twice, no number that JSON does not know."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from initaudit.errors import CorruptFileError

_CONFIG_LIMIT = 64 << 20  # an index of a model with a million tensors stays below it


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise CorruptFileError(f"JSON key {again!r} stands twice in one object")
    return made


def _no_constant(word: str) -> Any:
    raise CorruptFileError(f"{word} is not JSON")


def json_object(content: bytes | memoryview, what: str, *, strict: bool = True) -> dict[str, Any]:
    """Return the one JSON object that `content` is.

    Args:
        content: UTF-8 text.
        what: how an error calls it.
        strict: refuse keys given twice, NaN and Infinity, which Python alone accepts.

    Raises:
        CorruptFileError: it is not that.
    """
    try:
        text = str(content, "utf-8")
    except UnicodeDecodeError as error:
        raise CorruptFileError(f"{what} is not UTF-8 text: {error.reason} at byte {error.start}") from None
    rules: dict[str, Any] = {"object_pairs_hook": _unique, "parse_constant": _no_constant} if strict else {}
    try:
        made = json.loads(text, **rules)
    except json.JSONDecodeError as error:
        raise CorruptFileError(f"{what} is not JSON: {error.msg} at character {error.pos}") from None
    except RecursionError:
        raise CorruptFileError(f"{what} is nested too deeply") from None
    except ValueError:  # an integer of more digits than Python converts
        raise CorruptFileError(f"{what} holds a number that is too long") from None
    if not isinstance(made, dict):
        raise CorruptFileError(f"{what} is not a JSON object")
    return made


def json_file(path: Path, *, strict: bool = True) -> dict[str, Any]:
    """Return the JSON object in a small file.

    Raises:
        CorruptFileError: it is none, or larger than any of its kind.
    """
    with path.open("rb") as file:
        content = file.read(_CONFIG_LIMIT + 1)
    if len(content) > _CONFIG_LIMIT:
        raise CorruptFileError(f"{path.name} is larger than {_CONFIG_LIMIT >> 20} MB")
    return json_object(content, path.name, strict=strict)
