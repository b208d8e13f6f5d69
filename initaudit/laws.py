"""Which initializer drew a tensor, told from its statistics alone.

Closed forms first (zeros, ones, a constant, identity, Dirac, sparse, orthogonal), then the family of the law by its
kurtosis and its extremes within sampling error, then its std (or exact bound) against everything in literature.py.

Source: standard errors by the delta method: SE(std)/std = sqrt((k - 1)/(4 n)); Var(kurtosis) =
(m8 - 4 k m6 + 4 k^3 - k^2)/n with the law's standardised moments, 24/n for a normal.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from initaudit import schemes
from initaudit.closed_forms import EPS, TABLES, closed_form
from initaudit.draws import truncation
from initaudit.literature import Candidate, candidates
from initaudit.types import Array, Law, Layer, Stats

LEAST = 200  # entries below which no family is told from another
FEW = 16  # entries below which not even a known bound is confirmed
_SURE = 4.5  # standard errors within which a moment agrees
_RARE = 1e-5  # probability below which an extreme disagrees


@dataclass(frozen=True, slots=True)
class Family:
    """A zero-mean law of unit variance: its kurtosis, the spread of that estimate, and where it ends."""

    law: str
    kurtosis: float
    kurtosis_variance: float  # times 1/n
    end: float  # largest |z|; inf for a normal
    edge: float  # density at the end, per unit of z
    cut: float = 0.0


def _moments(cut: float) -> Family:
    """Return the normal law cut at +-cut; its even moments follow m_{k+2} = (k+1) m_k - edge cut^(k+1)."""
    edge = 2 * math.exp(-cut * cut / 2) / math.sqrt(2 * math.pi) / math.erf(cut / math.sqrt(2))
    m = [1.0]
    for k in (0, 2, 4, 6):
        m.append((k + 1) * m[-1] - edge * cut ** (k + 1))
    std = truncation(cut)[0]
    k4, k6, k8 = (m[i] / std ** (2 * i) for i in (2, 3, 4))
    return Family("truncated", k4, k8 - 4 * k4 * k6 + 4 * k4**3 - k4**2, cut / std, edge / 2 * std, cut)


FAMILIES = (
    Family("normal", 3.0, 24.0, math.inf, 0.0),
    Family("uniform", 1.8, 9 - 4 * 1.8 * 27 / 7 + 4 * 1.8**3 - 1.8**2, math.sqrt(3), 1 / math.sqrt(12)),
    _moments(2.0),
    _moments(3.0),
)


@dataclass(frozen=True, slots=True)
class Sample:
    """The moments of the values that a random law drew: all but exact zeros that stand apart."""

    n: int
    mean: float
    variance: float
    kurtosis: float
    low: float
    high: float
    positive: int
    eps: float

    @property
    def std(self) -> float:
        """Standard deviation."""
        return math.sqrt(self.variance)

    @property
    def reach(self) -> float:
        """Largest distance of a value from the mean's nominal place, 0."""
        return max(abs(self.low), abs(self.high))

    def std_error(self, family: Family) -> float:
        """Relative standard error of the std under a family."""
        return math.sqrt((family.kurtosis - 1) / (4 * self.n))


def sample(stats: Stats, dtype: str = "float32", *, without_zeros: bool = False) -> Sample | None:
    """Return the moments of a tensor's values, with its exact zeros taken out where asked; None if nothing varies."""
    n = stats.count - stats.nonfinite
    if n < 2 or not stats.variance > 0 or not math.isfinite(stats.kurtosis):
        return None
    whole = Sample(
        n, stats.mean, stats.variance, stats.kurtosis, stats.min, stats.max, stats.positive, EPS.get(dtype, 1e-6)
    )
    left = n - stats.zeros
    if not without_zeros or stats.zeros == 0 or left < 2:
        return whole
    share = left / n  # raw moments scale by 1/share; the mean is small beside the std, as in every zero-mean law
    second = (stats.variance + stats.mean**2) / share
    fourth = stats.kurtosis * stats.variance**2 / share
    mean = stats.mean / share
    variance = second - mean**2
    if not variance > 0 or abs(mean) > 0.2 * math.sqrt(variance):
        return whole
    return replace(whole, n=left, mean=mean, variance=variance, kurtosis=fourth / variance**2)


def fits(s: Sample, family: Family) -> float | None:
    """Return how badly a sample fits a family (nats, 0 is best), or None where it contradicts it.

    Judged are the kurtosis, the reach of the extremes, and, for laws that end, whether both ends are reached.
    """
    spread = math.sqrt(family.kurtosis_variance / s.n) + 0.01 + 4 * s.eps**2
    z = (s.kurtosis - family.kurtosis) / spread
    if abs(z) > _SURE:
        return None
    penalty = z * z / 2 + math.log(spread)
    low, high = (s.mean - s.low) / s.std, (s.high - s.mean) / s.std
    if math.isinf(family.end):
        for side in (low, high):
            inside = math.log1p(-min(0.5 * math.erfc(side / math.sqrt(2)), 1 - 1e-300)) * s.n
            beyond = -math.expm1(inside)
            if beyond < _RARE or math.exp(inside) < _RARE:
                return None
        return penalty
    blur = s.std_error(family) + 2 * abs(s.mean) / s.std / math.sqrt(s.n) + 2 * s.eps + 1 / math.sqrt(s.n) / family.end
    gap = 14 / (s.n * family.edge * family.end)  # an end is missed by this share with probability 1e-6
    for side in (low, high):
        if not 1 - _SURE * blur - gap <= side / family.end <= 1 + _SURE * blur:
            return None
    # both ends are hit within a few spacings: values that were moved afterwards blur them
    if s.n >= LEAST and abs(s.mean) < _SURE * s.std / math.sqrt(s.n) and abs(high - low) / family.end > _skew(s, gap):
        return None
    return penalty


def _skew(s: Sample, gap: float) -> float:
    return gap + 4 * s.eps + 2 * abs(s.mean) / s.std


def without_atoms(s: Sample) -> Sample | None:
    """Return a normal sample without the few equal values that torch's trunc_normal_ leaves at its far bound.

    They stand at one end, dozens of standard deviations out, and are the whole excess of the kurtosis. None: no such.

    Source: pytorch/pytorch#155588.
    """
    atom = s.low if -s.low > s.high else s.high
    if abs(atom) < 8 * s.std or s.n < LEAST:
        return None
    second, fourth = s.n * s.variance, s.n * s.kurtosis * s.variance**2
    count = 0
    for _ in range(3):  # their share of the variance and their number depend on each other
        left = (second - count * atom**2) / s.n
        count = max(1, round((fourth - 3 * s.n * left**2) / atom**4))
    n = s.n - count
    variance = (second - count * atom**2) / n
    if count > 16 + 1e-4 * s.n or not variance > 0:
        return None
    end = min(s.high, -s.low)  # what the other end tells stands for both
    mean = (s.mean * s.n - count * atom) / n
    kurtosis = (fourth - count * atom**4) / n / variance**2
    return replace(s, n=n, mean=mean, variance=variance, kurtosis=kurtosis, low=-end, high=end)


def balanced(s: Sample, mean: float = 0.0) -> bool:
    """Whether the mean is where a law would have it, within sampling error."""
    return abs(s.mean - mean) <= (_SURE / math.sqrt(s.n) + s.eps) * s.std + 1e-12


def unevenness(square: Array, count: int, kurtosis: float) -> float:
    """Return in standard errors how unequal the units' mean squares are, beyond what independent entries give.

    About N(0, 1) for entries of one law, negative for orthogonal units, large after training; 0 where too few to tell.

    Source: Var(mean square of m entries) = variance^2 (k - 1)/m; Wilson & Hilferty 1931 for the chi-square tail.
    """
    live = square[square > 0]
    size = count / max(square.size, 1)
    if live.size < 8 or size < 8:
        return 0.0
    mean = float(live.mean())
    freedom = live.size - 1
    ratio = float(np.sum(np.square(live / mean - 1))) / freedom * size / max(kurtosis - 1, 1e-9)
    v = 2 / (9 * freedom)
    return (math.pow(ratio, 1 / 3) - (1 - v)) / math.sqrt(v)


def identify(layer: Layer, stats: Stats, blocks: int = 0) -> Law | None:
    """Return which initializer drew a tensor, or None where not even the family of its law is clear.

    `blocks` is how often the layer's block repeats in the model: some schemes divide by the root of the depth. A scheme
    is named as `schemes.parse` reads it. An empty scheme means a clean law whose std no known scheme gives.
    """
    if stats.count == 0 or stats.nonfinite:
        return None
    closed = closed_form(layer, stats)
    if closed is not None:
        return closed
    apart = stats.zeros > max(3, 1e-3 * stats.count)
    s = sample(stats, layer.weight.dtype, without_zeros=apart or layer.padding is not None)
    if s is None or s.n < FEW:
        return None
    found = _random(layer, _unmixed(s, stats), blocks)
    if found is not None and not found.scheme and len(stats.part_variance) > 1:
        return found
    if found is None or not apart or _zero_units(stats):
        return found
    if _equal_zeros(stats) and layer.padding is None:
        return _sparse(stats, s) if found.law == "normal" else Law("", "sparse")
    return Law("", "sparse")


def _random(layer: Layer, s: Sample, blocks: int) -> Law | None:
    """Return the family and scheme that together explain a sample best."""
    families = [(f, p) for f in FAMILIES if (p := fits(s, f)) is not None]
    if not families and (inner := without_atoms(s)) is not None:
        s, families = inner, [(f, p) for f in FAMILIES[:1] if (p := fits(inner, f)) is not None]
    best: tuple[float, Law] | None = None
    for family, penalty in families:
        spacing = max(3 * s.std_error(family), 0.002)
        for c in candidates(layer, spacing, blocks):
            if c.law != family.law or (family.cut and family.cut != c.cut) or not c.std > 0:
                continue
            misfit = _misfit(s, family, c)
            if misfit is None:
                continue
            score = penalty + misfit + c.cost
            if best is None or score < best[0]:
                best = (score, Law(c.scheme, c.law))
    if best is not None:
        return best[1]
    if s.n < LEAST or not families:
        return None
    return Law("", min(families, key=lambda pair: pair[1])[0].law)


def _misfit(s: Sample, family: Family, c: Candidate) -> float | None:
    """Return how far the sample is from the candidate's std (nats), or None if it is not drawn so."""
    if not balanced(s, c.mean):
        return None
    error = s.std_error(family)
    off = abs(math.log(s.std / c.std))
    if off > max(4 * error, 0.01) + s.eps:
        return None
    if math.isfinite(family.end):
        end = family.end * c.std
        reach = max(s.high - c.mean, c.mean - s.low) / end
        gap = 14 / (s.n * family.edge * family.end)
        # a folded BatchNorm divides by sqrt(1 + eps): up to 0.05 % below the bound
        if not 1 - gap - 1e-3 - s.eps <= reach <= 1 + 1e-5 + 2 * s.eps:
            return None
    return 0.5 * (off / max(error, 0.002)) ** 2


def _unmixed(s: Sample, stats: Stats) -> Sample:
    """Take the mixture of several parts' scales out of the kurtosis."""
    parts = stats.part_variance
    if len(parts) < 2 or not all(v > 0 for v in parts):
        return s
    mean = sum(parts) / len(parts)
    mixing = sum(v * v for v in parts) / len(parts) / mean**2
    if mixing < 1 + 4 * math.sqrt(2 / s.n):
        return s
    return replace(s, kurtosis=s.kurtosis / mixing)


def _zero_units(stats: Stats) -> bool:
    """Whether the zeros are whole units: padding rows, closed channels."""
    n = stats.count - stats.nonfinite
    for side in (stats.rows, stats.columns):
        full = side.nonzero >= 0.99 * n / max(side.nonzero.size, 1)
        if bool(((side.nonzero == 0) | full).all()):
            return True
    return False


def _equal_zeros(stats: Stats) -> bool:
    for side in (stats.columns, stats.rows):
        counts = side.nonzero
        if counts.size > 1 and counts.min() == counts.max():
            return True
    return False


def _sparse(stats: Stats, s: Sample) -> Law:
    share = stats.zeros / stats.count
    if abs(math.log(s.std / 0.01)) < max(3.5 * math.sqrt(1 / (2 * s.n)), 0.01):
        return Law(f"sparse:sparsity={share:.3g},std=0.01", "sparse")
    return Law("", "sparse")


def known(law: Law | None) -> bool:
    """Whether a law is one that the literature or a library draws."""
    if law is None:
        return False
    return law.law in TABLES or (bool(law.scheme) and not law.scheme.startswith("constant"))


def bias(layer: Layer, stats: Stats) -> Law | None:
    """Return how a bias was drawn: a constant, torch's default for the layer's fan, or N(0, 1e-6)."""
    if stats.count == 0 or stats.nonfinite:
        return None
    if stats.constant:
        return closed_form(layer, stats)
    s = sample(stats, layer.bias.dtype if layer.bias is not None else "float32")
    if s is None:
        return None
    for bound in _bias_bounds(layer):
        if s.reach <= bound * (1 + 1e-5 + 2 * s.eps) and (found := _bounded(s, bound)):
            return found
    if s.n >= FEW and balanced(s) and abs(math.log(s.std / 1e-6)) < 4 * s.std_error(FAMILIES[0]):  # ViT's heads
        return Law("normal:std=1e-06", "normal") if fits(s, FAMILIES[0]) is not None else None
    return None


def _bias_bounds(layer: Layer) -> Iterator[float]:
    fans = schemes.fans_of(layer)
    if fans is not None:
        for fan in (fans.fan_in, fans.fan_out, *(fans.torch or ())):
            if fan > 0:
                yield 1 / math.sqrt(fan)


def _bounded(s: Sample, bound: float) -> Law | None:
    """Return torch's default if values inside its bound also fill it."""
    uniform = FAMILIES[1]
    slack = max(_SURE * s.std_error(uniform), 0.01) + 1.5 / s.n
    if s.n < 4 or (balanced(s) and abs(math.log(s.std / (bound / math.sqrt(3)))) < slack):
        return Law("torch-default", "uniform")
    return None
