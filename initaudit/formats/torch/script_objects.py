"""The objects of a TorchScript archive: modules, their settings, tensors under the names of state_dict()."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from initaudit.errors import UnsafeFileError
from initaudit.formats.torch.module import MAX_ATTRIBUTES, MAX_DEPTH, MAX_MODULES, is_plain, plain, quantised_conv
from initaudit.formats.torch.pickle_values import Record
from initaudit.formats.torch.script_code import ClassCode, Code, NoGraphError, plain_name
from initaudit.formats.torch.script_values import Device, Named, Obj, Packed, Sym
from initaudit.formats.torch.tensor import Lost, Rebuilder
from initaudit.types import Module, Skip, Tensor

MAX_VALUES = 2_000_000  # attributes and elements of lists in all objects
MAX_ROW = 32  # elements
_LISTS = ("build_tensorlist", "build_intlist", "build_boollist", "build_doublelist")


@dataclass(slots=True)
class Tree:
    """What the pickle of an archive holds, by name."""

    root: Any = None
    tensors: dict[str, Tensor] = field(default_factory=dict)
    modules: list[Module] = field(default_factory=list)
    skipped: list[Skip] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)  # what the code calls CONSTANTS
    pending: list[tuple[Obj, Any]] = field(default_factory=list)  # objects that make their attributes of a state
    classes: set[str] = field(default_factory=set)  # full names of the modules' classes


class Reader:
    """Turns the records of a pickle into objects and tensors."""

    def __init__(self, code: Code, rebuilder: Rebuilder) -> None:
        self._code = code
        self._rebuilder = rebuilder
        self.tree = Tree()
        self.unparsed = ""  # why some class has no source, if any
        self._objects: dict[int, tuple[Record, Obj]] = {}
        self._values: dict[int, tuple[Any, Any]] = {}
        self._names: dict[tuple[object, ...], str] = {}  # of tensors by what they look at
        self._left = MAX_VALUES
        self._inside = 0  # how many packed values around: what they hold are parameters

    def read(self, root: object) -> Tree:
        """Return the tree below `root`."""
        found = list(self._walk(root))
        for record, path, _ in found:
            self._own(record, path)
        for record, path, children in found:
            self._module(record, path, children)
        self.tree.root = self._value(root, "")
        return self.tree

    # -- modules

    def _walk(self, root: object) -> Iterator[tuple[Record, str, tuple[str, ...]]]:
        todo: list[tuple[object, str, tuple[int, ...]]] = [(root, "", ())]
        count = 0
        while todo:
            record, path, above = todo.pop()
            if not isinstance(record, Record):
                continue
            if id(record) in above:
                self.tree.skipped.append(Skip(path or "model", "contains itself"))
                continue
            count += 1
            if count > MAX_MODULES or len(above) > MAX_DEPTH:
                raise UnsafeFileError(f"more than {MAX_MODULES} modules, or nested deeper than {MAX_DEPTH}")
            children = [
                (value, f"{path}.{key}" if path else str(key))
                for key, value in _state(record).items()
                if isinstance(value, Record) and self._is_module(value)
            ]
            yield record, path, tuple(child for _, child in children)
            todo += [(value, child, (*above, id(record))) for value, child in reversed(children)]

    def _class(self, record: Record) -> ClassCode | None:
        try:
            return self._code.class_code(record.name)
        except NoGraphError as error:
            self.unparsed = self.unparsed or str(error)
            return None

    def _is_module(self, record: Record) -> bool:
        if not record.name.startswith("__torch__.") or _packed_class(record.name):
            return False
        code = self._class(record)
        return code is None or code.base == "Module"

    def _own(self, record: Record, path: str) -> None:
        """Name the parameters and buffers of one module."""
        code = self._class(record)
        for key, value in _state(record).items():
            name = f"{path}.{key}" if path else str(key)
            if code is None:
                self._tensor(value, name, buffer=False)
            elif key in code.parameters or key in code.buffers:
                self._tensor(value, name, buffer=key in code.buffers)

    def _tensor(self, value: object, name: str, *, buffer: bool) -> str:
        """Name a tensor, and return the name; "" where there is none."""
        found = self._rebuilder.tensor(value)
        if found is None:
            return ""
        if isinstance(found, Lost):
            self.tree.skipped.append(Skip(name, found.why))
            return ""
        if len(self.tree.tensors) >= MAX_VALUES // 10:
            raise UnsafeFileError(f"more than {MAX_VALUES // 10} tensors")
        if name not in self.tree.tensors:
            self.tree.tensors[name] = replace(found, name=name, buffer=buffer or not found.is_float)
            self._names.setdefault(found.identity, name)
        return name

    def _module(self, record: Record, path: str, children: tuple[str, ...]) -> None:
        """Add the record of one module."""
        code = self._class(record)
        self.tree.classes.add(record.name)
        attrs: dict[str, object] = {}
        tensors: dict[str, str] = {}
        for key, value in [*(code.finals.items() if code else ()), *_state(record).items()]:
            name = f"{path}.{key}" if path else str(key)
            if name in self.tree.tensors:
                tensors[str(key)] = name
            elif isinstance(value, (bool, int, float, str, tuple, list)) or value is None:
                single = plain(value)
                if is_plain(single):
                    attrs[str(key)] = single
        self._left -= len(attrs)
        if self._left < -MAX_ATTRIBUTES:
            raise UnsafeFileError(f"modules with more than {MAX_ATTRIBUTES} attributes")
        self.tree.modules.append(Module(path, plain_name(record.name), attrs, tensors, children))

    # -- values

    def _value(self, value: object, path: str, depth: int = 0) -> Any:
        """Return a value as a variable of the code may hold it."""
        self._left -= 1
        if self._left < 0 or depth > MAX_DEPTH:
            raise UnsafeFileError(f"objects of more than {MAX_VALUES} values, or nested deeper than {MAX_DEPTH}")
        if isinstance(value, (bool, int, float, str, complex)) or value is None:
            return value
        known = self._values.get(id(value))
        if known is None:
            known = self._values[id(value)] = value, None
            known = self._values[id(value)] = value, self._made(value, path, depth)
        return known[1]

    def _made(self, value: object, path: str, depth: int) -> Any:
        if isinstance(value, list):
            return [self._value(item, f"{path}.{index}", depth + 1) for index, item in enumerate(value)]
        if isinstance(value, tuple):
            return tuple(self._value(item, f"{path}.{index}", depth + 1) for index, item in enumerate(value))
        if isinstance(value, dict):
            return {key: self._value(item, f"{path}.{key}", depth + 1) for key, item in value.items()}
        if not isinstance(value, Record):
            return None
        found = self._rebuilder.tensor(value)
        if found is not None:
            return self._sym(value, path)
        last = value.name.rpartition(".")[2]
        if last in _LISTS or last == "restore_type_tag":
            inner = value.args[0] if value.args else ()
            made = self._value(inner, path, depth + 1)
            return list(made) if isinstance(made, tuple) and last in _LISTS else made
        if value.name == "torch.device":
            return Device(str(value.args[0]) if value.args else "cpu")
        if _packed_class(value.name):
            state = value.state if isinstance(value.state, tuple) else (value.state,)
            return Packed(
                value.name, tuple(self._value(item, f"{path}.{i}", depth + 1) for i, item in enumerate(state))
            )
        return self._object(value, path, depth)

    def _object(self, record: Record, path: str, depth: int) -> Any:
        code = self._class(record) or ClassCode(record.name, "")
        if code.base == "NamedTuple":
            return Named(tuple(self._value(item, path, depth + 1) for item in record.args), tuple(code.fields))
        if code.base == "Enum":
            return self._value(record.args[0], path, depth + 1) if record.args else None
        made = Obj(code, path)
        self._values[id(record)] = record, made
        own = isinstance(record.state, tuple)
        self._inside += own
        for key, value in _state(record).items():
            made.attrs[str(key)] = self._value(value, f"{path}.{key}" if path else str(key), depth + 1)
        self._inside -= own
        if own:
            self.tree.pending.append((made, tuple(made.attrs.values())))
        return made

    def _sym(self, value: Record, path: str) -> Any:
        found = self._rebuilder.tensor(value)
        if not isinstance(found, Tensor):
            return Sym(path)
        name = path if path in self.tree.tensors else self._names.get(found.identity, "")
        name = name or self._tensor(value, path, buffer=not self._inside)
        return Sym(name, found.shape, found.dtype, numbers=_numbers(found))


def _numbers(tensor: Tensor) -> tuple[int, ...] | None:
    """Return the values of a short row of integers: the strides of a packed convolution are one."""
    if len(tensor.shape) != 1 or tensor.size > MAX_ROW or not tensor.dtype.startswith("int"):
        return None
    return tuple(int(number) for number in tensor.load())


def _packed_class(name: str) -> bool:
    """Whether a class is one of torch's own in C++: the packed weights of quantised and mobile operators."""
    return name.startswith("__torch__.torch.classes.") or name == "torch.ScriptObject"


def _state(record: Record) -> dict[Any, object]:
    """Return the attributes of an object; a state of another form has its parts numbered."""
    state = record.state
    if isinstance(state, dict):
        return state
    if isinstance(state, tuple) and record.name.startswith("__torch__."):
        return quantised_conv(record) or dict(enumerate(state))
    return {}
