"""Distributed checkpoints of torch (DCP): a folder of files in which the ranks left their parts of every tensor.

    .metadata       a pickle: per tensor its size and its chunks, per chunk its file and place there
    __0_0.distcp    torch.save archives one after another, one for each chunk that rank 0 wrote

A tensor of one chunk is mapped where it lies; one of several is put together when it is asked for. Safetensors that
ranks wrote side by side (shard-00001-model-00001-of-00001.safetensors) hold the same in the headers of the files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from initaudit.edits import Edit, FilePlan
from initaudit.formats.base import Format
from initaudit.types import Model

METADATA = ".metadata"
SHARD = re.compile(r"shard-\d+-.*\.safetensors")
SHARDING = "DCP_SHARDING_INFO"
_MODULE = b"torch.distributed.checkpoint.metadata"


def _sniff(path: Path, head: bytes) -> bool:
    """Whether it is a folder with a .metadata file of DCP or with sharded safetensors, or that file itself."""
    if head:
        return head[:1] == b"\x80" and _MODULE in head
    if (path / METADATA).is_file():
        if any(path.glob("*.distcp")):
            return True
        with (path / METADATA).open("rb") as file:
            return _sniff(path, file.read(4096) or b"-")
    shards = sorted(entry.name for entry in path.iterdir() if SHARD.fullmatch(entry.name))
    if not shards:
        return False
    from initaudit.formats.dcp.shards import sharding  # noqa: PLC0415  few folders get here

    return sharding(path / shards[0]) is not None


def _read(path: Path) -> Model:
    from initaudit.formats.dcp import checkpoint  # noqa: PLC0415  it needs all that reads torch's files

    return checkpoint.read(path)


def _plan(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    from initaudit.formats.dcp import writing  # noqa: PLC0415

    return writing.plan(path, edits)


_ABOUT = "distributed checkpoints of torch (folders with .metadata and .distcp files)"
FORMAT = Format("dcp", _ABOUT, _sniff, _read, order=4, plan=_plan)
