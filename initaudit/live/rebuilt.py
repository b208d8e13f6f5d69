"""A pickled module built again from its inert records, where all of it is torch's own: nothing of the file is run.

A container of torch.nn's classes says what its forward pass does; a class of the user's own does not, since its code is
not in the file. Only classes of torch.nn.modules are made, without calling their constructors, and only the plain
values of the records are given to them; their parameters have shapes and no values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from initaudit.errors import UnsupportedError
from initaudit.live.execute.elements import TORCH
from initaudit.types import Global, Model, Module, Tensor

_OWN = "torch.nn.modules."
_ABSENT = (
    "weight", "bias", "in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight", "bias_k",
    "bias_v", "running_mean", "running_var", "num_batches_tracked",
)  # fmt: skip
_FUNCTIONS = ("torch.nn.functional.", "torch._C._nn.", "torch.")


def rebuilt(model: Model) -> nn.Module:
    """Return the module of a file that holds records of one, with parameters that have no values.

    Raises:
        UnsupportedError: a part of it is of a foreign class, or was changed by hooks; the reason says which.
    """
    records = {record.path: record for record in model.modules}
    tensors = {tensor.name: tensor for tensor in model.tensors}
    if "" not in records:
        raise UnsupportedError("there are no records of its modules")
    return _built(records[""], records, tensors).eval()


def _built(record: Module, records: Mapping[str, Module], tensors: Mapping[str, Tensor]) -> nn.Module:
    kind = getattr(nn, record.kind, None) or getattr(nn.modules.linear, record.kind, None)
    where = record.path or "the model"
    if not record.cls.startswith(_OWN) or not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise UnsupportedError(f"{where} is of the class {record.cls[:120]}, whose code is not in the file")
    if any("hooks" in key for key in record.attrs):
        raise UnsupportedError(f"{where} has hooks, which are code that is not in the file")
    made: nn.Module = kind.__new__(kind)
    nn.Module.__init__(made)
    for key, value in record.attrs.items():
        if "." not in key:
            made.__dict__[key] = _value(value)
    for name, key in record.tensors.items():
        tensor = tensors.get(key)
        if tensor is None or "." in name:
            raise UnsupportedError(f"{where} has no tensor {key[:80]}")
        empty = torch.empty(tensor.shape, dtype=TORCH.get(tensor.dtype, torch.float32), device="meta")
        if tensor.buffer or not tensor.is_float:
            made.register_buffer(name, empty)
        else:
            made.register_parameter(name, nn.Parameter(empty))
    for name in _ABSENT:
        if name not in record.tensors and name not in made.__dict__:
            made.register_parameter(name, None)
    for path in record.children:
        child = records.get(path)
        if child is None:
            raise UnsupportedError(f"{where} lacks the record of {path[:80]}")
        made.add_module(path.rpartition(".")[2], _built(child, records, tensors))
    if isinstance(made, nn.RNNBase):
        _flattened(made)
    return made


def _flattened(made: Any) -> None:
    """Give a recurrent layer the lists of its weights that its constructor makes."""
    suffixes = ["_reverse"] if made.bidirectional else []
    names = [
        f"{name}_l{layer}{suffix}"
        for layer in range(made.num_layers)
        for suffix in ("", *suffixes)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    ]
    made._flat_weights_names = [name for name in names if getattr(made, name, None) is not None]
    made._all_weights = [made._flat_weights_names]
    made._flat_weights = [getattr(made, name) for name in made._flat_weights_names]
    made._flat_weight_refs = [None for _ in made._flat_weights]


def _value(value: object) -> Any:
    """Return a plain value; a function of torch for its name, the name itself of anything else."""
    if isinstance(value, Global):
        for prefix in _FUNCTIONS:
            name = value.name.removeprefix(prefix)
            function = getattr(F, name, None) if name != value.name and name.isidentifier() else None
            if callable(function):
                return function
        raise UnsupportedError(f"it calls {value.name[:80]}, whose code is not in the file")
    return tuple(_value(one) for one in value) if isinstance(value, tuple) else value
