"""Which healthy models are audited for false alarms: those that thresholds were chosen on, and those held out."""

from __future__ import annotations

from benchmarks import (
    false_alarms_diffusers,
    false_alarms_sequences,
    false_alarms_timm,
    false_alarms_torch,
    false_alarms_torchvision,
    false_alarms_transformers,
    zoo,
)

_LIBRARIES = {
    "torch": {**false_alarms_torch.MODELS, **false_alarms_sequences.MODELS},
    "torchvision": false_alarms_torchvision.MODELS,
    "timm": false_alarms_timm.MODELS,
    "transformers": false_alarms_transformers.MODELS,
    "diffusers, peft": false_alarms_diffusers.MODELS,
}

HELD_OUT: tuple[zoo.Row, ...] = tuple(
    zoo.Row(name, library, build) for library, models in _LIBRARIES.items() for name, build in models.items()
)
EVERY: tuple[zoo.Row, ...] = (*zoo.ZOO, *HELD_OUT)
_NAMES = frozenset(one.name for one in HELD_OUT)

assert len({one.name for one in EVERY}) == len(EVERY), "two models have one name"


def held_out(name: str) -> bool:
    """Whether a model was never looked at while thresholds were chosen."""
    return name in _NAMES


def row(name: str) -> zoo.Row:
    """Return the row called `name`."""
    return next(one for one in EVERY if one.name == name)
