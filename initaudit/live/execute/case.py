"""One node about to run: its operands and attributes, and the table of what each operation does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from initaudit.errors import UnsupportedError
from initaudit.registry import ByName
from initaudit.types import Node


@dataclass(frozen=True, slots=True)
class Settings:
    """How a graph is run."""

    training_norms: bool = False  # batch norms use the statistics of the batch
    single: torch.dtype = torch.float32  # what float32 is computed in


@dataclass(frozen=True, slots=True)
class Case:
    """A node with the values of its inputs, None for one that is absent."""

    node: Node
    values: Sequence[Any]
    settings: Settings
    declared: Mapping[str, str] = field(default_factory=dict)  # types of constants as the file has them, by name

    def dtype(self, at: int) -> str:
        """Return the type of an operand: that of the file where it is a constant, else the one it is held in."""
        value = self.maybe(at)
        held = "" if value is None else str(value.dtype).removeprefix("torch.")
        return self.declared.get(self.node.inputs[at], held) if at < len(self.node.inputs) else held

    @property
    def count(self) -> int:
        """Number of outputs that the node names, absent ones included."""
        return len(self.node.outputs)

    def x(self, at: int = 0) -> torch.Tensor:
        """Return an operand.

        Raises:
            UnsupportedError: it is absent.
        """
        value = self.maybe(at)
        if value is None:
            raise UnsupportedError(f"{self.node.op} without its operand {at + 1}")
        return value

    def maybe(self, at: int) -> torch.Tensor | None:
        """Return an operand, None where it is absent."""
        value = self.values[at] if at < len(self.values) else None
        if value is not None and not isinstance(value, torch.Tensor):
            raise UnsupportedError(f"{self.node.op} of a sequence")
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        value = self.node.attrs.get(name)
        return default if value is None else value

    def ints(self, at: int, name: str) -> list[int] | None:
        """Return integers that older operator sets keep in an attribute and newer ones in an input."""
        given = self.get(name)
        if given is None:
            value = self.maybe(at)
            return None if value is None else [int(v) for v in value.reshape(-1).tolist()]
        return [int(v) for v in given] if isinstance(given, Sequence) else [int(given)]

    def floats(self, at: int, name: str) -> list[float] | None:
        """Return numbers that older operator sets keep in an attribute and newer ones in an input."""
        given = self.get(name)
        if given is None:
            value = self.maybe(at)
            return None if value is None else [float(v) for v in value.reshape(-1).tolist()]
        return [float(v) for v in given] if isinstance(given, Sequence) else [float(given)]

    def text(self, name: str, default: str = "") -> str:
        """Return an attribute that is text."""
        return plain(self.get(name, default))


def plain(value: Any) -> str:
    """Return text that ONNX may hold as bytes."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def axis_of(axis: Any, rank: int) -> int:
    """Return an axis counted from the front.

    Raises:
        UnsupportedError: there is no such axis.
    """
    if not -rank <= int(axis) < max(rank, 1):
        raise UnsupportedError(f"axis {axis} of a value with {rank}")
    return int(axis) % max(rank, 1)


Operator = Callable[[Case], Any]
OPERATORS: ByName[Operator] = ByName()  # by canonical name
operator = OPERATORS
