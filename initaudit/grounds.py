"""What a rule may conclude from where a weight stands: shared by the rules, so that they agree on it.

A weight is *plain* when only the path from its inputs to the next weight depends on it; an all-zero or constant plain
weight is a fault, while gates, branch ends, adapters and heads are often zeroed on purpose.
"""

from __future__ import annotations

import math

from initaudit.types import Audit, Evidence, Measured, Role, Severity, State, Stats, Tensor

# Kinds that map input units to output units; everything else is told by value only.
OPERATORS = frozenset({"linear", "conv", "conv_transpose", "rnn", "lstm", "gru", "attention", "bilinear"})

HARMLESS = {
    Role.BRANCH_END: "the branch it closes starts as a no-op and wakes up once this weight has moved",
    Role.GATE: "a closed gate opens as soon as it has moved",
    Role.ADAPTER: "an adapter starts as a no-op when exactly one of its factors is zero",
    Role.HEAD: "an output layer gets its gradient from the loss and moves first",
    Role.EMBEDDING: "an additive table moves at the first step",
    Role.CLOSED_FORM: "it is a fixed form, not drawn at random",
    Role.NORM: "the branch that the norm ends starts closed, or the scale is applied as 1 + w",
}


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


def uniformity(m: Measured) -> Evidence:
    """How sure we are that units which are copies or multiples of each other are a fault here.

    No role that `plain` leaves open excuses them, whereas zeros may be deliberate; so shapes that are known suffice for
    a warning.
    """
    wide = m.layer.units // m.layer.groups >= 8
    return max(certainty(m), min(Evidence.NAMED, m.layer.fan_evidence)) if wide else certainty(m)


def born(audit: Audit) -> bool:
    """Whether the weights may still be judged as an initialization."""
    return audit.state is not State.TRAINED


def excuse(m: Measured, audit: Audit) -> str:
    """Return why a degenerate weight may be meant here; empty for a plain weight of a model not known to be trained."""
    if not born(audit):
        return "the model is trained"
    return "" if plain(m) else HARMLESS.get(m.layer.role, f"a {m.layer.role} may be so")


def wakes(m: Measured, audit: Audit) -> bool | None:
    """Whether a weight gets a gradient: now, or once the gate that it sleeps behind has moved; None if it is not known.

    A gate may sleep behind another one: the chain is followed to one that moves at the first step.
    """
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


def parted(m: Measured, audit: Audit) -> bool:
    """Whether the probe saw that no two units of a layer stay equal, in a net that learns all the same.

    Copies that get different gradients are set apart by the first step: what is lost is the start, not the units.
    """
    if m.probed is None or m.probed.tied != 0 or not m.probed.gradient or audit.risk is None:
        return False
    return audit.risk.by == "probe" and all(one.severity < Severity.WARNING for one in audit.risk.symptoms)


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
