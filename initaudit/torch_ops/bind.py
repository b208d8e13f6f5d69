"""Arguments of a call, put to the parameters of a row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from initaudit.torch_ops.rows import Parameter, Row
from initaudit.types import Ref

FIRST = frozenset({"self", "input", "x", "a", "A", "tensor", "data", "x1", "t"})  # what torch calls the first one
SAME = {"axis": "dim", "dim": "axis", "keepdims": "keepdim", "x2": "other"}  # as numpy calls them, and torch allows
IGNORED = frozenset({
    "out", "dtype", "device", "layout", "pin_memory", "requires_grad", "memory_format", "generator", "non_blocking",
    "names", "inplace", "out_dtype", "_stacklevel",
})  # fmt: skip
_LONGEST = 64  # numbers of a list that stands for a tensor
MISSING = object()


@dataclass(slots=True)
class Bound:
    """A call whose arguments fit a row."""

    row: Row
    values: dict[str, Any] = field(default_factory=dict)  # by parameter, without those that were not given


def bind(row: Row, args: Sequence[Any], kwargs: Mapping[str, Any], strict: bool = True) -> Bound | None:
    """Return the arguments by the row's parameters, None where they do not fit.

    Args:
        row: how the function may be called.
        args: as they were given.
        kwargs: as they were given.
        strict: attributes may not be values of the graph.
    """
    bound = Bound(row)
    left = list(args)
    for parameter in row.parameters:
        if not left:
            break
        if parameter.rest:
            several = left[0] if len(left) == 1 and isinstance(left[0], (tuple, list)) else tuple(left)
            bound.values[parameter.name] = several
            left = []
        else:
            bound.values[parameter.name] = left.pop(0)
    if left:
        return None
    named = {name: p.name for p in row.parameters for name in (p.name, *p.also)}
    for name, value in kwargs.items():
        to = named.get(name, SAME.get(name, name))
        if to not in named and name in FIRST and row.parameters and row.parameters[0].name not in bound.values:
            to = row.parameters[0].name
        if to not in named:
            if name in IGNORED or (row.parameters and row.parameters[-1].rest):
                continue
            return None
        if to in bound.values:
            return None
        bound.values[to] = value
    fits = all(_fits(p, bound.values.get(p.name, MISSING), strict) for p in row.parameters)
    return bound if row.op.startswith("!") or fits else None


def _fits(parameter: Parameter, value: Any, strict: bool) -> bool:
    if parameter.role == "operand":
        if value is MISSING or value is None:
            return not parameter.needed
        if isinstance(value, Ref):
            return True
        return not parameter.value and literal(value)
    if parameter.role == "operands":
        return isinstance(value, (tuple, list)) and any(isinstance(v, Ref) for v in value)
    if parameter.role == "attr":
        if parameter.name == "dim" and isinstance(value, float):
            return False  # max(x, 0.0), where a scripted constant was a tensor
        return not strict or not any(True for _ in refs(value))
    return True


def literal(value: Any) -> bool:
    """Whether a value is a number or a short list of numbers."""
    if isinstance(value, (bool, int, float, complex)):
        return True
    if not isinstance(value, (tuple, list)) or not 0 < len(value) <= _LONGEST:
        return False
    return all(isinstance(v, (bool, int, float)) for v in value)


def refs(value: Any) -> list[Ref]:
    """Return all values of the graph within an argument, in order."""
    if isinstance(value, Ref):
        return [value]
    if isinstance(value, slice):
        return [ref for v in (value.start, value.stop, value.step) for ref in refs(v)]
    if isinstance(value, Mapping):
        return [ref for v in value.values() for ref in refs(v)]
    if isinstance(value, (tuple, list)):
        return [ref for v in value for ref in refs(v)]
    return []


def frozen(value: Any) -> Any:
    """Return an argument with tuples for lists, and sizes as plain tuples."""
    if isinstance(value, (tuple, list)):
        return tuple(frozen(v) for v in value)
    if isinstance(value, Mapping):
        return {k: frozen(v) for k, v in value.items()}
    return value
