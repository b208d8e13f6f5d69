"""The report of benchmarks.trainability."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks import trainability_fit as fits
from initaudit.risk import features
from initaudit.risk.features import NEVER

Row = dict[str, Any]
Cross = Callable[[Sequence[str], Sequence[Row], Any, Any], dict[str, fits.HeldOut]]
Transfer = Callable[[Sequence[Row], Any, Any, Any], dict[str, fits.HeldOut]]
JUDGES = {
    "ratio": "variance against He or Xavier, worst layer",
    "static": "static verdict",
    "probe": "probe verdict",
}
OPTIMIZERS = {"sgd": "SGD with momentum", "adam": "Adam"}


@dataclass(frozen=True, slots=True)
class Scored:
    """Pairs with what was seen of them, and the labels."""

    names: Sequence[str]
    rows: Sequence[Row]
    labels: Mapping[str, Any]
    first: Any  # bool: which are of the first set

    def part(self, of: Any) -> Scored:
        """Return some of the pairs."""
        places = [int(k) for k in np.flatnonzero(of)]
        return Scored([self.names[k] for k in places], [self.rows[k] for k in places], self.labels, self.first[places])


def labelled(names: Sequence[str], labels: Mapping[str, Any], optimizer: str) -> tuple[list[int], Any, Any]:
    """Return the places of pairs with a label, which of all are clear, and which of all fail."""
    words = [labels[name].get(optimizer, {}).get("label") for name in names]
    known = [k for k, word in enumerate(words) if word is not None]
    return known, np.array([w in ("trains", "fails") for w in words]), np.array([w == "fails" for w in words])


FIRST_LOOK = """## The first look at the second set

The second set was made and trained by others than those who made the features, and judged once before anything was
changed: by the four features and the fit of that day, on the first set alone. AUC of the probe's risk 0.918 (0.878 to
0.955), of the static 0.847 (0.786 to 0.900); trainable networks called unhealthy 5.1 % each. What is below was measured
after features were added for what it showed, so only the families left out are unseen, not the set.
"""


def whole(told: Scored, cross: Cross, transfer: Transfer) -> str:
    """Return the report as Markdown."""
    lines = ["# Which networks train", ""]
    for number, own in (("first", told.part(told.first)), ("second", told.part(~told.first))):
        _, clear, fails = labelled(own.names, own.labels, "sgd")
        families = len({name.split("/")[0] for name in own.names})
        train, fail, between = int((clear & ~fails).sum()), int((clear & fails).sum()), int((~clear).sum())
        lines.append(
            f"The {number} set: {len(own.names)} networks of {families} families, really trained with SGD with"
        )
        lines.append(
            f"momentum at seven learning rates: {train} train, {fail} do not, {between} are in between and not"
        )
        lines += ["scored.", ""]
    lines += [
        "Written by `python -m benchmarks.trainability`; the labels by `python -m benchmarks.trainability_labels`."
    ]
    lines += ["", *FIRST_LOOK.splitlines(), ""]
    for optimizer, title in OPTIMIZERS.items():
        lines += [f"## Labels of {title}", ""]
        lines += _held(
            "The first set, each family judged by a fit on its others", told.part(told.first), optimizer, cross
        )
        lines += _moved(told, optimizer, transfer)
        lines += _held("Both sets, each family judged by a fit on all others", told, optimizer, cross)
        _, clear, fails = labelled(told.names, told.labels, optimizer)
        shipped = {JUDGES[j]: _shipped(told.rows, j) for j in ("static", "probe")}
        lines += ["### Both sets, as `initaudit.check` ships it", "", *_table(shipped, clear, fails)]
        for judge, (risk, unhealthy) in shipped.items():
            lines += _misses(told, f"{judge}, shipped", risk, unhealthy, clear, fails, optimizer)
    lines += _alone(told)
    return "\n".join(lines + _unclear(told)) + "\n"


def _held(title: str, told: Scored, optimizer: str, cross: Cross) -> list[str]:
    _, clear, fails = labelled(told.names, told.labels, optimizer)
    held = cross(told.names, told.rows, clear, fails)
    lines = [f"### {title}", "", "Thresholds from the pairs fitted on.", ""]
    lines += _table({JUDGES[j]: (h.risk, h.unhealthy) for j, h in held.items()}, clear, fails)
    for judge in ("probe", "static"):
        lines += _misses(told, JUDGES[judge], held[judge].risk, held[judge].unhealthy, clear, fails, optimizer)
    return lines


def _moved(told: Scored, optimizer: str, transfer: Transfer) -> list[str]:
    _, clear, fails = labelled(told.names, told.labels, optimizer)
    moved = transfer(told.rows, clear, fails, told.first)
    lines = ["### The second set, judged by a fit on the first alone", ""]
    return lines + _table({JUDGES[j]: (h.risk, h.unhealthy) for j, h in moved.items()}, clear & ~told.first, fails)


def _shipped(rows: Sequence[Row], judge: str) -> tuple[Any, Any]:
    risk = [row[judge]["risk"] for row in rows]
    verdict = np.array([row[judge]["verdict"] == "unhealthy" for row in rows])
    return np.array([0.0 if r is None else r for r in risk]), verdict


def _table(judges: Mapping[str, tuple[Any, Any]], clear: Any, fails: Any) -> list[str]:
    lines = ["| judge | AUC of risk | 95 % | accuracy | trainable called unhealthy | failing called unhealthy |"]
    lines += ["|---|---|---|---|---|---|"]
    f = fails[clear]
    for name, (risk, unhealthy) in judges.items():
        r, u = risk[clear], unhealthy[clear]
        low, high = fits.interval(r, f)
        lines.append(
            f"| {name} | {fits.auc(r, f):.3f} | {low:.3f} to {high:.3f} | {100 * (u == f).mean():.1f} % |"
            f" {int(u[~f].sum())} of {int((~f).sum())} ({100 * u[~f].mean():.1f} %) |"
            f" {int(u[f].sum())} of {int(f.sum())} ({100 * u[f].mean():.1f} %) |"
        )
    return [*lines, ""]


def _misses(told: Scored, judge: str, risk: Any, unhealthy: Any, clear: Any, fails: Any, optimizer: str) -> list[str]:
    wrong = [k for k in np.argsort(-risk, kind="stable") if clear[k] and bool(unhealthy[k]) != bool(fails[k])]
    if not wrong:
        return [f"Misses of the {judge}: none.", ""]
    lines = [f"Misses of the {judge}:", "", "| pair | label | best accuracy | risk | errors |", "|---|---|---|---|---|"]
    by = "probe" if "probe" in judge else "static"
    for k in wrong:
        own = told.labels[told.names[k]][optimizer]
        errors = ", ".join(told.rows[k][by]["errors"]) if "shipped" in judge else ""
        lines.append(f"| {told.names[k]} | {own['label']} | {own['accuracy']:.3f} | {risk[k]:.2f} | {errors} |")
    return [*lines, ""]


def _alone(told: Scored) -> list[str]:
    """Say what each feature contributes: the AUC of it alone, and of the fit without it, on the pairs fitted."""
    _, clear, fails = labelled(told.names, told.labels, "sgd")
    lines = ["## What each feature contributes", "", "AUC on the clear pairs, fitted on them (SGD labels).", ""]
    lines += ["| feature | probe alone | probe without | static alone | static without |", "|---|---|---|---|---|"]
    tables = {}
    for judge in ("probe", "static"):
        rows = [row[judge]["features"] or dict.fromkeys(features.NAMES, 0.0) for row in told.rows]
        tables[judge] = np.array([[row[name] for name in features.NAMES] for row in rows])[clear]
    for k, name in enumerate(features.NAMES):
        cells = []
        for x in tables.values():
            rest = x.copy()
            rest[:, k] = -NEVER
            cells += [
                fits.auc(x[:, k], fails[clear]),
                fits.auc(fits.fitted(rest, fails[clear]).risk(rest), fails[clear]),
            ]
        lines.append(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    return [*lines, ""]


def _unclear(told: Scored) -> list[str]:
    lines = ["## In between, not scored", "", "Risk as shipped.", ""]
    lines += ["| pair | best accuracy | static | probe |", "|---|---|---|---|"]
    for name, row in zip(told.names, told.rows, strict=True):
        own = told.labels[name].get("sgd")
        if own is not None and own["label"] == "unclear":
            risks = ("-" if row[j]["risk"] is None else f"{row[j]['risk']:.2f}" for j in ("static", "probe"))
            lines.append(f"| {name} | {own['accuracy']:.3f} | " + " | ".join(risks) + " |")
    return lines
