"""Expressions and calls of TorchScript, on values of which some are only names."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any

from initaudit.formats.torch.script_calls import call, item_of, operate
from initaudit.formats.torch.script_code import ClassCode, Code, Function, NoGraphError, dotted
from initaudit.formats.torch.script_lists import sizes
from initaudit.formats.torch.script_machine import Machine
from initaudit.formats.torch.script_objects import Tree
from initaudit.formats.torch.script_packed import run_packed
from initaudit.formats.torch.script_values import (
    UNSET,
    Device,
    Many,
    Method,
    Named,
    Obj,
    Path,
    Sizes,
    Sym,
    known,
    truth,
)

MAX_ROUNDS = 4096  # of one loop; a loop of more is followed once
_OPERATORS: dict[type, str] = {
    ast.Add: "add", ast.Sub: "sub", ast.Mult: "mul", ast.Div: "div", ast.FloorDiv: "floordiv", ast.Mod: "remainder",
    ast.Pow: "pow", ast.MatMult: "matmul", ast.BitAnd: "__and__", ast.BitOr: "__or__", ast.BitXor: "__xor__",
    ast.Eq: "eq", ast.NotEq: "ne", ast.Lt: "lt", ast.Gt: "gt", ast.LtE: "le", ast.GtE: "ge", ast.Is: "__is__",
    ast.IsNot: "__isnot__", ast.USub: "neg", ast.Not: "__not__", ast.Invert: "bitwise_not",
}  # fmt: skip
_TYPES: dict[str, tuple[type, ...]] = {
    "int": (int,), "float": (float,), "bool": (bool,), "str": (str,), "List": (list,), "Tuple": (tuple,),
    "Dict": (dict,), "list": (list,), "tuple": (tuple,), "dict": (dict,), "NoneType": (type(None),),
    "Device": (Device,),
}  # fmt: skip


@dataclass(slots=True)
class Frame:
    """One call in progress: its variables, and the results of early returns."""

    names: dict[str, Any]
    returned: list[Any] = field(default_factory=list)


class Evaluator:
    """Works out expressions; `invoke`, which follows what they call, is its subclass's: statements lie behind it."""

    def __init__(self, code: Code, tree: Tree, machine: Machine) -> None:
        self.code = code
        self.constants = tree.constants
        self.machine = machine

    def invoke(self, function: Function, args: list[Any], kwargs: dict[str, Any], owner: Obj | None = None) -> Any:
        """Return what a function or method gives."""
        raise NotImplementedError

    def value(self, frame: Frame, node: ast.expr, wanted: int = 0) -> Any:
        """Return what an expression holds; one that is not understood gives an unknown."""
        self.machine.step()
        match node:
            case ast.Name(id=name):
                if name in frame.names:
                    return frame.names[name]
                return Path(name)
            case ast.Constant(value=value):
                return value
            case ast.Call():
                return self._call(frame, node, wanted)
            case ast.Attribute():
                return self._attribute(frame, node)
            case ast.Tuple(elts=items):
                return tuple(self.value(frame, item) for item in items)
            case ast.List(elts=items):
                return [self.value(frame, item) for item in items]
            case ast.Dict(keys=keys, values=values):
                pairs = [
                    (self.value(frame, key), self.value(frame, v)) for key, v in zip(keys, values, strict=True) if key
                ]
                return {key: value for key, value in pairs if isinstance(key, (str, int, float))}
            case ast.Subscript(value=owner, slice=index):
                return self._subscript(frame, owner, index)
            case ast.IfExp(test=test, body=body, orelse=other):
                side = truth(self.value(frame, test))
                if side is not None:
                    return self.value(frame, body if side else other)
                return self.machine.join(self.value(frame, body), self.value(frame, other))
            case ast.UnaryOp(op=op, operand=operand):
                return self._operator(op, [self.value(frame, operand)])
            case ast.BinOp(left=left, op=op, right=right):
                return self._operator(op, [self.value(frame, left), self.value(frame, right)])
            case ast.Compare(left=left, ops=[op], comparators=[right]):
                return self._operator(op, [self.value(frame, left), self.value(frame, right)])
            case ast.BoolOp(op=op, values=values):
                name = "__and__" if isinstance(op, ast.And) else "__or__"
                found = self.value(frame, values[0])
                for item in values[1:]:
                    found = call(self.machine, "aten", name, [found, self.value(frame, item)], {})
                return found
            case ast.JoinedStr():
                return "?"
        return self.machine.emit(type(node).__name__.lower())[0]

    def _operator(self, op: ast.AST, args: list[Any]) -> Any:
        name = _OPERATORS.get(type(op), type(op).__name__.lower())
        return call(self.machine, "aten", name, args, {})

    def _attribute(self, frame: Frame, node: ast.Attribute) -> Any:
        owner = self.value(frame, node.value)
        return self._member(owner, node.attr)

    def _member(self, owner: Any, name: str) -> Any:
        match owner:
            case Path(name="CONSTANTS"):
                index = name[1:]
                if index.isascii() and index.isdigit() and len(index) < 9 and int(index) < len(self.constants):
                    return self.constants[int(index)]
                raise NoGraphError(f"asks for a constant {name} that the archive does not hold")
            case Path(name=prefix):
                full = f"{prefix}.{name}"
                enum = self.code.class_code(prefix) if prefix.startswith("__torch__.") else None
                return enum.finals[name] if enum is not None and name in enum.finals else Path(full)
            case Obj():
                if name == "training" and owner.code.base in ("Module", ""):
                    return False
                if name in owner.attrs:
                    return owner.attrs[name]
                if name in owner.code.methods:
                    return Method(owner, owner.code.methods[name])
                if name in owner.code.finals:
                    return owner.code.finals[name]
            case Named(fields=fields) if name in fields:
                return owner[fields.index(name)]
            case Device():
                return owner.kind if name == "type" else None
            case _ if name in ("value", "name"):  # of a member of an Enum
                return owner
        return self.machine.emit("getattr", (owner, name))[0]

    def _subscript(self, frame: Frame, owner: ast.expr, index: ast.expr) -> Any:
        holder = self.value(frame, owner)
        if isinstance(index, ast.Slice):
            bounds = [
                None if part is None else self.value(frame, part) for part in (index.lower, index.upper, index.step)
            ]
            if isinstance(holder, (tuple, list, str)) and known(bounds) and bounds[2] != 0:
                return holder[slice(*bounds)]
            return call(self.machine, "aten", "slice", [holder, *bounds], {})
        at = self.value(frame, index)
        if isinstance(holder, Many):
            return item_of(self.machine, holder, at)
        return call(self.machine, "aten", "__getitem__", [holder, at], {})

    # -- calls

    def _call(self, frame: Frame, node: ast.Call, wanted: int) -> Any:
        if isinstance(node.func, ast.Name) and node.func.id not in frame.names:
            return self._builtin(frame, node.func.id, node, wanted)
        target = self.value(frame, node.func)
        args = [self.value(frame, arg) for arg in node.args if not isinstance(arg, ast.Starred)]
        kwargs = {keyword.arg: self.value(frame, keyword.value) for keyword in node.keywords if keyword.arg}
        match target:
            case Method(owner=owner, function=function):
                return self.invoke(function, args, kwargs, owner)
            case Path(name=name):
                return self._path(name, args, kwargs, wanted)
        return operate(self.machine, "call", [target, *args], kwargs, wanted)

    def _path(self, name: str, args: list[Any], kwargs: dict[str, Any], wanted: int) -> Any:
        space, _, last = name.rpartition(".")
        if space == "torch":
            if last == "size" and len(args) == 1 and isinstance(args[0], Sym) and wanted:
                return sizes(self.machine, args[0], wanted)
            if last == "__getitem__" and len(args) == 2 and isinstance(args[0], Many):
                return item_of(self.machine, args[0], args[1])
            return call(self.machine, "aten", last, args, kwargs, wanted)
        if name.startswith("torch."):  # torch.fft.rfft and the like
            return call(self.machine, "aten", last, args, kwargs, wanted)
        if space.startswith("ops."):
            found = run_packed(self.machine, f"{space[4:]}.{last}", args)
            return found if found is not None else call(self.machine, space[4:], last, args, kwargs, wanted)
        if space.startswith("__torch__"):
            return self._own(name, args, kwargs, wanted)
        return operate(self.machine, last, args, kwargs, wanted)

    def _own(self, name: str, args: list[Any], kwargs: dict[str, Any], wanted: int) -> Any:
        """Call a function, class or static method of the archive."""
        function = self.code.function(name)
        if function is not None:
            return self.invoke(function, args, kwargs)
        owner, _, last = name.rpartition(".")
        if last == "__new__":
            return Obj(self.code.class_code(owner) or ClassCode(owner, ""), "")
        code = self.code.class_code(name)
        if code is not None:
            if code.base == "NamedTuple":
                return Named(tuple(args), tuple(code.fields))
            made = Obj(code, "")
            if "__init__" in code.methods:
                self.invoke(code.methods["__init__"], args, kwargs, made)
            return made
        holder = self.code.class_code(owner)
        if holder is not None and last in holder.methods:
            return self.invoke(holder.methods[last], args, kwargs)
        return operate(self.machine, last, args, kwargs, wanted)

    def _builtin(self, frame: Frame, name: str, node: ast.Call, wanted: int) -> Any:
        match name, node.args:
            case "uninitialized", _:
                return UNSET
            case (("annotate" | "unchecked_cast"), [_, inner]):
                return self.value(frame, inner, wanted)
            case "getattr", [owner, ast.Constant(value=str() as attr)]:
                return self._member(self.value(frame, owner), attr)
            case "isinstance", [value, kind]:
                return self._isinstance(self.value(frame, value), kind)
        given = [self.value(frame, arg) for arg in node.args if not isinstance(arg, ast.Starred)]
        match name, given:
            case (("int" | "float" | "bool"), [Sym() as number]):
                return Sym(number.name, (), number=True, ranked=number.ranked)
            case (("int" | "float" | "bool" | "str"), [single]):
                return call(self.machine, "aten", "str" if name == "str" else name.capitalize(), [single], {})
            case "range", [int(count)] if 0 <= count <= MAX_ROUNDS:
                return list(range(count))
            case "len", [single]:
                return call(self.machine, "aten", "len", [single], {})
            case "fork", [Method(owner=holder, function=function), *rest]:
                return self.invoke(function, rest, {}, holder)
            case "wait", [single]:
                return single
        kwargs = {keyword.arg: self.value(frame, keyword.value) for keyword in node.keywords if keyword.arg}
        return operate(self.machine, name, given, kwargs, wanted)

    def _isinstance(self, value: Any, kind: ast.expr) -> Any:
        names = [dotted(k.value if isinstance(k, ast.Subscript) else k) for k in getattr(kind, "elts", [kind])]
        if isinstance(value, Sym) and not value.number:
            return "Tensor" in names
        if isinstance(value, (Sym, Sizes, Many)):
            return (
                bool({"List", "list"} & set(names))
                if isinstance(value, Many)
                else self.machine.number("isinstance", (value,))
            )
        if isinstance(value, Obj):
            return value.code.name in names
        return any(isinstance(value, _TYPES.get(name, ())) for name in names)
