"""Does check read what people save? Builds the zoo, saves each model in every form, audits every file.

    python -m benchmarks.coverage [--only NAME ...] [--jobs 2] [--cache FOLDER]

Writes benchmarks/results/coverage.md and coverage.json. A model is built and audited in processes of its own, so that
a crash costs one row. Without --cache the saved files are deleted after their audit; with it they are kept and reused.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LIMIT = 600  # seconds for building or auditing one model
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONHASHSEED": "0"}

Record = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME", help="models or libraries; the results are only printed"
    )
    parser.add_argument("--jobs", type=int, default=2, help="models at a time")
    parser.add_argument("--cache", type=Path, help="folder that keeps the saved files and is reused")
    parser.add_argument("--step", nargs=3, metavar=("STEP", "NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        return _step(*options.step)
    from benchmarks import zoo

    rows = [r for r in zoo.ZOO if not options.only or {r.name, r.library} & set(options.only)]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        cache = options.cache.resolve() if options.cache else None
        results = list(pool.map(lambda row: _model(row.name, row.library, cache, Path(scratch)), rows))
    from benchmarks import coverage_report

    page = coverage_report.render(results)
    if options.only:
        print(page)
    else:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "coverage.md").write_text(page, encoding="utf-8")
        stable = json.dumps(coverage_report.stable(results), indent=1, sort_keys=True)
        (RESULTS / "coverage.json").write_text(stable + "\n", encoding="utf-8")
        print(coverage_report.summary(results))
    print(f"{len(rows)} models, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return 0


def _model(name: str, library: str, cache: Path | None, scratch: Path) -> Record:
    """Build, save and audit one model in processes of their own."""
    folder = (cache or scratch) / name
    start = time.perf_counter()
    result: Record = {"name": name, "library": library, "files": [], "refused": {}}
    if not (folder / "truth.json").exists():
        result["failed"] = _run("save", name, folder)
    built = time.perf_counter() - start
    if (folder / "refused.json").exists():
        result["refused"] = json.loads((folder / "refused.json").read_text(encoding="utf-8"))
    if (folder / "truth.json").exists():
        answers = scratch / f"{name}.json"
        trouble = _run("audit", name, folder, answers)
        result["failed"] = result.get("failed") or trouble
        if answers.exists():
            result["files"] = json.loads(answers.read_text(encoding="utf-8"))
    if cache is None:
        shutil.rmtree(folder, ignore_errors=True)
    print(
        f"{name}: saved in {built:.0f} s, audited in {time.perf_counter() - start - built:.0f} s",
        file=sys.stderr,
        flush=True,
    )
    return result


def _run(step: str, name: str, folder: Path, answers: Path | None = None) -> str | None:
    """Run one step in a process; return why it failed, if it did."""
    where = os.fspath(folder) if answers is None else f"{folder}{os.pathsep}{answers}"
    command = [sys.executable, "-m", "benchmarks.coverage", "--step", step, name, where]
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
        return f"{step}: more than {LIMIT} s"
    if done.returncode == 0:
        return None
    last = done.stderr.strip().splitlines()[-1:] or ["no output"]
    return re.sub(r"(?<![:/\w])/(\S+/)+", "", f"{step}: exit {done.returncode}: {last[0]}")[:300]


def _step(step: str, name: str, where: str) -> int:
    """What a child process does."""
    if step == "save":
        import torch

        from benchmarks import save, zoo

        torch.set_num_threads(1)
        save.everything(zoo.row(name), Path(where))
    else:
        from benchmarks import compare

        folder, answers = where.split(os.pathsep)
        Path(answers).write_text(json.dumps(compare.folder(Path(folder))), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
