"""Names of tensors and layers: what is alike in them, and in which order people read them."""

from __future__ import annotations

import re

# Tensors that training moves without gradients; a state_dict does not mark them.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")

_NUMBER = re.compile(r"(\d+)")


def pattern(name: str) -> str:
    """Return a name with every number replaced, so that repeated blocks look alike."""
    return _NUMBER.sub("N", name)


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sorting key by which block 10 comes after block 2."""
    pieces = (piece for piece in _NUMBER.split(name) if piece)
    return tuple((0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in pieces)
