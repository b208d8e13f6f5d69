"""How a stored tensor lies on the operator that it is: (stack, out, in, *kernel), and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from initaudit.errors import UsageError
from initaudit.types import Array, Layer, Tensor

# Gates in torch's order, whatever the file's: a draw of all of them does not depend on how they are stored.
_ORDER = ("input", "forget", "cell", "output", "reset", "update", "new", "query", "key", "value")


@dataclass(frozen=True, slots=True)
class Form:
    """A stored shape and its way into (stack, out, in, *kernel); a vector is (1, out)."""

    shape: tuple[int, ...]
    axes: str
    groups: int = 1
    parts: tuple[str, ...] = ()
    weight: bool = True  # the layer's weight, no vector beside it

    @property
    def stack(self) -> int:
        """Operators that are stacked in the tensor."""
        return self.extent("s")

    @property
    def out(self) -> int:
        """Output units of one operator: all groups, all parts."""
        return self.extent("o") * (self.groups if self.inward else 1)

    @property
    def operator(self) -> tuple[int, ...]:
        """(out, in, *kernel) of one operator, (out,) of a vector."""
        if "i" not in self.axes and "k" not in self.axes:
            return (self.out,)
        ins = self.extent("i") // (self.groups if self.inward else 1)
        return (self.out, ins, *(n for a, n in zip(self.axes, self.shape, strict=True) if a == "k"))

    @property
    def key(self) -> tuple[int, ...]:
        """The shape as it enters the key of a draw: kernel extents of 1 say nothing."""
        return (*self.operator[:2], *(n for n in self.operator[2:] if n != 1))

    @property
    def blocks(self) -> int:
        """Operators that lie side by side along out: groups times parts."""
        return self.groups * max(1, len(self.parts)) if self.weight else 1

    @property
    def inward(self) -> bool:
        """Whether groups are counted along the input axis, as transposed convolutions store them."""
        return self.groups > 1 and "o" in self.axes and -1 < self.axes.find("i") < self.axes.find("o")

    def extent(self, label: str) -> int:
        """Return the product of the axes of one label, as stored."""
        return math.prod(n for a, n in zip(self.axes, self.shape, strict=True) if a == label)

    def part(self, name: str) -> slice:
        """Return where a part lies along out, in canonical order.

        Raises:
            UsageError: there is no such part.
        """
        ordered = self.ordered
        if name not in ordered:
            raise UsageError(f"no part {name!r}; there are {', '.join(ordered) or 'none'}")
        width, n = self.out // len(ordered), ordered.index(name)
        return slice(n * width, (n + 1) * width)

    def units(self, stored: Sequence[int]) -> Array:
        """Return where output units, counted by stack, group and place as stored, lie in canonical order.

        Raises:
            UsageError: there are not so many.
        """
        at = np.asarray(stored, np.int64)
        if at.size and not 0 <= at.min() <= at.max() < self.stack * self.out:
            raise UsageError(f"there are {self.stack * self.out} units, not {at.max() + 1}")
        if not self.parts:
            return at
        above, place = np.divmod(at, self.out)
        part, inside = np.divmod(place, self.out // len(self.parts))
        moved = np.array([self.ordered.index(name) for name in self.parts])
        return np.asarray(above * self.out + moved[part] * (self.out // len(self.parts)) + inside)

    def canonical(self, values: Array) -> Array:
        """Return stored values as (stack, out, in, *kernel)."""
        split, order = self._plan()
        made = np.ascontiguousarray(values.reshape(split).transpose(order)).reshape(self.stack, *self.operator)
        return self._permuted(made, [self.parts.index(p) for p in self.ordered])

    def stored(self, values: Array) -> Array:
        """Return canonical values in the order in which they are stored."""
        split, order = self._plan()
        ordered = self.ordered
        own = self._permuted(values, [ordered.index(p) for p in self.parts])
        moved = own.reshape([split[n] for n in order]).transpose(np.argsort(order))
        return np.asarray(moved.reshape(self.shape))

    @property
    def ordered(self) -> tuple[str, ...]:
        """The parts in torch's order."""
        return tuple(sorted(self.parts, key=lambda p: _ORDER.index(p) if p in _ORDER else len(_ORDER)))

    @staticmethod
    def _permuted(values: Array, order: list[int]) -> Array:
        if order == sorted(order):
            return values
        pieces = np.split(values, len(order), axis=1)
        return np.concatenate([pieces[n] for n in order], axis=1)

    def _plan(self) -> tuple[list[int], list[int]]:
        """Return the stored shape with groups split off, and the axes of it in canonical order."""
        split: list[int] = []
        labels: list[str] = []
        for label, extent in zip(self.axes, self.shape, strict=True):
            if label == "i" and self.inward and "g" not in labels:
                split += [self.groups, extent // self.groups]
                labels += ["g", "i"]
            else:
                split.append(extent)
                labels.append(label)
        return split, sorted(range(len(labels)), key=lambda n: ("sgoik".index(labels[n]), n))


def form_of(layer: Layer, tensor: Tensor) -> Form:
    """Return the form of a layer's weight, or of a vector beside it.

    Raises:
        UsageError: groups or parts do not divide it.
    """
    if tensor.name == layer.weight.name and tensor.shape == layer.weight.shape:
        form = Form(tensor.shape, layer.axes, max(1, layer.groups), layer.parts)
        if form.out % form.blocks or (form.inward and form.operator[1] * form.groups != form.extent("i")):
            raise UsageError(f"{tensor.name}: {form.blocks} operators do not divide its {form.out} units")
        return form
    n = tensor.size
    parts = layer.parts if layer.parts and n and n % len(layer.parts) == 0 else ()
    return Form(tensor.shape, "o" * len(tensor.shape), 1, parts, weight=False)
