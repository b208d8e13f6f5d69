"""Sets of tied units as people speak of them: whole heads, gates, a residual stream; and who tells them already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from initaudit.freedom import Cause, LayerFreedom
from initaudit.grounds import (
    ACCIDENT,
    OPERATORS,
    accidents,
    certainty,
    excuse,
    narrow,
    operator,
    parted,
    plain,
    solid,
    uniformity,
    wakes,
)
from initaudit.registry import CAP
from initaudit.types import Audit, Measured, Severity

Sets = tuple[tuple[int, ...], ...]
_MAKES = OPERATORS | {"embedding"}  # kinds that make units; a bias or a norm has those of the layer before it


@dataclass(slots=True)
class Tie:
    """Sets of units alike, where they start."""

    where: Measured
    sets: Sets
    parts: int  # in how many parts of the layer the same units are tied
    kind: str  # "tied", "nearly", "twins"
    told: tuple[str, int]  # code of the rule that tells the same by the values, and how grave it is by that
    also: dict[str, None] = field(default_factory=dict)


def ties(audit: Audit, kind: str) -> Iterator[Tie]:
    """Yield the ties of each chain of layers at the first of them that has them, those of one residual stream once."""
    chains: dict[tuple[str, object], Tie] = {}
    streams: dict[tuple[int, Sets, bool], Tie] = {}
    for m in audit.measured:
        own = m.freedom
        if own is None or (kind == "tied" and own.width == own.units):
            continue
        start = own.start or m.layer.name
        found = _sets(own, kind)
        if not found and kind != "tied":
            continue
        told = _Told(m, audit)
        for sets, parts in _folded(own, found, len(m.layer.parts)):
            tie = Tie(m, sets, parts, kind, told.of(sets))
            chain = start, "all" if len(sets) == 1 and len(sets[0]) * parts == own.units else sets
            stream = own.units, sets, bool(tie.told[0])
            first = chains.get(chain) or streams.get(stream)
            if first is not None:
                first.also[m.layer.name] = None
            elif m.layer.kind in _MAKES and not m.layer.tied and not m.layer.weight.buffer:
                chains[chain] = streams[stream] = tie
    yield from chains.values()


def _sets(own: LayerFreedom, kind: str) -> Sets:
    if kind == "tied":
        return own.classes
    exact = [set(one) for one in own.classes]
    told = own.nearly if kind == "nearly" else own.twins
    return tuple(one for one in told if not any(known.issuperset(one) for known in exact))


def _folded(own: LayerFreedom, sets: Sets, parts: int) -> Iterator[tuple[Sets, int]]:
    """Yield sets with those that belong together: of each part of a layer, and of whole heads, unit by unit."""
    if not sets and own.width < own.units:
        yield (), 1  # which units they are is not known
    size = own.units // max(1, parts)
    every = set(sets)
    same = [one for one in sets if one[-1] < size and all(moved(one, k * size) in every for k in range(parts))]
    if parts > 1 and own.units == parts * size and len(same) * parts == len(sets):
        yield from ((run, parts) for run in _runs(same))
    else:
        yield from ((run, 1) for run in _runs(sets))


def moved(units: tuple[int, ...], by: int) -> tuple[int, ...]:
    """Return the units at other places."""
    return tuple(unit + by for unit in units)


def _runs(sets: Sets | list[tuple[int, ...]]) -> Iterator[Sets]:
    """Yield sets that follow each other place by place, as those of two tied heads do, together."""
    left = dict.fromkeys(sorted(sets))
    while left:
        run = [next(iter(left))]
        while (after := moved(run[-1], 1)) in left and after[0] not in run[0]:
            run.append(after)
        for one in run:
            del left[one]
        yield tuple(run)


def together(found: list[Tie]) -> Tie:
    """Return several ties of a layer as one."""
    also = dict.fromkeys(name for tie in found for name in tie.also)
    told = min((tie.told for tie in found), key=lambda told: told[1])
    return Tie(found[0].where, tuple(one for tie in found for one in tie.sets), 1, found[0].kind, told, also)


class _Told:
    """What other rules tell of a layer by its values, and how grave that is."""

    def __init__(self, m: Measured, audit: Audit) -> None:
        self._m = m
        self._judged = operator(m) and not excuse(m, audit)
        self._whole: tuple[str, int] | None = None
        if self._judged:
            self._sure = int(CAP[certainty(m)])
            self._copies = int(min(Severity.WARNING if parted(m, audit) else Severity.ERROR, CAP[uniformity(m, audit)]))
            self._solid = solid(m) & (accidents(m) <= ACCIDENT)
            if m.stats.zeros == m.stats.count and plain(m):
                lasting = narrow(m) or not wakes(m, audit)
                self._whole = "INI103", min(Severity.ERROR if lasting else Severity.WARNING, self._sure)
            elif m.stats.constant:
                self._whole = "INI104", self._copies
        still = m.movement
        dead = still is not None and still.cause is Cause.ZEROS and still.dead == m.stats.count
        self._else = ("INI205", int(CAP[audit.model.graph_evidence])) if dead else ("", 0)

    def of(self, sets: Sets) -> tuple[str, int]:
        """Return the code of the rule that tells these sets, and how grave they are by that; empty for none."""
        rows = self._m.stats.rows
        if not self._judged or self._whole is not None or not sets or len(rows.hash) != self._m.layer.units:
            return self._whole or self._else
        units = [list(one) for one in sets]
        if all(not rows.nonzero[one].any() for one in units):
            return "INI202", min(Severity.WARNING, self._sure)
        alike = all(np.unique(rows.hash[one]).size == 1 and self._solid[one].all() for one in units)
        return ("INI201", self._copies) if alike else self._else
