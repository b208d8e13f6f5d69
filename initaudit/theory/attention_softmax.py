"""A softmax over n logits that are normal: how many of them take part, and its entropy.

With w the softmax of n independent logits of N(0, s^2) and S the sum of their exponentials, 1/S^2 is the integral of
t exp(-t S) over t, so that n E[w_1^2] = n^2 * integral of t E[e^2l exp(-t e^l)] E[exp(-t e^l)]^(n-1): one integral of
expectations over one normal number, exact from nearly uniform weights to those of the one largest logit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from initaudit.types import Array

_STEPS = 240
_NODES = 301
_WIDE = 9.0  # standard deviations of a normal number that are looked at
_MOST = 12.0  # beyond it, the largest logit takes all but for near ties, which are as rare as 1 / s


@dataclass(frozen=True, slots=True)
class Softmax:
    """What a softmax over n normal logits makes, on average.

    Attributes:
        shares: E[sum of w^2]: 1/n where weights are equal, 1 where one takes all.
        slope: E[sum over j of (w_j (e_j - sum of w e))^2] for e of variance 1: what of a gradient passes.
        entropy: E[-sum of w log w] in terms of log n.
    """

    shares: float
    slope: float
    entropy: float


def softmax(n: float, std: float) -> Softmax:
    """Return what a softmax over n logits of this standard deviation makes; n need not be whole."""
    if n <= 1 or not std >= 0:
        return Softmax(1.0, 0.0, 1.0)
    made = _softmax(float(f"{n:.3g}"), float(f"{min(std, _MOST):.3g}"))
    if std <= _MOST:
        return made
    tie = _MOST / std
    return Softmax(1 - (1 - made.shares) * tie, made.slope * tie, made.entropy * tie)


@lru_cache(maxsize=4096)
def _softmax(n: float, std: float) -> Softmax:
    if std < 1e-3:
        grown = 1 + std * std
        return Softmax(grown / n, (1 - 1 / n) / n, 1 - std * std / 2 / math.log(n))
    z = np.linspace(-_WIDE, _WIDE, _NODES)
    weight = np.exp(-z * z / 2)
    weight /= weight.sum()
    logits = std * z
    # The integrals are over log t: where t S is about 1 all happens.
    low = -(logits[-1] + math.log(n)) - 8.0
    high = -logits[0] + 6.0 if n < 50 else -(-std * math.sqrt(2 * math.log(n))) + 6.0
    t = np.linspace(low, high, _STEPS)
    step = t[1] - t[0]
    x = t[:, None] + logits[None, :]  # log of t e^l
    near = np.exp(np.minimum(x, 6.5))
    decay = np.exp(-near) * weight
    rest = np.clip(decay.sum(1), 1e-300, 1.0)
    others = np.exp((n - 1) * np.log(rest))
    first, second, third, fourth = (_moment(near, decay, k) for k in (1, 2, 3, 4))
    shares = n * float((second * others).sum() * step)
    cubes = n * float((third * others).sum() * step) / 2
    squares = n * float(((fourth + (n - 1) * second**2 / rest) * others).sum() * step) / 6  # E[(sum of w^2)^2]
    told = n * float(((near * decay * logits).sum(1) * others).sum() * step)
    whole = n * float((first * others).sum() * step)  # 1, but for the steps
    log_sum = float((np.exp(-np.exp(np.minimum(t, 6.5))) - np.exp(n * np.log(rest))).sum() * step)
    entropy = (log_sum - told / whole) / math.log(n)
    slope = max(0.0, shares - 2 * cubes + squares) / whole
    return Softmax(_between(shares / whole, 1 / n), slope, _between(entropy, 0.0))


def _moment(near: Array, decay: Array, power: int) -> Array:
    out: Array = (near**power * decay).sum(1)
    return out


def _between(value: float, least: float) -> float:
    return min(1.0, max(least, value))
