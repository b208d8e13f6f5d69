"""From what the user names to a Model: a module, `--model` or `--arch`, with a checkpoint or without."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from initaudit.live import build, model
from initaudit.live.match import match
from initaudit.live.respelled import meant
from initaudit.types import Model


def live(module: nn.Module, examples: Any = None, *, options: Sequence[str] = (), path: str = "") -> Model:
    """Return a module with its own weights as a Model."""
    return model.read(module, examples, options=options, path=path)


def built(
    given: str | Callable[[], Any] | None,
    arch: str | None,
    examples: Any = None,
    options: Sequence[str] = (),
    *,
    weights: bool,
) -> Model:
    """Build what `--model` or `--arch` names and return it as a Model.

    Args:
        given: "package.module:callable", "file.py:callable", a module or something that makes one.
        arch: "timm:NAME", "torchvision:NAME" or "hf:FOLDER".
        examples: what to feed it with.
        options: the same as `--input` gives it.
        weights: draw them; else it is built without, where that works.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's constructors
        module = build.build(given, arch, weights=weights)
    return meant(model.read(module, examples, options=options, path=named(given, arch)), module)


def fitted(checkpoint: Model, module: Model) -> Model:
    """Return a checkpoint with the graph of the module that it is meant for; raises as `match`."""
    return match(checkpoint, module, module.path)


def named(given: str | Callable[[], Any] | None, arch: str | None) -> str:
    """Return how reports call a module: as the user did."""
    if arch is not None:
        return arch
    if isinstance(given, str):
        return given
    return type(given).__name__ if isinstance(given, nn.Module) else getattr(given, "__qualname__", "model")
