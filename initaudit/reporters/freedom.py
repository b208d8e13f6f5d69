"""What can ever differ and what can ever move, for a person.

A row for each layer that is narrower than it looks, its tied units, and a row for each parameter that does not move at
the first step. Rows alike fold into one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from initaudit.freedom import Freedom, LayerFreedom, ParameterFreedom
from initaudit.reporters.base import Style
from initaudit.reporters.page import Page
from initaudit.reporters.table import Column, lines, together
from initaudit.types import Model

_CLASSES = 8  # of a layer
_RUNS = 8  # of a class
_NAMES = 6  # of a list


def heading(name: str, model: Model, style: Style) -> str:
    """Return the line that says what model it is."""
    page = Page.of(style)
    detail = f", {model.detail}" if model.detail else ""
    page.line((name, "bold"), f"   {model.format}{detail}   {len(model.tensors)} tensors")
    return page.text()


def absent(style: Style) -> str:
    """Return what is said where there is no graph."""
    page = Page.of(style)
    page.line("not analysed: there is no graph (--model, --arch or an ONNX export gives one)")
    return page.text()


def render(found: Freedom, names: Sequence[str], style: Style, *, graphs: int = 1, lacking: Sequence[str] = ()) -> str:
    """Return the text.

    Args:
        found: what is told.
        names: of the layers, as `found` has them.
        style: on what.
        graphs: how many the file leaves open.
        lacking: parameters of the graph that the checkpoint has no values for.
    """
    page = Page.of(style)
    page.gap()
    if graphs > 1:
        page.line(f"the file leaves {graphs} graphs open: what follows holds in each (--model or --arch tells which)")
        page.gap()
    narrow = [one for one in found.layers if one is not None and one.width < one.units]
    if narrow:
        _narrow(page, narrow)
    if found.parameters:
        _still(page, found.parameters)
    unknown = [name for name, one in zip(names, found.layers, strict=True) if one is None]
    notes = list(_notes(found, unknown, lacking))
    for note in notes:
        page.line(note)
    if notes:
        page.gap()
    page.line(_closing(found, narrow, len(names) - len(unknown)))
    return page.text()


# ---- units


def _narrow(page: Page, narrow: Sequence[LayerFreedom]) -> None:
    groups: dict[object, list[LayerFreedom]] = {}
    for one in narrow:
        begins = "" if one.start == one.name else re.sub(r"\d+", "N", one.start)
        key = (re.sub(r"\d+", "N", one.name), one.units, one.width, one.classes, begins)
        groups.setdefault(key, []).append(one)
    rows = list(groups.values())
    table = [
        Column("layer", tuple(_together([one.name for one in row]) for row in rows)),
        Column("units", tuple(f"{row[0].units:,}" for row in rows), right=True),
        Column("width", tuple(f"{row[0].width:,}" for row in rows), right=True),
    ]
    if any(one.start for one in narrow):
        table.append(Column("ties start at", tuple(_begins(row) for row in rows)))
    for line in lines(table, page.width - 4):
        page.line(line, indent=4)
    page.gap()
    for row in rows:
        one = row[0]
        which = "this layer acts as one" if len(row) == 1 else "each of these layers acts as one"
        page.line(f"{_together([o.name for o in row])}: {which} of width {one.width:,}")
        for units in one.classes[:_CLASSES]:
            page.line(f"tied: {_members(units)}", indent=2)
        if len(one.classes) > _CLASSES:
            page.line(f"tied: {len(one.classes) - _CLASSES:,} more sets of units", indent=2)
    page.gap()


def _begins(row: Sequence[LayerFreedom]) -> str:
    if all(one.start == one.name for one in row):
        return "itself" if row[0].start else "-"
    return _together(list(dict.fromkeys(one.start for one in row)))


def _together(names: Sequence[str]) -> str:
    return together(list(names))


def _members(units: Sequence[int]) -> str:
    """Return units with runs folded: "0-3, 7"."""
    runs: list[list[int]] = []
    for unit in units:
        if runs and unit == runs[-1][1] + 1:
            runs[-1][1] = unit
        else:
            runs.append([unit, unit])
    told = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs[:_RUNS])
    left = sum(b - a + 1 for a, b in runs[_RUNS:])
    return f"{told} and {left:,} more" if left else told


# ---- parameters


def _still(page: Page, found: Sequence[ParameterFreedom]) -> None:
    groups: dict[object, list[ParameterFreedom]] = {}
    for one in found:
        groups.setdefault((re.sub(r"\d+", "N", one.name), one.size, _moves(one)), []).append(one)
    rows = list(groups.values())
    table = [
        Column("parameter", tuple(_together([one.name for one in row]) for row in rows)),
        Column("elements", tuple(f"{row[0].size:,}" for row in rows), right=True, gives_way=1),
        Column("first moves", tuple(_moves(row[0]) for row in rows)),
    ]
    for line in lines(table, page.width - 4):
        page.line(line, indent=4)
    page.gap()


def _moves(one: ParameterFreedom) -> str:
    """Return when a parameter first moves; of one that does not move as a whole, how much of it when."""
    parts = [(n, f"at step {step}") for step, n in one.late]
    parts += [(one.dead, "never"), (one.cancelled, "never: cancelled later")]
    parts = [(n, what) for n, what in parts if n]
    if len(parts) == 1 and parts[0][0] == one.size:
        return parts[0][1]
    return ", ".join(f"{n:,} {what}" for n, what in parts)


# ---- the end


def _notes(found: Freedom, unknown: Sequence[str], lacking: Sequence[str]) -> Iterator[str]:
    if lacking:
        yield f"the checkpoint lacks values, so that all they touch is taken to differ, for {_few(lacking)}"
    if found.why:
        yield f"units are not told: {found.why}"
    elif unknown:
        yield f"units are not known of {_few(unknown)}"
    if found.unread:
        yield f"not understood, so that all it touches is taken to differ: {_few([_words(op) for op in found.unread])}"


def _words(op: str) -> str:
    """Return "linear: not finite" for "linear: NotFinite": what kept an operation from being read."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", op).lower()


def _few(names: Sequence[str]) -> str:
    left = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {left:,} more" if left > 0 else "")


def _closing(found: Freedom, narrow: Sequence[LayerFreedom], known: int) -> str:
    told = (
        (sum(any(step > 1 for step, _ in p.late) for p in found.parameters), "asleep at first"),
        (sum(p.dead > 0 for p in found.parameters), "that never move in whole or in part"),
        (sum(p.cancelled > 0 for p in found.parameters), "cancelled"),
    )
    parts = [f"{n} {word}" for n, word in told if n]
    if found.why or not known:
        ties = "no layer's units are known"
    elif narrow:
        ties = f"{len(narrow)} of {known} layers narrower than they look"
    else:
        ties = f"no ties in {known} layer{'s' * (known != 1)}"
    return f"{ties}; " + (f"parameters: {', '.join(parts)}" if parts else "every parameter moves at the first step")
