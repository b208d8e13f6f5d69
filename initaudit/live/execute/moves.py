"""Operations that rearrange, cut and join values, with ONNX's meaning."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from initaudit.errors import UnsupportedError
from initaudit.live.execute.case import Case, axis_of, operator


@operator("reshape")
def _reshape(c: Case) -> Any:
    x, shape = c.x(), c.ints(1, "shape")
    if shape is None:
        raise UnsupportedError("a reshape to no shape")
    if not c.get("allowzero", 0):
        shape = [x.shape[at] if extent == 0 else extent for at, extent in enumerate(shape)]
    return x.reshape(shape)


@operator("flatten")
def _flatten(c: Case) -> Any:
    x, axis = c.x(), int(c.get("axis", 1))
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


@operator("transpose")
def _transpose(c: Case) -> Any:
    return c.x().permute(tuple(c.get("perm") or range(c.x().dim())[::-1]))


@operator("squeeze")
def _squeeze(c: Case) -> Any:
    x, axes = c.x(), c.ints(1, "axes")
    gone = {axis_of(a, x.dim()) for a in axes} if axes is not None else {a for a, e in enumerate(x.shape) if e == 1}
    return x.reshape([e for a, e in enumerate(x.shape) if a not in gone])


@operator("unsqueeze")
def _unsqueeze(c: Case) -> Any:
    x, axes = c.x(), c.ints(1, "axes") or []
    rank = x.dim() + len(axes)
    new = {axis_of(a, rank) for a in axes}
    extents = iter(x.shape)
    return x.reshape([1 if a in new else next(extents) for a in range(rank)])


@operator("concat")
def _concat(c: Case) -> Any:
    parts = [v for v in c.values if v is not None]
    if c.get("new_axis"):
        return torch.stack(parts, int(c.get("axis", 0)))
    return torch.cat(parts, int(c.get("axis", 1)))  # below opset 4 an axis of 1 goes without saying


@operator("split")
def _split(c: Case) -> Any:
    x, axis = c.x(), axis_of(c.get("axis", 0), c.x().dim())
    sizes = c.ints(1, "split")
    if sizes is None:
        count = int(c.get("num_outputs", c.count))
        each = math.ceil(x.shape[axis] / count)
        sizes = [max(0, min(each, x.shape[axis] - at * each)) for at in range(count)]
    return x.split_with_sizes(sizes, axis)


@operator("slice")
def _slice(c: Case) -> Any:
    x = c.x()
    starts, ends = c.ints(1, "starts"), c.ints(2, "ends")
    if starts is None or ends is None:
        raise UnsupportedError("a slice without its ends")
    axes = c.ints(3, "axes") or list(range(len(starts)))
    steps = c.ints(4, "steps") or [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        at = axis_of(axis, x.dim())
        which = range(*slice(start, end, step).indices(x.shape[at]))
        if step > 0:
            x = x[(slice(None),) * at + (slice(which.start, which.stop, step),)]
        else:
            x = x.index_select(at, torch.tensor(list(which), dtype=torch.long))
    return x


@operator("pad")
def _pad(c: Case) -> Any:
    x = c.x()
    pads = c.ints(1, "pads") or c.ints(1, "paddings") or []
    axes = c.ints(3, "axes")
    axes = [axis_of(a, x.dim()) for a in axes] if axes is not None else list(range(x.dim()))
    before = dict(zip(axes, pads[: len(axes)], strict=True))
    after = dict(zip(axes, pads[len(axes) :], strict=True))
    given = c.maybe(2)
    value = float(c.get("value", 0.0)) if given is None else given.item()
    mode = c.text("mode", "constant")
    if mode == "constant":
        flat = [n for a in reversed(range(x.dim())) for n in (before.get(a, 0), after.get(a, 0))]
        if x.dtype == torch.bool:
            return F.pad(x.to(torch.uint8), flat, value=int(value)).bool()
        return F.pad(x, flat, value=value)
    for a in axes:
        x = _padded(x, a, before[a], after[a], mode)
    return x


def _padded(x: torch.Tensor, axis: int, before: int, after: int, mode: str) -> torch.Tensor:
    """Pad one axis with values from within; cut where a number is negative."""
    if before == after == 0:
        return x
    size = x.shape[axis]
    at = torch.arange(-before, size + after)
    if mode == "edge":
        at = at.clamp(0, size - 1)
    elif mode == "wrap":
        at = at % size
    elif mode == "reflect":
        round_trip = max(2 * (size - 1), 1)
        at = at % round_trip
        at = torch.where(at >= size, round_trip - at, at)
    else:
        raise UnsupportedError(f"padding {mode}")
    return x.index_select(axis, at)


@operator("expand")
def _expand(c: Case) -> Any:
    shape = c.ints(1, "shape")
    return c.x().expand(tuple(np.broadcast_shapes(tuple(c.x().shape), tuple(shape or ()))))


@operator("tile")
def _tile(c: Case) -> Any:
    x, repeats = c.x(), c.ints(1, "repeats") or []
    if len(c.values) == 3:  # opset 1: how often, and along which axis
        axis = int(c.x(2).item())
        repeats = [repeats[0] if a == axis else 1 for a in range(x.dim())]
    return x.repeat(repeats)


@operator("identity", "contiguous", "optional", "optional_get_element")
def _same(c: Case) -> Any:
    return [c.values[0] if c.values else None]


@operator("optional_has_element")
def _has(c: Case) -> Any:
    return torch.tensor(bool(c.values) and c.values[0] is not None)


@operator("dropout")
def _dropout(c: Case) -> Any:
    return c.x(), torch.ones_like(c.x(), dtype=torch.bool)


@operator("depth_to_space")
def _depth_to_space(c: Case) -> Any:
    x, b = c.x(), int(c.get("blocksize", 1))
    n, depth, h, w = x.shape
    if c.text("mode", "DCR") == "CRD":
        return F.pixel_shuffle(x, b)
    x = x.reshape(n, b, b, depth // b**2, h, w).permute(0, 3, 4, 1, 5, 2)
    return x.reshape(n, depth // b**2, h * b, w * b)


@operator("space_to_depth")
def _space_to_depth(c: Case) -> Any:
    x, b = c.x(), int(c.get("blocksize", 1))
    n, depth, h, w = x.shape
    x = x.reshape(n, depth, h // b, b, w // b, b)
    x = x.permute(0, 1, 3, 5, 2, 4) if c.text("mode", "DCR") == "CRD" else x.permute(0, 3, 5, 1, 2, 4)
    return x.reshape(n, depth * b * b, h // b, w // b)


@operator("trilu")
def _trilu(c: Case) -> Any:
    k = c.maybe(1)
    offset = int(c.get("k", 0)) if k is None else int(k.item())
    return torch.triu(c.x(), offset) if c.get("upper", 1) else torch.tril(c.x(), offset)


@operator("reverse_sequence")
def _reverse_sequence(c: Case) -> Any:
    x, lengths = c.x(), c.x(1)
    batch, time = int(c.get("batch_axis", 1)), int(c.get("time_axis", 0))
    at = torch.arange(x.shape[time]).unsqueeze(1)
    at = torch.where(at < lengths, lengths - 1 - at, at)  # (time, batch)
    moved = x.movedim((time, batch), (0, 1))
    index = at.reshape(*at.shape, *(1,) * (x.dim() - 2)).expand(moved.shape)
    return moved.gather(0, index).movedim((0, 1), (time, batch))


@operator("center_crop_pad")
def _center_crop_pad(c: Case) -> Any:
    x, shape = c.x(), c.ints(1, "shape") or []
    axes = c.get("axes") or range(x.dim())
    for axis, wanted in zip(axes, shape, strict=True):
        at = axis_of(axis, x.dim())
        size = x.shape[at]
        if size > wanted:
            x = x.narrow(at, (size - wanted) // 2, wanted)
        elif size < wanted:
            before = (wanted - size) // 2
            flat = [0] * (2 * (x.dim() - 1 - at)) + [before, wanted - size - before]
            x = F.pad(x, flat)
    return x


@operator("col2im")
def _col2im(c: Case) -> Any:
    x, image, block = c.x(), c.ints(1, "image_shape") or [], c.ints(2, "block_shape") or []
    rank = len(image)
    if rank != 2:
        raise UnsupportedError(f"col2im with {rank} axes")
    pads = list(c.get("pads") or (0, 0, 0, 0))
    whole = [n + pads[a] + pads[rank + a] for a, n in enumerate(image)]
    out = F.fold(
        x, tuple(whole), tuple(block), tuple(c.get("dilations") or (1, 1)), 0, tuple(c.get("strides") or (1, 1))
    )
    return out[:, :, pads[0] : whole[0] - pads[2], pads[1] : whole[1] - pads[3]]


@operator("compress")
def _compress(c: Case) -> Any:
    x, axis = c.x(), c.get("axis")
    at = torch.nonzero(c.x(1).bool()).reshape(-1)
    return x.reshape(-1)[at] if axis is None else x.index_select(axis_of(axis, x.dim()), at)


# ---- sequences


@operator("sequence_construct")
def _sequence_construct(c: Case) -> Any:
    return [list(c.values)]


@operator("sequence_empty")
def _sequence_empty(c: Case) -> Any:
    return [[]]


@operator("sequence_at")
def _sequence_at(c: Case) -> Any:
    return c.values[0][int(c.x(1).item())]


@operator("sequence_length")
def _sequence_length(c: Case) -> Any:
    return torch.tensor(len(c.values[0]))


@operator("sequence_insert")
def _sequence_insert(c: Case) -> Any:
    items = list(c.values[0])
    at = c.maybe(2)
    items.insert(len(items) if at is None else int(at.item()), c.x(1))
    return [items]


@operator("sequence_erase")
def _sequence_erase(c: Case) -> Any:
    items = list(c.values[0])
    at = c.maybe(1)
    del items[-1 if at is None else int(at.item())]
    return [items]


@operator("concat_from_sequence")
def _concat_from_sequence(c: Case) -> Any:
    axis = int(c.get("axis", 0))
    return torch.stack(c.values[0], axis) if c.get("new_axis", 0) else torch.cat(c.values[0], axis)


@operator("split_to_sequence")
def _split_to_sequence(c: Case) -> Any:
    x, axis, given = c.x(), int(c.get("axis", 0)), c.maybe(1)
    if given is None:
        parts = x.unbind(axis)
        return [[p.unsqueeze(axis) for p in parts] if c.get("keepdims", 1) else list(parts)]
    if given.dim():
        return [list(x.split_with_sizes(given.tolist(), axis))]
    each = int(given.item())
    return [[x.narrow(axis, at, min(each, x.shape[axis] - at)) for at in range(0, x.shape[axis], each)]]
