"""Does risk predict which networks train? Three judges on networks that were really trained.

    python -m benchmarks.trainability [--fit] [--cached] [--jobs N]

Two sets of networks that share neither architectures nor data: benchmarks.trainability_nets and
benchmarks.trainability_more; their labels come from benchmarks.trainability_labels. The fit of risk is judged on pairs
of families that it was not fitted on: on the first set with one family left out after the other; on the second by a fit
on the first alone; on both together with one family left out after the other; and as a user gets it from
`initaudit.check`. Writes benchmarks/results/trainability.md and the .json of both sets.

--fit     writes initaudit/risk/fit.py from all clear pairs of both sets
--cached  takes what was measured of each pair from the .json of the last run
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import initaudit
from benchmarks import trainability_fit as fits
from benchmarks import trainability_report as reports
from benchmarks.trainability_nets import Pair
from initaudit.grounds import analysed
from initaudit.risk import features
from initaudit.types import Report, Severity, Signals

HERE = Path(__file__).parent
NETS = "benchmarks.trainability_nets"
SETS = ((NETS, "trainability"), ("benchmarks.trainability_more", "trainability_more"))  # networks, name of the results
FIT = HERE.parent / "initaudit" / "risk" / "fit.py"
SEED = 1  # of the example input
MOST = 20.0  # powers of two that a variance is off at most: zero and infinite ones
Row = dict[str, Any]


def seen(pair: Pair, module: str = NETS) -> Row:
    """Return what each judge says of a pair: features and verdict of probe and theory, the worst variance ratio."""
    torch.set_num_threads(1)
    nets = importlib.import_module(module)
    torch.manual_seed(SEED)
    example = nets.example(pair) if hasattr(nets, "example") else torch.randn(16, 64)
    probed = initaudit.check(nets.build(pair), example, probe=True)
    static = initaudit.check(nets.build(pair), example, probe=False)
    return {
        "ratio": _ratio(static),
        "probe": {"features": _features(probed, probed.probe), **_told(probed)},
        "static": {"features": _features(static, static.theory), **_told(static)},
    }


def _features(report: Report, signals: Signals | None) -> dict[str, float] | None:
    if signals is None:
        return None
    shares = features.shares(report.measured, signals, sure=analysed(report.freedom))
    found = features.measure(report.measured, signals, shares)
    return None if found is None else {name: round(value, 4) for name, value in asdict(found).items()}


def _told(report: Report) -> Row:
    errors = sorted({f.name for f in report.findings if f.severity is Severity.ERROR})
    risk = None if report.risk is None else round(report.risk.value, 4)
    return {"risk": risk, "verdict": report.verdict, "errors": errors}


def _ratio(report: Report) -> float:
    """Return the worst |log2(variance / expected variance)| over all layers, as a check layer by layer would."""
    ratios = [m.variance_ratio for m in report.measured if m.variance_ratio is not None]
    return max((min(MOST, abs(math.log2(r))) if r > 0 else MOST for r in ratios), default=0.0)


def measured(module: str, jobs: int) -> dict[str, Row]:
    """Return what every pair of a module shows, by name."""
    pairs = list(importlib.import_module(module).pairs())
    with ProcessPoolExecutor(jobs) as pool:
        rows = pool.map(partial(seen, module=module), pairs, chunksize=8)
        return {pair.name: row for pair, row in zip(pairs, rows, strict=True)}


def table(rows: Sequence[Row], judge: str) -> Any:
    """Return features (pairs, features); a judge that says nothing of a pair has the features of a healthy one."""
    told = [row[judge]["features"] or dict.fromkeys(features.NAMES, 0.0) for row in rows]
    return np.array([[one[name] for name in features.NAMES] for one in told])


def crossed(names: Sequence[str], rows: Sequence[Row], clear: Any, fails: Any) -> dict[str, fits.HeldOut]:
    """Return what each judge says of every pair when its family is left out."""
    families = [name.split("/")[0] for name in names]
    ratio = np.array([row["ratio"] for row in rows])
    by = {judge: table(rows, judge) for judge in ("static", "probe")}

    def by_ratio(on: Any) -> Any:
        return lambda asked: ratio[asked]

    def by_risk(judge: str) -> Any:
        def learned(on: Any) -> Any:
            model = fits.fitted(by["probe"][on], fails[on])
            return lambda asked: model.risk(by[judge][asked])

        return learned

    told = {
        name: fits.held_out(families, clear, fails, by_risk(name), partial(fits.threshold, level="error"))
        for name in by
    }
    return {"ratio": fits.held_out(families, clear, fails, by_ratio, fits.most_accurate), **told}


def transferred(rows: Sequence[Row], clear: Any, fails: Any, of: Any) -> dict[str, fits.HeldOut]:
    """Return what each judge says of all pairs by a fit on some of them.

    Args:
        rows: of all pairs.
        clear: which have a clear label.
        fails: their labels.
        of: which to fit on, where they are clear.
    """
    told = {}
    for judge in ("static", "probe"):
        model = fits.fitted(table(rows, "probe")[of & clear], fails[of & clear])
        risk = model.risk(table(rows, judge))
        cut = fits.threshold(risk[of & clear], fails[of & clear], "error")
        told[judge] = fits.HeldOut(risk, risk >= cut)
    return told


def write_fit(rows: Sequence[Row], clear: Any, fails: Any) -> None:
    """Write the fit on all clear pairs into the package: one for both judges, on what the probe measured."""
    x = table(rows, "probe")[clear]
    fit = fits.fitted(x, fails[clear])
    slope, half = (
        {n: float(f"{v:.3g}") for n, v in zip(features.NAMES, values, strict=True)} for values in (fit.slope, fit.half)
    )
    fit = fits.Fit(np.array(list(slope.values())), np.array(list(half.values())), float(f"{fit.base:.3g}"))
    risk, labels = fit.risk(x), fails[clear]
    lines = [
        '"""The fit of risk, written by `python -m benchmarks.trainability --fit`: nothing here is set by hand."""',
        "",
        "# fmt: off",
        f"SLOPE = {json.dumps(slope)}  # per decade",
        f"HALF = {json.dumps(half)}  # where it alone gives one half",
        f"BASE = {fit.base}  # without any of them",
        f"WARNING = {fits.threshold(risk, labels, 'warning')}",
        f"ERROR = {fits.threshold(risk, labels, 'error')}",
        "# fmt: on",
    ]
    FIT.write_text("\n".join(lines) + "\n")


def main() -> None:
    """Measure, fit if asked, score, and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--cached", action="store_true")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    names, kept, labels, first = [], [], {}, []
    for module, name in SETS:
        results = HERE / "results" / f"{name}.json"
        rows = json.loads(results.read_text()) if options.cached else measured(module, options.jobs)
        if not options.cached:
            results.write_text(json.dumps(rows, indent=1) + "\n")
        own = json.loads((HERE / "results" / f"{name}_labels.json").read_text())
        known = [pair for pair in rows if pair in own]
        names += known
        kept += [rows[pair] for pair in known]
        first += [module == NETS] * len(known)
        labels.update(own)
    told = reports.Scored(names, kept, labels, np.array(first))
    if options.fit:
        _, clear, fails = reports.labelled(names, labels, "sgd")
        write_fit(kept, clear, fails)
        print(f"wrote {FIT}; run again without --fit to score it")
        return
    text = reports.whole(told, crossed, transferred)
    print(text)
    (HERE / "results" / "trainability.md").write_text(text)


if __name__ == "__main__":
    main()
