"""What lies beside a file of weights: the JSON that says what they are for, and the other shards of the same model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from initaudit.errors import CorruptFileError
from initaudit.formats.json_text import json_file
from initaudit.types import Skip

CONFIG = "config.json"
ADAPTER = "adapter_config.json"
SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<total>\d{5})(?P<variant>\..+)?")
_SIGNS = (  # of transformers, transformers, diffusers, timm, sentence-transformers
    "model_type", "architectures", "_class_name", "pretrained_cfg", "activation_function",
)  # fmt: skip


def neighbours(weights: Path, *, signed: bool = True) -> tuple[dict[str, Any], tuple[Skip, ...]]:
    """Return the configuration that lies beside a file of weights, and what could not be read of it.

    Args:
        weights: the file.
        signed: take a config.json only if it looks like HuggingFace's; any program may have one.
    """
    skipped: list[Skip] = []
    made: dict[str, Any] = {}
    config = _lenient(weights.parent / CONFIG, skipped)
    if not signed or any(sign in config for sign in _SIGNS):
        made.update(config)
    if re.match(r"adapter[_.]", weights.name):
        adapter = _lenient(weights.parent / ADAPTER, skipped)
        if adapter:
            made["adapter"] = adapter
    shard = SHARD.fullmatch(weights.stem)
    if shard and int(shard["total"]) > 1:
        which = f"{int(shard['number'])} of {int(shard['total'])}"
        skipped.append(Skip("other shards", f"this file is shard {which}; pass the folder or its index.json for all"))
    return made, tuple(skipped)


def _lenient(path: Path, skipped: list[Skip]) -> dict[str, Any]:
    """Return a configuration, or nothing: weights are read without one too, so a damaged one is no reason to stop."""
    try:
        return json_file(path, strict=False) if path.is_file() else {}
    except OSError as error:
        skipped.append(Skip(path.name, error.strerror or "cannot be read"))
    except CorruptFileError as error:
        skipped.append(Skip(path.name, error.reason))
    return {}
