"""What can ever differ and what can ever move, for a person.

A row for each layer that is narrower than it looks, its tied units, and a row for each parameter that does not move at
the first step, and why. Rows alike fold into one. Words are explained where they occur.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from initaudit.freedom import Cause, Freedom, LayerFreedom, ParameterFreedom
from initaudit.naming import natural, pattern, places
from initaudit.reporters.base import Style
from initaudit.reporters.page import Page
from initaudit.reporters.table import Column, lines, together
from initaudit.types import Report

_CLASSES = 8  # of a layer
_NAMES = 6  # of a list
_WORDS = {
    "width": "how many units can ever differ",
    "nearly": "how many differ by more than their dtype rounds off",
    "tied": "equal for every input, now and after every step, whatever the loss",
    "nearly tied": "equal but for what their dtype rounds off",
    "twins": "equal but for a sign, which stays, or a scale, which stays with plain descent",
    "at step": "the first step of training that moves it",
    "never": "its gradient is zero for every input, whatever else moves",
    "cancelled": "a later operation takes its effect away: no fault",
}


def render(report: Report, style: Style, *, only: bool = False) -> str:
    """Return the text.

    Args:
        report: of an audit.
        style: on what.
        only: some of the layers were asked for; parameters of others are left out.
    """
    page = Page.of(style)
    page.heading(report)
    page.gap()
    found = report.freedom
    if found is None:
        why = next((skip.why for skip in report.skipped if skip.name == "symmetry"), "")
        page.line("not analysed: " + (why or "there is no graph (--model, --arch or an ONNX export gives one)"))
        return page.text()
    if found.graphs > 1:
        page.line(
            f"the file leaves {found.graphs} graphs open: what follows holds in each (--model or --arch tells which)"
        )
        page.gap()
    layers = [m.freedom for m in report.measured if m.freedom is not None]
    unknown = [m.layer.name for m in report.measured if m.freedom is None]
    told = [one for one in layers if one.width < one.units or one.nearly or one.twins]
    still = _called(report, only=only)
    words: list[str] = []
    if told:
        words += _units(page, told)
    if still:
        words += _still(page, still)
    for word in words:
        page.line((f"{word}: ", "dim"), (_WORDS[word], "dim"))
    if words:
        page.gap()
    lacking = [one.name for one in report.model.mismatches if one.what != "unexpected"]
    notes = list(_notes(found, unknown, lacking))
    for note in notes:
        page.line(note)
    if notes:
        page.gap()
    page.line(_closing(found, layers, still))
    return page.text()


def _called(report: Report, *, only: bool) -> list[ParameterFreedom]:
    """Return parameters under names that people know: exporters to ONNX rename some tensors, but not layers."""
    names: dict[str, str] = {}
    for layer in (m.layer for m in report.measured):
        for tensor, word in ((layer.weight, "weight"), (layer.bias, "bias"), *((t, "") for t in layer.extra)):
            if tensor is not None:
                made_up = report.model.graph_source == "onnx" and not re.fullmatch(r"[\w-]+(\.[\w-]+)+", tensor.name)
                renamed = word and made_up and not tensor.name.startswith(layer.name)
                names.setdefault(tensor.name, f"{layer.name}.{word}" if renamed else tensor.name)
    found = report.freedom.parameters if report.freedom else ()
    return [_renamed(p, names) for p in found if p.name in names or not only]


def _renamed(one: ParameterFreedom, names: Mapping[str, str]) -> ParameterFreedom:
    blocked = tuple(sorted((names.get(name, name) for name in one.blocked_by), key=natural))
    return replace(one, name=names.get(one.name, one.name), blocked_by=blocked)


# ---- units


def _units(page: Page, told: Sequence[LayerFreedom]) -> list[str]:
    """Print layers that are narrower than they look or have twins; return the words used."""
    groups: dict[object, list[LayerFreedom]] = {}
    for one in told:
        begins = "" if one.start == one.name else pattern(one.start)
        own = (one.units, one.width, one.classes, one.nearly, one.twins, one.breaks)
        groups.setdefault((pattern(one.name), *own, begins), []).append(one)
    rows = list(groups.values())
    nearly = any(one.nearly for one in told)
    table = [
        Column("layer", tuple(_together(one.name for one in row) for row in rows)),
        Column("units", tuple(f"{row[0].units:,}" for row in rows), right=True),
        Column("width", tuple(f"{row[0].width:,}" for row in rows), right=True),
    ]
    if nearly:
        table.append(Column("nearly", tuple(f"{row[0].nearly_width:,}" for row in rows), right=True))
    if any(one.start for one in told):
        table.append(Column("ties start at", tuple(_begins(row) for row in rows), gives_way=1))
    _table(page, table)
    for row in rows:
        one = row[0]
        which = "this layer" if len(row) == 1 else "each of these layers"
        acts = f"acts as one of width {one.width:,}" if one.width < one.units else "is as wide as it looks"
        page.line(f"{_together(o.name for o in row)}: {which} {acts}")
        for word, sets in (("tied", one.classes), ("nearly tied", one.nearly), ("twins", one.twins)):
            shown = [places(units) for units in sets[:_CLASSES]]
            if len(sets) > _CLASSES:
                shown.append(f"{len(sets) - _CLASSES:,} more sets")
            if shown:
                page.line(f"{word}: {'; '.join(shown)}", indent=2)
        if one.breaks:
            page.line(f"parted in practice by {', '.join(one.breaks)}", indent=2)
    page.gap()
    used = {"width": True, "nearly": nearly, "tied": any(one.classes for one in told), "nearly tied": nearly,
            "twins": any(one.twins for one in told)}  # fmt: skip
    return [word for word, is_used in used.items() if is_used]


def _begins(row: Sequence[LayerFreedom]) -> str:
    if all(one.start == one.name for one in row):
        return "itself"
    return _together(dict.fromkeys(one.start for one in row)) or "-"


def _together(names: Iterable[str]) -> str:
    return together(list(names))


def _table(page: Page, table: Sequence[Column]) -> None:
    for line in lines(table, page.width - 4):
        page.line(line, indent=4)
    page.gap()


# ---- parameters


def _still(page: Page, found: Sequence[ParameterFreedom]) -> list[str]:
    """Print parameters that do not move as a whole at the first step; return the words used."""
    groups: dict[object, list[ParameterFreedom]] = {}
    for one in found:
        blocked = tuple(map(pattern, one.blocked_by))
        groups.setdefault((pattern(one.name), one.size, _moves(one), one.cause, blocked), []).append(one)
    rows = list(groups.values())
    table = [
        Column("parameter", tuple(_together(one.name for one in row) for row in rows)),
        Column("elements", tuple(f"{row[0].size:,}" for row in rows), right=True, gives_way=1),
        Column("first moves", tuple(_moves(row[0]) for row in rows)),
    ]
    _table(page, table)
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if why := _reason(row):
            reasons.setdefault(why, []).append(_together(one.name for one in row))
    for why, names in reasons.items():
        page.line(f"{_few(names)}: never: {why}")
    if reasons:
        page.gap()
    used = {"at step": any(p.late for p in found), "never": any(p.dead for p in found),
            "cancelled": any(p.cancelled for p in found)}  # fmt: skip
    return [word for word, is_used in used.items() if is_used]


def _moves(one: ParameterFreedom) -> str:
    """Return when a parameter first moves; of one that does not move as a whole, how much of it when."""
    parts = [(n, f"at step {step}") for step, n in one.late]
    parts += [(one.dead, "never"), (one.cancelled, "never: cancelled")]
    parts = [(n, what) for n, what in parts if n]
    if len(parts) == 1 and parts[0][0] == one.size:
        return parts[0][1]
    return ", ".join(f"{n:,} {what}" for n, what in parts)


def _reason(row: Sequence[ParameterFreedom]) -> str:
    """Return why rows told as one never move, as far as that is known."""
    one = row[0]
    if not one.dead:
        return ""
    match one.cause:
        case Cause.ZEROS:
            places = zip(*(o.blocked_by for o in row), strict=True)
            names = list(dict.fromkeys(_together(dict.fromkeys(names)) for names in places))
            if not names:
                return "parameters that are zero multiply each other"
            if len(names) == 1:
                return f"{names[0]} is zero"
            shown = ", ".join(names[: _NAMES - 1] if len(names) > _NAMES else names[:-1])
            last = f"{len(names) - _NAMES + 1} more" if len(names) > _NAMES else names[-1]
            return f"{shown} and {last} are {'both' if len(names) == 2 else 'all'} zero"
        case Cause.TIED:
            return "what it feeds is tied"
        case Cause.OFF:
            return "no input switches these units on"
        case Cause.DESIGN:
            return "by design: its input is zero or masked, whatever the parameters are"
    return ""


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


def _closing(found: Freedom, layers: Sequence[LayerFreedom], still: Sequence[ParameterFreedom]) -> str:
    told = (
        (sum(any(step > 1 for step, _ in p.late) for p in still), "asleep at first"),
        (sum(p.dead > 0 for p in still), "that never move in whole or in part"),
        (sum(p.cancelled > 0 for p in still), "cancelled"),
    )
    parts = [f"{n} {word}" for n, word in told if n]
    narrow = sum(one.width < one.units for one in layers)
    twins = sum(bool(one.twins) for one in layers)
    if found.why or not layers:
        ties = "no layer's units are known"
    elif narrow:
        ties = f"{narrow} of {len(layers)} layers narrower than they look"
    else:
        ties = f"no ties in {len(layers)} layer{'s' * (len(layers) != 1)}"
    if twins:
        ties += f", {twins} with twins"
    return f"{ties}; " + (f"parameters: {', '.join(parts)}" if parts else "every parameter moves at the first step")
