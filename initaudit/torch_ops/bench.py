"""Where the nodes of a graph are put together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from initaudit.torch_ops.bind import frozen
from initaudit.types import Array, Call, Graph, Node, Ref, Tensor

Shape = tuple[int | None, ...]


class Bench:
    """Nodes, constants and shapes of a graph in the making."""

    def __init__(self, dialect: str) -> None:
        self.dialect = dialect
        self.nodes: list[Node] = []
        self.constants: dict[str, Tensor] = {}
        self.inputs: dict[str, Shape | None] = {}
        self.shapes: dict[str, Shape] = {}
        self.scope = ""
        self._made = 0
        self._numbers: dict[tuple[str, Any], str] = {}

    def fresh(self, near: str) -> str:
        """Return a name that no value has, for a step on the way to `near`."""
        self._made += 1
        return f"{near}#{self._made}"

    def shape(self, value: Any) -> Shape | None:
        """Return the shape of a value, None where it is not known."""
        name = value.name if isinstance(value, Ref) else value
        if name in self.constants:
            return self.constants[name].shape
        return self.shapes.get(name, self.inputs.get(name))

    def rank(self, value: Any) -> int | None:
        """Return the number of axes of a value, None where it is not known."""
        shape = self.shape(value)
        return None if shape is None else len(shape)

    def operand(self, value: Any) -> str:
        """Return the name of a value, of a constant for a number or list of numbers; "" for None."""
        if value is None:
            return ""
        if isinstance(value, Ref):
            return value.name
        return self.number(value)

    def number(self, value: Any, name: str = "") -> str:
        """Make a constant of a number or a list of numbers."""
        value = frozen(value)
        key = (type(value).__name__, repr(value))
        if not name:
            if key in self._numbers:
                return self._numbers[key]
            name = self._numbers[key] = f"%c{len(self._numbers) + 1}"
        array = _array(value)
        self.constants[name] = Tensor(name, array.shape, str(array.dtype), lambda: array, buffer=True)
        return name

    def emit(
        self,
        op: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attrs: Mapping[str, Any],
        call: Call,
    ) -> str:
        """Add a node and return the name of its first output."""
        names = list(inputs)
        while names and not names[-1]:
            names.pop()
        kept = {name: frozen(value) for name, value in attrs.items() if value is not None}
        if self.scope:
            kept["@scope"] = self.scope
        self.nodes.append(Node(op, tuple(names), tuple(outputs), kept, self.scope, call))
        return outputs[0]

    def called(self, target: str, *args: Any) -> Call:
        """Return a call for one step of several."""
        return Call(f"aten.{target}" if self.dialect == "aten" else target, args)

    def step(self, op: str, target: str, args: Sequence[Any], out: str, attrs: Mapping[str, Any] | None = None) -> Ref:
        """Add a node whose arguments are its operands, for one step of several; return its output."""
        self.emit(op, [self.operand(a) for a in args], (out,), attrs or {}, self.called(target, *args))
        return Ref(out)

    def graph(self, outputs: Sequence[str]) -> Graph:
        """Return what was put together."""
        return Graph(tuple(self.nodes), dict(self.inputs), tuple(outputs), dict(self.constants), dict(self.shapes))


def _array(value: Any) -> Array:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 else array
