"""Models run by the executor from their graphs, traced, scripted and exported, and by torch itself."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import zoo
from initaudit import formats
from initaudit.errors import InitauditError
from initaudit.types import Graph

Record = dict[str, Any]
CLOSE = 1e-5  # relative error of float32
FORMS = ("traced", "TorchScript", ".pt2")


def run(row: zoo.Row, form: str = "traced", gradients: bool = False) -> Record:
    """Return the relative error of the worst output, and of the worst gradient, or why there are none."""
    import torch

    from initaudit.live.execute import Executor
    from initaudit.live.feeding import outputs_of

    warnings.filterwarnings("ignore")
    record: Record = {"name": row.name, "form": form}
    model, inputs = _built(row)
    with torch.set_grad_enabled(gradients):
        wanted = list({id(t): t for t in outputs_of(model(**inputs))}.values())
    try:
        graph, feeds = _FORMS[form](model, inputs)
    except InitauditError as error:
        return {**record, "no graph": error.reason[:160]}
    except Exception as error:  # an exporter may refuse a model in any way
        return {**record, "no file": f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"}
    try:
        executor = Executor(graph)
        record["missing"] = executor.lacking()
        start = time.perf_counter()
        with torch.set_grad_enabled(gradients):
            made = executor.run(feeds)
        record["seconds"] = time.perf_counter() - start
    except InitauditError as error:
        return {**record, "refused": str(error)[:200]}
    found = [made[name] for name in graph.outputs]
    record["outputs"] = (len(found), len(wanted))
    pairs = list(zip(found, wanted, strict=False))
    record["error"] = max(_error(m, w) for m, w in pairs)
    if gradients:
        record["gradient"] = _gradients(model, executor, pairs)
    return record


def _built(row: zoo.Row) -> tuple[Any, dict[str, Any]]:
    """The model with its constant parameters made uneven: behind a head or a gate of zeros nothing could be seen."""
    import torch

    model, inputs = zoo.build(row)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if (
                parameter.is_floating_point()
                and parameter.numel()
                and bool((parameter == parameter.flatten()[0]).all())
            ):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(torch.randn(buffer.shape, generator=generator) * 0.1)
    return model, inputs


def _traced(model: Any, inputs: Mapping[str, Any]) -> tuple[Graph, dict[str, Any]]:
    from initaudit.live import model as live
    from initaudit.live.feeding import fed
    from initaudit.live.spec import Feed

    graph = live.read(model, dict(inputs)).graph
    assert graph is not None
    given = fed(model, Feed(kwargs=dict(inputs)), None)
    return graph, {name: tensor for tensor, name in given.named}


def _wrapped(model: Any, names: tuple[str, ...]) -> Any:
    import torch

    from initaudit.live.feeding import outputs_of

    class AllTensors(torch.nn.Module):
        """Takes positional inputs and returns every tensor of the answer, which all exporters understand."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *args: Any) -> Any:
            found = outputs_of(self.model(**dict(zip(names, args, strict=True))))
            return tuple({id(t): t for t in found}.values())

    return AllTensors().eval()


def _written(
    model: Any, inputs: Mapping[str, Any], write: Callable[[Any, tuple[Any, ...], str], object]
) -> tuple[Graph, dict[str, Any]]:
    import torch

    from initaudit.live.feeding import outputs_of

    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        path = str(Path(folder) / "model.pt")
        write(_wrapped(model, tuple(inputs)), tuple(inputs.values()), path)
        graph = formats.read(path).graph
        if graph is None:
            raise InitauditError(
                "; ".join(s.why for s in formats.read(path).skipped if s.name == "graph")[:160] or "none"
            )
        loaded = {t.name: t.load() for t in graph.constants.values()}  # while the file is there
        del loaded
    given = list(outputs_of(list(inputs.values())))
    if len(given) != len(graph.inputs):
        raise InitauditError(f"{len(graph.inputs)} inputs in the graph for {len(given)} given")
    return graph, dict(zip(graph.inputs, given, strict=True))


def _scripted(model: Any, inputs: Mapping[str, Any]) -> tuple[Graph, dict[str, Any]]:
    import torch

    return _written(model, inputs, lambda m, a, path: torch.jit.trace(m, a, strict=False, check_trace=False).save(path))


def _exported(model: Any, inputs: Mapping[str, Any]) -> tuple[Graph, dict[str, Any]]:
    import torch

    return _written(
        model, inputs, lambda m, a, path: torch.export.save(torch.export.export(m, a, strict=False), path + "2")
        or Path(path + "2").rename(path),
    )  # fmt: skip


_FORMS: dict[str, Callable[[Any, Mapping[str, Any]], tuple[Graph, dict[str, Any]]]] = {
    "traced": _traced, "TorchScript": _scripted, ".pt2": _exported,
}  # fmt: skip


def _error(made: Any, wanted: Any) -> float:
    if made.shape != wanted.shape:
        return float("inf")
    if not wanted.is_floating_point():
        return float((made != wanted).float().mean()) if wanted.numel() else 0.0
    made, wanted = made.detach().double(), wanted.detach().double()
    finite = wanted.isfinite()
    if bool((made.isfinite() != finite).any()):
        return float("inf")
    return (
        float((made - wanted)[finite].abs().max() / (wanted[finite].abs().max() or 1.0)) if bool(finite.any()) else 0.0
    )


def _gradients(model: Any, executor: Any, pairs: list[tuple[Any, Any]]) -> float | None:
    """Return the worst relative error of a parameter's gradient, under one random cotangent for all outputs."""
    import torch

    generator = torch.Generator().manual_seed(2)
    pairs = [(m, w) for m, w in pairs if w.requires_grad]
    if not pairs:
        return None
    cotangents = [torch.randn(w.shape, generator=generator) for _, w in pairs]
    names, mine = zip(*executor.parameters.items(), strict=True)
    own = {n: p for n, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    both = [(n, leaf) for n, leaf in zip(names, mine, strict=True) if n in own]
    names, mine = zip(*both, strict=True)
    ours = torch.autograd.grad([m for m, _ in pairs], mine, cotangents, allow_unused=True)
    theirs = torch.autograd.grad([w for _, w in pairs], [own[n] for n in names], cotangents, allow_unused=True)
    worst, whole = 0.0, max(float(t.abs().max()) for t in theirs if t is not None)
    for o, t in zip(ours, theirs, strict=True):
        if (o is None) != (t is None):
            zero = (t if o is None else o).abs().max()
            worst = max(worst, float(zero) / whole)
        elif t is not None:
            scale = max(float(t.abs().max()), 1e-4 * whole)
            worst = max(worst, float((o - t).abs().max()) / scale)
    return worst


def main() -> None:
    """Run models by name in a form and print a line for each."""
    import sys

    import torch

    torch.set_num_threads(1)
    form = sys.argv[1]
    for row in zoo.ZOO:
        if len(sys.argv) < 4 or row.name in sys.argv[3:]:
            print(run(row, form, sys.argv[2] == "gradients"), flush=True)


if __name__ == "__main__":
    main()
