"""Folders that hold one model: HuggingFace's layout (transformers, diffusers, peft), or any folder with one model file.

    config.json  model.safetensors.index.json  model-00001-of-00002.safetensors  model-00002-of-00002.safetensors

The same model in several formats is read once, from safetensors rather than torch rather than ONNX; `Model.detail`
says what was read and what lies beside it unread.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from initaudit import formats
from initaudit.edits import Edit, FilePlan
from initaudit.errors import CorruptFileError, InitauditError, ReadError, UnknownFormatError, UnsupportedError
from initaudit.formats.base import Format
from initaudit.formats.beside import SHARD, neighbours
from initaudit.formats.interrupted import refuse_interrupted
from initaudit.formats.json_text import json_file
from initaudit.formats.sharded import weight_map
from initaudit.types import Model, Skip

_PIPELINE = "model_index.json"  # of diffusers: the models are in folders beside it
_SUFFIXES = {
    ".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl", ".onnx", ".tar", ".h5", ".keras", ".gguf", ".npz", ".npy",
    ".msgpack", ".tflite", ".pt2", ".pb", ".mlmodel", ".engine", ".distcp", ".model", ".jit", ".ptl",
}  # fmt: skip
_MOST = 1000  # files without such a suffix whose content is looked at
_DEEP = 3  # folders below this one searched for a hint, and how many entries of them
_FAR = 2000

_BESIDE = re.compile(  # what trainers save next to a model
    r"(training_args|optimizer|scheduler|scaler|sampler|rng_state|random_states|dl_state|tokenizer)[\w.-]*"
    r"|.*optim_states.*|tokenizer.*|sentencepiece.*|spiece.*"
)
_INDEX = re.compile(r"(?P<stem>.+)\.\w+\.index(?P<variant>\..+)?\.json")
_USUAL = re.compile(r"(diffusion_)?(pytorch_)?model(?=\.|$)")
_RANKS = ("safetensors", "sharded", "torch", "exported", "onnx")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A file in the folder that some format reads."""

    path: Path
    kind: str

    @property
    def model(self) -> str:
        """The name of the model this file is one form of: "model" for all the usual names."""
        name = self.path.name
        found = _INDEX.fullmatch(name) or SHARD.fullmatch(self.path.stem)
        stem = found["stem"] + (found["variant"] or "") if found else self.path.stem
        return _USUAL.sub("model", stem)

    @property
    def rank(self) -> int:
        """Place in the order of preference."""
        kind = "torch" if self.kind == "sharded" and ".safetensors." not in self.path.name else self.kind
        return _RANKS.index(kind) if kind in _RANKS else _RANKS.index("torch")


def sniff(path: Path, head: bytes) -> bool:
    """Whether it is a folder at all; which model is in it, or why none, is for `read` to say."""
    return not head and path.is_dir()


def read(path: Path) -> Model:
    """Return the one model in a folder.

    Raises:
        ReadError: it holds none, or several that are not the same, or one half replaced.
        UnsupportedError: it holds only what is not read, or is a pipeline of several models.
    """
    refuse_interrupted(path)
    chosen, candidates, skipped = _chosen(path)
    model = formats.read_part(chosen.path)
    config, unread = neighbours(chosen.path, signed=False)
    others = [one.path.name for one in candidates if one is not chosen]
    detail = [chosen.path.name, model.detail, f"not read: {', '.join(others)}" if others else ""]
    return replace(
        model,
        detail=", ".join(part for part in detail if part),
        config={**config, **model.config},
        skipped=(*model.skipped, *skipped, *unread),
    )


def plan(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    """Return which bytes of the files of the model in a folder change; raises what `read` and the file's format do."""
    return formats.plan(_chosen(path)[0].path, edits)


FORMAT = Format("folder", "folders with one of these", sniff, read, order=95, plan=plan)


def _chosen(path: Path) -> tuple[Candidate, list[Candidate], list[Skip]]:
    """Return the file that is read, all that could be, and those that look like a model but are none to be read."""
    names = sorted(entry.name for entry in path.iterdir() if not entry.name.startswith("."))
    if _PIPELINE in names:
        raise _pipeline(path)
    candidates, skipped, refusal = _candidates(path, names)
    if not candidates:
        raise refusal or _nothing(path, len(names))
    return _choose(candidates), candidates, skipped


def _candidates(path: Path, names: Sequence[str]) -> tuple[list[Candidate], list[Skip], InitauditError | None]:
    """Return the files that can be read, those that look like a model but cannot, and the first such refusal."""
    likely = [name for name in names if Path(name).suffix in _SUFFIXES or _INDEX.fullmatch(name)]
    others = [name for name in names if name not in set(likely) and not name.endswith(".json")]
    found: list[Candidate] = []
    skipped: list[Skip] = []
    refusal: InitauditError | None = None
    for name in likely:
        if _BESIDE.fullmatch(name) or not (path / name).is_file():
            continue
        try:
            found.append(Candidate(path / name, _kind(path / name)))
        except InitauditError as error:
            skipped.append(Skip(name, error.reason))
            refusal = refusal or error
    if not found and refusal is None:
        found = _by_content(path, others)
    shards = {shard for one in found if one.kind == "sharded" for shard in _shards(one.path)}
    return [one for one in found if one.path.name not in shards], skipped, refusal


def _kind(path: Path) -> str:
    """Return the format of a file that can be read; raise what refuses it otherwise."""
    one = formats.identify(path)
    if one.name == "refused":
        formats.read_part(path)
    return one.name


def _by_content(path: Path, names: Sequence[str]) -> list[Candidate]:
    found: list[Candidate] = []
    for name in [name for name in names if (path / name).is_file()][:_MOST]:
        try:
            kind = formats.identify(path / name).name
        except InitauditError:
            continue
        if kind != "refused":
            found.append(Candidate(path / name, kind))
    return found


def _shards(index: Path) -> set[str]:
    try:
        return set(weight_map(index).values())
    except InitauditError as error:
        raise error.at(str(index)) from None


def _choose(candidates: Sequence[Candidate]) -> Candidate:
    """Return the file to read: of the model with a usual name if there is one, in the format preferred."""
    models = {one.model for one in candidates}
    names = ", ".join(one.path.name for one in candidates[:8]) + (", ..." if len(candidates) > 8 else "")
    usual = next((name for name in ("model", "adapter_model") if name in models), None)
    if usual is None and len(models) > 1:
        raise ReadError(f"holds {len(candidates)} model files, pass one of them: {names}")
    same = [one for one in candidates if usual is None or one.model == usual]
    best = min(one.rank for one in same)
    top = [one for one in same if one.rank == best]
    if len(top) == 1:
        return top[0]
    if all(SHARD.fullmatch(one.path.stem) for one in top):
        raise ReadError(f"holds {len(top)} shards of a model, but not the index.json that goes with them: {names}")
    raise ReadError(f"holds {len(top)} files of one model, pass one of them: {names}")


def _pipeline(path: Path) -> InitauditError:
    try:
        parts = json_file(path / _PIPELINE, strict=False)
    except CorruptFileError:
        parts = {}
    folders = [name for name in sorted(parts) if isinstance(parts[name], list) and _holds_weights(path / name)]
    folders = folders or [entry.name for entry in sorted(path.iterdir()) if _holds_weights(entry)]
    if not folders:
        return ReadError("a diffusers pipeline, but none of its folders holds weights")
    return UnsupportedError(f"a diffusers pipeline of several models; pass one of its folders: {', '.join(folders)}")


def _holds_weights(path: Path) -> bool:
    return path.is_dir() and any(Path(entry.name).suffix in _SUFFIXES for entry in path.iterdir())


def _nothing(path: Path, count: int) -> InitauditError:
    """Say where below this folder there is something that looks like a model."""
    hints: list[str] = []
    seen = 0
    level = [path]
    for _ in range(_DEEP):
        below = [entry for folder in level for entry in sorted(folder.iterdir()) if entry.is_dir()]
        seen += len(below)
        if hints or seen > _FAR:
            break
        hints = [str(entry.relative_to(path)) for entry in below if _holds_weights(entry)]
        level = below
    if hints:
        return UnknownFormatError(f"no model file in this folder; below it there are some: {', '.join(hints[:6])}")
    if count > _MOST:
        return UnknownFormatError(
            f"no model file known by its suffix, nor by its content among the first {_MOST} files"
        )
    return UnknownFormatError("no model file in this folder")
