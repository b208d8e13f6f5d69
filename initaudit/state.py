"""Whether a model still has the weights it was born with: fresh, trained, mixed, or unknown where in doubt.

Training moves what initializers leave exactly constant (scales and shifts of norms, zero biases, running statistics)
and blurs what they draw by a clean law (bounds of uniform laws, equal spread of all units). One piece of such evidence
can be a design of its own, so a verdict needs agreement; where norms, biases and weights contradict each other the
answer is unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from initaudit import laws
from initaudit.types import Measured, Role, State, Stats, Tensor

_FAR = 6.0  # standard errors at which one tensor speaks alone
_MANY = 1000  # entries from which a law alone tells a new tensor from a moved one
_TOGETHER = 4.5  # at which all weights together do
_FEW_BROKEN = 0.1  # share of values that are not finite, up to which the others tell
_BACKED = 3.0  # likewise where the biases say the same


class What(StrEnum):
    """What a piece of evidence is about."""

    NORM = "norm scales and shifts"
    RUNNING = "running statistics"
    BIAS = "biases"
    WEIGHT = "weights"


@dataclass(frozen=True, slots=True)
class Vote:
    """One tensor's evidence: still as drawn, or moved."""

    what: What
    moved: bool
    known: bool = False  # a named scheme or an exact constant says so, not only the shape of a distribution


def judge(measured: Sequence[Measured]) -> tuple[State, tuple[str, ...]]:
    """Return the state of a model and the evidence for it in short sentences."""
    own = [_finite(m) for m in measured if not m.layer.tied]
    ballots = [(m, tuple(votes(m))) for m in own if not _drawn_norm(m, own)]
    cast = [vote for _, ballot in ballots for vote in ballot]
    reasons = tuple(_told(cast))
    if not cast:
        return State.UNKNOWN, ("no norm, bias or weight that would tell",)
    still, moved = (_count(cast, moved=flag) for flag in (False, True))
    shifted = moved[What.NORM] + moved[What.RUNNING]
    # a training step moves every norm that is not frozen, and the first batch every running statistic
    if (still[What.NORM] and not shifted) or (still[What.RUNNING] and not moved[What.RUNNING]):
        if moved[What.WEIGHT] <= still[What.WEIGHT]:
            return State.FRESH, reasons
        return State.UNKNOWN, (*reasons, "norms say fresh, weights do not")
    kinds = sum(1 for what in What if moved[what] > still[what])
    if not still[What.NORM] + shifted and _drifted(own, _BACKED if kinds else _TOGETHER):
        kinds += 1
        reasons = (*reasons, "the weights together are less even than independent draws")
    single = len({vote.what for vote in cast}) == 1 and sum(moved.values()) >= 2
    if kinds >= 2 or (kinds and single):
        new = [m.layer.name for m, ballot in ballots if _untouched(m, ballot)]
        if new:
            return State.MIXED, (*reasons, f"still as drawn: {_some(new)}")
        return State.TRAINED, reasons
    if not kinds and not shifted and sum(moved.values()) <= 0.1 * sum(still.values()):
        return State.FRESH, reasons
    return State.UNKNOWN, (*reasons, "the evidence is divided")


def fresh(measured: Sequence[Measured]) -> tuple[str, ...]:
    """Return the names of layers that training has not touched: still as drawn, or with nothing that could be learned.

    A weight that is constant or not finite throughout holds nothing that training gave it.
    """
    return tuple(
        m.layer.name
        for m in map(_finite, measured)
        if _untouched(m, tuple(votes(m)))
        or (m.stats.count > 0 and (m.stats.constant or m.stats.nonfinite == m.stats.count))
    )


def _finite(m: Measured) -> Measured:
    """Return a layer of which a few values are NaN or infinite as if these were not there: the rest tells its past."""
    stats = m.stats
    left = stats.count - stats.nonfinite
    if not 0 < stats.nonfinite < _FEW_BROKEN * stats.count or left < laws.FEW:
        return m
    stats = replace(stats, count=left, nans=0, infs=0)
    return replace(m, stats=stats, identified=laws.identify(m.layer, stats))


def votes(m: Measured) -> Iterator[Vote]:
    """Yield what each tensor of a layer tells about its past."""
    layer, stats = m.layer, m.stats
    if stats.count == 0 or stats.nonfinite:
        return
    if layer.kind == "norm" or layer.role is Role.NORM:
        yield from _norm(m)
    elif layer.role is not Role.CLOSED_FORM and _native(layer.weight):
        yield from _weight(m)
    if layer.bias is not None and _native(layer.bias):
        yield from _bias(m, m.others.get(layer.bias.name))


def _norm(m: Measured) -> Iterator[Vote]:
    if m.stats.count > 1:
        if m.stats.constant:
            yield Vote(What.NORM, moved=False, known=True)
        else:
            yield Vote(What.NORM, moved=True)
    for name, stats in m.others.items():
        if name.endswith("running_mean") and stats.count:
            yield Vote(What.RUNNING, moved=not (stats.constant and stats.min == 0), known=True)
        elif name.endswith("running_var") and stats.count:
            yield Vote(What.RUNNING, moved=not (stats.constant and stats.min == 1), known=True)


def _drawn_norm(m: Measured, measured: Sequence[Measured]) -> bool:
    """Whether a norm's scales are random by design: N(1, 0.02) in models whose weights are N(0, 0.02) (DCGAN)."""
    if m.stats.constant or not (m.layer.kind == "norm" or m.layer.role is Role.NORM) or not laws.known(m.identified):
        return False
    return any(o.identified is not None and o.identified.scheme == "normal:std=0.02" for o in measured)


def _weight(m: Measured) -> Iterator[Vote]:
    stats, law = m.stats, m.identified
    if stats.count < laws.LEAST or stats.constant or len(m.layer.weight.shape) < 2 or _no_trace(stats):
        return
    if law is None:
        if not _few_values(stats):
            yield Vote(What.WEIGHT, moved=True)
    elif law.law in ("normal", "uniform", "truncated"):
        yield Vote(What.WEIGHT, moved=_uneven(m, law.law), known=bool(law.scheme))
    elif law.scheme:
        yield Vote(What.WEIGHT, moved=False, known=True)


def _bias(m: Measured, stats: Stats | None) -> Iterator[Vote]:
    if stats is None or stats.nonfinite or stats.count < laws.FEW:
        return
    what = What.NORM if m.layer.kind == "norm" or m.layer.role is Role.NORM else What.BIAS
    if stats.constant:
        yield Vote(what, moved=False, known=True)
    elif laws.bias(m.layer, stats) is not None:
        yield Vote(what, moved=False)
    elif not _few_values(stats):
        yield Vote(what, moved=True)


def _uneven(m: Measured, law: str) -> bool:
    """Whether the entries cannot be independent draws of one law: units differ in spread, or the mean is off."""
    stats = m.stats
    parts = stats.part_variance
    if len(parts) > 1 and max(parts) > 1.2 * min(parts):
        return False  # parts drawn with different stds: not what this test is about
    off = abs(stats.mean) * math.sqrt(stats.count) / stats.std
    scheme = m.identified.scheme if m.identified else ""
    return (off > _FAR and not scheme) or any(z > _FAR for z in _unevenness(stats, law))


def _unevenness(stats: Stats, law: str) -> tuple[float, float]:
    kurtosis = next(f.kurtosis for f in laws.FAMILIES if f.law == law)
    rows, columns = (laws.unevenness(side.square, stats.count, kurtosis) for side in (stats.rows, stats.columns))
    return rows, columns


def _drifted(measured: Sequence[Measured], sure: float) -> bool:
    """Whether the weights of independent laws, taken together, are uneven or off zero: a trace of small steps.

    Equal copies of a layer count once. Stouffer's sum for the unevenness, a chi-square for the means.
    """
    uneven: list[float] = []
    means: list[float] = []
    seen: set[int] = set()
    for m in measured:
        law = m.identified.law if m.identified else ""
        if law not in ("normal", "uniform", "truncated") or m.stats.digest in seen or m.stats.zeros:
            continue
        if _no_trace(m.stats):
            continue
        if m.stats.count < laws.LEAST or m.layer.kind == "norm" or len(m.layer.weight.shape) < 2:
            continue
        seen.add(m.stats.digest)
        uneven.extend(z for z in _unevenness(m.stats, law) if z)
        means.append(m.stats.mean**2 * m.stats.count / m.stats.variance)
    if len(means) < 2:
        return False
    together = sum(uneven) / math.sqrt(max(len(uneven), 1))
    v = 2 / (9 * len(means))
    off = ((sum(means) / len(means)) ** (1 / 3) - (1 - v)) / math.sqrt(v)
    return together > sure or off > sure


def _no_trace(stats: Stats) -> bool:
    """Whether values are so far from any usual draw that steps of training cannot be the reason.

    All of one sign, or units that equal each other to the bit: a fault of the draw, which training blurs.
    """
    copies = stats.rows.hash.size - np.unique(stats.rows.hash).size
    return not stats.min < 0 < stats.max or 2 * copies >= stats.rows.hash.size > 1


def _few_values(stats: Stats) -> bool:
    """Whether the values are a table of a few numbers, as forget-gate or prior biases are."""
    return np.unique(stats.rows.hash).size <= max(2, stats.rows.hash.size // 4)


def _native(tensor: Tensor) -> bool:
    """Whether the values are stored as they were drawn, not quantised."""
    return tensor.dtype in ("float64", "float32", "float16", "bfloat16")


def _untouched(m: Measured, ballot: Sequence[Vote]) -> bool:
    """Whether a layer of a trained model is certainly new: all of it as a usual scheme draws it, bias included."""
    if m.layer.role is Role.ADAPTER and m.stats.constant:
        return True
    if any(vote.moved for vote in ballot) or not any(vote.what is What.WEIGHT and vote.known for vote in ballot):
        return False
    if m.identified is None or "gain=" in m.identified.scheme or "branches=" in m.identified.scheme:
        return False
    if any(vote.what is What.BIAS and vote.known for vote in ballot):
        return True
    both = m.identified.scheme.startswith("torch-default") and any(vote.what is What.BIAS for vote in ballot)
    return m.stats.count >= _MANY and (both or m.layer.role in (Role.HEAD, Role.ADAPTER))


def _count(cast: Sequence[Vote], *, moved: bool) -> dict[What, int]:
    return {what: sum(1 for v in cast if v.what is what and v.moved is moved) for what in What}


def _told(cast: Sequence[Vote]) -> Iterator[str]:
    constant = {
        What.NORM: "constant",
        What.RUNNING: "0 and 1",
        What.BIAS: "constant or as drawn",
        What.WEIGHT: "of a clean law",
    }
    for what in What:
        mine = [v for v in cast if v.what is what]
        if mine:
            yield f"{sum(1 for v in mine if not v.moved)} of {len(mine)} {what} are {constant[what]}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
