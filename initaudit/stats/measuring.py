"""From a tensor to its Stats."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from initaudit.errors import InitauditError
from initaudit.stats import algebra
from initaudit.stats.accumulate import Accumulator, SideSums
from initaudit.stats.elements import Elements, elements
from initaudit.stats.hashing import digest
from initaudit.stats.layout import SEGMENT, Layout, Side, layout
from initaudit.stats.moments import Moments
from initaudit.types import Array, Stats, Tensor, Units

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

_AHEAD = 8  # tensors under way per worker
_ALONE = 1 << 24  # elements that one thread measures before several have taken over from each other
_MOST = 8  # beyond these, threads wait for the interpreter more than they work


@dataclass(frozen=True, slots=True)
class Job:
    """A tensor to measure and how its axes are to be read (see types.Layer)."""

    tensor: Tensor
    axes: str
    groups: int = 1
    parts: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """A loaded tensor, ready to be walked."""

    array: Array
    walk: Layout
    kind: Elements
    complex: bool


def measure(tensor: Tensor, axes: str, *, groups: int = 1, parts: int = 1) -> Stats:
    """Measure a tensor in one pass, without a copy of it.

    Real and imaginary parts of a complex tensor count as two values at two kernel positions.

    Raises:
        UnsupportedError: axes, groups or parts do not fit the shape, or the elements are no numbers.
        ReadError: the values could not be read.
    """
    made = plan(Job(tensor, axes, groups, parts))
    total: Accumulator | None = None
    for boxes in made.walk.segments():
        some = Accumulator.over(made.walk, made.kind, made.array, boxes)
        if boxes == [made.walk.all]:
            total = some
        else:
            total = total or Accumulator.whole(made.walk, made.kind)
            total.merge(some)
    return finish(made, total or Accumulator.whole(made.walk, made.kind))


def measure_many(
    jobs: Sequence[Job], workers: int = 1, progress: Callable[[int], None] | None = None
) -> list[Stats | InitauditError]:
    """Measure many tensors; results stand in the order of the jobs and depend on nothing else, to the last bit.

    A tensor that cannot be measured yields its refusal. Each tensor is released when it is done. `progress` is called
    from this thread with the number of elements that have been measured since the last call.
    """
    results: list[Stats | InitauditError] = []
    workers = min(workers, _MOST)
    if workers <= 1 or sum(job.tensor.size for job in jobs) < _ALONE:
        for job in jobs:
            results.append(_measure_one(job))
            if progress is not None:
                progress(job.tensor.size)
        return results
    waiting: deque[Callable[[], Stats | InitauditError]] = deque()
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415  small models are measured without threads

    with ThreadPoolExecutor(workers) as pool:
        for job in jobs:
            waiting.append(_start(job, pool, progress))
            if len(waiting) > _AHEAD * workers:
                results.append(waiting.popleft()())
        results.extend(one() for one in waiting)
    return results


def _measure_one(job: Job) -> Stats | InitauditError:
    try:
        return measure(job.tensor, job.axes, groups=job.groups, parts=job.parts)
    except InitauditError as error:
        return error
    finally:
        job.tensor.release()


def _start(
    job: Job, pool: ThreadPoolExecutor, progress: Callable[[int], None] | None
) -> Callable[[], Stats | InitauditError]:
    """Hand a tensor to the pool, a large one in segments; the result is a call that waits for its Stats."""
    size = job.tensor.size
    if size <= SEGMENT:
        one = pool.submit(_measure_one, job)

        def small() -> Stats | InitauditError:
            result = one.result()
            if progress is not None:
                progress(size)
            return result

        return small
    try:
        made = plan(job)
    except InitauditError as error:
        refusal = error
        job.tensor.release()

        def refused() -> InitauditError:
            if progress is not None:
                progress(size)
            return refusal

        return refused
    futures = deque(
        pool.submit(Accumulator.over, made.walk, made.kind, made.array, boxes) for boxes in made.walk.segments()
    )

    def large() -> Stats | InitauditError:
        total = Accumulator.whole(made.walk, made.kind)
        count = len(futures)
        while futures:
            total.merge(futures.popleft().result())
            if progress is not None:
                left = len(futures)
                progress(size * (count - left) // count - size * (count - left - 1) // count)
        result = finish(made, total)
        job.tensor.release()
        return result

    return large


def plan(job: Job) -> Plan:
    """Load a tensor and lay it out.

    Raises:
        InitauditError: it cannot be read, or not in this way.
    """
    loaded = job.tensor.load()
    array, kind = elements(loaded)
    is_complex = array.ndim > loaded.ndim
    walk = layout(array.shape, array.strides, job.axes + "k" * is_complex, job.groups, job.parts)
    return Plan(array, walk, kind, is_complex)


def finish(made: Plan, total: Accumulator) -> Stats:
    """Turn the sums into measures, and look again where they make rank 1 or orthogonality plausible."""
    walk, kind = made.walk, made.kind
    whole = Moments()
    for part in total.parts:
        whole = whole.merge(part)
    rows, columns = _units(walk.rows, total.rows), _units(walk.columns, total.columns)
    s, o, i, k = walk.operators, walk.outs, walk.ins, walk.kernel
    rank_one, orthogonality, part_orthogonality = False, math.nan, math.nan
    healthy = walk.size > 0 and total.nans + total.infs == 0 and whole.m2 + abs(whole.mean) > 0
    if healthy and not made.complex:
        with np.errstate(all="ignore"):
            if min(o, i * k) >= algebra.SMALLEST:
                rank_one = algebra.rank_one(
                    algebra.operators(walk, made.array, rows.square, columns.square), kind.epsilon
                )
            if whole.m2 > 0 and not rank_one and min(o, i * k) >= 2:
                orthogonality = algebra.orthogonality(algebra.operators(walk, made.array, rows.square, columns.square))
                inside = math.prod(axis.extent for axis in walk.axes if axis.part and axis.label == "o")
                part_orthogonality = orthogonality
                if inside > 1:
                    found = algebra.operators(walk, made.array, rows.square, columns.square)
                    part_orthogonality = algebra.orthogonality(algebra.blocks(found, inside))
    return Stats(
        count=walk.size,
        mean=whole.mean if whole.count else math.nan,
        variance=whole.variance,
        kurtosis=whole.kurtosis,
        min=total.low if whole.count else math.nan,
        max=total.high if whole.count else math.nan,
        zeros=total.zeros,
        nans=total.nans,
        infs=total.infs,
        subnormals=total.subnormals,
        positive=total.positive,
        exponent_span=_span(total, kind) if whole.m2 > 0 else 0.0,
        rows=rows,
        columns=columns,
        part_variance=tuple(part.variance for part in total.parts),
        rank_one=rank_one,
        orthogonality=orthogonality,
        digest=digest(rows.hash, (s, o, i, k)),
        digest_t=digest(columns.hash, (s, i, o, k)),
        part_orthogonality=part_orthogonality,
    )


def _units(side: Side, sums: SideSums) -> Units:
    """Bring the sums of one side into canonical order."""
    nonzero = np.full(sums.square.shape, side.each) if sums.zeros is None else side.each - sums.zeros
    square, nonzero, hashed = (
        values.transpose(side.canonical).reshape(-1) for values in (sums.square, nonzero, sums.hash)
    )
    return Units(square, nonzero, hashed)


def _span(total: Accumulator, kind: Elements) -> float:
    """Binades between the 1 % and the 99 % quantile of the magnitudes, interpolated inside an eighth of a binade."""
    up_to = np.cumsum(total.histogram)
    count = int(up_to[-1])
    if count == 0:
        return 0.0
    edges = kind.word.edges()

    def quantile(share: float) -> float:
        n = int(np.searchsorted(up_to, share * count, side="right"))
        inside = (share * count - int(up_to[n]) + int(total.histogram[n])) / int(total.histogram[n])
        return float(edges[n] + inside * (edges[n + 1] - edges[n]))

    return quantile(0.99) - quantile(0.01)
