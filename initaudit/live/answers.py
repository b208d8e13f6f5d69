"""Answers to questions about values that nobody has computed: how long, where, whether.

What a model does with values decides which way it goes. Values that are constants all along are kept and answer for
themselves; for the others an answer is made that leads past as many weights as possible: every position counts as
chosen, every condition as met.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from initaudit.live.fakes import Fakes
from initaudit.live.functions import mapped, tensors
from initaudit.live.scopes import Scopes

MOST_YES = 400  # times that one question is answered alike within one call of a module: loops must end
ASKS = frozenset({
    "item", "__bool__", "__int__", "__float__", "__index__", "__complex__", "is_nonzero", "tolist", "numpy",
    "__array__", "_local_scalar_dense", "equal", "allclose", "__contains__", "__format__",
})  # fmt: skip
_CHOICES = {
    "argmax": 1,
    "argmin": 1,
    "topk": 2,
    "argsort": 1,
    "sort": 1,
    "multinomial": 9,
    "max": 1,
    "min": 1,
}  # dim's place
_MOVES = frozenset({
    "view", "reshape", "flatten", "__getitem__", "squeeze", "unsqueeze", "contiguous", "transpose", "permute", "to",
    "long", "int", "expand", "clone", "detach", "unbind", "split", "chunk", "t", "ravel", "gather", "sort", "unique",
})  # fmt: skip
_TRUTHS = frozenset({"__bool__", "is_nonzero", "equal", "allclose", "__contains__"})


@dataclass(slots=True)
class Answers:
    """Answers of one pass: `yes` is what conditions come out as, `number` what integers do."""

    fakes: Fakes
    scopes: Scopes
    yes: bool = True
    number: int = 1
    guessed: int = 0  # answers that were made up
    _bounds: dict[int, tuple[torch.Tensor, int]] = field(default_factory=dict)  # what indices stay below, by id
    _asked: Counter[tuple[object, int, int]] = field(default_factory=Counter)

    def value(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return a Python value (number, truth, list, array) where a function asks for one."""
        real = self.real((args, kwargs))
        if real is not None:
            with _disable_current_modes():
                return func(*real[0], **real[1])
        self.guessed += 1
        asked = next(tensors(args))
        if name == "__format__":
            return format(self.number, args[1]) if asked.dim() == 0 else f"<{tuple(asked.shape)}>"
        if name in _TRUTHS or (asked.dtype is torch.bool and name not in {"tolist", "numpy", "__array__"}):
            return self.truth()
        if name in {"tolist", "numpy", "__array__"}:
            number = self.yes if asked.dtype is torch.bool else self.number
            with _disable_current_modes():
                filled = torch.full(tuple(asked.shape), number, dtype=asked.dtype)
                return filled.tolist() if name == "tolist" else _array(filled)
        if name == "__float__" or (asked.is_floating_point() and name in {"item", "_local_scalar_dense"}):
            return float(self.number)
        return complex(self.number) if asked.is_complex() else self.number

    def truth(self) -> bool:
        """Return what a condition comes out as: always the same, until a loop must be over."""
        frame = sys._getframe(1)
        while frame.f_back and f"{frame.f_globals.get('__name__', '')}.".startswith(("torch.", "initaudit.live.")):
            frame = frame.f_back
        key = (frame.f_code, frame.f_lineno, self.scopes.call)
        self._asked[key] += 1
        return self.yes if self._asked[key] <= MOST_YES else not self.yes

    def integer(self, tensor: torch.Tensor) -> int:
        """Return what a scalar tensor counts as where a size or an index is wanted."""
        real = self.fakes.real(tensor)
        if real is not None:
            with _disable_current_modes():
                return int(real)
        self.guessed += 1
        return self.number

    def bound(self, tensor: torch.Tensor) -> int | None:
        """Return what the integers of a tensor stay below, None where that is not known."""
        held = self._bounds.get(id(tensor))
        return held[1] if held else None

    def follow_bounds(self, name: str, args: Any, kwargs: Mapping[str, Any], results: Sequence[torch.Tensor]) -> None:
        """Keep how far indices can go: those of the largest, of an order, of a choice, wherever they are moved."""
        whole = [t for t in results if not t.is_floating_point() and t.dtype is not torch.bool]
        source = args[0] if whole and args and isinstance(args[0], torch.Tensor) else None
        if source is None:
            return
        below = self.bound(source) if name in _MOVES else None
        if name in _CHOICES and source.dim():
            dim = kwargs.get("dim", args[_CHOICES[name]] if len(args) > _CHOICES[name] else -1)
            if isinstance(dim, int) and not isinstance(dim, bool):
                below = source.shape[dim]
        if below is not None:
            self._bounds.update({id(t): (t, below) for t in whole})

    def positions(self, mask: torch.Tensor) -> torch.Tensor:
        """Return where a mask is set, one row each: everywhere, if its values are not known."""
        real = self.fakes.real(mask)
        with _disable_current_modes():
            if real is None:
                self.guessed += 1
                real = torch.ones(tuple(mask.shape), dtype=torch.bool)
            return real.nonzero()

    def real(self, value: Any) -> Any:
        """Return arguments with values for stand-ins; None where one has none, or there is no tensor."""
        found = [self.fakes.real(tensor) for tensor in tensors(value)]
        if not found or any(real is None for real in found):
            return None
        return mapped(value, lambda v: self.fakes.real(v) if isinstance(v, torch.Tensor) else v)

    def known(self, real: Any) -> Any:
        """Return a real result as stand-ins whose values are kept."""
        return mapped(real, lambda v: self.fakes.of(v) if isinstance(v, torch.Tensor) else v)

    def settled(self, args: Any) -> Any:
        """Return arguments with plain numbers for scalar integer tensors, but for the first argument."""

        def settle(value: Any) -> Any:
            whole = isinstance(value, torch.Tensor) and value.dim() == 0 and not value.is_floating_point()
            return self.integer(value) if whole and not value.is_complex() else value

        return mapped(args, settle)

    def masks_as_positions(self, args: tuple[Any, ...], at: int = 1) -> tuple[Any, ...]:
        """Return the arguments of an indexing with every mask in the index turned into positions."""
        index = args[at]
        whole = isinstance(index, torch.Tensor)
        items = [index] if whole else list(index) if isinstance(index, list | tuple) else [index]
        out: list[Any] = []
        for item in items:
            if isinstance(item, torch.Tensor) and item.dtype in {torch.bool, torch.uint8}:
                places = self.positions(item)
                out.extend(self.known(list(places.unbind(1))))
            else:
                out.append(item)
        return (*args[:at], out if isinstance(index, list) and at == 1 and not whole else tuple(out), *args[at + 1 :])


def _array(real: torch.Tensor) -> Any:
    kept = real.float() if real.dtype in {torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2} else real
    return np.asarray(kept.numpy())
