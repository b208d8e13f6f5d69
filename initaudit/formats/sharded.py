"""Sharded checkpoints: an index beside the files that hold the tensors.

    {"metadata": {"total_size": 96}, "weight_map": {"a.weight": "model-00001-of-00002.safetensors", ...}}

Shards are safetensors or torch files in the index's folder. `Tensor.storage` is the shard's name, a colon, and the
storage in that shard.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath

from initaudit import formats
from initaudit.edits import Edit, FilePlan
from initaudit.errors import CorruptFileError, ReadError, UnsafeFileError, UnsupportedError
from initaudit.formats.base import Format
from initaudit.formats.interrupted import refuse_interrupted
from initaudit.formats.json_text import json_file
from initaudit.types import Model, Skip, Tensor

_KEY = b'"weight_map"'
_FAR = 1 << 16  # the metadata in front of the map is small


def sniff(path: Path, head: bytes) -> bool:
    """Whether it is a JSON object with a weight_map; an index cut off before that is told by its name."""
    if not head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return False
    if _KEY in head or _named_index(path.name):
        return True
    with path.open("rb") as file:
        return _KEY in file.read(_FAR)


def _named_index(name: str) -> bool:
    return name.endswith(".json") and ".index." in name


def read(path: Path) -> Model:
    """Return the tensors of all shards, in the order of the index.

    Raises:
        CorruptFileError: the index is malformed, or a shard lacks what the index promises.
        ReadError: a shard is missing, or some have been replaced and others not yet.
        UnsafeFileError: a shard lies outside the folder.
        UnsupportedError: a shard is of a kind that is not read.
    """
    refuse_interrupted(path.parent)
    places = weight_map(path)
    by_shard = dict.fromkeys(places.values())
    missing = [shard for shard in by_shard if not (path.parent / shard).exists()]
    if missing:
        names = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        raise ReadError(f"{len(missing)} of its {len(by_shard)} shards missing from the folder: {names}")
    models = {shard: _shard(path.parent / shard) for shard in by_shard}
    held = {shard: {tensor.name: tensor for tensor in model.tensors} for shard, model in models.items()}
    skips = {shard: {skip.name: skip for skip in model.skipped} for shard, model in models.items()}
    tensors: list[Tensor] = []
    skipped: list[Skip] = []
    for name, shard in places.items():
        tensor = held[shard].get(name)
        if tensor is not None:
            tensors.append(replace(tensor, storage=f"{shard}:{tensor.storage or name}"))
        elif name in skips[shard]:
            skipped.append(skips[shard][name])
        else:
            raise CorruptFileError(f"the index promises tensor {name!r} in {shard}, which does not hold it")
    for shard, model in models.items():
        extra = (name for name in held[shard] if name not in places)
        skipped += [Skip(name, f"in shard {shard}, but not in the index") for name in extra]
        skipped += [skip for skip in model.skipped if skip.name not in places]
    if not tensors:
        raise UnsupportedError(f"none of its tensors can be read; {skipped[0].name}: {skipped[0].why}")
    first = next(iter(models.values()))
    detail = f"{len(models)} shard{'s' * (len(models) > 1)}" + (f", {first.detail}" if first.detail else "")
    return Model(str(path), first.format, detail, tuple(tensors), skipped=tuple(skipped))


def plan(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    """Return which bytes of which shards change; the index stays as it is.

    Raises:
        ReadError: the files are not those that the tensors were read from.
        UnsupportedError: an edit has no room in its shard.
    """
    plans = [FilePlan(path, ())]
    by_shard: dict[str, list[Edit]] = {shard: [] for shard in weight_map(path).values()}
    for edit in edits:
        shard = max((shard for shard in by_shard if edit.tensor.storage.startswith(f"{shard}:")), key=len, default="")
        if not shard:
            raise ReadError(f"tensor {edit.tensor.name!r} is in no shard of the index: the file has changed")
        inner = edit.tensor.storage.removeprefix(f"{shard}:")
        by_shard[shard].append(replace(edit, tensor=replace(edit.tensor, storage=inner)))
    for shard, found in by_shard.items():
        plans += formats.plan(path.parent / shard, found) if found else [FilePlan(path.parent / shard, ())]
    return tuple(plans)


FORMAT = Format("sharded", "index.json of sharded safetensors or torch files", sniff, read, order=20, plan=plan)


def weight_map(path: Path) -> dict[str, str]:
    """Return the shard, relative to the index's folder, of every tensor.

    Raises:
        CorruptFileError: the file is no such index.
        UnsafeFileError: a shard lies outside the folder.
        ReadError: it lists nothing.
    """
    index = json_file(path)
    places = index.get("weight_map")
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise CorruptFileError("its weight_map is not a map of tensor names to file names")
    if not places:
        raise ReadError("its weight_map lists no tensors")
    normal = {shard: inside(shard) for shard in Counter(places.values())}
    return {name: normal[shard] for name, shard in places.items()}


def inside(shard: str) -> str:
    """Return the shard's path in one spelling; links inside the folder are the user's own and may point anywhere.

    Raises:
        CorruptFileError: it is no file name.
        UnsafeFileError: it leads out of the folder.
    """
    path = PurePosixPath(shard)
    foreign = PureWindowsPath(shard)
    if not shard.isprintable() or not path.name:
        raise CorruptFileError(f"the index names a shard {shard!r}, which is no file name")
    if path.is_absolute() or foreign.drive or foreign.root or ".." in path.parts or ".." in foreign.parts:
        raise UnsafeFileError(f"the index names a shard outside its folder: {shard}")
    return str(path)


def _shard(path: Path) -> Model:
    kind = formats.identify(path).name
    if kind in {"sharded", "folder"}:  # an index may not lead round in a circle
        raise CorruptFileError("the index names this as a shard, but it holds no tensors itself", str(path))
    return formats.read_part(path)
