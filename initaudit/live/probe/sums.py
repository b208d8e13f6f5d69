"""Sums of squares that keep their digits: over blocks in the values' own precision, then in double."""

from __future__ import annotations

import math

import torch

_BLOCK = 1024
_RANGE = (1e-14, 1e14)  # root mean squares whose squares single precision holds


def norm(value: torch.Tensor) -> float:
    """Return the square root of the sum of squares."""
    if value.is_complex():
        value = torch.view_as_real(value)
    flat = value.detach().reshape(-1)
    if flat.dtype != torch.float64 and flat.numel() > _BLOCK:
        whole = flat.numel() // _BLOCK * _BLOCK
        blocks = torch.linalg.vector_norm(flat[:whole].view(-1, _BLOCK), dim=1).double()
        rest = float(torch.linalg.vector_norm(flat[whole:], dtype=torch.float64))
        made = math.hypot(float(torch.linalg.vector_norm(blocks)), rest)
        if _RANGE[0] < made / math.sqrt(flat.numel()) < _RANGE[1]:
            return made
    return _scaled(flat)


def _scaled(flat: torch.Tensor) -> float:
    """Return a norm in double precision; values beyond its square root are scaled first."""
    made = float(torch.linalg.vector_norm(flat, dtype=torch.float64))
    if 1e-140 < made < 1e150 or not flat.numel():
        return made
    largest = float(flat.abs().amax())
    if not 0 < largest < math.inf:
        return largest
    return largest * float(torch.linalg.vector_norm(flat.double() / largest))
