"""Names of tensors and layers: what is alike in them, and in which order people read them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

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


def places(given: Sequence[int], most: int = 8) -> str:
    """Return ascending numbers in words, runs together: "3, 17 and 41", "0-31", "0-3, 7 and 12 more"."""
    runs: list[list[int]] = []
    for one in given:
        if runs and one == runs[-1][1] + 1:
            runs[-1][1] = one
        else:
            runs.append([one, one])
    told = [str(a) if a == b else f"{a}-{b}" for a, b in runs]
    left = sum(b - a + 1 for a, b in runs[most:])
    if left:
        return f"{', '.join(told[:most])} and {left:,} more"
    return " and ".join(part for part in (", ".join(told[:-1]), told[-1]) if part) if told else ""


def folded(names: Iterable[str]) -> list[str]:
    """Return names with those that differ by numbers only as one pattern, in the order of the first of each."""
    groups: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        groups.setdefault(pattern(name), []).append(name)
    return [own[0] if len(own) == 1 else like for like, own in groups.items()]
