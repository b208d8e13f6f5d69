"""Variances, pooled over all elements of a part: of a product, and of it times a scale plus what does not scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

_CHUNK = 1 << 20  # elements that are turned to double precision at a time


def _chunks(value: torch.Tensor) -> Iterator[torch.Tensor]:
    for chunk in torch.split(value.reshape(-1), _CHUNK):
        if chunk.numel():
            yield chunk.double()


@dataclass(slots=True)
class Moments:
    """Sums over elements of a product A and of what is added to it, B."""

    count: float = 0.0
    a: float = 0.0
    b: float = 0.0
    aa: float = 0.0
    bb: float = 0.0
    ab: float = 0.0
    idle: float = 0.0  # elements of products of which all are zero

    def add(self, a: torch.Tensor, b: torch.Tensor | None = None) -> None:
        """Take in elements."""
        self.count += a.numel()
        start = self.aa
        others = [None] * (a.numel() // _CHUNK + 1) if b is None else _chunks(b)
        for x, y in zip(_chunks(a), others, strict=False):
            self.a += float(x.sum())
            self.aa += float(x.dot(x))
            if y is not None:
                self.b += float(y.sum())
                self.bb += float(y.dot(y))
                self.ab += float(x.dot(y))
        if self.aa == start:
            self.idle += a.numel()

    def times(self, count: int) -> None:
        """Count all elements several times."""
        for name in ("count", "a", "b", "aa", "bb", "ab", "idle"):
            setattr(self, name, getattr(self, name) * count)

    def merge(self, other: Moments) -> None:
        """Take in the elements of another product."""
        self.count += other.count
        self.a += other.a
        self.b += other.b
        self.aa += other.aa
        self.bb += other.bb
        self.ab += other.ab
        self.idle += other.idle

    @property
    def product(self) -> float:
        """Variance of A."""
        return self.aa / self.count - (self.a / self.count) ** 2 if self.count else math.nan

    @property
    def added(self) -> float:
        """Variance of B."""
        return self.bb / self.count - (self.b / self.count) ** 2 if self.count else math.nan

    @property
    def both(self) -> float:
        """Covariance of A and B."""
        return self.ab / self.count - self.a * self.b / self.count**2 if self.count else math.nan

    def at(self, scale: float) -> float:
        """Return the variance of scale * A + B."""
        return scale * scale * self.product + 2 * scale * self.both + self.added

    def scale(self, target: float) -> float | None:
        """Return the positive scale at which the variance of scale * A + B is the target; None if there is none."""
        a, b, c = self.product, self.both, self.added - target
        inside = b * b - a * c
        if not a > 0 or not inside >= 0 or c >= 0:
            return None
        return (math.sqrt(inside) - b) / a


def pooled(values: Iterable[torch.Tensor]) -> float:
    """Return the variance of all elements of some tensors."""
    own = Moments()
    for value in values:
        own.add(value)
    return own.product
