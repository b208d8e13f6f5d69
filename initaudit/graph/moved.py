"""What a node that only moves values makes of a constant: a view of the same storage, in its new orientation.

ONNX graphs come with such constants folded. In a graph that torch calls made the steps stand as nodes, and a weight may
be turned, reshaped or cut before an operator takes it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initaudit.strides import strides_of
from initaudit.types import Array, Node, Tensor

KEEPS = frozenset({"identity", "dropout", "cast", "cast_like", "expand"})


def moved(node: Node, output: str, tensor: Tensor) -> Tensor | None:
    """Return what a node makes of the constant that is its first input; None where that is not known.

    Args:
        node: of the graph, recorded from torch.
        output: which of its outputs.
        tensor: its first input.
    """
    if node.op in KEEPS:
        return tensor
    rule = _RULES.get(node.op)
    try:
        return rule(node, output, tensor) if rule is not None else None
    except (IndexError, TypeError, ValueError):
        return None


def _view(
    tensor: Tensor, shape: Sequence[int], strides: Sequence[int], shift: int, apply: Callable[[Array], Array]
) -> Tensor:
    made = replace(
        tensor,
        shape=tuple(shape),
        strides=tuple(strides),
        offset=tensor.offset + shift,
        storage=tensor.storage or tensor.name,
        load=lambda: apply(tensor.load()),
    )
    plain = replace(made, strides=None)
    return plain if strides_of(plain) == made.strides else made


def joined(tensors: Sequence[Tensor], axis: int) -> Tensor | None:
    """Return tensors side by side, under the name of the largest; None where they do not fit."""
    rank = len(tensors[0].shape)
    if len(tensors) < 2 or not -rank <= axis < rank:
        return None
    axis %= rank
    rest = {(len(t.shape), t.shape[:axis], t.shape[axis + 1 :], t.dtype) for t in tensors}
    if len(rest) != 1:
        return None
    first = max(tensors, key=lambda t: t.size)
    names = tuple(dict.fromkeys(name for t in tensors for name in (t.parts or (t.name,))))
    storage = ",".join(f"{t.storage or t.name}+{t.offset}{t.shape}{t.strides or ''}" for t in tensors)
    return Tensor(
        first.name,
        (*first.shape[:axis], sum(t.shape[axis] for t in tensors), *first.shape[axis + 1 :]),
        first.dtype,
        lambda: np.concatenate([np.asarray(t.load()) for t in tensors], axis),
        f"joined{axis}({storage})",
        parts=names,
    )


def turned(tensor: Tensor) -> Tensor:
    """Return a matrix with its axes changed over."""
    return _view(tensor, tensor.shape[::-1], strides_of(tensor)[::-1], 0, lambda x: x.T)


def _transpose(node: Node, _: str, tensor: Tensor) -> Tensor | None:
    rank = len(tensor.shape)
    perm = node.attrs.get("perm", tuple(range(rank))[::-1] if node.attrs.get("reverse") else None)
    if perm is None and "swap" in node.attrs:
        first, second = node.attrs["swap"]
        order = list(range(rank))
        order[first], order[second] = order[second], order[first]
        perm = tuple(order)
    if perm is None or sorted(perm) != list(range(rank)):
        return None
    strides = strides_of(tensor)
    return _view(tensor, [tensor.shape[a] for a in perm], [strides[a] for a in perm], 0, lambda x: x.transpose(perm))


def _to_shape(tensor: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Return the same values in another shape; of a tensor that was turned before, as a tensor of its own."""
    wanted = [int(n) for n in shape]
    rank = len(tensor.shape)
    if rank > 1 and len(wanted) > rank and tuple(wanted[-rank:]) == tensor.shape:
        return tensor  # of copies along new axes, as `expand` makes them
    if wanted.count(-1) == 1:
        rest = math.prod(n for n in wanted if n != -1)
        wanted[wanted.index(-1)] = tensor.size // rest if rest else 0
    if math.prod(wanted) != tensor.size or any(n < 0 for n in wanted):
        return None
    if [n for n in wanted if n != 1] == [n for n in tensor.shape if n != 1]:  # only axes of one are new or gone
        steps = iter([s for s, n in zip(strides_of(tensor), tensor.shape, strict=True) if n != 1])
        strides = [next(steps) if n != 1 else 1 for n in wanted]
        plain = tensor.strides is None
        made = _view(tensor, wanted, strides, 0, lambda x: x.reshape(wanted))
        return replace(made, strides=None) if plain else made
    kept = tensor.strides is None
    return replace(
        tensor,
        shape=tuple(wanted),
        strides=None,
        storage=(tensor.storage or tensor.name) if kept else f"{tensor.storage or tensor.name}:{tensor.strides}",
        load=lambda: tensor.load().reshape(wanted),
    )


def _reshape(node: Node, output: str, tensor: Tensor) -> Tensor | None:
    shape = node.attrs.get("shape")
    if isinstance(shape, int):
        shape = (shape,)
    if isinstance(shape, tuple) and all(isinstance(n, int) for n in shape):
        return _to_shape(tensor, shape)
    rank = len(tensor.shape)
    if "sizes" in node.attrs and isinstance(node.attrs.get("axis"), int):
        axis = node.attrs["axis"] % rank
        return _to_shape(tensor, (*tensor.shape[:axis], *node.attrs["sizes"], *tensor.shape[axis + 1 :]))
    if node.call is not None and node.call.target.rpartition(".")[2] in ("flatten", "ravel"):
        first, last = node.attrs.get("start_dim", 0) % rank, node.attrs.get("end_dim", -1) % rank
        middle = math.prod(tensor.shape[first : last + 1])
        return _to_shape(tensor, (*tensor.shape[:first], middle, *tensor.shape[last + 1 :]))
    return None


def _axes(value: Any) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value or ())


def _squeeze(node: Node, _: str, tensor: Tensor) -> Tensor | None:
    rank = len(tensor.shape)
    axes = {a % rank for a in _axes(node.attrs["axes"])} if "axes" in node.attrs else set(range(rank))
    return _to_shape(tensor, [n for a, n in enumerate(tensor.shape) if n != 1 or a not in axes])


def _unsqueeze(node: Node, _: str, tensor: Tensor) -> Tensor | None:
    axes = _axes(node.attrs.get("axes"))
    rank = len(tensor.shape) + len(axes)
    new = {a % rank for a in axes}
    old = iter(tensor.shape)
    return _to_shape(tensor, [1 if a in new else next(old) for a in range(rank)])


def _slice(node: Node, _: str, tensor: Tensor) -> Tensor | None:
    index = node.attrs.get("index")
    if not isinstance(index, tuple) or len(node.inputs) != 1:
        return None
    return cut(tensor, index)


def cut(tensor: Tensor, index: tuple[Any, ...]) -> Tensor | None:
    """Return x[index] for numbers, slices, new axes and an ellipsis."""
    taken = sum(i is not None and i is not Ellipsis for i in index)
    gap = (slice(None),) * (len(tensor.shape) - taken)
    at = next((k for k, i in enumerate(index) if i is Ellipsis), len(index))
    full = (*index[:at], *gap, *index[at + 1 :])
    shape: list[int] = []
    steps: list[int] = []
    shift, axis = 0, 0
    strides = strides_of(tensor)
    for one in full:
        if one is None:
            shape.append(1)
            steps.append(1)
            continue
        extent, stride = tensor.shape[axis], strides[axis]
        axis += 1
        if isinstance(one, slice):
            start, stop, step = one.indices(extent)
            count = len(range(start, stop, step))
            shape.append(count)
            steps.append(stride * step)
            shift += start * stride if count else 0
        elif isinstance(one, int) and -extent <= one < extent:
            shift += (one % extent) * stride
        else:
            return None
    return _view(tensor, shape, steps, shift, lambda x: x[full])


def _split(node: Node, output: str, tensor: Tensor) -> Tensor | None:
    rank = len(tensor.shape)
    axis = int(node.attrs.get("axis", 0)) % rank
    place, extent = node.outputs.index(output), tensor.shape[axis]
    before = (slice(None),) * axis
    if node.attrs.get("keepdims") == 0:
        return cut(tensor, (*before, place))
    if "chunks" in node.attrs:
        size = -(-extent // int(node.attrs["chunks"]))
        start, stop = place * size, min(extent, (place + 1) * size)
    elif isinstance(node.attrs.get("split"), int):
        size = node.attrs["split"]
        start, stop = place * size, min(extent, (place + 1) * size)
    elif isinstance(node.attrs.get("split"), tuple):
        sizes = node.attrs["split"]
        start = sum(sizes[:place])
        stop = start + sizes[place]
    else:
        return None
    return cut(tensor, (*before, slice(start, stop)))


_RULES: dict[str, Callable[[Node, str, Tensor], Tensor | None]] = {
    "transpose": _transpose, "reshape": _reshape, "squeeze": _squeeze, "unsqueeze": _unsqueeze, "slice": _slice,
    "split": _split,
}  # fmt: skip
