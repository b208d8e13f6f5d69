"""Operations that choose values by position, put values in place, or answer with positions; ONNX's meaning."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from initaudit.errors import UnsupportedError
from initaudit.live.execute.case import Case, axis_of, operator
from initaudit.live.execute.elements import coded, held

_REDUCTIONS = {"add": "sum", "mul": "prod", "max": "amax", "min": "amin"}


def _positions(index: torch.Tensor, size: int) -> torch.Tensor:
    """Return indices counted from the front."""
    index = index.long()
    return torch.where(index < 0, index + size, index)


@operator("gather")
def _gather(c: Case) -> Any:
    x, index = c.x(), c.x(1)
    axis = axis_of(c.get("axis", 0), x.dim())
    at = _positions(index, x.shape[axis])
    if axis == 0 and x.dim() == 2 and at.dim():
        return F.embedding(at, x)
    out = x.index_select(axis, at.reshape(-1))
    return out.reshape([*x.shape[:axis], *index.shape, *x.shape[axis + 1 :]])


@operator("gather_elements")
def _gather_elements(c: Case) -> Any:
    axis = axis_of(c.get("axis", 0), c.x().dim())
    return c.x().gather(axis, _positions(c.x(1), c.x().shape[axis]))


def _tuples(x: torch.Tensor, index: torch.Tensor, batch: int) -> tuple[torch.Tensor, ...]:
    """Return the indices of each axis that tuples along the last axis are for, those of the batch before them."""
    last = index.shape[-1]
    own = [_positions(index[..., k], x.shape[batch + k]) for k in range(last)]
    shape = index.shape[:-1]
    grid = [torch.arange(shape[b]).reshape([-1 if a == b else 1 for a in range(len(shape))]) for b in range(batch)]
    return (*(g.expand(shape) for g in grid), *own)


@operator("gather_nd")
def _gather_nd(c: Case) -> Any:
    return c.x()[_tuples(c.x(), c.x(1), int(c.get("batch_dims", 0)))]


@operator("scatter", "scatter_elements")
def _scatter(c: Case) -> Any:
    x, index, updates = c.x(), c.x(1), c.x(2)
    axis = axis_of(c.get("axis", 0), x.dim())
    at = _positions(index, x.shape[axis])
    reduction = c.text("reduction", "none")
    if reduction == "none":
        return x.scatter(axis, at, updates.to(x.dtype))
    if reduction not in _REDUCTIONS:
        raise UnsupportedError(f"a scatter that reduces by {reduction}")
    return x.scatter_reduce(axis, at, updates.to(x.dtype), _REDUCTIONS[reduction], include_self=True)


@operator("scatter_nd")
def _scatter_nd(c: Case) -> Any:
    x, index, updates = c.x(), c.x(1), c.x(2).to(c.x().dtype)
    reduction = c.text("reduction", "none")
    where = _tuples(x, index, 0)
    if reduction in ("none", "add"):
        return x.index_put(where, updates, accumulate=reduction == "add")
    if reduction not in _REDUCTIONS:
        raise UnsupportedError(f"a scatter that reduces by {reduction}")
    rest = x.shape[index.shape[-1] :]
    flat = torch.zeros(index.shape[:-1], dtype=torch.long)
    for k, one in enumerate(where):
        flat = flat * x.shape[k] + one
    rows = x.reshape(-1, rest.numel())
    at = flat.reshape(-1, 1).expand(-1, rest.numel())
    out = rows.scatter_reduce(0, at, updates.reshape(-1, rest.numel()), _REDUCTIONS[reduction], include_self=True)
    return out.reshape(x.shape)


@operator("tensor_scatter")
def _tensor_scatter(c: Case) -> Any:
    past, update, starts = c.x(), c.x(1), c.maybe(2)
    axis = axis_of(c.get("axis", -2), past.dim())
    length = update.shape[axis]
    first = torch.zeros(past.shape[0], dtype=torch.long) if starts is None else starts.long()
    at = first.unsqueeze(1) + torch.arange(length)
    if c.text("mode", "linear") == "circular":
        at = at % past.shape[axis]
    shape = [past.shape[0] if a == 0 else length if a == axis else 1 for a in range(past.dim())]
    return past.scatter(axis, at.reshape(shape).expand(update.shape), update)


# ---- positions


@operator("shape")
def _shape(c: Case) -> Any:
    x = c.values[0]
    extents = list(x.shape)[int(c.get("start", 0)) : c.get("end")]
    return torch.tensor(extents, dtype=torch.long)


@operator("size")
def _size(c: Case) -> Any:
    return torch.tensor(c.x().numel())


@operator("arg_max", "arg_min")
def _arg(c: Case) -> Any:
    x, axis = c.x(), axis_of(c.get("axis", 0), c.x().dim())
    choose = torch.argmax if c.node.op == "arg_max" else torch.argmin
    keep = bool(c.get("keepdims", 1))
    if c.get("select_last_index", 0):
        return x.shape[axis] - 1 - choose(x.flip(axis), axis, keepdim=keep)
    best = x.amax(axis, keepdim=True) if c.node.op == "arg_max" else x.amin(axis, keepdim=True)
    return torch.argmax((x == best).to(torch.uint8), axis, keepdim=keep)  # the first of equals


@operator("top_k")
def _top_k(c: Case) -> Any:
    k = c.ints(1, "k")
    x, axis = c.x(), int(c.get("axis", -1))
    order = torch.sort(x, dim=axis, descending=bool(c.get("largest", 1)), stable=True)
    count = k[0] if k else 1
    return order.values.narrow(axis, 0, count), order.indices.narrow(axis, 0, count)


@operator("non_zero")
def _non_zero(c: Case) -> Any:
    return torch.nonzero(c.x()).T if c.x().dim() else torch.zeros(0, int(bool(c.x())), dtype=torch.long)


@operator("one_hot")
def _one_hot(c: Case) -> Any:
    index, depth, values = c.x(), int(c.x(1).reshape(()).item()), c.x(2)
    at = torch.remainder(index.long(), depth)
    inside = ((index >= -depth) & (index < depth)).unsqueeze(-1)
    hot = (at.unsqueeze(-1) == torch.arange(depth)) & inside
    axis = int(c.get("axis", -1))
    return torch.where(hot, values[1], values[0]).movedim(-1, axis if axis >= 0 else hot.dim() + axis)


@operator("unique")
def _unique(c: Case) -> Any:
    x, axis = c.x(), c.get("axis")
    if axis is None:
        x, axis = x.reshape(-1), 0
    values, back, counts = torch.unique(x, dim=int(axis), return_inverse=True, return_counts=True)
    back = back.reshape(-1)
    places = torch.arange(back.numel())
    first = torch.full((counts.numel(),), back.numel()).scatter_reduce(0, back, places, "amin")
    if not c.get("sorted", 1):
        order = first.argsort()
        rank = order.argsort()
        values, first, counts, back = values.index_select(int(axis), order), first[order], counts[order], rank[back]
    return values, first, back, counts


# ---- values out of nothing


@operator("constant_of_shape")
def _constant_of_shape(c: Case) -> Any:
    shape = c.ints(0, "shape") or []
    value = c.get("value")
    filled = torch.zeros((), dtype=c.settings.single) if value is None else held(value, c.settings.single).reshape(())
    return filled.expand(shape)


@operator("range")
def _range(c: Case) -> Any:
    start, limit, step = (c.x(at) for at in range(3))
    return torch.arange(start.item(), limit.item(), step.item(), dtype=start.dtype)


@operator("eye_like")
def _eye_like(c: Case) -> Any:
    x, dtype = c.x(), c.get("dtype")
    rows = torch.arange(x.shape[0]).unsqueeze(1)
    eye = torch.arange(x.shape[1]) - rows == int(c.get("k", 0))
    return eye.to(x.dtype if dtype is None else coded(dtype, c.settings.single))


@operator("random_normal", "random_normal_like", "random_uniform", "random_uniform_like")
def _random(c: Case) -> Any:
    shape = tuple(c.x().shape) if c.node.op.endswith("_like") else tuple(c.get("shape") or ())
    if "normal" in c.node.op:
        return torch.randn(shape, dtype=c.settings.single) * c.get("scale", 1.0) + c.get("mean", 0.0)
    low, high = c.get("low", 0.0), c.get("high", 1.0)
    return torch.rand(shape, dtype=c.settings.single) * (high - low) + low


@operator("bernoulli")
def _bernoulli(c: Case) -> Any:
    return torch.bernoulli(c.x().detach())


@operator("hann_window", "hamming_window", "blackman_window")
def _window(c: Case) -> Any:
    size, periodic = int(c.x().item()), bool(c.get("periodic", 1))
    angle = 2 * torch.pi * torch.arange(size, dtype=c.settings.single) / (size if periodic else size - 1)
    if c.node.op == "blackman_window":
        return 0.42 - 0.5 * torch.cos(angle) + 0.08 * torch.cos(2 * angle)
    share = 0.5 if c.node.op == "hann_window" else 25 / 46
    return share - (1 - share) * torch.cos(angle)
