"""Layers of a bare checkpoint: from the names and shapes of its tensors and the configuration beside it.

Some writers keep the order of registration, others sort by name. The readings must not depend on that, so the tensors
are read in one order whatever the file's, and nothing is concluded from it; the rows stand in the file's order.
"""

from __future__ import annotations

from initaudit.layers import activated, neighbours, packed, roles
from initaudit.layers.groups import by_name
from initaudit.layers.shapes import read
from initaudit.naming import natural
from initaudit.types import Layer, Model, Skip, Tensor


def infer(model: Model, tensors: tuple[Tensor, ...] | None = None) -> tuple[tuple[Layer, ...], tuple[Skip, ...]]:
    """Return the layers that names and shapes tell, and what could not be read.

    Args:
        model: a model without graph and modules.
        tensors: the tensors to read, all by default.
    """
    stored = model.tensors if tensors is None else tensors
    layers: list[Layer] = []
    plain, skipped, rescaled = packed.set_apart(stored)
    for group in by_name(sorted(plain, key=lambda t: (natural(t.name), t.name))):
        found, unread = read(group)
        layers += found
        skipped += unread
    settled = neighbours.settle(layers, model.config, ordered=False)
    made = roles.assign(settled, model.config, ordered=False)
    made = activated.fill(made, model.config, ordered=False)
    made = [packed.unscaled(a) if a.weight.name in rescaled else a for a in made]
    position = {t.name: n for n, t in enumerate(stored)}
    made.sort(key=lambda a: position[a.weight.name])
    skipped.sort(key=lambda s: position[s.name])
    return tuple(made), tuple(skipped)
