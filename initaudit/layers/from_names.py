"""Layers of a bare checkpoint: from the names and shapes of its tensors and the configuration beside it."""

from __future__ import annotations

from initaudit.layers import neighbours, places, roles
from initaudit.layers.groups import by_name
from initaudit.layers.shapes import read
from initaudit.types import Layer, Model, Skip, Tensor


def infer(model: Model, tensors: tuple[Tensor, ...] | None = None) -> tuple[tuple[Layer, ...], tuple[Skip, ...]]:
    """Return the layers that names and shapes tell, and what could not be read.

    Args:
        model: a model without graph and modules.
        tensors: the tensors to read, all by default.
    """
    stored = model.tensors if tensors is None else tensors
    ordered = places.in_order(stored)
    if not ordered:
        stored = tuple(sorted(stored, key=lambda t: places.natural(t.name)))
    layers: list[Layer] = []
    skipped: list[Skip] = []
    for group in by_name(stored):
        found, unread = read(group)
        layers += found
        skipped += unread
    settled = neighbours.settle(layers, model.config, ordered)
    return tuple(roles.assign(settled, model.config, ordered)), tuple(skipped)
