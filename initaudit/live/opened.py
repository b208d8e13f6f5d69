"""From what the user names to a Model: a module, `--model` or `--arch`, with a checkpoint or without."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch import nn

from initaudit.errors import UsageError
from initaudit.live import build, model
from initaudit.live.match import match
from initaudit.live.probe import read_data
from initaudit.live.respelled import meant
from initaudit.types import Model


def live(
    module: nn.Module, examples: Any = None, *, options: Sequence[str] = (), data: Any = None, path: str = ""
) -> Model:
    """Return a module with its own weights as a Model; of the shapes of `data`, if nobody says what it takes."""
    if data is not None and examples is None and not options:
        for shapes in _shapes(data):
            try:
                return model.read(module, options=shapes, path=path)
            except UsageError:  # another spelling may do, or what is guessed; data that fit nothing are refused later
                continue
    return model.read(module, examples, options=options, path=path)


def _shapes(data: Any) -> Iterator[tuple[str, ...]]:
    """Yield what `--input` would say of data, in a few spellings: of two samples, whatever their number."""
    found = read_data(data)
    shapes = {key: ",".join(map(str, (2, *value.shape[1:]))) if value.ndim else "()" for key, value in found.items()}
    whole = {key: "" if value.is_floating_point() else ":int64" for key, value in found.items()}
    names = {key: f"{key}=" if key else "" for key in found}
    for dtypes in (dict.fromkeys(found, ""), whole):
        yield tuple(names[key] + shapes[key] + dtypes[key] for key in found)
        if len(found) == 1:  # the one array is for the first input, whatever it is called
            yield tuple(shapes[key] + dtypes[key] for key in found)


def built(
    given: str | Callable[[], Any] | None,
    arch: str | None,
    examples: Any = None,
    options: Sequence[str] = (),
    *,
    weights: bool,
    data: Any = None,
) -> Model:
    """Build what `--model` or `--arch` names and return it as a Model.

    Args:
        given: "package.module:callable", "file.py:callable", a module or something that makes one.
        arch: "timm:NAME", "torchvision:NAME" or "hf:FOLDER".
        examples: what to feed it with.
        options: the same as `--input` gives it.
        weights: draw them; else it is built without, where that works.
        data: what it will be fed with, whose shapes it is traced with where nobody says otherwise.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of other people's constructors
        module = build.build(given, arch, weights=weights)
    return meant(live(module, examples, options=options, data=data, path=named(given, arch)), module)


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
