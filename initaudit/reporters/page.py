"""The page that reports for people are written on."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Self

from rich.console import Console
from rich.text import Text

from initaudit.reporters.base import Style, printable
from initaudit.types import Report


@dataclass(frozen=True, slots=True)
class Page:
    """Lines on a console of one width."""

    console: Console
    width: int

    def line(self, *parts: str | tuple[str, str], indent: int = 0) -> None:
        """Print styled parts, wrapped at the width with a hanging indent."""
        text = Text.assemble(*(printable(p) if isinstance(p, str) else (printable(p[0]), p[1]) for p in parts))
        for piece in text.wrap(self.console, max(20, self.width - indent)):
            piece.rstrip()
            self.console.print(Text(" " * indent) + piece, soft_wrap=True)

    def gap(self) -> None:
        """Print an empty line."""
        self.console.print()

    def heading(self, report: Report) -> None:
        """Print what model a report is about."""
        model = report.model
        self.line(
            (report.given or model.path, "bold"),
            f"   {model.format}, {model.detail}" if model.detail else f"   {model.format}",
            f"   {len(report.measured)} weight{'s' * (len(report.measured) != 1)}, {report.parameters:,} parameters",
            f"   {report.state}",
        )

    @classmethod
    def of(cls, style: Style) -> Self:
        """Return an empty page."""
        console = Console(
            file=io.StringIO(), width=style.width, force_terminal=style.colour, no_color=not style.colour,
            highlight=False, emoji=False, markup=False, color_system="standard" if style.colour else None,
            legacy_windows=False,
        )  # fmt: skip
        return cls(console, style.width)

    def text(self) -> str:
        """Return what was printed so far."""
        assert isinstance(self.console.file, io.StringIO)
        return self.console.file.getvalue()
