"""A module from what the user names on the command line, with its fresh weights or without any."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from initaudit.errors import InitauditError, UsageError
from initaudit.live import architectures, callables
from initaudit.live.bare import bare

SEED = 0  # of fresh weights, so that a report can be had twice


def build(model: str | Callable[[], Any] | None = None, arch: str | None = None, *, weights: bool = True) -> nn.Module:
    """Return the module that `--model` or `--arch` stands for.

    Args:
        model: "package.module:callable" or "path/to/file.py:callable", the user's own code, run by their word; or the
            module or callable itself.
        arch: "timm:NAME", "torchvision:NAME" or "hf:FOLDER".
        weights: draw its weights, from a fixed seed. Else its parameters have shapes only, where it can be built so.

    Raises:
        UsageError: there is no such thing, or its code fails.
        UnsupportedError: it is code that a checkpoint brings along.
    """
    if (model is None) == (arch is None):
        raise UsageError("give one of --model and --arch")
    torch.manual_seed(SEED)
    make = architectures.resolve(arch) if arch is not None else callables.resolve(model)
    return _drawn(make) if weights else _empty(make)


def _drawn(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(SEED)
    return make()


def _empty(make: Callable[[], nn.Module]) -> nn.Module:
    """Build without weights; where a constructor asks for a value that is not there, build for real."""
    try:
        with bare():
            return make()
    except InitauditError:
        return _drawn(make)
