"""Axes turned, and values chosen by position or index.

A transpose says by `perm` how the axes stand after it; where the number of axes is not known, by `swap` which two
change places, or by `reverse` that all do. The attribute `index` of a slice, a gather_nd or a scatter_nd is the tuple
between the brackets of x[...]: numbers, slices, Ellipsis, None for a new axis, and Refs for what is chosen by values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import EllipsisType
from typing import Any

from initaudit.torch_ops.bench import Bench
from initaudit.torch_ops.bind import literal, refs
from initaudit.types import Call, Ref

Values = Mapping[str, Any]
Outputs = tuple[str, ...]

_ALL = slice(None)
_TRUTHS = frozenset({
    "greater", "less", "greater_or_equal", "less_or_equal", "equal", "and", "or", "xor", "not", "isnan", "isinf",
})  # fmt: skip

# ---- axes


def _turn(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    """T and its like: all axes in reverse, of matrices the last two."""
    x = values.get("x")
    if not isinstance(x, Ref):
        return False
    whole = call.target.split(".")[-2:] == ["T", "__get__"]
    rank = bench.rank(x)
    if rank is None and whole:
        bench.emit("transpose", (x.name,), outputs, {"reverse": True}, call)
        return True
    if rank is None:
        return _swapped(bench, x, -2, -1, outputs, call)
    perm = list(range(rank))
    if whole or rank < 2:
        perm.reverse()
    else:
        perm[-2], perm[-1] = perm[-1], perm[-2]
    bench.emit("transpose", (x.name,), outputs, {"perm": perm}, call)
    return True


def _transpose(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x, first, second = (values.get(name) for name in ("x", "dim0", "dim1"))
    if not isinstance(x, Ref) or not isinstance(first, int) or not isinstance(second, int):
        return False
    return _swapped(bench, x, first, second, outputs, call)


def _swapped(bench: Bench, x: Ref, first: int, second: int, outputs: Outputs, call: Call) -> bool:
    rank = bench.rank(x)
    if rank is None:
        bench.emit("transpose", (x.name,), outputs, {"swap": (first, second)}, call)
        return True
    perm = list(range(rank))
    if not -rank <= min(first, second) <= max(first, second) < rank:
        return False
    perm[first], perm[second] = perm[second], perm[first]
    bench.emit("transpose", (x.name,), outputs, {"perm": perm}, call)
    return True


def _permute(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x, dims = values.get("x"), values.get("dims")
    if not isinstance(x, Ref) or not isinstance(dims, (tuple, list)) or not all(isinstance(d, int) for d in dims):
        return False
    perm = [d + len(dims) if d < 0 else d for d in dims]
    bench.emit("transpose", (x.name,), outputs, {"perm": perm}, call)
    return True


def _movedim(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x = values.get("x")
    if not isinstance(x, Ref):
        return False
    rank = bench.rank(x)
    moved = [_many(values.get(name)) for name in ("source", "destination")]
    if rank is None or len(moved[0]) != len(moved[1]) or any(not -rank <= d < rank for m in moved for d in m):
        bench.emit("transpose", (x.name,), outputs, {}, call)
        return True
    source, to = ([d % rank for d in m] for m in moved)
    rest = iter([d for d in range(rank) if d not in source])
    perm = [source[to.index(d)] if d in to else next(rest) for d in range(rank)]
    bench.emit("transpose", (x.name,), outputs, {"perm": perm}, call)
    return True


def _many(value: Any) -> list[int]:
    return [value] if isinstance(value, int) else [v for v in value or () if isinstance(v, int)]


# ---- choices


def _select(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    return _cut(bench, values, values.get("index"), outputs, call)


def _slice(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    start, end = values.get("start"), values.get("end")
    length = values.get("length")
    if length is not None:
        if isinstance(start, int) and isinstance(length, int):
            end = start + length if start + length or start >= 0 else None
        else:
            end = length
    if isinstance(end, int) and end >= 2**62:
        end = None
    return _cut(bench, values, slice(start or None, end, values.get("step")), outputs, call)


def _cut(bench: Bench, values: Values, what: Any, outputs: Outputs, call: Call) -> bool:
    x, dim = values.get("x"), values.get("dim", 0)
    if not isinstance(x, Ref) or not isinstance(dim, int):
        return False
    index = (*(_ALL,) * dim, what) if dim >= 0 else (Ellipsis, what, *(_ALL,) * (-dim - 1))
    return _chosen(bench, x, index, outputs, call)


def _getitem(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x, index = values.get("x"), values.get("index")
    if not isinstance(x, Ref):
        return False
    return _chosen(bench, x, index if isinstance(index, tuple) else (index,), outputs, call)


def _index(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x, indices = values.get("x"), values.get("indices")
    if not isinstance(x, Ref) or not isinstance(indices, (tuple, list)):
        return False
    return _chosen(bench, x, tuple(_ALL if i is None else i for i in indices), outputs, call)


def _chosen(bench: Bench, x: Ref, index: tuple[Any, ...], outputs: Outputs, call: Call) -> bool:
    by_value = [k for k, i in enumerate(index) if isinstance(i, (Ref, tuple))]
    known = all(i is None or isinstance(i, (int, slice, EllipsisType, Ref)) or literal(i) for i in index)
    if not known:
        return False
    if not by_value:
        return _cut_out(bench, x, index, outputs, call)
    place = by_value[0]
    axis = _axis(index, place, bench.rank(x))
    if len(by_value) == 1 and axis is not None and all(_whole(i) for k, i in enumerate(index) if k != place):
        bench.emit("gather", (x.name, bench.operand(index[place])), outputs, {"axis": axis}, call)
        return True
    names = [bench.operand(index[k]) for k in by_value]
    bench.emit("gather_nd", (x.name, *names), outputs, {"index": index}, call)
    return True


def _cut_out(bench: Bench, x: Ref, index: tuple[Any, ...], outputs: Outputs, call: Call) -> bool:
    more = [ref.name for ref in refs(index)]
    if all(_whole(i) or i is None for i in index):
        axes = _new_axes(index)
        op = "unsqueeze" if axes else "identity"
        bench.emit(op, (x.name,), outputs, {"axes": axes} if axes else {}, call)
        return True
    bench.emit("slice", (x.name, *more), outputs, {"index": index}, call)
    return True


def _whole(index: Any) -> bool:
    return index is Ellipsis or (isinstance(index, slice) and index == _ALL)


def _new_axes(index: tuple[Any, ...]) -> list[int]:
    """Return the new axes as they stand in the result, from its end for those after an ellipsis."""
    gap = next((k for k, i in enumerate(index) if i is Ellipsis), len(index))
    return [k if k < gap else k - len(index) for k, i in enumerate(index) if i is None]


def _axis(index: tuple[Any, ...], place: int, rank: int | None) -> int | None:
    """Return which axis the index at a place is for, None where that takes the rank and it is not known."""
    if any(i is None for i in index):
        return None
    if Ellipsis not in index[:place]:
        return place
    return None if rank is None else rank - (len(index) - place)


# ---- values put in


def _setitem(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x, index, value = (values.get(name) for name in ("x", "index", "value"))
    if not isinstance(x, Ref) or not (isinstance(value, Ref) or literal(value)):
        return False
    index = index if isinstance(index, tuple) else (index,)
    if all(_whole(i) for i in index):
        bench.emit("identity", (bench.operand(value),), outputs, {}, call)
        return True
    _put(bench, x, index, value, outputs, call)
    return True


def _index_put(bench: Bench, values: Values, outputs: Outputs, call: Call) -> bool:
    x, indices, value = (values.get(name) for name in ("x", "indices", "values"))
    if (
        not isinstance(x, Ref)
        or not isinstance(indices, (tuple, list))
        or not (isinstance(value, Ref) or literal(value))
    ):
        return False
    index = tuple(_ALL if i is None else i for i in indices)
    _put(bench, x, index, value, outputs, call, values.get("accumulate") is True)
    return True


def _put(
    bench: Bench, x: Ref, index: tuple[Any, ...], value: Any, outputs: Outputs, call: Call, adds: bool = False
) -> None:
    more = [ref.name for ref in refs(index)]
    one = not isinstance(value, (Ref, tuple)) or (isinstance(value, Ref) and bench.rank(value) == 0)
    if len(index) == 1 and more and one and not adds and _mask(bench, more[0]):
        bench.emit("where", (more[0], bench.operand(value), x.name), outputs, {}, call)
        return
    inputs = (x.name, (*more, "")[0], bench.operand(value), *more[1:])
    bench.emit("scatter_nd", inputs, outputs, {"index": index}, call)


def _mask(bench: Bench, name: str) -> bool:
    """Whether a value was made by a comparison, so that it chooses places and is no list of them."""
    made = next((node for node in reversed(bench.nodes) if name in node.outputs), None)
    return made is not None and made.op in _TRUTHS


HANDLERS: Mapping[str, Callable[[Bench, Values, Outputs, Call], bool]] = {
    "turn": _turn, "transpose": _transpose, "permute": _permute, "movedim": _movedim, "select": _select,
    "slice": _slice, "getitem": _getitem, "index": _index, "setitem": _setitem, "index_put": _index_put,
}  # fmt: skip
