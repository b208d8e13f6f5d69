"""Fits the model of `initaudit.risk` to labels, and scores judges on pairs that they were not fitted on.

The model has two numbers per feature (a slope per decade, and where the feature alone gives a risk of one half) and a
base. A weak prior says what the features mean: 400 steps with momentum 0.9 are 4000 steps of a rate, so a difference
that takes more than 10^3.6 steps is not learned; the smallest rate is 1e-3, so weights that would change by 10^3 times
themselves at a rate of 1 diverge. One label in fifty is taken to be luck, so that a net that trains against all odds
does not blur the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from initaudit.risk.features import NAMES

Array = np.ndarray[Any, Any]
PRIOR_HALF = {"slow": 3.6, "loud": 3.0, "rough": 2.0, "tied": 0.5, "idle": 0.5}
PRIOR_SLOPE = {"slow": 3.0, "loud": 3.0, "rough": 3.0, "tied": 15.0, "idle": 15.0}
HALF_STD = {"slow": 1.0, "loud": 1.0, "rough": 1.0, "tied": 0.2, "idle": 0.2}
LOG_SLOPE_STD = 0.5
PRIOR_BASE, LOGIT_BASE_STD = 0.05, 1.0
LUCK = 0.02  # of labels
ALARMS = {"error": 0.015, "warning": 0.04}  # share of trainable pairs that may be called so where thresholds are chosen
LEAST = {"error": 0.5, "warning": 0.2}  # thresholds are never lower


@dataclass(frozen=True, slots=True)
class Fit:
    """Numbers of the model: see initaudit.risk.model."""

    slope: Array
    half: Array
    base: float

    def risk(self, x: Array) -> Array:
        """Return the risk of features (pairs, features)."""
        z = np.clip(self.slope * (x - self.half), -40, 40)
        out: Array = 1 - (1 - self.base) * np.exp(-np.logaddexp(0, z).sum(1))
        return out


def fitted(x: Array, fails: Array) -> Fit:
    """Return the most likely numbers for features (pairs, features) and labels (pairs,) under the prior."""
    count = len(NAMES)
    slope, half, std = (
        np.array([table[n] for n in NAMES]) for table in (PRIOR_SLOPE, PRIOR_HALF, HALF_STD)
    )  # fmt: skip
    base = np.log(PRIOR_BASE / (1 - PRIOR_BASE))

    def numbers(t: Array) -> Fit:
        return Fit(slope * np.exp(t[:count]), half + std * t[count : 2 * count], float(1 / (1 + np.exp(-base - t[-1]))))

    def loss(t: Array) -> float:
        p = LUCK + (1 - 2 * LUCK) * numbers(t).risk(x)
        unlikely = -np.where(fails, np.log(p), np.log(1 - p)).sum()
        prior = (t[:count] ** 2).sum() / LOG_SLOPE_STD**2 + (t[count:-1] ** 2).sum() + t[-1] ** 2 / LOGIT_BASE_STD**2
        return float(unlikely + prior / 2)

    return numbers(minimize(loss, np.zeros(2 * count + 1), method="BFGS").x)


def threshold(risk: Array, fails: Array, level: str) -> float:
    """Return the least risk from which at most a given share of the trainable pairs is called so, never below LEAST."""
    healthy = np.sort(risk[~fails])[::-1]
    may = int(ALARMS[level] * len(healthy))
    beyond = float(healthy[may]) if may < len(healthy) else 0.0
    return max(LEAST[level], round(np.ceil(beyond * 1000 + 1e-9) / 1000, 3))


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What a judge said of pairs of families that it had not seen."""

    risk: Array
    unhealthy: Array  # bool: its verdict, by the threshold of its own training pairs


def held_out(
    families: Sequence[str],
    clear: Array,
    fails: Array,
    judge: Callable[[Array], Callable[[Array], Array]],
    cut: Callable[[Array, Array], float],
) -> HeldOut:
    """Fit on all families but one, judge that one, for each in turn.

    Args:
        families: of each pair.
        clear: which pairs to fit on.
        fails: their labels.
        judge: given which pairs to fit on, returns what gives the risk of pairs.
        cut: given risks and labels of these pairs, returns the risk from which a pair is called unhealthy.
    """
    risk, unhealthy = np.zeros(len(families)), np.zeros(len(families), bool)
    of = np.array(families)
    for family in sorted(set(families)):
        left = of == family
        seen = clear & ~left
        asked = judge(seen)
        risk[left] = asked(left)
        unhealthy[left] = risk[left] >= cut(asked(seen), fails[seen])
    return HeldOut(risk, unhealthy)


def most_accurate(risk: Array, fails: Array) -> float:
    """Return the threshold with the fewest errors: the best that a judge without a calibrated risk can do."""
    cuts = np.unique(np.concatenate([risk, [np.inf]]))
    wrong = [(float(((risk >= cut) != fails).sum()), float(cut)) for cut in cuts]
    return float(min(wrong)[1])


def auc(risk: Array, fails: Array) -> float:
    """Return the share of (failing, training) pairs of which the failing one has the higher risk; ties count half."""
    above = risk[fails][:, None] - risk[~fails][None]
    return float((above > 0).mean() + (above == 0).mean() / 2)


def interval(risk: Array, fails: Array, draws: int = 2000) -> tuple[float, float]:
    """Return a 95 % interval of the AUC, by a bootstrap within each label."""
    above = risk[fails][:, None] - risk[~fails][None]
    won = (above > 0) + (above == 0) / 2
    rng = np.random.default_rng(0)
    rows = rng.multinomial(len(won), np.full(len(won), 1 / len(won)), size=draws) / len(won)
    columns = rng.multinomial(won.shape[1], np.full(won.shape[1], 1 / won.shape[1]), size=draws) / won.shape[1]
    low, high = np.quantile(np.einsum("dr,rc,dc->d", rows, won, columns, optimize=True), [0.025, 0.975])
    return float(low), float(high)
