"""Constant folding: what an ONNX node makes of constants, as a lazy tensor that keeps the name of its source.

What only moves values (Transpose, Reshape, Slice, Split, Expand, ...) stays a view of the same storage, so that ties
remain visible; what computes (Cast, Concat, DequantizeLinear, arithmetic) is evaluated when it is loaded. MatMul and
Conv of constants, and lookups by a list of indices, stay in the graph: those are layers.

Source: https://onnx.ai/onnx/operators
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from initaudit.errors import UnsupportedError
from initaudit.formats.onnx.lazy import (
    INTEGERS,
    MOST_INDICES,
    UnfoldableError,
    axis_of,
    computed,
    dequantized,
    filled,
    integers,
    reshaped,
    sliced,
    view,
)
from initaudit.formats.onnx.tensors import DTYPES, MOST_ELEMENTS, PACKED_BITS, loaded_dtype
from initaudit.strides import strides_of
from initaudit.types import Array, Tensor

Attrs = Mapping[str, Any]
Inputs = Sequence[Tensor | None]

_WRITES = ("none", b"none")


def fold(op: str, inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    """Return what ONNX operator `op` of the default domain makes of constants.

    Raises:
        UnfoldableError: it is not among those that are folded, or its inputs do not fit.
    """
    rule = _RULES.get(op)
    if rule is None:
        raise UnfoldableError(op)
    try:
        made = rule(inputs, attrs, outputs)
    except (IndexError, KeyError, TypeError, ValueError, OverflowError, UnsupportedError) as error:
        raise UnfoldableError(f"{op}: {error}") from error
    if len(made) < outputs:
        raise UnfoldableError(f"{op} with {outputs} outputs")
    for tensor in made:
        if tensor.size > MOST_ELEMENTS and tensor.size > max((t.size for t in inputs if t is not None), default=0):
            raise UnfoldableError(f"{op} makes {tensor.size} elements")
    return made


def _first(inputs: Inputs) -> Tensor:
    if not inputs or inputs[0] is None:
        raise UnfoldableError("no input")
    return inputs[0]


def _at(inputs: Inputs, index: int) -> Tensor | None:
    return inputs[index] if index < len(inputs) else None


def _setting(inputs: Inputs, index: int, attrs: Attrs, name: str) -> list[int] | None:
    """Return integers that older operator sets keep in an attribute and newer ones in an input; None: not given."""
    if name in attrs:
        return list(attrs[name])
    given = _at(inputs, index)
    return None if given is None else integers(given)


def _identity(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    return (_first(inputs),)


def _transpose(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x = _first(inputs)
    order = tuple(attrs.get("perm") or range(len(x.shape))[::-1])
    if sorted(order) != list(range(len(x.shape))):
        raise UnfoldableError(f"permutation {order}")
    strides = strides_of(x)
    shape = tuple(x.shape[a] for a in order)
    return (view(x, shape, [strides[a] for a in order], 0, lambda a: a.transpose(order)),)


def _reshape(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x = _first(inputs)
    wanted = _setting(inputs, 1, attrs, "shape")
    if wanted is None:
        raise UnfoldableError("no shape")
    if not attrs.get("allowzero"):
        wanted = [x.shape[i] if extent == 0 else extent for i, extent in enumerate(wanted)]
    known = math.prod(e for e in wanted if e != -1)
    if wanted.count(-1) > 1 or min(wanted, default=0) < -1 or (-1 in wanted and (not known or x.size % known)):
        raise UnfoldableError(f"shape {wanted}")
    return (reshaped(x, tuple(x.size // known if e == -1 else e for e in wanted)),)


def _flatten(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x = _first(inputs)
    axis = attrs.get("axis", 1)
    axis = axis + len(x.shape) if axis < 0 else axis
    if not 0 <= axis <= len(x.shape):
        raise UnfoldableError(f"axis {axis}")
    return (reshaped(x, (math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))),)


def _squeeze(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x = _first(inputs)
    axes = _setting(inputs, 1, attrs, "axes")
    gone = {axis_of(a, len(x.shape)) for a in axes} if axes else {a for a, e in enumerate(x.shape) if e == 1}
    return (reshaped(x, tuple(e for a, e in enumerate(x.shape) if a not in gone)),)


def _unsqueeze(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x = _first(inputs)
    axes = _setting(inputs, 1, attrs, "axes")
    if axes is None:
        raise UnfoldableError("no axes")
    rank = len(x.shape) + len(axes)
    new = {axis_of(a, rank) for a in axes}
    if len(new) != len(axes):
        raise UnfoldableError(f"axes {axes}")
    old = iter(x.shape)
    return (reshaped(x, tuple(1 if a in new else next(old) for a in range(rank))),)


def _slice(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x = _first(inputs)
    starts, ends = _setting(inputs, 1, attrs, "starts"), _setting(inputs, 2, attrs, "ends")
    if starts is None or ends is None:
        raise UnfoldableError("no bounds")
    axes = _setting(inputs, 3, attrs, "axes") or list(range(len(starts)))
    steps = _setting(inputs, 4, {}, "") or [1] * len(starts)
    cuts = [slice(None)] * len(x.shape)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        cuts[axis_of(axis, len(x.shape))] = slice(start, end, step)
    return (sliced(x, tuple(cuts)),)


def _split(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x = _first(inputs)
    axis = axis_of(attrs.get("axis", 0), len(x.shape))
    extent = x.shape[axis]
    sizes = _setting(inputs, 1, attrs, "split")
    if sizes is None:
        each = -(-extent // max(outputs, 1))
        sizes = [max(0, min(each, extent - i * each)) for i in range(outputs)]
    if sum(sizes) != extent or len(sizes) != outputs or min(sizes, default=0) < 0:
        raise UnfoldableError(f"{extent} into {sizes}")
    parts = []
    start = 0
    for size in sizes:
        cuts = [slice(None)] * len(x.shape)
        cuts[axis] = slice(start, start + size)
        parts.append(sliced(x, tuple(cuts)))
        start += size
    return tuple(parts)


def _concat(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    parts = [t for t in inputs if t is not None]
    x = _first(parts)
    axis = axis_of(attrs.get("axis", 1), len(x.shape))
    rest = [(t.dtype, t.shape[:axis], t.shape[axis + 1 :], len(t.shape)) for t in parts]
    if any(r != rest[0] for r in rest):
        raise UnfoldableError("unequal parts")
    if len(parts) == 1:
        return (x,)
    shape = (*x.shape[:axis], sum(t.shape[axis] for t in parts), *x.shape[axis + 1 :])
    ends = np.cumsum([t.shape[axis] for t in parts])[:-1]
    return (
        computed(
            f"concat{axis}", parts, shape, x.dtype, lambda *arrays: np.concatenate(arrays, axis),
            undo=lambda a: np.split(a, ends, axis),
        ),
    )  # fmt: skip


def _scatter_nd(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x, at, written = _first(inputs), _at(inputs, 1), _at(inputs, 2)
    places = np.array(integers(at), np.int64)
    if at is None or written is None or written.dtype != x.dtype or attrs.get("reduction", "none") not in _WRITES:
        raise UnfoldableError("no plain writing")
    depth = at.shape[-1] if at.shape else 0
    if not 0 < depth <= len(x.shape) or written.shape != (*at.shape[:-1], *x.shape[depth:]):
        raise UnfoldableError("unequal shapes")
    index = tuple(np.moveaxis(places.reshape(at.shape), -1, 0))
    if any((one < -n).any() or (one >= n).any() for one, n in zip(index, x.shape, strict=False)):
        raise UnfoldableError("places outside")

    def write(base: Array, values: Array) -> Array:
        out = base.copy()
        out[index] = values
        return out

    def undo(a: Array) -> tuple[Array, Array]:
        base = a.copy()
        base[index] = 0  # written over: what stands here does not matter, and no mask has it
        return base, a[index]

    return (computed(f"scatter{places.tobytes().hex()}", (x, written), x.shape, x.dtype, write, undo=undo),)


def _expand(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x = _first(inputs)
    shape = np.broadcast_shapes(x.shape, tuple(integers(_at(inputs, 1))))
    if shape == x.shape:
        return (x,)
    if x.size == 1 and x.is_float and math.prod(shape) > 1:  # a weight of its own, as ConstantOfShape makes them
        return (filled(shape, x.dtype, x.load().reshape(())),)
    lead = len(shape) - len(x.shape)
    strides = [0] * lead + [
        0 if e == 1 != full else s for s, e, full in zip(strides_of(x), x.shape, shape[lead:], strict=True)
    ]
    return (view(x, shape, strides, 0, lambda a: np.broadcast_to(a, shape)),)


def _gather(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x, at = _first(inputs), _at(inputs, 1)
    axis = axis_of(attrs.get("axis", 0), len(x.shape))
    indices = integers(at)
    extent = x.shape[axis]
    if at is None or any(not -extent <= i < extent for i in indices):
        raise UnfoldableError("an index outside")
    if not at.shape:  # one row: a part of a stacked parameter
        cuts = [slice(None)] * len(x.shape)
        cuts[axis] = slice(indices[0] % extent, indices[0] % extent + 1)
        return (reshaped(sliced(x, tuple(cuts)), x.shape[:axis] + x.shape[axis + 1 :]),)
    if x.dtype not in INTEGERS:
        raise UnfoldableError("a lookup")
    shape = x.shape[:axis] + at.shape + x.shape[axis + 1 :]
    return (computed(f"gather{axis}", (x, at), shape, x.dtype, lambda a, i: np.take(a, i, axis), x.name),)


def _cast(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x = _first(inputs)
    like = _at(inputs, 1)
    to = attrs.get("to")
    dtype = like.dtype if like is not None else to.lower() if isinstance(to, str) else DTYPES[int(to or 0)]
    dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)  # operator sets below 6 write it out
    if dtype == x.dtype:
        return (x,)
    if dtype in PACKED_BITS or dtype.startswith("float8"):  # saturation is a story of its own
        raise UnfoldableError(dtype)
    kind = loaded_dtype(dtype)
    return (computed(f"cast<{dtype}>", (x,), x.shape, dtype, lambda a: a.astype(kind), undo=lambda a: (a,)),)


def _shape(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x = _first(inputs)
    extents = x.shape[slice(attrs.get("start", 0), attrs.get("end"))]
    return (filled((len(extents),), "int64", np.array(extents, np.int64)),)


def _size(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x = _first(inputs)
    return (filled((), "int64", np.array(x.size, np.int64)),)


def _constant_of_shape(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    shape = tuple(integers(_first(inputs)))
    if min(shape, default=0) < 0:
        raise UnfoldableError(f"shape {shape}")
    value = attrs.get("value")
    if not isinstance(value, Tensor):
        return (filled(shape, "float32", np.float32(0)),)  # type: ignore[arg-type]
    if value.size != 1:
        raise UnfoldableError("more than one value")
    return (filled(shape, value.dtype, value.load().reshape(())),)


def _range(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    (start,), (limit,), (step,) = (integers(_at(inputs, i)) for i in range(3))
    values = range(start, limit, step)
    if len(values) > MOST_INDICES:
        raise UnfoldableError("a long range")
    x = _first(inputs)
    return (filled((len(values),), x.dtype, np.array(values, loaded_dtype(x.dtype))),)


def _dequantize(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x, scale = _first(inputs), _at(inputs, 1)
    if scale is None:
        raise UnfoldableError("no scale")
    return (dequantized(x, scale, _at(inputs, 2), attrs.get("axis", 1), attrs.get("block_size", 0)),)


def _quantize(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
    x, scale, zero = _first(inputs), _at(inputs, 1), _at(inputs, 2)
    if scale is None or attrs.get("block_size"):
        raise UnfoldableError("no scale per tensor or axis")
    dtype = zero.dtype if zero is not None else "uint8"
    if dtype not in INTEGERS or (zero is not None and zero.size != scale.size):
        raise UnfoldableError(dtype)
    lines = (1,) * len(x.shape)
    if scale.size > 1:
        axis = axis_of(attrs.get("axis", 1), len(x.shape))
        lines = tuple(e if a == axis else 1 for a, e in enumerate(x.shape))
    if math.prod(lines) != scale.size:
        raise UnfoldableError(f"scale {scale.shape}")
    bits = loaded_dtype(dtype).itemsize * 8
    low, high = (0, 2**bits - 1) if dtype.startswith("u") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

    def compute(a: Array, s: Array, z: Array | None = None) -> Array:
        steps = np.rint(a.astype(np.float32) / s.astype(np.float32).reshape(lines))
        if z is not None:
            steps += z.astype(np.float32).reshape(lines)
        return np.asarray(np.clip(np.nan_to_num(steps), low, high))

    parts = (x, scale) if zero is None else (x, scale, zero)
    return (computed(f"quantize{lines}", parts, x.shape, dtype, compute, x.name),)


def _elementwise(what: str, function: Callable[..., Any], arity: int, *, floats: bool = False) -> _Rule:
    def rule(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
        parts = [t for t in inputs if t is not None]
        if len(parts) != arity or len(inputs) != arity or attrs.get("broadcast"):
            raise UnfoldableError(what)
        dtype = parts[-1].dtype
        if any(t.dtype != dtype for t in parts[-2:]) or dtype in PACKED_BITS or dtype == "bool":
            raise UnfoldableError("mixed types")
        if floats and dtype in INTEGERS:
            raise UnfoldableError(dtype)
        shape = np.broadcast_shapes(*[t.shape for t in parts])
        return (computed(what, parts, shape, dtype, function),)

    return rule


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind not in "iu":
        return np.asarray(a / b)
    quotient = np.floor_divide(a, b)
    return np.asarray(quotient + ((quotient < 0) & (quotient * b != a)).astype(a.dtype))  # towards zero


def _reduction(what: str, function: Callable[..., Any]) -> _Rule:
    def rule(inputs: Inputs, attrs: Attrs, outputs: int) -> tuple[Tensor, ...]:
        x = _first(inputs)
        given = _setting(inputs, 1, attrs, "axes")
        if not given and attrs.get("noop_with_empty_axes"):
            return (x,)
        axes = tuple(sorted({axis_of(a, len(x.shape)) for a in given or range(len(x.shape))}))
        keep = bool(attrs.get("keepdims", 1))
        if x.dtype in PACKED_BITS or x.dtype == "bool" or not x.size:
            raise UnfoldableError(x.dtype)
        shape = tuple(1 if a in axes else e for a, e in enumerate(x.shape) if keep or a not in axes)
        return (computed(f"{what}{axes}", (x,), shape, x.dtype, lambda a: function(a, axes)),)

    return rule


_Rule = Callable[[Inputs, Attrs, int], tuple[Tensor, ...]]
_RULES: dict[str, _Rule] = {
    "Identity": _identity,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Flatten": _flatten,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Split": _split,
    "Concat": _concat,
    "ScatterND": _scatter_nd,
    "Expand": _expand,
    "Gather": _gather,
    "Cast": _cast,
    "CastLike": _cast,
    "Shape": _shape,
    "Size": _size,
    "Range": _range,
    "ConstantOfShape": _constant_of_shape,
    "DequantizeLinear": _dequantize,
    "QuantizeLinear": _quantize,
    "Add": _elementwise("add", np.add, 2),
    "Sub": _elementwise("sub", np.subtract, 2),
    "Mul": _elementwise("mul", np.multiply, 2),
    "Div": _elementwise("div", _divide, 2),
    "Pow": _elementwise("pow", np.power, 2, floats=True),
    "Sqrt": _elementwise("sqrt", np.sqrt, 1, floats=True),
    "Reciprocal": _elementwise("reciprocal", np.reciprocal, 1, floats=True),
    "Exp": _elementwise("exp", np.exp, 1, floats=True),
    "Neg": _elementwise("neg", np.negative, 1),
    "Abs": _elementwise("abs", np.abs, 1),
    "Where": _elementwise("where", lambda c, a, b: np.where(c != 0, a, b), 3),
    "ReduceSum": _reduction("sum", lambda a, axes: a.sum(axes)),
    "ReduceMean": _reduction("mean", lambda a, axes: a.mean(axes)),
    "ReduceL2": _reduction("l2", lambda a, axes: np.sqrt(np.square(a).sum(axes))),
    "ReduceSumSquare": _reduction("squares", lambda a, axes: np.square(a).sum(axes)),
    "ReduceProd": _reduction("prod", lambda a, axes: a.prod(axes)),
}
