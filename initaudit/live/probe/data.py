"""The user's data, from .npy, .npz, or what torch.save wrote: read without running anything in it."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from initaudit import formats
from initaudit.errors import CorruptFileError, InitauditError, ReadError, UsageError
from initaudit.types import Array, Tensor

Data = Mapping[str, torch.Tensor]  # by input name; "" for the first input
_NPY = b"\x93NUMPY"


def read(given: Any) -> Data:
    """Return data by input name: from a path, an array, a tensor, or a dict of these.

    Raises:
        UsageError: it is none of these.
        ReadError: the file cannot be read, or holds something else than arrays.
    """
    if isinstance(given, str | Path):
        return _file(Path(given))
    if isinstance(given, Mapping):
        return {str(name): _tensor(value) for name, value in given.items()}
    if isinstance(given, tuple | list):
        return {str(at): _tensor(value) for at, value in enumerate(given)}
    return {"": _tensor(given)}


def by_input(data: Data, inputs: Mapping[str, object]) -> dict[str, torch.Tensor]:
    """Return data under the names of a graph's inputs: what has no name, or a number, goes by place."""
    names = list(inputs)
    out: dict[str, torch.Tensor] = {}
    for key, value in data.items():
        place = 0 if not key else int(key) if key.isdigit() and key not in inputs else None
        if place is None and len(data) == 1 and len(names) == 1:
            place = 0  # the one array for the one input, whatever it is called
        out[names[place] if place is not None and place < len(names) else key] = value
    return out


def _file(path: Path) -> Data:
    try:
        with path.open("rb") as file:
            head = file.read(len(_NPY))
        if head == _NPY:
            return {"": _tensor(np.load(path, allow_pickle=False))}
        if head[:2] == b"PK" and _is_npz(path):
            with np.load(path, allow_pickle=False) as file:
                return {name: _tensor(file[name]) for name in file.files}
        model = formats.read_part(path)
    except InitauditError:
        raise
    except OSError as error:
        raise ReadError(error.strerror or str(error), str(path)) from None
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise CorruptFileError(
            f"no arrays can be read from it: {' '.join(str(error).split())[:200]}", str(path)
        ) from None
    return {tensor.name: _loaded(tensor) for tensor in model.tensors}


def _is_npz(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return all(name.endswith(".npy") for name in archive.namelist())


def _loaded(tensor: Tensor) -> torch.Tensor:
    return _tensor(np.asarray(tensor.load()))


def _tensor(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        made = value.detach().to("cpu", copy=True)
    else:
        made = torch.from_numpy(_plain(np.asarray(value)))
    return made.to(torch.float32) if made.is_floating_point() else made if made.is_complex() else made.to(torch.int64)


def _plain(array: Array) -> Array:
    if array.dtype.kind == "V":  # half precision that numpy does not know
        array = array.astype(np.float32)
    if array.dtype.kind not in "biufc":
        raise UsageError(f"data are numbers, not {array.dtype}")
    if array.dtype.kind == "u":
        array = array.astype(np.int64)
    return np.array(array, dtype=array.dtype.newbyteorder("="), order="C")
