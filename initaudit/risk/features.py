"""What of a net's signal and gradient tells whether it trains: four numbers, the same from the probe and from theory.

Each is in decades, and each has one physical meaning that does not depend on a net's width or kind:

`slow`   the logarithm of the number of steps that it takes to learn a difference between two inputs. With gradients g_a
         of one number for inputs a, the tangent kernel splits into what all inputs share, common = |mean g|^2, and what
         tells them apart, contrast = E|g_a - mean g|^2. A learning rate is at most about 1, and at most 2 / their sum,
         beyond which the shared part oscillates; so one step learns contrast * min(1, 2 / (1 + common + contrast)) of a
         difference (Xiao, Pennington and Schoenholz 2020; the limit: LeCun et al. 1998). Zero weights count by the
         gradient that they get: a gate that opens is no fault.
`loud`   the change of all weights at a learning rate of 1, in terms of the weights: sum of |dL/dW| / |W|. A net of
         which every weight changes by its own size at the smallest learning rate that anybody uses diverges. A weight
         before a norm does not count: a step that is too large makes it larger, and so the next step smaller (Arora,
         Li and Lyu 2019, auto rate-tuning by batch normalization).
`rough`  how far the net is from being linear in its weights: the change that linear extrapolation promises if a weight
         is drawn anew, |dL/dW| * rms(W), over the size of what comes out. A linear net has 1. A net with 1000 forgets
         what it computed when a weight moves by a thousandth: chaos, saturated units, attention on a single key.
`tied`   share of the logarithm of a layer's width that is lost because its units are copies of each other for ever; or,
         where it is more, the mean over dense layers of what is lost because units start as copies, so that what passes
         is hardly more than one number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from initaudit.grounds import OPERATORS
from initaudit.risk import copies
from initaudit.types import Measured, Role, Signals

NEVER = 12.0  # decades that stand for no gradient at all, or for one without bound
_TINY = 1e-300
_ASIDE = frozenset({Role.EMBEDDING, Role.NORM, Role.CLOSED_FORM})  # judged by what they feed


@dataclass(frozen=True, slots=True)
class Features:
    """What the fit takes; see above."""

    slow: float
    loud: float
    rough: float
    tied: float


NAMES = ("slow", "loud", "rough", "tied")


@dataclass(frozen=True, slots=True)
class Share:
    """What one layer contributes."""

    at: int  # place among the measured layers
    rate: float | None  # |dL/dW| / |W|, with weights smaller than usual counted as usual
    heals: bool  # a norm divides its scale out: a step that is too large makes it larger, and the next step smaller
    rough: float | None  # decades
    lost: float  # share of the logarithm of its width that is lost for ever
    copied: float | None  # share that is lost at first; None where it does not matter
    common: float
    contrast: float


def shares(measured: Sequence[Measured], signals: Signals) -> tuple[Share, ...]:
    """Return what each layer with a gradient of its own contributes, in the order given.

    A layer of which a norm takes the output may have any scale: its gradient goes as 1 / |W|, so that one step heals a
    weight that is too small. Its gradient counts as that of a weight of usual size.
    """
    size = _output(signals)
    out = []
    for at, (m, signal) in enumerate(zip(measured, signals.layers, strict=False)):
        if signal.gradient is None or m.layer.tied or not m.stats.count:
            continue
        held = math.sqrt(m.stats.count * (m.stats.mean**2 + m.stats.variance))
        operator = m.layer.kind in OPERATORS and m.layer.role not in _ASIDE
        usual = math.sqrt(m.stats.count / m.layer.fan_in) if operator and m.layer.fan_in else held
        heals = min(1.0, held / usual) if m.layer.normed and operator and held and usual else 1.0
        gradient = _finite(signal.gradient) * heals
        rate = gradient / max(held, usual) if operator and max(held, usual) > 0 else None
        turned = _finite(signal.gradient) * held / math.sqrt(m.stats.count)
        rough = _decades(turned / size) if operator and size and turned > 0 and not m.layer.normed else None
        square = heals * heals
        common, contrast = (_finite(v) * square for v in (signal.common, signal.contrast))
        lost, copied = copies.lost(measured, at, signal.tied) if operator else (0.0, None)
        out.append(Share(at, rate, held > 0 and bool(m.layer.normed), rough, lost, copied, common, contrast))
    return tuple(out)


def measure(found: Sequence[Share]) -> Features | None:
    """Return the features of a net; None where no gradient is known."""
    if not found:
        return None
    contrast = math.fsum(s.contrast for s in found)
    every = contrast + math.fsum(s.common for s in found)
    copied = [s.copied for s in found if s.copied is not None]
    rates = math.fsum(s.rate for s in found if s.rate is not None and not s.heals)
    return Features(
        slow=-_decades(contrast * min(1.0, 2 / (1 + every))),
        loud=_decades(rates),
        rough=max((s.rough for s in found if s.rough is not None), default=0.0),
        tied=max((*(s.lost for s in found), math.fsum(copied) / max(1, len(copied)))),
    )


def _output(signals: Signals) -> float:
    """Return the root mean square of what comes out, over the heads."""
    squares = [head.std**2 for head in signals.heads if math.isfinite(head.std)]
    return math.sqrt(math.fsum(squares))


def _finite(value: float | None) -> float:
    """Return 0 for what is not known, and a huge number for what overflowed."""
    if value is None:
        return 0.0
    return min(value, 1e150) if math.isfinite(value) else 1e150


def _decades(value: float) -> float:
    return max(-NEVER, min(NEVER, math.log10(max(value, _TINY))))
