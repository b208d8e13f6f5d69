"""ONNX files run by the executor and by ONNX Runtime on the same inputs."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

from initaudit import formats
from initaudit.errors import InitauditError

Record = dict[str, Any]
CLOSE = 1e-4  # relative error of float32
REASONS = {  # why a file may be further off, as looked at by hand
    "rapidocr_onnxruntime__rapidocr_onnxruntime_models_ch_PP-OCRv4_det_infer.onnx": (
        "the answer is a sigmoid of at most 6e-5, where that of ONNX Runtime is 1.5e-3 off, torch's is not"
    ),
}
_INTEGER = ("quantize", "_integer", "qlinear", "qgemm")
_UNKNOWN = {3: 3, 4: 64}  # what a free axis is tried with, by the number of axes


def run(path: Path) -> Record:
    """Return the relative error of the worst output and the seconds that both took, or why there are none."""
    import torch

    from initaudit.live.execute import Executor

    warnings.filterwarnings("ignore")
    record: Record = {"file": f"{path.parent.name}/{path.name}"}
    try:
        session = _session(str(path))
        feeds = _feeds(session)
        start = time.perf_counter()
        wanted = session.run(None, {name: value.numpy() for name, value in feeds.items()})
        record["runtime"] = time.perf_counter() - start
    except Exception as error:
        return {**record, "no truth": " ".join(str(error).split())[:160]}
    try:
        graph = formats.read(path).graph
        assert graph is not None
        executor = Executor(graph)
        start = time.perf_counter()
        with torch.no_grad():
            made = executor.run(feeds)
        record["ours"] = time.perf_counter() - start
    except InitauditError as error:
        return {**record, "refused": str(error)[:160]}
    record["error"] = max(_error(made[name], value) for name, value in zip(graph.outputs, wanted, strict=True))
    if any(part in node.op for node in graph.nodes for part in _INTEGER):
        record["why"] = "quantised: where two sums differ in the last bit, integers differ by one"
    record["why"] = REASONS.get(path.name.split("/")[-1], record.get("why", ""))
    if all(not value.any() for value in wanted):
        record.update(_inside(path, executor, feeds))
    return record


def _inside(path: Path, executor: Any, feeds: dict[str, Any]) -> Record:
    """Compare the values within a model whose answer is all zero, as a fresh head can make it."""
    import onnx
    import torch

    model = onnx.load(str(path))
    made = {name for node in executor.graph.nodes for name in node.outputs}
    names = [name for node in model.graph.node for name in node.output if name in made]
    del model.graph.output[:]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    wanted = _session(model.SerializeToString()).run(None, {name: value.numpy() for name, value in feeds.items()})
    with torch.no_grad():
        found = executor.run(feeds, names)
    return {"error": max(_error(found[n], w) for n, w in zip(names, wanted, strict=True)), "inside": len(names)}


def _session(model: str | bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return onnxruntime.InferenceSession(model, options)


def _feeds(session: Any) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(0)
    feeds = {}
    for given in session.get_inputs():
        free = _UNKNOWN.get(len(given.shape), 2)
        shape = [
            extent if isinstance(extent, int) and extent > 0 else (2 if at == 0 else free)
            for at, extent in enumerate(given.shape)
        ]
        if len(shape) == 4 and not isinstance(given.shape[1], int):
            shape[1] = 3
        if "float" in given.type or "double" in given.type:
            dtype = {"tensor(float16)": torch.float16, "tensor(double)": torch.float64}.get(given.type, torch.float32)
            feeds[given.name] = torch.randn(shape, generator=generator).to(dtype)
        elif "bool" in given.type:
            feeds[given.name] = torch.ones(shape, dtype=torch.bool)
        else:
            dtype = {"tensor(int32)": torch.int32, "tensor(uint8)": torch.uint8}.get(given.type, torch.int64)
            low = 0 if "id" in given.name else 1  # masks, and what is none of a vocabulary
            feeds[given.name] = torch.randint(low, 5 if not low else 2, shape, generator=generator).to(dtype)
    return feeds


def _error(made: Any, wanted: Any) -> float:
    import numpy as np

    made = made.detach().numpy()
    if made.shape != wanted.shape:
        return float("inf")
    if wanted.dtype.kind != "f":
        return float(np.mean(made != wanted)) if wanted.size else 0.0
    made, wanted = made.astype(np.float64), wanted.astype(np.float64)
    same = np.isfinite(made) == np.isfinite(wanted)
    finite = np.isfinite(wanted) & np.isfinite(made)
    if not same.all():
        return float("inf")
    scale = np.abs(wanted[finite]).max(initial=0.0) or 1.0
    return float(np.abs(made[finite] - wanted[finite]).max(initial=0.0) / scale)


def main() -> None:
    """Run the files that are named and print a line for each."""
    import sys

    import torch

    torch.set_num_threads(1)
    for name in sys.argv[1:]:
        print(run(Path(name)), flush=True)


if __name__ == "__main__":
    main()
