"""LSUV on real architectures, as modules and as ONNX files, measured without initaudit; and what it costs.

`python -m benchmarks.lsuv` writes results/lsuv.md; names of models restrict it to these and print instead. Needs the
packages of zoo.txt.
"""

from __future__ import annotations

import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from benchmarks import lsuv_cost, lsuv_models, lsuv_report, zoo, zoo_torchvision
from initaudit.edits import Repair

OUT = Path(__file__).parent / "results" / "lsuv.md"
TOL = 0.05
EXPORTERS = {"torchscript": 17, "dynamo": 20}


@dataclass(frozen=True, slots=True)
class Product:
    """One product that was measured, and why it is not at the target, where the repair says so."""

    weight: str
    part: str
    use: int
    variance: float
    excuse: str = ""

    @property
    def within(self) -> bool:
        """Whether the variance is as it should be."""
        return abs(self.variance - 1) < TOL


@dataclass(frozen=True, slots=True)
class Result:
    """One model in one form."""

    model: str
    form: str
    products: tuple[Product, ...] = ()
    failed: str = ""

    @property
    def unexplained(self) -> list[Product]:
        """Products off the target for which there is no reason."""
        return [p for p in self.products if not p.within and not p.excuse]


def main() -> None:
    """Measure all models and write the page."""
    import torch

    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    zoo_torchvision.prepare()
    wanted = sys.argv[1:]
    rows = {**lsuv_models.MAIN, **{name: zoo.row(name).build for name in lsuv_models.MORE}}
    chosen = {name: build for name, build in rows.items() if not wanted or name in wanted}
    costs = [] if wanted else lsuv_cost.measured()
    results = []
    for name, build in chosen.items():
        for result in _forms(name, build):
            results.append(result)
            print(lsuv_report.line(result), flush=True)
    if wanted:
        return
    OUT.write_text(lsuv_report.page(results, costs, lsuv_models.MAIN), encoding="utf-8")


def _forms(name: str, build: Any) -> Iterator[Result]:
    """Yield the results of one model: live, and from each exporter."""
    try:
        yield _module(name, build)
    except Exception as error:
        yield Result(name, "module", failed=_short(error))
    for exporter, opset in EXPORTERS.items():
        with tempfile.TemporaryDirectory() as folder:
            try:
                yield _onnx(name, build, Path(folder), exporter, opset)
            except Exception as error:
                yield Result(name, exporter, failed=_short(error))


def _built(build: Any) -> tuple[Any, dict[str, Any]]:
    import torch

    torch.manual_seed(0)
    model, inputs = build()
    return model.eval(), inputs


def _module(name: str, build: Any) -> Result:
    import initaudit
    from benchmarks import lsuv_hooks

    model, inputs = _built(build)
    data = lsuv_models.batch(inputs)
    done = initaudit.fix(model, inputs, scheme="lsuv", all=True, force=True, data=data)
    if done.worse:
        return Result(name, "module", failed=f"the second audit finds it worse: {done.worse[0]}")
    return Result(name, "module", tuple(_excused(done, lsuv_hooks.look(model, data))))


def _onnx(name: str, build: Any, folder: Path, exporter: str, opset: int) -> Result:
    import onnxruntime

    import initaudit
    from benchmarks import lsuv_onnx
    from benchmarks.save import exported

    model, inputs = _built(build)
    path, out = folder / "m.onnx", folder / "out.onnx"
    with _silence():  # an exporter that fails prints the whole graph
        exported(model, inputs, path, exporter == "dynamo", opset)
    names = [i.name for i in onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()]
    data = dict(zip(names, (v.numpy() for v in lsuv_models.batch(inputs).values()), strict=False))
    done = initaudit.fix(str(path), scheme="lsuv", all=True, output=str(out), force=True, data=data)
    if not out.exists():
        return Result(name, exporter, failed=f"nothing was written: {(*done.worse, 'no recipe')[0]}")
    return Result(name, exporter, tuple(_excused(done, lsuv_onnx.look(out, data))))


def _excused(done: Repair, seen: Any) -> Iterator[Product]:
    """Yield what was measured with what the repair itself says of it."""
    touched = {recipe.tensor.name for recipe in done.plan.recipes}
    layers = {recipe.tensor.name: recipe.measured.layer.name for recipe in done.plan.recipes}
    kept = {skip.name: skip.why for skip in done.plan.kept}
    told: dict[str, str] = {}
    for row in done.reached:
        if row.why:
            told.setdefault(row.layer, row.why)
    for one in seen:
        own = next((name for name in touched if name == one.weight or name.startswith(f"{one.weight}.")), "")
        why = ""
        if one.use > 1:
            why = "the same weight as before"
        elif not own:
            why = kept.get(one.weight, kept.get(one.weight.removesuffix(".weight"), "not among the layers of --all"))
        else:
            why = told.get(layers[own], "")
        yield Product(one.weight, one.part, one.use, one.variance, why)


@contextmanager
def _silence() -> Iterator[None]:
    """Send what is printed, from C++ too, nowhere."""
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept[0], 1)
        os.dup2(kept[1], 2)
        for one in (*kept, nowhere):
            os.close(one)


def _short(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:160]


if __name__ == "__main__":
    main()
