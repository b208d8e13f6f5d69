"""Units that are copies of each other in what comes in and in what comes back: training never parts them.

Rows of weights and of gradients are compared by two random projections of each: that costs one product per weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from initaudit.layers.spots import Place, Places
from initaudit.types import Layer

_ALIKE = {torch.float64: 1e-9, torch.float32: 1e-6}  # of a row's norm: what sums in another order may differ by
_ALIKE_BACK = {torch.float64: 1e-7, torch.float32: 1e-5}  # likewise, of a gradient's, which went a longer way
_CHUNK = 1 << 22  # elements that are converted at a time


@dataclass(frozen=True, slots=True)
class Twins:
    """A weight some of whose units have equal incoming weights."""

    leaf: torch.Tensor
    axes: str
    groups: int
    part: int | None  # of several weights along the first axis of the tensor, which one this is
    group: torch.Tensor  # (units,): number of the set of units with equal weights; -1 for a unit that has its own


def twins(places: Places, place: Place, layer: Layer, parameters: Mapping[str, torch.Tensor]) -> Twins | float | None:
    """Return the units with equal incoming weights; 0.0 where there are none, None where units cannot be told."""
    held = _oriented(places, place, layer, parameters)
    if held is None:
        return None
    leaf, axes, part = held
    with torch.no_grad():
        rows = _rows(_own(leaf.detach(), part), axes, layer.groups)
        if rows.shape[1] < 2 or len(rows) < 2:
            return None
        bias = _bias(places, layer, parameters, len(rows))
        group = _alike(_keys(rows, bias), torch.zeros(len(rows), dtype=torch.int64), _ALIKE.get(leaf.dtype, 1e-6))
    return Twins(leaf, axes, layer.groups, part, group) if bool((group >= 0).any()) else 0.0


def tied(found: Twins, gradient: torch.Tensor) -> float:
    """Return the share of units whose weights and gradients both equal those of another one, and are not zero."""
    with torch.no_grad():
        keys = _keys(_rows(_own(gradient, found.part), found.axes, found.groups), None)
        group = torch.where(keys[:, -1] > 0, found.group, -1)
        both = _alike(keys, group, _ALIKE_BACK.get(gradient.dtype, 1e-5))
        return float((both >= 0).double().mean())


def _oriented(
    places: Places, place: Place, layer: Layer, parameters: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, str, int | None] | None:
    """Return the tensor that gathers a layer's gradient, with the labels of the layer's axes, and which part it is."""
    for value in place.constants:
        tensor, leaf = places.view.graph.constants.get(value), parameters.get(value)
        if tensor is None or leaf is None or not leaf.is_floating_point():
            continue
        if tensor.identity == layer.weight.identity:
            return (leaf, layer.axes, None) if len(layer.axes) == leaf.dim() and "o" in layer.axes else None
        for own in places.founds:
            if own.weight.identity == tensor.identity and len(own.axes) == leaf.dim() and "o" in own.axes:
                return leaf, own.axes, None
        if tensor.size == layer.weight.size and tensor.shape == layer.weight.shape[::-1] and len(layer.axes) == 2:
            return leaf, layer.axes[::-1], None
        if tensor.shape[1:] == layer.weight.shape and "o" in layer.axes and tensor.storage == layer.weight.storage:
            return leaf, layer.axes, (layer.weight.offset - tensor.offset) // max(1, layer.weight.size)
    return None


def _own(value: torch.Tensor, part: int | None) -> torch.Tensor:
    return value if part is None else value[part]


def _bias(places: Places, layer: Layer, parameters: Mapping[str, torch.Tensor], units: int) -> torch.Tensor | None:
    own = None if layer.bias is None else layer.bias.identity
    for value, leaf in parameters.items():
        if own is not None and places.view.graph.constants[value].identity == own and leaf.numel() == units:
            return leaf.detach().reshape(units, 1).double()
    return None


def _rows(value: torch.Tensor, axes: str, groups: int) -> torch.Tensor:
    """Return (units, what comes in) of a weight."""
    split = groups > 1 and 0 <= axes.find("i") < axes.find("o") and value.shape[axes.find("i")] % groups == 0
    if split:
        at = axes.find("i")
        value = value.reshape(*value.shape[:at], groups, -1, *value.shape[at + 1 :])
        axes = f"{axes[:at]}s{axes[at:]}"
    order = [k for k, label in enumerate(axes) if label in "so"]
    units = 1
    for k in order:
        units *= value.shape[k]
    order += [k for k, label in enumerate(axes) if label not in "so"]
    return value.permute(order).reshape(units, -1)


def _keys(rows: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return (units, 2 projections and the norm), float64."""
    random = torch.Generator().manual_seed(0)
    onto = torch.randn(rows.shape[1], 2, generator=random, dtype=torch.float64)
    out = []
    step = max(1, _CHUNK // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        part = rows[start : start + step].double()
        norm = torch.linalg.vector_norm(part, dim=1, keepdim=True)
        made = part @ onto
        if bias is not None:
            own = bias[start : start + step]
            made = made + own * torch.tensor([[1.7, -0.9]], dtype=torch.float64)
            norm = torch.hypot(norm, own)
        out.append(torch.cat([made, norm], 1))
    return torch.cat(out)


def _alike(keys: torch.Tensor, within: torch.Tensor, part: float) -> torch.Tensor:
    """Return the number of the set of like units that each is in; -1 for none, or left out by `within`."""
    table = keys.numpy()
    order = torch.from_numpy(np.lexsort((table[:, 1], table[:, 0], within.numpy())))
    ranked, sets = keys[order], within[order]
    near = (ranked[1:] - ranked[:-1]).abs().amax(1) <= part * torch.maximum(ranked[1:, -1], ranked[:-1, -1])
    near &= (sets[1:] == sets[:-1]) & (sets[1:] >= 0)
    number = torch.cat([torch.zeros(1, dtype=torch.int64), (~near).long().cumsum(0)])
    count = torch.bincount(number, minlength=len(number))
    number = torch.where(count[number] > 1, number, -1)
    out = torch.empty_like(number)
    out[order] = number
    return out
