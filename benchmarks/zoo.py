"""Freshly initialised models of many libraries, as one table.

Every row builds a model from code alone (no download, no remote code) at a size that exports in seconds, and keeps the
initialisation that the model's authors chose. `benchmarks.coverage` saves each in every format and audits the files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks import zoo_diffusers, zoo_timm, zoo_torch, zoo_torchvision, zoo_transformers

Built = tuple[Any, dict[str, Any]]  # the module in eval mode, and its inputs by argument name


@dataclass(frozen=True, slots=True)
class Row:
    """One model: its library, and the function that builds it with example inputs."""

    name: str
    library: str
    build: Callable[[], Built]


def _rows() -> tuple[Row, ...]:
    libraries = {
        "torch": zoo_torch.MODELS,
        "torchvision": zoo_torchvision.MODELS,
        "timm": zoo_timm.MODELS,
        "transformers": zoo_transformers.MODELS,
        "diffusers, peft": zoo_diffusers.MODELS,
    }
    return tuple(Row(name, library, build) for library, models in libraries.items() for name, build in models.items())


ZOO: tuple[Row, ...] = _rows()


def build(row: Row, seed: int = 0) -> Built:
    """Return the row's model, freshly initialised from `seed`, in eval mode, with example inputs."""
    import torch

    zoo_torchvision.prepare()
    torch.manual_seed(seed)
    model, inputs = row.build()
    return model.eval(), inputs


def row(name: str) -> Row:
    """Return the row called `name`."""
    for candidate in ZOO:
        if candidate.name == name:
            return candidate
    raise KeyError(name)
