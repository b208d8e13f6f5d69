"""Which function of torch a recorded call means. Names come from files of strangers: only those below are looked up.

A name must be one that the table of torch_ops knows, and is looked up in four fixed namespaces and nowhere else. Of
these names, the ones that read memory they were not given, change a tensor under another's feet, or ask for Python
objects are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from initaudit.errors import UnsupportedError
from initaudit.live.functions import tensors
from initaudit.torch_ops.builder import _plain_name, known

Function = Callable[..., Any]
FAILURES = (TypeError, RuntimeError, ValueError, AttributeError, NotImplementedError, IndexError)

_REFUSED = frozenset({
    "set_", "resize_", "resize_as_", "from_numpy", "frombuffer", "numpy", "tolist", "item", "is_nonzero", "checkpoint",
    "manual_seed", "seed", "initial_seed", "get_default_dtype", "share_memory", "share_memory_", "retain_grad",
    "register_hook", "is_pinned", "pin_memory", "cuda", "xpu", "_local_scalar_dense", "segment_reduce", "data_ptr",
    "sparse_coo_tensor", "set", "resize", "resize_as", "new", "as_tensor", "asarray", "tensor", "requires_grad_",
    "flex_attention", "flex_attention_hop", "flash_attn_func", "_nested_tensor_from_mask", "_nested_from_padded",
    "nested_to_padded_tensor", "to_padded_tensor", "_fw_primal", "_make_dual", "values", "coalesce", "to_dense",
    "sparse_mask", "_transformer_encoder_layer_fwd", "_native_multi_head_attention", "data.__set__", "names", "real",
    "_embedding_renorm", "__get__", "_scaled_mm", "_scaled_grouped_mm", "_grouped_mm", "scaled_mm", "iter",
})  # fmt: skip
_SAFE_TWINS = {
    "_unsafe_index": "index", "_unsafe_index_put": "index_put", "_index_put_impl": "index_put",
    "_unsafe_view": "reshape", "_reshape_alias": "reshape", "unsafe_split": "split", "unsafe_chunk": "chunk",
    "unsafe_split_with_sizes": "split",
    "split_with_sizes": "split", "view": "reshape", "view_symint": "reshape", "_unsafe_index_put_": "index_put_",
    "__truediv__": "true_divide", "__div__": "div", "__idiv__": "div_",
}  # fmt: skip
# Where torch.nn.functional and torch have a function of one name, the former is meant: but not of these.
_OF_TORCH = frozenset({"softmax", "log_softmax", "tanh", "sigmoid"})
_SELF: dict[str, Function] = {
    "T.__get__": lambda x: x.permute(*range(x.dim())[::-1]), "mT.__get__": lambda x: x.transpose(-1, -2),
    "H.__get__": lambda x: x.T.conj(), "mH.__get__": lambda x: x.transpose(-1, -2).conj(),
    "numpy_T": lambda x: x.permute(*range(x.dim())[::-1]), "data.__get__": lambda x: x.detach(),
    "real.__get__": lambda x: x.real if x.is_complex() else x, "imag.__get__": lambda x: x.imag,
    "__iter__": lambda x: x.unbind(0), "iter": lambda x: x.unbind(0),
    "__div__": torch.div, "__rdiv__": lambda x, other: torch.div(other, x),
    "__rfloordiv__": lambda x, other: torch.floor_divide(torch.as_tensor(other), x),
    "__rmatmul__": lambda x, other: torch.matmul(other, x), "__rpow__": lambda x, other: torch.pow(other, x),
    "getitem": lambda x, index: x[index], "__getitem__": lambda x, index: x[index],
    "convert_element_type": lambda x, dtype: x.to(dtype), "addmv": torch.addmv, "as_strided": torch.as_strided,
}  # fmt: skip


@cache
def candidates(target: str) -> tuple[Function, ...]:
    """Return the functions that a call may mean, the likeliest first; none where it is not to be looked up."""
    name = _plain_name(target)
    aten = target.startswith("aten.") or "::" in target
    if not known(name, "aten" if aten else "function") or name in _REFUSED:
        return () if name not in _SELF else (_SELF[name],)
    if name in _SELF:
        return (_SELF[name],)
    name = _SAFE_TWINS.get(name, name)
    spaces: list[Any] = [torch.ops.aten] if aten else []
    spaces += [torch, F, torch.Tensor] if name in _OF_TORCH else [F, torch, torch.Tensor]
    if not aten:
        spaces.append(torch.ops.aten)
    found: list[Function] = []
    for space in spaces:
        function = _looked_up(space, name)
        if function is not None and all(function is not other for other in found):
            found.append(function)
    return tuple(found)


def _looked_up(space: Any, name: str) -> Function | None:
    try:
        function = getattr(space, name, None)
    except (AttributeError, RuntimeError):
        return None
    return function if callable(function) and not isinstance(function, type) else None


def tried(target: str, args: Sequence[Any], kwargs: Mapping[str, Any], count: int) -> list[torch.Tensor]:
    """Return the results of the first function that takes the arguments and makes enough tensors."""
    failed: Exception | None = None
    for function in candidates(target):
        try:
            results = list(tensors(function(*args, **kwargs)))
        except FAILURES as error:
            failed = failed or error
            continue
        if len(results) >= count:
            return results
    raise failed or UnsupportedError(f"{target[:60]} makes fewer values than recorded")


def changes_in_place(target: str) -> bool:
    """Whether a function writes to its first argument.

    >>> changes_in_place("add_"), changes_in_place("__iadd__"), changes_in_place("__setitem__"), changes_in_place("add")
    (True, True, True, False)
    """
    name = _plain_name(target)
    if name.startswith("__") and name.endswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and name not in {"__iter__", "__invert__"})
    return name.endswith("_")
