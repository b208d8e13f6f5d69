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
import importlib
import json
import multiprocessing
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
LIMITS = {"export": 240, "audit": 900}  # seconds for one model
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
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
    parser.add_argument("--export-one", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    if options.export_one:
        return _export_one(options.export_one[0], Path(options.export_one[1]))
    from benchmarks import false_alarms_models as models
    from benchmarks import false_alarms_report as report

    groups = {True: "held-out", False: "tuned"}
    rows = [
        r
        for r in models.EVERY
        if not options.only or {r.name, r.library, groups[models.held_out(r.name)]} & set(options.only)
    ]
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as scratch:
        caches = [folder.resolve() for folder in options.cache] or [Path(scratch)]
        failed: dict[str, str] = {}
        if "onnx" in options.ways:
            with ThreadPoolExecutor(options.jobs) as pool:
                troubles = pool.map(lambda r: _export(r.name, caches), rows)
            failed = {r.name: why for r, why in zip(rows, troubles, strict=True) if why}
        if options.exports:
            return 0
        todo = [(r.name, _exported(r.name, caches), tuple(options.ways)) for r in rows]
        found = _audits(todo, options.jobs, Path(scratch))
    for record in found:
        if record["name"] in failed:
            record["failed"]["onnx"] = failed[record["name"]]
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


def _export(name: str, caches: list[Path]) -> str | None:
    """Export where there is none yet, in a process of its own; return why it failed, if it did."""
    if _exported(name, caches) is not None:
        return None
    target = caches[0] / name / "dynamo_20.onnx"
    refusal = target.parent / "no_dynamo_20.txt"
    if not refusal.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        trouble = _run(name, target)
        print(f"{name}: {trouble or 'exported'}", file=sys.stderr, flush=True)
        if not trouble:
            return None
        target.unlink(missing_ok=True)
        refusal.write_text(trouble, encoding="utf-8")
    return refusal.read_text(encoding="utf-8")


def _audits(todo: list[tuple[str, Path | None, tuple[str, ...]]], jobs: int, scratch: Path) -> list[Record]:
    """Audit each model in a process of its own: a fork of this one, which has imported all libraries."""
    _import_all()
    fork = multiprocessing.get_context("fork")
    records: list[Record] = [{"name": name, "ways": {}, "failed": {}} for name, _, _ in todo]
    waiting = list(enumerate(todo))
    running: dict[int, tuple[Any, float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            at, (name, exported, ways) = waiting.pop(0)
            process = fork.Process(target=_audit, args=(name, exported, ways, scratch / f"{name}.json"))
            process.start()
            running[at] = process, time.perf_counter()
        for at, (process, began) in list(running.items()):
            process.join(0.1)
            late = time.perf_counter() - began > LIMITS["audit"]
            if process.is_alive() and not late:
                continue
            if process.is_alive():
                process.kill()
                process.join()
            del running[at]
            record = records[at]
            answers = scratch / f"{record['name']}.json"
            if answers.exists():
                record.update(json.loads(answers.read_text(encoding="utf-8")))
            if late or process.exitcode:
                record["failed"]["all"] = f"more than {LIMITS['audit']} s" if late else f"exit {process.exitcode}"
            print(f"{record['name']}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return records


def _import_all() -> None:
    import torch

    import initaudit
    from benchmarks import zoo_torchvision

    torch.set_num_threads(1)
    zoo_torchvision.prepare()
    for name in ("timm", "transformers", "diffusers", "peft"):
        importlib.import_module(name)
    for one in pkgutil.walk_packages(initaudit.__path__, "initaudit."):  # so that all are audited by the same code
        if not one.name.endswith("__main__"):
            importlib.import_module(one.name)


def _exported(name: str, caches: list[Path]) -> Path | None:
    return next((p for folder in caches for p in sorted((folder / name).glob("dynamo_*.onnx"), reverse=True)), None)


def _run(name: str, target: Path) -> str | None:
    """Export one model; return why it failed, if it did."""
    command = [sys.executable, "-m", "benchmarks.false_alarms", "--export-one", name, str(target)]
    try:
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=LIMITS["export"], check=False
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"export: more than {LIMITS['export']} s"
    if done.returncode == 0:
        return None
    last = (done.stdout.strip() or done.stderr.strip()).splitlines()[-1:] or ["no output"]
    return re.sub(r"(?<![:/\w])/(\S+/)+", "", f"export: exit {done.returncode}: {last[0]}")[:300]


def _export_one(name: str, target: Path) -> int:
    """What a child process does: write an export."""
    import torch

    from benchmarks import false_alarms_models as models
    from benchmarks import save

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    row = models.row(name)
    try:
        save._onnx(replace(row, build=lambda: _run_in(*row.build())), target, dynamo=True, opset=20)
    except Exception as error:
        print(save._reason(error))
        return 1
    return 0


def _audit(name: str, exported: Path | None, ways: tuple[str, ...], answers: Path) -> None:
    """What a child process does: audit a model in all ways, and write down what is said after each."""
    from benchmarks import false_alarms_models as models
    from benchmarks import zoo

    warnings.filterwarnings("ignore")
    told: Record = {"ways": {}, "failed": {}}
    model, inputs = zoo.build(models.row(name))
    for way in ways:
        if way == "onnx" and exported is None:
            continue
        try:
            told["ways"][way] = _audited(way, model, inputs, str(exported))
        except Exception as error:
            told["failed"][way] = f"{type(error).__name__}: {error}"[:300]
        answers.write_text(json.dumps(told), encoding="utf-8")


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
