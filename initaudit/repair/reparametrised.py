"""Tensors that are written along with a weight that the file does not hold itself, but what it is made of.

conv.weight_g, conv.weight_v                       weight_norm: g * v / ||v||. With v drawn and g = ||v|| that is v
conv.parametrizations.weight.original0, original1  the same
fc.weight_orig, fc.weight_u, fc.weight_v           spectral_norm: w / (u' w v). With w drawn, u and v are iterated
fc.parametrizations.weight.original, .0._u, .0._v  the same
"""

from __future__ import annotations

import re

import numpy as np

from initaudit.types import Array, Layer, Tensor

_POWER_ITERATIONS = 15  # what torch.nn.utils.parametrizations.spectral_norm does when it is put on
_MADE_OF = re.compile(r"^(?:(?P<path>.*)\.)?parametrizations\.(?P<local>[^.]+)\.original1?$")


def beside(layer: Layer) -> dict[str, Tensor]:
    """Return what must be written with the weight: "norm" of weight_norm, "left" and "right" of spectral_norm."""
    name = layer.weight.name
    extra = {t.name: t for t in layer.extra}
    roles: dict[str, str] = {}
    if name.endswith("original1"):
        roles = {"norm": f"{name[:-1]}0"}
    elif name.endswith("_v"):
        roles = {"norm": f"{name[:-2]}_g"}
    elif name.endswith("_orig"):
        roles = {"left": f"{name[:-5]}_u", "right": f"{name[:-5]}_v"}
    elif name.endswith(".original"):
        roles = {"left": f"{name[:-8]}0._u", "right": f"{name[:-8]}0._v"}
    return {role: extra[other] for role, other in roles.items() if other in extra}


def effective_name(layer: Layer, name: str) -> str:
    """Return the name of the weight that a tensor makes: what a file holds that keeps no parts.

    "conv.parametrizations.weight.original1" and "conv.weight_v" make "conv.weight".
    """
    match = _MADE_OF.match(name)
    if match:
        return ".".join(filter(None, (match["path"], match["local"])))
    return re.sub(r"_(?:v|orig)$", "", name) if beside(layer) or name.endswith("_orig") else name


def norm(v: Array, like: Tensor) -> Array:
    """Return the norms of v's slices, in the shape of g."""
    axes = None if like.size == 1 else tuple(n for n, extent in enumerate(like.shape) if extent == 1)
    return np.asarray(np.sqrt(np.square(v).sum(axis=axes, keepdims=True)).reshape(like.shape))


def singular(w: Array, left: Tensor, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return torch's estimate of the first singular vectors of a weight, (left, right).

    The sums take one order whatever the number of threads, which a product by BLAS does not.

    Source: Miyato et al. 2018, algorithm 1; torch.nn.utils.parametrizations._SpectralNorm.
    """
    axis = 0 if left.size == w.shape[0] else 1
    matrix = np.ascontiguousarray(np.moveaxis(w, axis, 0)).reshape(left.size, -1)
    u = _unit(rng.standard_normal(matrix.shape[0]))
    v = _unit(rng.standard_normal(matrix.shape[1]))
    for _ in range(_POWER_ITERATIONS):
        u = _unit(np.einsum("ij,j->i", matrix, v))
        v = _unit(np.einsum("ij,i->j", matrix, u))
    return u, v


def _unit(vector: Array) -> Array:
    return np.asarray(vector / max(float(np.sqrt(np.square(vector).sum())), 1e-12))
