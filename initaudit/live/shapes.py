"""Results whose shape depends on values that nobody has computed: positions, choices, different values, packings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import _disable_current_modes

from initaudit.live.answers import Answers
from initaudit.live.functions import tensors

_RECURRENT = ("lstm", "gru", "rnn_tanh", "rnn_relu")
_MOST_DIFFERENT = 16  # values that a tensor of unknown integers is taken to have

_BY_VALUE = object()
_Handler = Callable[[Answers, str, tuple[Any, ...], Mapping[str, Any]], Any]


def shaped(
    answers: Answers, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Any:
    """Return the result of a function whose shape depends on values; NotImplemented for all others."""
    handler = _HANDLERS.get(name)
    if handler is None:
        return NotImplemented
    result = handler(answers, name, args, kwargs)
    if result is not _BY_VALUE:
        return result
    real = answers.real((args, kwargs))
    with _disable_current_modes():
        result = func(*real[0], **real[1])
    return answers.known(result)


def _nonzero(answers: Answers, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    mask = next(tensors((args, kwargs)))
    if name == "where" and len(args) + len(kwargs) != 1:
        return NotImplemented
    places = answers.positions(mask)
    apart = name in {"where", "nonzero_numpy"} or kwargs.get("as_tuple") or True in args[1:]
    return answers.known(tuple(places.unbind(1)) if apart else places)


def _masked_select(answers: Answers, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    value, mask = tuple(tensors((args, kwargs)))[:2]
    real = answers.fakes.real(mask)
    spread, _ = torch.broadcast_tensors(value, mask)  # type: ignore[no-untyped-call]
    shape = spread.shape
    spread = spread.reshape(-1)
    if real is None:
        return spread.clone()
    with _disable_current_modes():
        count = int(real.expand(shape).sum())
    return spread[:count].clone()


def _unique(answers: Answers, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if answers.real((args, kwargs)) is not None:
        return _BY_VALUE
    value = next(tensors((args, kwargs)))
    dim = kwargs.get("dim")
    asked = [bool(kwargs.get(key)) for key in ("return_inverse", "return_counts")]
    flat = value.reshape(-1) if dim is None else value
    below = answers.bound(value)
    if dim is None and below is not None:  # the numbers of experts, say: all of them occur
        with _disable_current_modes():
            flat = answers.known(torch.arange(below))
    elif dim is None and not value.is_floating_point():
        flat = flat[:_MOST_DIFFERENT]
    count = flat.shape[dim or 0]
    inverse = torch.zeros(value.shape if dim is None else (count,), dtype=torch.long)
    results = [flat, inverse, torch.ones(count, dtype=torch.long)]
    if name in {"_unique2", "unique_dim"}:
        return tuple(results)
    kept = [results[0], *(r for r, wanted in zip(results[1:], asked, strict=True) if wanted)]
    return kept[0] if len(kept) == 1 else tuple(kept)


def _bincount(answers: Answers, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if answers.real((args, kwargs)) is not None:
        return _BY_VALUE
    asked = kwargs.get("minlength") or next((a for a in args[1:] if isinstance(a, int)), 0)
    length = max(asked, answers.bound(args[0]) or 0) or 1
    weights = list(tensors((args, kwargs)))[1:]
    return torch.zeros(length, dtype=torch.float64 if weights else torch.long)


def _repeat_interleave(answers: Answers, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    found = list(tensors((args, kwargs)))
    repeats = found[-1]
    counted = kwargs.get("repeats", args[1] if len(args) > 1 else None)
    if (not isinstance(counted, torch.Tensor) and len(found) != 1) or isinstance(counted, int):
        return NotImplemented
    if kwargs.get("output_size") is not None:
        return NotImplemented
    real = answers.fakes.real(repeats)
    with _disable_current_modes():
        if real is None:
            real = torch.ones(tuple(repeats.shape), dtype=torch.long)
        if len(found) > 1:
            dim = kwargs.get("dim", args[2] if len(args) > 2 else None)
            extent = found[0].numel() if dim is None else found[0].shape[dim]
            real = real.expand(extent) if real.numel() == 1 else real
        rows = torch.repeat_interleave(real.long())
    index = answers.known(rows)
    if len(found) == 1:
        return index
    return found[0].reshape(-1)[index] if dim is None else found[0].index_select(dim, index)


def _one_hot(answers: Answers, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if answers.real((args, kwargs)) is not None:
        return _BY_VALUE
    classes = kwargs.get("num_classes", args[1] if len(args) > 1 else -1)
    if classes > 0:
        value = next(tensors((args, kwargs)))
        return torch.empty((*value.shape, classes), dtype=torch.long)
    return torch.empty((*next(tensors((args, kwargs))).shape, 2), dtype=torch.long)


def _masked_index(answers: Answers, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Index with masks: positions are asked for instead, and the indexing is done with these."""
    if not any(t.dtype in {torch.bool, torch.uint8} for t in tensors(args[1:2])):
        return NotImplemented
    changed = answers.masks_as_positions(args)
    if name in {"__getitem__", "getitem"}:
        return changed[0][changed[1]]
    return torch.ops.aten.index.Tensor(changed[0], list(changed[1]))


def _masked_write(answers: Answers, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Write through masks: the target keeps its shape, whatever they are."""
    if not any(t.dtype in {torch.bool, torch.uint8} for t in tensors(args[1:2])):
        return NotImplemented
    args[0].add_(0) if args[0].dtype is not torch.bool else args[0].logical_or_(False)  # written to
    return None if name == "__setitem__" else args[0]


def _pack(answers: Answers, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    value, lengths = args[0], args[1]
    first = args[2] if len(args) > 2 else kwargs.get("batch_first", False)
    batch, time = (value.shape[0], value.shape[1]) if first else (value.shape[1], value.shape[0])
    real = answers.fakes.real(lengths) if isinstance(lengths, torch.Tensor) else torch.tensor(lengths)
    with _disable_current_modes():
        if real is None:
            real = torch.full((batch,), time)
        sizes = (real[None] > torch.arange(int(real.max()))[:, None]).sum(1)
        total = int(sizes.sum())
    flat = (value.transpose(0, 1) if first else value).reshape(batch * time, *value.shape[2:])
    return flat[:total].clone(), answers.known(sizes)


def _unpack(answers: Answers, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    value, sizes = args[0], answers.fakes.real(args[1])
    first, total = args[2], args[4] if len(args) > 4 else 0
    if sizes is None:
        return NotImplemented
    with _disable_current_modes():
        batch, time = int(sizes[0]), max(int(total), len(sizes))
        lengths = (sizes[None] > torch.arange(batch)[:, None]).sum(1)
    shape = (batch, time) if first else (time, batch)
    return value.new_empty((*shape, *value.shape[1:])), answers.known(lengths)


def _recurrent(answers: Answers, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Shapes of a recurrent layer's results: unrolling it would take a call for every step."""
    value = args[0]
    packed = isinstance(args[3], list | tuple)
    hidden, weights = (args[2], args[3]) if packed else (args[1], args[2])
    both = bool(args[8 if packed else 7])
    states = tuple(hidden) if isinstance(hidden, list | tuple) else (hidden,)
    out = value.new_empty((*value.shape[:-1], states[0].shape[-1] * (2 if both else 1)))
    out = out + 0 * weights[0].sum()  # whoever asks for gradients gets some
    return (out, *(state.clone() + 0 * out.sum() for state in states))


def _grouped_mm(answers: Answers, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Multiply by one matrix for each group of rows: torch knows the shape for bfloat16 only."""
    one, other = tuple(tensors((args, kwargs)))[:2]
    groups = kwargs.get("offs", args[2] if len(args) > 2 else None)
    if one.dim() == 2 and other.dim() == 2 and groups is not None:
        return (one @ other).expand(groups.shape[0], -1, -1).clone()
    if one.dim() == 2:
        return one @ other[0]
    return one[0] @ other if other.dim() == 2 else one @ other


def _nms(answers: Answers, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Keep every box."""
    with _disable_current_modes():
        kept = torch.arange(next(tensors((args, kwargs))).shape[0])
    return answers.known(kept)


def _batch_norm(answers: Answers, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """In training mode one value per channel is refused; its shape is as clear as any other."""
    training = kwargs.get("training", args[5] if len(args) > 5 else False)
    return args[0].clone() if training is True and args else NotImplemented


_HANDLERS: dict[str, _Handler] = {
    **dict.fromkeys(("nonzero", "argwhere", "where", "nonzero_numpy"), _nonzero),
    "masked_select": _masked_select,
    **dict.fromkeys(("unique", "unique_consecutive", "_unique2", "unique_dim"), _unique),
    "bincount": _bincount,
    "repeat_interleave": _repeat_interleave,
    "one_hot": _one_hot,
    **dict.fromkeys(("__getitem__", "index"), _masked_index),
    **dict.fromkeys(("__setitem__", "index_put_"), _masked_write),
    "_pack_padded_sequence": _pack,
    "_pad_packed_sequence": _unpack,
    **dict.fromkeys(_RECURRENT, _recurrent),
    "nms": _nms,
    "batch_norm": _batch_norm,
    **dict.fromkeys(("_grouped_mm", "grouped_mm"), _grouped_mm),
}
HANDLED = frozenset(_HANDLERS)
