"""Write the generated pages again: `python -m docs.generate`. They hold what `explain` and `schemes` print.

The README's reports are what `check`, `fix` and `show` print of the fixtures, its table what `benchmarks.rescue` wrote.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from initaudit import activations, audit, rules, schemes
from initaudit.layers import from_graph_tags
from initaudit.live.execute.case import OPERATORS
from initaudit.live.execute.executor import TABLES
from initaudit.ops import OPS, Op
from initaudit.repair import fixing
from initaudit.reporters import freedom, repair, reporters
from initaudit.reporters.base import Style
from initaudit.theory import engine

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent


def rules_page() -> str:
    """Return docs/rules.md."""
    parts = ["# Rules\n\nGenerated from the rules' own text; `initaudit explain CODE` prints the same.\n"]
    for rule in rules.catalogue():
        settings = "".join(f"- `{key} = {value}`\n" for key, value in rule.settings.items()) or "- none\n"
        body = rule.doc.replace("\n## ", "\n### ")
        parts.append(
            f"\n## {rule.code} {rule.name}\n\nSeverity: {rule.severity.label}\n\n{body}\n\n### Settings\n{settings}"
        )
    return "".join(parts)


def table_page(title: str, command: str, lines: list[str]) -> str:
    """Return a page that shows a table as the command prints it."""
    return f"# {title}\n\nGenerated; `initaudit {command}` prints the same.\n\n```\n" + "\n".join(lines) + "\n```\n"


def tags_page() -> str:
    """Return docs/tags.md: the tags with the comments beside them."""
    rows = re.findall(r'^    [A-Z_]+ = "([^"]+)"  # (.+)$', inspect.getsource(from_graph_tags.Tag), re.MULTILINE)
    table = "".join(f"| {tag} | {meaning} |\n" for tag, meaning in rows)
    intro = "What a weight is for, as far as the graph proves it; several may hold. Generated from the code."
    return f"# Tags\n\n{intro}\n\n| tag | meaning |\n|---|---|\n{table}"


_SILENT = {"index", "source"}  # families that hand on no signal
_READ = {"constant", "if", "loop", "scan"}  # what readers resolve before anything is run
_TOLD = [op for op in OPS.values() if op.name not in _READ]


def operations_page() -> str:
    """Return docs/operations.md: what neither the probe nor theory understands."""
    assert TABLES  # they fill OPERATORS
    unrun = [op for op in _TOLD if op.onnx and op.name not in OPERATORS]
    unread = [op for op in _TOLD if op.family not in _SILENT and not engine.known(op.name)]
    run = sum(name in OPERATORS for name, op in OPS.items() for _ in op.onnx)
    return (
        "# Operations\n\nGenerated from the tables of the code. What a graph holds beyond them is in its report:"
        " `skipped` and `summary.probe.why` for the probe, `summary.theory.unread` for theory.\n\n"
        "## ONNX operations that the probe cannot run\n\n"
        f"{run} of the ONNX operations that initaudit has a name for can be run; how they do on ONNX's own tests is in"
        " [executor.md](../benchmarks/results/executor.md). Graphs of torch (traced, TorchScript, `.pt2`) are run"
        " with the torch functions that they recorded. `If`, `Loop` and `Scan` are run as far as the reader could"
        " resolve them. Not run:\n\n"
        f"{_by_family(unrun, lambda op: ', '.join(op.onnx))}\n"
        "## Operations that theory does not follow\n\n"
        "By their canonical name. What comes after one of these is not known to theory, and neither is the gradient of"
        " what comes before.\n\n"
        f"{_by_family(unread, lambda op: op.name)}"
    )


def _by_family(ops: list[Op], name: Callable[[Op], str]) -> str:
    families = dict.fromkeys(op.family for op in ops)
    rows = (f"| {family} | {', '.join(name(op) for op in ops if op.family == family)} |\n" for family in families)
    return f"| family | operations |\n|---|---|\n{''.join(rows)}"


_CHECKED = "$ initaudit check fixtures/broken.onnx\n"
_FIXED = "$ initaudit fix fixtures/broken.onnx\n"
_FREED = "$ initaudit show fixtures/tied.onnx --symmetry\n"
_RESCUE = ("<!-- rescue: python -m benchmarks.rescue -->\n", "<!-- end -->")


def checked() -> str:
    """Return what `check` prints of the fixture."""
    path = "fixtures/broken.onnx"
    return reporters()["console"].render([audit.audit_path(path)], Style(width=100))


def fixed() -> str:
    """Return what `fix` prints of the fixture; nothing is put in place."""
    with fixing.pending("fixtures/broken.onnx", fixing.Wish(force=True), fixing.Judge()) as waiting:
        return repair.render(waiting.repair, Style(width=100))


def rescue() -> str:
    """Return the first table of what the benchmark of repaired nets wrote, "" where it has not been run."""
    page = ROOT / "benchmarks" / "results" / "rescue.md"
    rows = re.search(r"(?:^\|.*\n)+", page.read_text() if page.exists() else "", re.MULTILINE)
    return rows[0] if rows else ""


def freed() -> str:
    """Return what `show --symmetry` prints of the fixture with tied units."""
    report = audit.audit_path("fixtures/tied.onnx", chosen=())
    return freedom.render(report, Style(width=100))


def readme() -> str:
    """Return README.md with what `check` and `fix` print today, and the table of repaired nets."""
    shown = (
        (_CHECKED, checked, "```"),
        (_FIXED, fixed, "```"),
        (_FREED, freed, "```"),
        (_RESCUE[0], rescue, _RESCUE[1]),
    )
    return _filled(ROOT / "README.md", shown)


def symmetry_page() -> str:
    """Return docs/symmetry.md with what `show --symmetry` prints today."""
    return _filled(HERE / "symmetry.md", ((_FREED, freed, "```"),))


def _filled(page: Path, shown: Sequence[tuple[str, Callable[[], str], str]]) -> str:
    """Return a page with what is made put between where it starts and where it stops."""
    text = page.read_text()
    with contextlib.chdir(ROOT):
        for start, made, stop in shown:
            at = text.find(start)
            if at >= 0:
                at += len(start)
                text = text[:at] + made() + text[text.index(stop, at) :]
    return text


def pages() -> dict[str, str]:
    """Return every generated page by file name."""
    return {
        "rules.md": rules_page(),
        "schemes.md": table_page("Schemes", "schemes", list(schemes.listing())),
        "activations.md": table_page("Activations", "activations", list(activations.listing())),
        "tags.md": tags_page(),
        "operations.md": operations_page(),
        "symmetry.md": symmetry_page(),
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text)
    (ROOT / "README.md").write_text(readme())
