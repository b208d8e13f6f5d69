"""The tensors of one module, with re-parametrised weights put back together.

    conv.weight_g, conv.weight_v                       old weight_norm: g * v / ||v||
    conv.parametrizations.weight.original0, original1  torch.nn.utils.parametrizations.weight_norm, the same
    fc.weight_orig, fc.weight_u, fc.weight_v           spectral_norm: w / (u' w v)
    fc.parametrizations.weight.original, .0._u, .0._v  the same

The effective weight is a derived Tensor: nothing is read before it is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from initaudit.types import Array, Module, Tensor

_POWER_ITERATIONS = 15  # what torch.nn.utils.parametrizations.spectral_norm does when it is put on
_PARAMETRIZED = re.compile(r"^(?:(.*)\.)?parametrizations\.(\w+)\.(original\d?|\d+\.\w+)$")


@dataclass(slots=True)
class Group:
    """A module as far as the file shows it."""

    path: str
    tensors: dict[str, Tensor] = field(default_factory=dict)  # local name -> tensor; "weight@original0" if parametrised
    module: Module | None = None


@dataclass(frozen=True, slots=True)
class Effective:
    """A weight put back together."""

    weight: Tensor
    extra: tuple[Tensor, ...]
    used: tuple[str, ...]  # local names that are accounted for
    reason: str
    known: bool = True  # False: how the stored values make the weight is not known


def split(name: str) -> tuple[str, str]:
    """Split a tensor's name into the path of its module and its local name.

    >>> split("a.0.parametrizations.weight.original0")
    ('a.0', 'weight@original0')
    >>> split("cls_token"), split("enc/layer_0/kernel")
    (('', 'cls_token'), ('enc/layer_0', 'kernel'))
    """
    match = _PARAMETRIZED.match(name)
    if match:
        return match[1] or "", f"{match[2]}@{match[3]}"
    path, _, local = name.rpartition("." if "." in name else "/")
    return path, local


def by_name(tensors: Iterable[Tensor]) -> list[Group]:
    """Return the groups of a flat file, in the order of their first tensor."""
    groups: dict[str, Group] = {}
    for tensor in tensors:
        path, local = split(tensor.name)
        groups.setdefault(path, Group(path)).tensors[local] = tensor
    return list(groups.values())


def by_module(tensors: Iterable[Tensor], modules: Iterable[Module]) -> list[Group]:
    """Return the groups of a module tree in the order of registration, then what no module claims, by name."""
    left = {t.name: t for t in tensors}
    groups: dict[str, Group] = {}
    for module in modules:
        found = {local: left.pop(name) for local, name in module.tensors.items() if name in left}
        path, inner = module.path, ""
        match = re.match(r"^(?:(.*)\.)?parametrizations(?:\.(\w+)(?:\.(\d+))?)?$", module.path)
        if match:
            path = match[1] or ""
            inner = (match[2] or "") + "@" + (f"{match[3]}." if match[3] else "")
        group = groups.setdefault(path, Group(path, {}, None if match else module))
        group.tensors.update({inner + local: tensor for local, tensor in found.items()})
    for group in by_name(left.values()):
        groups.setdefault(group.path, group).tensors.update(group.tensors)
    return list(groups.values())


def effective(tensors: Mapping[str, Tensor], transposed: bool = False) -> dict[str, Effective]:
    """Return the re-parametrised weights among a group's tensors, by local name of the weight they make.

    Args:
        tensors: of one group, by local name.
        transposed: whether spectral_norm counted the second axis as outputs, as it does for a transposed convolution.
    """
    found: dict[str, Effective] = {}
    for local, tensor in tensors.items():
        base, at, part = local.partition("@")
        if at and part == "original1" and f"{base}@original0" in tensors:
            _put(found, base, _normed(tensors, f"{base}@original0", local, base))
        elif at and part == "original":
            u, v = tensors.get(f"{base}@0._u"), tensors.get(f"{base}@0._v")
            _put(found, base, _spectral(tensors, base, local, u, v, transposed))
        elif not at and local.endswith("_v") and f"{local[:-2]}_g" in tensors:
            _put(found, local[:-2], _normed(tensors, f"{local[:-2]}_g", local, local[:-2]))
        elif not at and local.endswith("_orig"):
            base = local[:-5]
            if f"{base}_mask" in tensors:
                _put(found, base, _masked(tensors, base, local, tensor))
            else:
                u, v = tensors.get(f"{base}_u"), tensors.get(f"{base}_v")
                _put(found, base, _spectral(tensors, base, local, u, v, transposed))
    return found


def _put(found: dict[str, Effective], base: str, value: Effective | None) -> None:
    if value is not None:
        found[base] = value


def _normed(tensors: Mapping[str, Tensor], g_name: str, v_name: str, base: str) -> Effective | None:
    g, v = tensors[g_name], tensors[v_name]
    if not (g.is_float and v.is_float):
        return None
    fits = g.size == 1 or (
        len(g.shape) == len(v.shape) and all(a in (1, b) for a, b in zip(g.shape, v.shape, strict=True))
    )
    used = tuple(n for n in tensors if n in (g_name, v_name, base) or n.startswith(f"{base}@"))
    extra = tuple(tensors[n] for n in used if n != v_name)
    if not fits:
        return Effective(
            v, extra, used, f"{v.name} is parametrised in a way that is not known; judged as stored", False
        )
    axes = None if g.size == 1 else tuple(i for i, extent in enumerate(g.shape) if extent == 1)

    def load() -> Array:
        stored = v.load()
        wide = stored.astype(np.float64)
        norm = np.sqrt((wide * wide).sum(axis=axes, keepdims=True))
        gain = g.load().astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            made = wide * ((gain.reshape(()) if g.size == 1 else gain) / norm)
        return np.asarray(made.astype(stored.dtype))

    return Effective(_derived(v, load, g), extra, used, "weight_norm: judged is g * v / ||v||")


def _spectral(
    tensors: Mapping[str, Tensor], base: str, name: str, u: Tensor | None, v: Tensor | None, transposed: bool
) -> Effective | None:
    w = tensors[name]
    if not w.is_float:
        return None
    mine = (f"{base}_u", f"{base}_v", base)
    used = tuple(n for n in tensors if n == name or n in mine or n.startswith(f"{base}@"))
    extra = tuple(tensors[n] for n in used if n != name)
    unknown = f"{w.name} is parametrised in a way that is not known; judged as stored"
    if u is None or len(w.shape) < 2 or u.size not in w.shape[:2]:
        return Effective(w, extra, used, unknown, False)
    axis = 1 if u.size != w.shape[0] or (transposed and u.size == w.shape[1]) else 0
    if v is not None and v.size * u.size != w.size:
        return Effective(w, extra, used, unknown, False)

    def load() -> Array:
        stored = w.load()
        matrix = np.moveaxis(stored.astype(np.float64), axis, 0).reshape(u.size, -1)
        left = u.load().astype(np.float64).reshape(-1)
        # The stored vectors of a model that has not run yet may be random: iterate as training's first steps would.
        for _ in range(_POWER_ITERATIONS):
            right = _unit(matrix.T @ left)
            left = _unit(matrix @ right)
        with np.errstate(divide="ignore", invalid="ignore"):
            made = stored.astype(np.float64) / float(left @ matrix @ right)
        return np.asarray(made.astype(stored.dtype))

    return Effective(_derived(w, load, u), extra, used, "spectral_norm: judged is the weight over its spectral norm")


def _unit(vector: Array) -> Array:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12))


def _masked(tensors: Mapping[str, Tensor], base: str, name: str, w: Tensor) -> Effective | None:
    mask = tensors[f"{base}_mask"]
    if mask.shape != w.shape or not w.is_float:
        return None
    used = (name, f"{base}_mask", *([base] if base in tensors else []))

    def load() -> Array:
        stored = w.load()
        return np.asarray((stored * mask.load().astype(stored.dtype)).astype(stored.dtype))

    extra = tuple(tensors[n] for n in used if n != name)
    return Effective(_derived(w, load, mask), extra, used, "pruned: judged is the weight under its mask")


def _derived(stored: Tensor, load: Callable[[], Array], other: Tensor) -> Tensor:
    def release() -> None:
        stored.release()
        other.release()

    source = f"{stored.storage or stored.name}@{stored.offset}*{other.storage or other.name}@{other.offset}"
    return replace(stored, load=load, storage=source, offset=0, strides=None, release=release)
