"""Names of values while a graph is made flat: what they are called in it, and what has been collected so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from initaudit.errors import CorruptFileError, UnsupportedError
from initaudit.formats.onnx.records import AttributeRecord, ModelRecord, NodeRecord, Shape
from initaudit.formats.onnx.tensors import Source
from initaudit.types import Node, Skip, Tensor

_MOST_LETTERS = 1 << 26  # of names inside functions: each call makes those of its body again
_LONG_NAME = 256


@dataclass(slots=True)
class Scope:
    """Names of one graph, by what they are called in the flat one; a subgraph sees those around it."""

    outer: Scope | None = None
    names: dict[str, str] = field(default_factory=dict)
    prefix: str = ""  # of what a function makes
    arguments: Mapping[str, AttributeRecord] = field(default_factory=dict)  # of the function that is being called
    calls: tuple[tuple[str, str, str], ...] = ()

    def find(self, name: str) -> str:
        """Return the flat name of a value; "" stands for an absent one."""
        if not name:
            return ""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        raise CorruptFileError(f"nothing makes the value {name[:80]!r}")

    def alias(self, name: str, value: str) -> None:
        """Let a name of this scope stand for a value that there is already."""
        if not name:
            return
        if name in self.names:
            raise CorruptFileError(f"two nodes, inputs or initializers make the value {name[:80]!r}")
        self.names[name] = value

    def inner(self) -> Scope:
        """Return the scope of a subgraph."""
        return Scope(self, {}, self.prefix, self.arguments, self.calls)

    def function(self, call: str, key: tuple[str, str, str], arguments: Mapping[str, AttributeRecord]) -> Scope:
        """Return the scope of a function's body, which sees nothing around it."""
        return Scope(None, {}, f"{self.prefix}{call[:_LONG_NAME]}/", arguments, (*self.calls, key))


@dataclass(slots=True)
class Flat:
    """What flattening collects."""

    model: ModelRecord
    source: Source
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Tensor] = field(default_factory=dict)
    shapes: dict[str, Shape] = field(default_factory=dict)
    tensors: dict[int | str, Tensor] = field(default_factory=dict)  # by place in the file, in the order met
    skipped: dict[str, Skip] = field(default_factory=dict)
    lost: Mapping[str, str] = field(default_factory=dict)  # parameters that were renamed, by their name in the program
    inlined: int = 0  # nodes of functions, with all that hangs on them
    numbers: dict[str, int] = field(default_factory=dict)  # constant -> byte of the attribute that lists its values
    folded: dict[str, NodeRecord] = field(default_factory=dict)  # constant -> the node that it was folded from
    _used: set[str] = field(default_factory=set)
    _counts: dict[str, int] = field(default_factory=dict)  # how often a name was wanted again
    _letters: int = 0  # of names inside functions

    def new(self, scope: Scope, name: str) -> str:
        """Give a value of this scope a name that nothing else has."""
        if not name:
            return ""
        unique = self.unique(scope.prefix + name)
        scope.alias(name, unique)
        if scope.calls:
            self._letters += len(unique)
            if self._letters > _MOST_LETTERS:
                raise UnsupportedError("functions that make too many or too long names when inlined")
        return unique

    def unique(self, wanted: str) -> str:
        """Return a name that no value has yet: the wanted one, or that with a number."""
        name = wanted
        while name in self._used:
            self._counts[wanted] = self._counts.get(wanted, 1) + 1
            name = f"{wanted}#{self._counts[wanted]}"
        self._used.add(name)
        return name

    def emit(
        self,
        op: str,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        attrs: Mapping[str, object] | None = None,
        name: str = "",
    ) -> None:
        """Add a node."""
        self.nodes.append(Node(op, inputs, outputs, attrs or {}, name))
