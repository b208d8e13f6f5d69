"""In-memory values for tests: layers, audits and reports without files."""

from __future__ import annotations

from typing import Any

import numpy as np

from initaudit import laws, schemes, stats
from initaudit.layers.fans import fans
from initaudit.types import Array, Audit, Evidence, Layer, Measured, Model, Report, Role, State, Tensor


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def he(out: int, fan_in: int, seed: int = 0) -> Array:
    return (rng(seed).standard_normal((out, fan_in)) * np.sqrt(2 / fan_in)).astype(np.float32)


def tensor(name: str, values: Array, **fields: Any) -> Tensor:
    return Tensor(name, values.shape, str(values.dtype), lambda: values, **fields)


def layer(name: str, values: Array, kind: str = "linear", axes: str = "oi", **fields: Any) -> Layer:
    """A traced trunk layer unless `fields` say otherwise."""
    weight = fields.pop("weight", None) or tensor(f"{name}.weight", values)
    groups, parts = fields.get("groups", 1), max(1, len(fields.get("parts", ())))
    fan_in, fan_out = fans(kind, axes, values.shape, groups, fields.get("stride", ()), parts)
    known = {
        "fan_in": fan_in, "fan_out": fan_out, "activation": "relu", "role": Role.TRUNK, "fan_evidence": Evidence.TRACED,
        "activation_evidence": Evidence.TRACED, "role_evidence": Evidence.TRACED,
    }  # fmt: skip
    return Layer(name, kind, weight, axes, **{**known, **fields})


def measured(one: Layer) -> Measured:
    own = stats.measure(one.weight, one.axes, groups=one.groups, parts=max(1, len(one.parts)))
    others = {t.name: stats.measure(t, "o" * len(t.shape)) for t in (one.bias, *one.extra) if t is not None}
    return Measured(one, own, others, schemes.expect(one), laws.identify(one, own))


def audit(*layers: Layer, state: State = State.FRESH) -> Audit:
    return Audit(model(*layers), tuple(measured(one) for one in layers), state)


def model(*layers: Layer) -> Model:
    return Model("model.onnx", "onnx", "opset 17", tuple(one.weight for one in layers))


def report(*layers: Layer, state: State = State.FRESH) -> Report:
    """What the rules say about these layers."""
    from initaudit.rules import catalogue

    whole = audit(*layers, state=state)
    found = tuple(f for rule in catalogue() for f in rule(whole))
    total = sum(one.weight.size for one in layers)
    return Report(whole.model, whole.measured, found, (), state, ("by hand",), total, 1.0)
