"""What a repair did, for a person.

A heading as of the report, a row for each tensor with std, ratio and verdict before and after, what was kept and why,
then what happened: written where, what the second audit says, what to do next. Rows alike fold into one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from rich.text import Text

from initaudit.edits import Reached, Repair, Row
from initaudit.naming import pattern, places
from initaudit.reporters.base import Style, counts, printable, unjudged
from initaudit.reporters.curing import typed
from initaudit.reporters.page import Page
from initaudit.reporters.table import Column, lines, number, ratio_of, together
from initaudit.types import Measured, Report, Severity, Skip, Stats, Tensor

_MARKS = {"error": ("x", "bold red"), "warning": ("!", "yellow")}
_MOST = 40  # rows, unless all are asked for
_FEW = 6  # lines of a list, likewise
_RUNS = 4  # of units


def stats_of(m: Measured, tensor: Tensor) -> Stats | None:
    """Return what was measured of one tensor of a layer."""
    return m.stats if tensor.name == m.layer.weight.name else m.others.get(tensor.name)


def render(repair: Repair, style: Style, *, code: str = "", live: bool = False) -> str:
    """Return the text.

    Args:
        repair: what came of it.
        style: how much to say, and on what.
        code: where the code that does the same was written to, if it was.
        live: it was a module, not a file.
    """
    return opening(repair, style) + closing(repair, style, code=code, live=live)


def opening(repair: Repair, style: Style) -> str:
    """Return what is known before anything is written: the table, what was kept, what LSUV reached."""
    page = Page.of(style)
    if style.verbosity < 0:
        return f"{printable(repair.before.given or repair.before.model.path)}: "
    page.heading(repair.before)
    page.gap()
    if repair.rows:
        _table(page, repair, style)
    _list(page, [_kept(skip) for skip in repair.plan.kept], "kept as it is", style)
    _list(page, _reached(repair.reached), "lsuv", style)
    _list(page, [*repair.recovered, *repair.plan.notes], "note", style)
    return page.text()


def closing(repair: Repair, style: Style, *, code: str = "", live: bool = False) -> str:
    """Return what happened, what the second audit says, and what to do next."""
    page = Page.of(style)
    says = list(_says(repair, code, live))
    if style.verbosity < 0:
        return "; ".join([*repair.recovered, *says]) + "\n"
    for line in says:
        page.line(line)
    most = None if style.verbosity > 0 else _FEW
    for line in repair.worse[:most]:
        page.line(f"worse: {line}", indent=2)
    if repair.after is not None and not repair.worse:
        for f in [f for f in repair.after.findings if f.severity >= Severity.WARNING][:most]:
            where = f" at {f.layer}" if f.layer else ""
            page.line(f"left: {f.severity.label} {f.rule} {f.name}{where}", indent=2)
    for line in _next(repair, code, live):
        page.line(f"next: {line}")
    return page.text()


# ---- the table


def _table(page: Page, repair: Repair, style: Style) -> None:
    groups = _folded(repair.rows, fold=style.verbosity <= 0)
    left = 0
    if style.verbosity <= 0 and len(groups) > _MOST:
        left = len(groups) - _MOST
        groups = groups[:_MOST]
    firsts = [group[0] for group in groups]
    table = lines(_columns(groups, brief=False), page.width - 4)
    if "  scheme" not in table[0]:
        table = lines(_columns(groups, brief=True), page.width - 4)
    for k, line in enumerate(table):
        mark, colour = _MARKS.get(firsts[k - 1].verdict_after or "", ("", "")) if k else ("", "dim")
        text = Text.assemble("  ", (f"{mark:1} ", colour), (line, "dim" if k == 0 else ""))
        page.console.print(text, soft_wrap=True)
    if left:
        page.line(f"and {left} more rows (-v shows them)", indent=4)
    page.gap()


def _columns(groups: Sequence[Sequence[Row]], *, brief: bool) -> list[Column]:
    """Return the columns; where they are to be brief, of schemes the name alone."""
    firsts = [group[0] for group in groups]
    schemes = [_scheme(row) for row in firsts]
    if brief:
        schemes = [re.sub("[:,].*", ":..", scheme) for scheme in schemes]
    columns = [
        Column("layer", tuple(together([_name(row) for row in group]) for group in groups)),
        Column("kind", tuple(_kind(row) for row in firsts), gives_way=1),
        Column("scheme", tuple(schemes), gives_way=3),
        *_some(firsts),
        Column("for", tuple(row.recipe.why for row in firsts), gives_way=4),
        Column("std before", tuple(_std(row, before=True) for row in firsts), right=True),
        Column("> after", tuple(_std(row, before=False) for row in firsts)),
        Column("ratio before", tuple(_ratio(row, before=True) for row in firsts), right=True, gives_way=2),
        Column("> after", tuple(_ratio(row, before=False) for row in firsts), gives_way=2),
        Column("verdict", tuple(_verdict(row) for row in firsts)),
    ]
    if any(row.reached for row in firsts):
        columns.insert(-1, Column("variance", tuple(_variance(group) for group in groups), right=True))
    return columns


def _folded(rows: Sequence[Row], *, fold: bool) -> list[list[Row]]:
    """Return rows in order, those that differ only in a number of their name told as one."""
    groups: dict[object, list[Row]] = {}
    for k, row in enumerate(rows):
        key = (pattern(_name(row)), _kind(row), _scheme(row), row.recipe.units, row.widths, row.recipe.why,
               row.verdict_before, row.verdict_after, _rough(row, before=True), _rough(row, before=False))  # fmt: skip
        groups.setdefault(key if fold else k, []).append(row)
    return list(groups.values())


def _name(row: Row) -> str:
    """Return the layer's name, of its other tensors their own."""
    recipe = row.recipe
    return recipe.measured.layer.name if _weight(row) else recipe.tensor.name


def _weight(row: Row) -> bool:
    return row.recipe.tensor.name == row.recipe.measured.layer.weight.name


def _kind(row: Row) -> str:
    if _weight(row):
        return row.recipe.measured.layer.kind
    bias = row.recipe.measured.layer.bias
    return "bias" if bias is not None and bias.name == row.recipe.tensor.name else "vector"


def _scheme(row: Row) -> str:
    recipe = row.recipe
    return recipe.scheme + "".join(f", {part} {scheme}" for part, scheme in recipe.by_part.items())


def _some(firsts: Sequence[Row]) -> list[Column]:
    """Return a column of the units that are drawn where it is some of a layer's, and of its width before and after."""
    out = []
    if any(row.recipe.units is not None for row in firsts):
        out.append(Column("units", tuple(map(_units, firsts)), gives_way=3))
    if any(row.widths for row in firsts):
        widths = (f"{row.widths[0]} > {row.widths[1]}" if row.widths else "" for row in firsts)
        out.append(Column("width", tuple(widths), right=True, gives_way=5))
    return out


def _units(row: Row) -> str:
    units, every = row.recipe.units, row.recipe.measured.layer.units
    return "all" if units is None else f"{places(units, _RUNS)} of {every:,}"


def _side(row: Row, *, before: bool) -> Measured | None:
    return row.recipe.measured if before else row.after


def _stats(row: Row, *, before: bool) -> Stats | None:
    m = _side(row, before=before)
    return None if m is None else stats_of(m, row.recipe.tensor)


def _rough(row: Row, *, before: bool) -> str:
    stats = _stats(row, before=before)
    return "" if stats is None else f"{stats.std:.1g}" if not stats.nonfinite else "nan"


def _std(row: Row, *, before: bool) -> str:
    stats = _stats(row, before=before)
    shown = "-" if stats is None else number(stats.std)
    if stats is not None and stats.nonfinite:
        shown = "nan" if stats.nans else "inf"
    return shown if before else f"> {shown}"


def _ratio(row: Row, *, before: bool) -> str:
    m = _side(row, before=before) if _weight(row) else None
    shown = "-" if m is None or (before and m.stats.nonfinite) else ratio_of(m)
    return shown if before else f"> {shown}"


def _verdict(row: Row) -> str:
    return row.verdict_before if row.verdict_after is None else f"{row.verdict_before} > {row.verdict_after}"


def _variance(group: Sequence[Row]) -> str:
    """Return what LSUV made of the pre-activation, of several the least and the greatest."""
    values = [one.variance for row in group for one in row.reached if one.variance is not None]
    if not values:
        return "-"
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low}-{high}"


# ---- lists


def _kept(skip: Skip) -> str:
    return f"{skip.name}: {skip.why}"


def _reached(reached: Sequence[Reached]) -> list[str]:
    """Return what LSUV came to: in one line what it reached, and a line for each layer that it could not."""
    done = [one for one in reached if not one.why and one.variance is not None]
    told = []
    if done:
        values = [one.variance for one in done if one.variance is not None]
        tries = max(one.tries for one in done)
        told.append(
            f"{len(done)} pre-activation{'s' * (len(done) != 1)} at variance {min(values):.3f} to {max(values):.3f},"
            f" after at most {tries} {'try' if tries == 1 else 'tries'}"
        )
    for one in reached:
        if one.why:
            part = f" ({one.part})" if one.part else ""
            at = f", variance {one.variance:.3g}" if one.variance is not None else ""
            told.append(f"not reached at {one.layer}{part}{at}: {one.why}")
    return told


def _list(page: Page, told: Sequence[str], title: str, style: Style) -> None:
    most = len(told) if style.verbosity > 0 else _FEW
    for line in told[:most]:
        page.line(f"{title}: {line}", indent=2)
    if len(told) > most:
        page.line(f"{title}: {len(told) - most} more (-v shows them)", indent=2)
    if told:
        page.gap()


# ---- the end


def _says(repair: Repair, code: str, live: bool) -> Iterator[str]:
    before = repair.before
    if not repair.plan.recipes:
        what = "nothing to fix" if before.verdict == "healthy" else "nothing that drawing weights again would cure"
        yield f"{what}, nothing written: {_verdict_of(before)}"
        yield from _silent(before)
        if repair.scheme != "auto" and not repair.plan.kept:  # those were asked for
            yield "a scheme says how layers are drawn, not which: --all draws every layer, --layers GLOB those it names"
        return
    layers = len({recipe.measured.layer.name for recipe in repair.plan.recipes})
    some = f"{layers} layer{'s' * (layers != 1)}"
    if repair.worse:
        yield "the module is as it was" if live else "nothing written: the result is worse than the original"
    elif repair.dry:
        yield f"dry run, nothing written: {some} would be drawn again"
    elif live:
        yield f"{some} drawn again in the module"
    elif repair.output:
        yield f"{some} drawn again, written to {repair.output}"
    if code:
        yield f"code for {some} written to {code}"
    if repair.after is not None:
        yield f"audited again: {_verdict_of(repair.after)}"
        yield from _silent(repair.after)
    if repair.at_fault and not repair.worse:
        names = ", ".join(repair.at_fault[:5]) + (f" and {len(repair.at_fault) - 5} more" * (len(repair.at_fault) > 5))
        yield f"still at fault: {names}"


def _silent(report: Report) -> Iterator[str]:
    """Say why nobody told signal and gradient: what is called healthy without them may still not train."""
    if why := unjudged(report):
        yield f"signal and gradient are not known: {why}"


def _verdict_of(report: Report) -> str:
    n = counts(report)
    parts = ", ".join(f"{n[s]} {s.label}{'' if n[s] == 1 else 's'}" for s in sorted(Severity, reverse=True))
    risk = f"risk {report.risk.value:.2f} by {report.risk.by}" if report.risk is not None else "signal not judged"
    return f"{report.verdict}: {parts}" + ("" if report.folded else f"; {risk}")


def _next(repair: Repair, code: str, live: bool) -> Iterator[str]:
    given, output = repair.before.given or repair.before.model.path, repair.output
    if output and repair.at_fault:
        yield f"initaudit check {typed(output)}"
    if output and not live and output != repair.before.model.path:
        yield f"initaudit diff {typed(given)} {typed(output)}"
    if repair.dry and repair.plan.recipes and not repair.worse and not live:
        yield "the same without --dry-run"
    if code:
        yield f"call initialize(model) of {code} on the freshly built model, before training"
