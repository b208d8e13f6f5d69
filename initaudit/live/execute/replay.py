"""A recorded call of torch, made again on other values: the same function with the same arguments.

A graph names each value once, so a function that writes to its argument gets a copy to write to. Dropout is off;
devices, layouts and generators play no part.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from initaudit.errors import UnsupportedError
from initaudit.live.execute import numbers
from initaudit.live.execute.case import Case, Settings
from initaudit.live.execute.elements import named
from initaudit.live.execute.functions import FAILURES, candidates, changes_in_place, tried
from initaudit.live.execute.norms import batch_norm, instance_norm
from initaudit.live.functions import tensors
from initaudit.ops import family
from initaudit.torch_ops.builder import _plain_name
from initaudit.types import Node, Ref

_DROPPED = frozenset({
    "device", "layout", "generator", "pin_memory", "memory_format", "out", "requires_grad", "names", "non_blocking",
    "inplace", "_stacklevel", "copy",
})  # fmt: skip
_SAME = frozenset({
    "contiguous", "clone", "alias", "lift", "lift_fresh", "lift_fresh_copy", "requires_grad",
    "requires_grad_", "cpu", "cuda", "xpu", "pin_memory", "share_memory", "resolve_conj", "resolve_neg", "refine_names",
    "rename", "align_to", "positive", "__pos__", "drop_path", "stochastic_depth", "checkpoint", "_conj_copy",
    "fake_quantize_per_tensor_affine", "fake_quantize_per_channel_affine",
})  # fmt: skip
_CASTS = frozenset({
    "to", "type", "type_as", "_to_copy", "_autocast_to_reduced_precision", "_autocast_to_full_precision", "float",
    "double", "half", "bfloat16", "long", "int", "short", "char", "byte", "bool", "cfloat", "cdouble",
    "convert_element_type",
})  # fmt: skip
_NORMS: Mapping[str, Callable[[Case], Any]] = {"batch_norm": batch_norm, "instance_norm": instance_norm}
_ATTENTION = "scaled_dot_product_attention"
_UNSET = {"empty": "zeros", "empty_like": "zeros_like", "new_empty": "new_zeros", "empty_strided": "zeros",
          "new_empty_strided": "new_zeros", "empty_permuted": "zeros"}  # fmt: skip


def why_not(node: Node) -> str:
    """Return why a recorded node cannot be run, "" if it can."""
    assert node.call is not None
    name = _plain_name(node.call.target)
    if node.op in _NORMS or node.op == "dropout" or name in _SAME or name in _CASTS:
        return ""
    if (
        name in numbers.SIZES
        or node.op == _ATTENTION
        or name in {"to", "copy_", "copy", "fill", "fill_"}
        or name in _UNSET
    ):
        return ""
    return "" if candidates(node.call.target) else f"no function of torch is known to be meant by {name[:60]}"


def replay(node: Node, values: Mapping[str, Any], settings: Settings, ranks: Sequence[int | None] = ()) -> list[Any]:
    """Return what a recorded call makes, tensors or numbers, in the order of the node's outputs.

    Args:
        node: with its call.
        values: the values by name.
        settings: how the graph is run.
        ranks: how many axes the outputs had when the call was recorded.

    Raises:
        UnsupportedError: the call fails on these values.
    """
    call = node.call
    assert call is not None
    name = _plain_name(call.target)
    if node.op in _NORMS and not changes_in_place(call.target):
        return list(tensors(_NORMS[node.op](_norm_case(node, values, settings))))
    aten = call.target.startswith("aten.") or "::" in call.target
    taken = _Taken(values, settings.single, aten)
    args = [taken.value(a, at == 1 and "item__" in name) for at, a in enumerate(call.args)]
    kwargs = {key: taken.value(v) for key, v in call.kwargs.items() if key not in _DROPPED}
    try:
        return _run(node, name, aten, args, kwargs, settings, ranks)
    except UnsupportedError:
        raise
    except FAILURES as error:
        raise UnsupportedError(f"{name}: {' '.join(str(error).split())[:200]}") from error


def _norm_case(node: Node, values: Mapping[str, Any], settings: Settings) -> Case:
    """Return a norm of channels by its operands; one that was recorded on batch statistics stays so."""
    by_sample = node.op == "instance_norm" and node.attrs.get("use_input_stats") is False
    held = [values[name] if name else None for name in node.inputs]
    if by_sample:  # running statistics: what a batch norm does
        return Case(Node("batch_norm", node.inputs, node.outputs, node.attrs), held, settings)
    return Case(node, held, settings)


class _Taken:
    """Arguments of a call as torch takes them."""

    def __init__(self, values: Mapping[str, Any], single: torch.dtype, aten: bool) -> None:
        self._values = values
        self._single = single
        self._aten = aten

    def value(self, given: Any, index: bool = False) -> Any:
        """Return an argument with tensors for values, and dtypes for their names; the tuple of an index stays one."""
        if isinstance(given, Ref):
            return self._values[given.name]
        if isinstance(given, str):
            dtype = named(given, self._single)
            return given if dtype is None else dtype
        if isinstance(given, slice):
            return slice(*(self._number(v) for v in (given.start, given.stop, given.step)))
        if isinstance(given, tuple | list):
            items = [self.value(v) for v in given]
            return tuple(items) if index or not self._aten else items
        if isinstance(given, Mapping):
            return {key: self.value(v) for key, v in given.items()}
        return given

    def _number(self, given: Any) -> Any:
        value = self.value(given)
        return int(value.item()) if isinstance(value, torch.Tensor) else value


def _run(
    node: Node,
    name: str,
    aten: bool,
    args: list[Any],
    kwargs: dict[str, Any],
    settings: Settings,
    ranks: Sequence[int | None],
) -> list[Any]:
    target = node.call.target if node.call is not None else name
    first = next(tensors((args, kwargs)), None)
    if name in numbers.SIZES and first is not None:
        return [numbers.SIZES[name](first, *args[1:], **kwargs)]
    if first is None and args and family(node.op) in ("elementwise", "move", "activation"):
        return numbers.calculated(name, target, args, kwargs, len(node.outputs))
    if node.op == "dropout" and first is not None:
        return [first, torch.ones_like(first, dtype=torch.bool)]
    if name in {"detach", "detach_"} and first is not None:
        return [first.detach()]  # its gradient ends here in the user's code too
    if name in _SAME and first is not None:
        return [first]
    if name in _CASTS and first is not None:
        return [_cast(name, first, args, kwargs, settings)]
    if name in {"copy_", "copy"} and len(args) > 1:
        return [torch.as_tensor(args[1]).to(args[0].dtype).expand(args[0].shape)]
    if node.op == "rrelu" and first is not None:
        slope = (float(node.attrs.get("lower", 1 / 8)) + float(node.attrs.get("upper", 1 / 3))) / 2
        return [F.leaky_relu(first, slope)]
    if node.op == _ATTENTION:
        return _attention(node, settings, args, kwargs)
    if name in {"empty_strided", "empty_permuted"}:
        args = args[:1]
    if name in _UNSET:
        name = _UNSET[name]
        target = f"aten.{name}" if aten else name
    if changes_in_place(target) and args and isinstance(args[0], torch.Tensor):
        return _in_place(name, target, args, kwargs)
    if name == "where" and len(args) == 3 and _is_mask(args[1]) and not _is_mask(args[0]):
        args = [args[1], args[0], args[2]]  # x.where(condition, other)
    if name == "unfold":
        return list(tensors(_unfold(args, kwargs, ranks)))
    return tried(target, args, kwargs, len(node.outputs))


def _is_mask(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.dtype == torch.bool


def _in_place(name: str, target: str, args: list[Any], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    own = args[0].clone()
    if name == "__setitem__":
        own[args[1]] = args[2]
        return [own]
    results = tried(target, [own, *args[1:]], kwargs, 1)
    return [results[0], *(r for r in results[1:] if r is not results[0])]


def _cast(
    name: str, x: torch.Tensor, args: Sequence[Any], kwargs: Mapping[str, Any], settings: Settings
) -> torch.Tensor:
    if name == "bfloat16":
        name = "half"
    if name in {"float", "double", "half", "long", "int", "short", "char", "byte", "bool", "cfloat", "cdouble"}:
        spelled = {
            "float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32",
            "short": "int16", "char": "int8", "byte": "uint8", "cfloat": "complex64", "cdouble": "complex128",
        }.get(name, name)  # fmt: skip
        dtype = named(spelled, settings.single)
        return x if dtype is None else x.to(dtype)
    for given in (*args[1:], *kwargs.values()):
        if isinstance(given, torch.dtype):
            return x.to(given)
        if isinstance(given, torch.Tensor):
            return x.to(given.dtype)
    return x


def _attention(node: Node, settings: Settings, args: list[Any], kwargs: dict[str, Any]) -> list[torch.Tensor]:
    """Attention by its operands, without dropout; its weights too, where they are wanted."""
    named_ones = [kwargs[n] for n in ("query", "key", "value")[len(args) :]]
    q, k, v = (*args[:3], *named_ones)
    mask = next((a for a in args[3:] if isinstance(a, torch.Tensor)), kwargs.get("attn_mask", kwargs.get("attn_bias")))
    causal, scale = bool(node.attrs.get("is_causal", False)), node.attrs.get("scale")
    if node.attrs.get("enable_gqa") and q.shape[-3] != k.shape[-3]:
        k, v = (t.repeat_interleave(q.shape[-3] // k.shape[-3], -3) for t in (k, v))
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    out = F.scaled_dot_product_attention(q, k, v, mask, 0.0, causal, scale=scale)
    if len(node.outputs) < 2 or not node.outputs[1] or _plain_name(node.call.target if node.call else "") != _ATTENTION:
        return [out]
    scores = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    return [out, torch.softmax(scores, -1)]


def _unfold(args: list[Any], kwargs: dict[str, Any], ranks: Sequence[int | None]) -> Any:
    """Tensor.unfold takes windows along one axis, torch.nn.functional.unfold those of a convolution."""
    x, rest = args[0], args[1:]
    windows = {"dimension", "size", "step"} & kwargs.keys()
    known = ranks[0] if ranks else None
    if windows or (len(rest) == 3 and all(isinstance(v, int) for v in rest) and known == x.dim() + 1):
        return x.unfold(*rest, **kwargs)
    return F.unfold(x, *rest, **kwargs)
