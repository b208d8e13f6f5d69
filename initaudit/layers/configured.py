"""The activation that a configuration names for a part of a model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from initaudit.layers import words

GENERAL = "act"  # any of the keys that configurations use for the activation of feed-forward blocks
# What modules are called in the state_dict where the configuration of that part is called otherwise.
_ALSO = {
    "text": ("language", "llm", "text", "lm"),
    "vision": ("vision", "visual", "image", "vit"),
    "audio": ("audio", "speech"),
    "backbone": ("backbone",),
}


class Configuration:
    """Answers which activation a key names, in the part of the configuration that is about a module."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._whole = config
        self._parts: list[tuple[re.Pattern[str], Mapping[str, Any]]] = []
        for key, value in config.items():
            stem = key.removesuffix("_config")
            if not isinstance(value, Mapping) or (stem == key and key not in ("encoder", "decoder", "generator")):
                continue
            names = "|".join(re.escape(n) for n in (stem, *_ALSO.get(stem, ())))
            self._parts.append((re.compile(rf"(?:^|[._])(?:{names})(?:[._]|$)"), value))

    def told(self, key: str, path: str) -> str | None:
        """Return the activation, None if the configuration names none.

        Args:
            key: of the configuration; `GENERAL` for any of the usual ones.
            path: of the module.
        """
        for named, part in self._parts:
            if named.search(path):
                return _under(part, key)
        return _under(self._whole, key)


def _under(config: Mapping[str, Any], key: str) -> str | None:
    for k in words.CONFIG_ACTIVATION if key == GENERAL else (key,):
        value = config.get(k)
        if isinstance(value, str):
            name = words.activation(value)
            if name:
                return name
    return None
