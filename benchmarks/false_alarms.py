"""Does check leave healthy models alone? Audits freshly initialised ones as their experts built them, in four ways.

    python -m benchmarks.false_alarms [--only NAME ...] [--jobs 2] [--cache FOLDER ...]

Writes benchmarks/results/false_alarms.md and false_alarms.json. Each model is audited as a live module with the probe,
as a live module without it, as an ONNX export and as a bare state_dict, in a process of its own, so that a crash costs
one row. It exits with 1 where a finding is an error, where warnings lie on more than one layer in a hundred, or where a
warning has no written reason. Models of the zoo were looked at while thresholds were chosen; the others are held out,
and what their first audit said stays in false_alarms.json.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LIMITS = {"export": 240, "audit": 600}  # seconds for one model
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONHASHSEED": "0"}
WAYS = ("probe", "static", "onnx", "state_dict")

Record = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.false_alarms", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="NAME",
        help="models, libraries, 'tuned' or 'held-out'; the results are only printed",
    )  # fmt: skip
    parser.add_argument("--jobs", type=int, default=2, help="models at a time")
    parser.add_argument(
        "--cache", type=Path, nargs="+", default=[], metavar="FOLDER",
        help="folders with exports as benchmarks.coverage saves them; the first one also keeps new ones",
    )  # fmt: skip
    parser.add_argument("--ways", nargs="+", default=WAYS, choices=WAYS, help="only these; the results are printed")
    parser.add_argument("--exports", action="store_true", help="only fill the cache")
    parser.add_argument("--json", type=Path, help="also write what was found here")
    parser.add_argument("--step", nargs=3, metavar=("STEP", "NAME", "WHERE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        return _step(*options.step)
    from benchmarks import false_alarms_models as models
    from benchmarks import false_alarms_report as report

    groups = {True: "held-out", False: "tuned"}
    rows = [
        r
        for r in models.EVERY
        if not options.only or {r.name, r.library, groups[models.held_out(r.name)]} & set(options.only)
    ]
    caches = [folder.resolve() for folder in options.cache]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(options.jobs) as pool:
        places = caches or [Path(scratch)]

        def one(row: Any) -> Record:
            return _model(row.name, places, Path(scratch), tuple(options.ways), only_export=options.exports)

        found = list(pool.map(one, rows))
    if options.exports:
        return 0
    for row, record in zip(rows, found, strict=True):
        record.update(library=row.library, held_out=models.held_out(row.name))
    whole = not options.only and set(options.ways) == set(WAYS)
    told = report.whole(found, _first_looks())
    if options.json:
        options.json.write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    if whole:
        (RESULTS / "false_alarms.json").write_text(json.dumps(told, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        (RESULTS / "false_alarms.md").write_text(report.render(told), encoding="utf-8")
        print(report.summary(told))
    else:
        print(report.render(told))
    print(f"{len(rows)} models, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return report.verdict(told)


def _first_looks() -> dict[str, Record]:
    path = RESULTS / "false_alarms.json"
    if not path.exists():
        return {}
    looks: dict[str, Record] = json.loads(path.read_text(encoding="utf-8"))["first looks"]
    return looks


def _model(name: str, caches: list[Path], scratch: Path, ways: tuple[str, ...], *, only_export: bool) -> Record:
    """Export where there is none yet, then audit, each in a process of its own."""
    start = time.perf_counter()
    record: Record = {"name": name, "ways": {}, "failed": {}}
    exported = _exported(name, caches)
    if exported is None and "onnx" in ways:
        target = caches[0] / name / "dynamo_20.onnx"
        refusal = target.parent / "no_dynamo_20.txt"
        if not refusal.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            trouble = _run("export", name, target)
            if trouble:
                target.unlink(missing_ok=True)
                refusal.write_text(trouble, encoding="utf-8")
        exported = target if target.exists() else None
        if exported is None:
            record["failed"]["onnx"] = refusal.read_text(encoding="utf-8")
    if not only_export:
        answers = scratch / f"{name}.json"
        where = os.pathsep.join([str(answers), str(exported or ""), *ways])
        trouble = _run("audit", name, where)
        if answers.exists():
            told = json.loads(answers.read_text(encoding="utf-8"))
            record["ways"], failed = told["ways"], told["failed"]
            record["failed"].update(failed)
        if trouble:
            record["failed"]["all"] = trouble
    print(f"{name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return record


def _exported(name: str, caches: list[Path]) -> Path | None:
    return next((p for folder in caches for p in sorted((folder / name).glob("dynamo_*.onnx"), reverse=True)), None)


def _run(step: str, name: str, where: Path | str) -> str | None:
    """Run one step in a process; return why it failed, if it did."""
    command = [sys.executable, "-m", "benchmarks.false_alarms", "--step", step, name, str(where)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **ENVIRONMENT}, capture_output=True, text=True,
            timeout=LIMITS[step], check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"{step}: more than {LIMITS[step]} s"
    if done.returncode == 0:
        return None
    last = done.stderr.strip().splitlines()[-1:] or ["no output"]
    return re.sub(r"(?<![:/\w])/(\S+/)+", "", f"{step}: exit {done.returncode}: {last[0]}")[:300]


def _step(step: str, name: str, where: str) -> int:
    """What a child process does."""
    import warnings

    import torch

    from benchmarks import false_alarms_models as models
    from benchmarks import save, zoo

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    row = models.row(name)
    if step == "export":
        save._onnx(replace(row, build=lambda: _run_in(*row.build())), Path(where), dynamo=True, opset=20)
        return 0
    answers, exported, *ways = where.split(os.pathsep)
    told: Record = {"ways": {}, "failed": {}}
    model, inputs = zoo.build(row)
    for way in ways:
        if way == "onnx" and not exported:
            continue
        try:
            told["ways"][way] = _audited(way, model, inputs, exported)
        except Exception as error:
            told["failed"][way] = f"{type(error).__name__}: {error}"[:300]
        Path(answers).write_text(json.dumps(told), encoding="utf-8")
    return 0


def _run_in(model: Any, inputs: dict[str, Any]) -> Any:
    """Let torch.nn.utils.spectral_norm find its vectors: an export divides by the norm that they estimate for good."""
    import torch
    from torch.nn.utils.spectral_norm import SpectralNorm

    if any(isinstance(hook, SpectralNorm) for m in model.modules() for hook in m._forward_pre_hooks.values()):
        model.train()
        with torch.no_grad():
            for _ in range(15):
                model(**inputs)
    return model, inputs


def _audited(way: str, model: Any, inputs: dict[str, Any], exported: str) -> Record:
    import torch

    import initaudit

    if way in ("probe", "static"):
        return _told(initaudit.check(model, inputs, probe=way == "probe", jobs=1))
    if way == "onnx":
        return _told(initaudit.check(exported, jobs=1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state_dict.pt"
        torch.save(model.state_dict(), path)
        return _told(initaudit.check(path, jobs=1))


def _told(report: Any) -> Record:
    """What a report says, as far as this benchmark asks."""
    findings = [
        {
            "rule": f.rule, "name": f.name, "severity": f.severity.label, "layer": f.layer, "also": list(f.also),
            "message": f.message,
        }
        for f in report.findings
        if f.severity.label != "info"
    ]  # fmt: skip
    risk = report.risk
    return {
        "layers": len(report.measured),
        "state": str(report.state),
        "crashed": report.crashed,
        "findings": findings,
        "risk": None if risk is None else round(risk.value, 6),
        "by": "" if risk is None else risk.by,
        "symptoms": [] if risk is None else [
            {"kind": s.kind, "risk": round(s.risk, 4), "value": s.value, "layers": list(s.layers[:2]),
             "capped": s.capped}
            for s in risk.symptoms
        ],
        "disagreement": "" if risk is None else risk.disagreement,
        "probe": "" if report.probe is None else report.probe.why,
        "theory": "" if report.theory is None else report.theory.why,
        "unread": [] if report.theory is None else sorted(set(report.theory.unread)),
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
