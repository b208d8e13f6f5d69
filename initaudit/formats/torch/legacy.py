"""torch.save as it was until version 1.6, and still is on request: five pickles, then the storages one by one."""

from __future__ import annotations

from initaudit.errors import CorruptFileError
from initaudit.formats.torch.pickle import MakeUnpickler, Unpickler
from initaudit.formats.torch.storage import Loaded, Source, Storage, storage_dtype, storage_size
from initaudit.types import Global, Skip

MAGIC = 0x1950A86A20F9469CFC6C
_LONG = b"\x8a\x0a" + MAGIC.to_bytes(10, "little") + b"."
_BEGINNINGS = (  # the magic number as each protocol of pickle writes it; 0 cannot write what follows
    b"L%dL\n." % MAGIC,
    *(b"\x80" + bytes([protocol]) + _LONG for protocol in (2, 3)),
    *(b"\x80" + bytes([protocol]) + b"\x95" + len(_LONG).to_bytes(8, "little") + _LONG for protocol in (4, 5)),
)
LOOK = max(map(len, _BEGINNINGS))  # bytes
PROTOCOL = 1001


def begins(head: bytes | memoryview) -> bool:
    """Whether a file begins with torch's magic number."""
    return bytes(head[:LOOK]).startswith(_BEGINNINGS)


class _Storages:
    """What the persistent ids of the object name; where the bytes are is known only behind the last pickle."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.roots: dict[str, Storage] = {}
        self.views: list[tuple[Storage, str]] = []

    def persistent(self, pid: object) -> object:
        match pid:
            case ("module", Global() as cls, *_):  # with the source text of the class, which nobody needs
                return cls
            case ("storage", Global(cls), str(key), _, int(numel), *view):
                dtype = storage_dtype(cls)
                root = self.roots.setdefault(key, Storage(f"{self._prefix}storage/{key}", dtype, numel))
                match view:
                    case [] | [None]:
                        return root if root.dtype == dtype else self._view(root, key, dtype, 0, numel)
                    case [(_, int(offset), int(count))] if offset >= 0:
                        return self._view(root, key, dtype, offset, count)
        raise CorruptFileError(f"a persistent id that is no storage: {str(pid)[:60]}")

    def _view(self, root: Storage, key: str, dtype: str, offset: int, count: int) -> Storage:
        view = Storage(root.name, dtype, count, start=offset)
        self.views.append((view, key))
        return view


def load(source: Source, prefix: str = "", unpickler: MakeUnpickler = Unpickler) -> Loaded:
    """Return what was saved; the names of storages begin with `prefix`.

    Raises:
        CorruptFileError: it is no such file, or ends early.
    """
    data = source.view(0, source.size)
    storages = _Storages(prefix)
    names: set[str] = set()
    values: list[object] = []
    end = 0
    for _ in range(5):
        pickle = unpickler(data, end, storages.persistent, source)
        values.append(pickle.load())
        names |= pickle.globals.keys()
        end = pickle.end
    magic, protocol, _, value, keys = values
    if magic != MAGIC or protocol != PROTOCOL:
        raise CorruptFileError(f"no torch file of protocol {PROTOCOL}: {str(protocol)[:20]}")
    if not isinstance(keys, list) or any(key not in storages.roots for key in keys if isinstance(key, str)):
        raise CorruptFileError(f"no list of storages at byte {end}")
    for key in keys:
        root = storages.roots.get(key) if isinstance(key, str) else None
        if root is None:
            raise CorruptFileError(f"no list of storages at byte {end}")
        end = _place(source, root, end)
    there = {key for key in keys if isinstance(key, str)}
    missing = [key for key in storages.roots if key not in there]
    if missing:
        raise CorruptFileError(f"storage {missing[0]} is named but not in the file")
    for view, key in storages.views:
        root = storages.roots[key]
        view.nbytes, view.read, view.release, view.big_endian = root.nbytes, root.read, root.release, root.big_endian
    left = source.size - end
    rest = (Skip("file", f"{left} bytes after the end of what torch.load would read"),) if left else ()
    return Loaded(value, names, "legacy archive", rest, {root.name: root for root in storages.roots.values()})


def _place(source: Source, storage: Storage, start: int) -> int:
    """Say where the bytes of `storage` are and return the position behind them."""
    header = bytes(source.view(start, 8, f"the length of storage {storage.name}"))
    size = storage_size(storage.dtype, storage.numel)
    # The length is written in the byte order of the values. sys_info is no help: it tells the order of the machine,
    # and newer versions write little endian on any.
    if int.from_bytes(header, "little") != storage.numel:
        if int.from_bytes(header, "big") != storage.numel:
            found = int.from_bytes(header, "little", signed=True)
            raise CorruptFileError(f"storage {storage.name} at byte {start} has {found} values, not {storage.numel}")
        storage.big_endian = True
    source.view(start + 8, size, f"storage {storage.name}")
    storage.put(source, start + 8, size)
    return start + 8 + size
