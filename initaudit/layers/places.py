"""Where layers stand: their order, and which modules numbering and naming put next to each other."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from initaudit.layers.groups import split
from initaudit.types import Layer


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer stands: the path of its module, in parts."""

    path: str
    steps: tuple[str, ...]


def place(a: Layer) -> Place:
    """Return the place of a layer, from the name of its stored weight."""
    return _place(a.weight.name)


@lru_cache(maxsize=1 << 16)
def _place(name: str) -> Place:
    path, local = split(name)
    if local.partition("@")[0] not in ("weight", "weight_v", "weight_orig", "kernel"):
        path = f"{path}.{local}" if path else local
    return Place(path, tuple(re.split(r"[./]", path)) if path else ())


def succeeds(before: Place, after: Place) -> bool:
    """Whether two modules are numbered one after the other, in one container or under one stem.

    conv1 and conv2, 0 and 3, block.0.0 and block.1.0, but not conv2 and downsample.0.
    """
    for a, b in zip(before.steps, after.steps, strict=False):
        if a == b:
            continue
        stem_a, number_a = _stem(a)
        stem_b, number_b = _stem(b)
        return stem_a == stem_b and number_b > number_a
    return False


def _stem(step: str) -> tuple[str, tuple[int, ...]]:
    """Split a step into what stays and what counts: conv2 is (conv#, 2), conv2b (conv#, 2 1), c3x3_b (cx_, 1)."""
    letter = re.search(r"(?:^|_)([a-h])$", step)
    if letter:
        return re.sub(r"\d+", "", step[: letter.start(1)]), (ord(letter[1]) - ord("a"),)
    match = re.search(r"(\d+)([a-h]?)$", step) or re.search(r"(\d+)()", step)
    if match is None:
        return step, ()
    number = (int(match[1]), *([ord(match[2]) - ord("a")] if match[2] else []))
    return step[: match.start()] + "#" + step[match.end() :], number


def siblings(a: Place, b: Place) -> bool:
    """Whether two modules have the same parent."""
    return len(a.steps) == len(b.steps) and a.steps[:-1] == b.steps[:-1]


def cousins(a: Place, b: Place) -> bool:
    """Whether the paths of two modules differ in exactly one step: f.a.0 and f.b.0."""
    return len(a.steps) == len(b.steps) and sum(x != y for x, y in zip(a.steps, b.steps, strict=True)) == 1


def paired(a: Place, norm: Place) -> bool:
    """Whether numbering or naming pairs a layer with the norm after it: conv1 and bn1, 0 and 1, conv and bn or norm."""
    if not siblings(a, norm) or not a.steps:
        return False
    x, y = a.steps[-1], norm.steps[-1]
    if x.isdigit() and y.isdigit():
        return int(y) == int(x) + 1
    if x.isdigit() or y.isdigit():
        return False
    digits_x, digits_y = re.findall(r"\d+", x), re.findall(r"\d+", y)
    norms = r"bn|norm|gn" if "conv" in x.lower() else r"bn"  # linear2 and norm2 of a transformer are no pair
    bare = {
        "conv",
        "bn",
        "norm",
        "layer_norm",
        "gn",
        "fc",
        "linear",
        "dense",
        "batchnorm",
        "layernorm",
        "batch_norm",
        "ln",
    }
    if x in bare and y.lower() in bare:
        return True
    return bool(digits_x) and digits_x[-1:] == digits_y[-1:] and bool(re.search(norms, y, re.I))
