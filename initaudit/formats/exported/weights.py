"""The tensors of an exported program: raw runs of bytes with a table, or whole torch.save files inside the archive."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from typing import IO

from initaudit.dtypes import numpy_dtype
from initaudit.errors import CorruptFileError, UnsafeFileError, UnsupportedError
from initaudit.formats.exported.records import at, view
from initaudit.formats.json_text import json_object
from initaudit.formats.torch import archive as zips
from initaudit.formats.torch.archive import Archive
from initaudit.formats.torch.pickle_values import Record
from initaudit.formats.torch.storage import Blob, Member, Source, Storage, Window, checked_shape, strided
from initaudit.formats.torch.tensor import Found, Lost, Rebuilder, torch_function

MAX_JSON = 128 << 20
MAX_TENSORS = 200_000
_ZIP = b"PK\x03\x04"


class _Reader(io.RawIOBase):
    """A source as a file that can be read: the directory of an archive within is found without a copy of it all."""

    def __init__(self, source: Source) -> None:
        self._source, self._at = source, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = max(0, offset + (0, self._at, self._source.size)[whence])
        return self._at

    def readinto(self, buffer: object) -> int:
        target = memoryview(buffer)  # type: ignore[arg-type]
        length = max(0, min(len(target), self._source.size - self._at))
        target[:length] = self._source.view(self._at, length)
        self._at += length
        return length


class Weights:
    """Tensors by their dotted names, as one archive has them."""

    def __init__(self, archive: Archive, big_endian: bool) -> None:
        self.found: dict[str, Found] = {}
        self.parameters: set[str] = set()
        self.storages: dict[str, Storage] = {}
        self._archive = archive
        self._big_endian = big_endian
        self._storages: dict[tuple[str, str], Storage] = {}

    def table(self, member: str, folder: str) -> None:
        """Add what a table of payloads lists: name, file, shape and strides."""
        table = at(json_object(self._archive.read(member, MAX_JSON), member, strict=False), "config", dict, member)
        for name, entry in table.items():
            self._add(name, self._payload(name, entry, folder))
            if entry.get("is_param") is True:
                self.parameters.add(name)

    def pickled(self, member: str) -> None:
        """Add the state_dict in a torch.save file inside the archive."""
        value, rebuilder = self._saved(member)
        entries = value.items if isinstance(value, Record) and value.items else value
        if not isinstance(entries, Mapping):
            raise CorruptFileError(f"{member} holds no state_dict")
        for name, one in entries.items():
            if not isinstance(name, str):
                raise CorruptFileError(f"{member} has a key that is no text")
            if isinstance(one, Record) and torch_function(one) in ("_rebuild_parameter", "Parameter"):
                self.parameters.add(name)
            found = rebuilder.tensor(one)
            if found is not None:
                self._add(name, found)
            else:
                self._add(name, Lost("an object that is no tensor"))

    def _add(self, name: str, found: Found) -> None:
        if len(self.found) >= MAX_TENSORS:
            raise UnsafeFileError(f"more than {MAX_TENSORS} tensors")
        self.found[name] = found if isinstance(found, Lost) else replace(found, name=name)

    def _payload(self, name: str, entry: object, folder: str) -> Found:
        what = f"the entry of {name[:80]!r}"
        file = at(entry, "path_name", str, what)
        member = f"{folder}{file}"
        if member not in self._archive.members or "/" in file:
            raise CorruptFileError(f"{name[:80]!r} lies in {file[:80]!r}, which is not in the archive")
        assert isinstance(entry, Mapping)
        if entry.get("tensor_meta") is None:
            return Lost("an object that is no tensor")
        if entry.get("use_pickle"):
            value, rebuilder = self._saved(member)
            return rebuilder.tensor(value) or Lost("an object that is no tensor")
        try:
            seen = view(entry["tensor_meta"], name)
            shape, strides = checked_shape(seen.shape), checked_shape(seen.strides, "stride")
            return self._raw(member, name, seen.dtype, seen.offset, shape, strides)
        except UnsupportedError as error:
            return Lost(error.reason)

    def _raw(
        self, member: str, name: str, dtype: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> Found:
        nbytes = self._archive.members[member].file_size
        if nbytes == 0 and 0 not in shape:
            return Lost("exported without its values")
        storage = self._storages.get((member, dtype))
        if storage is None:
            storage = Storage(member, dtype, nbytes // numpy_dtype(dtype).itemsize, big_endian=self._big_endian)
            self._place(storage, member)
            self._storages[member, dtype] = self.storages[member] = storage
        try:
            return strided(storage, dtype, offset, shape, strides)
        except CorruptFileError as error:
            raise CorruptFileError(f"{name[:80]}: {error.reason}") from None

    def _place(self, storage: Storage, member: str) -> None:
        """Say where the bytes of a storage are."""
        info = self._archive.members[member]
        if info.compress_type == zipfile.ZIP_STORED:
            storage.put(self._archive.source, self._archive.locate(member), info.file_size)
            storage.place = Member(self._archive, member), 0
            return
        self._archive.check_ratio(member)
        storage.nbytes = info.file_size
        storage.place = Member(self._archive, member), 0
        storage.read = lambda: memoryview(self._archive.inflate(member))

    def _saved(self, member: str) -> tuple[object, Rebuilder]:
        """Return the value of a torch.save file inside the archive, and what makes tensors of its parts."""
        inner = self._inner(member)
        if bytes(inner.view(0, min(inner.size, 4))) != _ZIP:
            raise UnsupportedError(f"{member} is no archive of torch.save")
        file: IO[bytes] = io.BufferedReader(_Reader(inner))
        loaded = zips.load(Archive(inner, file), f"{member}/")
        self.storages.update(loaded.storages)
        return loaded.value, Rebuilder(_nothing_nested)

    def _inner(self, member: str) -> Source:
        info = self._archive.members[member]
        place = Member(self._archive, member)
        if info.compress_type == zipfile.ZIP_STORED:
            return Window(self._archive.source, self._archive.locate(member), info.file_size, place)
        return Blob(self._archive.inflate(member), place)


def _nothing_nested(data: bytes | memoryview) -> object:
    raise UnsupportedError("a pickled file inside a pickled file is not read yet")


def check_order(archive: Archive, stem: str) -> bool:
    """Return whether the raw bytes are big endian.

    Raises:
        CorruptFileError: the archive names an order that there is not.
    """
    member = f"{stem}byteorder"
    order = archive.read(member, 64) if member in archive.members else b"little"
    if order not in (b"little", b"big"):
        raise CorruptFileError(f"byte order {order[:20]!r}")
    return order == b"big"
