"""Networks that were seen to fail: does `fix` make them train?

    python -m benchmarks.rescue_sample [--count 60] [--jobs 2]

Of the two sets of labelled networks (benchmarks.trainability_labels) those that fail under SGD and that `check` does
not call healthy, a random sample: each is repaired by `fix` (scheme auto) and trained as the labels were, at the same
rates. Beside it stands what the best of all initializations of the same architecture reaches in the labels: what no
known one trains is no fault of the repair. Pairs that are in results/rescue_sample.json already are left alone.

Writes benchmarks/results/rescue_sample.md.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import random
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch

import initaudit
from benchmarks import trainability_labels as labels
from benchmarks.trainability_nets import Pair

RESULTS = Path(__file__).parent / "results"
SETS = (("benchmarks.trainability_nets", "trainability"), ("benchmarks.trainability_more", "trainability_more"))
Row = dict[str, Any]


def failing() -> list[tuple[str, Pair]]:
    """Return the module and the pair of every network that fails and is not called healthy, in a random order."""
    found = []
    for module, name in SETS:
        known = json.loads((RESULTS / f"{name}_labels.json").read_text())
        seen = json.loads((RESULTS / f"{name}.json").read_text())
        for pair in importlib.import_module(module).pairs():
            told = known.get(pair.name, {}).get("sgd", {}).get("label")
            if told == "fails" and seen.get(pair.name, {}).get("static", {}).get("verdict", "healthy") != "healthy":
                found.append((module, pair))
    random.Random(0).shuffle(found)
    return found


def best_known() -> dict[str, float]:
    """Return the accuracy that the best initialization of an architecture reaches under SGD, by family/architecture."""
    best: dict[str, float] = defaultdict(float)
    for _, name in SETS:
        for pair, told in json.loads((RESULTS / f"{name}_labels.json").read_text()).items():
            architecture = pair.rpartition("/")[0]
            best[architecture] = max(best[architecture], told.get("sgd", {}).get("accuracy", 0.0))
    return best


def rescued(module: str, pair: Pair) -> Row:
    """Return the verdicts on a network before and after its repair, and what it learns then."""
    torch.set_num_threads(1)
    nets = importlib.import_module(module)
    task = nets.task(pair) if hasattr(nets, "task") else labels.digits()
    example = nets.example(pair) if hasattr(nets, "example") else task.x[:16]
    net = nets.build(pair)
    repair = initaudit.fix(net, example, probe=False)
    best, at = 0.0, 0.0
    for rate in labels.RATES["sgd"]:
        torch.manual_seed(0)  # what dropout draws
        reached = labels.accuracy(copy.deepcopy(net), "sgd", rate, task)
        best, at = max((best, at), (reached, rate))
        if best >= task.trains:
            break
    return {
        "before": repair.before.verdict,
        "after": repair.after.verdict if repair.after is not None else repair.before.verdict,
        "drawn": len(repair.plan.recipes),
        "of": len(repair.before.measured),
        "accuracy": round(best, 3),
        "rate": at,
        "trains": best >= task.trains,
        "needed": round(task.trains, 3),
    }


def page(rows: dict[str, Row]) -> str:
    """Return the report."""
    families: dict[str, list[str]] = defaultdict(list)
    for name in rows:
        families[name.split("/")[0]].append(name)
    told = (
        f"{len(rows)} networks at random, of those that fail under SGD and that `check` does not call healthy; trained"
        " as the labels were. `python -m benchmarks.rescue_sample`"
    )
    lines = [
        "# Networks that were seen to fail, after `initaudit fix`",
        "",
        told,
        "",
        "| family | networks | healthy after `fix` | train after `fix` |",
        "|---|---|---|---|",
    ]
    for family, names in (*sorted(families.items()), ("all", list(rows))):
        healthy = sum(rows[name]["after"] == "healthy" for name in names)
        lines.append(f"| {family} | {len(names)} | {healthy} | {sum(rows[name]['trains'] for name in names)} |")
    known = best_known()
    lines += ["", "| does not train | accuracy | needed | best initialization known |", "|---|---|---|---|"]
    for name, row in sorted(rows.items()):
        if not row["trains"]:
            best = known[name.rpartition("/")[0]]
            lines.append(f"| {name} | {row['accuracy']:.2f} | {row['needed']:.2f} | {best:.2f} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Repair and train what is not done yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    kept = RESULTS / "rescue_sample.json"
    rows: dict[str, Row] = json.loads(kept.read_text()) if kept.exists() else {}
    sample = failing()[: options.count]
    with ProcessPoolExecutor(options.jobs) as pool:
        todo = {pair.name: pool.submit(rescued, module, pair) for module, pair in sample if pair.name not in rows}
        for name, future in todo.items():
            rows[name] = future.result()
            print(name, rows[name], flush=True)
            kept.write_text(json.dumps(rows, indent=1) + "\n")
    text = page({pair.name: rows[pair.name] for _, pair in sample})
    print(text)
    (RESULTS / "rescue_sample.md").write_text(text)


if __name__ == "__main__":
    main()
