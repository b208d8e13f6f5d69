"""The JSON of an exported program, taken apart with checks: what a field must be is said once, here.

A union is written as an object with one key: {"as_int": 3}, {"parameter": {...}}. Fields that later versions added
are optional; fields they dropped (the signature of torch 2.1) are understood where they stand.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from initaudit.errors import CorruptFileError, UnsupportedError

Json = Mapping[str, Any]

DTYPES = {
    1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float16", 7: "float32", 8: "float64",
    9: "complex32", 10: "complex64", 11: "complex128", 12: "bool", 13: "bfloat16", 14: "float8_e4m3fn",
    15: "float8_e5m2", 28: "uint16", 29: "float8_e4m3fn", 30: "float8_e5m2", 31: "float8_e4m3fnuz",
    32: "float8_e5m2fnuz", 33: "float8_e8m0fnu", 34: "uint32", 35: "uint64",
}  # fmt: skip
_FLOATS = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}


@dataclass(frozen=True, slots=True)
class View:
    """How a tensor looks at its storage."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True)
class Given:
    """One input of the graph: what it is called inside, and what it stands for."""

    name: str
    kind: str  # user_input, parameter, buffer, tensor_constant, custom_obj, token, constant_input
    target: str = ""  # dotted name of the parameter, buffer or constant
    value: Any = None  # of a constant input


def at(record: Any, key: str, kind: type | tuple[type, ...], what: str) -> Any:
    """Return a field that must be there and of a kind.

    Raises:
        CorruptFileError: it is not.
    """
    value = record.get(key) if isinstance(record, Mapping) else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        raise CorruptFileError(f"{what} without a sound {key!r}")
    return value


def union(record: Any, what: str) -> tuple[str, Any]:
    """Return which of its cases a union is, and the value."""
    if not isinstance(record, Mapping):
        raise CorruptFileError(f"{what} that is no object")
    found = [(key, value) for key, value in record.items() if value is not None]
    if len(record) == 1:
        found = list(record.items())
    if len(found) != 1:
        raise CorruptFileError(f"{what} with {len(found)} values instead of one")
    return str(found[0][0]), found[0][1]


def extent(record: Any) -> int | None:
    """Return a size that is known when the program is written, None for one that is not."""
    kind, value = union(record, "a size") if isinstance(record, Mapping) else ("as_int", record)
    return value if kind == "as_int" and type(value) is int else None


def sizes(meta: Any) -> tuple[int | None, ...]:
    """Return the shape of a value."""
    meta = meta.get("meta", meta) if isinstance(meta, Mapping) else meta
    return tuple(extent(one) for one in at(meta, "sizes", list, "a tensor's description"))


def view(meta: Any, name: str) -> View:
    """Return how a stored tensor looks at its bytes.

    Raises:
        CorruptFileError: a number is missing or none.
        UnsupportedError: it is not strided, or of an element type that is not known.
    """
    what = f"the description of {name[:80]!r}"
    layout = meta.get("layout", 7) if isinstance(meta, Mapping) else 7
    if layout != 7:
        raise UnsupportedError(f"{name}: a sparse layout")
    code = at(meta, "dtype", int, what)
    if code not in DTYPES:
        raise UnsupportedError(f"{name}: element type number {code}")
    numbers = [[extent(one) for one in at(meta, key, list, what)] for key in ("sizes", "strides")]
    offset = extent(meta.get("storage_offset", 0))
    if None in (*numbers[0], *numbers[1], offset):
        raise CorruptFileError(f"{what} has a size that is no number")
    shape, strides = (tuple(int(n or 0) for n in row) for row in numbers)
    return View(DTYPES[code], shape, strides, int(offset or 0))


def number(value: Any) -> Any:
    """Return a float as Python has it: infinities and NaN are spelled in two ways."""
    if isinstance(value, Mapping):
        value = value.get("$float")
    if isinstance(value, str):
        return _FLOATS.get(value, math.nan)
    return value


def givens(signature: Any) -> tuple[Given, ...]:
    """Return what the inputs of the graph stand for, in their order; as written by every version since 2.1."""
    if isinstance(signature, Mapping) and "input_specs" not in signature:
        return _first_givens(signature)
    return tuple(_given(*union(spec, "an input")) for spec in at(signature, "input_specs", list, "the signature"))


def _given(kind: str, spec: Any) -> Given:
    if kind == "constant_input":
        name = at(spec, "name", str, "a constant input")
        return Given(name, kind, value=plain(*union(spec.get("value"), "a constant input")))
    arg = at(spec, "arg", Mapping, f"an input ({kind})")
    if kind == "user_input":
        case, value = union(arg, "an input")
        name = value.get("name", value.get("as_name", "")) if isinstance(value, Mapping) else ""
        return Given(str(name), kind, value=None if name else plain(case, value))
    name = at(arg, "name", str, f"an input ({kind})")
    field = {"parameter": "parameter_name", "buffer": "buffer_name", "tensor_constant": "tensor_constant_name"}
    target = at(spec, field[kind], str, f"an input ({kind})") if kind in field else ""
    return Given(name, kind, target)


def _first_givens(signature: Json) -> tuple[Given, ...]:
    """Read the signature of torch 2.1: three tables by name; the graph's own list gives the order."""
    made: list[Given] = []
    for kind, table in (("parameter", "inputs_to_parameters"), ("buffer", "inputs_to_buffers")):
        for name, target in at(signature, table, Mapping, "the signature").items():
            if not isinstance(target, str):
                raise CorruptFileError(f"the signature gives {name[:80]!r} no name")
            made.append(Given(name, kind, target))
    users = at(signature, "user_inputs", list, "the signature")
    return (*made, *(Given(name, "user_input") for name in users if isinstance(name, str)))


def outputs(signature: Any) -> tuple[str, ...] | None:
    """Return the names of what the program returns to its user, None where the graph's own outputs are those."""
    if not isinstance(signature, Mapping):
        return None
    if "output_specs" not in signature:
        users = signature.get("user_outputs")
        return tuple(str(name) for name in users) if isinstance(users, list) else None
    names: list[str] = []
    for spec in at(signature, "output_specs", list, "the signature"):
        kind, value = union(spec, "an output")
        arg = at(value, "arg", Mapping, "an output")
        if kind == "user_output":
            names += value_names(*union(arg, "an output"))
        elif kind == "loss_output":
            names.append(at(arg, "name", str, "an output"))
    return tuple(names)


def value_names(case: str, value: Any) -> list[str]:
    """Return the names of the values that an argument mentions, "" for what is none."""
    if isinstance(value, Mapping):
        name = value.get("name", value.get("as_name"))
        if isinstance(name, str):
            return [name]
        if "as_tensor" in value:
            return value_names("as_tensor", value["as_tensor"])
        return [""]
    if isinstance(value, list):
        return [name for one in value for name in (value_names(case, one) if isinstance(one, Mapping | list) else [""])]
    return [value] if case == "as_tensor" and isinstance(value, str) else [""]


def plain(case: str, value: Any) -> Any:
    """Return an argument that names no value as Python has it: numbers, text, dtypes by name, None."""
    if case in ("as_none", "as_device", "as_layout", "as_memory_format", "as_custom_obj"):
        return None
    if case == "as_scalar_type":
        return DTYPES.get(value) if isinstance(value, int) else None
    if case == "as_float":
        return number(value)
    if case == "as_floats":
        return tuple(number(one) for one in value) if isinstance(value, list) else ()
    if case == "as_complex":
        return complex(number(value.get("real", 0.0)), number(value.get("imag", 0.0))) if value else None
    if isinstance(value, list):
        return tuple(plain("", one) if isinstance(one, list) else one for one in value)
    return value if isinstance(value, int | float | str) else None
