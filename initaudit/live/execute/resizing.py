"""Resize, Upsample, GridSample and their like, with ONNX's coordinates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from initaudit.errors import UnsupportedError
from initaudit.live.execute.case import Case, axis_of, operator

_ROUNDINGS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "round_prefer_floor": lambda v: torch.ceil(v - 0.5),
    "round_prefer_ceil": lambda v: torch.floor(v + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


@operator("resize", "upsample")
def _resize(c: Case) -> Any:
    x = c.x()
    old = c.node.op == "upsample" or len(c.values) == 2  # Upsample and Resize of opset 10: an operand and scales
    scales = c.floats(1 if old else 2, "scales")
    if c.node.op == "upsample" and "height_scale" in c.node.attrs:
        scales = [1.0, 1.0, float(c.get("height_scale")), float(c.get("width_scale"))]
    sizes = None if old else c.ints(3, "sizes")
    axes = [axis_of(a, x.dim()) for a in c.get("axes", range(x.dim()))]
    roi = None if old else c.floats(1, "roi")
    if not scales and not sizes:
        raise UnsupportedError("a resize to no size")
    if sizes:
        wanted, factors = _sized(c, x, axes, sizes)
    else:
        factors = list(scales or ())
        wanted = [math.floor(x.shape[a] * f) for a, f in zip(axes, factors, strict=True)]
    mode = c.text("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    dtype = x.dtype
    x = x if x.is_floating_point() else x.to(torch.float64)
    outside: list[tuple[int, torch.Tensor]] = []
    for place, (axis, size, factor) in enumerate(zip(axes, wanted, factors, strict=True)):
        crop = (roi[place], roi[len(axes) + place]) if roi else (0.0, 1.0)
        if x.shape[axis] == size and factor == 1 and mode != "tf_crop_and_resize":
            continue
        at = _source(mode, x.shape[axis], size, factor, crop)
        if mode == "tf_crop_and_resize":
            outside.append((axis, (at < 0) | (at > x.shape[axis] - 1)))
        x = _taken(c, x, axis, at, factor, old)
    for axis, beyond in outside:
        shape = [-1 if a == axis else 1 for a in range(x.dim())]
        x = x.masked_fill(beyond.reshape(shape), float(c.get("extrapolation_value", 0.0)))
    return x if x.dtype == dtype else x.round().to(dtype)


def _sized(c: Case, x: torch.Tensor, axes: list[int], sizes: list[int]) -> tuple[list[int], list[float]]:
    policy = c.text("keep_aspect_ratio_policy", "stretch")
    factors = [size / x.shape[a] for a, size in zip(axes, sizes, strict=True)]
    if policy == "stretch":
        return sizes, factors
    one = min(factors) if policy == "not_larger" else max(factors)
    return [math.floor(one * x.shape[a] + 0.5) for a in axes], [one] * len(axes)


def _source(mode: str, size: int, wanted: int, factor: float, crop: tuple[float, float]) -> torch.Tensor:
    """Return where in the operand each element of the result comes from."""
    y = torch.arange(wanted, dtype=torch.float64)
    exact = factor * size
    if mode == "align_corners":
        return torch.zeros_like(y) if exact == 1 else y * (size - 1) / (exact - 1)
    if mode == "asymmetric":
        return y / factor
    if mode == "tf_crop_and_resize":
        start, end = crop
        if wanted == 1:
            return torch.full_like(y, (end + start) * (size - 1) / 2)
        return y * (end - start) * (size - 1) / (wanted - 1) + start * (size - 1)
    if mode == "pytorch_half_pixel" and wanted == 1:
        return torch.full_like(y, -0.5)
    if mode in ("half_pixel", "pytorch_half_pixel"):
        return (y + 0.5) / factor - 0.5
    if mode == "half_pixel_symmetric":
        return size / 2 * (1 - wanted / exact) + (y + 0.5) / factor - 0.5
    if mode == "tf_half_pixel_for_nn":
        return (y + 0.5) / factor
    raise UnsupportedError(f"a resize by {mode}")


def _taken(c: Case, x: torch.Tensor, axis: int, at: torch.Tensor, factor: float, old: bool) -> torch.Tensor:
    mode, size = c.text("mode", "nearest"), x.shape[axis]
    if mode == "nearest":
        rounding = c.text("nearest_mode", "floor" if old else "round_prefer_floor")
        if rounding not in _ROUNDINGS:
            raise UnsupportedError(f"rounding by {rounding}")
        which = _ROUNDINGS[rounding](at)
        return x.index_select(axis, which.long().clamp(0, size - 1))
    if mode in ("linear", "bilinear"):
        reach, a = 1, 0.0
    elif mode == "cubic":
        reach, a = 2, float(c.get("cubic_coeff_a", -0.75))
    else:
        raise UnsupportedError(f"a resize by {mode}")
    squeeze = min(factor, 1.0) if c.get("antialias", 0) else 1.0
    span = math.ceil(reach / squeeze)
    near = torch.arange(-span, span + 2)
    index = torch.floor(at).long().unsqueeze(1) + near
    weight = _kernel((index - at.unsqueeze(1)) * squeeze, reach, a)
    if c.get("exclude_outside", 0):
        weight = weight * ((index >= 0) & (index < size))
    weight = weight / weight.sum(1, keepdim=True) if c.get("exclude_outside", 0) or squeeze < 1 else weight
    matrix = torch.zeros(len(at), size, dtype=torch.float64).scatter_add(1, index.clamp(0, size - 1), weight)
    return F.linear(x.movedim(axis, -1), matrix.to(x.dtype)).movedim(-1, axis)


def _kernel(distance: torch.Tensor, reach: int, a: float) -> torch.Tensor:
    d = distance.abs()
    if reach == 1:
        return (1 - d).clamp(min=0)
    inner = (a + 2) * d**3 - (a + 3) * d**2 + 1
    outer = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return torch.where(d <= 1, inner, torch.where(d < 2, outer, torch.zeros_like(d)))


@operator("grid_sample")
def _grid_sample(c: Case) -> Any:
    mode = {"linear": "bilinear", "cubic": "bicubic"}.get(found := c.text("mode", "bilinear"), found)
    padding = c.text("padding_mode", "zeros")
    return F.grid_sample(c.x(), c.x(1), mode, padding, align_corners=bool(c.get("align_corners", 0)))


@operator("affine_grid")
def _affine_grid(c: Case) -> Any:
    return F.affine_grid(c.x(), c.ints(1, "size") or [], align_corners=bool(c.get("align_corners", 0)))
