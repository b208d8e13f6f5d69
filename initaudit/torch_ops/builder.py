"""A graph, made call by call from what a torch model did."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from initaudit.torch_ops import table_moves, table_pointwise, table_weighted
from initaudit.torch_ops.bench import Bench, Shape
from initaudit.torch_ops.bind import Bound, bind, frozen, refs
from initaudit.torch_ops.expand import HANDLERS
from initaudit.torch_ops.rows import Row, merged, parse
from initaudit.types import Call, Graph, Tensor

DIALECTS = ("function", "aten")
_SHARED = tuple(parse(module.SHARED) for module in (table_weighted, table_pointwise, table_moves))
TABLES = {
    "function": merged(*(parse(m.FUNCTION) for m in (table_weighted, table_pointwise, table_moves)), *_SHARED),
    "aten": merged(*(parse(m.ATEN) for m in (table_weighted, table_pointwise, table_moves)), *_SHARED),
}
_INDEXED = frozenset({"__getitem__", "__setitem__"})
_SPACES = frozenset({"Tensor", "torch", "F", "nn", "functional", "_VF", "aten", "prims", "prim", "torchvision"})


class Builder:
    """Takes the calls of a model in the order they ran, and gives their graph.

    >>> from initaudit.types import Ref
    >>> b = Builder("function")
    >>> b.input("x", (1, 3))
    >>> b.call("relu_", (Ref("x"),), {}, ["%1"])
    >>> b.call("__rsub__", (Ref("%1"), 1.0), {}, ["%2"])
    >>> [(node.op, node.inputs, node.outputs) for node in b.graph(["%2"]).nodes]
    [('relu', ('x',), ('%1',)), ('sub', ('%c1', '%1'), ('%2',))]
    """

    def __init__(self, dialect: str = "function") -> None:
        self._bench = Bench(dialect)
        self._dialect = dialect

    def input(self, name: str, shape: Sequence[int | None] | None = None) -> None:
        """Declare an input of the graph."""
        self._bench.inputs[name] = None if shape is None else tuple(shape)

    def tensor(self, name: str, tensor: Tensor) -> None:
        """Declare a parameter, a buffer or a constant."""
        self._bench.constants[name] = tensor

    def call(
        self,
        target: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        outputs: Sequence[str],
        shapes: Mapping[str, Sequence[int | None]] | Sequence[Sequence[int | None] | None] | None = None,
        scope: str = "",
    ) -> None:
        """Add the nodes of one call; a call without results adds none, and none is refused.

        Args:
            target: name of the torch function, with or without what it belongs to: "conv2d", "Tensor.add_".
            args: numbers, strings, None, slice, Ellipsis, Ref for values of the graph, and lists or tuples of these.
            kwargs: the same by name.
            outputs: names of the results that are tensors, "" for one that is of no interest.
            shapes: their shapes by name, or in the order of `outputs`.
            scope: path of the module that was running.
        """
        bench = self._bench
        if not any(outputs):
            return
        named = shapes if isinstance(shapes, Mapping) else dict(zip(outputs, shapes or (), strict=False))
        bench.shapes.update({name: tuple(s) for name, s in named.items() if name and s is not None})
        bench.scope = scope
        if _plain_name(target) in _INDEXED and len(args) > 1 and isinstance(args[1], list):
            args = (args[0], (args[1],), *args[2:])  # x[[0, 2]] is no x[0, 2]
        args, kwargs = tuple(frozen(a) for a in args), {k: frozen(v) for k, v in kwargs.items()}
        prefix = "aten." if self._dialect == "aten" else ""
        call = Call(prefix + target, args, kwargs)
        for bound in _bounds(self._dialect, target, args, kwargs):
            if not bound.row.op.startswith("!"):
                operands, attrs = _sorted(bench, bound)
                bench.emit(bound.row.op, operands, outputs, attrs, call)
                return
            before = len(bench.nodes)
            if HANDLERS[bound.row.op[1:]](bench, bound.values, tuple(outputs), call):
                return
            del bench.nodes[before:]
        names = [ref.name for ref in (*refs(args), *refs(kwargs))]
        bench.emit(_plain_name(target), names, outputs, {}, call)

    def graph(self, outputs: Sequence[str]) -> Graph:
        """Return the graph of all calls so far."""
        return self._bench.graph(outputs)

    def shape(self, name: str) -> Shape | None:
        """Return the shape of a value, None where it is not known."""
        return self._bench.shape(name)


def known(target: str, dialect: str = "function") -> bool:
    """Whether the table has a row for a torch function."""
    return bool(rows_of(dialect, target))


def _bounds(dialect: str, target: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[Bound]:
    """Yield the ways to read a call, those first that need no attribute to be a value of the graph."""
    for strict in (True, False):
        for row in rows_of(dialect, target):
            bound = bind(row, args, kwargs, strict)
            if bound is not None and (strict or not row.op.startswith("!")):
                yield bound


@cache
def rows_of(dialect: str, target: str) -> tuple[Row, ...]:
    """Return the rows of a function, those of the function that its in-place or reflected form is made of."""
    table = TABLES[dialect]
    for name in _spellings(_plain_name(target)):
        if name in table:
            return table[name]
    return ()


def _spellings(name: str) -> list[str]:
    """Return a function's name, then what it is without what says where its result goes.

    >>> _spellings("__iadd__"), _spellings("add_"), _spellings("permute_copy")
    (['__iadd__', '__add__', 'add'], ['add_', 'add'], ['permute_copy', 'permute'])
    """
    out = [name]
    if name.startswith("__") and name.endswith("__") and len(name) > 4:
        if name.startswith("__i"):
            out.append("__" + name[3:])
        out.append(out[-1][2:-2])
    elif name.endswith("_"):
        out.append(name[:-1])
    if name.endswith("_copy"):
        out.append(name.removesuffix("_copy"))
    return out


def _plain_name(target: str) -> str:
    """Return the name of a function without namespace and overload.

    >>> _plain_name("aten::add.Tensor"), _plain_name("Tensor.add_"), _plain_name("T.__get__"), _plain_name("F.relu")
    ('add', 'add_', 'T.__get__', 'relu')
    """
    name = target.rpartition("::")[2]
    pieces = name.split(".")
    while len(pieces) > 1 and pieces[0] in _SPACES:
        pieces = pieces[1:]
    return ".".join(pieces[:2]) if pieces[-1] == "__get__" else pieces[0]


def _sorted(bench: Bench, bound: Bound) -> tuple[list[str], dict[str, Any]]:
    """Return the operands in canonical order, with values that attributes depend on after them, and the attributes."""
    row = bound.row
    placed: dict[int, list[str]] = {place: [bench.operand(number)] for number, place in row.numbers}
    free: list[list[str]] = []
    attrs: dict[str, Any] = dict(row.fixed)
    further: list[str] = []
    for parameter in row.parameters:
        value = bound.values.get(parameter.name)
        if parameter.role == "operand":
            names = [bench.operand(value)]
        elif parameter.role == "operands":
            names = [bench.operand(v) for v in value or ()]
        else:
            if parameter.role == "attr":
                if value is None and parameter.given:
                    value = parameter.default
                if parameter.attr == "axes" and isinstance(value, int):
                    value = (value,)
                if value is not None:
                    attrs[parameter.attr] = value
                further += [ref.name for ref in refs(value)]
            continue
        if parameter.place >= 0:
            placed[parameter.place] = names
        else:
            free.append(names)
    operands: list[str] = []
    place = 0
    while placed or free:
        if place in placed:
            operands += placed.pop(place)
        elif free:
            operands += free.pop(0)
        else:
            operands.append("")
        place += 1
    return operands + further, attrs
