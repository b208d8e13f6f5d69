"""What a layer tells a scheme: its fans, what the literature would draw there, what torch itself does."""

from __future__ import annotations

import math

from initaudit import activations
from initaudit.schemes.reading import parse
from initaudit.schemes.row import Fans, Value
from initaudit.types import Evidence, Expectation, Layer, Role


def fans_of(layer: Layer) -> Fans | None:
    """Return the fans of a layer with what torch.nn.init would compute from its stored shape, or None without fans."""
    if layer.fan_in is None or layer.fan_out is None:
        return None
    shape, axes = layer.weight.shape, layer.axes
    kernel = math.prod(n for label, n in zip(axes, shape, strict=True) if label == "k")
    torch = None
    if len(shape) >= 2:
        rest = math.prod(shape[2:])
        torch = (float(shape[1] * rest), float(shape[0] * rest))
    rows = math.prod(n for label, n in zip(axes, shape, strict=True) if label == "o")
    columns = math.prod(n for label, n in zip(axes, shape, strict=True) if label in "ik")
    if axes.find("i") > axes.find("o"):
        rows //= max(layer.groups, 1)
    else:
        columns //= max(layer.groups, 1)
    return Fans(layer.fan_in, layer.fan_out, torch, rows // max(len(layer.parts), 1), columns, kernel)


_NO_FANS = {Role.NORM, Role.EMBEDDING}


def expect(layer: Layer) -> Expectation | None:
    """Return what He, Xavier or LeCun would draw here, or None where the literature says nothing.

    He with the activation's gain before rectifiers and where the activation is not known, Xavier before saturating
    functions and where nothing follows, LeCun before SELU; None for norms, vectors and embeddings.

    Source: He et al. 2015 eq. 10; Glorot & Bengio 2010 eq. 12; Klambauer et al. 2017 section 2.
    """
    fans = fans_of(layer)
    if fans is None or "i" not in layer.axes or "o" not in layer.axes:
        return None
    if layer.role in _NO_FANS or layer.kind in ("norm", "embedding") or not fans.fan_in > 0:
        return None
    he, xavier, lecun = (parse(n)[0] for n in ("he", "xavier", "lecun"))
    if layer.activation is None:
        known = layer.activation_evidence > Evidence.ASSUMED
        row = xavier if known or layer.kind in ("rnn", "lstm", "gru") else he
        return Expectation(row.name, row.std(fans))
    activation = activations.find(layer.activation)
    if activation is None:
        return Expectation(he.name, he.std(fans))
    if activation.family is activations.Family.SELF_NORMALISING:
        return Expectation(lecun.name, lecun.std(fans))
    if activation.family is activations.Family.RECTIFIER:
        params: dict[str, Value] = {} if activation.name == "relu" else {"activation": activation.name}
        if activation.params != activations.get(activation.name).params:
            params = {"gain": activation.forward_gain}
        return Expectation(he.render(**params), he.std(fans, **params))
    return Expectation(xavier.name, xavier.std(fans))
