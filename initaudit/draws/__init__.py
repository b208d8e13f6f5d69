"""One sampler per law: float64 draws of shape (out, in, *kernel), from a numpy Generator only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from initaudit.draws.orthogonal import orthonormal
from initaudit.errors import UsageError
from initaudit.types import Array

CUT = 2.0  # where a truncated normal law is cut, in standard deviations before cutting


def truncation(cut: float) -> tuple[float, float]:
    """Return (std, kurtosis) of N(0, 1) cut at +-cut.

    Source: integration by parts of x^2 and x^4 times the normal density; 0.8796256610 for a cut at 2.
    """
    mass = math.erf(cut / math.sqrt(2))
    edge = 2 * cut * math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi) / mass
    second = 1 - edge
    fourth = 3 * second - cut * cut * edge
    return math.sqrt(second), fourth / second**2


@dataclass(frozen=True, slots=True)
class Draw:
    """What a sampler needs besides the shape."""

    variance: float
    params: Mapping[str, float | str]
    blocks: int
    rng: np.random.Generator

    def number(self, key: str, default: float) -> float:
        """Return a numeric parameter, or the default where the scheme has none of that name."""
        value = self.params.get(key, default)
        return default if isinstance(value, str) else value

    @property
    def std(self) -> float:
        """Standard deviation of the entries."""
        return math.sqrt(self.variance)

    @property
    def mean(self) -> float:
        """Mean of the entries."""
        return self.number("mean", 0.0)


def _draw_normal(shape: tuple[int, ...], d: Draw) -> Array:
    return d.mean + d.std * d.rng.standard_normal(shape)


def _draw_uniform(shape: tuple[int, ...], d: Draw) -> Array:
    bound = math.sqrt(3) * d.std
    return d.mean + d.rng.uniform(-bound, bound, shape)


def _draw_truncated(shape: tuple[int, ...], d: Draw) -> Array:
    """Draw again what falls outside: no atoms at the bound, whatever the precision."""
    cut = d.number("cut", CUT)
    z = d.rng.standard_normal(shape)
    while (outside := np.abs(z) > cut).any():
        z[outside] = d.rng.standard_normal(int(outside.sum()))
    return d.mean + d.std / truncation(cut)[0] * z


def _split(shape: tuple[int, ...], blocks: int, law: str) -> tuple[int, int]:
    if len(shape) < 2 or shape[0] % blocks:
        raise UsageError(f"{law} needs a matrix per operator, not {blocks} in {list(shape)}")
    return shape[0] // blocks, math.prod(shape[1:])


def _draw_orthogonal(shape: tuple[int, ...], d: Draw) -> Array:
    rows, columns = _split(shape, d.blocks, "an orthogonal law")
    return d.number("gain", 1) * orthonormal(d.rng, d.blocks, rows, columns).reshape(shape)


def centre(shape: tuple[int, ...], blocks: int) -> tuple[Any, ...]:
    """Return where a delta-orthogonal kernel is not zero.

    Raises:
        UsageError: no kernel of that shape is delta-orthogonal.
    """
    rows, _ = _split(shape, blocks, "delta-orthogonal")
    if rows < shape[1]:
        raise UsageError(
            f"delta-orthogonal needs at least as many output as input channels in every group, not {rows} for"
            f" {shape[1]}: fewer cannot keep every input apart"
        )
    if any(k % 2 == 0 for k in shape[2:]):
        raise UsageError(f"delta-orthogonal needs odd kernels, not {list(shape[2:])}: an even one has no centre")
    return (slice(None), slice(None), *_centre(shape))


def _centre(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(k // 2 for k in shape[2:])


def _draw_delta(shape: tuple[int, ...], d: Draw) -> Array:
    at = centre(shape, d.blocks)
    w = np.zeros(shape)
    w[at] = orthonormal(d.rng, d.blocks, shape[0] // d.blocks, shape[1]).reshape(shape[:2])
    return d.number("gain", 1) * w


def _draw_eye(shape: tuple[int, ...], d: Draw) -> Array:
    rows, _ = _split(shape, d.blocks, "an identity")
    w = np.zeros(shape)
    for block in range(d.blocks):
        for i in range(min(rows, shape[1])):
            w[(block * rows + i, i, *_centre(shape))] = d.number("gain", 1)
    return w


def _draw_constant(shape: tuple[int, ...], d: Draw) -> Array:
    return np.full(shape, d.number("value", 0.0))


def _draw_sparse(shape: tuple[int, ...], d: Draw) -> Array:
    """Zero the same number of entries in every column, as torch.nn.init.sparse_ does."""
    rows, columns = _split(shape, d.blocks, "a sparse law")
    w = d.rng.standard_normal((d.blocks, rows, columns)) * d.number("std", 0.01)
    zeros = math.ceil(d.number("sparsity", 0.9) * rows)
    if zeros >= rows > 0:
        raise UsageError(f"a sparsity of {d.number('sparsity', 0.9):g} leaves nothing of {rows} units")
    for block in range(d.blocks):
        for column in range(columns):
            w[block, d.rng.permutation(rows)[:zeros], column] = 0.0
    return w.reshape(shape)


DRAW: dict[str, Callable[[tuple[int, ...], Draw], Array]] = {
    "normal": _draw_normal,
    "uniform": _draw_uniform,
    "truncated": _draw_truncated,
    "orthogonal": _draw_orthogonal,
    "delta-orthogonal": _draw_delta,
    "dirac": _draw_eye,
    "identity": _draw_eye,
    "constant": _draw_constant,
    "sparse": _draw_sparse,
}
