"""The files of torch.save and pickle.dump: zip archives, legacy files, plain pickles; also one inside another."""

from __future__ import annotations

import gc
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from initaudit.errors import CorruptFileError, UnsafeFileError, UnsupportedError
from initaudit.formats.mapped import MappedFile
from initaudit.formats.torch import OLD_PICKLE, archive, legacy
from initaudit.formats.torch.model import build
from initaudit.formats.torch.pickle import CutShortError, MakeUnpickler, Unpickler
from initaudit.formats.torch.storage import Blob, Loaded, Storage
from initaudit.formats.torch.tensor import Rebuilder
from initaudit.types import Model, Skip

_ZIP = b"PK\x03\x04"
_SURE = 4  # bytes of instructions behind which nothing but a pickle is left
_JOBLIB = b"joblib.numpy_pickle"


def sniff_zip(path: Path, head: bytes) -> bool:
    """Whether this is a zip archive of torch.save, or any zip archive that lost its end."""
    if not head.startswith(_ZIP):
        return False
    try:
        with path.open("rb") as file:
            found = archive.Archive(Blob(b""), file)
    except (CorruptFileError, UnsafeFileError):
        return True
    return found.stem is not None and found.start == 0


@dataclass(frozen=True, slots=True)
class Opened:
    """A model, and the storages of its tensors by name."""

    model: Model
    storages: Mapping[str, Storage]


def read_zip(path: Path) -> Model:
    """Read a zip archive of torch.save."""
    return open_zip(path).model


def open_zip(path: Path, unpickler: MakeUnpickler = Unpickler) -> Opened:
    """Read a zip archive of torch.save, keeping the storages."""
    source = MappedFile(path)
    with path.open("rb") as file:
        found = archive.Archive(source, file)
    with collector_paused():
        return _opened(path, archive.load(found, "", unpickler), "torch", unpickler)


def sniff_legacy(path: Path, head: bytes) -> bool:
    """Whether the file begins with torch's magic number."""
    return legacy.begins(head)


def read_legacy(path: Path) -> Model:
    """Read a file that torch.save wrote before 1.6."""
    return open_legacy(path).model


def open_legacy(path: Path, unpickler: MakeUnpickler = Unpickler) -> Opened:
    """Read a file that torch.save wrote before 1.6, keeping the storages."""
    with collector_paused():
        return _opened(path, legacy.load(MappedFile(path), "", unpickler), "torch", unpickler)


def sniff_pickle(path: Path, head: bytes) -> bool:
    """Whether the first bytes are instructions of a pickle, one after the other."""
    if not head or (head[0] != 0x80 and head[0] not in OLD_PICKLE):
        return False
    if head[0] == 0x80 and _JOBLIB in head:
        return True
    pickle = Unpickler(head)
    try:
        pickle.load()
    except CutShortError:
        return head[0] == 0x80 or pickle.end > _SURE
    except CorruptFileError:
        return head[0] == 0x80 and pickle.end > _SURE  # a pickle, but a damaged one
    return True


def read_pickle(path: Path) -> Model:
    """Read a plain pickle that holds tensors or numpy arrays."""
    return open_pickle(path).model


def open_pickle(path: Path, unpickler: MakeUnpickler = Unpickler) -> Opened:
    """Read a plain pickle that holds tensors or numpy arrays, keeping their storages.

    Raises:
        UnsupportedError: its arrays are not in the pickle.
    """
    source = MappedFile(path)
    if _JOBLIB in bytes(source.view(0, min(source.size, 4096))):
        raise UnsupportedError("a joblib dump, whose arrays lie between the pickle's instructions, is not read yet")
    with collector_paused():
        pickle = unpickler(source.view(0, source.size), 0, None, source)
        value = pickle.load()
        left = source.size - pickle.end
        rest = (Skip("file", f"{left} bytes after the first pickle are not read"),) if left else ()
        return _opened(path, Loaded(value, set(pickle.globals), "pickle", rest), "pickle", unpickler)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Keep the garbage collector from walking, again and again, a growing heap in which nothing is garbage yet."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _opened(path: Path, loaded: Loaded, kind: str, unpickler: MakeUnpickler) -> Opened:
    names = set(loaded.names)
    storages = dict(loaded.storages)
    count = 0

    def nested(data: bytes | memoryview) -> object:
        nonlocal count
        prefix = f"nested/{count}/"
        count += 1
        inner = _load_bytes(data, prefix, unpickler)
        names.update(inner.names)
        storages.update(inner.storages)
        return inner.value

    rebuilder = Rebuilder(nested)
    model = build(loaded.value, names, str(path), kind, loaded.detail, rebuilder)
    return Opened(replace(model, skipped=model.skipped + loaded.skipped), {**storages, **rebuilder.arrays})


def _load_bytes(data: bytes | memoryview, prefix: str, unpickler: MakeUnpickler) -> Loaded:
    source = Blob(data)
    if bytes(source.view(0, min(source.size, len(_ZIP)))) == _ZIP:
        return archive.load(archive.Archive(source, io.BytesIO(data)), prefix, unpickler)
    if legacy.begins(source.view(0, min(source.size, legacy.LOOK))):
        return legacy.load(source, prefix, unpickler)
    raise UnsupportedError("a pickled string that torch would load, but that is no file of torch.save")
