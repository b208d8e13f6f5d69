"""The layer table: rows alike folded, columns dropped where the page is narrow."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from initaudit.reporters.base import printable
from initaudit.types import Evidence, Measured, Report

Group = tuple[Measured, ...]  # rows told as one


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, the cells under it, how they align, and how soon the column gives way (0: never).

    Columns that give way at the same time do so together.
    """

    heading: str
    cells: tuple[str, ...]
    right: bool = False
    gives_way: int = 0

    @property
    def width(self) -> int:
        """Characters of the widest cell."""
        return max(len(self.heading), *(len(c) for c in self.cells)) if self.cells else len(self.heading)


def folded(rows: Sequence[Measured], verdicts: Mapping[str, str], *, fold: bool) -> list[Group]:
    """Return rows in order, those that differ only in a number of their name told as one."""
    groups: dict[object, list[Measured]] = {}
    for k, m in enumerate(rows):
        law = (m.identified.scheme, m.identified.law) if m.identified else None
        layer = m.layer
        key = (re.sub(r"\d+", "N", layer.name), layer.kind, layer.fan_in, layer.fan_out, layer.activation,
               verdicts[layer.name], law, None if law and law[0] else f"{m.stats.std:.1g}", _width(m),
               _wakes(m))  # fmt: skip
        groups.setdefault(key if fold else k, []).append(m)
    return [tuple(g) for g in groups.values()]


def layout(groups: Sequence[Group], width: int) -> list[str]:
    """Return the heading and one line per group of rows, at most `width` characters each."""
    firsts = [g[0] for g in groups]
    told = any(m.signal for m in firsts)  # two columns more, for which others give way
    return lines(
        [
            Column("layer", tuple(_name(g) for g in groups)),
            Column("kind", tuple(m.layer.kind for m in firsts), gives_way=2 + told),
            Column("fan in > out", tuple(_fans(m) for m in firsts), right=True),
            *_freedom(firsts),
            Column("then", tuple(_then(m) for m in firsts), gives_way=4 * told),
            Column("drawn from", tuple(_law(m) for m in firsts), gives_way=1 + told),
            Column("std", tuple(number(m.stats.std) for m in firsts), right=True, gives_way=int(told)),
            Column("expected", tuple(_expected(m) for m in firsts), right=True),
            Column("ratio", tuple(ratio_of(m) for m in firsts), right=True),
            *_signal(groups),
        ],
        width,
    )


def distributions(report: Report, width: int) -> list[str]:
    """Return one line per weight with the measures of its distribution, headed by the model."""
    rows = report.measured
    path = report.given or report.model.path
    return [
        f"{path}   {report.model.format}   {report.parameters:,} parameters   {report.state}",
        "",
        *lines(
            [
                Column("layer", tuple(m.layer.name for m in rows)),
                Column("shape", tuple("x".join(map(str, m.layer.weight.shape)) or "scalar" for m in rows)),
                Column("dtype", tuple(m.layer.weight.dtype for m in rows), gives_way=2),
                Column("role", tuple(str(m.layer.role) for m in rows), gives_way=1),
                Column("mean", tuple(f"{m.stats.mean:.1e}" for m in rows), right=True, gives_way=4),
                Column("std", tuple(number(m.stats.std) for m in rows), right=True),
                Column("min", tuple(number(m.stats.min) for m in rows), right=True),
                Column("max", tuple(number(m.stats.max) for m in rows), right=True),
                Column("kurtosis", tuple(number(m.stats.kurtosis) for m in rows), right=True),
                Column(
                    "zeros",
                    tuple(_zeros(m) for m in rows),
                    right=True,
                    gives_way=5,
                ),
                Column("drawn from", tuple(_law(m) for m in rows), gives_way=3),
            ],
            width,
        ),
    ]


def lines(columns: Sequence[Column], width: int) -> list[str]:
    """Return heading and rows; columns give way, then the first is cut, until a line fits."""
    kept = list(columns)
    first = min(kept[0].width, max(20, width * 3 // 10))  # long names are cut before a column gives way

    def rest() -> int:
        return sum(c.width + 2 for c in kept[1:])

    while first + rest() > width and any(c.gives_way for c in kept):
        next_one = min(c.gives_way for c in kept if c.gives_way)
        kept = [c for c in kept if c.gives_way != next_one]
    limits = [min(kept[0].width, max(12, width - rest())), *(c.width for c in kept[1:])]
    rows = [[c.heading for c in kept], *zip(*(c.cells for c in kept), strict=True)]
    return [
        "  ".join(
            _cut(cell, limit).rjust(limit) if c.right else _cut(cell, limit).ljust(limit)
            for c, cell, limit in zip(kept, row, limits, strict=True)
        ).rstrip()
        for row in rows
    ]


def _cut(text: str, limit: int) -> str:
    """Shorten in the middle: the end of a name tells more than its middle."""
    text = printable(text)
    if len(text) <= limit:
        return text
    head = (limit - 2) // 5
    return text[:head] + ".." + text[len(text) - (limit - 2 - head) :]


def _name(group: Group) -> str:
    return together([m.layer.name for m in group])


def together(names: Sequence[str]) -> str:
    """Return one name for rows told as one: "blocks.0-11.fc1", or the first and how many there are."""
    first, last = names[0], names[-1]
    if len(names) == 1:
        return first
    numbers = [re.findall(r"\d+", name) for name in names]
    differing = [k for k, column in enumerate(zip(*numbers, strict=False)) if len(set(column)) > 1]
    if len(differing) == 1:
        run = sorted(int(n[differing[0]]) for n in numbers)  # a file sorted by name has block 10 before block 2
        if run == list(range(run[0], run[0] + len(names))):
            pieces = re.split(r"(\d+)", first)
            pieces[2 * differing[0] + 1] = f"{run[0]}-{run[-1]}"
            return "".join(pieces)
    return f"{first}, {last}" if len(names) == 2 and len(first) < 12 else f"{first} (x{len(names)})"


def _zeros(m: Measured) -> str:
    share = m.stats.zeros / max(1, m.stats.count)
    return "-" if not share else "<0.1%" if share < 1e-3 else f"{share:.1%}"


def _then(m: Measured) -> str:
    """Name what follows: - for nothing or something linear, ? where it is not known."""
    unknown = m.layer.activation_evidence is Evidence.ASSUMED and m.layer.fan_in is not None
    return m.layer.activation or ("?" if unknown else "-")


def _fans(m: Measured) -> str:
    if m.layer.fan_in is None or m.layer.fan_out is None:
        return "x".join(map(str, m.layer.weight.shape)) or "scalar"
    return f"{max(1, round(m.layer.fan_in))} > {max(1, round(m.layer.fan_out))}"


def _law(m: Measured) -> str:
    if m.identified is None:
        return "-" if m.stats.nonfinite else "?"
    return m.identified.scheme or f"unknown {m.identified.law}"


def _freedom(firsts: Sequence[Measured]) -> list[Column]:
    """Return a column of effective widths where a layer is narrower than it looks, and of when weights first move."""
    out: list[Column] = []
    if any(m.freedom and m.freedom.width < m.freedom.units for m in firsts):
        out.append(Column("width", tuple(map(_width, firsts)), right=True))
    if any(m.movement for m in firsts):
        out.append(Column("moves", tuple(map(_wakes, firsts)), gives_way=5))
    return out


def _width(m: Measured) -> str:
    """Show how many units can ever differ, of how many; the units alone where all can."""
    if m.freedom is None:
        return "?"
    return f"{m.freedom.width} of {m.freedom.units}" if m.freedom.width < m.freedom.units else str(m.freedom.units)


def _wakes(m: Measured) -> str:
    """Show when some of a weight first moves; - for at once."""
    if m.movement is None or m.movement.wake == 1:
        return "-"
    if m.movement.wake:
        return f"step {m.movement.wake}"
    return "never" if m.movement.dead else "cancelled"


def _signal(groups: Sequence[Group]) -> list[Column]:
    """Return the columns of signal: variance across inputs, and gradient over weight; none where nobody told them."""
    if not any(m.signal for group in groups for m in group):
        return []
    return [
        Column("signal", tuple(_told(group, "forward_variance") for group in groups), right=True),
        Column("grad/w", tuple(_told(group, "relative_gradient") for group in groups), right=True),
    ]


def _told(group: Group, figure: str) -> str:
    """Show what was measured as it is, what was predicted behind a ~; of rows that differ the first and the last."""
    values = [value for m in group if (value := getattr(m.signal, figure, None)) is not None and not isnan(value)]
    if not values:
        return "-"
    guess = "" if group[0].probed else "~"
    if max(values) <= 2 * min(values):
        return f"{guess}{values[0]:.2g}"
    return f"{guess}{values[0]:.0e}>{values[-1]:.0e}"


def number(value: float) -> str:
    """Return a figure with three digits."""
    return "-" if isnan(value) else f"{value:.3g}"


def _expected(m: Measured) -> str:
    return f"{m.expected.scheme.partition(':')[0]} {number(m.expected.std)}" if m.expected else "-"


def ratio_of(m: Measured) -> str:
    """Return variance over what is expected, as it is shown."""
    ratio = m.variance_ratio
    if ratio is None or isnan(ratio):
        return "-"
    return f"{ratio:.2f}" if 0.005 <= ratio < 1000 or ratio == 0 else f"{ratio:.0e}"
