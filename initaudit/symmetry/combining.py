"""Labels of what is made of several values, of what is broadcast, and of what is reshaped."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from initaudit.symmetry.labels import Labels, TooMany, chained, together, word
from initaudit.types import Array


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
    out = list(given)
    if all(x.sizes == out[0].sizes and x.free == out[0].free and x.groups == out[0].groups for x in out[1:]):
        return out
    rank = max(x.rank for x in given)
    for k in range(len(out)):
        while out[k].rank < rank:
            out[k] = out[k].added(0)
    if all(len(x.groups) == len(x.sizes) for x in out):
        return _aligned_plainly(out)
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
        if any(b % a for a, b in itertools.pairwise(steps)):
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


def _aligned_plainly(out: list[Labels]) -> list[Labels]:
    """Likewise where all axes are atoms."""
    for axis in range(out[0].rank):
        wide = [k for k, x in enumerate(out) if x.sizes[axis] > 1]
        if len({out[k].sizes[axis] for k in wide}) > 1:
            raise ValueError("shapes that do not go together")
        if any(out[k].free[axis] for k in wide):
            for k in wide:
                if not out[k].free[axis] and out[k].data.shape[axis] > 1:
                    out[k] = out[k].freed_atom(axis)
    return out


def joined(given: Sequence[Labels], data: Array) -> Labels:
    """Return labels on the axes that several aligned ones make together."""
    sizes = tuple(max(x.sizes[a] for x in given) for a in range(len(given[0].sizes)))
    free_ = tuple(any(x.free[a] for x in given) for a in range(len(sizes)))
    return Labels(data, sizes, free_, given[0].groups)


def combined(given: Sequence[Labels], *tag: object) -> Labels:
    """Return labels of what is made of several values element by element, in this order."""
    parts = aligned(given)
    return joined(parts, chained(word(*tag), *(p.data for p in parts)))


def added(given: Sequence[Labels]) -> Labels:
    """Return labels of a sum of several values; a label of zero stands for nothing."""
    if len(given) == 1:
        return given[0]
    parts = aligned(given)
    return joined(parts, together([p.data for p in parts]))


def listed(given: Sequence[Labels], *tag: object) -> Labels:
    """Return labels of what several say in this order; a label of zero says nothing."""
    if len(given) == 1:
        return given[0]
    parts = aligned(given)
    data = np.zeros((), np.uint64)
    for part in parts:
        data = np.where(part.data == 0, data, chained(word(*tag), data, part.data))
    return joined(parts, data)


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
            out = out.replaced(data, at, size, False)
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
    out = x
    for old, new in _runs(before, after):
        if len(old) > 1 or len(new) > 1:
            for axis in old:
                whole = out.is_free(axis) and all(out.is_free(k) or out.shape[k] == 1 for k in old)
                out = out.freed(axis) if whole else out.dense(axis)
    try:
        return _regrouped(out, before, after)
    except RecursionError:
        raise TooMany from None


def _runs(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[range, range]]:
    """Yield the runs of axes that hold the same elements before and after a reshape, axes of one with those before."""
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
        yield range(i, m), range(j, n)
        i, j = m, n


def _regrouped(x: Labels, before: Sequence[int], after: Sequence[int]) -> Labels:
    """Reshape labels whose axes are dense, or free together with those that they are reshaped with."""
    out = x
    pieces = [(old, tuple(after[k] for k in new)) for old, new in _runs(before, after)]
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
