"""TorchScript's operators on lists, tuples, dicts, text and the sizes of tensors."""

from __future__ import annotations

from typing import Any

from initaudit.formats.torch.script_code import NoGraphError
from initaudit.formats.torch.script_machine import Machine
from initaudit.formats.torch.script_scalars import NO_VALUE
from initaudit.formats.torch.script_values import Many, Named, Sizes, Sym, known

_LONGEST = 100_000


def on_container(machine: Machine, name: str, args: list[Any]) -> Any:
    """Return what an operator gives for a container or for the sizes of a tensor; NO_VALUE if that is not known."""
    if not args:
        return {} if name == "dict" else [] if name == "list" else NO_VALUE
    first = args[0]
    if isinstance(first, Sym):
        return _of_tensor(machine, name, first, args)
    if isinstance(first, Sizes):
        return _of_sizes(machine, name, first, args)
    if isinstance(first, Many):
        return _of_many(machine, name, first, args)
    if isinstance(first, list):
        if len(first) > _LONGEST:
            raise NoGraphError(f"a list of more than {_LONGEST} values")
        return _of_list(machine, name, first, args[1:])
    if isinstance(first, (tuple, str)):
        if name == "len":
            return len(first)
        if name == "list":
            return list(first)
        if name == "__getitem__" and isinstance(args[1], int) and -len(first) <= args[1] < len(first):
            return first[args[1]]
        return NO_VALUE
    if isinstance(first, dict) and name == "dict":
        return dict(first)
    return _of_dict(machine, name, first, args[1:]) if isinstance(first, dict) else NO_VALUE


def number(machine: Machine, name: str, of: Sym, *rest: Any) -> Sym:
    """Return a number that a tensor's shape determines, put on the tape."""
    made = machine.number(name, (of, *rest))
    made.ranked = of.shape is None
    return made


def extent(machine: Machine, of: Sym, axis: Any) -> Any:
    """Return the extent of one axis of a tensor."""
    if of.shape is not None and isinstance(axis, int) and -len(of.shape) <= axis < len(of.shape):
        found = of.shape[axis]
        if found is not None:
            return found
        made = machine.number("size", (of, axis))
        made.ranked = False
        return made
    machine.misfits += of.shape is not None and isinstance(axis, int)
    return number(machine, "size", of, axis)


def sizes(machine: Machine, of: Sym, wanted: int = 0) -> Any:
    """Return the extents of a tensor; one that is unpacked into so many has as many axes."""
    if of.shape is None and wanted:
        machine.touch(of)
        of.shape = (None,) * wanted
    if of.shape is None:
        return Sizes(of)
    return [extent(machine, of, axis) for axis in range(len(of.shape))]


def _of_tensor(machine: Machine, name: str, of: Sym, args: list[Any]) -> Any:
    if name == "size" or (name == "len" and not of.number):
        return (
            sizes(machine, of)
            if name == "size" and len(args) == 1
            else extent(machine, of, 0 if name == "len" else args[1])
        )
    if name == "dim":
        return len(of.shape) if of.shape is not None else number(machine, "dim", of)
    if name == "numel":
        return number(machine, "numel", of)
    return NO_VALUE


def _of_sizes(machine: Machine, name: str, first: Sizes, args: list[Any]) -> Any:
    of = first.of
    if of.shape is not None:  # found out since
        return on_container(machine, name, [sizes(machine, of), *args[1:]])
    match name:
        case "len":
            return number(machine, "dim", of)
        case "__getitem__":
            return extent(machine, of, args[1])
        case "list" | "copy":
            return first
    return NO_VALUE


def _of_many(machine: Machine, name: str, first: Many, args: list[Any]) -> Any:
    match name:
        case "list" | "copy":
            return first
        case "len":
            return machine.number("len", (first,))
    return NO_VALUE


def _of_list(machine: Machine, name: str, values: list[Any], rest: list[Any]) -> Any:
    match name, rest:
        case "len", []:
            return len(values)
        case (("list" | "copy"), []):
            machine.step(len(values))
            return list(values)
        case "__getitem__", [int(at)] if -len(values) <= at < len(values):
            return values[at]
        case "__getitem__", [Sym()] if values:  # some round of a loop that is followed once
            return values[0]
        case "dict", [] if all(isinstance(pair, tuple) and len(pair) == 2 and known(pair[0]) for pair in values):
            return {key: value for key, value in values if isinstance(key, (str, int, float))}
        case "slice", bounds if known(bounds) and bounds[-1:] != [0]:
            machine.step(len(values))
            return values[slice(*bounds)] if bounds else list(values)
        case "add", [list() as other] if len(values) + len(other) <= _LONGEST:
            machine.step(len(values) + len(other))
            return values + other
        case "add_", [list() as other]:
            machine.touch(values)
            values += list(other)
            return values
        case "append", [value]:
            machine.touch(values)
            values.append(value)
            return values
        case "extend", [list() | tuple() as other]:
            machine.touch(values)
            values += list(other)
            return None
        case (("_set_item" | "insert"), [int(at), value]) if -len(values) <= at <= len(values):
            machine.touch(values)
            if name == "insert":
                values.insert(at, value)
            elif at < len(values):
                values[at] = value
            return values
        case "pop", [int(at)] if -len(values) <= at < len(values):
            machine.touch(values)
            return values.pop(at)
        case "pop", [] if values:
            machine.touch(values)
            return values.pop()
        case "clear", []:
            machine.touch(values)
            values.clear()
            return None
        case "reverse", []:
            machine.touch(values)
            values.reverse()
            return None
        case "mul", [int(times)] if len(values) * max(times, 0) <= _LONGEST:
            machine.step(len(values) * max(times, 0))
            return values * times
        case "__contains__", [value] if known(value) and known(values):
            return value in values
    return NO_VALUE


def _of_dict(machine: Machine, name: str, values: dict[Any, Any], rest: list[Any]) -> Any:
    match name, rest:
        case "len", []:
            return len(values)
        case "keys", []:
            return list(values)
        case "values", []:
            return list(values.values())
        case "items", []:
            return [tuple(item) for item in values.items()]
        case "__getitem__", [str() | int() | float() as key] if key in values:
            return values[key]
        case "__contains__", [str() | int() | float() as key]:
            return key in values
        case "get", [str() | int() | float() as key, *default]:
            return values.get(key, default[0] if default else None)
        case "_set_item", [str() | int() | float() as key, value]:
            machine.touch(values)
            values[key] = value
            return None
        case "copy", []:
            return dict(values)
        case "update", [dict() as other]:
            machine.touch(values)
            values.update(other)
            return None
    return NO_VALUE


def unpacked(machine: Machine, value: Any, count: int) -> list[Any]:
    """Return the values that `count` variables get from one."""
    if isinstance(value, Sizes):
        value = sizes(machine, value.of, count)
    if isinstance(value, (list, tuple)):
        if len(value) == count:
            return list(value)
        machine.misfits += 1
    if isinstance(value, Many):
        while len(value.items) < count:
            value.outputs.append(machine.fresh())
            value.items.append(Sym(value.outputs[-1], value.items[0].shape if value.items else None))
        return list(value.items[:count])
    if isinstance(value, (list, tuple, Named)) and len(value) > count:
        return list(value[:count])
    return [machine.emit("__getitem__", (value, at))[0] for at in range(count)]
