"""What a repair is made of: how a tensor is drawn, what is written where, and what came of it.

Report -> repair.planning -> Recipe... -> repair.drawing (or live.lsuv) -> Edit... -> formats.plan -> FilePlan...
-> formats.writing: stage, audit again, commit -> Repair -> reporters
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from initaudit.types import Array, Measured, Report, Skip, Tensor


@dataclass(frozen=True, slots=True)
class Recipe:
    """How one tensor of a layer is drawn again."""

    measured: Measured  # the layer, as it was audited
    tensor: Tensor  # of that layer: its weight, bias or one of the extra ones
    scheme: str  # as `schemes.parse` reads it: "he", "orthogonal:gain=1.41", "zeros"; "lsuv" with its settings
    why: str  # "INI501", "--all", "--layers"
    by_part: Mapping[str, str] = field(default_factory=dict)  # parts of the layer with a scheme of their own
    units: tuple[int, ...] | None = None  # output units that are drawn; None: all
    about: str = ""  # why this scheme: "recurrent, orthogonal per gate"
    within: str = ""  # what stands before its name because copies of the model lie in one file: "state_dict_ema."

    @property
    def axes(self) -> str:
        """The axes of the tensor, as in Layer.axes; vectors have "o"."""
        layer = self.measured.layer
        return layer.axes if self.tensor == layer.weight else "o" * len(self.tensor.shape)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a repair will do, before anything is drawn."""

    recipes: tuple[Recipe, ...]
    kept: tuple[Skip, ...] = ()  # named or at fault, and left as they are: why
    notes: tuple[str, ...] = ()  # one line each, for the reader


@dataclass(frozen=True, slots=True)
class Edit:
    """New values for a tensor of the file, or for what a view of it shows."""

    tensor: Tensor  # as the reader handed it out, or a view of that: storage, offset and strides say where
    values: Callable[[], Array] = field(repr=False)  # of tensor.shape; the writer casts to the tensor's dtype


@dataclass(frozen=True, slots=True)
class Patch:
    """Bytes [start, stop) of a file that are replaced by what `data` returns, of any length if nothing lies behind."""

    start: int
    stop: int
    data: Callable[[], bytes | bytearray | memoryview] = field(repr=False)


@dataclass(frozen=True, slots=True)
class FilePlan:
    """How one file becomes another: everything outside the patches stays byte for byte."""

    path: Path  # the file that is read
    patches: tuple[Patch, ...]  # ascending, disjoint; of the same length as what they replace, or a splice
    seal: Callable[[BinaryIO], None] | None = field(default=None, repr=False)  # mends checksums once all is in place
    # this plan once other files that it mentions, by the path in their plans, are called otherwise
    named: Callable[[Mapping[Path, str]], FilePlan] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Reached:
    """What data-dependent scaling came to at one layer (or one part of it: a gate, a projection)."""

    layer: str
    part: str = ""
    variance: float | None = None  # of the pre-activation, pooled over all elements
    tries: int = 0
    scale: float = 1.0  # of the pre-initialised weight
    why: str = ""  # why the target was not reached; empty where it was


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table before / after."""

    recipe: Recipe
    after: Measured | None  # None for a dry run that draws nothing
    verdict_before: str  # ok, info, warning, error
    verdict_after: str | None
    reached: tuple[Reached, ...] = ()

    @property
    def widths(self) -> tuple[int, int] | None:
        """How many units of the layer could ever differ, before and after; None where that is not known or the same."""
        if self.after is None or self.after.freedom is None or self.recipe.measured.freedom is None:
            return None
        before, after = self.recipe.measured.freedom.width, self.after.freedom.width
        return (before, after) if before != after else None


@dataclass(frozen=True, slots=True, repr=False)
class Repair:
    """All there is to say about one repair; reporters see nothing else."""

    before: Report
    plan: Plan
    scheme: str
    seed: int
    after: Report | None = None
    rows: tuple[Row, ...] = ()
    reached: tuple[Reached, ...] = ()  # by LSUV, also of layers that it only ran through
    worse: tuple[str, ...] = ()  # what the second audit finds worse: nothing was written
    at_fault: tuple[str, ...] = ()  # names of repaired layers that are still at fault
    output: str = ""  # where it was written; empty: nowhere
    inputs: Mapping[str, str] = field(default_factory=dict)  # path -> sha256 of what was read
    outputs: Mapping[str, str] = field(default_factory=dict)  # path -> sha256 of what was written
    dry: bool = False
    recovered: tuple[str, ...] = ()  # what an interrupted repair had left half done, and what became of that

    @property
    def code(self) -> int:
        """The exit code: 1 if something got worse, is still at fault, or would change in a dry run.

        An error that no draw cures counts too: what follows a repair in a script may start from a healthy model only.
        """
        left = (self.after or self.before).verdict == "unhealthy"
        return int(bool(self.worse or self.at_fault or left or (self.dry and self.plan.recipes)))

    def __repr__(self) -> str:
        layers = len({recipe.measured.layer.name for recipe in self.plan.recipes})
        verdict = f", then {self.after.verdict}" if self.after is not None else ""
        where = f", in {self.output}" if self.output else ", nothing written"
        return f"<Repair of {self.before.model.path}: {self.before.verdict}{verdict}, {layers} layers{where}>"
