"""A real number that nobody has computed: what compares it asks a condition on values."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, Self


class Number(float):
    """A number that is 1 to torch, and to a model's own code larger, smaller or equal as `truth` says.

    What is worked out from it is such a number as well.
    """

    _truth: Callable[[], bool]

    def __new__(cls, value: float, truth: Callable[[], bool]) -> Self:
        """Return a number that asks `truth` where it is compared."""
        number = super().__new__(cls, value)
        number._truth = truth
        return number

    __hash__ = float.__hash__


def _compares(name: str) -> Callable[[Number, Any], Any]:
    plainly = getattr(float, name)

    def compare(self: Number, *other: Any) -> Any:
        result = plainly(self, *other)
        return result if result is NotImplemented or not _asked_by_model() else self._truth()

    return compare


def _calculates(name: str) -> Callable[..., Any]:
    plainly = getattr(float, name)

    def calculate(self: Number, *other: Any) -> Any:
        result = plainly(self, *other)
        return Number(result, self._truth) if type(result) is float else result

    return calculate


def _asked_by_model() -> bool:
    name = sys._getframe(2).f_globals.get("__name__", "")
    return not f"{name}.".startswith(("torch.", "initaudit."))


for _name in ("lt", "le", "gt", "ge", "eq", "ne", "bool"):
    setattr(Number, f"__{_name}__", _compares(f"__{_name}__"))
for _name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
    setattr(Number, f"__{_name}__", _calculates(f"__{_name}__"))
    setattr(Number, f"__r{_name}__", _calculates(f"__r{_name}__"))
for _name in ("neg", "pos", "abs"):
    setattr(Number, f"__{_name}__", _calculates(f"__{_name}__"))
