"""Reductions, running sums and losses, with ONNX's meaning."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from initaudit.live.execute.case import OPERATORS, Case, axis_of, operator

Reduction = Callable[[torch.Tensor, list[int], bool], torch.Tensor]


def _product(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _extreme(which: str) -> Reduction:
    def run(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
        held = x.to(torch.uint8) if x.dtype == torch.bool else x
        if any(x.shape[a] == 0 for a in axes):
            shape = [1 if a in axes else e for a, e in enumerate(x.shape) if keep or a not in axes]
            return torch.full(shape, _worst(x.dtype, which), dtype=x.dtype)
        out = held.amax(axes, keepdim=keep) if which == "max" else held.amin(axes, keepdim=keep)
        return out.to(x.dtype)

    return run


def _worst(dtype: torch.dtype, which: str) -> Any:
    """Return what any other value beats."""
    if dtype == torch.bool:
        return which == "min"
    if dtype.is_floating_point:
        return float("inf") if which == "min" else -float("inf")
    return torch.iinfo(dtype).max if which == "min" else torch.iinfo(dtype).min


def _mean(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    if x.is_floating_point() or x.is_complex():
        return x.mean(axes, keepdim=keep)
    return torch.div(x.sum(axes, keepdim=keep), max(1, _count(x, axes)), rounding_mode="trunc").to(x.dtype)


def _count(x: torch.Tensor, axes: list[int]) -> int:
    count = 1
    for axis in axes:
        count *= x.shape[axis]
    return count


def _sum(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    return x.sum(axes, keepdim=keep, dtype=x.dtype)


def _length(x: torch.Tensor, axes: list[int], keep: bool) -> torch.Tensor:
    held = x if x.is_floating_point() else x.to(torch.float64)
    length: torch.Tensor = torch.linalg.vector_norm(held, 2, axes, keepdim=keep)
    return length.to(x.dtype)


_REDUCTIONS: dict[str, Reduction] = {
    "reduce_mean": _mean, "reduce_sum": _sum, "reduce_prod": _product, "reduce_max": _extreme("max"),
    "reduce_min": _extreme("min"), "reduce_l1": lambda x, a, k: _sum(x.abs(), a, k), "reduce_l2": _length,
    "reduce_sum_square": lambda x, a, k: _sum(x * x, a, k), "reduce_log_sum": lambda x, a, k: _sum(x, a, k).log(),
    "reduce_log_sum_exp": lambda x, a, k: torch.logsumexp(x, a, keepdim=k),
}  # fmt: skip


def _reducing(reduction: Reduction) -> Callable[[Case], Any]:
    def run(c: Case) -> Any:
        x, axes = c.x(), c.ints(1, "axes")
        if not axes and c.get("noop_with_empty_axes", 0):
            return {"reduce_l1": torch.abs, "reduce_l2": torch.abs, "reduce_sum_square": torch.square,
                    "reduce_log_sum": torch.log}.get(c.node.op, lambda v: v)(x)  # fmt: skip
        which = [axis_of(a, x.dim()) for a in axes] if axes else list(range(x.dim()))
        return reduction(x, which, bool(c.get("keepdims", 1))) if x.dim() else _scalar(c, x)

    return run


def _scalar(c: Case, x: torch.Tensor) -> torch.Tensor:
    return _REDUCTIONS[c.node.op](x.reshape(1), [0], False)


OPERATORS.update({name: _reducing(reduction) for name, reduction in _REDUCTIONS.items()})


@operator("cumsum", "cumprod")
def _running(c: Case) -> Any:
    x = c.x()
    given = c.ints(1, "axis")
    axis = axis_of(given[0] if given else 0, x.dim())
    back = bool(c.get("reverse", 0))
    x = x.flip(axis) if back else x
    out = x.cumsum(axis) if c.node.op == "cumsum" else x.cumprod(axis)
    if c.get("exclusive", 0):
        first = torch.full_like(x.narrow(axis, 0, 1), 0 if c.node.op == "cumsum" else 1)
        out = torch.cat([first, out.narrow(axis, 0, x.shape[axis] - 1)], axis)
    return (out.flip(axis) if back else out).to(x.dtype)


@operator("negative_log_likelihood_loss", "softmax_cross_entropy_loss")
def _loss(c: Case) -> Any:
    x, target, weight = c.x(), c.x(1).long(), c.maybe(2)
    log = x if c.node.op.startswith("negative") else torch.log_softmax(x, 1)
    ignored = int(c.get("ignore_index", -100))
    loss = F.nll_loss(log, target, weight, ignore_index=ignored, reduction=c.text("reduction", "mean"))
    return (loss, log) if c.count > 1 else loss


@operator("einsum")
def _einsum(c: Case) -> Any:
    return torch.einsum(c.text("equation"), *(c.x(at) for at in range(len(c.values))))


@operator("matmul")
def _matmul(c: Case) -> Any:
    a, b = c.x(), c.x(1)
    a = a.transpose(-1, -2) if c.get("transA", 0) and a.dim() > 1 else a
    b = b.transpose(-1, -2) if c.get("transB", 0) and b.dim() > 1 else b
    out = torch.matmul(a, b)
    return out * c.get("alpha", 1.0) if c.get("alpha", 1.0) != 1 else out


@operator("gemm")
def _gemm(c: Case) -> Any:
    a, b, add = c.x(), c.x(1), c.maybe(2)
    a = a.T if c.get("transA", 0) else a
    b = b.T if c.get("transB", 0) else b
    alpha, beta = c.get("alpha", 1.0), c.get("beta", 1.0)
    out = a @ b
    out = out * alpha if alpha != 1 else out
    if add is None or beta == 0:
        return out
    return out + (add * beta if beta != 1 else add)


@operator("linear")
def _linear(c: Case) -> Any:
    return F.linear(c.x(), c.x(1), c.maybe(2))


@operator("dft")
def _dft(c: Case) -> Any:
    x, length = c.x(), c.ints(1, "dft_length")
    given = c.ints(2, "axis")
    axis = axis_of(given[0] if given else -2 if c.get("@opset", 20) >= 20 else 1, x.dim())
    inverse, one_sided = bool(c.get("inverse", 0)), bool(c.get("onesided", 0))
    value = x.squeeze(-1) if x.shape[-1] == 1 else torch.view_as_complex(x.contiguous())
    n = length[0] if length else None
    if inverse and one_sided:
        return torch.fft.irfft(value, n, axis).unsqueeze(-1)
    if one_sided:
        return torch.view_as_real(torch.fft.rfft(value, n, axis))
    return torch.view_as_real(torch.fft.ifft(value, n, axis) if inverse else torch.fft.fft(value, n, axis))
