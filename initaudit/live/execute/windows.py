"""Convolutions and pooling, with ONNX's meaning of padding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from initaudit.errors import UnsupportedError
from initaudit.live.execute.case import Case, operator

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _each(c: Case, name: str, rank: int, default: int) -> list[int]:
    given = c.get(name)
    return [int(v) for v in given] if given else [default] * rank


def _pads(
    c: Case, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]
) -> list[int]:
    """Return how much each axis is padded before, then after."""
    rank = len(kernel)
    auto = c.text("auto_pad", "NOTSET")
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        return [0] * (2 * rank) if auto == "VALID" else _each(c, "pads", 2 * rank, 0)
    before, after = [], []
    for size, k, s, d in zip(sizes, kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size)
        small = total // 2
        before.append(small if auto == "SAME_UPPER" else total - small)
        after.append(total - before[-1])
    return before + after


def padded(x: torch.Tensor, pads: Sequence[int], value: float = 0.0) -> torch.Tensor:
    """Return a value with its last axes padded as ONNX says it: before, then after."""
    rank = len(pads) // 2
    flat = [n for a in reversed(range(rank)) for n in (pads[a], pads[rank + a])]
    return F.pad(x, flat, value=value) if any(flat) else x


def convolved(c: Case, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None) -> torch.Tensor:
    """Return the convolution of a value with a weight, padded as the node says."""
    rank = x.dim() - 2
    if rank not in _CONV:
        raise UnsupportedError(f"a convolution with {rank} axes")
    strides, dilations = _each(c, "strides", rank, 1), _each(c, "dilations", rank, 1)
    pads = _pads(c, x.shape[2:], w.shape[2:], strides, dilations)
    same = pads[:rank] == pads[rank:] and min(pads, default=0) >= 0
    group = int(c.get("group", 1))
    if same:
        return _CONV[rank](x, w, b, tuple(strides), tuple(pads[:rank]), tuple(dilations), group)
    return _CONV[rank](padded(x, pads), w, b, tuple(strides), 0, tuple(dilations), group)


@operator("conv")
def _conv(c: Case) -> Any:
    return convolved(c, c.x(), c.x(1), c.maybe(2))


@operator("conv_transpose")
def _conv_transpose(c: Case) -> Any:
    x, w, b = c.x(), c.x(1), c.maybe(2)
    rank = x.dim() - 2
    if rank not in _TRANSPOSED:
        raise UnsupportedError(f"a convolution with {rank} axes")
    strides, dilations = _each(c, "strides", rank, 1), _each(c, "dilations", rank, 1)
    extra = _each(c, "output_padding", rank, 0)
    out = _TRANSPOSED[rank](x, w, None, tuple(strides), 0, 0, int(c.get("group", 1)), tuple(dilations))
    full = [n + e for n, e in zip(out.shape[2:], extra, strict=True)]
    wanted = c.get("output_shape")
    auto = c.text("auto_pad", "NOTSET")
    pads = _each(c, "pads", 2 * rank, 0) if auto == "NOTSET" else [0] * (2 * rank)
    if wanted or auto.startswith("SAME"):
        sizes = list(wanted)[-rank:] if wanted else [n * s for n, s in zip(x.shape[2:], strides, strict=True)]
        totals = [n - size for n, size in zip(full, sizes, strict=True)]
        small = [t // 2 for t in totals]
        large = [t - s for t, s in zip(totals, small, strict=True)]
        pads = large + small if wanted and auto != "SAME_UPPER" else small + large
        pads = large + small if auto == "SAME_LOWER" else pads
    change = [-n for n in pads[:rank]] + [e - n for e, n in zip(extra, pads[rank:], strict=True)]
    out = padded(out, change)
    return out if b is None else out + b.reshape(-1, *(1,) * rank)


@operator("deform_conv")
def _deform_conv(c: Case) -> Any:
    """Sample each tap where its offset says, then mix: a convolution of one tap's width."""
    x, w, offset, bias, mask = c.x(), c.x(1), c.x(2), c.maybe(3), c.maybe(4)
    if x.dim() != 4:
        raise UnsupportedError("a deformable convolution that is not of images")
    (kh, kw), (n, channels, h, width) = w.shape[2:], x.shape
    strides, dilations = list(c.get("strides", (1, 1))), list(c.get("dilations", (1, 1)))
    pads, parts = list(c.get("pads", (0, 0, 0, 0))), int(c.get("offset_group", 1))
    oh, ow = offset.shape[2:]
    offset = offset.reshape(n, parts, kh * kw, 2, oh, ow)
    taps = []
    for tap in range(kh * kw):
        i, j = divmod(tap, kw)
        y = (torch.arange(oh) * strides[0] - pads[0] + i * dilations[0]).unsqueeze(1) + offset[:, :, tap, 0]
        z = torch.arange(ow) * strides[1] - pads[1] + j * dilations[1] + offset[:, :, tap, 1]
        grid = torch.stack([2 * z / max(width - 1, 1) - 1, 2 * y / max(h - 1, 1) - 1], -1).reshape(n * parts, oh, ow, 2)
        image = x.reshape(n * parts, channels // parts, h, width)
        seen = F.grid_sample(image, grid, align_corners=True).reshape(n, parts, -1, oh, ow)
        if mask is not None:
            seen = seen * mask.reshape(n, parts, kh * kw, 1, oh, ow)[:, :, tap]
        taps.append(seen.reshape(n, channels, oh, ow))
    group = int(c.get("group", 1))
    columns = torch.stack(taps, 2).reshape(n, channels * kh * kw, oh, ow)
    return F.conv2d(columns, w.reshape(w.shape[0], -1, 1, 1), bias, groups=group)


class _Windows:
    """The windows of a pooling node over its operand."""

    def __init__(self, c: Case, x: torch.Tensor) -> None:
        rank = self.rank = x.dim() - 2
        if rank not in _MAX:
            raise UnsupportedError(f"pooling with {rank} axes")
        self.kernel = _each(c, "kernel_shape", rank, 1)
        self.strides = _each(c, "strides", rank, 1)
        self.dilations = _each(c, "dilations", rank, 1)
        self.sizes = list(x.shape[2:])
        self.pads = _pads(c, self.sizes, self.kernel, self.strides, self.dilations)
        self.over = [self._over(axis, bool(c.get("ceil_mode", 0))) for axis in range(rank)]

    def _over(self, axis: int, ceil: bool) -> int:
        """Return how many elements behind the padding the last window needs."""
        before, after = self.pads[axis], self.pads[self.rank + axis]
        size, stride = self.sizes[axis] + before + after, self.strides[axis]
        span = (self.kernel[axis] - 1) * self.dilations[axis] + 1
        if not ceil:
            return 0
        count = math.ceil((size - span) / stride) + 1
        if (count - 1) * stride >= self.sizes[axis] + before:  # a window that starts behind all is none
            count -= 1
        return max(0, (count - 1) * stride + span - size)

    @property
    def all_pads(self) -> list[int]:
        """The padding with what the last windows need behind it."""
        rank = self.rank
        return self.pads[:rank] + [p + o for p, o in zip(self.pads[rank:], self.over, strict=True)]

    def totals(self, x: torch.Tensor) -> torch.Tensor:
        """Return the mean of each window of a value that is padded already, times the size of a window."""
        size = math.prod(self.kernel)
        if set(self.dilations) == {1}:
            return _AVERAGE[self.rank](x, tuple(self.kernel), tuple(self.strides)) * size
        flat = x.reshape(-1, 1, *x.shape[2:])
        ones = torch.ones(1, 1, *self.kernel, dtype=x.dtype)
        out = _CONV[self.rank](flat, ones, None, tuple(self.strides), 0, tuple(self.dilations))
        return out.reshape(*x.shape[:2], *out.shape[2:])


@operator("max_pool")
def _max_pool(c: Case) -> Any:
    x = c.x()
    windows = _Windows(c, x)
    held = x if x.is_floating_point() else x.to(torch.float64)
    pads = windows.all_pads
    wide = padded(held, pads, -math.inf)
    pool, kernel, strides = _MAX[windows.rank], tuple(windows.kernel), tuple(windows.strides)
    if c.count < 2 or not c.node.outputs[1]:
        out = pool(wide, kernel, strides, 0, tuple(windows.dilations))
        return out.to(x.dtype)
    out, at = pool(wide, kernel, strides, 0, tuple(windows.dilations), False, True)
    places: list[torch.Tensor] = []
    for axis in reversed(range(windows.rank)):
        extent = wide.shape[2 + axis]
        places.insert(0, at % extent - pads[axis])
        at = torch.div(at, extent, rounding_mode="floor")
    order = range(windows.rank) if c.get("storage_order", 0) == 0 else reversed(range(windows.rank))
    flat = torch.zeros_like(places[0])
    for axis in order:
        flat = flat * x.shape[2 + axis] + places[axis]
    planes = torch.arange(x.shape[0] * x.shape[1]).reshape(*x.shape[:2], *(1,) * windows.rank)
    return out.to(x.dtype), flat + planes * math.prod(windows.sizes)


@operator("average_pool")
def _average_pool(c: Case) -> Any:
    x = c.x()
    windows = _Windows(c, x)
    if not any(windows.all_pads) and set(windows.dilations) == {1}:
        return _AVERAGE[windows.rank](x, tuple(windows.kernel), tuple(windows.strides))
    counted = torch.ones(1, 1, *windows.sizes, dtype=x.dtype)
    counted = padded(counted, windows.pads, 1.0 if c.get("count_include_pad", 0) else 0.0)
    counted = padded(counted, [0] * windows.rank + windows.over)
    return windows.totals(padded(x, windows.all_pads)) / windows.totals(counted)


@operator("lp_pool")
def _lp_pool(c: Case) -> Any:
    p = float(c.get("p", 2))
    windows = _Windows(c, c.x())
    return windows.totals(padded(c.x().abs() ** p, windows.all_pads)) ** (1 / p)


@operator("global_average_pool", "global_max_pool", "global_lp_pool")
def _global(c: Case) -> Any:
    x = c.x()
    axes = tuple(range(2, x.dim()))
    if c.node.op == "global_average_pool":
        return x.mean(axes, keepdim=True)
    if c.node.op == "global_max_pool":
        return x.amax(axes, keepdim=True)
    p = float(c.get("p", 2))
    return (x.abs() ** p).sum(axes, keepdim=True) ** (1 / p)


@operator("max_unpool")
def _max_unpool(c: Case) -> Any:
    x, at, shape = c.x(), c.x(1), c.ints(2, "output_shape")
    rank = x.dim() - 2
    kernel, strides, pads = c.get("kernel_shape"), _each(c, "strides", rank, 1), _each(c, "pads", 2 * rank, 0)
    own = [(x.shape[2 + a] - 1) * strides[a] + kernel[a] - pads[a] - pads[rank + a] for a in range(rank)]
    flat = torch.zeros(x.shape[0] * x.shape[1] * math.prod(own), dtype=x.dtype)
    out = flat.scatter(0, at.reshape(-1), x.reshape(-1)).reshape(*x.shape[:2], *own)
    return (
        out if shape is None else padded(out, [0] * (2 + rank) + [n - m for n, m in zip(shape, out.shape, strict=True)])
    )
