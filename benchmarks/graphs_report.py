"""Turns the answers of `benchmarks.graphs` into its page, and says what is not as it must be."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

from benchmarks.graphs_cost import GIGABYTES, SECONDS
from benchmarks.graphs_reasons import reason
from benchmarks.graphs_sources import FORMS

Record = dict[str, Any]
EVIDENCE = ("traced", "named", "assumed", "no row")
SHOWN = 60  # lines of one list
ABOUT = """Written by `python -m benchmarks.graphs`. Every model is built from code, small and freshly initialised.
"""
ANSWERS = """The activation after each weight, as `initaudit.check` tells it of the live module and of a bare file: the
state_dict, beside config.json where the library writes one. The truth comes from no tracer of ours. By hand: read from
the source and written down (`benchmarks/graphs_truths.py`), every matrix of the model. By hooks: where the very tensor
that a weight gives enters the next module (`benchmarks/graphs_hooks.py`), in models whose activations are all modules;
"not told" counts the weights that such hooks cannot follow, and these are left out. Shares by evidence: right of told.
"""
FORMED = """Rows of the layer table that differ from those of the live module in kind, shape (up to transposition),
fans, groups, activation or role; names apart. `-`: not saved in this form. Constant tensors are made uneven first,
since exporters store equal tensors once.
"""


def render(results: Record) -> tuple[str, list[str]]:
    """Return the whole page in markdown, and a line for each thing that makes the benchmark fail."""
    parts = ["# PyTorch models as graphs\n", ABOUT, summary(results) + "\n"]
    if results["answers"]:
        parts += ["## Activations\n", ANSWERS, _models(results["answers"]), *_answer_lists(results["answers"])]
    if results["sources"]:
        parts += [
            "## The same model in every form\n",
            FORMED,
            _forms(results["sources"]),
            *_form_lists(results["sources"]),
        ]
    if results["roles"]:
        parts += ["## Roles\n", _roles(results["roles"]), *_role_lists(results["roles"])]
    if "large" in results or "small" in results:
        parts += ["## Cost of a 7B model\n", _cost(results)]
    return "\n".join(part for part in parts if part), _wrong(results)


def summary(results: Record) -> str:
    """The figures that the benchmark is about, a line each."""
    lines = []
    done = [r for r in results["answers"] if not r.get("failed")]
    if results["answers"]:
        hand = sum(r["by_hand"] for r in done)
        lines.append(
            f"models: {len(results['answers'])}, the truth by hand for {hand} and by hooks for {len(done) - hand};"
            f" not built or audited: {len(results['answers']) - len(done)}"
        )
        for source, what in (("live", "live module"), ("file", "bare state_dict and config")):
            total = _total(r[source]["counts"] for r in done)
            right, counted = (sum(pair[i] for pair in total.values()) for i in (0, 1))
            told = ", ".join(f"{label} {total[label][0]} of {total[label][1]}" for label in EVIDENCE if label in total)
            lines.append(f"activations right, {what}: {right} of {counted} ({_share(right, counted)}): {told}")
        lines.append(f"activations wrong with evidence traced, live module: {len(_traced(done))}")
    if results["sources"]:
        forms = [f for r in results["sources"] for f in r.get("forms", {}).values()]
        read = [f for f in forms if "differences" in f]
        rows, apart = sum(f["rows"] for f in read), sum(len(f["differences"]) for f in read)
        lines.append(
            f"forms read: {len(read)} of {len(forms)}, exporters refused {sum('refused' in f for f in forms)};"
            f" rows: {rows}, different from the live module's: {apart},"
            f" without a written reason: {sum(map(len, _unexplained(results['sources']).values()))}"
        )
    if results["roles"]:
        want, have = _tags(results["roles"])
        lines.append(
            f"roles and tags right: {have.total()} of {want.total()}; misses: {len(_misses(results['roles']))}"
        )
    if "large" in results:
        lines.append(f"7B Llama, built and traced: {_limits(results['large'])}")
    if "small" in results:
        lines.append(f"layer table of a bf16 checkpoint against the live module: {_equal(results['small'])}")
    return "\n".join(f"- {line}" for line in lines)


def _wrong(results: Record) -> list[str]:
    lines = [
        f"{r['name']}: {r['failed']}"
        for part in ("answers", "sources", "roles")
        for r in results[part]
        if r.get("failed")
    ]
    done = [r for r in results["answers"] if not r.get("failed")]
    lines += [f"wrong and traced: {line}" for line in _traced(done)]
    lines += [f"{r['name']}: {line}" for r in done for line in r["rows"]]
    lines += [f"{r['name']}: calls {', '.join(r['functions'])} outside of modules" for r in done if _unfit(r)]
    lines += [f"no reason: {line[2:]}" for line in _folded(_unexplained(results["sources"]))]
    lines += _unread(results["sources"])
    lines += [f"role: {line}" for line in _misses(results["roles"])]
    large, small = results.get("large"), results.get("small")
    if large is not None and (large.get("failed") or large["seconds"] > SECONDS or large["gigabytes"] > GIGABYTES):
        lines.append(f"7B Llama: {large.get('failed') or _limits(large)}")
    if small is not None and (small.get("failed") or small["differences"] or not small["order"] or small["mismatches"]):
        lines.append(f"bf16 checkpoint: {small.get('failed') or _equal(small)}")
    return lines


# ---- activations


def _models(answers: list[Record]) -> str:
    head = "| model | library | truth | weights | not told | live | traced | named | assumed | file | named | assumed |"
    lines = [head, "|---" * 12 + "|"]
    for r in answers:
        if r.get("failed"):
            lines.append(f"| {r['name']} | failed: {r['failed']} |" + " |" * 10)
            continue
        counted = sum(pair[1] for pair in r["live"]["counts"].values())
        cells = [r["name"], r["library"], "by hand" if r["by_hand"] else "hooks", str(counted), str(len(r["untold"]))]
        for source, shown in (("live", EVIDENCE[:3]), ("file", EVIDENCE[1:3])):
            counts = r[source]["counts"]
            cells.append(_share(sum(pair[0] for pair in counts.values()), counted))
            cells += ["{} of {}".format(*counts[label]) if label in counts else "-" for label in shown]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _answer_lists(answers: list[Record]) -> list[str]:
    done = [r for r in answers if not r.get("failed")]
    apart = [f"`{r['name']}` {n}: {truth}, {who} say {said}" for r in done for n, truth, who, said in r["cross"]]
    agreed = sum(r["agreed"] for r in done)
    witness = (
        f"A second witness (hooks beside the hand; the recorded calls of `benchmarks/calls.py`) agrees {agreed} times;"
        f" it says something else {len(apart)} times.\n"
    )
    return [
        witness,
        _list("A second witness says something else", apart),
        _list("Wrong, live module", _misread(done, "live", EVIDENCE)),
        _list("Wrong and named, bare file", _misread(done, "file", ("named", "traced"))),
        _list("Wrong and assumed, bare file", _misread(done, "file", ("assumed", "no row"))),
    ]


def _misread(answers: Iterable[Record], source: str, labels: Iterable[str]) -> list[str]:
    wanted = set(labels)
    return [
        f"`{r['name']}` {name}: told {said}, true {truth} ({label})"
        for r in answers
        for name, said, truth, label in r[source]["wrong"]
        if label in wanted
    ]


def _traced(answers: Iterable[Record]) -> list[str]:
    return _misread(answers, "live", ("traced",))


def _unfit(r: Record) -> bool:
    return bool(r["functions"]) and not r["by_hand"]


# ---- forms


def _forms(sources: list[Record]) -> str:
    lines = [f"| model | rows | {' | '.join(FORMS)} |", "|---" * (len(FORMS) + 2) + "|"]
    for r in sources:
        cells = [r["name"], str(r.get("rows", "failed")), *(_cell(r.get("forms", {}).get(form)) for form in FORMS)]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _cell(found: Record | None) -> str:
    if found is None:
        return "-"
    return "refused" if "refused" in found else "not read" if "unread" in found else str(len(found["differences"]))


def _form_lists(sources: list[Record]) -> list[str]:
    groups: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
    for model, form, name, part, row in _differences(sources):
        why = reason(form, part, row)
        if why is not None:
            groups[why].append((f"{model}, {form}", part, name))
    lines = []
    for why, found in groups.items():
        where: dict[tuple[str, str], list[str]] = defaultdict(list)
        for place, part, name in found:
            where[place, part].append(name)
        lines.append(_section(why, len(found), _folded(where)))
    bare = _unexplained(sources)
    refused = [
        f"`{r['name']}` {form}: {f.get('refused') or f.get('unread')}"
        for r in sources
        for form, f in r.get("forms", {}).items()
        if "differences" not in f
    ]
    return [
        _section("Differences without a written reason", sum(map(len, bare.values())), _folded(bare)) if bare else "",
        *lines,
        _list("Not saved, by the exporter's word, or not read", refused),
    ]


def _folded(where: dict[tuple[str, str], list[str]]) -> list[str]:
    lines = []
    for (place, part), names in where.items():
        more = f" and {len(names) - 2} more" if len(names) > 2 else ""
        lines.append(f"- {place}: {part}: {', '.join(f'`{name}`' for name in names[:2])}{more}")
    return lines


def _differences(sources: list[Record]) -> Iterable[tuple[str, str, str, str, list[str]]]:
    """Model, form, name of the row, one difference, and all differences of that row."""
    for r in sources:
        for form, found in r.get("forms", {}).items():
            for name, _, parts in found.get("differences", ()):
                for part in parts:
                    yield r["name"], form, name, part, parts


def _unread(sources: list[Record]) -> list[str]:
    return [
        f"`{r['name']}`, {form}: not read: {found['unread']}"
        for r in sources
        for form, found in r.get("forms", {}).items()
        if "unread" in found
    ]


def _unexplained(sources: list[Record]) -> dict[tuple[str, str], list[str]]:
    """Names of rows by where they differ and how."""
    where: dict[tuple[str, str], list[str]] = defaultdict(list)
    for model, form, name, part, row in _differences(sources):
        if reason(form, part, row) is None:
            where[f"{model}, {form}", part].append(name)
    return where


# ---- roles


def _tags(roles: list[Record]) -> tuple[Counter[str], Counter[str]]:
    want: Counter[str] = Counter()
    have: Counter[str] = Counter()
    for r in roles:
        want.update(r.get("want", {}))
        have.update(r.get("have", {}))
    return want, have


def _roles(roles: list[Record]) -> str:
    want, have = _tags(roles)
    about = (
        f"What {len(roles)} live modules are told of their weights against tables written by hand"
        " (`benchmarks/graphs_roles.py`). A tag where none belongs is a miss too.\n"
    )
    lines = [
        about,
        "| role or tag | right | of |",
        "|---|---|---|",
        *(f"| {tag} | {have[tag]} | {want[tag]} |" for tag in sorted(want)),
    ]
    return "\n".join(lines) + "\n"


def _misses(roles: list[Record]) -> list[str]:
    return [miss for r in roles for miss in r.get("misses", ())]


def _role_lists(roles: list[Record]) -> list[str]:
    return [_list("Roles missed", _misses(roles))]


# ---- cost


def _limits(large: Record) -> str:
    if large.get("failed"):
        return f"failed: {large['failed']}"
    return (
        f"{large['parameters']:,} parameters, {large['rows']} rows;"
        f" {_met(large['seconds'], SECONDS)} the limit of {SECONDS:.0f} s,"
        f" {_met(large['gigabytes'], GIGABYTES)} that of {GIGABYTES} GB"
    )


def _met(value: float, limit: float) -> str:
    return f"{'within' if value <= limit else 'NOT within'}"


def _equal(small: Record) -> str:
    if small.get("failed"):
        return f"failed: {small['failed']}"
    apart = f"{len(small['differences'])} of {small['rows']} rows differ"
    order = "same order" if small["order"] else "another order"
    return f"{apart}, {order}, {small['mismatches']} parameters that do not fit"


def _cost(results: Record) -> str:
    lines = []
    large, small = results.get("large"), results.get("small")
    if large is not None:
        lines.append(f"A process of its own reads config.json, builds without weights, traces: {_limits(large)}.")
        if not large.get("failed"):
            time, memory = 100 * large["seconds"] / SECONDS, 100 * large["gigabytes"] / GIGABYTES
            lines.append(
                f"Imports included it took {time:.0f} % of the seconds, {memory:.0f} % of the memory (peak RSS)."
            )
    if small is not None:
        about = "\nA small Llama in bfloat16, its checkpoint with `--arch hf:FOLDER` against the live module:"
        lines.append(f"{about} {_equal(small)}.")
        lines += [f"- {line}" for line in small.get("differences", ())]
    return "\n".join(lines) + "\n"


# ---- all


def _list(title: str, lines: list[str]) -> str:
    return _section(title, len(lines), [f"- {line}" for line in lines]) if lines else ""


def _section(title: str, count: int, lines: list[str]) -> str:
    more = [f"- and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return f"### {title} ({count})\n\n" + "\n".join([*lines[:SHOWN], *more]) + "\n"


def _total(counts: Iterable[dict[str, list[int]]]) -> dict[str, list[int]]:
    total: dict[str, list[int]] = {}
    for count in counts:
        for label, (right, counted) in count.items():
            before = total.setdefault(label, [0, 0])
            before[0] += right
            before[1] += counted
    return total


def _share(part: int, whole: int) -> str:
    if not whole:
        return "-"
    return "100 %" if part == whole else f"{min(99.99, 100 * part / whole):.2f} %"
