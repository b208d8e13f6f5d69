"""How much of a layer's width is lost because its units are copies of each other, at first and for ever."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from initaudit.grounds import OPERATORS
from initaudit.types import Array, Measured, Role

_RECURRENT = frozenset({"rnn", "lstm", "gru"})


def lost(
    measured: Sequence[Measured], at: int, tied: float | None, *, seen: bool = True, sure: bool = False
) -> tuple[float, float | None]:
    """Return the shares of the logarithm of a layer's width that copies cost for ever, and at first.

    Channels that are copies still hand on an image or a sequence, and what is added to a stream is not all there is:
    None for these.

    Args:
        measured: in execution order.
        at: the place of the layer.
        tied: share of its units that stay copies, as the judge says; None where it does not know.
        seen: by the probe. Otherwise the weights that read the layer say it better, where these are known.
        sure: what the graph does not prove tied is not: all of it was understood. Its ties are certain in any case.
    """
    m = measured[at]
    layer, rows = m.layer, m.stats.rows.hash
    if layer.role is Role.HEAD or len(rows) < 2:
        return 0.0, None
    units = len(rows)
    distinct = _distinct(rows)
    if m.freedom is not None and (sure or m.freedom.width < m.freedom.units):
        width = units * m.freedom.width / m.freedom.units
    else:
        own = None if seen and tied is not None else _stays(measured, at)
        share = next((v for v in (own, tied) if v is not None), 0.0)
        width = max(distinct, (1 - share) * units)
    dense = layer.role is Role.TRUNK and "k" not in layer.axes and m.stats.variance > 0
    return (
        math.log(units / width) / math.log(units),
        math.log(units / distinct) / math.log(units) if dense else None,
    )


def around(measured: Sequence[Measured], at: int) -> bool:
    """Whether a path leads past a layer: one that comes later is no further from the input than the layer itself."""
    own = measured[at].layer.depth
    if own is None:
        return False
    depths = (m.layer.depth for m in measured)
    return any(d is not None and d[0] > own[0] and d[1] <= own[1] for d in depths)


def _stays(measured: Sequence[Measured], at: int) -> float | None:
    """Return the share of units with equal incoming weights, as far as what reads them weighs them equally too.

    The reader is taken to be the next weight of that many inputs; None where there is none.
    """
    rows = measured[at].stats.rows.hash
    if _distinct(rows) == len(rows) or not measured[at].stats.variance + measured[at].stats.mean ** 2 > 0:
        return 0.0
    hidden = len(rows) // max(1, len(measured[at].layer.parts))
    own = measured[at : at + 1] if measured[at].layer.kind in _RECURRENT else ()
    for reader in (*own, *measured[at + 1 :]):
        columns = reader.stats.columns.hash
        if reader.layer.kind in OPERATORS and not reader.layer.tied and len(columns) in (len(rows), hidden):
            return min(_shared(rows), _shared(columns))
    return None


def _distinct(hashes: Array) -> int:
    return max(1, len(np.unique(hashes)))


def _shared(hashes: Array) -> float:
    """Return the share of units that are not alone with their hash."""
    _, counts = np.unique(hashes, return_counts=True)
    return float(counts[counts > 1].sum() / len(hashes))
