"""A live nn.Module as inert records: its tensors, and its modules as a pickled module's reader would give them."""

from __future__ import annotations

import enum
import functools
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from initaudit.dtypes import numpy_dtype
from initaudit.errors import UnsupportedError
from initaudit.types import Array, Global, Module, Skip, Tensor

MAX_VALUES = 64  # elements of a tuple, entries of a dict: more is data, not a setting
MAX_TEXT = 1000

_BOOKKEEPING = frozenset(vars(nn.Module())) - {"training", "_forward_hooks", "_forward_pre_hooks"}
_NOT_PLAIN = object()
_FUNCTIONS = (type, types.FunctionType, types.BuiltinFunctionType, np.ufunc)


@dataclass(slots=True)
class Tree:
    """What a module holds, in the order of state_dict()."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    modules: list[Module] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)


class Storages:
    """Names for storages, so that tensors that share one are known as tied."""

    def __init__(self) -> None:
        self._names: dict[int, str] = {}
        self._kept: list[object] = []  # what is known by its address must not go away

    def tensor(self, name: str, value: torch.Tensor, *, buffer: bool) -> Tensor:
        """Return the record of a tensor of torch's; its values are read when asked for."""
        shape, dtype = tuple(value.shape), str(value.dtype).removeprefix("torch.")
        if value.layout is not torch.strided or value.is_quantized:
            return Tensor(name, shape, dtype, lambda: values(value), buffer=buffer)
        try:
            storage = value.untyped_storage()
        except (NotImplementedError, RuntimeError):  # a subclass that wraps others
            return Tensor(name, shape, dtype, lambda: values(value), buffer=buffer)
        key = storage._cdata
        if key not in self._names:
            self._names[key] = f"storage {len(self._names)}"
            self._kept.append(storage)
        strides = None if value.is_contiguous() else tuple(value.stride())
        return Tensor(
            name, shape, dtype, lambda: values(value), self._names[key], int(value.storage_offset()), strides, buffer
        )


def values(tensor: torch.Tensor) -> Array:
    """Return a tensor's values; bfloat16 and the eight-bit floats in ml_dtypes' types.

    Raises:
        UnsupportedError: there are none, or numpy has no such type.
    """
    if tensor.is_meta or not hasattr(tensor, "untyped_storage") or _is_fake(tensor):
        raise UnsupportedError("it is on the meta device, without values")
    plain = tensor.detach()
    if plain.is_quantized:
        plain = plain.dequantize()
    if plain.layout is not torch.strided:
        plain = plain.to_dense()
    plain = plain.cpu().resolve_conj().resolve_neg()
    wanted = numpy_dtype(str(plain.dtype).removeprefix("torch."))
    if wanted.isbuiltin == 1:
        return plain.numpy()
    whole = plain.contiguous()  # numpy does not know the type: hand over its bytes
    raw: Array = whole.view(torch.uint8 if whole.element_size() == 1 else torch.int16).numpy()
    return raw.view(wanted)


def _is_fake(tensor: torch.Tensor) -> bool:
    return type(tensor).__name__ == "FakeTensor"


def read(root: nn.Module) -> Tree:
    """Return the tensors and modules of `root`, each module before its children and these in order of registration."""
    tree, storages = Tree(), Storages()
    todo: list[tuple[nn.Module, str, tuple[int, ...]]] = [(root, "", ())]
    while todo:
        module, path, above = todo.pop()
        above = (*above, id(module))
        children = [
            (child, f"{path}.{name}" if path else name)
            for name, child in module._modules.items()
            if child is not None and id(child) not in above
        ]
        tree.modules.append(
            Module(
                path, _class(type(module)), dict(_attributes(module)), dict(_tensors(module, path, tree, storages)),
                tuple(at for _, at in children),
            )
        )  # fmt: skip
        tree.skipped += _packed(module, path)
        todo += [(child, at, above) for child, at in reversed(children)]
    return tree


def _packed(module: nn.Module, path: str) -> Iterator[Skip]:
    """Tell of weights in objects of torch's C++ side, as quantised layers keep theirs."""
    for local, value in vars(module).items():
        if isinstance(value, torch.ScriptObject) and not isinstance(module, torch.jit.ScriptModule):
            name = f"{path}.{local}" if path else local
            yield Skip(name, "packed for kernels of torch's: judge the weights before they are quantised")


def _tensors(module: nn.Module, path: str, tree: Tree, storages: Storages) -> Iterator[tuple[str, str]]:
    for held, buffer in ((module._parameters, False), (module._buffers, True)):
        for local, value in held.items():
            if value is None:
                continue
            name = f"{path}.{local}" if path else local
            if is_lazy(value):
                tree.skipped.append(
                    Skip(name, "a lazy parameter, made in the first forward pass: run the model once before")
                )
                continue
            floating = value.is_floating_point() or value.is_complex() or value.is_quantized
            tree.tensors[name] = storages.tensor(name, value, buffer=buffer or not floating)
            yield local, name


def _attributes(module: nn.Module) -> Iterator[tuple[str, object]]:
    for key, value in vars(module).items():
        if key in _BOOKKEEPING or (key.endswith("_hooks") and not value) or isinstance(value, torch.Tensor):
            continue
        yield from _named(value, key)
    frozen = tuple(k for k, p in module._parameters.items() if p is not None and not p.requires_grad)
    if frozen:
        yield "parameters.frozen", frozen  # no Python name, so it can hide no attribute


def _named(value: object, key: str, depth: int = 0) -> Iterator[tuple[str, object]]:
    """Yield an attribute as plain values, small objects and dicts flattened: ("act", ...), ("act.approximate", ...)."""
    if isinstance(value, functools.partial):
        yield key, _plain(value.func)
        value = value.keywords
    else:
        single = _plain(value)
        if single is not _NOT_PLAIN:
            yield key, single
            if not isinstance(single, Global) or isinstance(value, (*_FUNCTIONS, torch.dtype)):
                return
    if depth == 2 or isinstance(value, nn.Module):
        return
    held: Any = {} if depth else value
    entries = held if isinstance(value, dict) else getattr(value, "__dict__", {})
    if len(entries) <= MAX_VALUES:
        for name, inner in entries.items():
            if isinstance(name, str | int):
                yield from _named(inner, f"{key}.{name}", depth + 1)


def _plain(value: object) -> object:
    """Return a number, text, Global or tuple of them for `value`, a marker where there is none."""
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, enum.Enum):
        return _plain(value.value)
    if isinstance(value, str):
        return value[:MAX_TEXT]
    if isinstance(value, tuple | list):
        items = tuple(map(_plain, value[: MAX_VALUES + 1]))
        return _NOT_PLAIN if len(items) > MAX_VALUES or any(item is _NOT_PLAIN for item in items) else items
    if isinstance(value, np.bool_ | np.integer | np.floating):
        return value.item()
    if isinstance(value, torch.dtype):
        return Global(str(value))
    if isinstance(value, torch.device):
        return str(value)
    if isinstance(value, _FUNCTIONS):
        return Global(_class(value))
    if isinstance(value, dict | set | frozenset | torch.Tensor | np.ndarray | types.MethodType):
        return _NOT_PLAIN
    return Global(_class(type(value)))


def _class(cls: Any) -> str:
    package = getattr(cls, "__module__", None) or "builtins"
    return f"{package}.{getattr(cls, '__qualname__', getattr(cls, '__name__', '?'))}"
