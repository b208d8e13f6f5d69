"""What every analysis of a graph asks of a node: which operands there are, and what its attributes say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from initaudit.types import Node


class Operands:
    """A node, and the plain questions to it."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.attrs: Mapping[str, Any] = node.attrs

    def has(self, place: int) -> bool:
        """Whether there is an operand at a place."""
        return place < len(self.node.inputs) and bool(self.node.inputs[place])

    def listed(self, *names: str) -> tuple[int, ...] | None:
        """Return whole numbers from the first of these attributes that holds any; None where none does."""
        for name in names:
            given = self.attrs.get(name)
            if isinstance(given, int):
                return (given,)
            if isinstance(given, (tuple, list)) and all(isinstance(n, int) for n in given):
                return tuple(given)
        return None

    def integer(self, name: str, default: int) -> int:
        """Return an attribute that is a whole number."""
        given = self.attrs.get(name)
        return given if isinstance(given, int) else default
