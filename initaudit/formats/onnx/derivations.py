"""Weights that nodes make out of stored tensors: new values for the one, split into new values for the others.

What only moved values (Concat, Reshape, Cast, ScatterND) is taken apart again, and so is weight norm; what computed
them in another way (Mul, Add, DequantizeLinear, ...) has no way back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

import numpy as np

from initaudit.edits import Edit
from initaudit.errors import UnsupportedError
from initaudit.formats.onnx.lazy import Recipe
from initaudit.formats.onnx.ways_back import way_back
from initaudit.formats.patching import cast, check_writable, rewritten
from initaudit.types import Array, Model, Tensor

_NAMED = 6  # names of tensors in one reason
_QUANTISED = frozenset({"scaled", "blocks", "quantize"})
QUANTISED = "is quantised: new values would need a new scale too; fix the model before it is quantised"


class Derivations:
    """What the constants of a graph are worked out from."""

    def __init__(self, constants: Mapping[str, Tensor], tensors: Iterable[Tensor] = ()) -> None:
        self.wholes: dict[str, Tensor] = {}  # what is worked out, by storage
        self._kinds: dict[str, set[str]] = {}  # element types in which a storage is shown
        for tensor in (*tensors, *constants.values()):
            self._kinds.setdefault(tensor.storage or tensor.name, set()).add(tensor.dtype)
        self._depths: dict[str, int] = {}  # steps one after the other
        for tensor in constants.values():
            self._walk(tensor)

    @classmethod
    def of(cls, model: Model) -> Derivations:
        """Return those of a model that was read; without a graph there are none."""
        return cls(model.graph.constants if model.graph is not None else {}, model.tensors)

    def origins(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors (views of stored ones, mostly) that new values of a tensor of the graph go to.

        Raises:
            UnsupportedError: they have no place to go to; the reason says why.
        """
        out: list[Tensor] = []
        for edit in self.split([Edit(tensor, _ones(tensor))]):
            kinds = self._kinds.get(edit.tensor.storage or edit.tensor.name, set())
            if kinds and edit.tensor.dtype not in kinds:
                raise UnsupportedError(f"{tensor.name}: {QUANTISED}")
            if edit.tensor.parts:
                raise UnsupportedError(f"{tensor.name}: is worked out from {listed(tensor.parts)} when it is used")
            if not kinds:
                raise UnsupportedError(f"{tensor.name}: does not lie in the file as it is used")
            out.append(edit.tensor)
        return tuple(out)

    def split(self, edits: Sequence[Edit]) -> list[Edit]:
        """Return edits of tensors that are not worked out from others, whose values come to those of `edits`.

        None of the values is asked for before those of the result are.

        Raises:
            UnsupportedError: a tensor is worked out in a way that cannot be undone.
        """
        out: list[Edit] = []
        pending: dict[str, list[Edit]] = {}
        todo, latest = list(edits), _Latest()
        while todo or pending:
            for edit in todo:
                check_writable(edit.tensor)
                if edit.tensor.storage in self.wholes and edit.tensor.size:
                    pending.setdefault(edit.tensor.storage, []).append(edit)
                else:
                    out.append(edit)
            key = max(pending, key=self._depths.__getitem__, default="")
            todo = _undone(self.wholes[key], pending.pop(key), latest) if key else []
        return out

    def _walk(self, tensor: Tensor) -> int:
        """Note everything that a tensor is worked out from; return how many steps one after the other that takes."""
        load = tensor.load
        if not isinstance(load, Recipe) or not load.parts:
            return 0
        if not load.what:
            return max(self._walk(part) for part in load.parts)
        if tensor.storage not in self._depths:
            self.wholes[tensor.storage] = tensor
            self._depths[tensor.storage] = 1 + max(self._walk(part) for part in load.parts)
        return self._depths[tensor.storage]


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


def _undone(whole: Tensor, edits: Sequence[Edit], latest: _Latest) -> list[Edit]:
    """Return edits of the parts of a tensor that was put together from them."""
    way = way_back(whole)
    if way is None:
        raise UnsupportedError(_no_way_back(whole))
    touched = _touched(whole, edits)
    covered = bool(touched.all())

    def values() -> Sequence[Array]:
        return latest.of(whole.storage, lambda: way.values(_with(whole, edits, covered)))

    return [
        Edit(part, _only(part, mask, values, place))
        for place, (part, mask) in enumerate(zip(way.parts, way.masks(touched), strict=True))
        if mask.any()
    ]


def _touched(whole: Tensor, edits: Sequence[Edit]) -> Array:
    """Return which elements of a tensor its edits change."""
    if any(_same(edit.tensor, whole) for edit in edits):
        return np.broadcast_to(np.True_, whole.shape)
    ones = [Edit(edit.tensor, _ones(edit.tensor)) for edit in edits]
    return np.asarray(_overlaid(np.zeros(whole.shape, np.float16), ones) != 0)


def _same(tensor: Tensor, whole: Tensor) -> bool:
    return (tensor.shape, tensor.offset, tensor.strides) == (whole.shape, 0, None)


def _with(whole: Tensor, edits: Sequence[Edit], covered: bool) -> Array:
    """Return the values of a tensor with its edits made, wide."""
    if len(edits) == 1 and _same(edits[0].tensor, whole):
        return _held(edits[0])()
    wide = np.dtype(np.complex128 if whole.dtype.startswith("complex") else np.float64)
    with np.errstate(invalid="ignore"):
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
    new = rewritten(np.ascontiguousarray(base).reshape(-1).view(np.uint8).data, plain)
    return np.frombuffer(new, base.dtype).reshape(base.shape)


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
    return f"{whole.name}: is worked out from {listed(names)} by {what}, which has no way back"


def listed(names: Sequence[str]) -> str:
    """Return names for a reason, the first few of many."""
    known = tuple(dict.fromkeys(names))
    more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
    return ", ".join(known[:_NAMED]) + more
