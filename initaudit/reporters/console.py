"""The report a person reads.

    bad.onnx   ONNX, opset 17   11 layers, 658,176 parameters   fresh

        layer  kind    fan in > out  then     std   expected  ratio
        fc0    linear     256 > 256  relu  0.0884  he 0.0884   1.00
      x fc2    linear     256 > 256  relu       0  he 0.0884   0.00

    x INI103 all-zero   fc2
      all 65,536 values of linear 256 > 256 are zero: no signal goes up and no gradient goes down
      cure: torch.nn.init.kaiming_normal_(model.get_parameter("fc2.weight"), nonlinearity="relu")
      why: initaudit explain INI103

    unhealthy: 1 error, 0 warnings, 0 infos; 100 % of parameters judged

Marks: x error, ! warning, i info. Rows alike fold into one; colour carries nothing that words do not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from rich.text import Text

from initaudit.reporters.base import Reporter, Style, by_layer, counts, printable, unjudged
from initaudit.reporters.curing import command
from initaudit.reporters.page import Page
from initaudit.reporters.table import folded, layout
from initaudit.types import Evidence, Finding, Report, Severity

MARKS = {Severity.ERROR: "x", Severity.WARNING: "!", Severity.INFO: "i"}
COLOURS = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.INFO: "cyan"}
VERDICT_COLOURS = {"healthy": "bold green", "suspect": "bold yellow", "unhealthy": "bold red"}
QUIET_KINDS = ("norm", "parameter", "bias")  # rows nobody looks for unless something is wrong with them


def _render(reports: Sequence[Report], style: Style) -> str:
    page = Page.of(style)
    for k, report in enumerate(reports):
        if k:
            page.gap()
        _report(page, report, style)
    if len(reports) > 1:
        words = [r.verdict for r in reports]
        page.gap()
        page.line(
            f"{len(reports)} models: " + ", ".join(f"{words.count(w)} {w}" for w in VERDICT_COLOURS if w in words)
        )
    return page.text()


def _report(page: Page, report: Report, style: Style) -> None:
    if style.verbosity >= 0:
        _heading(page, report, style)
        _table(page, report, style)
    elif any(f.severity > Severity.INFO for f in report.findings):
        page.line((report.given or report.model.path, "bold"))
    _findings(page, report, style)
    if style.verbosity > 0 and report.skipped:
        for skip in report.skipped:
            page.line(f"not judged: {skip.name}: {skip.why}", indent=2)
        page.gap()
    _closing(page, report, style)


def _heading(page: Page, report: Report, style: Style) -> None:
    page.heading(report)
    if style.verbosity > 0:
        for reason in report.state_reasons:
            page.line(f"{report.state}: {reason}", indent=2)
    page.gap()


def _table(page: Page, report: Report, style: Style) -> None:
    verdicts = by_layer(report)
    rows = report.measured
    hidden: list[str] = []
    if style.verbosity <= 0:
        hidden = [
            m.layer.kind for m in rows if m.layer.kind in QUIET_KINDS and verdicts[m.layer.name] in ("ok", "info")
        ]
        rows = tuple(m for m in rows if m.layer.kind not in QUIET_KINDS or verdicts[m.layer.name] not in ("ok", "info"))
    groups = folded(rows, verdicts, fold=style.verbosity <= 0)
    left_out = 0
    if style.verbosity <= 0 and len(groups) > 40:
        kept = [g for k, g in enumerate(groups) if k < 36 or verdicts[g[0].layer.name] in ("warning", "error")]
        left_out = len(groups) - len(kept)
        groups = kept
    for k, line in enumerate(layout(groups, page.width - 4) if groups else ()):
        mark = ""
        colour = "dim" if k == 0 else ""
        if k:
            severity = next((s for s in Severity if s.label == verdicts[groups[k - 1][0].layer.name]), None)
            if severity is not None:
                mark, colour = MARKS[severity], COLOURS[severity]
        page.console.print(Text.assemble("  ", (f"{mark:1} ", colour), (line, "dim" if k == 0 else "")), soft_wrap=True)
    notes = []
    if left_out:
        notes.append(f"{left_out} more rows without warnings")
    unjudged = sum(skip.parameter for skip in report.skipped)
    if unjudged:
        notes.append(f"{unjudged} not judged")
    if hidden:
        kinds = sorted(set(hidden))
        notes.append(
            "and ".join(f"{hidden.count(kind)} {_plural(kind, hidden.count(kind))} " for kind in kinds).strip()
        )
    if notes:
        page.line(f"and {'; '.join(notes)} (-v shows them)", indent=4)
    for line in _judges(report):
        page.line(line, indent=4)
    page.gap()


def _judges(report: Report) -> Iterator[str]:
    """Yield who told the columns of signal and gradient, and why no one else did."""
    probed = sum(m.probed is not None for m in report.measured)
    predicted = sum(m.probed is None and m.predicted is not None for m in report.measured)
    what = "signal: variance across inputs, grad/w: gradient over weight of one input"
    if probed:
        inputs = report.probe.inputs if report.probe else 0
        yield f"{what}; measured on {inputs} inputs" + ("; ~ predicted from the weights" if predicted else "")
    elif predicted:
        how = "" if report.probe else ", --probe measures it"
        if report.model.open:
            how = ", with the activation between them that suits them best"
        yield f"{what}; ~ predicted from the weights{how}"
    elif why := unjudged(report):
        yield f"signal and gradient are not known: {why}"
    if report.probe is not None and report.probe.why:
        yield f"the probe: {report.probe.why}"
    if report.theory is not None and report.theory.unread and not probed:
        unread = report.theory.unread
        more = f" and {len(unread) - 5} more" if len(unread) > 5 else ""
        yield f"theory does not follow {', '.join(unread[:5])}{more}"
    if report.folded:
        yield "batch norms are merged into the weights here: signal and gradient are not those of training"
    if report.risk is not None and report.risk.disagreement:
        yield f"theory and probe disagree: {report.risk.disagreement}"


def _plural(kind: str, n: int) -> str:
    word = {"parameter": "other parameter", "bias": "lone bias"}.get(kind, kind)
    return word if n == 1 else word + ("es" if word.endswith("s") else "s")


def _findings(page: Page, report: Report, style: Style) -> None:
    least = Severity.INFO if style.verbosity >= 0 else Severity.WARNING
    for group in _grouped(report.findings, fold=style.verbosity <= 0):
        first = group[0]
        if first.severity < least or (style.verbosity <= 0 and _aside(first)):
            continue
        names = list(dict.fromkeys(f.layer for f in group if f.layer))
        head = f"{MARKS[first.severity]} {first.rule} {first.name}"
        page.line((head, COLOURS[first.severity]), "   " + _where(names, style))
        for message in _messages(group):
            page.line(message, indent=2)
        if first.severity > Severity.INFO or style.verbosity > 0:
            cure = command(first, report)
            if cure:
                page.line(f"cure: {cure}", indent=2)
            if first.remedy:
                page.line(f"{'by hand' if cure else 'cure'}: {first.remedy}", indent=2)
            page.line((f"why: initaudit explain {first.rule}", "dim"), indent=2)
        page.gap()


def _aside(f: Finding) -> bool:
    """Whether nothing is wrong, and no layer is meant: what only those want to know who ask for all."""
    return f.severity is Severity.INFO and f.layer is None


def _messages(group: Sequence[Finding]) -> Iterator[str]:
    """Yield what to print of findings told together: the first's message, and how many say the like."""
    first = group[0]
    doubt = "what stands between the weights" if "by" in first.evidence else "its role"
    note = f" [{first.severity.label}, not {first.capped.label}: {doubt} is not certain]" if first.capped else ""
    same = all(f.message == first.message for f in group)
    which = "" if same or first.layer is None else f"{first.layer}: "
    more = f" ({'' if same else 'for example; '}{len(group)} layers)" if len(group) > 1 else ""
    yield which + first.message + more + note


def _grouped(findings: Sequence[Finding], *, fold: bool) -> list[list[Finding]]:
    """Group info findings by rule, and graver ones only with their exact like."""
    groups: dict[object, list[Finding]] = defaultdict(list)
    for k, f in enumerate(findings):
        alike = f.rule if f.severity is Severity.INFO else (f.rule, f.severity, f.message)
        groups[(alike, f.severity) if fold else k].append(f)
    return list(groups.values())


def _where(names: Sequence[str], style: Style) -> str:
    most = 3 if style.verbosity <= 0 else len(names)
    shown = ", ".join(names[:most])
    return shown + (f" ... {names[-1]} ({len(names)} layers)" if len(names) > most else "")


def _closing(page: Page, report: Report, style: Style) -> None:
    n = counts(report)
    word = report.verdict
    parts = ", ".join(f"{n[s]} {s.label}{'' if n[s] == 1 else 's'}" for s in sorted(Severity, reverse=True))
    capped = [f for f in report.findings if f.capped is not None]
    closing = f": {parts}; {_percent(report.coverage)} of parameters judged; {_risk(report)}"
    if style.verbosity < 0:  # one line for one path, however long, so that it can be searched
        path = printable(f"{report.given or report.model.path}: ")
        page.console.print(Text.assemble(path, (word, VERDICT_COLOURS[word]), closing), soft_wrap=True)
    else:
        page.line((word, VERDICT_COLOURS[word]), closing)
    if capped:
        worst = max(f.capped for f in capped if f.capped is not None)
        page.line(
            f"{len(capped)} of these would weigh more (up to {worst.label}) if it were certain what each layer is for"
            + _settled(report)
        )


def _risk(report: Report) -> str:
    if report.risk is None:
        return "signal not judged"
    if report.folded:
        return "risk not told: batch norms are merged into the weights"
    return f"risk {report.risk.value:.2f} by {report.risk.by}"


def _settled(report: Report) -> str:
    """Name the options that would raise the evidence, if there are any."""
    options = {
        "none": ": name the code it is for with --model or --arch, audit an ONNX export, or say what follows weights"
        " with --activation NAME",
        "module": ": name the code it is for with --model or --arch, or audit an ONNX export (torch.onnx.export)",
    }
    source = report.model.graph_source if report.model.graph_evidence is Evidence.TRACED else "none"
    return options.get(source, "; the graph itself leaves that open")


def _percent(share: float) -> str:
    """Round down, so that 100 % means all of it."""
    return f"{int(share * 1000) / 10:g} %"


REPORTER = Reporter("console", _render)
