"""What a rule may conclude from where a weight stands: shared by the rules, so that they agree on it.

A weight is *plain* when only the path from its inputs to the next weight depends on it; an all-zero or constant plain
weight is a fault, while gates, branch ends, adapters and heads are often zeroed on purpose (FAULTS.md F08, F09, F10).
"""

from __future__ import annotations

import re

from initaudit.types import Audit, Evidence, Measured, Role, State

# Kinds that map input units to output units; everything else is told by value only.
OPERATORS = frozenset({"linear", "conv", "conv_transpose", "rnn", "lstm", "gru", "attention", "bilinear"})

HARMLESS = {
    Role.BRANCH_END: "the branch it closes starts as a no-op and wakes up once this weight has moved",
    Role.GATE: "a closed gate opens as soon as it has moved",
    Role.ADAPTER: "an adapter starts as a no-op when exactly one of its factors is zero",
    Role.HEAD: "an output layer gets its gradient from the loss and moves first",
    Role.EMBEDDING: "an additive table moves at the first step",
    Role.CLOSED_FORM: "it is a fixed form, not drawn at random",
}


def operator(m: Measured) -> bool:
    """Whether the weight maps units to units, has values to judge, and is no tie to another row."""
    return m.layer.kind in OPERATORS and not m.layer.tied and m.stats.count > 0 and m.stats.nonfinite == 0


def plain(m: Measured) -> bool:
    """Whether nothing known speaks for a special role of this weight."""
    return m.layer.role in (Role.TRUNK, Role.OTHER)


def certainty(m: Measured) -> Evidence:
    """How sure we are that this is a plain trunk weight."""
    return m.layer.role_evidence if m.layer.role is Role.TRUNK else Evidence.ASSUMED


def born(audit: Audit) -> bool:
    """Whether the weights may still be judged as an initialization."""
    return audit.state is not State.TRAINED


def excuse(m: Measured, audit: Audit) -> str:
    """Return why a degenerate weight may be meant here; empty for a plain weight of a model not known to be trained."""
    if not born(audit):
        return "the model is trained"
    return "" if plain(m) else HARMLESS.get(m.layer.role, f"a {m.layer.role} may be so")


def varied(m: Measured) -> bool:
    """Whether the values are neither all equal nor all zero."""
    return m.stats.nonfinite == 0 and m.stats.variance > 0


def describe(m: Measured) -> str:
    """Name the tensor in a sentence: kind, sides."""
    layer = m.layer
    if layer.fan_in is None or layer.fan_out is None:
        return f"{layer.kind} {'x'.join(map(str, layer.weight.shape)) or 'scalar'}"
    return f"{layer.kind} {max(1, round(layer.fan_in))} > {max(1, round(layer.fan_out))}"


def pattern(name: str) -> str:
    """Return a name with every number replaced, so that repeated blocks look alike."""
    return re.sub(r"\d+", "N", name)


def redraw(m: Measured) -> str:
    """Say how to draw the weight again, as a call of torch.nn.init."""
    name, expected = m.layer.weight.name, m.expected
    if expected is None:
        return f"draw {name} again before training"
    plain_layout = m.layer.axes.startswith("oi") and not m.layer.parts and m.layer.groups == 1
    if plain_layout and expected.scheme == "he":
        return f'torch.nn.init.kaiming_normal_({name}, nonlinearity="relu")'
    if plain_layout and expected.scheme == "xavier":
        return f"torch.nn.init.xavier_normal_({name})"
    return f"torch.nn.init.normal_({name}, std={expected.std:.3g})"
