"""Ties that rounding hides: units that would be tied if their weights had not been rounded.

The rounds are those of exact ties, with sums and numbers that count as equal where they agree but for rounding. Single
numbers, of which many may be close by chance, are compared only with those that nothing else tells apart: with the
elements of their own tensor that got one label in the round before. First all that is joined by way of others counts as
equal; when nothing splits any more, only what is within reach of each other.

Nothing is proved of such units: training keeps them close for a while, and may part them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from initaudit.graph.view import View
from initaudit.symmetry.close import joined
from initaudit.symmetry.engine import Walk, Weight
from initaudit.symmetry.exact import projected
from initaudit.symmetry.labels import Labels, TooMany, chained, of_numbers
from initaudit.symmetry.rounding import coarsest, linked, precision, step_of
from initaudit.types import Array, Tensor


class Rounded:
    """A reading in which what agrees but for rounding counts as equal.

    Args:
        name: of the tensor that is read.
        raw: its numbers, before anything moved them.
        factors: labels of its gradient by the round before.
        most: the largest step to reckon with.
        chains: where to note that numbers are joined only by way of others; None where they may not be.
        least: the smallest.
    """

    def __init__(
        self, name: str, raw: Callable[[], Array], factors: tuple[Labels, ...], most: Callable[[], float],
        chains: set[str] | None, *, least: float,
    ) -> None:  # fmt: skip
        self.name, self.raw, self.factors = name, raw, factors
        self.chains, self.least, self.most = chains, least, most

    def sums(self, weight: Array, labels: Array, turned: bool = False) -> Array:
        """Return labels of sums over classes."""
        return joined(weight, labels, projected(weight, labels), self.least, self.most())

    def values(self, values: Array) -> Array:
        """Return a label for every number."""
        found = of_numbers(values)
        if not precision(values.dtype) or values.size < 2 or not np.isfinite(values.astype(np.float64)).all():
            return found
        groups = self._groups(values)
        strict = self.chains is None
        if groups is None:  # moved: nothing is known of what else tells them apart
            groups, strict = np.zeros(values.size, np.uint64), True
        elif len(np.unique(groups)) == values.size:
            return found
        leader, chained_ = linked(values.ravel(), groups, self.least, strict=strict)
        if chained_ and self.chains is not None:
            self.chains.add(self.name)
        return np.asarray(found.ravel()[leader].reshape(values.shape))

    def _groups(self, values: Array) -> Array | None:
        if not self.factors:
            return np.zeros(values.size, np.uint64)
        if self.factors[0].shape != values.shape:
            return None
        raw = self.raw()
        if raw.shape != values.shape or not np.array_equal(raw, values):
            return None
        try:
            return chained(*(f.flat(f.shape) for f in self.factors)).ravel()
        except TooMany:
            return None


class Nearly(Walk):
    """Rounds of labels in which what agrees but for rounding counts as equal."""

    made = Rounded

    def __init__(self, view: View, frozen: Callable[[Tensor], bool]) -> None:
        super().__init__(view, frozen)
        self.strict = False
        self.chains: set[str] = set()  # constants with numbers that are joined only by way of others
        self.coarse: dict[str, float] = {}  # by name of a constant

    def _constant(self, name: str) -> Weight:
        found = super()._constant(name)
        least = step_of(self.view.graph.constants[name].dtype)

        def most() -> float:
            if name not in self.coarse:
                values = found.numbers()
                self.coarse[name] = coarsest(values) if values.dtype.kind == "f" else 0.0
            return self.coarse[name]

        chains = None if self.strict else self.chains
        reading = self.made(name, found.numbers, found.factors, most, chains, least=least)
        return replace(found, reading=reading)

    def settle(self, enough: Callable[[Walk], bool]) -> bool:
        """Run to the end, and return whether there is anything to tell.

        Numbers that are joined by way of others count as equal first, then only where both ends are within reach.

        Args:
            enough: whether nothing is left that could be told, asked after each way up.
        """
        self.run(enough)
        if self.stable and self.chains:
            self.strict, self.stable = True, False
            self.run(enough)
        return self.stable
