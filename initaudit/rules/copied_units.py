"""INI201."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from initaudit.grounds import (
    ACCIDENT,
    accidents,
    born,
    excuse,
    operator,
    parted,
    redraw,
    solid,
    tied_copies,
    uniformity,
    varied,
)
from initaudit.registry import rule
from initaudit.types import Array, Audit, Evidence, Finding, Measured, Role, Severity

_ATTENDS = frozenset({"query", "key", "value", "query, key and value", "key and value", "query and key"})
_SUBPIXEL = (4, 9, 16)  # filters in a run, where images are enlarged by 2, 3, 4


@rule("INI201", Severity.ERROR)
def copied_units(audit: Audit, *, accident: float = ACCIDENT) -> Iterator[Finding]:
    """Units whose incoming weights equal those of another unit of the same layer.

    ## Why it matters
    Two units with equal incoming weights compute the same; if their outgoing weights agree as well they stay equal for
    ever. Tensor-parallel ranks, experts and heads that were seeded alike look exactly so.

    ## How it is measured
    Every unit's values are hashed bit by bit. A copy counts when fewer than `accident` such pairs were to be expected
    from the number of units, their length and the precision of the type. Zero units are not copies (see INI202), nor
    are those with a single weight, as in stacks of identities. Where the graph proves that no two copies are tied, or
    the probe measured that each gets a gradient of its own, and the net learns all the same, it is a warning: the first
    step sets them apart. So it is where dropout acts on copies that are tied (see INI512). Whole heads of keys and
    values that are repeated for several queries are info.

    ## When to ignore it
    Sub-pixel (ICNR) convolutions start with runs of r^2 equal filters on purpose; tables of relative positions that an
    exporter read out; fixed kernels, closed forms, embeddings and output rows of reserved tokens, heads replicated for
    key-value sharing.

    ## Seen in the wild
    InternLM/InternLM#405, modelscope/ms-swift#7944, NVIDIA-NeMo/Megatron-Bridge#4485, srenevey/neuro#4.

    ## Source
    Certain from the values up to 64-bit hash collisions.
    """
    for m in audit.measured:
        if not operator(m) or not varied(m):
            continue
        hashes = _by_operator(m, m.stats.rows.hash)
        live = _by_operator(m, solid(m))
        if accidents(m) > accident:
            continue
        copies, first, second = _copies(hashes, live)
        if not copies:
            continue
        message = f"{copies} of {m.layer.units} units are exact copies of another (unit {second} equals unit {first})"
        run = _run(hashes)
        facts: dict[str, Any] = {"copies": copies, "units": m.layer.units, "first": first, "second": second}
        stuck = tied_copies(m)
        if not stuck and run in _SUBPIXEL and run < m.layer.units and m.layer.kind.startswith("conv"):
            yield copied_units.at(
                m,
                f"{message}, in runs of {run}: a sub-pixel (ICNR) initialization",
                severity=Severity.INFO,
                **facts,
                remedy="none, if a PixelShuffle follows",
            )
        elif not stuck and _shared(m, second - first):
            yield copied_units.at(
                m,
                f"{message}: whole heads of keys and values, repeated; the queries that share them differ",
                severity=Severity.INFO,
                **facts,
                remedy="none, if they are shared on purpose",
            )
        elif not stuck and _shifted(m):
            yield copied_units.at(
                m,
                f"{message}, at shifted places of stacked operators: a table of relative positions, read out",
                severity=Severity.INFO,
                **facts,
                remedy="none",
            )
        elif not (why := excuse(m, audit)):
            apart = parted(m, audit)
            yield copied_units.at(
                m,
                message + _lasting(copies, stuck, apart),
                severity=Severity.WARNING if apart else Severity.ERROR,
                needs=uniformity(m, audit),
                **facts,
                remedy=redraw(m),
            )
        else:
            sure = m.layer.role in (Role.HEAD, Role.BRANCH_END, Role.ROUTER)
            if m.layer.role is Role.HEAD and _one_set(hashes, live):  # tokens that are kept for later
                sure = False
            held = Evidence.NAMED if sure else Evidence.ASSUMED
            yield copied_units.at(
                m,
                f"{message} ({m.layer.role}): {why}",
                severity=Severity.WARNING if born(audit) else Severity.INFO,
                needs=held,
                **facts,
                remedy=redraw(m),
            )


def _lasting(copies: int, stuck: int, apart: str) -> str:
    if apart:
        return f"; {apart}"
    return f"; {stuck if stuck < copies else 'all'} of them tied for ever" if stuck else ""


def _by_operator(m: Measured, values: Array) -> Array:
    """(operators, units): groups see different inputs and are compared inside only; experts see the same."""
    return values.reshape(m.layer.groups, -1) if m.layer.groups > 1 else values.reshape(1, -1)


def _copies(hashes: Array, nonzero: Array) -> tuple[int, int, int]:
    """Number of units that repeat an earlier one of their operator, and the first such pair."""
    copies, first, second = 0, -1, -1
    for k, (row, live) in enumerate(zip(hashes, nonzero, strict=True)):
        index = np.flatnonzero(live)
        _, original, inverse = np.unique(row[index], return_index=True, return_inverse=True)
        repeated = np.flatnonzero(original[inverse] != np.arange(len(index)))
        copies += len(repeated)
        if len(repeated) and first < 0:
            first = k * row.size + int(index[original[inverse[repeated[0]]]])
            second = k * row.size + int(index[repeated[0]])
    return copies, first, second


def _one_set(hashes: Array, live: Array) -> bool:
    """Whether all the copies are copies of one unit."""
    return bool((np.unique(hashes[live], return_counts=True)[1] > 1).sum() == 1)


def _shared(m: Measured, size: int) -> bool:
    """Whether the copies are whole heads of `size` units of keys and values, while the queries all differ."""
    layer, hashes = m.layer, m.stats.rows.hash
    names = _ATTENDS.intersection((*layer.tags, *layer.parts))
    sides = {side for side in ("query", "key", "value") if any(side in name for name in names)}
    if not sides & {"key", "value"} or size < 2 or hashes.size % size:
        return False
    heads = hashes.reshape(-1, size)
    _, inverse, counts = np.unique(heads, axis=0, return_inverse=True, return_counts=True)
    again = counts[inverse.reshape(-1)] > 1
    if "query" in sides and again.all():
        return False
    return bool(np.unique(heads[~again]).size == heads[~again].size) and all(np.unique(h).size == size for h in heads)


def _shifted(m: Measured) -> bool:
    """Whether stacked operators repeat each other's units, but never their own nor those at the same place.

    Experts that were seeded alike agree place by place; rows r[i - j] of a table, one operator per i, never do.
    """
    stacks = m.layer.weight.shape[m.layer.axes.index("s")] if m.layer.axes.count("s") == 1 else 1
    if stacks < 2 or m.stats.rows.hash.size % stacks:
        return False
    table = m.stats.rows.hash.reshape(stacks, -1)
    rows = all(len(np.unique(row)) == row.size for row in table)
    return rows and all(len(np.unique(column)) == column.size for column in table.T)


def _run(hashes: Array) -> int:
    """Length of the runs of equal neighbours if the units come in runs of one length greater than 1, else 0."""
    flat = hashes.reshape(-1)
    edges = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1], [True])))
    lengths = np.diff(edges)
    return int(lengths[0]) if len(lengths) and lengths[0] > 1 and (lengths == lengths[0]).all() else 0
