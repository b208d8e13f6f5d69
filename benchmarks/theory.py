"""Does theory say what the probe measures? Both on every layer of the zoo and of the nets of trainability_nets.

    python -m benchmarks.theory [--only NAME ...] [--cache FOLDER] [--jobs N] [--layers]

NAME is a model, a library, `nets`, or the beginning of the name of a net. Writes benchmarks/results/theory.md, unless
--only is given: then the page is only printed, with --layers followed by each layer of the models. With --cache, what
the probe says is kept there and reused: a rerun costs only the theory. Each model of the zoo is probed in a process of
its own, so that a crash costs one row. `python -m benchmarks.theory_values MODEL --cache FOLDER` shows where in a model
theory goes wrong.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

from benchmarks import theory_cases, theory_report
from benchmarks.theory_report import Row

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LIMIT = 600  # seconds for building and probing one model
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONHASHSEED": "0"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.theory", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="models, libraries, nets")
    parser.add_argument("--cache", type=Path, help="folder that keeps what the probe says")
    parser.add_argument("--jobs", type=int, default=2, help="models at a time")
    parser.add_argument("--layers", action="store_true", help="print every layer")
    parser.add_argument("--make", nargs="+", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        return _make(options.make, options.cache)
    chosen = list(theory_cases.names(options.only))
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.cache or Path(scratch)).resolve()
        failed = _made(chosen, folder, options.jobs)
        start = time.perf_counter()
        todo = [(folder, name, family) for name, family in chosen]
        if options.jobs < 2:
            rows = [_judged(*one) for one in todo]
        else:
            with ProcessPoolExecutor(options.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
                rows = list(pool.map(_judged, *zip(*todo, strict=True)))
    rows = [Row(row.name, row.family, failed=failed.get(row.name, row.failed)) if row.failed else row for row in rows]
    page = theory_report.render(rows)
    if options.layers:
        page += "".join(theory_report.layers(row) for row in rows)
    if options.only:
        print(page)
    else:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "theory.md").write_text(page, encoding="utf-8")
        print(theory_report.summary(rows))
    print(f"{len(rows)} models, theory {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return 0


def _made(chosen: Sequence[tuple[str, str]], folder: Path, jobs: int) -> dict[str, str]:
    """Probe what is not in the folder yet; return why it failed by name."""
    known = {name: found for name, _ in chosen if (found := theory_cases.failure(folder, name))}
    lacking = [
        (name, family) for name, family in chosen if name not in known and not theory_cases.path(folder, name).exists()
    ]
    groups: dict[str, list[str]] = {}
    for name, family in lacking:
        groups.setdefault(family if family.startswith(theory_cases.NETS) else name, []).append(name)
    with ThreadPoolExecutor(jobs) as pool:
        why = list(pool.map(lambda names: _run(names, folder), groups.values()))
    for names, reason in zip(groups.values(), why, strict=True):
        for name in names:
            if reason and not theory_cases.path(folder, name).exists():
                theory_cases.fail(folder, name, reason)
                known[name] = reason
    return known


def _run(names: Sequence[str], folder: Path) -> str:
    """Probe models in a process of their own; return why that failed, if it did."""
    command = [sys.executable, "-m", "benchmarks.theory", "--cache", str(folder), "--make", *names]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, **ENVIRONMENT},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"more than {LIMIT} s"
    print(f"{names[0]}: probed in {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    if done.returncode == 0:
        return ""
    last = done.stderr.strip().splitlines()[-1:] or ["no output"]
    return re.sub(r"(?<![:/\w])/(\S+/)+", "", f"exit {done.returncode}: {last[0]}")[:200]


def _make(names: Sequence[str], folder: Path) -> int:
    """What a child process does."""
    families = dict(theory_cases.names([]))
    trouble: Exception | None = None
    for name in names:
        try:
            theory_cases.make(folder, name, families[name])
        except Exception as error:  # the next net has nothing to do with it
            trouble = error
    if trouble is not None:
        raise trouble
    return 0


def _judged(folder: Path, name: str, family: str) -> Row:
    """Return what theory says of a model beside what the probe said."""
    from initaudit import theory

    print(name, file=sys.stderr, flush=True)

    if not theory_cases.path(folder, name).exists():
        return Row(name, family, failed="not probed")
    case = theory_cases.load(folder, name)
    if case.probed.why:
        return Row(name, family, failed=f"probe: {case.probed.why}")
    start = time.perf_counter()
    try:
        made = theory.predict(case.graph, case.measured)
    except Exception as error:  # a row of the page, not the end of it
        at = _place(error)
        return Row(name, family, failed=f"theory: {type(error).__name__}: {' '.join(str(error).split())[:120]}{at}")
    return theory_report.row(case, made, time.perf_counter() - start)


def _place(error: Exception) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" ({Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno})"


if __name__ == "__main__":
    sys.exit(main())
