"""What TorchScript's operators give for values that are known: numbers, text, lists of them."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

from initaudit.formats.torch.script_values import Device

NO_VALUE = object()
_MOST = 1 << 62
_LONGEST = 100_000  # elements of a list or characters of a text that an operator may make


def _add(a: Any, b: Any, alpha: Any = 1) -> Any:
    if isinstance(a, (list, tuple, str)):
        return a + b if len(a) + len(b) <= _LONGEST else NO_VALUE
    return a + b * alpha


def _mul(a: Any, b: Any) -> Any:
    if isinstance(b, (list, str)):
        a, b = b, a
    if isinstance(a, (list, tuple, str)):
        return a * b if len(a) * max(b, 0) <= _LONGEST else NO_VALUE
    return a * b


def _div(a: Any, b: Any, rounding_mode: Any = None) -> Any:
    if rounding_mode == "trunc":
        return int(a / b) if isinstance(a, int) and isinstance(b, int) else float(math.trunc(a / b))
    return a // b if rounding_mode == "floor" else a / b


def _pow(a: Any, b: Any) -> Any:
    small = isinstance(a, float) or isinstance(b, float) or (abs(a) < 1 << 32 and abs(b) < 64)
    return a**b if small else NO_VALUE


def _shift(a: Any, b: Any) -> Any:
    return a << b if 0 <= b < 64 else NO_VALUE


def _slice(values: Any, start: Any = None, stop: Any = None, step: Any = None) -> Any:
    return values[start:stop:step]


def _format(text: str, *values: Any) -> Any:
    for value in values:
        shown = f"{value}"
        text = text.replace("{}", shown[:1000], 1)
    return text[:_LONGEST]


def _str(value: Any) -> str:
    return str(value)[:_LONGEST] if not isinstance(value, int) or abs(value) < _MOST else "?"


def _round(value: Any, digits: Any = None) -> Any:
    return float(round(value, digits) if digits is not None else round(value))


_TABLE: dict[str, Callable[..., Any]] = {
    "add": _add, "sub": lambda a, b, alpha=1: a - b * alpha, "rsub": lambda a, b, alpha=1: b - a * alpha, "mul": _mul,
    "div": _div, "true_divide": operator.truediv, "floordiv": operator.floordiv, "floor_divide": operator.floordiv,
    "remainder": operator.mod, "fmod": math.fmod, "pow": _pow, "neg": operator.neg, "abs": abs,
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "gt": operator.gt, "le": operator.le, "ge": operator.ge,
    "__not__": operator.not_, "__and__": operator.and_, "__or__": operator.or_, "__xor__": operator.xor,
    "__lshift__": _shift, "__rshift__": operator.rshift, "bitwise_not": operator.invert,
    "__is__": lambda a, b: a is b if a is None or b is None else a == b,
    "__isnot__": lambda a, b: a is not b if a is None or b is None else a != b,
    "__contains__": lambda a, b: b in a, "format": _format, "str": _str, "Int": int, "Float": float, "Bool": bool,
    "IntImplicit": int, "FloatImplicit": float, "ScalarImplicit": lambda a: a, "item": lambda a: a,
    "ord": ord, "chr": chr,
    "floor": math.floor, "ceil": math.ceil, "round": _round, "sqrt": math.sqrt,
    "exp": math.exp, "log": math.log, "log2": math.log2, "log10": math.log10, "log1p": math.log1p, "sin": math.sin,
    "cos": math.cos, "tan": math.tan, "tanh": math.tanh, "atan2": math.atan2, "gcd": math.gcd,
    "isnan": math.isnan, "isinf": math.isinf, "isfinite": math.isfinite, "copysign": math.copysign,
    "all": all, "any": any, "sum": sum, "max": max, "min": min, "sorted": sorted, "trunc": math.trunc,
    "lower": str.lower, "upper": str.upper, "startswith": str.startswith, "endswith": str.endswith, "strip": str.strip,
    "lstrip": str.lstrip, "rstrip": str.rstrip, "split": str.split, "find": str.find, "isdigit": str.isdigit,
    "isalpha": str.isalpha, "isalnum": str.isalnum, "capitalize": str.capitalize, "title": str.title,
    "splitlines": str.splitlines, "partition": str.partition, "hash": lambda a: 0, "bin": bin, "hex": hex,
    "slice": _slice, "degrees": math.degrees, "radians": math.radians,
    "__upto": lambda n: n, "__range_length": lambda a, b, c: len(range(a, b, c)),
    "__derive_index": lambda index, start, step: start + index * step,
}  # fmt: skip
_TEXT = {
    "split",
    "find",
    "strip",
    "lstrip",
    "rstrip",
    "lower",
    "upper",
    "format",
}  # of tensors, they are something else


def evaluate(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Return what an operator gives for known arguments; NO_VALUE where that cannot be said."""
    function = _TABLE.get(name)
    if function is None or (name in _TEXT and not (args and isinstance(args[0], str))):
        return NO_VALUE
    args = [arg.kind if isinstance(arg, Device) else arg for arg in args]
    try:
        value = function(*args, **kwargs)
    except (ArithmeticError, ValueError, TypeError, LookupError, AttributeError, MemoryError):
        return NO_VALUE
    if isinstance(value, int) and not -_MOST <= value <= _MOST:
        return NO_VALUE
    if isinstance(value, (list, str)) and len(value) > _LONGEST:
        return NO_VALUE
    return list(value) if name in ("sorted", "partition") and isinstance(value, tuple) else value
