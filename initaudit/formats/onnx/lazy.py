"""Lazy tensors made of lazy tensors: views of the same storage, and recipes that run when they are loaded.

A file decides what is made of what, so each recipe knows what running it takes, and none is made that takes too much:
a dozen nodes that each join a tensor with itself would otherwise run for hours.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from initaudit.formats.onnx.tensors import loaded_dtype
from initaudit.strides import contiguous, strides_of
from initaudit.types import Array, Tensor

Shape = tuple[int, ...]
Compute = Callable[..., Array]
Undo = Callable[[Array], Sequence[Array]]

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
MOST_INDICES = 1 << 12
_LONG_KEY = 160
_SMALL = 64  # elements: a result of so few is worked out at once, and costs what follows nothing
_STEP = 1 << 12  # elements that are moved in the time that a step takes anyway
_AT_ONCE = 1 << 17  # work that may be done while the file is read, for one value
_MOST_STEPS = 96  # one inside the other
_MOST_PASSES = 64  # over all that a tensor is made of
_MOST_WORK = 1 << 26  # of a tensor that is made of little
_MOST_SOURCES = 512


class UnfoldableError(Exception):
    """A node that has to stay in the graph; never leaves this package."""


class Recipe:
    """How a derived tensor is loaded, and what that takes: `compute` makes its values of those of its parts.

    `work` counts the elements that all steps move, those of a tensor that goes in twice twice; `sources` are the
    tensors of the file behind it, name and size. `what` was done with `parts`, where this is more than a view; where
    that only moved values, `undo` takes them (or a mask of them) apart again, one array for each part.

    Raises:
        UnfoldableError: it takes too much.
    """

    __slots__ = ("compute", "parts", "run", "sources", "steps", "undo", "what", "work")

    def __init__(
        self, parts: Sequence[Tensor], moved: int, compute: Compute, what: str = "", undo: Undo | None = None
    ) -> None:
        known = [_cost(part) for part in parts]
        self.parts = tuple(parts)
        self.compute = compute
        self.run: Callable[[], Array] = lambda: compute(*[part.load() for part in self.parts])
        self.what, self.undo = what, undo
        self.steps = 1 + max((steps for steps, _, _ in known), default=0)
        self.work = _STEP + moved + sum(work for _, work, _ in known)
        self.sources = known[0][2] if len(known) == 1 else tuple(dict.fromkeys(s for *_, each in known for s in each))
        if self.steps > _MOST_STEPS or len(self.sources) > _MOST_SOURCES:
            raise UnfoldableError(f"{self.steps} steps from {len(self.sources)} tensors")
        if self.work > max(_MOST_WORK, _MOST_PASSES * sum(size for _, size in self.sources)):
            raise UnfoldableError(f"{self.work} elements to move")

    def __call__(self) -> Array:
        """Return the values."""
        return self.run()

    def settle(self) -> None:
        """Run now, and from here on hand out what came of it."""
        values = self.run()
        values.flags.writeable = False
        self.run = lambda: values
        self.steps = self.work = 0


def _cost(tensor: Tensor) -> tuple[int, int, tuple[tuple[str, int], ...]]:
    """Return the steps, the work and the sources of a tensor: of one in the file, what decoding it takes."""
    load = tensor.load
    if isinstance(load, Recipe) and (load.sources or not tensor.name):
        return load.steps, load.work, load.sources
    if isinstance(load, Recipe):  # filled with one value: a weight of its own, but nothing that the file pays for
        return load.steps, load.work, ((tensor.name, 0),) if tensor.size > 1 and tensor.is_float else ()
    work = tensor.size if ":" in tensor.storage else 0  # otherwise it lies in the file as it is
    return 0, work, ((tensor.name, tensor.size),) if tensor.size > 1 else ()


def view(base: Tensor, shape: Shape, strides: Sequence[int], shift: int, apply: Callable[[Array], Array]) -> Tensor:
    """Return a tensor that looks at the bytes of `base` in another way."""
    kept = None if _same(strides, contiguous(shape), shape) else tuple(strides)
    return replace(
        base,
        shape=shape,
        strides=kept,
        offset=base.offset + shift,
        storage=base.storage or base.name,
        load=Recipe((base,), 0, apply),
    )


def computed(
    what: str,
    parts: Sequence[Tensor],
    shape: Shape,
    dtype: str,
    compute: Compute,
    name: str = "",
    undo: Undo | None = None,
) -> Tensor:
    """Return a tensor that is worked out from others when it is loaded; equal recipes have equal storage."""
    sources = ",".join(f"{t.storage or t.name}+{t.offset}{t.shape}{t.strides or ''}" for t in parts)
    key = f"{what}({sources})"
    if len(key) > _LONG_KEY:
        key = f"{what}#{hashlib.blake2b(key.encode('utf-8', 'replace'), digest_size=16).hexdigest()}"
    kind = loaded_dtype(dtype)
    size = math.prod(shape)

    def made(*arrays: Array) -> Array:
        with np.errstate(all="ignore"):
            return np.asarray(compute(*arrays)).astype(kind, copy=False).reshape(shape)

    def release() -> None:
        for part in parts:
            part.release()

    load = Recipe(parts, max(size, *(t.size for t in parts)), made, what, undo)
    if size <= _SMALL and load.work <= _AT_ONCE:
        load.settle()
    names = tuple(source for source, _ in load.sources)
    return Tensor(
        name or max(parts, key=lambda t: t.size).name, shape, dtype, load, key, release=release,
        parts=names if len(names) > 1 else (),
    )  # fmt: skip


def integers(tensor: Tensor | None) -> list[int]:
    """Return the values of a small integer tensor: the shapes, axes and indices that a node is given.

    Raises:
        UnfoldableError: it is absent, large, not of integers, or takes long to work out.
    """
    if tensor is None or tensor.dtype not in INTEGERS or tensor.size > MOST_INDICES or _cost(tensor)[1] > _AT_ONCE:
        raise UnfoldableError("no small integer tensor")
    values: list[int] = tensor.load().reshape(-1).tolist()
    return values


def _same(a: Sequence[int], b: Sequence[int], shape: Shape) -> bool:
    return all(x == y or extent <= 1 for x, y, extent in zip(a, b, shape, strict=True))


def axis_of(axis: int, rank: int) -> int:
    """Return an axis counted from the front.

    Raises:
        UnfoldableError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise UnfoldableError(f"axis {axis} of {rank}")
    return axis % rank


def reshaped(x: Tensor, shape: Shape) -> Tensor:
    """Return `x` in another shape of as many elements: a view wherever the strides allow it."""
    if shape == x.shape:
        return x
    if math.prod(shape) != x.size:
        raise UnfoldableError(f"{x.shape} to {shape}")
    if x.strides is None:
        return view(x, shape, contiguous(shape), 0, lambda a: a.reshape(shape))
    if [e for e in shape if e != 1] == [e for e in x.shape if e != 1]:
        steps = iter(s for s, e in zip(x.strides, x.shape, strict=True) if e != 1)
        return view(x, shape, [next(steps) if e != 1 else 1 for e in shape], 0, lambda a: a.reshape(shape))
    return computed(
        f"reshape{shape}", (x,), shape, x.dtype, lambda a: a.reshape(shape), undo=lambda a: (a.reshape(x.shape),)
    )


def sliced(x: Tensor, cuts: tuple[slice, ...]) -> Tensor:
    """Return x[cuts], one slice for each axis."""
    ranges = [range(*cut.indices(extent)) for cut, extent in zip(cuts, x.shape, strict=True)]
    strides = strides_of(x)
    shape = tuple(len(r) for r in ranges)
    shift = sum(r.start * s for r, s in zip(ranges, strides, strict=True)) if math.prod(shape) else 0
    if shape == x.shape and shift == 0:
        return x
    return view(x, shape, [r.step * s for r, s in zip(ranges, strides, strict=True)], shift, lambda a: a[cuts])


def filled(shape: Shape, dtype: str, value: Array) -> Tensor:
    """Return a tensor of a value broadcast to `shape`: takes no memory, however large. Its maker names it."""
    return Tensor("", shape, dtype, Recipe((), 0, lambda: np.broadcast_to(value, shape)))


def dequantized(x: Tensor, scale: Tensor, zero: Tensor | None, axis: int, block: int = 0) -> Tensor:
    """Return (x - zero) * scale, per tensor, per slice of an axis, or per block of it.

    Raises:
        UnfoldableError: the shapes do not fit.
    """
    rank = len(x.shape)
    if scale.size == 1 and len(scale.shape) <= 1:
        return scaled(x, scale, zero, (1,) * rank)
    axis = axis_of(axis, rank)
    if not block:
        return scaled(x, scale, zero, tuple(e if a == axis else 1 for a, e in enumerate(x.shape)))
    blocks = -(-x.shape[axis] // block)
    return scaled(x, scale, zero, (*x.shape[:axis], blocks, *x.shape[axis + 1 :]), (axis, block))


def scaled(x: Tensor, scale: Tensor, zero: Tensor | None, shape: Shape, block: tuple[int, int] | None = None) -> Tensor:
    """Return (x - zero) * scale with scale and zero brought to `shape`, and there repeated along a (axis, block).

    Raises:
        UnfoldableError: the shapes do not fit.
    """
    if math.prod(shape) != scale.size or (zero is not None and zero.size != scale.size) or (block and block[1] < 0):
        raise UnfoldableError(f"scale {scale.shape} for {x.shape}")
    kind = loaded_dtype(scale.dtype)

    def spread(a: Array) -> Array:
        a = a.astype(np.float32).reshape(shape)
        if block is None:
            return a
        axis, times = block
        return np.asarray(np.repeat(a, times, axis)[(slice(None),) * axis + (slice(x.shape[axis]),)])

    def compute(q: Array, s: Array, z: Array | None = None) -> Array:
        real = q.astype(np.float32)
        if z is not None:
            real -= spread(z)
        real *= spread(s)
        return real.astype(kind, copy=False)

    parts = (x, scale) if zero is None else (x, scale, zero)
    return computed(f"scaled{shape}{block or ''}", parts, x.shape, scale.dtype, compute, x.name)
