"""Labels of the elements of a value: two elements with one label are equal, for every input and after every step.

A value has many elements and few units: what a layer does at each place of an image, or for each input of a batch, it
does to all of them alike. So a label array keeps only the axes along which labels differ. An axis is a product of
atoms, and an atom is one of three things:

    dense    an entry of the array per index
    free     one entry, and every index has a label of its own: no two of them are ever called equal
    even     one entry, and every index has that label

Inputs and outputs of a network are free along all axes. Whatever moves indices along free axes tells so in the labels:
equal ones promise equal elements at equal indices. Labels are hashes of 64 bits: each says how its element is
made, so that labels of different values may be compared too. Two of n different ones agree by chance with a
probability of about n^2 / 2^65.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from initaudit.types import Array

_U = np.uint64
_GOLDEN = _U(0x9E3779B97F4A7C15)
_A = _U(0xBF58476D1CE4E5B9)
_B = _U(0x94D049BB133111EB)
_ALL = 2**64 - 1
MOST = 1 << 25  # entries of a label array


class TooMany(Exception):  # noqa: N818  not an error: what needs so many labels is told as not understood
    """More labels than this analysis keeps."""


def mix(x: Array) -> Array:
    """Return 64 bits each of which depends on all bits of `x` (the finalizer of splitmix64)."""
    with np.errstate(over="ignore"):
        x = x + _GOLDEN
        x = (x ^ (x >> _U(30))) * _A
        x = (x ^ (x >> _U(27))) * _B
        out: Array = x ^ (x >> _U(31))
    return out


def _mixed(x: int) -> int:
    """Return what `mix` makes of one number, sooner."""
    x = (x + 0x9E3779B97F4A7C15) & _ALL
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _ALL
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _ALL
    return x ^ (x >> 31)


def chained(*parts: Array) -> Array:
    """Return one label for several in this order, element by element."""
    if all(part.size == 1 for part in parts):
        one = _mixed(int(parts[0].item()))
        for part in parts[1:]:
            one = _mixed((one * 3 + int(part.item())) & _ALL)
        return np.full((1,) * max(part.ndim for part in parts), one, _U)
    with np.errstate(over="ignore"):
        out: Array = mix(np.asarray(parts[0], _U))
        for part in parts[1:]:
            out = mix(out * _U(3) + np.asarray(part, _U))
    return out


def together(parts: Sequence[Array]) -> Array:
    """Return one label for several whose order does not matter, as of terms of a sum; zero stands for no term."""
    with np.errstate(over="ignore"):
        total = sum((np.where(part == 0, _U(0), mix(part)) for part in parts), start=np.zeros((), _U))
    return np.asarray(total, _U)


def bag(x: Array, axis: int | tuple[int, ...]) -> Array:
    """Return one label for all entries along an axis, whose order does not matter; the axis stays, of one entry."""
    with np.errstate(over="ignore"):
        return mix(np.asarray(np.sum(mix(x), axis=axis, keepdims=True, dtype=_U)))


def row(x: Array, axis: int) -> Array:
    """Return one label for all entries along an axis in their order; the axis stays, of one entry."""
    with np.errstate(over="ignore"):
        index = mix(np.arange(x.shape[axis], dtype=_U)).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        return mix(np.asarray(np.sum(mix(x * _U(5) + index), axis=axis, keepdims=True, dtype=_U)))


def numbered(x: Array, axis: int, size: int) -> Array:
    """Return a label for every index along an axis of one entry."""
    index = np.arange(size, dtype=_U).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return chained(x, mix(index))


def word(*parts: object) -> Array:
    """Return a label for what can be printed; the same in every run."""
    text = "\x1f".join(map(repr, parts)).encode()
    return np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), "<u8").astype(_U).reshape(())


def of_numbers(values: Array) -> Array:
    """Return a label for every number: equal for equal ones, 0.0 and -0.0 alike, and for NaN none that is shared."""
    if values.dtype.kind == "c":
        return chained(of_numbers(values.real), of_numbers(values.imag))
    if values.dtype.kind in "iub":
        return mix(values.astype(np.int64).view(_U) if values.dtype != _U else values)
    exact = np.ascontiguousarray(values, np.float64) + 0.0
    out = mix(exact.view(_U).reshape(values.shape))
    odd = np.isnan(exact)
    if odd.any():
        out = np.where(odd.reshape(values.shape), mix(np.arange(values.size, dtype=_U).reshape(values.shape)), out)
    return out


@dataclass(frozen=True, slots=True)
class Labels:
    """Labels of all elements of a value; see the module."""

    data: Array  # uint64, one axis per atom
    sizes: tuple[int, ...]  # of the atoms
    free: tuple[bool, ...]  # likewise
    groups: tuple[int, ...]  # how many atoms each axis of the value is made of

    @property
    def shape(self) -> tuple[int, ...]:
        """The extents of the value."""
        if len(self.groups) == len(self.sizes):
            return self.sizes
        out, at = [], 0
        for count in self.groups:
            out.append(math.prod(self.sizes[at : at + count]))
            at += count
        return tuple(out)

    @property
    def rank(self) -> int:
        """The number of axes of the value."""
        return len(self.groups)

    def span(self, axis: int) -> range:
        """Return the places of the atoms of an axis."""
        axis %= len(self.groups)
        if len(self.groups) == len(self.sizes):
            return range(axis, axis + 1)
        start = sum(self.groups[:axis])
        return range(start, start + self.groups[axis])

    def tagged(self, *parts: object) -> Labels:
        """Return labels of what an operation makes of each element by itself."""
        return self.with_data(chained(self.data, word(*parts)))

    def with_data(self, data: Array) -> Labels:
        """Return the same axes with other labels."""
        return Labels(data, self.sizes, self.free, self.groups)

    # ---- one axis

    def replaced(self, data: Array, at: range, size: int, free: bool) -> Labels:
        """Return labels with the atoms `at`, that one axis is made of, replaced by one."""
        if len(self.groups) == len(self.sizes):
            axis = at.start
        else:
            axis = next(a for a in range(self.rank) if self.span(a).start == at.start and len(self.span(a)) == len(at))
        return Labels(
            data, (*self.sizes[: at.start], size, *self.sizes[at.stop :]),
            (*self.free[: at.start], free, *self.free[at.stop :]),
            (*self.groups[:axis], 1, *self.groups[axis + 1 :]),
        )  # fmt: skip

    def is_free(self, axis: int) -> bool:
        """Whether an axis is free as a whole."""
        return all(self.free[a] or self.sizes[a] == 1 for a in self.span(axis)) and self.shape[axis] > 1

    def is_even(self, axis: int) -> bool:
        """Whether all indices along an axis have one label."""
        return all(not self.free[a] and self.data.shape[a] == 1 for a in self.span(axis))

    def dense(self, axis: int) -> Labels:
        """Return the same labels with an entry for every index of an axis, as one atom."""
        at = self.span(axis)
        size = self.shape[axis]
        data = self.data
        if data.size * size > MOST * 8:
            raise TooMany
        for a in at:
            if self.free[a]:
                data = numbered(data, a, self.sizes[a])
        wanted = list(data.shape)
        for a in at:
            wanted[a] = self.sizes[a]
        if math.prod(wanted) > MOST:
            raise TooMany
        data = np.broadcast_to(data, wanted).reshape([*wanted[: at.start], size, *wanted[at.stop :]])
        return self.replaced(data, at, size, False)

    def freed(self, axis: int) -> Labels:
        """Return labels with an axis free: an element's is made of all along that axis, in their order."""
        at = self.span(axis)
        out = self
        for a in at:
            out = out.freed_atom(a)
        size = self.shape[axis]
        data = out.data.reshape([*out.data.shape[: at.start], 1, *out.data.shape[at.stop :]])
        return out.replaced(data, at, size, size > 1)

    def freed_atom(self, a: int) -> Labels:
        """Return labels with one atom free."""
        data = row(self.data, a) if self.data.shape[a] > 1 else self.data
        free = (*self.free[:a], self.sizes[a] > 1, *self.free[a + 1 :])
        return Labels(data, self.sizes, free, self.groups)

    def whole(self, axis: int) -> Labels:
        """Return the same labels with an axis of one atom: free or even if it was so altogether, else dense."""
        at = self.span(axis)
        if len(at) == 1:
            return self
        size = self.shape[axis]
        if self.is_free(axis) or self.is_even(axis):
            data = self.data.reshape([*self.data.shape[: at.start], 1, *self.data.shape[at.stop :]])
            return self.replaced(data, at, size, size > 1 and not self.is_even(axis))
        return self.dense(axis)

    def summed(self, axis: int, *, keep: bool = True) -> Labels:
        """Return labels of sums along an axis: of all the labels along it, whatever their order."""
        axis %= self.rank
        at = self.span(axis)
        size = self.shape[axis]
        data = chained(bag(self.data, tuple(at)) if len(at) else self.data, word("sum", axis, size))
        data = data.reshape([*data.shape[: at.start], 1, *data.shape[at.stop :]])
        out = self.replaced(data, at, 1, False)
        return out if keep else out.dropped(axis)

    def dropped(self, axis: int) -> Labels:
        """Return labels without an axis of one element."""
        axis %= self.rank
        at = self.span(axis)
        return Labels(
            self.data.reshape([*self.data.shape[: at.start], *self.data.shape[at.stop :]]),
            self.sizes[: at.start] + self.sizes[at.stop :], self.free[: at.start] + self.free[at.stop :],
            self.groups[:axis] + self.groups[axis + 1 :],
        )  # fmt: skip

    def dropped_free(self, axis: int) -> Labels:
        """Return labels without a free axis: of what holds for all its indices alike."""
        return self.as_free(axis, 1).dropped(axis)

    def as_free(self, axis: int, size: int) -> Labels:
        """Return labels with a free axis, of one atom, of another extent."""
        at = self.span(axis)
        data = self.data.reshape([*self.data.shape[: at.start], 1, *self.data.shape[at.stop :]])
        return self.replaced(data, at, size, size > 1)

    def added(self, axis: int, size: int = 1, *, free: bool = False) -> Labels:
        """Return labels with a new axis before the place `axis`, even or free."""
        start = sum(self.groups[:axis])
        return Labels(
            np.expand_dims(self.data, start), (*self.sizes[:start], size, *self.sizes[start:]),
            (*self.free[:start], free and size > 1, *self.free[start:]),
            (*self.groups[:axis], 1, *self.groups[axis:]),
        )  # fmt: skip

    # ---- all axes

    def permuted(self, order: Sequence[int]) -> Labels:
        """Return labels with the axes in another order; free axes keep their own indices."""
        atoms = [a for axis in order for a in self.span(axis)]
        return Labels(
            self.data.transpose(atoms), tuple(self.sizes[a] for a in atoms), tuple(self.free[a] for a in atoms),
            tuple(self.groups[axis % self.rank] for axis in order),
        )  # fmt: skip

    def flat(self, shape: Sequence[int]) -> Array:
        """Return an entry for every element, as an array of the value's shape."""
        out = self
        for axis in range(self.rank):
            out = out.dense(axis)
        return np.broadcast_to(out.data, tuple(shape))


def even(shape: Sequence[int], label: Array) -> Labels:
    """Return labels of a value whose elements are all equal."""
    return Labels(
        np.asarray(label, _U).reshape([1] * len(shape)), tuple(shape), (False,) * len(shape), (1,) * len(shape)
    )


def free(shape: Sequence[int], label: Array) -> Labels:
    """Return labels of a value no two elements of which are called equal."""
    return Labels(
        np.asarray(label, _U).reshape([1] * len(shape)), tuple(shape), tuple(n > 1 for n in shape), (1,) * len(shape)
    )


ZERO = np.zeros((), _U)  # the label of a gradient that is zero


def dense(data: Array) -> Labels:
    """Return labels given one by one."""
    return Labels(data, data.shape, (False,) * data.ndim, (1,) * data.ndim)
