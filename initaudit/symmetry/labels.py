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
from typing import Any

import numpy as np

from initaudit.types import Array

_U = np.uint64
_GOLDEN = _U(0x9E3779B97F4A7C15)
_A = _U(0xBF58476D1CE4E5B9)
_B = _U(0x94D049BB133111EB)
MOST = 1 << 25  # entries of a label array


class TooMany(Exception):  # noqa: N818  not an error: what needs so many labels is told as not understood
    """More labels than this analysis keeps."""


def mix(x: Array) -> Array:
    """Return 64 bits each of which depends on all bits of `x` (the finalizer of splitmix64)."""
    x = x + _GOLDEN
    x = (x ^ (x >> _U(30))) * _A
    x = (x ^ (x >> _U(27))) * _B
    out: Array = x ^ (x >> _U(31))
    return out


def chained(*parts: Array) -> Array:
    """Return one label for several in this order, element by element."""
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
        return mix(np.sum(mix(x), axis=axis, keepdims=True, dtype=_U))


def row(x: Array, axis: int) -> Array:
    """Return one label for all entries along an axis in their order; the axis stays, of one entry."""
    with np.errstate(over="ignore"):
        index = mix(np.arange(x.shape[axis], dtype=_U)).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        return mix(np.sum(mix(x * _U(5) + index), axis=axis, keepdims=True, dtype=_U))


def numbered(x: Array, axis: int, size: int) -> Array:
    """Return a label for every index along an axis of one entry."""
    index = np.arange(size, dtype=_U).reshape([-1 if a == axis else 1 for a in range(x.ndim)])
    return chained(x, mix(index))


def word(*parts: object) -> Array:
    """Return a label for what can be printed; the same in every run."""
    text = "\x1f".join(map(repr, parts)).encode()
    return np.frombuffer(hashlib.blake2b(text, digest_size=8).digest(), "<u8").astype(_U)[0]


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
        start = sum(self.groups[:axis])
        return range(start, start + self.groups[axis])

    def tagged(self, *parts: object) -> Labels:
        """Return labels of what an operation makes of each element by itself."""
        return self.with_data(chained(self.data, word(*parts)))

    def with_data(self, data: Array) -> Labels:
        """Return the same axes with other labels."""
        return Labels(data, self.sizes, self.free, self.groups)

    # ---- one axis

    def _replaced(self, data: Array, at: range, size: int, free: bool) -> Labels:
        """Return labels with the atoms `at`, that one axis is made of, replaced by one."""
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
        return self._replaced(data, at, size, False)

    def freed(self, axis: int) -> Labels:
        """Return labels with an axis free: an element's is made of all along that axis, in their order."""
        at = self.span(axis)
        out = self
        for a in at:
            out = out.freed_atom(a)
        size = self.shape[axis]
        data = out.data.reshape([*out.data.shape[: at.start], 1, *out.data.shape[at.stop :]])
        return out._replaced(data, at, size, size > 1)

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
            return self._replaced(data, at, size, size > 1 and not self.is_even(axis))
        return self.dense(axis)

    def summed(self, axis: int, *, keep: bool = True) -> Labels:
        """Return labels of sums along an axis: of all the labels along it, whatever their order."""
        axis %= self.rank
        at = self.span(axis)
        size = self.shape[axis]
        data = chained(bag(self.data, tuple(at)) if len(at) else self.data, word("sum", axis, size))
        data = data.reshape([*data.shape[: at.start], 1, *data.shape[at.stop :]])
        out = self._replaced(data, at, 1, False)
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
        return self._replaced(data, at, size, size > 1)

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
    return Labels(np.asarray(label, _U).reshape([1] * len(shape)), tuple(shape), (False,) * len(shape), (1,) * len(shape))


def free(shape: Sequence[int], label: Array) -> Labels:
    """Return labels of a value no two elements of which are called equal."""
    return Labels(
        np.asarray(label, _U).reshape([1] * len(shape)), tuple(shape), tuple(n > 1 for n in shape), (1,) * len(shape)
    )


def dense(data: Array) -> Labels:
    """Return labels given one by one."""
    return Labels(data, data.shape, (False,) * data.ndim, (1,) * data.ndim)


def _steps(sizes: Sequence[int]) -> set[int]:
    out, product = set(), 1
    for size in reversed(sizes):
        product *= size
        out.add(product)
    return out


def _cut(x: Labels, axis: int, sizes: Sequence[int]) -> Labels:
    """Return the same labels with an axis cut into atoms of these sizes, which its own are products of."""
    at = x.span(axis)
    data_shape: list[int] = []
    free_: list[bool] = []
    k = 0
    for a in at:
        product = 1
        while product < x.sizes[a]:
            product *= sizes[k]
            data_shape.append(sizes[k] if x.data.shape[a] > 1 else 1)
            free_.append(x.free[a] and sizes[k] > 1)
            k += 1
    if x.shape[axis] == 1:
        data_shape, free_ = [1] * len(sizes), [False] * len(sizes)
    return Labels(
        x.data.reshape([*x.data.shape[: at.start], *data_shape, *x.data.shape[at.stop :]]),
        (*x.sizes[: at.start], *sizes, *x.sizes[at.stop :]), (*x.free[: at.start], *free_, *x.free[at.stop :]),
        (*x.groups[: axis % x.rank], len(sizes), *x.groups[axis % x.rank + 1 :]),
    )  # fmt: skip


def _plain(x: Labels, axis: int) -> Labels:
    """Return the same labels without atoms of one element in an axis of several."""
    at = x.span(axis)
    kept = [a for a in at if x.sizes[a] > 1]
    if len(kept) == len(at) or len(at) == 1:
        return x
    kept = kept or [at.start]
    drop = [a for a in at if a not in kept]
    return Labels(
        x.data.reshape([n for a, n in enumerate(x.data.shape) if a not in drop]),
        tuple(n for a, n in enumerate(x.sizes) if a not in drop),
        tuple(f for a, f in enumerate(x.free) if a not in drop),
        (*x.groups[: axis % x.rank], len(kept), *x.groups[axis % x.rank + 1 :]),
    )  # fmt: skip


def aligned(given: Sequence[Labels]) -> list[Labels]:
    """Return labels of values that are broadcast against each other, with equal atoms; axes of one element stay so.

    Where one is free along an atom, all that are dense there become free too.
    """
    rank = max(x.rank for x in given)
    out = list(given)
    for k, x in enumerate(out):
        while x.rank < rank:
            x = x.added(0)
        out[k] = x
    for axis in range(rank):
        wide = [k for k, x in enumerate(out) if x.shape[axis] > 1]
        if not wide:
            for k, x in enumerate(out):
                out[k] = _plain(x, axis)
            continue
        if len({out[k].shape[axis] for k in wide}) > 1:
            raise ValueError("shapes that do not go together")
        for k in wide:
            out[k] = _plain(out[k], axis)
        steps = sorted(set().union(*(_steps([out[k].sizes[a] for a in out[k].span(axis)]) for k in wide)))
        if any(b % a for a, b in zip(steps, steps[1:], strict=False)):
            for k in wide:
                out[k] = out[k].whole(axis) if out[k].is_free(axis) or out[k].is_even(axis) else out[k].dense(axis)
            sizes = [out[wide[0]].shape[axis]]
        else:
            sizes = [b // a for a, b in zip([1, *steps], steps, strict=False)][::-1]
        for k, x in enumerate(out):
            out[k] = _cut(x, axis, sizes) if k in wide else _cut(_plain(x, axis), axis, [1] * len(sizes))
        start = out[0].span(axis).start
        for a in range(start, start + len(sizes)):
            if any(out[k].free[a] for k in wide):
                for k in wide:
                    if not out[k].free[a] and out[k].data.shape[a] > 1:
                        out[k] = out[k].freed_atom(a)
    return out


def _joined(given: Sequence[Labels], data: Array) -> Labels:
    """Return labels on the axes that several aligned ones make together."""
    sizes = tuple(max(x.sizes[a] for x in given) for a in range(len(given[0].sizes)))
    free_ = tuple(any(x.free[a] for x in given) for a in range(len(sizes)))
    return Labels(data, sizes, free_, given[0].groups)


def combined(given: Sequence[Labels], *tag: object) -> Labels:
    """Return labels of what is made of several values element by element, in this order."""
    parts = aligned(given)
    return _joined(parts, chained(word(*tag), *(p.data for p in parts)))


def added(given: Sequence[Labels]) -> Labels:
    """Return labels of a sum of several values; a label of zero stands for nothing."""
    if len(given) == 1:
        return given[0]
    parts = aligned(given)
    return _joined(parts, together([p.data for p in parts]))


def reduced(x: Labels, shape: Sequence[int]) -> Labels:
    """Return labels of the gradient of what was broadcast: sums over the axes along which it was."""
    out = x
    while out.rank > len(shape):
        out = out.summed(0, keep=False)
    for axis, size in enumerate(shape):
        if size == 1 and out.shape[axis] > 1:
            out = out.summed(axis)
    return out


def spread(x: Labels, shape: Sequence[int]) -> Labels:
    """Return labels of a value that is broadcast to a shape."""
    out = x
    while out.rank < len(shape):
        out = out.added(0)
    for axis, size in enumerate(shape):
        if out.shape[axis] == 1 and size > 1:
            at = out.span(axis)
            data = out.data.reshape([*out.data.shape[: at.start], 1, *out.data.shape[at.stop :]])
            out = out._replaced(data, at, size, False)
    return out


def reshaped(x: Labels, shape: Sequence[int]) -> Labels:
    """Return labels of a value in another shape."""
    if math.prod(shape) != math.prod(x.shape):
        raise ValueError("a reshape to another number of elements")
    sizes, free_, data_shape, groups = list(x.sizes), list(x.free), list(x.data.shape), []
    data = x.data
    a = 0
    for want in shape:
        count, left = 0, want
        while left > 1:
            while sizes[a] == 1:  # dropped
                del sizes[a], free_[a], data_shape[a]
            size = sizes[a]
            if size > left:
                if size % left:
                    return _reshaped_densely(x, shape)
                wide = data_shape[a] > 1
                sizes[a : a + 1] = [left, size // left]
                data_shape[a : a + 1] = [left, size // left] if wide else [1, 1]
                free_[a : a + 1] = [free_[a], free_[a]]
                size = left
            elif left % size:
                return _reshaped_densely(x, shape)
            left //= size
            a += 1
            count += 1
        if count == 0:
            sizes.insert(a, 1)
            free_.insert(a, False)
            data_shape.insert(a, 1)
            a += 1
            count = 1
        groups.append(count)
    del sizes[a:], free_[a:], data_shape[a:]
    return Labels(data.reshape(data_shape), tuple(sizes), tuple(free_), tuple(groups))


def _reshaped_densely(x: Labels, shape: Sequence[int]) -> Labels:
    """Likewise where atoms would be cut across: with an entry for every element of the axes concerned."""
    before, after = list(x.shape), list(shape)
    out, done_before, done_after = x, 0, 0
    while done_before < len(before):  # runs of axes that hold the same elements before and after
        m, n = done_before + 1, done_after + 1
        while math.prod(before[done_before:m]) != math.prod(after[done_after:n]):
            if math.prod(before[done_before:m]) < math.prod(after[done_after:n]):
                m += 1
            else:
                n += 1
        while m < len(before) and before[m] == 1:
            m += 1
        while n < len(after) and after[n] == 1:
            n += 1
        if m - done_before > 1 or n - done_after > 1:
            for axis in range(done_before, m):
                out = out.freed(axis) if out.is_free(axis) and all(
                    out.is_free(k) or out.shape[k] == 1 for k in range(done_before, m)
                ) else out.dense(axis)
        done_before, done_after = m, n
    try:
        return _regrouped(out, before, after)
    except RecursionError:
        raise TooMany from None


def _regrouped(x: Labels, before: Sequence[int], after: Sequence[int]) -> Labels:
    """Reshape labels whose axes are dense, or free together with those that they are reshaped with."""
    out, pieces = x, []
    i = j = 0
    while i < len(before) or j < len(after):
        m, n = min(i + 1, len(before)), min(j + 1, len(after))
        while math.prod(before[i:m]) != math.prod(after[j:n]):
            if math.prod(before[i:m]) < math.prod(after[j:n]):
                m += 1
            else:
                n += 1
        while m < len(before) and before[m] == 1:
            m += 1
        while n < len(after) and after[n] == 1:
            n += 1
        pieces.append((range(i, m), tuple(after[j:n])))
        i, j = m, n
    data_shape: list[int] = []
    sizes: list[int] = []
    free_: list[bool] = []
    groups: list[int] = []
    for axes, wanted in pieces:
        atoms = [a for axis in axes for a in out.span(axis)]
        if any(out.free[a] for a in atoms) or all(out.data.shape[a] == 1 for a in atoms):
            is_free = any(out.free[a] for a in atoms)
            data_shape += [1] * len(wanted)
            free_ += [is_free and n > 1 for n in wanted]
            sizes += wanted
            groups += [1] * len(wanted)
        elif len(axes) == 1 and len(wanted) == 1:
            data_shape += [out.data.shape[a] for a in atoms]
            free_ += [out.free[a] for a in atoms]
            sizes += [out.sizes[a] for a in atoms]
            groups.append(len(atoms))
        else:
            data_shape += wanted
            free_ += [False] * len(wanted)
            sizes += wanted
            groups += [1] * len(wanted)
    return Labels(out.data.reshape(data_shape), tuple(sizes), tuple(free_), tuple(groups))


def constant(value: Any) -> Array:
    """Return the label of one number."""
    return of_numbers(np.asarray(value, np.float64).reshape(()))
