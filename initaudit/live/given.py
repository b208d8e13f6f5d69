"""What the user feeds a module with: example inputs in Python, `--input name=shape[:dtype]` on the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from initaudit.errors import UsageError
from initaudit.live import signature
from initaudit.live.spec import Feed, Spec

INTEGERS = re.compile(r"(^|_)(ids?|tokens?|idx|index|indices|labels?|positions?|edge_index)$")
_FORM = "--input takes name=1,3,224,224 or name=1,3,224,224:dtype"
_INPUT = re.compile(r"(?:(?P<name>\w+)=)?(?P<shape>\d+(?:,\d+)*,?|\(\)|)(?::(?P<dtype>\w+))?")
_DTYPES = (
    "float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool", "complex64",
    "complex128",
)  # fmt: skip


def from_examples(module: nn.Module, examples: Any) -> Feed:
    """Return the call that passes example inputs: a tensor, a tuple or list of arguments, or a dict by name.

    A dict goes by name only if forward has such arguments; else it is the one argument itself.

    Raises:
        UsageError: it is none of these.
    """
    if isinstance(examples, Feed):
        return examples
    if isinstance(examples, Mapping):
        names = {a.name for a in signature.arguments(module)}
        by_name = all(isinstance(key, str) for key in examples) and (not names or set(examples) <= names)
        content = {key: _value(value) for key, value in examples.items()}
        return Feed(kwargs=content) if by_name else Feed(args=(content,))
    if isinstance(examples, tuple | list) and not hasattr(examples, "_fields"):
        return Feed(args=tuple(_value(value) for value in examples))
    if isinstance(examples, torch.Tensor | np.ndarray | Spec):
        return Feed(args=(_value(examples),))
    raise UsageError(
        f"example inputs are a tensor, a tuple of arguments or a dict, not a {type(examples).__name__};"
        " put anything else into a tuple"
    )


def _value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(value)
        except TypeError as error:
            raise UsageError(f"an example input cannot be a tensor: {error}") from None
    if type(value) in (list, tuple):
        return type(value)(_value(item) for item in value)
    if type(value) is dict:
        return {key: _value(item) for key, item in value.items()}
    return value


def from_options(module: nn.Module, texts: Sequence[str]) -> dict[str, Spec]:
    """Return what `--input` says by argument name; a name may be left out or be a position from 0.

    Raises:
        UsageError: a text has another form, or forward has no such argument.
    """
    arguments = signature.arguments(module)
    names = [a.name for a in arguments if a.position is not None]
    found: dict[str, Spec] = {}
    for text in texts:
        match = _INPUT.fullmatch(text.replace(" ", ""))
        if match is None or (match["dtype"] or "float32") not in _DTYPES:
            wrong = f"{match['dtype']!r} is none of {', '.join(_DTYPES)}" if match else f"not {text!r}"
            raise UsageError(f"{_FORM}; {wrong}")
        name = match["name"]
        if name is None or (name.isdigit() and name not in names):
            place = int(name) if name else next((k for k, n in enumerate(names) if n not in found), len(names))
            if place >= len(names):
                raise UsageError(f"--input {text}: forward takes {_listed(names)}")
            name = names[place]
        elif arguments and name not in {a.name for a in arguments}:
            raise UsageError(f"--input {text}: forward has no argument {name!r}; it takes {_listed(names)}")
        if name in found:
            raise UsageError(f"--input gives {name!r} twice")
        shape = tuple(int(n) for n in re.findall(r"\d+", match["shape"]))
        dtype = match["dtype"] or ("int64" if INTEGERS.search(name) else "")
        found[name] = Spec(shape, dtype)
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") if names else "no arguments"
