"""The graph of an exported program: its nodes as calls of ATen functions, the graphs inside higher-order ops inlined.

Names in the file are kept apart from names in our graph: a name stands for a value of the graph, or for a number, text
or None. Higher-order ops leave behind what control flow of ONNX does: `phi` where two values meet, `scan_slice` and
`scan_stack` around what a loop does with each element.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from initaudit.errors import CorruptFileError, UnsafeFileError
from initaudit.formats.exported.quantised import real
from initaudit.formats.exported.records import at, plain, sizes, union, value_names
from initaudit.torch_ops.builder import Builder
from initaudit.types import Ref, Tensor

MAX_DEPTH = 32  # graphs inside graphs
MAX_NODES = 1_000_000

_HIGHER = "higher_order"
_NO_SCOPE = "_empty_nn_module_stack_from_metadata_hook"
_VIEWS = frozenset({  # what these return looks at the same values as what they take
    "alias", "as_strided", "detach", "diagonal", "expand", "expand_as", "flatten", "mT", "movedim", "narrow", "permute",
    "reshape", "select", "slice", "squeeze", "swapaxes", "t", "transpose", "unflatten", "unfold", "unsqueeze", "view",
    "view_as",
})  # fmt: skip

Env = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Body:
    """A graph that a node carries."""

    record: Any


class Flattener:
    """Adds the nodes of graphs to a builder; `env` maps names of the file to values, `tensors` are the stored ones."""

    def __init__(self, builder: Builder, tensors: Mapping[str, Tensor]) -> None:
        self._builder = builder
        self._tensors = ChainMap[str, Tensor]({}, tensors)  # type: ignore[arg-type]
        self._values = 0
        self._nodes = 0
        self._base: dict[str, str] = {}  # a view, and what it looks at
        self._now: dict[str, str] = {}  # a value that was written to, and what it is since

    def run(self, graph: Any, env: Env, scope: str = "", depth: int = 0) -> list[Any]:
        """Add all nodes of a graph whose inputs `env` knows, and return its outputs.

        Raises:
            CorruptFileError: a value is used that nothing has made, a node is not whole.
            UnsafeFileError: it is nested too deeply or too long.
        """
        if depth > MAX_DEPTH:
            raise UnsafeFileError(f"graphs inside graphs, more than {MAX_DEPTH} deep")
        shapes = at(graph, "tensor_values", Mapping, "a graph")
        for node in at(graph, "nodes", list, "a graph"):
            self._nodes += 1
            if self._nodes > MAX_NODES:
                raise UnsafeFileError(f"more than {MAX_NODES} nodes")
            self._node(node, env, shapes, scope, depth)
        return [self._argument(argument, env) for argument in at(graph, "outputs", list, "a graph")]

    def find(self, name: str, env: Env) -> Any:
        """Return what a name of the file stands for."""
        if name not in env:
            raise CorruptFileError(f"the value {name[:80]!r} is used, but nothing before makes it")
        value = env[name]
        while isinstance(value, Ref) and value.name in self._now:
            value = Ref(self._now[value.name])
        return value

    # ---- one node

    def _node(self, node: Any, env: Env, shapes: Mapping[str, Any], scope: str, depth: int) -> None:
        target = at(node, "target", str, "a node")
        scope = _scope(node) or scope
        args, kwargs = self._arguments(at(node, "inputs", list, "a node"), env)
        results = [name for one in at(node, "outputs", list, "a node") for name in value_names(*union(one, "a result"))]
        space, name = _parts(target)
        if space == _HIGHER:
            self._higher(name, args, kwargs, results, env, shapes, scope, depth)
            return
        full = f"{space}::{name}" if space else name
        weight = real(full, args, self._tensors)
        if weight is not None and len(results) == 1:
            made = self._fresh()
            self._tensors[made] = weight
            self._builder.tensor(made, weight)
            env[results[0]] = Ref(made)
            return
        self._call(full, args, kwargs, results, env, shapes, scope)
        if name.endswith("_") and not name.endswith("__") and args and isinstance(args[0], Ref) and results:
            self._written(args[0].name, env.get(results[0]), scope)
        elif name in _VIEWS and args and isinstance(args[0], Ref) and results and isinstance(env.get(results[0]), Ref):
            self._base[env[results[0]].name] = args[0].name

    def _call(
        self, target: str, args: Sequence[Any], kwargs: Mapping[str, Any], results: Sequence[str], env: Env,
        shapes: Mapping[str, Any], scope: str,
    ) -> None:  # fmt: skip
        outputs = [self._fresh() if name else "" for name in results]
        told = {new: sizes(shapes[old]) for new, old in zip(outputs, results, strict=True) if old in shapes}
        self._builder.call(target, args, kwargs, outputs, told, scope)
        env.update({old: Ref(new) for old, new in zip(results, outputs, strict=True) if old})

    def _fresh(self) -> str:
        self._values += 1
        return f"%{self._values}"

    def _written(self, name: str, value: Any, scope: str) -> None:
        """Let all that read a value from now on read what an in-place op made of it; through views, of a part of it."""
        if not isinstance(value, Ref):
            return
        self._now[name] = value.name
        new = value.name
        seen = {name}
        while name in self._base and self._base[name] not in seen:
            name = self._base[name]
            seen.add(name)
            while name in self._now:
                name = self._now[name]
            joined = self._fresh()
            self._builder.call("phi", (Ref(name), Ref(new)), {}, [joined], [self._builder.shape(name)], scope)
            self._now[name] = new = joined

    # ---- arguments

    def _arguments(self, inputs: Sequence[Any], env: Env) -> tuple[list[Any], dict[str, Any]]:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        for one in inputs:
            name = at(one, "name", str, "an argument")
            value = self._argument(at(one, "arg", Mapping, f"the argument {name[:80]!r}"), env)
            kind = one.get("kind")
            if name and (kind == 2 or (kind is None and (kwargs or name in _BY_NAME))):
                kwargs[name] = value
            else:
                args.append(value)
        return args, kwargs

    def _argument(self, record: Any, env: Env, depth: int = 0) -> Any:
        case, value = union(record, "an argument")
        if depth > MAX_DEPTH:
            raise UnsafeFileError(f"arguments inside arguments, more than {MAX_DEPTH} deep")
        if case == "as_graph":
            return Body(at(value, "graph", Mapping, "a graph inside a node"))
        if case == "as_string_to_argument":
            return {str(key): self._argument(one, env, depth + 1) for key, one in _items(value)}
        if case in _NAMED:
            return self._named(case, value, env)
        return plain(case, value)

    def _named(self, case: str, value: Any, env: Env) -> Any:
        """Return a value, a list of values and numbers, or None where an optional one is missing."""
        if isinstance(value, list):
            return tuple(self._named(case, one, env) for one in value)
        if isinstance(value, str):  # torch 2.1 to 2.3 named the tensors of optional lists directly
            return self.find(value, env)
        if isinstance(value, Mapping):
            name = value.get("name", value.get("as_name"))
            if isinstance(name, str):
                return self.find(name, env)
            inner, held = union(value, "an argument")
            return self._named(case, held, env) if inner == "as_tensor" else plain(inner, held)
        return value if isinstance(value, int | float) else None

    # ---- graphs inside nodes

    def _higher(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], results: Sequence[str], env: Env,
        shapes: Mapping[str, Any], scope: str, depth: int,
    ) -> None:  # fmt: skip
        place = _Place(self, env, scope, depth, [sizes(shapes[r]) if r in shapes else None for r in results])
        bodies = [argument for argument in args if isinstance(argument, Body)]
        handler = _HANDLERS.get(name, _inlined if len(bodies) == 1 else None)
        made = handler(place, args) if handler is not None else None
        if made is not None and len(made) >= len(results):
            env.update({old: new for old, new in zip(results, made, strict=False) if old})
            return
        operands = [argument for argument in args if not isinstance(argument, Body)]
        if name == "with_effects" and len(operands) > 1 and isinstance(operands[1], str) and results:
            env[results[0]] = None  # a token that keeps calls in order
            space, inner = _parts(operands[1])
            self._call(f"{space}::{inner}" if space else inner, operands[2:], kwargs, results[1:], env, shapes, scope)
            return
        if name.startswith("auto_functionalized") and operands and isinstance(operands[0], str):
            space, inner = _parts(operands[0])
            values = [*operands[1:], *kwargs.values()]
            self._call(f"{space}::{inner}" if space else inner, values, {}, results, env, shapes, scope)
            return
        self._call(f"{_HIGHER}::{name}", operands, kwargs, results, env, shapes, scope)

    def join(self, values: Sequence[Any], scope: str, shape: Any = None, op: str = "phi") -> Any:
        """Return a value that is one of several, an element of one or a stack of it."""
        found = [value for value in dict.fromkeys(values) if isinstance(value, Ref)]
        if not found or (op == "phi" and len(found) == 1 and len(values) > 1):
            return found[0] if found else values[0]
        new = self._fresh()
        self._builder.call(op, tuple(found), {}, [new], [shape], scope)
        return Ref(new)

    def inline(self, body: Body, operands: Sequence[Any], scope: str, depth: int) -> list[Any] | None:
        """Add the nodes of a graph, and return its outputs; None where the operands are not as many as it takes."""
        names = [
            value_names(*union(one, "an input")) for one in at(body.record, "inputs", list, "a graph inside a node")
        ]
        flat = [name for some in names for name in some]
        if len(flat) != len(operands):
            return None
        return self.run(body.record, dict(zip(flat, operands, strict=True)), scope, depth + 1)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a higher-order op stands."""

    flat: Flattener
    env: Env
    scope: str
    depth: int
    shapes: Sequence[Any]

    def inline(self, body: Any, *operands: Any) -> list[Any] | None:
        if not isinstance(body, Body):
            return None
        return self.flat.inline(body, list(_leaves(operands)), self.scope, self.depth)

    def join(self, *values: Any, result: int = -1, op: str = "phi") -> Any:
        shape = self.shapes[result] if 0 <= result < len(self.shapes) else None
        return self.flat.join(values, self.scope, shape, op)


def _inlined(place: _Place, args: Sequence[Any]) -> list[Any] | None:
    """A graph that is simply run: under another gradient or autocast mode, a checkpoint, a graph of its own."""
    start = next(k for k, argument in enumerate(args) if isinstance(argument, Body))
    operands = [leaf for leaf in _leaves(args[start + 1 :]) if not isinstance(leaf, str)]
    return place.inline(args[start], *operands)


def _cond(place: _Place, args: Sequence[Any]) -> list[Any] | None:
    if len(args) < 3:
        return None
    sides = [place.inline(side, *args[3:]) for side in args[1:3]]
    if sides[0] is None or sides[1] is None or len(sides[0]) != len(sides[1]):
        return None
    return [place.join(*pair, result=k) for k, pair in enumerate(zip(sides[0], sides[1], strict=True))]


def _while_loop(place: _Place, args: Sequence[Any]) -> list[Any] | None:
    if len(args) < 3:
        return None
    carried = list(_leaves(args[2]))
    entry = [place.join(value, result=k) for k, value in enumerate(carried)]
    rest = list(_leaves(args[3:]))
    place.inline(args[0], *entry, *rest)
    made = place.inline(args[1], *entry, *rest)
    if made is None or len(made) < len(carried):
        return None
    return [place.join(first, last, result=k) for k, (first, last) in enumerate(zip(carried, made, strict=False))]


def _scan(place: _Place, args: Sequence[Any]) -> list[Any] | None:
    if len(args) < 3:
        return None
    carried, over = list(_leaves(args[1])), list(_leaves(args[2]))
    rest = [leaf for leaf in _leaves(args[3:]) if not isinstance(leaf, bool)]
    entry = [place.join(value, result=k) for k, value in enumerate(carried)]
    made = place.inline(args[0], *entry, *(place.join(value, op="scan_slice") for value in over), *rest)
    if made is None or len(made) < len(carried):
        return None
    ends = [place.join(first, last, result=k) for k, (first, last) in enumerate(zip(carried, made, strict=False))]
    start = len(carried)
    return ends + [place.join(each, result=start + k, op="scan_stack") for k, each in enumerate(made[start:])]


def _map(place: _Place, args: Sequence[Any]) -> list[Any] | None:
    if len(args) < 2:
        return None
    elements = [place.join(value, op="scan_slice") for value in _leaves(args[1])]
    made = place.inline(args[0], *elements, *args[2:])
    return None if made is None else [place.join(e, result=k, op="scan_stack") for k, e in enumerate(made)]


def _associative_scan(place: _Place, args: Sequence[Any]) -> list[Any] | None:
    if len(args) < 2:
        return None
    elements = [place.join(value, op="scan_slice") for value in _leaves(args[1])]
    made = place.inline(args[0], *elements, *elements, *args[2:])
    return None if made is None else [place.join(e, result=k, op="scan_stack") for k, e in enumerate(made)]


_HANDLERS: dict[str, Callable[[_Place, Sequence[Any]], list[Any] | None]] = {
    "cond": _cond,
    "while_loop": _while_loop,
    "scan": _scan,
    "map": _map,
    "map_impl": _map,
    "associative_scan": _associative_scan,
}
_NAMED = frozenset({
    "as_tensor", "as_tensors", "as_optional_tensor", "as_optional_tensors", "as_nested_tensors", "as_sym_int",
    "as_sym_ints", "as_sym_float", "as_sym_floats", "as_sym_bool", "as_sym_bools", "as_custom_obj",
})  # fmt: skip
_BY_NAME = frozenset({  # what comes after the "*" of a schema; programs before torch 2.6 do not say so
    "alpha", "approximate", "beta", "device", "dtype", "enable_gqa", "generator", "layout", "lengths", "memory_format",
    "non_blocking", "out", "out_dtype", "pin_memory", "right", "rounding_mode", "scale", "side", "unsafe", "value",
})  # fmt: skip


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the values, numbers and texts in nested lists."""
    if isinstance(value, tuple | list):
        for one in value:
            yield from _leaves(one)
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from _leaves(one)
    elif not isinstance(value, Body):
        yield value


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, Mapping):
        yield from value.items()


def _parts(target: str) -> tuple[str, str]:
    """Return the namespace and the name of an op, without its overload; no namespace for ATen and Python's own.

    >>> _parts("torch.ops.aten.add.Tensor"), _parts("torch.ops.higher_order.cond"), _parts("_operator.mul")
    (('', 'add'), ('higher_order', 'cond'), ('', 'mul'))
    """
    pieces = target.removeprefix("#").split(".")
    if pieces[:2] == ["torch", "ops"] and len(pieces) > 3:
        return "" if pieces[2] in ("aten", "prims") else pieces[2], pieces[3]
    if "::" in target:  # how higher-order ops name the op they call
        space, _, name = target.rpartition("::")
        return "" if space == "aten" else space, name.partition(".")[0]
    return "", pieces[-1]


def _scope(node: Mapping[str, Any]) -> str:
    """Return the path of the module that was running: the last of a node's stack of "key,path,type"."""
    metadata = node.get("metadata")
    stack = metadata.get("nn_module_stack") if isinstance(metadata, Mapping) else None
    if not isinstance(stack, str) or not stack:
        return ""
    last = stack.rpartition(";")[2]
    path = last[last.find(",") + 1 : last.rfind(",")]
    return "" if _NO_SCOPE in path else module_path(path)


def module_path(path: str) -> str:
    """Return a module's dotted path, however the version spells it.

    >>> module_path("layer1.0.conv1"), module_path("L['self'].layer1[0].conv1"), module_path("L['self']")
    ('layer1.0.conv1', 'layer1.0.conv1', '')
    >>> module_path("getattr(L['self'].layer1, '0').conv1")
    'layer1.0.conv1'
    """
    if "L[" not in path:
        return path
    out = path.replace("L['self']", "").replace("getattr(", "")
    for old, new in ((", '", "."), ("')", ""), ("['", "."), ("']", ""), ("[", "."), ("]", "")):
        out = out.replace(old, new)
    return out.strip(".")
