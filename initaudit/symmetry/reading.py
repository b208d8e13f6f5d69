"""How numbers are read into labels: exactly, or so that more of them count as equal."""

from __future__ import annotations

from typing import Protocol

from initaudit.symmetry.exact import projected
from initaudit.symmetry.labels import of_numbers
from initaudit.types import Array


class Reading(Protocol):
    """What two numbers, and two sums of weights over classes, must have in common to get one label."""

    def sums(self, weight: Array, labels: Array, turned: bool = False) -> Array:
        """Return labels (sets, stack, rows) of sums of (stack, rows, terms) over classes (sets, stack, terms).

        Args:
            weight: numbers.
            labels: of the terms.
            turned: whether rows are what comes in and terms what comes back.
        """

    def values(self, values: Array) -> Array:
        """Return a label for every number."""


class Exact:
    """Only what is equal to the last bit gets one label, and sums do not depend on their order."""

    def sums(self, weight: Array, labels: Array, turned: bool = False) -> Array:
        """Return labels of sums over classes."""
        return projected(weight, labels)

    def values(self, values: Array) -> Array:
        """Return a label for every number."""
        return of_numbers(values)


EXACT = Exact()
