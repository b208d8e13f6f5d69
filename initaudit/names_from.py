"""Names from a checkpoint: a weight that an exporter renamed is called as in a file that holds the same values.

Twins are looked for by a sum over all values that no order changes, and proven value by value: as they are, with axes
exchanged, with the gates of a recurrent layer in another order, or as blocks that lie side by side in one of the two
(queries, keys and values; the directions of a recurrent layer). Where several tensors of the checkpoint could be meant,
as with constants and copies, none gives a name.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import PurePath

import numpy as np

from initaudit.errors import InitauditError
from initaudit.layers.from_graph_names import stem
from initaudit.stats.hashing import scramble
from initaudit.types import Array, Layer, Model, Tensor

_CHUNK = 1 << 18  # elements
_GATES = (4, 3)  # blocks of an LSTM, of a GRU
_CUTS = (2, 3, 4)  # equal blocks that a fused tensor is looked at in
_MOST_PARTS = 64  # tensors side by side in one
_STATISTICS = ("weight", "bias", "running_mean", "running_var", "gamma", "beta", "moving_mean", "moving_variance")


@dataclass(frozen=True, slots=True)
class Twin:
    """What a weight is called in the checkpoint, and how it lies there."""

    name: str
    how: str  # "", "transposed", "with its gates in another order", ...


@dataclass(frozen=True, slots=True)
class _Block:
    """One of several equal blocks of a tensor along an axis."""

    tensor: Tensor
    axis: int
    count: int
    number: int

    def values(self) -> Array | None:
        whole = _values(self.tensor)
        return None if whole is None else np.split(whole, self.count, self.axis)[self.number]


@dataclass(slots=True)
class _Index:
    """The tensors of a checkpoint by what their values add up to."""

    tensors: dict[tuple[int, int], list[Tensor]] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    sizes: set[int] = field(default_factory=set)
    blocks: dict[tuple[int, int], list[_Block]] = field(default_factory=dict)  # of fused tensors

    def only(self, key: tuple[int, int]) -> Tensor | None:
        """Return the one tensor with this sum; None for none and for several."""
        found = self.tensors.get(key, [])
        return found[0] if len({tensor.identity for tensor in found}) == 1 else None


def renamed(found: Sequence[Layer], checkpoint: Model) -> tuple[Layer, ...]:
    """Return the layers under the names that their weights have in a checkpoint; those without a twin keep theirs.

    The tensors keep the names that they have in their own file. Each tensor is read in turn and let go.
    """
    index = _indexed(checkpoint)
    twins = [_twin(layer, index) for layer in found]
    if any(twin is None for twin in twins):
        _cut(index, {twin.name for twin in twins if twin is not None})
        twins = [twin or _part(layer, index) for layer, twin in zip(found, twins, strict=True)]
    file = PurePath(checkpoint.path).name
    taken = {layer.name for layer, twin in zip(found, twins, strict=True) if twin is None}
    new: list[Layer] = []
    names: dict[str, str] = {}
    for layer, twin in zip(found, twins, strict=True):
        if twin is None:
            names[layer.name] = layer.name
            new.append(layer)
            continue
        names[layer.name] = name = _free(twin.name, taken)
        taken.add(name)
        told = f"named after {file}, which holds the same values{f', {twin.how}' if twin.how else ''}"
        new.append(replace(layer, name=name, reasons=(*layer.reasons, told)))
    return tuple(replace(a, tied=names.get(a.tied, a.tied)) if a.tied else a for a in new)


def _free(name: str, taken: set[str]) -> str:
    if name not in taken:
        return name
    return next(f"{name}_{n}" for n in itertools.count(1) if f"{name}_{n}" not in taken)


def _indexed(checkpoint: Model) -> _Index:
    index = _Index()
    for tensor in checkpoint.tensors:
        if not tensor.is_float:
            continue
        index.shapes[tensor.name] = tensor.shape
        values = _values(tensor)
        if values is not None:
            total, constant = _total(values)
            if not constant:
                index.tensors.setdefault((tensor.size, total), []).append(tensor)
                index.sizes.add(tensor.size)
        del values
        tensor.release()
    return index


def _twin(layer: Layer, index: _Index) -> Twin | None:
    """Return the name of a layer's weight in the checkpoint: by its values, else by those of its bias or statistics."""
    weight = _proven(layer.weight, index)
    if weight is not None:
        return Twin(stem(weight.name), weight.how)
    for tensor in (layer.bias, *layer.extra):
        if tensor is None:
            continue
        other = _proven(tensor, index, whole=True)
        path, _, last = other.name.rpartition(".") if other is not None else ("", "", "")
        if path and last in _STATISTICS and other is not None:
            own = index.shapes.get(f"{path}.weight") or index.shapes.get(f"{path}.gamma")
            if own is not None and prod(own) == layer.weight.size:
                return Twin(path, f"in its {last}")
    return None


def _cut(index: _Index, known: set[str]) -> None:
    """Add the halves, thirds and quarters of the tensors that no weight is as a whole."""
    for tensor in [found[0] for found in index.tensors.values() if len(found) == 1]:
        if len(tensor.shape) < 2 or stem(tensor.name) in known:
            continue
        values = _values(tensor)
        if values is None:
            continue
        for axis in dict.fromkeys((0, values.ndim - 1)):
            sums = _sums(values, axis)
            for count in _CUTS:
                if len(sums) % count or len(sums) == count == 1:
                    continue
                size = values.size // count
                with np.errstate(over="ignore"):
                    totals = sums.reshape(count, -1).sum(axis=1, dtype=np.uint64)
                for number, total in enumerate(totals.tolist()):
                    index.blocks.setdefault((size, total), []).append(_Block(tensor, axis, count, number))
        tensor.release()


def _part(layer: Layer, index: _Index) -> Twin | None:
    """Return the name of a weight that is one block of a tensor in the checkpoint."""
    tensor = layer.weight
    if not tensor.is_float or tensor.size not in {size for size, _ in index.blocks}:
        return None
    values = _values(tensor)
    if values is None:
        return None
    try:
        total, constant = _total(values)
        found = index.blocks.get((tensor.size, total), [])
        if constant or len(found) != 1:
            return None
        block = found[0]
        other = block.values()
        how = None if other is None else arrangement(values, other)
        block.tensor.release()
        if how is None:
            return None
        which = f"part {block.number + 1} of {block.count}"
        return Twin(f"{stem(block.tensor.name)}.{block.number}", f"{which}, {how}" if how else which)
    finally:
        tensor.release()


def _proven(tensor: Tensor, index: _Index, whole: bool = False) -> Twin | None:
    """Return the twin of a tensor, having compared every value."""
    if not tensor.is_float or tensor.size < 2:
        return None
    values = _values(tensor)
    if values is None:
        return None
    try:
        total, constant = _total(values)
        if constant:
            return None
        twin = index.only((tensor.size, total))
        if twin is not None:
            other = _values(twin)
            how = None if other is None else arrangement(values, other)
            twin.release()
            return None if how is None else Twin(twin.name, how)
        if whole or (tensor.size, total) in index.tensors:
            return None
        return _side_by_side(values, index)
    finally:
        tensor.release()


def _values(tensor: Tensor) -> Array | None:
    try:
        return np.asarray(tensor.load())
    except InitauditError:
        return None


# ---- sums that no order changes


def _pieces(values: Array) -> Iterator[tuple[int, Array]]:
    """Yield rows of bounded size as float64, with their place; zero has one sign."""
    rows = values.reshape(1, -1) if values.ndim < 2 else values
    if values.ndim < 2:
        flat = rows[0]
        for start in range(0, len(flat), _CHUNK):
            yield start, _plain(flat[start : start + _CHUNK])
        return
    step = max(1, _CHUNK // max(1, prod(rows.shape[1:])))
    for start in range(0, len(rows), step):
        yield start, _plain(rows[start : start + step])


def _plain(values: Array) -> Array:
    if values.dtype.kind == "c":
        return np.stack([values.real, values.imag], axis=-1).astype(np.float64) + 0.0
    return values.astype(np.float64) + 0.0


def _mixed(values: Array) -> Array:
    return scramble(np.ascontiguousarray(values).view(np.uint64))


def _total(values: Array) -> tuple[int, bool]:
    """Return the sum over all values, and whether they are all the same."""
    total = np.uint64(0)
    first: float | None = None
    constant = True
    with np.errstate(over="ignore"):
        for _, some in _pieces(values):
            if first is None and some.size:
                first = float(some.flat[0])
            constant = constant and bool(np.all(some == first))
            total += _mixed(some).sum(dtype=np.uint64)
    return int(total), constant


def _sums(values: Array, axis: int) -> Array:
    """Return the sum of each slice along an axis."""
    sums = np.zeros(values.shape[axis], np.uint64)
    others = tuple(n for n in range(values.ndim) if n != axis)
    with np.errstate(over="ignore"):
        for start, some in _pieces(values):
            hashed = _mixed(some)
            part = hashed.sum(axis=others, dtype=np.uint64) if others else hashed
            if axis == 0:
                sums[start : start + len(part)] = part
            else:
                sums += part
    return sums


# ---- proofs


def arrangement(values: Array, other: Array) -> str | None:
    """Return how `values` lie in relation to `other`, None where they are not the same values.

    >>> a = np.arange(6.0).reshape(2, 3)
    >>> arrangement(a, a), arrangement(a, a.T), arrangement(a, a + 1)
    ('', 'transposed', None)
    """
    if values.size != other.size:
        return None
    if _equal(values.reshape(-1), other.reshape(-1)) and values.squeeze().shape in (
        other.squeeze().shape,
        (values.size,),
    ):
        return ""
    a, b = values.squeeze(), other.squeeze()
    if a.ndim == b.ndim and a.ndim <= 5:
        for order in itertools.permutations(range(a.ndim)):
            turned = a.transpose(order)
            if turned.shape != b.shape:
                continue
            straight = order == tuple(range(a.ndim))
            if _equal(turned, b):
                return "" if straight else "transposed"
            if _blocks_moved(turned, b):
                return "with its gates in another order" + ("" if straight else ", transposed")
    for turned in (a, a.T):
        if _equal(turned.reshape(-1), b.reshape(-1)):
            return "in another shape" if turned is a else "transposed, in another shape"
    return None


def _blocks_moved(a: Array, b: Array) -> bool:
    """Whether two arrays of one shape are the same blocks along an axis, in another order."""
    for axis, count in itertools.product(range(a.ndim), _GATES):
        if a.shape[axis] % count:
            continue
        theirs = np.split(b, count, axis)
        left = list(range(count))
        for block in np.split(a, count, axis):
            match = next((n for n in left if _equal(block, theirs[n])), None)
            if match is None:
                break
            left.remove(match)
        if not left:
            return True
    return False


def _equal(a: Array, b: Array) -> bool:
    """Compare value by value, a bounded piece at a time; NaN equals NaN."""
    if a.shape != b.shape:
        return False
    if a.ndim == 0:
        return bool(a == b)
    step = max(1, _CHUNK // max(1, prod(a.shape[1:])))
    for start in range(0, len(a), step):
        x, y = a[start : start + step], b[start : start + step]
        if x.dtype != y.dtype or x.dtype not in (np.float32, np.float64):
            x, y = _plain(x), _plain(y)
        if not np.array_equal(x, y, equal_nan=True):
            return False
    return True


def _side_by_side(values: Array, index: _Index) -> Twin | None:
    """Return the tensors of the checkpoint that make up an array, side by side along one of its axes."""
    for axis in range(values.ndim):
        extent = values.shape[axis]
        if extent < 2:
            continue
        each = values.size // extent
        lengths = sorted(
            {size // each for size in index.sizes if size % each == 0 and size < values.size}, reverse=True
        )
        if not lengths:
            continue
        with np.errstate(over="ignore"):
            upto = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_sums(values, axis), dtype=np.uint64)])
        parts = _covered(values, axis, each, lengths, upto, index)
        if parts:
            return Twin(_joined([tensor.name for tensor in parts]), "side by side")
    return None


def _covered(
    values: Array, axis: int, each: int, lengths: Sequence[int], upto: Array, index: _Index
) -> list[Tensor] | None:
    """Return the tensors that fill an axis from end to end, None where some part of it is none of them."""
    parts: list[Tensor] = []
    at, extent = 0, values.shape[axis]
    while at < extent:
        if len(parts) == _MOST_PARTS:
            return None
        for length in lengths:
            if at + length > extent:
                continue
            with np.errstate(over="ignore"):
                key = (length * each, int(upto[at + length] - upto[at]))
            tensor = index.only(key)
            if tensor is None:
                continue
            block = np.take(values, range(at, at + length), axis) if axis else values[at : at + length]
            other = _values(tensor)
            same = other is not None and arrangement(block, other) is not None
            tensor.release()
            if same:
                parts.append(tensor)
                at += length
                break
        else:
            return None
    return parts


def _joined(names: Sequence[str]) -> str:
    """Return one name for several tensors: what they share, and the rest of each.

    >>> _joined(["attn.q.weight", "attn.k.weight", "attn.v.weight"]), _joined(["rnn.weight_ih_l0", "rnn.weight_ih_l1"])
    ('attn.q+k+v', 'rnn.weight_ih_l0+weight_ih_l1')
    """
    paths = [stem(name).split(".") for name in names]
    shared = 0
    while all(len(path) > shared + 1 and path[shared] == paths[0][shared] for path in paths):
        shared += 1
    return ".".join([*paths[0][:shared], "+".join(".".join(path[shared:]) for path in paths)])
