"""From the tensors that a graph shows to those that its file stores: where new values go.

A weight may be a view of a stored tensor, or worked out from several: what only moved values (Concat, Reshape, Cast,
ScatterND) is taken apart again; what computed them (Mul, Add, DequantizeLinear, ...) has no way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile

import numpy as np

from initaudit.edits import Edit
from initaudit.errors import UnsupportedError
from initaudit.formats.onnx.lazy import Recipe, strides_of
from initaudit.formats.onnx.records import NodeRecord, TensorRecord
from initaudit.formats.onnx.scope import Flat
from initaudit.formats.patching import cast, check_writable, rewritten
from initaudit.types import Array, Tensor

_NAMED = 6  # names of tensors in one reason
_QUANTISED = frozenset({"scaled", "blocks", "quantize"})
QUANTISED = "is quantised: new values would need a new scale too; fix the model before it is quantised"


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
        self._worked_out: dict[str, Tensor] = {}
        self._depths: dict[str, int] = {}
        self._expanded: dict[object, list[str]] = {}
        filled = {name for name, node in flat.folded.items() if node.op == "ConstantOfShape"}
        self._made = filled | flat.numbers.keys()  # values that have no storage but their name
        for name, tensor in flat.constants.items():
            self._walk(tensor)
            node = flat.folded.get(name)
            if node is not None and node.op == "Expand":
                self._expanded.setdefault(tensor.identity, []).append(name)
        self._latest = _Latest()

    def _walk(self, tensor: Tensor) -> int:
        """Note everything that a tensor is worked out from; return how many steps one after the other that takes."""
        load = tensor.load
        if not isinstance(load, Recipe) or not load.parts:
            return 0
        if not load.what:
            return max(self._walk(part) for part in load.parts)
        if tensor.storage not in self._depths:
            self._worked_out[tensor.storage] = tensor
            self._depths[tensor.storage] = 1 + max(self._walk(part) for part in load.parts)
        return self._depths[tensor.storage]

    def gather(self, edits: Iterable[Edit]) -> Gathered:
        """Return the edits of what the file holds that come to edits of what its graph shows; runs none of them.

        Raises:
            UnsupportedError: new values of a tensor have no place in the file.
        """
        out = Gathered({}, {}, {})
        pending: dict[str, list[Edit]] = {}
        for edit in edits:
            self._place(edit, out, pending)
        while pending:
            key = max(pending, key=self._depths.__getitem__)
            for edit in self._undone(self._worked_out[key], pending.pop(key)):
                self._place(edit, out, pending)
        return out

    def _place(self, edit: Edit, out: Gathered, pending: dict[str, list[Edit]]) -> None:
        tensor = edit.tensor
        if not tensor.size:
            return
        check_writable(tensor)
        key = tensor.storage or tensor.name
        if key in self._made and (key in self.stored or key in self._worked_out):
            raise UnsupportedError(f"{tensor.name}: a value is called what only places in the file are")
        if repeats(tensor):
            self._store_anew(edit, out)
        elif tensor.storage in self._worked_out:
            pending.setdefault(key, []).append(edit)
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
            raise UnsupportedError(f"{tensor.name}: is worked out from {_listed(tensor.parts)} when it is used")
        raise UnsupportedError(f"{tensor.name}: does not lie in the file as it is used, or the file is another by now")

    def _check_kind(self, tensor: Tensor) -> None:
        """Refuse what only looks like the tensor that is stored: integers shown as the real numbers they stand for."""
        kinds = {known.dtype for known in self.stored.get(tensor.storage, ())}
        if kinds and tensor.dtype not in kinds:
            raise UnsupportedError(f"{tensor.name}: {QUANTISED}")

    def _store_anew(self, edit: Edit, out: Gathered) -> None:
        """Place an edit of a tensor that shows one stored value several times: what repeated it is replaced."""
        names = self._expanded.get(edit.tensor.identity, ())
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

    def _undone(self, whole: Tensor, edits: Sequence[Edit]) -> list[Edit]:
        """Return edits of the parts of a tensor that was put together from them."""
        recipe = whole.load
        if not isinstance(recipe, Recipe) or recipe.undo is None:
            raise UnsupportedError(_no_way_back(whole))
        touched = _overlaid(np.zeros(whole.shape, np.float16), [Edit(e.tensor, _ones(e.tensor)) for e in edits]) != 0
        latest, undo = self._latest, recipe.undo

        def values() -> Sequence[Array]:
            return latest.of(whole.storage, lambda: undo(_with(whole, edits, bool(touched.all()))))

        out = []
        for place, (part, mask) in enumerate(zip(recipe.parts, undo(touched), strict=True)):
            if mask.any():
                out.append(Edit(part, _only(part, np.asarray(mask), values, place)))
        return out


class _Latest:
    """The last result that was asked for: parts of one tensor are mostly written one after the other."""

    def __init__(self) -> None:
        self._key = ""
        self._held: Sequence[Array] = ()

    def of(self, key: str, make: Callable[[], Sequence[Array]]) -> Sequence[Array]:
        if key != self._key:
            self._held = make()
            self._key = key
        return self._held


def repeats(tensor: Tensor) -> bool:
    """Whether a tensor shows one stored value in several places."""
    return any(extent > 1 and step == 0 for extent, step in zip(tensor.shape, strides_of(tensor), strict=True))


def _with(whole: Tensor, edits: Sequence[Edit], covered: bool) -> Array:
    """Return the values of a tensor with its edits made, wide."""
    wide = np.dtype(np.complex128 if whole.dtype.startswith("complex") else np.float64)
    old = np.zeros(whole.shape, wide) if covered else np.asarray(whole.load()).astype(wide)
    return _overlaid(old, [Edit(edit.tensor, _held(edit)) for edit in edits])


def _held(edit: Edit) -> Callable[[], Array]:
    """Return the values of an edit once it is known that its own type has room for them."""

    def values() -> Array:
        new = edit.values()
        cast(edit.tensor, new)
        return new

    return values


def _overlaid(base: Array, edits: Sequence[Edit]) -> Array:
    """Return an array with edits made in it, whatever type their tensors have."""
    dtype = base.dtype.name
    plain = [Edit(replace(edit.tensor, dtype=dtype), edit.values) for edit in edits]
    return np.frombuffer(rewritten(base.tobytes(), plain), base.dtype).reshape(base.shape)


def _ones(tensor: Tensor) -> Callable[[], Array]:
    return lambda: np.ones(tensor.shape, np.float16)


def _only(part: Tensor, mask: Array, values: Callable[[], Sequence[Array]], place: int) -> Callable[[], Array]:
    """Return the new values of a part, its old ones bit by bit where the mask is not set."""

    def of() -> Array:
        new = values()[place]
        if mask.all():
            return new
        old = np.array(part.load())
        old[mask] = cast(part, np.where(mask, new, 0))[mask]
        return old

    return of


def _no_way_back(whole: Tensor) -> str:
    """Return why a tensor that was worked out cannot be written."""
    recipe = whole.load
    names = whole.parts or (whole.name,)
    what = "".join(takewhile(str.isalpha, recipe.what)) if isinstance(recipe, Recipe) else ""
    if what in _QUANTISED:
        return f"{whole.name}: {QUANTISED}"
    return f"{whole.name}: is worked out from {_listed(names)} by {what}, which has no way back"


def _listed(names: Sequence[str]) -> str:
    known = tuple(dict.fromkeys(names))
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + more
