"""The executor held against ONNX's node tests, ONNX Runtime and torch itself: `results/executor.md`."""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import executor_files, executor_modules, executor_nodes, zoo
from initaudit.ops import OPS

Record = dict[str, Any]
PARTS = ("nodes", "files", "modules")
RESULTS = Path(__file__).parent / "results" / "executor.md"
_GRADIENT = 1e-4  # relative error that a gradient may have
RANDOM = ("bernoulli", "random", "training_dropout", "multinomial")  # what tests of chance are called


def main() -> int:
    """Run the parts that are asked for, write or print the page, and return 1 where a limit is not met."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.executor", description=__doc__)
    parser.add_argument(
        "--only", nargs="*", default=list(PARTS), help=f"parts ({', '.join(PARTS)}), or names of models"
    )
    parser.add_argument("--files", type=Path, nargs="*", default=[], help="ONNX files, or folders of folders of them")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    parts = [part for part in PARTS if part in options.only] or ["modules", "files"]
    names = tuple(name for name in options.only if name not in PARTS)
    text, good = ["# The executor", ""], True
    for part in parts:
        found, fine = _PART[part](names, options)
        text += found
        good = good and fine
    page = "\n".join(text).rstrip() + "\n"
    print(page)
    if set(parts) == set(PARTS) and not names:
        RESULTS.write_text(page, encoding="utf-8")
    return 0 if good else 1


def _quiet() -> None:
    import warnings

    import torch

    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    os.environ["TRANSFORMERS_VERBOSITY"] = "error"


def _each(run: Callable[[Any], Record], items: Iterable[Any], jobs: int) -> list[Record]:
    with ProcessPoolExecutor(jobs, initializer=_quiet) as pool:
        return list(pool.map(run, items))


# ---- node tests


def _nodes(names: tuple[str, ...], options: argparse.Namespace) -> tuple[list[str], bool]:
    import onnx

    _quiet()
    table = executor_nodes.by_operator(executor_nodes.run())
    default = {op: outcomes for op, outcomes in table.items() if "::" not in op}
    ours = {op: outcomes for op, outcomes in default.items() if executor_nodes.claimed(op)}
    counted = [o for outcomes in ours.values() for o in outcomes if not any(word in o[0] for word in RANDOM)]
    passed = sum(not why for _, _, why in counted)
    text = [
        "## ONNX's backend node tests", "",
        f"Those of onnx {onnx.__version__}, as its own generator makes them. Relative error below 1e-3, as its runner",
        "asks for; 1e-2 where the result is in half precision, which is computed in single. A test whose function is",
        "expanded counts for the first operator in it. Tests of chance, and of dropout in training, are left out.", "",
        f"**{passed} of {len(counted)} tests pass of the {len(ours)} operators that are implemented.**", "",
        "| operator | passed | of | what fails |", "|---|---:|---:|---|",
    ]  # fmt: skip
    for op, outcomes in ours.items():
        own = [o for o in outcomes if not any(word in o[0] for word in RANDOM)]
        if own:
            failed = [(name, why) for name, _, why in own if why]
            text.append(f"| {op} | {len(own) - len(failed)} | {len(own)} | {_reasons(failed)} |")
    lacking = [op for op in table if op not in ours]
    text += ["", "Operators of these tests that are not implemented: " + ", ".join(lacking) + ".", ""]
    rest = sorted(name for name, op in OPS.items() if op.onnx and not any(executor_nodes.claimed(n) for n in op.onnx))
    text += ["Operations of the canonical table that ONNX files may hold and that are not implemented: "
             + ", ".join(rest) + ".", ""]  # fmt: skip
    text += [
        "Random ones: " + ", ".join(op for op in ours if all(any(w in o[0] for w in RANDOM) for o in ours[op])) + ".",
        "",
    ]
    return text, passed >= 0.9 * len(counted)


def _reasons(failed: list[tuple[str, str]]) -> str:
    short = [f"{name.removeprefix('test_')}: {why.removeprefix('refused: ')[:70]}" for name, why in failed]
    more = f"; and {len(short) - 2} more" if len(short) > 2 else ""
    return "; ".join(short[:2]).replace("|", "/") + more


# ---- files


def _files(names: tuple[str, ...], options: argparse.Namespace) -> tuple[list[str], bool]:
    paths: list[Path] = []
    for given in options.files:
        paths += (
            sorted(p for p in given.glob("**/*.onnx") if not names or p.parent.name in names)
            if given.is_dir()
            else [given]
        )
    records = _each(executor_files.run, paths, options.jobs)
    ran = [r for r in records if "error" in r]
    far = [r for r in ran if not r["error"] < executor_files.CLOSE]
    unsaid = [r for r in far if not r["why"]]
    refused = [r for r in records if "refused" in r]
    text = ["## ONNX files against ONNX Runtime", "", *_shape_of(ran, executor_files.CLOSE)]
    if ran:
        text += [(f"Seconds of all together: {sum(r['runtime'] for r in ran):.1f} in ONNX Runtime, "
                 f"{sum(r['ours'] for r in ran):.1f} here."), ""]  # fmt: skip
    inner = [r["inside"] for r in ran if "inside" in r]
    if inner:
        text += [
            f"{len(inner)} fresh models answer with zeros; there {sum(inner)} values inside them were compared.",
            "",
        ]
    text += _listed("Off by more", [f"{r['file']}: {r['error']:.2g}; {r['why'] or 'NO REASON'}" for r in far])
    text += _listed("Cannot be run", [f"{r['file']}: {r['refused']}" for r in refused])
    text += _listed("No answer of ONNX Runtime", [f"{r['file']}: {r['no truth']}" for r in records if "no truth" in r])
    return text, not unsaid


# ---- modules


def _modules(names: tuple[str, ...], options: argparse.Namespace) -> tuple[list[str], bool]:
    rows = [row.name for row in zoo.ZOO if not names or row.name in names]
    text, good = ["## Graphs from torch against torch", ""], True
    for form in executor_modules.FORMS:
        records = _each(partial(_module, form), rows, options.jobs)
        ran = [r for r in records if "error" in r]
        far = [r for r in ran if not r["error"] < executor_modules.CLOSE or r["outputs"][0] != r["outputs"][1]]
        text += [f"### {form}", "", *_shape_of(ran, executor_modules.CLOSE)]
        gradients = [r["gradient"] for r in ran if r.get("gradient") is not None]
        if gradients:
            middle, worst = statistics.median(gradients), max(gradients)
            rough = [f"{r['name']}: {r['gradient']:.2g}" for r in ran if (r.get("gradient") or 0.0) >= _GRADIENT]
            told = f"relative error of the worst: median {middle:.1e}, largest {worst:.1e}"
            text += [f"Gradients of all parameters under a random cotangent, {len(gradients)} models: {told}.", ""]
            text += _listed("Gradients off by more", rough)
            good = good and not rough
        text += _listed("Off by more", [f"{r['name']}: {r['error']:.2g}, outputs {r['outputs']}" for r in far])
        for key, title in (("refused", "Cannot be run"), ("no graph", "No graph"), ("no file", "Not written by torch")):
            text += _listed(title, [f"{r['name']}: {r[key]}" for r in records if key in r])
        good = good and not far
    return text, good


def _module(form: str, name: str) -> Record:
    try:
        return executor_modules.run(zoo.row(name), form, gradients=form == "traced")
    except Exception as error:
        return {"name": name, "refused": f"CRASH {type(error).__name__}: {error}"[:200]}


# ---- text


def _shape_of(records: list[Record], close: float) -> list[str]:
    if not records:
        return ["None was run.", ""]
    errors = sorted(r["error"] for r in records)
    near = sum(e < close for e in errors)
    return [(f"**{near} of {len(errors)} within {close:g}**; relative error of the worst output: median "
            f"{statistics.median(errors):.1e}, largest {errors[-1]:.1e}."), ""]  # fmt: skip


def _listed(title: str, lines: list[str]) -> list[str]:
    return [f"{title}:", "", *(f"- {line}" for line in lines), ""] if lines else []


_PART: dict[str, Callable[[tuple[str, ...], argparse.Namespace], tuple[list[str], bool]]] = {
    "nodes": _nodes, "files": _files, "modules": _modules,
}  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
