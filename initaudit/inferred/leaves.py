"""A leaf module by its record, and the calls that it makes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from initaudit.errors import UnsupportedError
from initaudit.types import Module, Ref, Tensor

Shape = tuple[int, ...]


class MisfitError(UnsupportedError):
    """A module cannot take a value of this shape.

    Args:
        have: extent that is there.
        want: extent that would fit; 0 where that is not the matter.
    """

    def __init__(self, reason: str, have: int = 0, want: int = 0) -> None:
        super().__init__(reason)
        self.have = have
        self.want = want


@dataclass(frozen=True, slots=True)
class Step:
    """One call: what comes in is its first argument."""

    target: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    shape: Shape  # of its result


@dataclass(frozen=True, slots=True)
class Leaf:
    """A module without children, with its tensors."""

    record: Module
    tensors: Mapping[str, Tensor] = field(default_factory=dict)  # by the module's own name for them

    @property
    def kind(self) -> str:
        """Name of the class."""
        return self.record.kind

    @property
    def rank(self) -> int:
        """Spatial axes that its class is made for: 2 for Conv2d, 0 where the class does not say."""
        digits = [char for char in self.kind if char.isdigit()]
        return int(digits[-1]) if digits and self.kind.endswith(f"{digits[-1]}d") else 0

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute."""
        return self.record.attrs.get(name, default)

    def whole(self, name: str, default: int | None = None) -> int:
        """Return an attribute that is a whole number."""
        value = self.get(name, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise UnsupportedError(f"{self.where} has no {name}")
        return value

    def several(self, name: str, default: Any = None) -> tuple[int, ...]:
        """Return an attribute that is one whole number, or one for each spatial axis, as the latter."""
        value = self.get(name, default)
        items = value if isinstance(value, tuple) else (value,) * self.rank
        if len(items) != self.rank or not all(isinstance(n, int) for n in items):
            raise UnsupportedError(f"{self.where} has no {name} for each axis")
        return tuple(int(n) for n in items)

    def ref(self, name: str) -> Ref | None:
        """Return a tensor as an argument of a call; None where the module has none of that name."""
        return Ref(self.record.tensors[name]) if name in self.tensors else None

    def weight(self, name: str = "weight") -> Tensor:
        """Return a tensor that the module cannot do without."""
        if name not in self.tensors:
            raise UnsupportedError(f"{self.where} has no {name}")
        return self.tensors[name]

    @property
    def where(self) -> str:
        """The module in a sentence."""
        return (self.record.path or "the model")[:80]


def positive(leaf: Leaf, numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Return kernels, strides or dilations; raise UnsupportedError where one is none."""
    if any(n < 1 for n in numbers):
        raise UnsupportedError(f"{leaf.where} has a kernel, stride or dilation below 1")
    return numbers


def with_channels(leaf: Leaf, shape: Shape) -> None:
    """Raise MisfitError where a value has not the axes that the module takes: inputs, channels and its own."""
    if len(shape) != leaf.rank + 2:
        raise MisfitError(f"{leaf.where} takes {leaf.rank + 2} axes, not {len(shape)}")
