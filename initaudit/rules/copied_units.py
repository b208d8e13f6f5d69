"""INI201."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from initaudit.grounds import born, excuse, operator, parted, redraw, uniformity, varied
from initaudit.registry import rule
from initaudit.types import Array, Audit, Evidence, Finding, Measured, Role, Severity

# How many different values an element of a drawn tensor can be counted on to take, by dtype: bounds the number of
# units that could be equal by accident.
_VALUES = {"float64": 1e6, "float32": 1e6, "complex64": 1e6, "complex128": 1e6, "float16": 1e3, "bfloat16": 5e2}


@rule("INI201", Severity.ERROR)
def copied_units(audit: Audit, *, accident: float = 1e-6) -> Iterator[Finding]:
    """Units whose incoming weights equal those of another unit of the same layer.

    ## Why it matters
    Two units with equal incoming weights compute the same; if their outgoing weights agree as well they stay equal for
    ever. Tensor-parallel ranks, experts and heads that were seeded alike look exactly so.

    ## How it is measured
    Every unit's values are hashed bit by bit. A copy counts when fewer than `accident` such pairs were to be expected
    from the number of units, their length and the precision of the type. Zero units are not copies (see INI202), nor
    are those with a single weight, as in stacks of identities. Where the probe measured that each copy gets a gradient
    of its own, and the net learns all the same, it is a warning: the first step sets them apart.

    ## When to ignore it
    Sub-pixel (ICNR) convolutions start with runs of r^2 equal filters on purpose; tables of relative positions that an
    exporter read out; fixed kernels, closed forms, embeddings of reserved tokens, heads replicated for key-value
    sharing.

    ## Seen in the wild
    InternLM/InternLM#405, modelscope/ms-swift#7944, NVIDIA-NeMo/Megatron-Bridge#4485, srenevey/neuro#4.

    ## Source
    Certain from the values up to 64-bit hash collisions.
    """
    for m in audit.measured:
        if not operator(m) or not varied(m):
            continue
        hashes = _by_operator(m, m.stats.rows.hash)
        length = m.stats.count / max(1, m.layer.units)
        # A unit with one incoming weight of many is part of an identity or a fixed wiring, not a draw.
        nonzero = _by_operator(m, m.stats.rows.nonzero) >= (2 if length >= 8 else 1)
        if _accidents(m, length) > accident:
            continue
        copies, first, second = _copies(hashes, nonzero)
        if not copies:
            continue
        message = f"{copies} of {m.layer.units} units are exact copies of another (unit {second} equals unit {first})"
        run = _run(hashes)
        facts: dict[str, Any] = {"copies": copies, "units": m.layer.units, "first": first, "second": second}
        if run in (4, 9, 16) and run < m.layer.units and m.layer.kind.startswith("conv"):  # upscaling by 2, 3, 4
            yield copied_units.at(
                m,
                f"{message}, in runs of {run}: a sub-pixel (ICNR) initialization",
                severity=Severity.INFO,
                **facts,
                remedy="none, if a PixelShuffle follows",
            )
        elif _shifted(m):
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
                message + ("; each gets a gradient of its own, so the first step sets them apart" if apart else ""),
                severity=Severity.WARNING if apart else Severity.ERROR,
                needs=uniformity(m),
                **facts,
                remedy=redraw(m),
            )
        else:
            held = Evidence.NAMED if m.layer.role in (Role.HEAD, Role.BRANCH_END, Role.ROUTER) else Evidence.ASSUMED
            yield copied_units.at(
                m,
                f"{message} ({m.layer.role}): {why}",
                severity=Severity.WARNING if born(audit) else Severity.INFO,
                needs=held,
                **facts,
                remedy=redraw(m),
            )


def _by_operator(m: Measured, values: Array) -> Array:
    """(operators, units): groups see different inputs and are compared inside only; experts see the same."""
    return values.reshape(m.layer.groups, -1) if m.layer.groups > 1 else values.reshape(1, -1)


def _accidents(m: Measured, length: float) -> float:
    values = _VALUES.get(m.layer.weight.dtype, 30.0)
    return float(m.layer.units**2 / 2 * np.exp(-min(length, 1e3) * np.log(values)))


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
