"""What of a net's signal and gradient tells whether it trains: four numbers, the same from the probe and from theory.

Each is in decades, and each has one physical meaning that does not depend on a net's width or kind:

`slow`   the logarithm of the number of steps that it takes to learn a difference between two inputs. The tangent kernel
         splits into what all inputs share, common = |mean g|^2 over gradients g of one number, and what tells them
         apart, contrast = E|g - mean g|^2 (Xiao, Pennington and Schoenholz 2020). There are two ways, and the faster
         one counts. In the linear regime one step learns contrast * min(1, 2 / (1 + common + contrast)) of a
         difference: a learning rate is at most about 1, and at most 2 / their sum (LeCun et al. 1998). A net whose
         weights are small leaves the saddle at zero exponentially, in some tens of foldings at the rate at which
         weights change relative to themselves, sum of sqrt(contrast) / |W| (Saxe, McClelland and Ganguli 2014); that
         rate is bounded by what is common where this is more than 100 times contrast. Zero weights count as of usual
         size, gates as open: that they open is no fault. Where what comes out sleeps behind gates, all of a gate's
         gradient counts, since a gate need not tell inputs apart to open.
`loud`   the change of all weights at a learning rate of 1, in terms of the weights: sum of |dL/dW| / |W|. A net of
         which every weight changes by its own size at the smallest learning rate that anybody uses diverges. A weight
         before a norm does not count: a step that is too large makes it larger, and so the next step smaller (Arora,
         Li and Lyu 2019, auto rate-tuning by batch normalization).
`rough`  how far the net is from being linear in its weights: the change that linear extrapolation promises if a weight
         is drawn anew, |dL/dW| * rms(W), over the size of what comes out. A linear net has 1. A net with 1000 forgets
         what it computed when a weight moves by a thousandth: chaos, saturated units, attention on a single key.
`tied`   share of the logarithm of a layer's width that is lost because its units are copies of each other for ever: of
         the worst layer that all must pass, or the mean over layers where paths go around them; or, where it is more,
         the mean over dense layers of what is lost because units start as copies, so that what passes is hardly more
         than one number.
`idle`   share of the layers that never learn: they get no gradient, and no weight at zero that gets one itself would
         wake them. Two zeros one after the other, or units that are dead for every input: what is left is a smaller
         net, often a linear one (Saxe, McClelland and Ganguli 2014: zero is a saddle, and it is left only where not all
         that follows is zero).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from initaudit.grounds import OPERATORS
from initaudit.risk import copies
from initaudit.types import Measured, Role, Signal, Signals

NEVER = 12.0  # decades that stand for no gradient at all, or for one without bound
SETTLED = 0.5  # of the entropy of a query's weights, from which its softmax has settled on some keys
_ALIKE = 2.0  # decades of the condition number of the tangent kernel that every net can bear
_FOLDINGS = 80.0  # of a weight, until what grows exponentially from it is no longer small
_ASLEEP = 1e-6  # of the squared output: the part of it that differs between inputs
_DEAD = 0.99  # share of units
_TINY = 1e-300
_OPENS = frozenset({Role.GATE, Role.NORM, Role.ADAPTER, Role.BRANCH_END})
_ASIDE = frozenset({Role.EMBEDDING, Role.NORM, Role.CLOSED_FORM})  # judged by what they feed


@dataclass(frozen=True, slots=True)
class Features:
    """What the fit takes; see above."""

    slow: float
    loud: float
    rough: float
    tied: float
    idle: float


NAMES = ("slow", "loud", "rough", "tied", "idle")


@dataclass(frozen=True, slots=True)
class Share:
    """What one layer contributes."""

    at: int  # place among the measured layers
    rate: float | None  # |dL/dW| / |W|, with weights smaller than usual counted as usual
    telling: float | None  # the part of |dL/dW| that tells inputs apart / |W|
    heals: bool  # a norm divides its scale out: a step that is too large makes it larger, and the next step smaller
    rough: float | None  # decades
    lost: float  # share of the logarithm of its width that is lost for ever
    copied: float | None  # share that is lost at first; None where it does not matter
    common: float
    contrast: float
    around: bool = False  # a path goes around it, so that a net without it still hands something on


def shares(measured: Sequence[Measured], signals: Signals, *, sure: bool = False) -> tuple[Share, ...]:
    """Return what each layer with a gradient of its own contributes, in the order given.

    A layer of which a norm takes the output may have any scale: its gradient goes as 1 / |W|, so that one step heals a
    weight that is too small. Its rate counts as that of a weight of usual size.

    Args:
        measured: the layers, in execution order.
        signals: what one judge said of them.
        sure: the graph was understood altogether, so that what it does not prove tied is not.
    """
    size, asleep = _output(signals), _sleeps(signals)
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
        common, contrast = _finite(signal.common), _finite(signal.contrast)
        gate = m.layer.role is Role.GATE and not operator
        scale = max(held, math.sqrt(m.stats.count)) if gate else held or usual
        tells = contrast + (common if gate and asleep else 0.0)
        telling = math.sqrt(tells) / scale if (operator or gate) and scale > 0 else None
        seen = signals.by == "probe"
        lost, copied = copies.lost(measured, at, signal.tied, seen=seen, sure=sure) if operator else (0.0, None)
        heals_itself = held > 0 and bool(m.layer.normed)
        around = operator and copies.around(measured, at)
        out.append(Share(at, rate, telling, heals_itself, rough, lost, copied, common, contrast, around))
    return tuple(out)


def measure(measured: Sequence[Measured], signals: Signals, found: Sequence[Share]) -> Features | None:
    """Return the features of a net; None where no gradient is known.

    Args:
        measured: the layers, in execution order.
        signals: what one judge said of them.
        found: what each of them contributes.
    """
    if not found:
        return None
    still = set(idle(measured, signals))
    operators = [at for at, m in enumerate(measured) if operates(m)]
    telling = [s.telling for s in found if s.telling is not None]
    copied = [0.0 if s.around else s.copied for s in found if s.copied is not None]
    lost = [s.lost for s in found if s.rate is not None]
    rates = math.fsum(s.rate for s in found if s.rate is not None and not s.heals)
    common, contrast = (math.fsum(part) for part in ((s.common for s in found), (s.contrast for s in found)))
    linear = -_decades(contrast * min(1.0, 2 / (1 + common + contrast)))
    alike = max(0.0, _decades(1 + common / (1 + contrast)) - _ALIKE)
    saddle = _decades(_FOLDINGS) - _decades(math.fsum(telling)) + alike
    return Features(
        slow=min(linear, saddle),
        loud=_decades(rates),
        rough=max((*(s.rough for s in found if s.rough is not None), settled(signals)), default=0.0),
        tied=max(_mean(lost), _mean(copied), *(s.lost for s in found if not s.around), 0.0),
        idle=_mean([float(at in still) for at in operators]),
    )


def idle(measured: Sequence[Measured], signals: Signals) -> tuple[int, ...]:
    """Return the places of layers that never learn; none where a zero that gets a gradient may wake them.

    There must be a reason: a weight at zero, or units that are dead.
    """
    rows = list(enumerate(zip(measured, signals.layers, strict=False)))
    if not any(m.stats.zeros == m.stats.count or (s.dead or 0.0) > _DEAD for _, (m, s) in rows if m.stats.count):
        return ()
    moves = [(m, s) for _, (m, s) in rows if s.gradient]
    if any(m.stats.zeros == m.stats.count and (operates(m) or m.layer.role in _OPENS) for m, s in moves):
        return ()
    return tuple(at for at, (m, s) in rows if operates(m) and _never(measured, signals, s))


def _never(measured: Sequence[Measured], signals: Signals, signal: Signal) -> bool:
    """Whether a layer gets no gradient, nor does any gate that it sleeps behind."""
    at = {m.layer.weight.name: k for k, m in enumerate(measured)}
    seen: set[str] = set()
    while signal.gradient == 0:
        if not signal.behind_gate:
            return True
        if signal.gate in seen or signal.gate not in at:
            return signal.gate_gradient == 0
        seen.add(signal.gate)
        signal = signals.layers[at[signal.gate]]
    return False


def settled(signals: Signals) -> float:
    """Return the logarithm of the spread of all attention logits together, as far as the attentions have settled."""
    return _decades(math.fsum(_finite(a.spread) for a in signals.attention if a.entropy < SETTLED))


def operates(m: Measured) -> bool:
    """Whether a weight of its own maps units to units."""
    return m.layer.kind in OPERATORS and not m.layer.tied and m.stats.count > 0


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / max(1, len(values))


def _sleeps(signals: Signals) -> bool:
    """Whether what comes out is the same for all inputs now, and is not with the gates open."""
    return any(
        head.variance < _ASLEEP * head.std**2
        and head.open_variance is not None
        and head.open_std is not None
        and head.open_variance > math.sqrt(_ASLEEP) * head.open_std**2
        for head in signals.heads
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
