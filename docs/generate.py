"""Write the generated pages again: `python -m docs.generate`. They hold what `explain` and `schemes` print."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from initaudit import activations, rules, schemes
from initaudit.layers import from_graph_tags

HERE = Path(__file__).resolve().parent


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


def pages() -> dict[str, str]:
    """Return every generated page by file name."""
    return {
        "rules.md": rules_page(),
        "schemes.md": table_page("Schemes", "schemes", list(schemes.listing())),
        "activations.md": table_page("Activations", "activations", list(activations.listing())),
        "tags.md": tags_page(),
    }


if __name__ == "__main__":
    for name, text in pages().items():
        (HERE / name).write_text(text)
