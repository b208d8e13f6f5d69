"""Pooling modules of torch.nn: the calls that they make, and the shapes that come out."""

from __future__ import annotations

from initaudit.errors import UnsupportedError
from initaudit.inferred.leaves import Leaf, MisfitError, Shape, Step, positive, with_channels


def pool(leaf: Leaf, shape: Shape) -> list[Step]:
    """Return the call of a MaxPool, AvgPool or LPPool on a value of this shape.

    Raises:
        MisfitError: the value has other axes, or less room than a window takes.
        UnsupportedError: it returns indices too, or its record is not that of a constructor.
    """
    n = leaf.rank
    with_channels(leaf, shape)
    kernel = positive(leaf, leaf.several("kernel_size"))
    given = leaf.get("stride")
    stride = kernel if given in (None, ()) else positive(leaf, leaf.several("stride"))
    padding, dilation = leaf.several("padding", 0), positive(leaf, leaf.several("dilation", 1))
    ceil = bool(leaf.get("ceil_mode", False))
    sizes = zip(shape[2:], kernel, stride, padding, dilation, strict=True)
    out = (*shape[:2], *(_windows(*one, ceil) for one in sizes))
    if any(k > x + 2 * p for x, k, p in zip(shape[2:], kernel, padding, strict=True)):
        raise MisfitError(f"the window of {leaf.where} is larger than what it is applied to", 1, 4**n)
    if leaf.kind.startswith("MaxPool"):
        if leaf.get("return_indices", False):
            raise UnsupportedError(f"{leaf.where} returns two values")
        kwargs = {
            "stride": given, "padding": leaf.get("padding", 0), "dilation": leaf.get("dilation", 1),
            "ceil_mode": ceil, "return_indices": False,
        }  # fmt: skip
        return [Step(f"max_pool{n}d", (leaf.get("kernel_size"),), kwargs, out)]
    if leaf.kind.startswith("LPPool"):
        power = (float(leaf.get("norm_type", 2)), leaf.get("kernel_size"))
        return [Step(f"lp_pool{n}d", power, {"stride": given, "ceil_mode": ceil}, out)]
    args = (leaf.get("kernel_size"), given, leaf.get("padding", 0), ceil, leaf.get("count_include_pad", True))
    return [Step(f"avg_pool{n}d", args if n == 1 else (*args, leaf.get("divisor_override")), {}, out)]


def _windows(extent: int, kernel: int, stride: int, padding: int, dilation: int, ceil: bool) -> int:
    room = extent + 2 * padding - dilation * (kernel - 1) - 1
    count = -(-room // stride) + 1 if ceil else room // stride + 1
    return count - 1 if ceil and (count - 1) * stride >= extent + padding else count


def adaptive(leaf: Leaf, shape: Shape) -> list[Step]:
    """Return the call of an adaptive pooling on a value of this shape; raises as `pool`."""
    with_channels(leaf, shape)
    size = leaf.get("output_size")
    items = size if isinstance(size, tuple) else (size,) * leaf.rank
    if len(items) != leaf.rank or not all(n is None or isinstance(n, int) for n in items):
        raise UnsupportedError(f"{leaf.where} has no output_size")
    out = tuple(x if n is None else n for x, n in zip(shape[2:], items, strict=True))
    how = "max" if "Max" in leaf.kind else "avg"
    if leaf.get("return_indices", False):
        raise UnsupportedError(f"{leaf.where} returns two values")
    kwargs = {"return_indices": False} if how == "max" else {}
    return [Step(f"adaptive_{how}_pool{leaf.rank}d", (size,), kwargs, (*shape[:2], *out))]
