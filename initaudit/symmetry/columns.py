"""Whether gradients may be equal where no two units are: what one way up cannot tell.

Units that differ may get equal gradients at the first step: from a weight with equal columns, or from a sum over units.
A norm before that then gets none.
"""

from __future__ import annotations

import numpy as np

from initaudit.symmetry.engine import Unread, Walk, Weight
from initaudit.symmetry.exact import NotFinite, projected
from initaudit.symmetry.labels import Labels, mix
from initaudit.types import Node

_FEW = 16  # rows that columns which differ mostly differ in


def may_agree(walk: Walk) -> bool:
    """Return False only where all gradients of values differ, if all units do: after a way up."""
    if any(_sums_units(walk, node) for node in walk.view.nodes):
        return True
    for name, axes in {(walk.view.nodes[use.node].inputs[use.place], use.axes) for use in walk.uses}:
        weight = walk.values.get(name)
        if isinstance(weight, Weight) and weight.factors and _columns_agree(weight, [axis for axis, _ in axes] or [0]):
            return True
    return False


def _sums_units(walk: Walk, node: Node) -> bool:
    """Whether an operation sums over units, not only over places or inputs of a batch."""
    if not node.op.startswith("reduce_") and node.op != "einsum":
        return False
    x, axes = walk.values.get(node.inputs[0]), node.attrs.get("axes", node.attrs.get("dim"))
    given = walk.value(node.inputs[1]) if axes is None and len(node.inputs) > 1 else None
    if isinstance(given, Weight) and not given.factors:
        axes = tuple(given.numbers().ravel().tolist())
    axes = (axes,) if isinstance(axes, int) else axes
    if not isinstance(x, Labels) or not isinstance(axes, (tuple, list)):
        return True
    return not all(isinstance(a, int) and (x.is_free(a) or x.shape[a] == 1) for a in axes)


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
