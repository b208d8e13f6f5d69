"""What two models differ in: made by repair.diffing, told by reporters."""

from __future__ import annotations

from dataclasses import dataclass

from initaudit.types import Finding, Model, Report, Skip, Tensor


@dataclass(frozen=True, slots=True)
class Changed:
    """A tensor with other values, or another element type, in the second model."""

    name: str  # as in the first model
    other: str  # as in the second
    shape: tuple[int, ...]  # in the first
    dtypes: tuple[str, str]
    share: float  # of the elements that differ
    largest: float | None  # absolute difference, of elements that are finite on both sides; None where there is none
    stds: tuple[float, float]  # of the finite values
    nans: tuple[int, int] = (0, 0)  # elements
    nonfinite: tuple[int, int] = (0, 0)  # elements that are NaN or infinite

    @property
    def values(self) -> bool:
        """Whether values differ, and not the element type alone."""
        return self.share > 0


@dataclass(frozen=True, slots=True)
class Reshaped:
    """A tensor of another shape in the second model."""

    name: str
    other: str
    shapes: tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Difference:
    """All there is to say about two models side by side."""

    models: tuple[Model, Model]
    paths: tuple[str, str]  # as they were typed
    reports: tuple[Report | None, Report | None]  # None where there is nothing to audit
    equal: int = 0  # tensors
    changed: tuple[Changed, ...] = ()
    reshaped: tuple[Reshaped, ...] = ()
    added: tuple[Tensor, ...] = ()  # only in the second
    removed: tuple[Tensor, ...] = ()  # only in the first
    appeared: tuple[Finding, ...] = ()
    gone: tuple[Finding, ...] = ()
    uncompared: tuple[Skip, ...] = ()

    @property
    def differs(self) -> bool:
        """Whether a tensor differs; what is said of the models follows from that and from their graphs."""
        return bool(self.changed or self.reshaped or self.added or self.removed)
