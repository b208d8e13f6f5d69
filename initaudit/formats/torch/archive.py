"""torch.save since version 1.6: a zip archive with data.pkl and one member per storage, mapped where it lies."""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import IO

from initaudit.errors import CorruptFileError, UnsafeFileError, UnsupportedError
from initaudit.formats.torch.pickle import MakeUnpickler, Unpickler
from initaudit.formats.torch.storage import Loaded, Member, Source, Storage, storage_dtype, storage_size
from initaudit.formats.zip_names import DIRECTORY_LIMIT, directory
from initaudit.types import Global

MAX_PICKLE = 512 << 20
MAX_INFLATED = 256 << 20  # bytes of a compressed member, or MAX_RATIO times what it takes in the file
MAX_RATIO = 200
_LOCAL = struct.Struct("<4s22xHH")  # signature, ..., length of name, length of extra field
_ENCRYPTED = 1


class Archive:
    """The members of a zip archive in `source`; `file` is only used to read the central directory.

    Raises:
        CorruptFileError: there is no central directory, or a damaged one.
        UnsafeFileError: it claims to be longer than that of any checkpoint.
    """

    def __init__(self, source: Source, file: IO[bytes]) -> None:
        self.source = source
        claimed = directory(file)[1]
        if claimed > DIRECTORY_LIMIT:
            raise UnsafeFileError(f"a zip archive whose directory claims {claimed} bytes")
        try:
            with zipfile.ZipFile(file) as archive:
                self.members = {info.filename: info for info in archive.infolist()}
        except zipfile.BadZipFile as error:
            raise CorruptFileError(f"a damaged zip archive, or one cut short: {str(error)[:80]}") from None
        # zipfile raises NotImplementedError for a member of a newer format version than it knows
        except (ValueError, OSError, OverflowError, NotImplementedError, EOFError, struct.error) as error:
            raise CorruptFileError(f"a damaged zip archive: {str(error)[:80]}") from None
        self._last: tuple[str, bytes] = "", b""

    @property
    def stem(self) -> str | None:
        """What comes before "data.pkl" in a torch.save archive; None if it is no such archive, but TorchScript, say."""
        stems = [name[: -len("data.pkl")] for name in self.members if f"/{name}".endswith("/data.pkl")]
        if not stems:
            return None
        stem = min(stems, key=lambda found: found.count("/"))
        return None if f"{stem}constants.pkl" in self.members else stem

    @property
    def start(self) -> int:
        """Where the first member begins: not 0 where several archives stand one after another."""
        return min((info.header_offset for info in self.members.values()), default=0)

    def read(self, name: str, limit: int) -> bytes:
        """Return a whole member."""
        info = self.members[name]
        if info.file_size > limit:
            raise UnsafeFileError(f"{name} has {info.file_size} bytes; at most {limit} are read")
        if info.compress_type == zipfile.ZIP_STORED:
            return bytes(self.source.view(self.locate(name), info.file_size, name))
        return self.inflate(name)

    def locate(self, name: str) -> int:
        """Return where the bytes of a member begin, having checked that they lie inside the file."""
        info = self.members[name]
        if info.flag_bits & _ENCRYPTED:
            raise UnsupportedError(f"{name} is encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UnsupportedError(f"{name} is compressed by method {info.compress_type}; read are stored and deflated")
        if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
            raise CorruptFileError(f"{name} is stored in {info.compress_size} bytes, but has {info.file_size}")
        header = self.source.view(info.header_offset, _LOCAL.size, f"header of {name}")
        signature, name_length, extra_length = _LOCAL.unpack(header)
        if signature != b"PK\x03\x04":
            raise CorruptFileError(f"no member {name} at byte {info.header_offset}")
        start = info.header_offset + _LOCAL.size + name_length + extra_length
        self.source.view(start, info.compress_size, name)
        return int(start)

    def inflate(self, name: str) -> bytes:
        """Return a compressed member; the last one is kept, for tensors often share it."""
        if self._last[0] == name:
            return self._last[1]
        info = self.members[name]
        self.check_ratio(name)
        packed = self.source.view(self.locate(name), info.compress_size, name)
        try:
            data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, info.file_size + 1)
        except zlib.error as error:
            raise CorruptFileError(f"{name} cannot be decompressed: {error}") from None
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise CorruptFileError(f"{name} is damaged: its checksum or length is wrong")
        self._last = name, data
        return data

    def check_ratio(self, name: str) -> None:
        """Refuse a member that would take far more memory than the file takes space."""
        info = self.members[name]
        if info.file_size > max(MAX_INFLATED, MAX_RATIO * info.compress_size):
            raise UnsafeFileError(f"{name} would grow from {info.compress_size} to {info.file_size} bytes")


def load(archive: Archive, prefix: str = "", unpickler: MakeUnpickler = Unpickler) -> Loaded:
    """Return what was saved; the names of storages begin with `prefix`.

    Raises:
        CorruptFileError: a member contradicts the archive or the pickle.
        UnsupportedError: it is no archive of torch.save.
    """
    stem = archive.stem
    if stem is None:
        raise UnsupportedError("a zip archive without a data.pkl of torch.save")
    return load_pickle(archive, f"{stem}data.pkl", (f"{stem}data/",), f"{prefix}data/", unpickler)


def load_pickle(
    archive: Archive, member: str, folders: tuple[str, ...], prefix: str, unpickler: MakeUnpickler = Unpickler
) -> Loaded:
    """Return what one pickle in an archive holds, its storages lying in one of the folders; they are named by `prefix`.

    Raises:
        CorruptFileError: a member contradicts the archive or the pickle.
    """
    stem = member[: member.rfind("/") + 1]
    order = archive.read(f"{stem}byteorder", 64) if f"{stem}byteorder" in archive.members else b"little"
    if order not in (b"little", b"big"):
        raise CorruptFileError(f"byte order {order[:20]!r}")
    storages: dict[tuple[str, str], Storage] = {}

    def persistent(pid: object) -> object:
        match pid:
            case ("storage", Global(cls), str() | int() as key, _, int(numel), *_):
                dtype = storage_dtype(cls)
                storage = storages.get((str(key), dtype))
                if storage is None:
                    storage = Storage(f"{prefix}{key}", dtype, numel, big_endian=order == b"big")
                    places = [f"{folder}{key}" for folder in folders]
                    _place(archive, storage, next((p for p in places if p in archive.members), places[0]))
                    storages[str(key), dtype] = storage
                return storage
        raise CorruptFileError(f"a persistent id that is no storage: {str(pid)[:60]}")

    pickle = unpickler(archive.read(member, MAX_PICKLE), 0, persistent, Member(archive, member))
    value = pickle.load()
    by_name: dict[str, Storage] = {}
    for storage in storages.values():
        known = by_name.setdefault(storage.name, storage)
        if storage.nbytes > known.nbytes:
            by_name[storage.name] = storage
    return Loaded(value, set(pickle.globals), "zip archive", storages=by_name)


def _place(archive: Archive, storage: Storage, member: str) -> None:
    """Say where the bytes of `storage` are."""
    info = archive.members.get(member)
    if info is None:
        raise CorruptFileError(f"storage {storage.name} is not in the archive")
    size = storage_size(storage.dtype, storage.numel)
    if size > info.file_size:
        raise CorruptFileError(f"storage {storage.name} has {info.file_size} bytes; {storage.numel} values need {size}")
    start = archive.locate(member)
    if info.compress_type == zipfile.ZIP_STORED:
        storage.put(archive.source, start, size)
        storage.place = Member(archive, member), 0
        return
    archive.check_ratio(member)
    storage.nbytes = size
    storage.place = Member(archive, member), 0
    storage.read = lambda: memoryview(archive.inflate(member))[:size]
