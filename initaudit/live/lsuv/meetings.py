"""Where weights meet the data, and which of several tensors of a weight sets its scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from initaudit.edits import Reached, Recipe
from initaudit.layers.spots import Places
from initaudit.live.lsuv.stored import strides_of
from initaudit.types import Layer, Node, Tensor

RECURRENT = frozenset({"lstm", "gru", "rnn"})
WEIGHTED = frozenset({"linear", "conv", "conv_transpose", "embedding", "bilinear", "attention", *RECURRENT})


@dataclass(frozen=True, slots=True)
class Meeting:
    """Where a weight meets the data."""

    outs: tuple[str, ...]  # its products, in execution order
    others: tuple[str, ...] = ()  # what is made with it elsewhere, in another way
    sources: Mapping[str, str] = field(default_factory=dict)  # what goes into each product


def meetings(
    places: Places, recipes: Sequence[Recipe], wanted: Sequence[int]
) -> tuple[dict[int, Meeting], list[Reached]]:
    """Return where weights meet the data, by recipe, and what there is to say of those that do not.

    Args:
        places: of the graph.
        recipes: all of them.
        wanted: those of weights that are to be scaled, and of what is drawn along with these.
    """
    made: dict[int, Meeting] = {}
    told: list[Reached] = []
    owners: dict[object, str] = {}
    stored = {constant.storage for constant in places.view.graph.constants.values()}
    for at in levers(recipes, wanted).values():
        layer, tensor = recipes[at].measured.layer, recipes[at].tensor
        owner = owners.get(_elements(tensor))
        place = places.of(layer)
        if owner is not None:
            told.append(Reached(layer.name, why=f"its weight is that of {owner}, whose use decides"))
        elif layer.kind not in WEIGHTED:
            told.append(Reached(layer.name, why="it has no product of its own; left as it is"))
        elif tensor.dtype.startswith("complex"):
            told.append(Reached(layer.name, why="its values are complex; left as they are"))
        elif tensor.parts and tensor.storage not in stored:
            names = ", ".join(tensor.parts)[:200]
            told.append(Reached(layer.name, why=f"it is put together from {names}; left as it is"))
        elif not place.outs:
            told.append(Reached(layer.name, why="where it meets the data is not known; left as it is"))
        else:
            owners[_elements(tensor)] = layer.name
            made[at] = _meeting(places, layer, place.outs)
    return made, told


def levers(recipes: Sequence[Recipe], wanted: Sequence[int]) -> dict[str, int]:
    """Return the recipe whose tensor scales the product, by layer: that of the norms, where weight_norm keeps them."""
    found: dict[str, int] = {}
    for at in wanted:
        layer, tensor = recipes[at].measured.layer, recipes[at].tensor
        own = tensor.name == layer.weight.name
        norms = not own and tensor.size > 0 and (tensor.size == 1 or len(tensor.shape) == len(layer.weight.shape))
        if norms or (own and layer.name not in found):
            found[layer.name] = at
    return found


def projects(node: Node) -> bool:
    """Whether an operation is ONNX Runtime's attention, with the projections of query, key and value inside."""
    return node.call is None and node.op == "attention" and "num_heads" in node.attrs and len(node.inputs) > 1


def _meeting(places: Places, layer: Layer, outs: tuple[str, ...]) -> Meeting:
    same = [f for f in places.founds if f.weight.name == layer.weight.name and f.weight.size == layer.weight.size]
    own = [f for f in same if f.kind == layer.kind and f.source in places.view.fixed]
    first = tuple(f.out for f in own if f.out not in outs)  # from a state that is given, as in a recurrence
    moving = [f for f in same if f.kind in WEIGHTED and f.source not in places.view.fixed]
    others = tuple(dict.fromkeys(f.out for f in moving if f.out not in outs))
    return Meeting((*first, *outs), others, {f.out: f.source for f in same})


def _elements(tensor: Tensor) -> object:
    """Return what is equal for tensors of the same elements in any order of their axes."""
    steps = frozenset((n, step) for n, step in zip(tensor.shape, strides_of(tensor), strict=True) if n > 1)
    return (tensor.storage or tensor.name, tensor.offset, steps)
