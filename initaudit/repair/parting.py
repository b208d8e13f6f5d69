"""Units that stay equal, as a fault of the fewest units that must be drawn again for all to differ.

Units are tied by what comes in and by what goes back. Of those that have equal weights all but one are drawn again.
Others are tied only because units below them are: where these part, they part too. So layers are taken in the order of
execution, and after each the analysis is asked again what is left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from initaudit import symmetry
from initaudit.repair.overlaying import laid
from initaudit.repair.rows import Anew, again, copies
from initaudit.types import Measured, Model

_ROUNDS = 24  # analyses at most: one for each layer in which weights differ and only their sums agree
Sets = Sequence[tuple[int, ...]]


def sets_of(m: Measured, kind: str) -> Sets:
    """Return the sets of units of a layer that stay equal, or nearly so, or but for sign or scale."""
    if m.freedom is None:
        return ()
    return {"nearly": m.freedom.nearly, "twins": m.freedom.twins}.get(kind, m.freedom.classes)


def parted(
    measured: Sequence[Measured],
    model: Model | None,
    told: Mapping[int, Sets],
    free: Callable[[Measured], bool],
    others: Sequence[Anew] = (),
) -> dict[int, tuple[int, ...]]:
    """Return the units that are drawn again, by place of their layer, so that no two of a set stay equal.

    Args:
        measured: all layers, in the order of execution.
        model: that the sets were found in.
        told: the sets that are to be parted, by place of their layer.
        free: whether a layer may be drawn.
        others: what is drawn anyway.
    """
    own = [k for k in sorted(told) if free(measured[k])]
    drawn: dict[int, set[int]] = {k: set() for k in own}
    for k in own:
        equal = [one for wide in told[k] for one in copies(measured[k], wide, apart=True)]
        drawn[k] = set(again(measured[k], equal))
    stuck: set[int] = set()
    left = told
    for _ in range(_ROUNDS):
        if model is None or all(_covered(sets, drawn.get(k, ())) for k, sets in left.items()):
            break
        made = [Anew(measured[k], measured[k].layer.weight, tuple(units)) for k, units in drawn.items() if units]
        left = _left(measured, laid(model, [one.edit for one in (*others, *made)]), told)
        first = next((k for k in own if k in left and k not in stuck), None)
        if first is None:
            break
        new = set(again(measured[first], [sorted(set(one) - drawn[first]) for one in left[first]]))
        if new <= drawn[first]:
            stuck.add(first)
        drawn[first] |= new
    return {k: tuple(sorted(units)) for k, units in drawn.items() if units}


def _covered(sets: Sets, drawn: Iterable[int]) -> bool:
    return all(len(set(one) - set(drawn)) < 2 for one in sets)


def _left(measured: Sequence[Measured], model: Model, told: Mapping[int, Sets]) -> dict[int, Sets]:
    """Return what of the sets stays equal in a model that shows what is drawn."""
    found = symmetry.of_model(model, [m.layer for m in measured]).layers
    out: dict[int, Sets] = {}
    for k, sets in told.items():
        freedom = found[k]
        now = () if freedom is None else (*freedom.classes, *freedom.nearly, *freedom.twins)
        some = [tuple(sorted(set(one) & set(old))) for one in now for old in sets]
        if some := [one for one in some if len(one) > 1]:
            out[k] = some
    return out
