"""fan_in and fan_out of an operator, from the axes of its stored weight."""

from __future__ import annotations

from math import prod

FANLESS = frozenset({"norm", "bias", "vector", "parameter", "prelu"})


def fans(
    kind: str,
    axes: str,
    shape: tuple[int, ...],
    groups: int = 1,
    stride: tuple[int, ...] = (),
    parts: int = 1,
) -> tuple[float | None, float | None]:
    """Return the exact (fan_in, fan_out) of one operator, or (None, None) where the notion does not apply.

    Linear: in and out. Conv: (in/groups)*k and (out/groups)*k. Transposed conv (the i axis before the o axis, with a
    kernel): (in/groups)*k/prod(stride), the inputs that meet in one output, and (out/groups)*k. Embedding: 1 and its
    dimension. Stacked operators (s axes) and parts along o are counted one at a time.

    Args:
        kind: as in Layer.kind.
        axes: one of o, i, k, s per axis of `shape`, as in Layer.axes.
        shape: of the stored tensor.
        groups: of a convolution.
        stride: of a transposed convolution; () is 1 everywhere.
        parts: operators that lie side by side along o.

    >>> fans("linear", "oi", (3072, 768), parts=1)
    (768.0, 3072.0)
    >>> fans("conv", "oikk", (128, 4, 3, 3), groups=32)
    (36.0, 36.0)
    >>> fans("conv_transpose", "iokk", (64, 32, 4, 4), stride=(2, 2))
    (256.0, 512.0)
    >>> fans("embedding", "io", (30522, 768))
    (1.0, 768.0)
    >>> fans("norm", "o", (768,))
    (None, None)
    """
    if kind in FANLESS or "o" not in axes or "i" not in axes:
        return None, None
    extent = {label: prod(n for a, n in zip(axes, shape, strict=True) if a == label) for label in "oik"}
    o = extent["o"] / parts
    if kind == "embedding":
        return 1.0, o
    i = float(extent["i"])
    k = extent["k"]
    if kind == "conv_transpose":
        return i / groups * k / prod(stride), o * k
    return i * k, o / groups * k
