"""The calibrated model: how likely a net with these features is not to train.

Each feature on its own keeps a net from training with a probability that rises with it, whatever the others say: a
logistic in decades. What is left without any of them is the base. Risk is that at least one of them strikes (noisy-or),
so that no feature can make up for another. No slope is negative.
"""

from __future__ import annotations

import math

from initaudit.risk.features import NAMES, Features
from initaudit.risk.fit import BASE, ERROR, HALF, SLOPE, WARNING
from initaudit.types import Severity


def risk(features: Features) -> float:
    """Return the probability that a net with these features does not train."""
    survives = 1 - BASE
    for name in NAMES:
        survives *= 1 - alone(name, getattr(features, name))
    return 1 - survives


def alone(name: str, value: float) -> float:
    """Return the probability that one feature alone keeps a net from training."""
    return 1 / (1 + math.exp(-max(-40.0, min(40.0, SLOPE[name] * (value - HALF[name])))))


def bearable(name: str) -> float:
    """Return the value of a feature from which it alone is worth a warning."""
    return HALF[name] + math.log(WARNING / (1 - WARNING)) / SLOPE[name]


def severity(value: float) -> Severity:
    """Return what a risk amounts to."""
    return Severity.ERROR if value >= ERROR else Severity.WARNING if value >= WARNING else Severity.INFO
