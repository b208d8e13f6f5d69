"""Checkpoints in the spelling of an older library: transformers renames and joins weights as it loads them.

The library's own table says how; it is asked for names and shapes, and for values only when they are measured.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from initaudit.live.tree import values
from initaudit.types import Array, Model, Tensor


@dataclass(frozen=True, slots=True)
class Spelling:
    """What a module calls the tensors of a checkpoint."""

    names: Mapping[str, str] = field(default_factory=dict)  # the checkpoint's name: the module's
    joined: tuple[Tensor, ...] = ()  # tensors of the module that the checkpoint has in parts


def _as_it_is(tensors: Sequence[Tensor]) -> Spelling:
    return Spelling()


@dataclass(frozen=True, slots=True)
class Meant(Model):
    """A module that checkpoints are meant for, and how its library spells their tensors."""

    spell: Callable[[Sequence[Tensor]], Spelling] = field(default=_as_it_is, repr=False, compare=False)


def meant(model: Model, module: nn.Module) -> Model:
    """Return the Model of a module with its library's table of names, where it has one."""
    library = sys.modules.get("transformers.modeling_utils")
    if library is None or not isinstance(module, library.PreTrainedModel):
        return model
    try:
        from transformers import conversion_mapping, core_model_loading  # noqa: F401, PLC0415  not before its fifth
    except ImportError:
        return model
    held = {name: getattr(model, name) for name in model.__dataclass_fields__}
    return Meant(**held, spell=lambda tensors: _spelled(module, tensors))


def _spelled(module: Any, tensors: Sequence[Tensor]) -> Spelling:
    from transformers import conversion_mapping, core_model_loading  # noqa: PLC0415

    try:
        table = conversion_mapping.get_model_conversion_mapping(module)
    except Exception:  # the library's, about a class that it does not know: names are compared as they are
        return Spelling()
    renamings = [one for one in table if isinstance(one, core_model_loading.WeightRenaming)]
    converters = [one for one in table if isinstance(one, core_model_loading.WeightConverter)]
    by_pattern = {pattern: one for one in converters for pattern in one.source_patterns}
    known, prefix = module.state_dict(), module.base_model_prefix
    names: dict[str, str] = {}
    parts: dict[str, tuple[Any, dict[str, list[Tensor]]]] = {}
    for tensor in sorted(tensors, key=lambda t: core_model_loading.dot_natural_key(t.name)):  # experts in their order
        name = tensor.name
        new, pattern = core_model_loading.rename_source_key(name, renamings, converters, prefix, known)
        if new not in known and name in known:
            new, pattern = name, None
        if new not in known:
            continue
        if pattern is None:
            names[name] = new
        else:
            _, given = parts.setdefault(new, (by_pattern[pattern], {}))
            given.setdefault(pattern, []).append(tensor)
    joined = [one for target, (converter, given) in parts.items() for one in _joined(module, target, converter, given)]
    return Spelling(names, tuple(joined))


def _joined(module: Any, target: str, converter: Any, given: Mapping[str, list[Tensor]]) -> list[Tensor]:
    """Return the tensors that the library works out from parts; none where it cannot."""

    def convert(made: Callable[[Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
        own = copy.deepcopy(converter)
        own.collected_tensors = {pattern: [made(one) for one in several] for pattern, several in given.items()}
        with torch.no_grad():
            found = own.convert(target, model=module, config=module.config)
        return {name: one[0] if isinstance(one, list) else one for name, one in found.items()}

    every = [one for several in given.values() for one in several]
    try:
        shapes = convert(lambda one: torch.empty(one.shape, dtype=getattr(torch, one.dtype), device="meta"))
    except Exception:  # parts that do not fit each other: they stay what has no place in the model
        return []

    def release() -> None:
        for one in every:
            one.release()

    def loader(name: str) -> Callable[[], Array]:
        return lambda: values(convert(_torch)[name])

    names = tuple(one.name for one in every)
    return [
        replace(
            every[0], name=name, shape=tuple(one.shape), load=loader(name), storage="", offset=0, strides=None,
            release=release, parts=names,
        )
        for name, one in shapes.items()
    ]  # fmt: skip


def _torch(tensor: Tensor) -> torch.Tensor:
    """Return a tensor's values as torch has them, types that numpy lacks included."""
    array = np.ascontiguousarray(tensor.load()).reshape(tensor.shape)
    if array.dtype.isbuiltin != 1:
        raw = np.array(array).view({1: np.uint8, 2: np.int16}[array.itemsize])
        return torch.from_numpy(raw).view(getattr(torch, tensor.dtype))
    return torch.from_numpy(array.copy() if not array.flags.writeable else array)
