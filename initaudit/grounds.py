"""What a rule may conclude from where a weight stands: shared by the rules, so that they agree on it.

A weight is *plain* when only the path from its inputs to the next weight depends on it; an all-zero or constant plain
weight is a fault, while gates, branch ends, adapters and heads are often zeroed on purpose.
"""

from __future__ import annotations

import math
import re

import numpy as np

from initaudit.freedom import Freedom
from initaudit.types import Array, Audit, Evidence, Measured, Role, Severity, State, Stats, Tensor

# Kinds that map input units to output units; everything else is told by value only.
OPERATORS = frozenset({"linear", "conv", "conv_transpose", "rnn", "lstm", "gru", "attention", "bilinear"})

_CELLS = frozenset({"rnn", "lstm", "gru"})

HARMLESS = {
    Role.BRANCH_END: "the branch it closes starts as a no-op and wakes up once this weight has moved",
    Role.GATE: "a closed gate opens as soon as it has moved",
    Role.ADAPTER: "an adapter starts as a no-op when exactly one of its factors is zero",
    Role.HEAD: "an output layer gets its gradient from the loss and moves first",
    Role.EMBEDDING: "an additive table moves at the first step",
    Role.CLOSED_FORM: "it is a fixed form, not drawn at random",
    Role.NORM: "the branch that the norm ends starts closed, or the scale is applied as 1 + w",
}

# The same of weights that are not zero, but one number throughout or with units that are copies.
ALIKE = {
    **HARMLESS,
    Role.BRANCH_END: "the branch that it closes adds the same to several channels",
    Role.GATE: "it treats several channels alike until it has moved",
    Role.ADAPTER: "what it adds is the same for several channels",
}

_NUMBERED = re.compile(r"^onnx::|^val_\d+$|_output_\d+$|^\d+$")  # names that exporters make up

# How many different values an element of a drawn tensor can be counted on to take, by dtype: bounds the number of
# units that could be equal by accident.
_VALUES = {"float64": 1e6, "float32": 1e6, "complex64": 1e6, "complex128": 1e6, "float16": 1e3, "bfloat16": 5e2}


ACCIDENT = 1e-6  # pairs of equal units to be expected by accident, up to which such a pair is a copy


def operator(m: Measured) -> bool:
    """Whether the weight maps units to units, has values to judge, and is no buffer and no tie to another row."""
    layer = m.layer
    own = layer.kind in OPERATORS and not layer.tied and not layer.weight.buffer
    return own and m.stats.count > 0 and m.stats.nonfinite == 0


def plain(m: Measured) -> bool:
    """Whether nothing known speaks for a special role of this weight."""
    return m.layer.role in (Role.TRUNK, Role.OTHER)


def certainty(m: Measured) -> Evidence:
    """How sure we are that this is a plain trunk weight.

    Where the role is open, an activation that follows speaks for it: what is zeroed on purpose ends a branch, a path or
    an adapter, and no activation follows there.
    """
    layer = m.layer
    if layer.role is Role.TRUNK:
        return layer.role_evidence
    followed = layer.role is Role.OTHER and layer.activation is not None
    return min(Evidence.NAMED, layer.activation_evidence) if followed else Evidence.ASSUMED


def uniformity(m: Measured, audit: Audit) -> Evidence:
    """How sure we are that units which are copies or multiples of each other are a fault here.

    No role that `plain` leaves open excuses them, whereas zeros may be deliberate; so shapes that are known suffice for
    a warning. Where the graph proves copies tied for ever, no role does.
    """
    if tied_copies(m):
        return audit.model.graph_evidence
    wide = m.layer.units // m.layer.groups >= 8
    return max(certainty(m), min(Evidence.NAMED, m.layer.fan_evidence)) if wide else certainty(m)


def born(audit: Audit) -> bool:
    """Whether the weights may still be judged as an initialization."""
    return audit.state is not State.TRAINED


def excuse(m: Measured, audit: Audit) -> str:
    """Return why a degenerate weight may be meant here.

    It is empty for a plain weight of a model not known to be trained, and where the graph proves copies tied for ever:
    that is meant nowhere but in a closed form.
    """
    if not born(audit):
        return "the model is trained"
    zero = m.stats.zeros == m.stats.count
    if plain(m) or (not zero and m.layer.role is not Role.CLOSED_FORM and tied_copies(m)):
        return ""
    return (HARMLESS if zero else ALIKE).get(m.layer.role, f"a {m.layer.role} may be so")


def wakes(m: Measured, audit: Audit) -> bool | None:
    """Whether a weight gets a gradient: now, or once the gate that it sleeps behind has moved; None if it is not known.

    Where the graph proves when it first moves, or that it never does, that is it. Elsewhere a gate may sleep behind
    another one: the chain is followed to one that moves at the first step.
    """
    if m.movement is not None and (m.movement.wake or m.movement.dead == m.stats.count):
        return m.movement.wake > 0
    seen: set[str] = set()
    one: Measured | None = m
    while one is not None and one.layer.name not in seen:
        seen.add(one.layer.name)
        signal = one.signal
        if signal is None or signal.gradient is None or math.isnan(signal.gradient):
            return None
        if signal.gradient > 0:
            return True
        if not signal.behind_gate:
            return False
        gate = next((o for o in audit.measured if o.layer.weight.name == signal.gate), None)
        if gate is None and signal.gate_gradient is not None:
            return signal.gate_gradient > 0
        one = gate
    return None if one is None else False


def blocked(m: Measured) -> bool:
    """Whether the graph proves that zeros, a weight's own among them, keep it at zero."""
    return m.movement is not None and m.movement.dead > 0 and bool(m.movement.blocked_by)


def narrow(m: Measured) -> bool:
    """Whether half the units of a layer or more are tied to others for ever, by the graph or as far as is known."""
    if m.freedom is not None and m.freedom.width < m.freedom.units:
        return 2 * m.freedom.width <= m.freedom.units
    return m.signal is not None and (m.signal.tied or 0.0) > 0.5


def analysed(freedom: Freedom | None) -> bool:
    """Whether the graph alone tells for sure that units are not tied: all of its operations were understood."""
    return freedom is not None and not freedom.unread and not freedom.why


def parted(m: Measured, audit: Audit) -> str:
    """Return why units that start as copies come apart, in a net that learns all the same; empty where they may not.

    Copies that get different gradients are set apart by the first step: what is lost is the start, not the units. The
    graph tells it for certain where all of it is understood; elsewhere the probe may have seen it.
    """
    step = 1 if m.movement is None else m.movement.wake
    if m.freedom is not None and tied_copies(m):
        return f"{acting(m.freedom.breaks)} on them, which sets them apart in practice" if m.freedom.breaks else ""
    symptoms = () if audit.risk is None else audit.risk.symptoms
    elsewhere = [s for s in symptoms if s.kind == "tied-units" and m.layer.name not in s.layers]
    if any(one.severity >= Severity.WARNING and one not in elsewhere for one in symptoms):
        return ""
    if m.freedom is not None and analysed(audit.freedom):
        dead = not step or (m.movement is not None and m.movement.dead > 0)
        if dead or tied_copies(m, nearly=True) or _read_alike(m, audit):
            return ""
        when = "the first step sets them apart" if step == 1 else f"they come apart once they move, at step {step}"
        return f"what they pass on or get back differs, so {when}"
    if m.probed is None or m.probed.tied != 0 or not m.probed.gradient or audit.risk is None:
        return ""
    learns = audit.risk.by == "probe" and not elsewhere
    return "each gets a gradient of its own, so the first step sets them apart" if learns else ""


def acting(breaks: tuple[str, ...]) -> str:
    """Return the beginning of a sentence on what acts on tied units."""
    return f"{' and '.join(breaks)} act{'s' * (len(breaks) == 1)}"


def tied_copies(m: Measured, *, nearly: bool = False) -> int:
    """Return how many units with the weights of another are tied to it for ever, by the graph; or nearly so."""
    if m.freedom is None:
        return 0
    sets = (*m.freedom.classes, *(m.freedom.nearly if nearly else ()))
    hashes = m.stats.rows.hash
    if not sets or len(hashes) != m.freedom.units:
        return m.freedom.units - m.freedom.width  # which ones is not known
    return sum(len(units) - len(np.unique(hashes[list(units)])) for units in sets)


def _read_alike(m: Measured, audit: Audit) -> bool:
    """Whether the next weight that takes so many inputs weighs some copies equally: no proof, but reason to doubt."""
    hashes, layer = m.stats.rows.hash, m.layer
    size = len(hashes) // max(1, len(layer.parts))
    bias = m.others[layer.bias.name].rows.hash if layer.bias is not None and layer.bias.name in m.others else hashes
    at = next((k for k, other in enumerate(audit.measured) if other is m), 0)
    for other in audit.measured[at + 1 :]:
        columns = other.stats.columns.hash
        if other.layer.kind in _CELLS and layer.kind in _CELLS:
            continue  # the state's own weights: what reads the state tells its units apart
        if other.layer.kind in OPERATORS and len(columns) == size:
            group = np.arange(size) * max(1, other.layer.groups) // size  # each is read by other units
            own = [side[:size] for side in (hashes, bias if len(bias) == len(hashes) else hashes, columns, group)]
            pairs = np.stack(own, 1)[solid(m)[:size]]
            return len(np.unique(pairs, axis=0)) < len(pairs)
    return False


def accidents(m: Measured) -> float:
    """Return how many pairs of units would be equal by accident, had they been drawn."""
    values = _VALUES.get(m.layer.weight.dtype, 30.0)
    length = m.stats.count / max(1, m.layer.units)
    return float(m.layer.units**2 / 2 * np.exp(-min(length, 1e3) * np.log(values)))


def solid(m: Measured) -> Array:
    """Return which units may be copies: one with one incoming weight of many is part of an identity or fixed wiring."""
    few = 2 if m.stats.count >= 8 * max(1, m.layer.units) else 1
    solid: Array = m.stats.rows.nonzero >= few
    return solid


def varied(m: Measured) -> bool:
    """Whether the values are neither all equal nor all zero."""
    return m.stats.nonfinite == 0 and m.stats.variance > 0


# Empirical: no law that initaudit knows comes near either; raw memory spreads over 40 to 250 binades.
HUGE = 1e4
SPAN = 40.0


def drawn(m: Measured) -> bool:
    """Whether a draw at random may have given these values: what else is wrong with them explains their spread."""
    return varied(m) and not m.stats.rank_one and m.stats.exponent_span < SPAN and max(-m.stats.min, m.stats.max) < HUGE


def mask(m: Measured, tensor: Tensor, stats: Stats) -> bool:
    """Whether a table that is no weight holds zeros and one hugely negative number, as an attention mask does.

    A mask has at least two axes, and a fair share of it is closed: one infinity among the zeros of a bias is a fault.
    """
    table = m.layer.kind in ("parameter", "bias") and sum(n > 1 for n in tensor.shape) >= 2
    closed = stats.count - stats.zeros
    if not table or stats.nans or stats.positive or stats.max != 0 or closed < stats.count / 10:
        return False
    if stats.infs:
        return stats.min == 0
    return stats.min < -1e3 and abs(stats.mean * stats.count / (stats.min * closed) - 1) < 1e-6


def describe(m: Measured) -> str:
    """Name the tensor in a sentence: kind, sides."""
    layer = m.layer
    if layer.fan_in is None or layer.fan_out is None:
        return f"{layer.kind} {'x'.join(map(str, layer.weight.shape)) or 'scalar'}"
    return f"{layer.kind} {max(1, round(layer.fan_in))} > {max(1, round(layer.fan_out))}"


def called(m: Measured, tensor: str) -> str:
    """Return what a tensor of a layer is called in its module, where an exporter gave it a number for a name."""
    layer = m.layer
    if not _NUMBERED.search(tensor):
        return tensor
    if layer.bias is not None and tensor == layer.bias.name:
        return f"{layer.name}.bias"
    return f"{layer.name}.weight" if tensor == layer.weight.name else tensor


def redraw(m: Measured) -> str:
    """Say how to draw the weight again, as a call of torch.nn.init."""
    layer, expected = m.layer, m.expected
    # An exporter may have renamed the weight; the layer's name then comes from the module it belongs to.
    name = layer.weight.name if layer.weight.name.startswith(layer.name) else f"{layer.name}.weight"
    if expected is None:
        return f"draw {name} again before training"
    weight = f'model.get_parameter("{name}")'
    torch_fans = layer.axes.startswith("oi") and not layer.parts and layer.groups == 1
    if torch_fans and expected.scheme == "he":
        guess = " (if a ReLU follows)" if layer.activation is None else ""
        return f'torch.nn.init.kaiming_normal_({weight}, nonlinearity="relu"){guess}'
    if torch_fans and expected.scheme == "xavier":
        return f"torch.nn.init.xavier_normal_({weight})"
    return f"torch.nn.init.normal_({weight}, std={expected.std:.3g})"
