"""Files of torch.save, pickles and TorchScript archives: which bytes change when tensors get new values.

The file is read once more, noting where each storage is written. The edits of a storage change the run of bytes that it
lies in (a pickled string, a member of an archive), that one the run around it, and so on up to the file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from initaudit.edits import Edit, FilePlan
from initaudit.errors import ReadError, UnsupportedError
from initaudit.formats.mapped import MappedFile
from initaudit.formats.patching import check_writable, element_patches
from initaudit.formats.torch import expanded, files
from initaudit.formats.torch.changes import Change, Work
from initaudit.formats.torch.pickle_places import Frame, Place, Places
from initaudit.formats.torch.storage import Blob, Member, Source, Storage, Window
from initaudit.formats.torch.tensor import CAST
from initaudit.formats.torch.zip_changes import ArchiveWork
from initaudit.types import Array

StoreAnew = Callable[[ArchiveWork, list[tuple[Storage, Edit]]], None]

NO_ROOM = "repeats the same values in the file (a stride of 0), which leaves no room for different ones"
_DERIVED = {  # what stands behind the name of a storage whose values are not what the tensor shows
    "sparse": "is sparse: its values are stored without their zeros",
    "dequantised": "is quantised: new values would need a new scale too; fix the model before it is quantised",
    CAST: "is stored as another element type than it shows",
}


def plan_zip(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    """Return what changes in a zip archive of torch.save."""
    places = Places()
    return plan(path, edits, files.open_zip(path, places.unpickler).storages, places)


def plan_legacy(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    """Return what changes in a file that torch.save wrote before 1.6."""
    places = Places()
    return plan(path, edits, files.open_legacy(path, places.unpickler).storages, places)


def plan_pickle(path: Path, edits: Sequence[Edit]) -> tuple[FilePlan, ...]:
    """Return what changes in a plain pickle."""
    places = Places()
    return plan(path, edits, files.open_pickle(path, places.unpickler).storages, places)


def plan(path: Path, edits: Sequence[Edit], storages: Mapping[str, Storage], places: Places) -> tuple[FilePlan, ...]:
    """Return what changes in a file whose storages are known by name.

    Raises:
        UnsupportedError: a tensor cannot take new values, or not in its place.
        ReadError: the file is not the one that the tensors are from.
    """
    return (work(edits, storages, places).file_plan(path),)


def work(
    edits: Sequence[Edit], storages: Mapping[str, Storage], places: Places, whole: Source | None = None,
    anew: StoreAnew = expanded.store_anew,
) -> Work:  # fmt: skip
    """Return what becomes of a file whose storages are known by name, or of the part of one that `whole` stands for.

    `anew` is asked to find another place for tensors that have no room for their new values.

    Raises:
        UnsupportedError: a tensor cannot take new values, or not in its place.
        ReadError: the file is not the one that the tensors are from.
    """
    groups: dict[tuple[int, int], tuple[Storage, list[Edit]]] = {}
    tree = _Tree(places, whole, anew)
    for one in edits:
        edit = _stored(one)
        storage = _find(edit, storages)
        if expanded.repeats(edit.tensor):
            once = expanded.narrowed(edit)
            if once is None:
                tree.anew(storage, edit)
                continue
            edit = once
        node, at = tree.place(storage)
        known, found = groups.setdefault((id(node), at), (storage, []))
        found.append(edit)
        if storage.nbytes > known.nbytes:
            groups[id(node), at] = storage, found
    for storage, found in groups.values():
        tree.change(storage, found)
    return tree.done()


def _stored(edit: Edit) -> Edit:
    """Return an edit of a tensor that is conjugated or negated when it is read as one of what is stored."""
    name, *bits = edit.tensor.storage.split(" ")
    if not bits or not {"conj", "neg"}.issuperset(bits):
        return edit

    def values() -> Array:
        new = np.conj(edit.values()) if "conj" in bits else edit.values()
        return -new if "neg" in bits else new

    return Edit(replace(edit.tensor, storage=name), values)


def _find(edit: Edit, storages: Mapping[str, Storage]) -> Storage:
    """Return the storage that a tensor of the file looks at."""
    tensor = edit.tensor
    check_writable(tensor)
    storage = storages.get(tensor.storage)
    if storage is None:
        for word, why in _DERIVED.items():
            if word in tensor.storage.split(" ")[1:]:
                raise UnsupportedError(f"{tensor.name} {why}")
        if tensor.parts:
            raise UnsupportedError(f"{tensor.name} is worked out from {', '.join(tensor.parts)}, and not in the file")
        raise ReadError(f"{tensor.name} is not in the file as it was when it was read")
    return storage


class _Node:
    """A run of bytes with something in it that changes; `above` is the one that it lies in."""

    def __init__(self, above: _Node | None) -> None:
        self.above = above
        self.work = Work()
        self.depth: int = 0 if above is None else above.depth + 1

    def close(self) -> None:
        """Hand the work on to the run around it."""


class _ArchiveNode(_Node):
    def __init__(self, above: _Node, work: ArchiveWork) -> None:
        super().__init__(above)
        self.archive = work

    def close(self) -> None:
        assert self.above is not None
        self.above.work.include(self.archive.done(), 0)


class _MemberNode(_Node):
    def __init__(self, above: _ArchiveNode, name: str) -> None:
        super().__init__(above)
        self.work = above.archive.member(name)


class _StringNode(_Node):
    def __init__(self, above: _Node, value: bytes | bytearray | memoryview, place: Place) -> None:
        super().__init__(above)
        self.value, self.place = value, place

    def close(self) -> None:
        assert self.above is not None
        place = self.place
        if place.plain and not self.work.growth:
            self.above.work.include(self.work, place.start)
            return
        self.above.work.put(place.at, place.encoded(self.work.rendered(self.value)), old=place.stop - place.at)


class _Tree:
    """The runs of bytes that lie in one another, from the file down to the storages."""

    def __init__(self, places: Places, whole: Source | None, anew: StoreAnew) -> None:
        self._places = places
        self._whole = whole
        self._store_anew = anew
        self._anew: dict[int, tuple[_Node, Source | Member, dict[object, tuple[Storage, Edit]]]] = {}
        self._root = _Node(None)
        self._nodes: dict[tuple[int, str], tuple[object, _Node]] = {}  # with what they are of, lest the id be reused

    def place(self, storage: Storage) -> tuple[_Node, int]:
        """Return the run of bytes that a storage lies in, and where."""
        if storage.place is None:
            raise UnsupportedError(f"nothing tells where {storage.name} is written")
        origin, at = storage.place
        return self._node(origin), at

    def change(self, storage: Storage, edits: Sequence[Edit]) -> None:
        """Add the edits of one storage."""
        node, at = self.place(storage)
        for patch in element_patches(_Read(storage), 0, storage.nbytes, edits, big_endian=storage.big_endian):
            length = patch.stop - patch.start
            node.work.changes.append(Change(at + patch.start, at + patch.stop, length, patch.data))

    def anew(self, storage: Storage, edit: Edit) -> None:
        """Add the edit of a tensor that has no room for it in its storage.

        Raises:
            UnsupportedError: nor can it have a storage of its own.
        """
        assert storage.place is not None
        source = storage.place[0]
        node = self._archive(source) if isinstance(source, Member) else self._node(source)
        wanted = self._anew.setdefault(id(node), (node, source, {}))[2]
        same = wanted.setdefault(edit.tensor.identity, (storage, edit))[1]
        if same is not edit and not np.array_equal(same.values(), edit.values(), equal_nan=True):
            raise UnsupportedError(f"{edit.tensor.name} and {same.tensor.name} are the same, but would differ")

    def done(self) -> Work:
        """Return what becomes of the file."""
        for holder, source, wanted in self._anew.values():
            if isinstance(holder, _ArchiveNode):
                self._store_anew(holder.archive, list(wanted.values()))
            elif not isinstance(source, Member):
                expanded.store_anew_in_legacy(holder.work, source, list(wanted.values()))
        frames: dict[int, list[tuple[Work, Frame]]] = {}
        for frame in self._places.frames:
            framed = self._holder(frame.origin)
            if framed is not None:
                frames.setdefault(id(framed[0]), []).append((framed[1], frame))
        for node in (*sorted((one[1] for one in self._nodes.values()), key=lambda one: -one.depth), self._root):
            for work, frame in frames.get(id(node), ()):
                _reframe(work, frame)
            node.close()
        return self._root.work

    def _holder(self, origin: object) -> tuple[_Node, Work] | None:
        """Return what hands on the work on a pickle, and that work; None where there is none."""
        while isinstance(origin, Blob | Window):
            origin = origin.origin
        if origin is self._whole or isinstance(origin, MappedFile):
            return self._root, self._root.work
        if isinstance(origin, Member):
            node = self._nodes.get((id(origin.archive), ""), (None, None))[1]
            work = node.archive.members.get(origin.name) if isinstance(node, _ArchiveNode) else None
            return (node, work) if node is not None and work is not None else None
        known = self._nodes.get((id(origin), "string"))
        return (known[1], known[1].work) if known is not None else None

    def _node(self, origin: object) -> _Node:
        if origin is self._whole:
            return self._root
        match origin:
            case MappedFile():
                return self._root
            case Member():
                known = self._nodes.get((id(origin.archive), origin.name))
                if known is None:
                    archive = self._archive(origin)
                    known = self._nodes[id(origin.archive), origin.name] = origin, _MemberNode(archive, origin.name)
                return known[1]
            case Blob() | Window():
                return self._node(origin.origin)
            case bytes() | bytearray() | memoryview() | str():
                return self._string(origin)
        raise UnsupportedError("a tensor whose bytes are not found in the file")

    def _archive(self, member: Member) -> _ArchiveNode:
        key = id(member.archive), ""
        if key not in self._nodes:
            above = self._node(member.archive.source)
            self._nodes[key] = member.archive, _ArchiveNode(above, ArchiveWork(member.archive))
        node = self._nodes[key][1]
        assert isinstance(node, _ArchiveNode)
        return node

    def _string(self, value: bytes | bytearray | memoryview | str) -> _Node:
        key = id(value), "string"
        if key not in self._nodes:
            place = self._places.find(value)
            if place is None:
                raise UnsupportedError("a tensor of a single byte, or one whose bytes are computed, is not written")
            raw = value.encode() if isinstance(value, str) else value
            self._nodes[key] = value, _StringNode(self._node(place.origin), raw, place)
        return self._nodes[key][1]


def _reframe(work: Work, frame: Frame) -> None:
    """Mend the length of a part of a pickle."""
    inside = [change for change in work.changes if frame.start <= change.start < frame.stop]
    growth = sum(change.length - (change.stop - change.start) for change in inside)
    if growth:
        work.put(frame.at, (frame.stop - frame.start + growth).to_bytes(8, "little"))


class _Read:
    """The original bytes of a storage, as a source."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def view(self, offset: int, length: int, what: str = "data") -> memoryview:
        """Return a part."""
        return self._storage.read()[offset : offset + length]
