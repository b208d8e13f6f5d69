"""Audits with signals written by hand: what a probe would say of nets that need not exist."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from initaudit.types import Attending, Audit, Head, Layer, Role, Signal, Signals
from tests.build import audit, he, layer, measured

WIDTH = 16
HEALTHY = Signal(
    forward_variance=1.0, second_moment=1.0, input_correlation=0.3, dead=0.0, relative_gradient=1.0, gradient=5.0,
    common=5.0, contrast=20.0, tied=0.0,
)  # fmt: skip


def dense(name: str, std: float | None = None, **fields: Any) -> Layer:
    """A dense trunk layer by He, or of another std."""
    values = he(WIDTH, WIDTH, seed=sum(map(ord, name)))
    if std is not None:
        values = (values * (std / np.sqrt(2 / WIDTH))).astype(np.float32)
    return layer(name, values, **fields)


def stack(count: int, **fields: Any) -> list[Layer]:
    """`count` dense layers, the last of them the head."""
    inner = [dense(f"layers.{k}", **fields) for k in range(count - 1)]
    return [*inner, dense("head", role=Role.HEAD, activation=None)]


def row(one: Layer, rate: float = 1.0, **fields: Any) -> Signal:
    """A healthy signal, with a gradient `rate` times the weight that splits as usual, and what `fields` say."""
    size = float(np.linalg.norm(np.asarray(one.weight.load(), float)))
    gradient = rate * (size or float(one.weight.size**0.5))
    own = replace(
        HEALTHY, relative_gradient=rate if size else None, gradient=gradient, common=gradient**2 * 0.2,
        contrast=gradient**2 * 0.8,
    )  # fmt: skip
    return replace(own, **fields)


def judged(
    layers: Sequence[Layer], signals: Sequence[Signal], attention: Sequence[Attending] = (), **head: float
) -> Audit:
    """An audit in which the probe said this."""
    out = Head("out", (8, 10), **{"variance": 1.0, "std": 1.0, **head})
    made = Signals(tuple(signals), tuple(attention), (out,))
    rows = tuple(replace(measured(one), probed=signal) for one, signal in zip(layers, signals, strict=True))
    return replace(audit(*layers), measured=rows, probe=made)
