"""Helpers: write with torch, read with initaudit, compare bit by bit."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from initaudit.formats.torch import LEGACY, PICKLE, ZIP
from initaudit.types import Model, Tensor


def read(path: Path) -> Model:
    with path.open("rb") as file:
        head = file.read(4096)
    for one in (ZIP, LEGACY, PICKLE):
        if one.sniff(path, head):
            return one.read(path)
    raise AssertionError("no torch format wants this file")


def save(value: Any, path: Path, *, legacy: bool = False) -> Path:
    import torch

    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def saved(value: Any, folder: Path, *, legacy: bool = False) -> Model:
    return read(save(value, folder / f"model{int(legacy)}.pt", legacy=legacy))


def tensors(model: Model) -> dict[str, Tensor]:
    return {tensor.name: tensor for tensor in model.tensors}


def raw(value: Any) -> bytes:
    """Return the elements of a torch tensor in C order."""
    import torch

    value = value.dequantize() if value.is_quantized else value
    value = value.to_dense() if value.layout != torch.strided else value
    value = value.detach().resolve_conj().resolve_neg().contiguous()
    return b"" if value.numel() == 0 else bytes(value.reshape(-1).view(torch.uint8).numpy().tobytes())


def differing(model: Model, expected: dict[str, Any]) -> list[str]:
    """Return what of `expected` is missing or has other values, shape or dtype in the model."""
    found = tensors(model)
    return [
        name
        for name, value in expected.items()
        if name not in found
        or found[name].shape != tuple(value.shape)
        or found[name].dtype != str(value.dtype).removeprefix("torch.")
        or np.ascontiguousarray(found[name].load()).tobytes() != raw(value)
    ]


def rezip(data: bytes, change: Callable[[str, bytes], bytes] | None = None, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive with its members changed, or compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", method) as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info.filename, change(info.filename, content) if change else content)
    return out.getvalue()


class Call:
    """Pickles as a call of `func`, whatever that is."""

    def __init__(self, func: Any, *args: Any) -> None:
        self.func = func
        self.args = args

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.func, self.args
