"""What example inputs tell of the inputs that a model is made for: adjacencies, times, images and masks are no N(0, 1).

Decided by values, not by names. Several different inputs are used as they are. Of one input, others are drawn that keep
what it shows: its values, whole vectors where these have one sum or one length, rows and columns of a square table
together. Constants and what looks like N(0, 1) say nothing: there the probe draws as it does without examples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch

_NEAR = 1e-3  # of sums and lengths that count as one
_SIGMAS = 5.0  # that a moment of N(0, 1) may be off
_FEW = 64  # numbers below which moments tell little


class Law(Protocol):
    """Makes the inputs of one run."""

    @property
    def different(self) -> int | None:
        """How many inputs there are; None: as many as are drawn."""

    def run(self, call: int, calls: int, random: torch.Generator) -> torch.Tensor:
        """Return what run number `call` of `calls` is fed with."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The caller's own inputs, each run with another one first."""

    value: torch.Tensor
    square: bool  # columns go with the rows
    different: int | None

    def run(self, call: int, calls: int, random: torch.Generator) -> torch.Tensor:
        """Return them, turned by some places."""
        count = len(self.value)
        order = (torch.arange(count) + call * max(1, count // calls)) % count
        made = self.value[order]
        return made[:, order] if self.square else made


@dataclass(frozen=True, slots=True)
class Same:
    """One input that stays as it is."""

    value: torch.Tensor
    different: int | None = 1

    def run(self, call: int, calls: int, random: torch.Generator) -> torch.Tensor:
        """Return it."""
        return self.value


@dataclass(frozen=True, slots=True)
class Integers:
    """Whole numbers of a range."""

    shape: tuple[int, ...]
    least: int
    most: int
    different: int | None = None

    def run(self, call: int, calls: int, random: torch.Generator) -> torch.Tensor:
        """Draw them."""
        return torch.randint(self.least, self.most + 1, self.shape, generator=random)


@dataclass(frozen=True, slots=True)
class Resampled:
    """Inputs with the values of one: `whole` holds the axes along which its vectors are kept whole."""

    value: torch.Tensor  # with the batch first
    whole: tuple[int, ...]
    square: bool  # the last two axes are one set of nodes
    different: int | None = None

    def run(self, call: int, calls: int, random: torch.Generator) -> torch.Tensor:
        """Draw them."""
        return torch.stack([self._one(row, random) for row in self.value])

    def _one(self, row: torch.Tensor, random: torch.Generator) -> torch.Tensor:
        if self.square:
            order = torch.randperm(row.shape[-1], generator=random)
            return row[..., order, :][..., order]
        if not self.whole:
            return _scattered(row, random)
        for axis, extent in enumerate(row.shape):
            kept = axis + 1 in self.whole
            order = (torch.randperm(extent, generator=random) if kept
                     else torch.randint(0, extent, (extent,), generator=random))  # fmt: skip
            row = row.index_select(axis, order)
        return row


def laws(examples: Mapping[str, torch.Tensor], words: Mapping[str, str]) -> dict[str, Law]:
    """Return how to draw inputs that resemble examples; nothing for those that tell nothing.

    Args:
        examples: by input name.
        words: what reads each input of the graph takes it for: numbers, ids or mask.
    """
    alone = len(words) < 2
    found = {name: law(value, words[name], alone=alone) for name, value in examples.items() if name in words}
    return {name: one for name, one in found.items() if one is not None}


def law(value: torch.Tensor, word: str = "numbers", *, alone: bool = True) -> Law | None:
    """Return the law that an example follows, None where it tells none.

    Args:
        value: the example, the batch as its first axis.
        word: what its readers take it for.
        alone: it is the model's only input, so that it has to differ between runs.
    """
    if not value.numel() or value.is_complex():
        return None
    flat = value.reshape(len(value), -1) if value.dim() else value.reshape(1, 1)
    constant = bool((flat == flat[0, 0]).all())
    if constant and value.dtype != torch.bool:
        number = flat.shape[1] == 1 and not alone and float(flat[0, 0]) not in (0.0, 1.0)
        return Same(value) if number else None
    if not value.is_floating_point() and value.dtype != torch.bool:
        if word != "numbers":
            return None
        return Integers(tuple(value.shape), int(value.min()), int(value.max()))
    several = not bool((flat == flat[0]).all())
    mask = word == "mask" or value.dtype == torch.bool or not bool(torch.isfinite(flat).all())
    kept = () if mask else _whole(value)
    if not mask and not kept and _standard(value):
        return None
    square = _square(value)
    if several:
        return Rows(value, square and value.dim() == 2, len(torch.unique(flat, dim=0)))
    if mask:
        return Same(value)
    if not kept and _about_standard(flat):
        return None
    long = tuple(axis for axis in range(1, value.dim()) if value.shape[axis] > 1)
    return Resampled(value, long if len(long) == 1 else kept, square)


def _standard(value: torch.Tensor) -> bool:
    """Whether values may be independent draws of N(0, 1)."""
    flat = value.detach().double().reshape(-1)
    count = flat.numel()
    if count < 2:
        return False
    if count < _FEW:
        return _about_standard(flat)
    mean, std = float(flat.mean()), float(flat.std())
    off = _SIGMAS / count**0.5
    if abs(mean) > off or abs(std - 1) > off or abs(float(flat.pow(4).mean()) - 3) > off * 96**0.5:
        return False
    for axis in range(value.dim()):
        if value.shape[axis] > 1:
            one = value.detach().double().movedim(axis, 0)
            if abs(float((one[1:] * one[:-1]).mean())) > _SIGMAS / one[1:].numel() ** 0.5:
                return False
    return True


def _about_standard(flat: torch.Tensor) -> bool:
    """Whether values of both signs are as large as those of N(0, 1), as those of a normalised image."""
    values = flat.detach().double()
    near = max(0.5, 3 / values.numel() ** 0.5)
    return bool((values < 0).any()) and abs(float(values.mean())) < near and 0.5 < float(values.std()) < 2.0


def _square(value: torch.Tensor) -> bool:
    """Whether values may be a table of nodes by nodes."""
    return value.dim() > 1 and value.shape[-1] == value.shape[-2] > 1 and bool((value >= 0).all())


def _whole(value: torch.Tensor) -> tuple[int, ...]:
    """Return the axes along which all vectors have one sum, or one length."""
    double = value.detach().double()
    kept = []
    for axis in range(1, value.dim()):
        told = [double.sum(axis), double.square().sum(axis)]
        if value.shape[axis] > 1 and told[0].numel() > 1 and any(_one(own) for own in told):
            kept.append(axis)
    return tuple(kept)


def _one(values: torch.Tensor) -> bool:
    middle = float(values.mean())
    return abs(middle) > 0 and float((values - middle).abs().amax()) <= _NEAR * abs(middle)


def _scattered(row: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Draw each value from those at the same place of one axis: the one whose places differ most, as channels do."""
    axis = max(range(row.dim()), key=lambda k: _told(row, k), default=0)
    turned = row.movedim(axis, 0) if row.dim() and _told(row, axis) > 0 else row[None]
    lines = turned.reshape(len(turned), -1)
    picks = torch.randint(0, lines.shape[1], lines.shape, generator=random)
    drawn = lines.gather(1, picks).reshape(turned.shape)
    return drawn[0] if turned.dim() > row.dim() else drawn.movedim(0, axis)


def _told(row: torch.Tensor, axis: int) -> float:
    """Return the share of the variance that the place on an axis tells, less what chance tells."""
    lines = row.detach().double().movedim(axis, 0).reshape(row.shape[axis], -1)
    every = lines.numel()
    if lines.shape[0] < 2 or lines.shape[1] < 2 or not float(lines.var()):
        return 0.0
    between = float(lines.mean(1).var(correction=0)) / float(lines.var(correction=0))
    return between - (lines.shape[0] - 1) / (every - 1)
