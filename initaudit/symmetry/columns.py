"""Whether gradients may be equal where no two units are: what one way up cannot tell.

Units that differ may get equal gradients at the first step: from a weight with equal columns, or from a sum over units.
A norm before that then gets none.
"""

from __future__ import annotations

import numpy as np

from initaudit.symmetry.engine import Unread, Walk, Weight
from initaudit.symmetry.exact import NotFinite, projected
from initaudit.symmetry.labels import mix

_FEW = 16  # rows that columns which differ mostly differ in


def may_agree(walk: Walk) -> bool:
    """Return False only where all gradients of values differ, if all units do: after a way up."""
    if any(node.op.startswith("reduce_") or node.op == "einsum" for node in walk.view.nodes):
        return True
    for name, axes in {(walk.view.nodes[use.node].inputs[use.place], use.axes) for use in walk.uses}:
        weight = walk.values.get(name)
        if isinstance(weight, Weight) and weight.factors and _columns_agree(weight, [axis for axis, _ in axes] or [0]):
            return True
    return False


def _columns_agree(weight: Weight, own: list[int]) -> bool:
    rest = [axis for axis in range(len(weight.shape)) if axis not in own]
    if not rest:
        return False
    try:
        numbers = weight.numbers()
        cut = tuple(slice(_FEW) if axis in own else slice(None) for axis in range(numbers.ndim))
        some = numbers[cut].transpose([*rest, *own])
        some = some.reshape(int(np.prod(some.shape[: len(rest)])), -1)
        places = mix(np.arange(some.shape[1], dtype=np.uint64))
        found = projected(some[None], places[None, None])
    except (Unread, NotFinite):
        return True
    return len(np.unique(found)) < found.size
