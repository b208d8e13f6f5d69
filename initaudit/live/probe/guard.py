"""Stops a graph of a stranger before it makes more than there is room or time for.

Sizes are told before an operation runs: by its operands where they say enough, else by torch's own rules of shapes, on
tensors without values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as trees
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from initaudit.errors import UnsupportedError

_SURE = 1 << 24  # elements that are made without asking
_STEPS = 400_000  # operations
_BACK = 32  # times the bytes of values that may be made one after the other as gradients
_ASKED = frozenset({"eye", "bincount", "repeat_interleave"})  # whatever their numbers multiply to
_BY_VALUES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "bincount": torch.amax,
    "repeat_interleave": torch.sum,
}  # what integers say of the size that is made
_NO_SHAPES = (NotImplementedError, RuntimeError, TypeError, ValueError, AssertionError, IndexError)


class TooLargeError(UnsupportedError):
    """A graph makes more than it may."""


class Guard(TorchDispatchMode):  # type: ignore[misc,no-any-unimported,unused-ignore]
    """Watches what is computed while it is entered: bytes made and multiplications done.

    The way back is held to the same bytes: it makes a gradient for all that was read, whatever little of it was taken,
    and for a value that only looks larger than it is.

    Args:
        most: bytes of all values that a way forward makes.
        macs: multiplications of one.
    """

    def __init__(self, most: float, macs: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]
        self._most = most
        self._most_macs = macs
        self.made = 0.0
        self.macs = 0.0
        self._steps = 0
        self._back = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[Any], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run one operation of torch, unless it makes too much."""
        given = dict(kwargs or {})
        leaves = list(_leaves((args, given)))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        self._steps += 1
        if self._steps > _STEPS:
            raise TooLargeError(f"too large to run: more than {_STEPS} operations in one pass")
        asked = func.overloadpacket.__name__ in _ASKED or _may_make(tensors, leaves) > _SURE
        if asked and not func.is_view:
            self._ask(func, tensors, args, given)
        counted = flop_registry.get(func.overloadpacket)
        made = func(*args, **given)
        if counted is not None:
            self.macs += counted(*args, **given, out_val=made) / 2
            if self.macs > self._most_macs:
                raise TooLargeError(f"too large to run: more than {self._most_macs:.1g} multiplications in one pass")
        if not func._schema.is_mutable:
            held = tensors[0].numel() if func.is_view and tensors else 0
            for leaf in _leaves(made):
                if isinstance(leaf, torch.Tensor) and (not func.is_view or leaf.numel() > held):
                    self.made += leaf.numel() * leaf.element_size()
        self._back += sum(t.numel() * t.element_size() for t in tensors if t.is_floating_point())
        if self._back > _BACK * self._most:
            raise TooLargeError(f"too large to run: gradients of more than {_BACK * self._most / 2**30:.0f} GiB")
        if self.made > self._most:
            raise TooLargeError(f"too large to run: values of more than {self._most / 2**30:.0f} GiB")
        return made

    def _ask(self, func: Any, tensors: Sequence[torch.Tensor], args: Any, given: dict[str, Any]) -> None:
        """Learn the size of what an operation makes; where only its values tell, a bound on it."""
        name = func.overloadpacket.__name__
        try:
            if any(argument.name == "device" for argument in func._schema.arguments):
                given = {**given, "device": torch.device("meta")}
            with torch.no_grad():
                made = func(*trees.tree_map(_empty, args), **trees.tree_map(_empty, given))
            size = sum(t.numel() * t.element_size() for t in _leaves(made) if isinstance(t, torch.Tensor))
        except _NO_SHAPES:
            size = 8 * max((t.numel() * max(1, t.dim()) for t in tensors), default=0)
            for t in tensors[:1] if name in _BY_VALUES and not tensors[0].is_floating_point() else ():
                size = 8 * int(_BY_VALUES[name](t)) if t.numel() else 0
        if self.made + size > self._most:
            raise TooLargeError(f"too large to run: {name} would make {size / 2**30:.1f} GiB")


def _may_make(tensors: Sequence[torch.Tensor], leaves: Sequence[Any]) -> float:
    """Return a bound on the elements that an operation makes: of a product, or of sizes that are numbers."""
    sizes = sorted((float(t.numel()) for t in tensors), reverse=True)[:2]
    bound = 1.0
    for size in sizes:
        bound *= max(1.0, size)
    if len(tensors) > 2:
        bound = max(bound, sum(float(t.numel()) for t in tensors))
    for leaf in leaves:
        if isinstance(leaf, int | float) and leaf > 1:
            bound *= leaf
    return bound


def _leaves(given: Any) -> Iterator[Any]:
    if isinstance(given, tuple | list):
        for one in given:
            yield from _leaves(one)
    elif isinstance(given, dict):
        yield from _leaves(list(given.values()))
    else:
        yield given


def _empty(leaf: Any) -> Any:
    if isinstance(leaf, torch.Tensor):
        return torch.empty_strided(leaf.size(), leaf.stride(), dtype=leaf.dtype, device="meta")
    return torch.device("meta") if isinstance(leaf, torch.device) else leaf
