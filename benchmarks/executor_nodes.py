"""ONNX's own backend node tests, run by the executor."""

from __future__ import annotations

import tempfile
import warnings
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from initaudit import formats
from initaudit.errors import InitauditError
from initaudit.ops import from_onnx

Outcome = tuple[str, str, str]  # name of the test, its operator, "" or why it failed


def run(only: tuple[str, ...] = ()) -> list[Outcome]:
    """Run every node test, or those of some operators."""
    warnings.filterwarnings("ignore")
    from onnx.backend.test.case.node import collect_testcases

    out = []
    with tempfile.TemporaryDirectory() as folder:
        for case in collect_testcases():
            op = _operator(case)
            if not only or op in only:
                out.append((case.name, op, _outcome(case, Path(folder) / "model.onnx")))
    return out


def _operator(case: Any) -> str:
    """The operator that a test is of; in an expanded form it is only in the name."""
    node = case.model.graph.node[-1 if len(case.model.graph.node) == 1 else 0]
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else str(node.op_type)


def _outcome(case: Any, path: Path) -> str:
    path.write_bytes(case.model.SerializeToString())
    try:
        for inputs, outputs in case.data_sets:
            why = _compared(case, path, inputs, outputs)
            if why:
                return why
    except InitauditError as error:
        return f"refused: {error.reason}"
    except Exception as error:
        return f"CRASH {type(error).__name__}: {str(error)[:200]}"
    return ""


def _compared(case: Any, path: Path, inputs: Any, outputs: Any) -> str:
    from initaudit.live.execute import Executor

    graph = formats.read(path).graph
    assert graph is not None
    names = [value.name for value in case.model.graph.input]
    feeds = {name: _fed(value) for name, value in zip(names, inputs, strict=True)}
    if any(_texts(v) for v in feeds.values()):
        return "refused: strings"
    executor = Executor(graph)
    made = executor.run(feeds)
    for name, flat, wanted in zip((v.name for v in case.model.graph.output), graph.outputs, outputs, strict=True):
        why = _different(made.get(flat), _plain(wanted), case)
        if why:
            return f"{name}: {why}"
    return ""


def _plain(value: Any) -> Any:
    import onnx

    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if isinstance(value, onnx.SequenceProto):
        return onnx.numpy_helper.to_list(value)
    if isinstance(value, onnx.OptionalProto):
        return onnx.numpy_helper.to_optional(value)
    return value


def _fed(value: Any) -> Any:
    import torch

    value = _plain(value)
    if isinstance(value, list):
        return [_fed(v) for v in value]
    if value is None or value.dtype.kind in "OSU":
        return value
    if value.dtype.type.__module__ == "ml_dtypes":
        value = value.astype(np.float32 if "float" in value.dtype.name else np.int8)
    if value.dtype.kind == "u" and value.dtype.itemsize > 1:
        value = value.astype(np.int64)
    return torch.from_numpy(np.array(value, order="C")).reshape(value.shape)


def _texts(value: Any) -> bool:
    return isinstance(value, np.ndarray) or (isinstance(value, list) and any(_texts(v) for v in value))


def _different(made: Any, wanted: Any, case: Any) -> str:
    if isinstance(wanted, list):
        if not isinstance(made, list) or len(made) != len(wanted):
            return "another number of values"
        return next((why for m, w in zip(made, wanted, strict=True) if (why := _different(m, w, case))), "")
    if wanted is None or made is None:
        return "" if made is wanted else "nothing where something is meant"
    made = made.detach().numpy()
    half = wanted.dtype.name.startswith("float8") or wanted.dtype.name in ("float16", "bfloat16")
    if wanted.dtype.type.__module__ == "ml_dtypes":
        wanted = wanted.astype(np.float32)
    if made.shape != wanted.shape:
        return f"shape {made.shape} instead of {wanted.shape}"
    if wanted.dtype.kind in "OSU":
        return "strings"
    kind = np.complex128 if wanted.dtype.kind == "c" else np.float64
    made, wanted = made.astype(kind), wanted.astype(kind)
    rtol, atol = max(case.rtol or 0, 1e-2 if half else 1e-3), max(case.atol or 0, 1e-2 if half else 1e-6)
    if not np.allclose(made, wanted, rtol=rtol, atol=atol, equal_nan=True):
        return f"off by {np.nanmax(np.abs(made - wanted)):.3g}"
    return ""


def by_operator(outcomes: list[Outcome]) -> dict[str, list[Outcome]]:
    """Return the outcomes under each operator."""
    table: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        table[outcome[1]].append(outcome)
    return dict(sorted(table.items()))


def claimed(op: str) -> bool:
    """Whether the executor has an implementation of an ONNX operator."""
    from initaudit.live.execute.case import OPERATORS

    return from_onnx(op) in OPERATORS


def main() -> None:
    """Print what fails."""
    import sys

    import torch

    torch.set_num_threads(1)
    outcomes = run(tuple(sys.argv[1:]))
    for name, op, why in outcomes:
        if why:
            print(op, name, why)
    print(sum(not w for _, _, w in outcomes), len(outcomes))


if __name__ == "__main__":
    main()
