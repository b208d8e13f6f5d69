"""The page of `benchmarks.false_alarms`, and what it takes to pass."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Any

from benchmarks.false_alarms_reasons import REASONS

Record = dict[str, Any]

MOST = 0.01  # of the layers of one way may carry a warning
WAYS = {"probe": "live, probe", "static": "live, static", "onnx": "ONNX", "state_dict": "state_dict"}
_GROUPS = {False: "looked at while thresholds were chosen", True: "held out"}

ABOUT = """\
Written by `python -m benchmarks.false_alarms`. Every model is built from code with the initialisation that its authors
chose, and audited in four ways: as a live module with a small batch run through it, as a live module that is not run,
as an ONNX export, and as a bare state_dict. A warning counts for the layer that it stands at and for all layers that it
names as well, so that one about three equal blocks counts for all their weights. Before an export, spectral norms that
start with random vectors have been run a few times in training mode: the export keeps what they divide by.
"""

FIRST = """\
What the first audit of each said, before anything was changed on account of it. The models came in two halves: what
the first one showed in ONNX (merged norms, tables read out) was mended before the second. Causes were then mended where
they lay, most of them in theory. Four models had been narrowed or simplified for this benchmark until their fixed std
no longer fitted (hf_dpt, swin_v2, retinanet_head, fixup): they are built as their authors do now, and their first look
stays as it was.
"""
MERGED = """\
Exports whose batch norms were merged into the weights have a high risk as they stand; it is told as info at most, since
it is not the signal of training.
"""


def whole(found: Sequence[Record], before: dict[str, Record]) -> Record:
    """Return all that is kept: this run, and what the first audit of each model that is held out said."""
    looks = {name: dict(ways) for name, ways in before.items()}
    for model in found:
        if not model["held_out"]:
            continue
        for way, told in model["ways"].items():
            if not told["crashed"]:
                looks.setdefault(model["name"], {}).setdefault(way, _look(told))
    return {"models": list(found), "first looks": looks}


def _look(told: Record) -> Record:
    return {
        "layers": told["layers"],
        "errors": len(_of(told, "error")),
        "warned": len(_warned(told)),
        "findings": [f"{f['severity']} {f['rule']} {f['layer']}" for f in told["findings"]],
        "risk": told["risk"],
    }


def verdict(told: Record) -> int:
    """1 where an error was found, too many layers carry a warning, or one has no written reason; else 0."""
    rows = told["models"]
    if any(_of(t, "error") or t["crashed"] for m in rows for t in m["ways"].values()):
        return 1
    if any(model["failed"].get("all") or not model["ways"] for model in rows):
        return 1
    if any(_unexplained(rows)):
        return 1
    return int(any(_share(rows, way) > MOST for way in WAYS))


def _of(told: Record, severity: str) -> list[Record]:
    return [f for f in told["findings"] if f["severity"] == severity]


def _warned(told: Record) -> set[str]:
    """Return the names of the layers that warnings are about."""
    return {name for f in _of(told, "warning") for name in (f["layer"], *f["also"]) if name}


def _ways(rows: Iterable[Record], way: str) -> list[Record]:
    return [model["ways"][way] for model in rows if way in model["ways"]]


def _share(rows: Iterable[Record], way: str) -> float:
    seen = _ways(rows, way)
    return sum(len(_warned(t)) for t in seen) / max(1, sum(t["layers"] for t in seen))


def reason(model: str, finding: Record) -> str:
    """Return why a warning is right; empty where nobody has written it down."""
    return next((r.why for r in REASONS if r.rule == finding["rule"] and fnmatchcase(model, r.model)), "")


def _unexplained(rows: Iterable[Record]) -> list[tuple[str, str, Record]]:
    return [
        (model["name"], way, f)
        for model in rows
        for way, told in model["ways"].items()
        for f in _of(told, "warning")
        if not reason(model["name"], f)
    ]


def summary(told: Record) -> str:
    """The figures that count, one a line."""
    rows = told["models"]
    lines = [f"models: {len(rows)}, {sum(m['held_out'] for m in rows)} of them held out"]
    for held, group in _GROUPS.items():
        own = [m for m in rows if m["held_out"] is held]
        for way, title in WAYS.items():
            seen = _ways(own, way)
            if seen:
                lines.append(f"{group}, {title}: {_figures(seen)}")
    lines.append(f"warnings without a written reason: {len(_unexplained(rows))}")
    failed = sum(bool(m["failed"].get("all")) or not m["ways"] for m in rows)
    lines.append(f"models that could not be audited: {failed}; ways missing: {_missing(rows)}")
    return "\n".join(f"- {line}" for line in lines)


def _figures(seen: Sequence[Record]) -> str:
    layers = sum(t["layers"] for t in seen)
    errors = sum(len(_of(t, "error")) for t in seen)
    warnings = sum(len(_of(t, "warning")) for t in seen)
    warned = sum(len(_warned(t)) for t in seen)
    return (
        f"{len(seen)} models, {layers} layers, {errors} errors, {warnings} warnings"
        f" on {warned} layers ({100 * warned / max(1, layers):.2f} %)"
    )


def _missing(rows: Iterable[Record]) -> str:
    count = Counter(way for m in rows for way in m["failed"] if way != "all")
    return ", ".join(f"{n} {WAYS[way]}" for way, n in sorted(count.items())) or "none"


def render(told: Record) -> str:
    """The whole page in markdown."""
    rows = told["models"]
    parts = [
        "# What check says of healthy models\n",
        ABOUT,
        summary(told) + "\n",
        _first(told["first looks"]),
        _risks(rows),
        _reasons(rows),
        _list("Errors", _each(rows, "error")),
        _list("Warnings without a written reason", (f"`{n}` {w}: {_line(f)}" for n, w, f in _unexplained(rows))),
        _list("Warnings", _each(rows, "warning")),
        _list("What could not be audited", _failures(rows)),
        _models(rows),
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _first(looks: dict[str, Record]) -> str:
    if not looks:
        return ""
    lines = ["## First look at the models held out\n", FIRST]
    for way, title in WAYS.items():
        seen = [look[way] for look in looks.values() if way in look]
        layers, errors = sum(t["layers"] for t in seen), sum(t["errors"] for t in seen)
        warned = sum(t["warned"] for t in seen)
        lines.append(
            f"- {title}: {len(seen)} models, {layers} layers, {errors} errors, warnings on {warned} layers"
            f" ({100 * warned / max(1, layers):.2f} %)"
        )
    return "\n".join(lines) + "\n"


def _risks(rows: Sequence[Record]) -> str:
    lines = [
        "## Risk\n",
        "| models | way | judged | median | 90 % | 99 % | largest | of |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for held, group in _GROUPS.items():
        for way, title in WAYS.items():
            told = [(m["ways"][way]["risk"], m["name"]) for m in rows if m["held_out"] is held and way in m["ways"]]
            known = sorted((value, name) for value, name in told if value is not None)
            if known:
                at = [known[min(len(known) - 1, int(q * len(known)))][0] for q in (0.5, 0.9, 0.99)]
                cells = " | ".join(f"{value:.3f}" for value in (*at, known[-1][0]))
                lines.append(f"| {group} | {title} | {len(known)} of {len(told)} | {cells} | {known[-1][1]} |")
    return "\n".join([*lines, "", MERGED]) if len(lines) > 3 else ""


def _reasons(rows: Sequence[Record]) -> str:
    """One row for each kind of warning that is left."""
    kinds: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for model in rows:
        for way, told in model["ways"].items():
            for f in _of(told, "warning"):
                why = reason(model["name"], f)
                if why:
                    kinds[f"{f['rule']} {f['name']}", why][model["name"]].add(way)
    if not kinds:
        return ""
    lines = ["## Warnings that are right\n", "| rule | models | why |", "|---|---|---|"]
    for (rule, why), models in sorted(kinds.items()):
        names = ", ".join(
            name if len(ways) == len(WAYS) else f"{name} ({', '.join(WAYS[w] for w in WAYS if w in ways)})"
            for name, ways in sorted(models.items())
        )
        lines.append(f"| {rule} | {names} | {why} |")
    return "\n".join(lines) + "\n"


def _line(f: Record) -> str:
    more = f" and {len(set(f['also']) - {f['layer']})} more" if f["also"] else ""
    return f"{f['rule']} {f['layer']}{more}: {f['message']}"


def _each(rows: Iterable[Record], severity: str) -> Iterable[str]:
    """Findings, with the ways that say the same on one line."""
    for model in rows:
        ways: dict[str, list[str]] = defaultdict(list)
        for way, told in model["ways"].items():
            for f in _of(told, severity):
                ways[_line(f)].append(WAYS[way])
        for line, named in ways.items():
            yield f"`{model['name']}` ({', '.join(named)}): {line}"


def _failures(rows: Iterable[Record]) -> Iterable[str]:
    for model in rows:
        for way, why in sorted(model["failed"].items()):
            yield f"`{model['name']}`, {WAYS.get(way, 'all ways')}: {why}"
        for way, told in model["ways"].items():
            if told["probe"]:
                yield f"`{model['name']}`, {WAYS[way]}, probe: {told['probe']}"


def _list(title: str, lines: Iterable[str]) -> str:
    found = list(lines)
    return f"## {title} ({len(found)})\n\n" + "".join(f"- {line}\n" for line in found) if found else ""


def _models(rows: Sequence[Record]) -> str:
    lines = [
        "## By model\n",
        "Errors and layers with a warning, then the risk, in the order " + ", ".join(WAYS.values()) + ".\n",
        "| model | library | held out | layers | errors | warned | risk |",
        "|---|---|---|---|---|---|---|",
    ]
    for m in rows:

        def cells(value: Callable[[Record], str], model: Record = m) -> str:
            told = [value(model["ways"][way]) if way in model["ways"] else "-" for way in WAYS]
            return told[0] if len(set(told)) == 1 else ", ".join(told)

        lines.append(
            f"| {m['name']} | {m['library']} | {'yes' if m['held_out'] else ''} | {cells(lambda t: str(t['layers']))}"
            f" | {cells(lambda t: str(len(_of(t, 'error'))))} | {cells(lambda t: str(len(_warned(t))))}"
            f" | {cells(lambda t: '-' if t['risk'] is None else format(t['risk'], '.3f'))} |"
        )
    return "\n".join(lines) + "\n"
