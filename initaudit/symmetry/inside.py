"""Dropout that a module keeps to itself: a graph of evaluation does not show it, the module's settings do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

from initaudit.freedom import LayerFreedom
from initaudit.types import Layer, Module

_RECURRENT = ("LSTM", "GRU", "RNN")


def within(
    modules: Sequence[Module], layers: Sequence[Layer], found: Sequence[LayerFreedom | None]
) -> tuple[LayerFreedom | None, ...]:
    """Return what is known of layers, with the dropout inside their own modules that parts their tied units.

    Attention drops weights of each head by itself, which parts whole heads; a recurrent module drops between its
    layers, which parts the units of all but the last.
    """
    owners = {name: (module, key) for module in modules for key, name in module.tensors.items()}
    out: list[LayerFreedom | None] = []
    for layer, one in zip(layers, found, strict=True):
        told = owners.get(layer.weight.name) if one is not None and one.classes and not one.breaks else None
        if one is not None and told is not None and (share := _parts(*told, one)):
            out.append(replace(one, breaks=(f"dropout {share:.3g} inside {told[0].path or told[0].kind}",)))
        else:
            out.append(one)
    return tuple(out)


def _parts(module: Module, key: str, one: LayerFreedom) -> float:
    """Return the share that is dropped, where that tells tied units of a parameter apart; else 0."""
    attrs: Mapping[str, object] = module.attrs
    share = attrs.get("dropout")
    if not isinstance(share, (int, float)) or not share > 0:
        return 0.0
    if module.kind in _RECURRENT:
        at, count = re.search(r"_l(\d+)", key), attrs.get("num_layers")
        return float(share) if at and isinstance(count, int) and int(at[1]) < count - 1 else 0.0
    heads = attrs.get("num_heads")
    if module.kind == "MultiheadAttention" and isinstance(heads, int) and key.endswith("proj_weight"):
        wide = one.units // (3 if key.startswith("in_") else 1)
        if (
            wide
            and wide % heads == 0
            and any(len({unit % wide * heads // wide for unit in s}) > 1 for s in one.classes)
        ):
            return float(share)
    return 0.0
