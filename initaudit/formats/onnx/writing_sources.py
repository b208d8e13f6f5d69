"""From the tensors that a graph shows to those that its file stores: where new values go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from initaudit.edits import Edit
from initaudit.errors import UnsupportedError
from initaudit.formats.onnx.derivations import QUANTISED, Derivations, listed
from initaudit.formats.onnx.records import NodeRecord, TensorRecord
from initaudit.formats.onnx.scope import Flat
from initaudit.formats.patching import check_writable
from initaudit.strides import strides_of
from initaudit.types import Tensor


@dataclass(frozen=True, slots=True)
class Gathered:
    """Edits by what they change."""

    stored: dict[str, list[Edit]]  # by storage of tensors of the file
    numbers: dict[int, list[Edit]]  # by the byte where the attribute starts that lists the values
    remade: dict[int, Remade]  # by the byte where the node starts


@dataclass(frozen=True, slots=True)
class Remade:
    """A node whose result is stored anew."""

    node: NodeRecord
    tensor: Tensor  # the result, whole
    edits: list[Edit]


class Sources:
    """What the constants of a flat graph come from."""

    def __init__(self, flat: Flat) -> None:
        self.flat = flat
        self.stored: dict[str, list[Tensor]] = {}
        self.records: dict[str, TensorRecord] = {}
        for record, tensor in flat.source.stored():
            self.stored.setdefault(tensor.storage, []).append(tensor)
            self.records.setdefault(tensor.storage, record)
        for storage, sparse in tuple(flat.source.sparse_ones.items()):
            dense = flat.source.sparse(sparse)
            if isinstance(dense, Tensor):
                self.stored[storage] = [dense]
                self.records[storage] = sparse.values
        self._derivations = Derivations(flat.constants)
        self._repeated: dict[object, list[str]] = {}
        shown = ((name, flat.constants[name]) for name in flat.folded)
        filled = {name for name, tensor in shown if not tensor.storage and tensor.name == name}
        self._made = filled | flat.numbers.keys()  # values that have no storage but their name
        if not self._made.isdisjoint((*self.stored, *self._derivations.wholes)):
            raise UnsupportedError("a value of the graph is called what only places in a file are")
        for name, tensor in flat.constants.items():
            node = flat.folded.get(name)
            if node is not None and node.op != "Identity" and len(node.outputs) == 1 and repeats(tensor):
                self._repeated.setdefault(tensor.identity, []).append(name)

    def gather(self, edits: Sequence[Edit]) -> Gathered:
        """Return the edits of what the file holds that come to edits of what its graph shows; runs none of them.

        Raises:
            UnsupportedError: new values of a tensor have no place in the file.
        """
        out = Gathered({}, {}, {})
        whole = [edit for edit in edits if edit.tensor.size]
        for edit in (e for e in whole if repeats(e.tensor)):
            check_writable(edit.tensor)
            self._store_anew(edit, out)
        for edit in self._derivations.split([e for e in whole if not repeats(e.tensor)]):
            self._place(edit, out)
        return out

    def _place(self, edit: Edit, out: Gathered) -> None:
        tensor = edit.tensor
        key = tensor.storage or tensor.name
        if repeats(tensor):
            self._store_anew(edit, out)
        elif tensor.storage in self.stored:
            self._check_kind(tensor)
            out.stored.setdefault(key, []).append(edit)
        elif key in self.flat.numbers:
            out.numbers.setdefault(self.flat.numbers[key], []).append(edit)
        elif key in self._made:
            self._remake(key, edit, out)
        else:
            self._by_name(edit, out)

    def _by_name(self, edit: Edit, out: Gathered) -> None:
        """Place an edit of a tensor that has no storage but a stored one's name, or say why there is no place."""
        tensor = edit.tensor
        named = self.flat.constants.get(tensor.name) if not tensor.storage else None
        if named is not None and named.storage in self.stored and named.shape == tensor.shape:
            self._check_kind(replace(tensor, storage=named.storage))
            out.stored.setdefault(named.storage, []).append(Edit(named, edit.values))
            return
        if tensor.parts:
            raise UnsupportedError(f"{tensor.name}: is worked out from {listed(tensor.parts)} when it is used")
        raise UnsupportedError(f"{tensor.name}: does not lie in the file as it is used, or the file is another by now")

    def _check_kind(self, tensor: Tensor) -> None:
        """Refuse what only looks like the tensor that is stored: integers shown as the real numbers they stand for."""
        kinds = {known.dtype for known in self.stored.get(tensor.storage, ())}
        if kinds and tensor.dtype not in kinds:
            raise UnsupportedError(f"{tensor.name}: {QUANTISED}")

    def _store_anew(self, edit: Edit, out: Gathered) -> None:
        """Place an edit of a tensor that shows one stored value several times: what repeated it is replaced."""
        names = self._repeated.get(edit.tensor.identity, ())
        if not names:
            raise UnsupportedError(f"{edit.tensor.name}: one stored value is used in several places of it")
        for name in names:
            self._remake(name, edit, out)

    def _remake(self, name: str, edit: Edit, out: Gathered) -> None:
        node, whole = self.flat.folded[name], self.flat.constants[name]
        known = out.remade.setdefault(node.at, Remade(node, whole, []))
        if known.tensor.shape != whole.shape:
            raise UnsupportedError(f"{name}: one node of a function makes this weight in several shapes")
        plain = replace(edit.tensor, offset=0, strides=None) if repeats(edit.tensor) else edit.tensor
        known.edits.append(Edit(plain, edit.values))


def repeats(tensor: Tensor) -> bool:
    """Whether a tensor shows one stored value in several places."""
    return any(extent > 1 and step == 0 for extent, step in zip(tensor.shape, strides_of(tensor), strict=True))
