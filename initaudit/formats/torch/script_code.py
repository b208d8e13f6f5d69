"""The source in a TorchScript archive, parsed by Python's own grammar and never compiled.

__torch__.torch.nn.modules.conv.___torch_mangle_3.Conv2d
    -> class Conv2d in code/__torch__/torch/nn/modules/conv/___torch_mangle_3.py
"""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from initaudit.errors import CorruptFileError, UnsafeFileError
from initaudit.formats.torch.archive import Archive

MAX_FILE = 8 << 20  # bytes of one source; the frozen code of the largest models stays below 2 MB
MAX_CODE = 64 << 20  # of all sources that were looked at
_MANGLE = re.compile(r"\.?___torch_mangle_\d+")
NOT_PLAIN = object()


class NoGraphError(Exception):
    """The code cannot be followed; its text says why. The tensors are read all the same."""


@dataclass(frozen=True, slots=True)
class Function:
    """One method or function."""

    name: str
    node: ast.FunctionDef


@dataclass(slots=True)
class ClassCode:
    """What the source says of a class."""

    name: str
    base: str  # Module, NamedTuple, Interface, Enum or ""
    parameters: frozenset[str] = frozenset()
    buffers: frozenset[str] = frozenset()
    fields: dict[str, ast.expr] = field(default_factory=dict)  # name -> type, in order
    finals: dict[str, object] = field(default_factory=dict)  # plain constants
    methods: dict[str, Function] = field(default_factory=dict)


def plain_name(qualified: str) -> str:
    """Return the name of a class as its author knows it: torch.nn.modules.conv.Conv2d."""
    return _MANGLE.sub("", qualified).removeprefix("__torch__.").lstrip(".")


def literal(node: ast.expr) -> Any:
    """Return the plain value that an expression without names spells; NOT_PLAIN where it is none."""
    match node:
        case ast.Constant(value=value):
            return value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return -value
        case ast.Tuple(elts=items) | ast.List(elts=items):
            values = [literal(item) for item in items]
            if any(value is NOT_PLAIN for value in values):
                return NOT_PLAIN
            return tuple(values) if isinstance(node, ast.Tuple) else values
        case ast.Name(id="inf"):
            return math.inf
        case ast.Name(id="nan"):
            return math.nan
        case ast.Call(func=ast.Name(id="float"), args=[ast.Constant(value="inf" | "-inf" | "nan" as word)]):
            return float(word)
        case ast.Call(func=ast.Name(id="annotate"), args=[_, inner]):
            return literal(inner)
    return NOT_PLAIN


def dotted(node: ast.expr) -> str:
    """Return "__torch__.a.B" for such an expression, "" for any other."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ""
    return ".".join([node.id, *reversed(parts)])


class Code:
    """The classes and functions of an archive, each source parsed when something in it is first asked for."""

    def __init__(self, archive: Archive, stem: str) -> None:
        self._archive = archive
        self._stem = f"{stem}code/"
        self._files: dict[str, Mapping[str, ast.stmt] | NoGraphError] = {}
        self._classes: dict[str, ClassCode | None] = {}
        self._size = 0

    def class_code(self, qualified: str) -> ClassCode | None:
        """Return a class by its full name, None if the archive has no source for it."""
        if qualified not in self._classes:
            node = self._find(qualified)
            self._classes[qualified] = _class(qualified, node) if isinstance(node, ast.ClassDef) else None
        return self._classes[qualified]

    def function(self, qualified: str) -> Function | None:
        """Return a free function by its full name, None if there is none."""
        node = self._find(qualified)
        return Function(qualified, node) if isinstance(node, ast.FunctionDef) else None

    def _find(self, qualified: str) -> ast.stmt | None:
        file, _, name = qualified.rpartition(".")
        if not file.startswith("__torch__"):
            return None
        if file not in self._files:
            try:
                self._files[file] = self._parse(f"{self._stem}{file.replace('.', '/')}.py")
            except NoGraphError as error:
                self._files[file] = error
        found = self._files[file]
        if isinstance(found, NoGraphError):
            raise NoGraphError(str(found))
        return found.get(name)

    def _parse(self, member: str) -> Mapping[str, ast.stmt]:
        if member not in self._archive.members:
            return {}
        self._size += self._archive.members[member].file_size
        if self._size > MAX_CODE:
            raise NoGraphError(f"more than {MAX_CODE} bytes of code")
        try:
            text = self._archive.read(member, MAX_FILE).decode()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an odd escape in a string is the file's affair
                tree = ast.parse(text)
        except UnsafeFileError as error:
            raise NoGraphError(error.reason) from None
        except CorruptFileError as error:
            raise NoGraphError(f"damaged code: {error.reason}") from None
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            short = member.removeprefix(self._stem)
            raise NoGraphError(f"{short} is no source that can be parsed: {type(error).__name__}") from None
        return {node.name: node for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}


def _class(qualified: str, node: ast.ClassDef) -> ClassCode:
    base = dotted(node.bases[0]) if node.bases else ""
    made = ClassCode(qualified, base)
    for statement in node.body:
        match statement:
            case ast.FunctionDef(name=name):
                made.methods[name] = Function(f"{qualified}.{name}", statement)
            case ast.Assign(targets=[ast.Name(id="__parameters__")], value=value):
                made.parameters = _names(value)
            case ast.Assign(targets=[ast.Name(id="__buffers__")], value=value):
                made.buffers = _names(value)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):  # a member of an Enum
                _set_final(made, name, value)
            case ast.Assign(
                targets=[ast.Subscript(value=ast.Name(id="__annotations__"), slice=ast.Constant(value=str() as name))],
                value=value,
            ):
                made.fields[name] = value
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                made.fields[name] = annotation
                if value is not None:
                    _set_final(made, name, value)
    return made


def _set_final(made: ClassCode, name: str, value: ast.expr) -> None:
    found = literal(value)
    if found is not NOT_PLAIN:
        made.finals[name] = found


def _names(node: ast.expr) -> frozenset[str]:
    found = literal(node)
    return frozenset(name for name in found if isinstance(name, str)) if isinstance(found, list) else frozenset()
