"""Are PyTorch models read as graphs, and are the activations right? Builds models, reads every form, compares.

    python -m benchmarks.graphs [--only NAME ...] [--jobs 2] [--cache FOLDER]

Writes benchmarks/results/graphs.md. Four parts: the activation after each weight against a truth that is not ours; the
same model in every form; the roles; the cost of a 7B model. Exit 1 where an answer with evidence `traced` is wrong, a
difference between forms has no written reason, or a truth does not fit its model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.coverage import ENVIRONMENT, RESULTS, ROOT

Record = dict[str, Any]
LIMIT = 900  # seconds for one process
BATCH = 12  # models a process: importing the libraries takes longer than most of them
NETS = "nets:"  # before the name of a hand-written network in graphs_roles
WHOLE = "llama"  # what the parts on cost are about
PARTS = ("answers", "sources", "roles", "large", "small")


def main() -> int:
    about = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.graphs", description=about)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="models or parts; the page is printed")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    parser.add_argument("--cache", type=Path, help="folder that keeps the saved files and is reused")
    parser.add_argument("--step", nargs="+", metavar="STEP FOLDER NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        return _step(*options.step)
    from benchmarks import graphs_models, graphs_report, graphs_roles

    start = time.perf_counter()
    only = set(options.only)
    names = [row.name for row in graphs_models.rows() if not only - set(PARTS) or row.name in only]
    kept = [name for name in graphs_models.SOURCES if name in names]
    chosen = only & set(PARTS) or (set(PARTS) if not only else {"answers", "sources", "roles"})
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        folder = options.cache.resolve() if options.cache else Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        # One after the other, before the rest: their seconds are measured.
        alone = {part: _one(part, folder) for part in ("large", "small") if part in chosen}
        jobs: list[tuple[str, list[str]]] = []
        marked = [name for name in graphs_roles.ROLES if not only - set(PARTS) or name.removeprefix(NETS) in only]
        for part, models in (("sources", kept), ("answers", names), ("roles", marked)):
            jobs += [(part, batch) for batch in _batches(models if part in chosen else [])]
        list(pool.map(lambda job: _several(job[0], folder, job[1]), jobs))
        results: Record = {
            "answers": [_kept("answers", folder, n) for n in names] if "answers" in chosen else [],
            "sources": [_kept("sources", folder, n) for n in kept] if "sources" in chosen else [],
            "roles": [_kept("roles", folder, n) for n in marked] if "roles" in chosen else [],
            **alone,
        }
    page, wrong = graphs_report.render(results)
    if options.only:
        print(page)
    else:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "graphs.md").write_text(page, encoding="utf-8")
        print(graphs_report.summary(results))
    print("\n".join(wrong), file=sys.stderr)
    print(f"{len(names)} models, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return 1 if wrong else 0


def _batches(names: Sequence[str]) -> list[list[str]]:
    count = -(-len(names) // BATCH)
    return [list(names[start::count]) for start in range(count)]


def _several(part: str, folder: Path, names: list[str]) -> None:
    """Answer for some models in one process; those it did not come to, each in a process of its own."""
    places = {name: _place(part, folder, name) for name in names}
    for place in places.values():
        place.unlink(missing_ok=True)
    _run(part, folder, names)
    for name, place in places.items():
        why = None if place.exists() else _run(part, folder, [name])
        if not place.exists():
            place.write_text(json.dumps({"name": name, "failed": why or "no answer"}), encoding="utf-8")


def _one(part: str, folder: Path) -> Record:
    _several(part, folder, [WHOLE])
    return _kept(part, folder, WHOLE)


def _place(part: str, folder: Path, name: str) -> Path:
    return folder / f"{part}.{name.removeprefix(NETS)}.json"


def _kept(part: str, folder: Path, name: str) -> Record:
    place = _place(part, folder, name)
    found: Record = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {"failed": "no answer"}
    return found


def _run(part: str, folder: Path, names: list[str]) -> str | None:
    """Run one step in a process; return why it failed, if it did."""
    command = [sys.executable, "-m", "benchmarks.graphs", "--step", part, os.fspath(folder), *names]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True, timeout=LIMIT,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"{part}: more than {LIMIT} s"
    if done.returncode == 0:
        return None
    last = done.stderr.strip().splitlines()[-1:] or ["no output"]
    return f"exit {done.returncode}: {last[0]}"[:300]


def _step(part: str, where: str, *names: str) -> int:
    """What a child process does."""
    import torch

    from benchmarks import graphs_answers, graphs_cost, graphs_models, graphs_sources, zoo_torchvision

    torch.set_num_threads(1)
    folder = Path(where)
    zoo_torchvision.prepare()
    for name in names:
        if part in ("large", "small"):
            record = getattr(graphs_cost, part)(folder)
        elif part == "roles":
            record = graphs_answers.roles(name, graphs_models.row(name.removeprefix(NETS)))
        else:
            files = folder / name
            files.mkdir(exist_ok=True)
            of = graphs_answers.of if part == "answers" else graphs_sources.of
            record = of(graphs_models.row(name), files)
        _place(part, folder, name).write_text(json.dumps(record), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
