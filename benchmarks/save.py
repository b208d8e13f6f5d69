"""Saves one model of the zoo in every form people keep weights in."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from benchmarks import truth, zoo

OPSETS = {"torchscript": (13, 17), "dynamo": (18, 20)}
MESSAGE = 300  # characters of an exporter's refusal that are kept


def everything(row: zoo.Row, folder: Path) -> None:
    """Write the row's files, the truth about the live model, and why an export is missing, into `folder`."""
    warnings.filterwarnings("ignore")
    model, inputs = zoo.build(row)
    folder.mkdir(parents=True, exist_ok=True)
    refused: dict[str, str] = {}
    for name, write in _writers(row, model, inputs).items():
        path = folder / name
        try:
            write(path)
        except Exception as error:
            path.unlink(missing_ok=True)
            refused[name] = _reason(error)
    _dump(folder / "refused.json", refused)
    _dump(folder / "truth.json", truth.of(*zoo.build(row)))


def _reason(error: BaseException) -> str:
    """The first cause in one line, without the colours, paths and listings that exporters wrap around it."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[[0-9;]*m|\[Caused by .*|(?<![:/\w])/(\S+/)+", "", " ".join(str(error).split()))
    return f"{type(error).__name__}: {text}"[:MESSAGE]


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _writers(row: zoo.Row, model: Any, inputs: dict[str, Any]) -> dict[str, Callable[[Path], object]]:
    import safetensors.torch
    import torch

    writers: dict[str, Callable[[Path], object]] = {
        "state_dict.pt": lambda path: torch.save(model.state_dict(), path),
        "legacy.pth": lambda path: torch.save(model.state_dict(), path, _use_new_zipfile_serialization=False),
        "module.pt": lambda path: torch.save(model, path),
        "model.safetensors": lambda path: safetensors.torch.save_model(model, str(path)),
    }
    for exporter, opsets in OPSETS.items():
        for opset in opsets:
            writers[f"{exporter}_{opset}.onnx"] = lambda path, d=exporter == "dynamo", o=opset: _onnx(row, path, d, o)
    return writers


def _onnx(row: zoo.Row, path: Path, dynamo: bool, opset: int) -> None:
    exported(*zoo.build(row), path, dynamo, opset)  # an exporter may leave hooks and folded weights behind


def exported(model: Any, inputs: dict[str, Any], path: Path, dynamo: bool, opset: int) -> None:
    """Write a module as ONNX, its inputs by position and its first tensor as the output."""
    import torch

    class FirstTensor(torch.nn.Module):
        """Takes positional inputs and returns one tensor, which both exporters understand."""

        def __init__(self, model: Any, names: tuple[str, ...]) -> None:
            super().__init__()
            self.model = model
            self.names = names

        def forward(self, *args: Any) -> Any:
            return _first(self.model(**dict(zip(self.names, args, strict=True))))

    wrapped = FirstTensor(model, tuple(inputs)).eval()
    options: dict[str, Any] = {"external_data": False, "verbose": False} if dynamo else {}
    torch.onnx.export(wrapped, tuple(inputs.values()), str(path), dynamo=dynamo, opset_version=opset, **options)
    import onnx

    # An export that contradicts itself (a projected LSTM with rows cut off) says nothing true to compare with.
    onnx.checker.check_model(str(path), full_check=True)


def _first(output: Any) -> Any:
    import torch

    if isinstance(output, torch.Tensor):
        return output
    values = output.values() if isinstance(output, dict) else output
    if not isinstance(values, Iterable):
        return None
    return next((tensor for value in values if (tensor := _first(value)) is not None), None)
