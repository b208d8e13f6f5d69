"""Operators on packed parameters (quantised, XNNPACK), as the plain operators that they stand for."""

from __future__ import annotations

import re
from typing import Any

from initaudit.formats.torch.script_calls import shape_of_result
from initaudit.formats.torch.script_machine import Machine
from initaudit.formats.torch.script_values import Packed, Sym

_QUANTISED = re.compile(
    r"quantized\.(?P<kind>linear|conv(?P<up>_transpose)?(?P<axes>[123])d)(?P<act>_relu6?|)(?P<dynamic>_dynamic)?(_fp16)?$"
)
_MOBILE = re.compile(r"prepacked\.(?P<kind>linear|conv2d|conv2d_transpose)_clamp_run$")
_PREPACK = re.compile(r"(quantized|prepacked)\.(linear|conv\w*)_(clamp_)?prepack(_fp16)?$")
_PLAIN = re.compile(
    r"quantized\.(?P<op>add|mul|cat|relu6|hardswish|sigmoid|leaky_relu|elu|gelu)(?P<act>_relu)?(_out)?$"
)


def run_packed(machine: Machine, name: str, args: list[Any]) -> Any:
    """Return the result of an operator on packed parameters; None for any other, or where they are not understood."""
    found = _QUANTISED.match(name) or _MOBILE.match(name)
    if found and len(args) > 1 and isinstance(args[1], Packed):
        parts = _parts(args[1])
        if parts is None:
            return None
        weight, bias, rest = parts
        if "prepacked" in name:
            return _mobile(machine, found["kind"], args[0], weight, bias, rest)
        out = _emit(machine, found["kind"], [args[0], weight, bias, *_geometry(found["axes"], bool(found["up"]), rest)])
        return _emit(machine, found["act"][1:], [out]) if found["act"] else out
    if _PREPACK.match(name):
        return Packed(name, tuple(args))
    plain = _PLAIN.match(name)
    if plain:
        count = 2 if plain["op"] in ("add", "mul", "cat") else 1
        out = _emit(machine, plain["op"], args[:count])
        return _emit(machine, "relu", [out]) if plain["act"] else out
    return None


def _emit(machine: Machine, name: str, args: list[Any]) -> Sym:
    made = machine.emit(name, args)[0]
    machine.shaped(made, shape_of_result(machine, name, args, {}))
    return made


def _parts(packed: Packed) -> tuple[Sym, Any, tuple[Any, ...]] | None:
    """Return weight, bias and what else there is."""
    parts: Any = packed.parts
    while isinstance(parts, tuple) and len(parts) == 1 and isinstance(parts[0], tuple):
        parts = parts[0]
    match parts:
        case (str() | int() as version, list() as tensors, list() as optional) if len(tensors) > 1:
            del version
            settings = tensors[0] if isinstance(tensors[0], Sym) else None
            bias = optional[1] if len(optional) > 1 else None
            return (tensors[1], bias, (settings,)) if isinstance(tensors[1], Sym) else None
        case (Sym() as weight, (Sym() | None) as bias, *rest):
            return weight, bias, tuple(rest)
    return None


def _geometry(axes: str | None, up: bool, rest: tuple[Any, ...]) -> list[Any]:
    """Return stride, padding, dilation, ... of a quantised convolution, as lists or from its row of numbers."""
    if axes and len(rest) >= (5 if up else 4) and all(isinstance(item, list) for item in rest[:3]):
        return [rest[0], rest[1], rest[2], rest[4], rest[3]] if up else list(rest[:4])
    if not axes or not rest or not isinstance(rest[0], Sym):
        return []
    numbers = rest[0].numbers
    n = int(axes)
    if numbers is None or len(numbers) < 4 * n + 3:
        return []
    stride, padding, dilation, output_padding = (list(numbers[1 + i * n : 1 + (i + 1) * n]) for i in range(4))
    groups = numbers[1 + 4 * n]
    return [stride, padding, output_padding, groups, dilation] if up else [stride, padding, dilation, groups]


def _mobile(machine: Machine, kind: str, x: Any, weight: Sym, bias: Any, rest: tuple[Any, ...]) -> Any:
    settings: list[Any] = []
    if kind != "linear":
        lists = [item for item in rest if isinstance(item, list)]
        groups = next((item for item in rest if type(item) is int), 1)
        settings = [*lists[:3], groups]
        if kind == "conv2d_transpose" and len(lists) > 3:
            settings = [lists[2], lists[0], lists[1], groups, lists[3]]
            kind = "conv_transpose2d"
    out = _emit(machine, kind, [x, weight, bias, *settings])
    low, high = ([None, None, *[item for item in rest if isinstance(item, float) or item is None]])[-2:]
    if low == 0 and high is None:
        return _emit(machine, "relu", [out])
    if low == 0 and high == 6:
        return _emit(machine, "relu6", [out])
    return _emit(machine, "clamp", [out, low, high]) if low is not None or high is not None else out
