"""Renders what benchmarks.coverage found: the same findings give the same page."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

Record = dict[str, Any]
SOURCES = {
    "state_dict.pt": "state_dict",
    "legacy.pth": "state_dict",
    "model.safetensors": "state_dict",
    "module.pt": "module",
}
EVIDENCE = ("traced", "named", "assumed")
ABOUT = """Written by `python -m benchmarks.coverage`. Every model is built from code with the initialisation that its
authors chose, saved in every form, and audited. Fans are compared with those of the live modules, activations with
those seen in one forward pass. Exports that onnx.checker rejects are listed, not counted.
"""
SHOWN = 40  # rows of each list of misses; the JSON file has them all


def stable(results: list[Record]) -> list[Record]:
    """Return the results without what differs from run to run, and without activations that were only assumed."""
    return [{**r, "files": [_stable(f) for f in r["files"]]} for r in results]


def _stable(file: Record) -> Record:
    claimed = [m for m in file.get("misses", []) if m["what"] != "activation" or m["evidence"] != "assumed"]
    kept = {k: v for k, v in file.items() if k != "seconds"}
    return {**kept, "misses": claimed} if "misses" in file else kept


def summary(results: list[Record]) -> str:
    """The figures that the benchmark is about, a line each."""
    files = [f for r in results for f in r["files"]]
    read = [f for f in files if f["read"]]
    refused = sum(len(r["refused"]) for r in results)
    parameters, judged = sum(f["parameters"] for f in read), sum(f["judged"] for f in read)
    lines = [
        f"models: {len(results)}, of which {sum(bool(r.get('failed')) for r in results)} could not be built or audited",
        f"files read: {len(read)} of {len(files)}; exports refused, or rejected by onnx.checker: {refused}",
        f"tracebacks: {sum('traceback' in f for f in files)}; crashed rules: {sum(f['crashed'] for f in read)}",
        f"parameters judged: {judged:,} of {parameters:,} ({_share(judged, parameters)})",
    ]
    for source in ("onnx", "module", "state_dict"):
        fans = _total(f["fans"] for f in read if _source(f) == source)
        lines.append(
            f"fans equal, {source}: {fans['equal']} of {fans['compared']} ({_share(fans['equal'], fans['compared'])});"
            f" wrong and marked assumed {fans['assumed']}, wrong and claimed {fans['claimed']}"
        )
    for source in ("onnx", "module", "state_dict"):
        told = [f"{e} {a} of {b}" for e, (a, b) in _activations(f for f in read if _source(f) == source).items() if b]
        lines.append(f"activations equal, {source}: {'; '.join(told) or 'none compared'}")
    unmatched, absent = sum(len(f["unmatched"]) for f in read), sum(len(f["absent"]) for f in read)
    lines.append(f"layers that match no parameter: {unmatched}; weights of the live model without a layer: {absent}")
    severities = Counter(t["severity"] for f in read for t in f["told"])
    lines.append(f"findings on healthy models: {severities['error']} errors, {severities['warning']} warnings")
    states = Counter(f["state"] for f in read)
    lines.append("state: " + ", ".join(f"{states[s]} {s}" for s in sorted(states)))
    return "\n".join(f"- {line}" for line in lines)


def render(results: list[Record]) -> str:
    """The whole page in markdown."""
    parts = [
        "# What check reads of freshly initialised models\n",
        ABOUT,
        summary(results) + "\n",
        _by_file(results),
        _by_model(results),
    ]
    parts += [
        _list("Models that could not be built or audited", _failures(results)),
        _list("Files that were not read", _each(results, _unread)),
        _list("Error and warning findings", _each(results, _told)),
        _list("Fans wrong and claimed", _each(results, lambda f: _missed(f, "fans", claimed=True))),
        _list("Fans wrong and marked assumed", _each(results, lambda f: _missed(f, "fans", claimed=False))),
        _list(
            "Activations wrong and traced or named", _each(results, lambda f: _missed(f, "activation", claimed=True))
        ),
        _list("Layers that match no parameter", _each(results, lambda f: f.get("unmatched", []))),
        _list("Weights of the live model without a layer", _each(results, lambda f: f.get("absent", []))),
        _list("Tensors skipped", _each(results, lambda f: [f"{n}: {why}" for n, why in f.get("skipped", [])])),
        _list("Exports that the exporter refused, or that onnx.checker rejects (full check)", _refusals(results)),
    ]
    return "\n".join(part for part in parts if part)


def _by_file(results: list[Record]) -> str:
    groups: dict[str, list[Record]] = defaultdict(list)
    for result in results:
        for file in result["files"]:
            groups[file["file"]].append(file)
    head = (
        "| file | read | judged | fans equal | wrong, claimed | activations equal | errors | warnings |\n"
        + "|---" * 8
        + "|"
    )
    return (
        f"## By file\n\n{head}\n" + "\n".join(f"| {name} | {_cells(groups[name])} |" for name in sorted(groups)) + "\n"
    )


def _by_model(results: list[Record]) -> str:
    columns = ("model", "library", "read", "judged", "fans equal", "wrong, claimed", "activations equal", "errors")
    head = f"| {' | '.join((*columns, 'warnings', 'state'))} |"
    rows = []
    for result in results:
        states = Counter(f["state"] for f in result["files"] if f["read"])
        told = ", ".join(f"{n} {s}" for s, n in sorted(states.items()))
        rows.append(f"| {result['name']} | {result['library']} | {_cells(result['files'])} | {told} |")
    return f"## By model\n\n{head}\n" + "|---" * 10 + "|\n" + "\n".join(rows) + "\n"


def _cells(files: list[Record]) -> str:
    read = [f for f in files if f["read"]]
    fans = _total(f["fans"] for f in read)
    acts = _activations(read).values()
    severities = Counter(t["severity"] for f in read for t in f["told"])
    cells = [
        f"{len(read)} of {len(files)}",
        _share(sum(f["judged"] for f in read), sum(f["parameters"] for f in read)),
        f"{fans['equal']} of {fans['compared']}",
        str(fans["claimed"]),
        f"{sum(a for a, _ in acts)} of {sum(b for _, b in acts)}",
        str(severities["error"]),
        str(severities["warning"]),
    ]
    return " | ".join(cells)


def _list(title: str, lines: list[str]) -> str:
    if not lines:
        return ""
    shown = [f"- {line}" for line in lines[:SHOWN]]
    more = [f"- and {len(lines) - SHOWN} more (coverage.json has them)"] if len(lines) > SHOWN else []
    return f"## {title} ({len(lines)})\n\n" + "\n".join([*shown, *more]) + "\n"


def _each(results: list[Record], lines: Callable[[Record], Iterable[str]]) -> list[str]:
    """The lines of every file, files of one model that say the same folded into one line."""
    folded: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for file in result["files"]:
            for line in lines(file):
                folded.setdefault((result["name"], line), []).append(file["file"])
    return [f"`{name}` {', '.join(dict.fromkeys(files))}: {line}" for (name, line), files in folded.items()]


def _failures(results: list[Record]) -> list[str]:
    return [f"`{r['name']}` {r['failed']}" for r in results if r.get("failed")]


def _unread(file: Record) -> list[str]:
    return [] if file["read"] else [file.get("refused") or file.get("traceback") or "no answer"]


def _told(file: Record) -> list[str]:
    return [f"{t['severity']} {t['rule']} {t['tensor']}: {t['message']}" for t in file.get("told", [])]


def _missed(file: Record, what: str, *, claimed: bool) -> list[str]:
    return [
        f"{m['parameter']} {m['shape']} {m['kind']} {m['axes']}: told {m['told']}, true {m['true']} ({m['evidence']})"
        for m in file.get("misses", [])
        if m["what"] == what and (m["evidence"] != "assumed") == claimed
    ]


def _refusals(results: list[Record]) -> list[str]:
    folded: dict[tuple[str, str], list[str]] = {}
    for result in results:
        for file, why in sorted(result["refused"].items()):
            folded.setdefault((result["name"], why), []).append(file)
    return [f"`{name}` {', '.join(files)}: {why}" for (name, why), files in folded.items()]


def _source(file: Record) -> str:
    return SOURCES.get(file["file"], "onnx")


def _total(counts: Iterable[dict[str, int]]) -> Counter[str]:
    total: Counter[str] = Counter()
    for count in counts:
        total.update(count)
    return total


def _activations(files: Iterable[Record]) -> dict[str, tuple[int, int]]:
    total = dict.fromkeys(EVIDENCE, (0, 0))
    for file in files:
        for evidence, (equal, compared) in file["activations"].items():
            before = total[evidence]
            total[evidence] = (before[0] + equal, before[1] + compared)
    return total


def _share(part: int, whole: int) -> str:
    if not whole:
        return "-"
    return "100 %" if part == whole else f"{min(99.99, 100 * part / whole):.2f} %"
