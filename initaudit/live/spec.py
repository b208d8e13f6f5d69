"""What a model is fed with: shapes and kinds of tensors, not their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor to be made: its shape, its dtype as torch spells it, and what integers stay below."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    below: int = 2  # integers are drawn from 0 to below - 1


@dataclass(frozen=True, slots=True)
class Feed:
    """The arguments of one forward pass: Specs, tensors, plain values, and lists, tuples or dicts of these."""

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    told: str = ""  # what was guessed and from what, in one line; empty where the user gave it all
