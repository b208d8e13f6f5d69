"""Operators of ONNX Runtime whose weights are packed: the plain operator that they stand for, with its real weights.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from initaudit.formats.onnx.lazy import UnfoldableError, computed, scaled, view
from initaudit.types import Array, Tensor

Operand = str | Tensor | None  # a value of the graph, or the weight that takes its place


def unpacked(
    op: str, names: Sequence[str], inputs: Sequence[Tensor | None], attrs: Mapping[str, Any]
) -> tuple[str, tuple[Operand, ...]]:
    """Return the plain operator and its inputs.

    Raises:
        UnfoldableError: nothing is packed here, or not as it should be.
    """
    padded = [*inputs, *[None] * 12]
    try:
        if op == "MatMulNBits":
            if len(names) > 5 and names[5]:
                raise UnfoldableError("a bias")
            return "MatMul", (names[0], _by_blocks(padded[1], padded[2], padded[3], names, attrs))
        if op == "DynamicQuantizeLSTM":
            weights = (_recurrent(padded[1], padded[8], padded[9]), _recurrent(padded[2], padded[10], padded[11]))
            return "LSTM", (names[0], *weights, *names[3:8])
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise UnfoldableError(f"{op}: {error}") from error
    raise UnfoldableError(op)


def _by_blocks(
    packed: Tensor | None, scales: Tensor | None, zeros: Tensor | None, names: Sequence[str], attrs: Mapping[str, Any]
) -> Tensor:
    """Return the (K, N) weight of MatMulNBits: N rows of blocks, each block with its scale and zero point."""
    if packed is None or scales is None or (len(names) > 3 and names[3] and zeros is None):
        raise UnfoldableError("the weight, its scales or its zero points are no constants")
    if len(names) > 4 and names[4]:
        raise UnfoldableError("columns are reordered")
    K, N, block, bits = (int(attrs[key]) for key in ("K", "N", "block_size", "bits"))
    if bits not in (2, 4, 8) or block <= 0 or block * bits % 8 or min(K, N) <= 0 or packed.dtype != "uint8":
        raise UnfoldableError(f"{bits} bits in blocks of {block}")
    blocks = -(-K // block)
    whole = zeros is not None and zeros.dtype != "uint8"  # not packed: one number for each block
    expected = N * blocks if whole else N * -(-blocks * bits // 8)
    if packed.size != N * blocks * (block * bits // 8) or scales.size != N * blocks:
        raise UnfoldableError(f"{packed.shape} for {N} times {K}")
    if zeros is not None and zeros.size != expected:
        raise UnfoldableError(f"zero points {zeros.shape}")

    def compute(q: Array, s: Array, z: Array | None = None) -> Array:
        levels = _levels(q.reshape(N, -1), bits).reshape(N, blocks, block).astype(np.float32)
        if z is None:
            levels -= 1 << (bits - 1)
        elif whole:
            levels -= z.astype(np.float32).reshape(N, blocks, 1)
        else:
            levels -= _levels(z.reshape(N, -1), bits)[:, :blocks, None].astype(np.float32)
        levels *= s.astype(np.float32).reshape(N, blocks, 1)
        return levels.reshape(N, -1)[:, :K]

    parts = (packed, scales) if zeros is None else (packed, scales, zeros)
    rows = computed(f"blocks{bits}/{block}", parts, (N, K), scales.dtype, compute, packed.name)
    return view(rows, (K, N), (1, K), 0, np.transpose)


def _levels(packed: Array, bits: int) -> Array:
    """Return the numbers of `bits` bits in rows of bytes, low ones first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    levels = (packed[:, :, None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.asarray(levels.reshape(packed.shape[0], -1))


def _recurrent(packed: Tensor | None, scale: Tensor | None, zero: Tensor | None) -> Tensor:
    """Return the (directions, 4 hidden, in) weight of a quantised LSTM, which stores its last two axes swapped."""
    if packed is None or scale is None or len(packed.shape) != 3:
        raise UnfoldableError("the weight or its scale is no constant")
    directions, columns, rows = packed.shape
    if scale.size not in (directions, directions * rows):
        raise UnfoldableError(f"scale {scale.shape}")
    real = scaled(packed, scale, zero, (directions, 1, scale.size // directions))
    return view(real, (directions, rows, columns), (columns * rows, 1, rows), 0, lambda a: a.transpose(0, 2, 1))
