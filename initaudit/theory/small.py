"""Values of small constants that nodes compute: shapes, masks, scales."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from initaudit.graph.evaluate import POINTWISE
from initaudit.graph.moved import moved
from initaudit.graph.view import View
from initaudit.types import Array, Node, Ref, Tensor

Ask = Callable[[str], Array | None]
Shape = tuple[int | None, ...]
_EYE = 1 << 16
_EVEN = frozenset({"resize", "upsample", "max_pool", "average_pool"})  # keep what is one number throughout


def evaluated(
    view: View, node: Node, output: str, ask: Ask, most: int, shape_of: Callable[[str], Shape | None] | None = None
) -> Array | None:
    """Return what a node makes of small constants; None where that is not known or not small.

    Args:
        view: of the graph.
        node: one of it.
        output: which of the node's outputs.
        ask: for the values of its operands.
        most: elements of what is small.
        shape_of: for the shape of a value, where the graph leaves it open.
    """
    try:
        with np.errstate(all="ignore"):
            made = _made(view, node, output, ask, most, shape_of)
    except (ValueError, TypeError, IndexError, KeyError, OverflowError, ZeroDivisionError):
        return None
    return made if made is not None and made.size <= most else None


def _extents(view: View, node: Node, ask: Ask, shape_of: Callable[[str], Shape | None] | None) -> Array | None:
    """Return the shape of a value, or its number of elements."""
    name = node.inputs[0]
    shape = view.graph.shapes.get(name) or view.graph.inputs.get(name)
    if (shape is None or any(n is None for n in shape)) and shape_of is not None:
        shape = shape_of(name)
    if shape is None:
        computed = ask(name)
        shape = None if computed is None else computed.shape
    if shape is None or any(n is None for n in shape):
        return None
    full = np.asarray([int(n or 0) for n in shape], np.int64)
    if node.op == "size":
        return np.asarray(np.prod(full))
    return full[node.attrs.get("start", 0) : node.attrs.get("end")]


def _made(
    view: View, node: Node, output: str, ask: Ask, most: int, shape_of: Callable[[str], Shape | None] | None
) -> Array | None:
    if node.op in ("shape", "size"):
        return _extents(view, node, ask, shape_of)
    if node.op == "source":
        counted = _counted(node)
        if counted is not None:
            return counted if counted.size <= most else None
        value = node.attrs.get("value")
        shape = view.graph.shapes.get(output)
        if not isinstance(value, (bool, int, float)) or shape is None or any(n is None for n in shape):
            return None
        return np.full([int(n or 0) for n in shape], value) if _size(shape) <= most else None
    if node.op == "constant_of_shape":
        wanted = ask(node.inputs[0])
        value = node.attrs.get("value")
        first = 0.0 if value is None else np.ravel(value.load() if isinstance(value, Tensor) else value)[0]
        if wanted is None or int(np.prod(wanted)) > most:
            return None
        return np.full([int(n) for n in wanted.ravel()], first)
    values = [ask(name) for name in node.inputs if name]
    if any(v is None for v in values):
        return None
    index = node.attrs.get("index")
    if node.op == "gather_nd" and isinstance(index, tuple) and values[0] is not None:
        places = tuple(ask(i.name) if isinstance(i, Ref) else i for i in index)
        return np.asarray(values[0][tuple(p.astype(np.int64) if isinstance(p, np.ndarray) else p for p in places)])
    if node.op == "scatter_nd" and isinstance(index, tuple) and values[0] is not None and len(values) > 1:
        places = tuple(ask(i.name) if isinstance(i, Ref) else i for i in index)
        given = [
            k
            for k, name in enumerate(n for n in node.inputs if n)
            if k and name not in {i.name for i in index if isinstance(i, Ref)}
        ]
        out = np.array(values[0])
        out[tuple(p.astype(np.int64) if isinstance(p, np.ndarray) else p for p in places)] = values[given[0]]
        return out
    known = [v for v in values if v is not None]
    if node.op == "range" and len(known) == 3:
        start, stop, step = (float(v.ravel()[0]) for v in known)
        return np.arange(start, stop, step).astype(known[0].dtype) if abs((stop - start) / step) <= most else None
    if node.op == "div" and node.call is None and all(v.dtype.kind in "iu" for v in known):
        return np.asarray(known[0] // known[1])  # ONNX divides whole numbers so
    if node.op in POINTWISE:
        if int(np.prod(np.broadcast_shapes(*(v.shape for v in known)))) > most:
            return None
        every = iter(known)  # an absent operand has its place: clip(x, , most)
        return np.asarray(POINTWISE[node.op]([next(every) if n else np.zeros(0) for n in node.inputs], node.attrs))
    return _moved(view, node, output, known, most)


def _moved(view: View, node: Node, output: str, known: list[Array], most: int) -> Array | None:
    """Return what a node makes that moves, copies or counts what it is given."""
    first = known[0] if known else np.zeros(0)
    if node.op == "concat":
        axis = node.attrs.get("axis", 0)
        return np.stack(known, axis) if node.attrs.get("new_axis") else np.concatenate(known, axis)
    if node.op == "gather" and len(known) == 2:
        return np.take(known[0], known[1].astype(np.int64), node.attrs.get("axis", 0))
    if node.op in ("unsqueeze", "squeeze", "reshape", "expand") and len(known) == 2:
        return _shaped(node.op, first, [int(n) for n in known[1].ravel()], most)
    if node.op == "slice" and len(known) > 2:
        return _cut(known)
    if node.op == "flatten" and node.call is None:
        axis = node.attrs.get("axis", 1)
        return first.reshape(int(np.prod(first.shape[:axis])), -1)
    if node.op == "trilu" and len(known) == 1:
        shift = _int(node.attrs, "k", 0)
        return np.triu(first, shift) if _int(node.attrs, "upper", 1) else np.tril(first, shift)
    if node.op == "tile" and len(known) == 1:
        return _repeated(first, node.attrs)
    if node.op in _EVEN and first.size and bool(np.all(first == first.flat[0])):
        shape = view.graph.shapes.get(output)
        known_shape = shape is not None and all(n is not None for n in shape) and _size(shape) <= most
        return np.full([int(n or 0) for n in shape or ()], first.flat[0]) if known_shape else None
    if node.op == "cumsum" and len(known) == 1 and isinstance(node.attrs.get("axis"), int):
        return np.cumsum(first, node.attrs["axis"])
    if node.op == "split":
        return _part(first, node, output)
    if node.op in _MOVES and len(known) > 1:
        return _MOVES[node.op](known, node.attrs)
    if node.op in ("identity", "cast", "dropout"):
        return first
    if node.op == "transpose" and node.call is None:
        return first.transpose(node.attrs.get("perm"))
    if node.op in ("unsqueeze", "squeeze") and "axes" in node.attrs and node.call is None:
        return _shaped(node.op, first, list(node.attrs["axes"]), most)
    if len(known) == 1 and first.dtype.kind in "fiub":
        tensor = Tensor("", first.shape, str(first.dtype), lambda: first)
        turned = moved(node, output, tensor)
        return np.asarray(turned.load()).reshape(turned.shape) if turned is not None else None
    return None


def _counted(node: Node) -> Array | None:
    """Return the numbers that torch's arange and eye make."""
    word = "" if node.call is None else node.call.target.rpartition(".")[2]
    if node.call is None or word not in ("arange", "eye"):
        return None
    given = [a for a in node.call.args if isinstance(a, (int, float)) and not isinstance(a, bool)]
    given += [v for k in ("start", "end", "step") if isinstance(v := node.call.kwargs.get(k), (int, float))]
    refs = len(node.call.args) + sum(k in node.call.kwargs for k in ("start", "end", "step"))
    if not 0 < len(given) <= 3 or refs != len(given):
        return None
    if word == "eye":
        rows, columns = int(given[0]), int(given[-1])
        return np.eye(rows, columns) if rows * columns <= _EYE else None
    return np.arange(*given)


def _trilu(known: list[Array], upper: bool) -> Array:
    shift = int(known[1].ravel()[0]) if len(known) > 1 else 0
    return np.triu(known[0], shift) if upper else np.tril(known[0], shift)


def _repeated(value: Array, attrs: Mapping[str, object]) -> Array | None:
    """Return copies as torch's repeat makes them, or its repeat_interleave, which has an axis."""
    repeats, axis = attrs.get("repeats"), attrs.get("axis")
    if isinstance(repeats, int) and isinstance(axis, int):
        return np.repeat(value, repeats, axis)
    given = (repeats,) if isinstance(repeats, int) else repeats
    if not isinstance(given, tuple | list) or not all(isinstance(n, int) for n in given) or axis is not None:
        return None
    return np.tile(value, tuple(given))


def _part(value: Array, node: Node, output: str) -> Array | None:
    """Return one of the equal parts, or of those of a given size, that a split makes."""
    axis, size, chunks = (node.attrs.get(name) for name in ("axis", "split", "chunks"))
    if not isinstance(axis, int) or output not in node.outputs or node.attrs.get("keepdims", 1) in (0, False):
        return None
    at, whole, count = node.outputs.index(output), value.shape[axis], len(node.outputs)
    if isinstance(size, tuple | list):
        start = sum(size[:at])
        return np.take(value, range(start, start + size[at]), axis)
    step = size if isinstance(size, int) else -(-whole // (chunks if isinstance(chunks, int) else count))
    return np.take(value, range(at * step, min(whole, (at + 1) * step)), axis)


_MOVES: dict[str, Callable[[list[Array], Mapping[str, object]], Array]] = {
    "gather_elements": lambda v, a: np.take_along_axis(v[0], v[1].astype(np.int64), _int(a, "axis", 0)),
    "gather_nd": lambda v, _: v[0][tuple(np.moveaxis(v[1].astype(np.int64), -1, 0))],
    "tile": lambda v, _: np.tile(v[0], tuple(int(n) for n in v[1].ravel())),
    "trilu": lambda v, a: _trilu(v, bool(_int(a, "upper", 1))),
    "cumsum": lambda v, _: np.cumsum(v[0], int(v[1].ravel()[0])),
    "mod": lambda v, _: np.mod(v[0], v[1]),
    "scatter_nd": lambda v, _: _scattered(*v[:3]),
}  # fmt: skip


def _int(attrs: Mapping[str, object], name: str, default: int) -> int:
    given = attrs.get(name, default)
    return given if isinstance(given, int) else default


def _scattered(data: Array, places: Array, values: Array) -> Array:
    out = np.array(data)
    out[tuple(np.moveaxis(places.astype(np.int64), -1, 0))] = values
    return out


def _size(shape: tuple[int | None, ...]) -> int:
    out = 1
    for n in shape:
        out *= int(n or 0)
    return out


def _shaped(op: str, value: Array, given: list[int], most: int) -> Array | None:
    if op == "unsqueeze":
        return np.expand_dims(value, tuple(given))
    if op == "squeeze":
        return np.squeeze(value, tuple(given))
    if op == "reshape":
        return value.reshape([value.shape[k] if n == 0 else n for k, n in enumerate(given)])
    shape = np.broadcast_shapes(value.shape, tuple(given))
    return np.broadcast_to(value, shape) if int(np.prod(shape)) <= most else None


def _cut(known: list[Array]) -> Array:
    value, starts, ends, *rest = known
    axes = [int(a) for a in rest[0].ravel()] if rest else list(range(starts.size))
    steps = [int(s) for s in rest[1].ravel()] if len(rest) > 1 else [1] * starts.size
    index: list[slice] = [slice(None)] * value.ndim
    for start, end, axis, step in zip(starts.ravel(), ends.ravel(), axes, steps, strict=True):
        index[axis] = slice(int(start), int(end), step)
    return value[tuple(index)]
