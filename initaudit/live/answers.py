"""Answers to questions about values that nobody has computed: how long, where, whether.

What a model does with values decides which way it goes. Values that are constants all along are kept and answer for
themselves; for the others an answer is made up: every position counts as chosen, so that all weights take part, and
whether a condition is met is one way to run the pass (passes.py): what depends on it is recorded both ways.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import _disable_current_modes

from initaudit.live.compared import Number
from initaudit.live.fakes import Fakes
from initaudit.live.functions import mapped, tensors
from initaudit.live.scopes import Scopes

MOST_ALIKE = 400  # times that a question is answered alike within one call of a module: loops must end
_ROUNDS = 32  # times that it is where much happens in between,
_MUCH = 1000  # functions in all, and no parameter is read that was not before: experts are read one after the other
_MOST_ASKED = 20_000  # times that it is answered at all
_ENDS = (0, 10**9, -(10**9), 1)  # numbers of which one ends a loop that waits for it
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
class _Asked:
    """A question at one place, in one call of a module."""

    count: int = 0
    alike: int = 0  # since a parameter was read that was not before
    since: int = 0  # the call at that time
    read: int = -1  # parameters up to then


@dataclass(slots=True)
class Answers:
    """Answers of one pass.

    `yes` is what conditions come out as, `number` what numbers do; a real number that is `compared` is a condition.
    """

    fakes: Fakes
    scopes: Scopes
    yes: bool = True
    number: int = 1
    compared: bool = True
    calls: int = 0  # of torch functions so far
    read: Sized = ()  # the parameters that they took
    truths: int = 0  # conditions that were answered by `yes`
    numbers: int = 0  # questions that were answered by `number`
    _bounds: dict[int, tuple[torch.Tensor, int]] = field(default_factory=dict)  # what indices stay below, by id
    _asked: dict[tuple[object, int, int], _Asked] = field(default_factory=dict)

    def value(self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return a Python value (number, truth, list, array) where a function asks for one."""
        real = self.real((args, kwargs))
        if real is not None:
            with _disable_current_modes():
                return func(*real[0], **real[1])
        asked = next(tensors(args))
        if name == "__format__":
            return format(self.number, args[1]) if asked.dim() == 0 else f"<{tuple(asked.shape)}>"
        if name in _TRUTHS or (asked.dtype is torch.bool and name not in {"tolist", "numpy", "__array__"}):
            return self.truth()
        if name in {"tolist", "numpy", "__array__"}:
            number = self._truth() if asked.dtype is torch.bool else self._number()
            with _disable_current_modes():
                filled = torch.full(tuple(asked.shape), number, dtype=asked.dtype)
                return filled.tolist() if name == "tolist" else _array(filled)
        if name == "item" and asked.is_floating_point() and self.compared:
            return Number(1.0, self.truth)
        if name == "__float__" or (asked.is_floating_point() and name in {"item", "_local_scalar_dense"}):
            return float(self._numbered(_ENDS))
        return complex(self._number()) if asked.is_complex() else int(self._numbered((1 - self.number, self.number)))

    def truth(self) -> bool:
        """Return what a condition comes out as: always the same, until a loop must be over."""
        return self._truth() if not self._over() else not self.yes

    def integer(self, tensor: torch.Tensor) -> int:
        """Return what a scalar tensor counts as where a size or an index is wanted."""
        real = self.fakes.real(tensor)
        if real is not None:
            with _disable_current_modes():
                return int(real)
        return self._number()

    def _truth(self) -> bool:
        self.truths += 1
        return self.yes

    def _number(self) -> int:
        self.numbers += 1
        return self.number

    def _numbered(self, ends: Sequence[int]) -> int:
        over = self._over()
        return self._number() if not over else ends[over % len(ends)]

    def _over(self) -> int:
        """Return how often the question that is being asked has been asked too often, 0 while it may be."""
        frame = sys._getframe(1)
        while frame.f_back and f"{frame.f_globals.get('__name__', '')}.".startswith(("torch.", "initaudit.live.")):
            frame = frame.f_back
        asked = self._asked.setdefault((frame.f_code, frame.f_lineno, self.scopes.call), _Asked())
        if asked.read != len(self.read):
            asked.alike, asked.since, asked.read = 0, self.calls, len(self.read)
        asked.count += 1
        asked.alike += 1
        if asked.count > _MOST_ASKED:
            raise RuntimeError("it asks for values without end")
        most = MOST_ALIKE if self.calls - asked.since < _MUCH else min(MOST_ALIKE, _ROUNDS)
        return max(0, asked.alike - most)

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
