"""What a module's forward takes: its arguments, and how to call it with values by name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from initaudit.live.spec import Feed

_INSIDE = ("module", "_orig_mod", "base_model", "model")  # where wrappers keep what they wrap


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of forward."""

    name: str
    required: bool
    annotation: str  # as it is written, "" for none
    position: int | None  # None: by keyword only


def arguments(module: nn.Module) -> tuple[Argument, ...]:
    """Return the arguments of forward, or of the module inside where a wrapper passes on whatever it gets."""
    found = _own(module)
    inner = module
    while not found and (inner := _inside(inner)) is not None:  # type: ignore[assignment]
        found = _own(inner)
    return found


def _own(module: nn.Module) -> tuple[Argument, ...]:
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return ()
    found: list[Argument] = []
    for place, p in enumerate(parameters):
        if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD):
            continue
        note = p.annotation if isinstance(p.annotation, str) else getattr(p.annotation, "__name__", str(p.annotation))
        note = "" if p.annotation is p.empty else str(p.annotation) if "[" in str(p.annotation) else note
        found.append(Argument(p.name, p.default is p.empty, note, None if p.kind is p.KEYWORD_ONLY else place))
    return tuple(found)


def _inside(module: nn.Module) -> nn.Module | None:
    children = dict(module.named_children())
    for name in _INSIDE:
        if name in children:
            return children[name]
    return next(iter(children.values())) if len(children) == 1 else None


def feed(module: nn.Module, values: Mapping[str, Any], told: str = "") -> Feed:
    """Return the call that passes `values`, by position where forward requires them so, else by name."""
    known = {a.name: a for a in arguments(module)}
    try:
        own = {p.name: p.kind for p in inspect.signature(module.forward).parameters.values()}
    except (TypeError, ValueError):
        own = {}
    anything = inspect.Parameter.VAR_KEYWORD in own.values()
    args: list[Any] = []
    kwargs: dict[str, Any] = {}
    for name in sorted(values, key=lambda name: _place(known.get(name))):
        kind = own.get(name)
        leading = name in known and known[name].required and known[name].position == len(args) and not kwargs
        if leading or kind is inspect.Parameter.POSITIONAL_ONLY or (kind is None and not anything):
            args.append(values[name])
        else:
            kwargs[name] = values[name]
    return Feed(tuple(args), kwargs, told)


def _place(argument: Argument | None) -> int:
    return 1000 if argument is None or argument.position is None else argument.position
