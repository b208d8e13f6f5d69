"""What two models differ in, for a person and as JSON, schema initaudit.diff/1."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from initaudit.differences import Changed, Difference
from initaudit.reporters.base import Style, counts
from initaudit.reporters.json import plain
from initaudit.reporters.page import Page
from initaudit.reporters.table import Column, lines, number, together
from initaudit.types import Finding, Report, Severity, Tensor
from initaudit.version import __version__

SCHEMA = "initaudit.diff/1"
_MOST = 40  # rows, unless all are asked for
_FEW = 6  # lines of a list, likewise
_MARKS = {Severity.ERROR: "x", Severity.WARNING: "!", Severity.INFO: "i"}


def document(found: Difference) -> dict[str, Any]:
    """Return the contract's object, made of plain values; what is not finite is None."""
    made: dict[str, Any] = plain(
        {
            "schema": SCHEMA,
            "tool": {"name": "initaudit", "version": __version__},
            "models": [
                {
                    "path": model.path,
                    "format": model.format,
                    "tensors": len(model.tensors),
                    "verdict": report.verdict if report else None,
                    "risk": report.risk.value if report and report.risk and not report.folded else None,
                }
                for model, report in zip(found.models, found.reports, strict=True)
            ],
            "equal": found.equal,
            "changed": [
                {
                    "name": one.name,
                    "other_name": one.other,
                    "shape": one.shape,
                    "dtype": one.dtypes,
                    "share": one.share,
                    "largest": one.largest,
                    "std": one.stds,
                    "nonfinite": one.nonfinite,
                }
                for one in found.changed
            ],
            "reshaped": [{"name": r.name, "other_name": r.other, "shape": r.shapes} for r in found.reshaped],
            "added": [_tensor(tensor) for tensor in found.added],
            "removed": [_tensor(tensor) for tensor in found.removed],
            "appeared": [_finding(f) for f in found.appeared],
            "gone": [_finding(f) for f in found.gone],
            "uncompared": [{"name": skip.name, "why": skip.why} for skip in found.uncompared],
            "differs": found.differs,
        }
    )
    return made


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "shape": tensor.shape, "dtype": tensor.dtype}


def _finding(f: Finding) -> dict[str, Any]:
    return {"rule": f.rule, "name": f.name, "severity": f.severity.label, "layer": f.layer, "message": f.message}


def text(found: Difference) -> str:
    """Return the document as it is printed."""
    return json.dumps(document(found), indent=2, ensure_ascii=True) + "\n"


def render(found: Difference, style: Style) -> str:
    """Return the text for a person."""
    page = Page.of(style)
    if style.verbosity >= 0:
        for k in (0, 1):
            model, report = found.models[k], found.reports[k]
            detail = f", {model.detail}" if model.detail else ""
            page.line((found.paths[k], "bold"), f"   {model.format}{detail}   {_verdict(report)}")
        page.gap()
        _table(page, found.changed, style)
        _lists(page, found, style)
    page.line(_closing(found))
    return page.text()


def _verdict(report: Report | None) -> str:
    if report is None:
        return "nothing to judge"
    n = counts(report)
    parts = ", ".join(f"{n[s]} {s.label}{'' if n[s] == 1 else 's'}" for s in sorted(Severity, reverse=True))
    return f"{report.verdict}: {parts}"


def _table(page: Page, changed: Sequence[Changed], style: Style) -> None:
    retyped = [one for one in changed if not one.values]
    if retyped:
        kinds = sorted({_dtype(one) for one in retyped})
        page.line(f"element type only: {len(retyped)} tensors, {', '.join(kinds)}", indent=2)
        page.gap()
    if len(retyped) == len(changed):
        return
    groups: dict[object, list[Changed]] = {}
    for k, one in enumerate(one for one in changed if one.values):
        key = (re.sub(r"\d+", "N", one.name), one.shape, one.dtypes, _share(one), f"{one.stds[0]:.1g}",
               f"{one.stds[1]:.1g}", one.nonfinite)  # fmt: skip
        groups.setdefault(k if style.verbosity > 0 else key, []).append(one)
    rows = list(groups.values())
    shown = rows if style.verbosity > 0 else rows[:_MOST]
    firsts = [row[0] for row in shown]
    columns = [
        Column("changed", tuple(together([one.name for one in row]) for row in shown)),
        Column("shape", tuple("x".join(map(str, one.shape)) or "scalar" for one in firsts), gives_way=1),
        Column("dtype", tuple(_dtype(one) for one in firsts), gives_way=2),
        Column("share", tuple(_share(one) for one in firsts), right=True),
        Column("largest", tuple(_largest(row) for row in shown), right=True),
        Column("std before", tuple(_std(one, 0) for one in firsts), right=True),
        Column("> after", tuple(f"> {_std(one, 1)}" for one in firsts)),
    ]
    if any(any(one.nonfinite) for one in firsts):
        columns.append(Column("nan, inf", tuple(_nonfinite(one) for one in firsts), right=True))
    for line in lines(columns, page.width - 2):
        page.console.print(f"  {line}", soft_wrap=True)
    if len(shown) < len(rows):
        page.line(f"and {len(rows) - len(shown)} more rows (-v shows them)", indent=2)
    page.gap()


def _dtype(one: Changed) -> str:
    before, after = one.dtypes
    return before if before == after else f"{before} > {after}"


def _std(one: Changed, side: int) -> str:
    """Return the std, or what keeps it from being one."""
    if one.nonfinite[side]:
        return "nan" if one.nans[side] else "inf"
    return number(one.stds[side])


def _nonfinite(one: Changed) -> str:
    return "{:,} > {:,}".format(*one.nonfinite) if any(one.nonfinite) else "-"


def _share(one: Changed) -> str:
    percent = 100 * one.share
    return "all" if percent == 100 else f"{min(percent, 99.9):.1f} %" if percent >= 0.1 else f"{percent:.0e} %"


def _largest(row: Sequence[Changed]) -> str:
    values = [one.largest for one in row if one.largest is not None]
    return f"{max(values):.2g}" if values else "-"


def _lists(page: Page, found: Difference, style: Style) -> None:
    told = {
        "shape": [
            f"{_both(r.name, r.other)}: {list(r.shapes[0])} > {list(r.shapes[1])}" for r in found.reshaped
        ],
        "only in the first": [f"{t.name} {list(t.shape)} {t.dtype}" for t in found.removed],
        "only in the second": [f"{t.name} {list(t.shape)} {t.dtype}" for t in found.added],
        "not compared": [f"{skip.name}: {skip.why}" for skip in found.uncompared],
        "gone": [_about(f) for f in found.gone if f.severity > Severity.INFO or style.verbosity > 0],
        "appeared": [_about(f) for f in found.appeared if f.severity > Severity.INFO or style.verbosity > 0],
    }  # fmt: skip
    for title, entries in told.items():
        most = len(entries) if style.verbosity > 0 else _FEW
        for entry in entries[:most]:
            page.line(f"{title}: {entry}", indent=2)
        if len(entries) > most:
            page.line(f"{title}: {len(entries) - most} more (-v shows them)", indent=2)
    if any(told.values()):
        page.gap()


def _both(name: str, other: str) -> str:
    return name if name == other else f"{name} ({other} in the second)"


def _about(f: Finding) -> str:
    return f"{_MARKS[f.severity]} {f.rule} {f.name}" + (f" {f.layer}" if f.layer else "")


def _closing(found: Difference) -> str:
    counted = (
        (len(found.changed), "changed"), (len(found.reshaped), "of another shape"), (len(found.removed), "removed"),
        (len(found.added), "added"), (len(found.uncompared), "not compared"),
    )  # fmt: skip
    parts = ", ".join(f"{n} {word}" for n, word in counted if n)
    if not parts:
        return f"equal: {found.equal} tensors"
    word = "different" if found.differs else "no difference found"
    return f"{word}: {parts}, {found.equal} equal"
