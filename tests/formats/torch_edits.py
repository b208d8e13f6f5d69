"""Helpers: edit tensors of a torch file, and say independently which bytes may differ then."""

from __future__ import annotations

import io
import pickletools
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from initaudit import formats
from initaudit.dtypes import numpy_dtype
from initaudit.edits import Edit, FilePlan
from initaudit.types import Array, Tensor


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def drawn(tensor: Tensor, seed: int = 0) -> Array:
    """Return values for a tensor that its element type holds exactly."""
    values = rng(seed).integers(-8, 9, tensor.shape).astype(np.float64) / 4
    return values + 1j * values[::-1] / 2 if tensor.dtype.startswith("complex") else values


def named(path: Path) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in formats.read(path).tensors}


def made(plan: FilePlan) -> bytes:
    """Return the file that a plan makes."""
    raw = plan.path.read_bytes()
    out, at = bytearray(), 0
    for patch in plan.patches:
        assert at <= patch.start <= patch.stop <= len(raw)
        out += raw[at : patch.start]
        out += patch.data()
        at = patch.stop
    file = io.BytesIO(bytes(out) + raw[at:])
    if plan.seal is not None:
        plan.seal(file)
    return file.getvalue()


def edited(path: Path, values: Mapping[str, Array], out: str = "edited.pt") -> Path:
    """Write a file beside `path` in which tensors have new values."""
    tensors = named(path)
    edits = [Edit(tensors[name], lambda new=new: new) for name, new in values.items()]  # type: ignore[misc]
    (plan,) = formats.plan(path, edits)
    target = path.with_name(out)
    target.write_bytes(made(plan))
    return target


def redrawn(path: Path, names: Iterable[str], out: str = "edited.pt") -> tuple[Path, dict[str, Array]]:
    """Give tensors of a file new values, and see that a reader finds them, and all others as they were."""
    tensors = named(path)
    new = {name: drawn(tensors[name], seed) for seed, name in enumerate(names)}
    target = edited(path, new, out)
    after = named(target)
    assert after.keys() == tensors.keys()
    touched = {tensors[name].identity: value for name, value in new.items()}
    for name, tensor in tensors.items():
        found = after[name]
        assert (found.shape, found.dtype) == (tensor.shape, tensor.dtype)
        kind = numpy_dtype(tensor.dtype)
        wanted = touched[tensor.identity].astype(kind) if tensor.identity in touched else tensor.load()
        if tensor.identity in touched or tensor.storage not in {tensors[n].storage for n in new}:
            assert np.ascontiguousarray(found.load()).tobytes() == np.ascontiguousarray(wanted).tobytes(), name
    return target, new


def changed_bytes(old: Path | bytes, new: Path | bytes) -> set[int]:
    """Return where two files of the same length differ."""
    first, second = (np.frombuffer(one if isinstance(one, bytes) else one.read_bytes(), np.uint8) for one in (old, new))
    assert first.size == second.size
    return {int(at) for at in np.flatnonzero(first != second)}


def lying(data: bytes, tensor: Tensor) -> set[int]:
    """Return where the bytes of a tensor lie that is contiguous, or all of its storage is its own: by looking."""
    content = np.ascontiguousarray(tensor.load()).tobytes()
    assert len(content) > 8 and data.count(content) == 1
    start = data.index(content)
    return set(range(start, start + len(content)))


def checksums(data: bytes, touched: set[int], base: int = 0) -> set[int]:
    """Return where the checksums are of the members of an archive that have touched bytes."""
    found: set[int] = set()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        infos, at = archive.infolist(), archive.start_dir
    for info in infos:
        assert data[at : at + 4] == b"PK\x01\x02"
        lengths = struct.unpack_from("<HHH", data, at + 28)
        flags, names, extras = struct.unpack_from("<6xH18xHH", data, info.header_offset)
        start = info.header_offset + 30 + names + extras
        if touched & set(range(base + start, base + start + info.compress_size)):
            found |= set(range(base + at + 16, base + at + 20))
            behind = start + info.compress_size
            if flags & 8:
                assert data[behind : behind + 4] == b"PK\x07\x08"
                found |= set(range(base + behind + 4, base + behind + 8))
            else:
                found |= set(range(base + info.header_offset + 14, base + info.header_offset + 18))
        at += 46 + sum(lengths)
    return found


def sound(path: Path) -> bool:
    """Whether every checksum of an archive is right, wherever it is told."""
    data = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            return False
        for info in archive.infolist():
            flags, crc, names, extras = struct.unpack_from("<6xH6xI8xHH", data, info.header_offset)
            behind = info.header_offset + 30 + names + extras + info.compress_size
            if crc not in (info.CRC, 0 if flags & 8 else info.CRC):
                return False
            if flags & 8 and struct.unpack_from("<4sI", data, behind) != (b"PK\x07\x08", info.CRC):
                return False
    return True


def framed(data: bytes) -> bool:
    """Whether a pickle has parts that tell their lengths; each must end where an instruction ends."""
    operations = [(operation.name, argument, at or 0) for operation, argument, at in pickletools.genops(data)]
    places = {at for _, _, at in operations} | {len(data)}
    ends = [at + 9 + int(length or 0) for name, length, at in operations if name == "FRAME"]
    assert places.issuperset(ends)
    return bool(ends)
