"""The variance of each scheme as a function of the fans."""

from __future__ import annotations

import math

from initaudit import activations
from initaudit.errors import UsageError
from initaudit.schemes.row import Fans, Params, Variance, number


def gain_of(activation: str) -> float:
    """Return the forward gain for what follows a weight: exactly sqrt(2) for ReLU, 1 for nothing.

    Source: He et al. 2015 eq. 10 for ReLU; for others 1/sqrt(E f(z)^2), z ~ N(0, 1), by quadrature.
    """
    row = activations.get(activation)
    if row.name == "relu":
        return math.sqrt(2)
    return row.forward_gain if row.elementwise else 1.0


def scaled(gain: float) -> Variance:
    """Return gain^2 / fan, where `gain` is the default that `gain=` or `activation=` replaces."""

    def variance(fans: Fans, p: Params) -> float:
        g = number(p, "gain", gain)
        if p.get("activation", "relu") != "relu":
            g *= gain_of(str(p["activation"])) / math.sqrt(2)
        fan = fans.by_mode(str(p.get("mode", "fan_in")), str(p.get("fans", "operator")))
        return g * g / max(fan, 1e-300) / number(p, "branches", 1)

    return variance


def fixed(fans: Fans, p: Params) -> float:
    """Return std^2, divided by the branches."""
    return number(p, "std", 0.02) ** 2 / number(p, "branches", 1)


def torch_default(fans: Fans, p: Params) -> float:
    """Return 1 / (3 fan)."""
    fan = fans.fan_out if p["kind"] in ("conv_transpose", "rnn") else fans.fan_in
    return 1 / (3 * max(fan, 1e-300)) / number(p, "branches", 1)


def siren(fans: Fans, p: Params) -> float:
    """Return 2 / (fan_in omega^2)."""
    return 2 / max(fans.fan_in, 1e-300) / number(p, "omega", 30.0) ** 2


def siren_first(fans: Fans, p: Params) -> float:
    """Return 1 / (3 fan_in^2)."""
    return 1 / (3 * max(fans.fan_in, 1e-300) ** 2)


def uniform(fans: Fans, p: Params) -> float:
    """Return bound^2 / 3."""
    return number(p, "bound", 0.05) ** 2 / 3


def orthogonal(fans: Fans, p: Params) -> float:
    """Return gain^2 / the longer side."""
    return number(p, "gain", 1) ** 2 / max(*fans.matrix, 1)


def delta(fans: Fans, p: Params) -> float:
    """Return the mean square of one entry per unit of the shorter side."""
    rows, columns = fans.matrix
    return number(p, "gain", 1) ** 2 * min(rows, columns // fans.kernel) / max(rows * columns, 1)


def none(fans: Fans, p: Params) -> float:
    """Return 0: nothing varies."""
    return 0.0


def sparse(fans: Fans, p: Params) -> float:
    """Return the variance of a normal law, less what is zeroed."""
    return (1 - number(p, "sparsity", 0.9)) * number(p, "std", 0.01) ** 2


def unknown(fans: Fans, p: Params) -> float:
    """Refuse: auto chooses among schemes, lsuv scales by what a batch does; neither has a variance of its own.

    Raises:
        UsageError: always.
    """
    raise UsageError("auto and lsuv are ways to choose and to scale, with no variance of their own")
