"""Where a repair goes, and whether what it was worked out from is still there."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from initaudit import formats
from initaudit.errors import InitauditError, ReadError, UsageError, WriteError
from initaudit.formats import writing

_TORCH = frozenset({"torch", "torch-legacy", "torchscript", "exported", "pickle"})
_PROMISES = {  # what others take a file of this suffix for
    ".onnx": frozenset({"onnx"}),
    ".safetensors": frozenset({"safetensors"}),
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".pt2", ".pkl"), _TORCH),
}

Fingerprints = Mapping[Path, tuple[int, int, int]]  # inode, bytes, nanoseconds of the last change


def destination(path: Path, output: Path | None, in_place: bool, force: bool) -> Path:
    """Return where a repair will be written; told before anything is read, so that no work is lost over it.

    Raises:
        UsageError: it would fall on the original or on something that is there already.
        WriteError: there is no such folder, or no right to write in it.
    """
    usual = writing.default_target(path)
    target = path if in_place else output or usual
    if output is None and not in_place and _cached(path):
        raise UsageError("lies in a cache that others read too; name another place with -o", str(path))
    if target.is_dir() and not path.is_dir() and usual.parent == path.parent:  # an index's is beside its folder
        raise UsageError("is a folder; name the file to write", str(target))
    _refuse_suffix(path, target)
    if not in_place and path.exists() and target.exists() and path.samefile(target):
        raise UsageError("is the original; --in-place writes over it", str(target))
    if not in_place and os.path.lexists(target) and not force and not (target.is_dir() and not any(target.iterdir())):
        raise UsageError("exists already; --force writes over it, -o names another", str(target))
    parent = Path(os.path.realpath(target)).parent
    if not parent.is_dir():
        raise WriteError("no such folder", str(target.parent))
    if not os.access(parent, os.W_OK | os.X_OK):
        raise WriteError("there is no right to write in this folder", str(target.parent))
    if path.is_dir() and not in_place and parent.is_relative_to(path.resolve()):
        raise UsageError("lies inside the original; choose another -o", str(target))
    return target


def _cached(path: Path) -> bool:
    """Whether a file or folder is a revision in a cache as the HuggingFace hub has it, or part of one."""
    above = Path.cwd().joinpath(path).parents  # not resolved: the file itself is a link out of there
    return any(one.name == "snapshots" and (one.parent / "blobs").is_dir() for one in above)


def _refuse_suffix(path: Path, target: Path) -> None:
    """Refuse a name that promises another format than the original's, which a repair keeps."""
    promised = _PROMISES.get(target.suffix.lower())
    if promised is None or path.is_dir() or target.suffix.lower() == path.suffix.lower():
        return
    kind = formats.identify(path).name
    if kind not in promised and any(kind in one for one in _PROMISES.values()):
        like = path.suffix or f"another name than {target.suffix}"
        raise UsageError(f"a repair keeps the format, and {path.name} is a {kind} file; give it {like}", str(target))


def fingerprints(path: Path) -> Fingerprints:
    """Return by what to know that the files of a model, or what a folder holds, are still the same."""
    found: dict[Path, tuple[int, int, int]] = {}
    for one in originals(path):
        try:
            seen = one.stat()
        except OSError:
            continue
        if stat.S_ISREG(seen.st_mode):
            found[one] = (seen.st_ino, seen.st_size, seen.st_mtime_ns)
    return found


def unchanged(before: Fingerprints) -> None:
    """Refuse to go on where an original has changed since it was read.

    Raises:
        ReadError: one has changed, or is gone.
    """
    for path, known in before.items():
        try:
            seen = path.stat()
        except OSError as error:
            raise ReadError("it went away while it was being repaired", str(path)) from error
        if (seen.st_ino, seen.st_size, seen.st_mtime_ns) != known:
            raise ReadError("it changed while it was being repaired; nothing is written", str(path))


def size(path: Path) -> int:
    """Return the bytes of all files of a model, or of a folder."""
    return sum(known[1] for known in fingerprints(path).values())


def originals(path: Path) -> tuple[Path, ...]:
    """Return the files that a model consists of: shards and data that it names too, and all that a folder holds."""
    try:
        named = [one.path for one in formats.plan(path, ())]
    except InitauditError:  # what is wrong with it is for the reader to say
        named = []
    return tuple(dict.fromkeys((*_files(path), *named)))


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for folder, _, names in os.walk(path):
        for name in names:
            yield Path(folder, name)
