"""Stored integers as the numbers that they stand for: what a program dequantises before it uses them is a weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np

from initaudit.types import Array, Ref, Tensor

# namespace::name -> positions of scale, zero point, and what says how many elements share a scale
_PER_TENSOR, _PER_CHANNEL, _GROUPED, _BLOCKS = "tensor", "channel", "group", "blocks"
_OPS = {
    "quantized_decomposed::dequantize_per_tensor": (1, 2, _PER_TENSOR, 0),
    "quantized_decomposed::dequantize_per_channel": (1, 2, _PER_CHANNEL, 3),
    "quantized_decomposed::dequantize_per_channel_group": (1, 2, _GROUPED, 6),
    "torchao::dequantize_affine": (2, 3, _BLOCKS, 1),
}


def real(target: str, args: Sequence[Any], tensors: Mapping[str, Tensor]) -> Tensor | None:
    """Return the weight that a call makes of stored integers, None where it is no such call."""
    if target not in _OPS or not args or not isinstance(args[0], Ref):
        return None
    stored = tensors.get(args[0].name)
    scale_at, zero_at, way, block_at = _OPS[target]
    if stored is None or stored.is_float or len(args) <= max(scale_at, block_at):
        return None
    blocks = _blocks(stored.shape, way, args[block_at])
    scale = _numbers(args[scale_at], tensors)
    zero = _numbers(args[zero_at] if zero_at < len(args) else None, tensors)
    if blocks is None or scale is None or zero is None:
        return None
    parts = [a.name for a in (args[0], args[scale_at], args[zero_at]) if isinstance(a, Ref)]
    return replace(
        stored, dtype="float32", load=lambda: _dequantised(stored.load(), scale(), zero(), blocks), buffer=False,
        storage=f"{stored.storage or stored.name} dequantised", parts=tuple(tensors[name].name for name in parts),
    )  # fmt: skip


def _numbers(value: Any, tensors: Mapping[str, Tensor]) -> Callable[[], Array] | None:
    """Return what gives a scale or a zero point, a number or a tensor of the file; None for a computed one."""
    if value is None:
        return lambda: np.zeros((), np.float32)
    if isinstance(value, int | float):
        return lambda: np.asarray(value, np.float32)
    tensor = tensors.get(value.name) if isinstance(value, Ref) else None
    return None if tensor is None else lambda: np.asarray(tensor.load()).astype(np.float32)


def _blocks(shape: tuple[int, ...], way: str, value: Any) -> tuple[int, ...] | None:
    """Return how many elements along each axis share a scale."""
    if way == _PER_TENSOR:
        return shape
    if way == _BLOCKS:
        found = tuple(value) if isinstance(value, tuple) and len(value) == len(shape) else None
    elif not isinstance(value, int):
        found = None
    elif way == _PER_CHANNEL:
        inside = -len(shape) <= value < len(shape)
        found = tuple(1 if k == value % len(shape) else n for k, n in enumerate(shape)) if inside else None
    else:
        found = (*(1 for _ in shape[:-1]), value) if shape else None
    sound = found is not None and all(
        isinstance(b, int) and b > 0 and n % b == 0 for b, n in zip(found, shape, strict=True)
    )
    return found if sound else None


def _dequantised(values: Array, scale: Array, zero: Array, blocks: tuple[int, ...]) -> Array:
    split = [n for extent, block in zip(values.shape, blocks, strict=True) for n in (extent // block, block)]
    outer = [n for extent, block in zip(values.shape, blocks, strict=True) for n in (extent // block, 1)]

    def wide(part: Array) -> Array:
        return part.reshape(outer) if part.size == prod(outer) else part.reshape([1] * len(outer))

    return ((values.reshape(split).astype(np.float32) - wide(zero)) * wide(scale)).reshape(values.shape)
