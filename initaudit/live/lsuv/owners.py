"""Which elements of a value a part of a weight makes: told by scaling parts by different powers of two."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

_BASE = 8  # different powers of two in one run: scaling by them is exact
_NEAR = 0.02  # of a power of two, relative
_MIXED = 1e-3  # share of a value's square that no one power of two explains

Made = Callable[[Sequence[float]], Sequence[torch.Tensor]]


def owners(made: Made, base: Sequence[torch.Tensor], count: int) -> list[torch.Tensor] | None:
    """Return for each value which part makes which element, as labels that broadcast to it.

    Elements of which no part makes anything have label -1.

    Args:
        made: returns the product for a scale per part.
        base: the product, at scale 1.
        count: number of parts.

    Returns:
        One tensor of labels per value; None where an element is made by several parts together.
    """
    digits: list[list[torch.Tensor]] = []
    power = 1
    while power <= count:
        scales = [float(2 ** ((part + 1) // power % _BASE)) for part in range(count)]
        changed = made(scales)
        found = [_digits(a, b) for a, b in zip(base, changed, strict=True)]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        digits.append(known)
        power *= _BASE
    out = []
    for k in range(len(base)):
        each = [own[k] for own in digits]
        label = sum((one.clamp(min=0) * _BASE**d for d, one in enumerate(each)), torch.zeros(1, dtype=torch.int64)) - 1
        label = torch.where(sum((one < 0 for one in each), torch.zeros(1, dtype=torch.bool)) > 0, -1, label)
        out.append(label)
    return out


def _digits(base: torch.Tensor, changed: torch.Tensor) -> torch.Tensor | None:
    """Return the power of two that each element was scaled by, along one axis if it is the same along all others."""
    if not base.numel():
        return torch.full((1,) * base.dim(), -1, dtype=torch.int64)
    for axis in range(base.dim() - 1, -1, -1):
        found = _along(base, changed, axis)
        if found is not None:
            return found
    alive = base != 0
    ratio = torch.where(alive, changed / torch.where(alive, base, 1), 1)
    power = ratio.abs().clamp(min=0.5).log2().round().to(torch.int64)
    rest = (changed - base * torch.exp2(power.to(base.dtype))).double().square().sum()
    if not bool(rest <= _MIXED * changed.double().square().sum()):
        return None
    return torch.where(alive, power, -1)


def _along(base: torch.Tensor, changed: torch.Tensor, axis: int) -> torch.Tensor | None:
    others = [a for a in range(base.dim()) if a != axis]

    def total(value: torch.Tensor) -> torch.Tensor:
        return value.sum(others, dtype=torch.float64) if others else value.double()

    square, mixed, after = total(base * base), total(base * changed), total(changed * changed)
    alive = square > 0
    ratio = torch.where(alive, mixed / torch.where(alive, square, 1), 1)
    power = ratio.clamp(min=0.5).log2().round()
    fits = (ratio / torch.exp2(power) - 1).abs() < _NEAR
    rest = after - torch.exp2(power) * mixed  # nothing is left where all elements were scaled alike
    if not bool((fits & (rest.abs() <= _MIXED * after.clamp(min=1e-300)) | ~alive).all()):
        return None
    label = torch.where(alive, power, -1).to(torch.int64)
    return label.reshape([-1 if a == axis else 1 for a in range(base.dim())])
