"""From the code of a TorchScript archive to the graph of its forward."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from typing import Any

from initaudit.formats.torch.script_calls import RaisedError
from initaudit.formats.torch.script_code import Code, Function, NoGraphError, dotted
from initaudit.formats.torch.script_machine import MAX_STEPS, Machine, Made
from initaudit.formats.torch.script_objects import Tree
from initaudit.formats.torch.script_run import Runner
from initaudit.formats.torch.script_values import Named, Obj, Shape, Sym, leaves
from initaudit.torch_ops.builder import Builder
from initaudit.types import Graph, Ref

RANKS = (3, 4, 2, 5, 1)  # numbers of axes that inputs are tried with
RANKS_OF_IDS = (2, 1, 3)  # those of an embedding's input
MOST_INPUTS = 8  # whose number of axes is looked for
_FORWARDS = ("forward", "forward__0")
_DEEPEST = 8  # types within types


def follow(code: Code, tree: Tree) -> Graph:
    """Return the graph of the root's forward; of its only method, or the first form of an overloaded one, without.

    Raises:
        NoGraphError: there is no forward, or it cannot be followed.
    """
    methods = tree.root.code.methods if isinstance(tree.root, Obj) else {}
    public = [name for name in methods if not name.startswith("_")]
    name = next((name for name in (*_FORWARDS, *(public if len(public) == 1 else ())) if name in methods), None)
    if name is None:
        raise NoGraphError("the archive has no forward")
    search = _Search(code, tree, methods[name])
    try:
        best = search.attempt({}, False) or search.attempt({}, True)
        if best is None:
            raise NoGraphError(f"its forward raises whatever it is given: {search.reason}")
        best = search.improved(best)
    except RecursionError:
        raise NoGraphError("its code is nested too deep") from None
    return best.graph()


class _Search:
    """Looks for the numbers of axes of the inputs with which everything fits, since no archive tells them."""

    def __init__(self, code: Code, tree: Tree, function: Function) -> None:
        self._given = (code, tree)
        self._function = function
        self._steps = 0
        self.reason = ""

    def attempt(self, ranks: Mapping[str, int], every: bool) -> _Run | None:
        """Return a run with inputs of so many axes, None if it raises."""
        run = _Run(*self._given)
        try:
            run.run(self._function, ranks, every)
        except RaisedError as error:
            self.reason = self.reason or str(error)
            return None
        finally:
            self._steps += run.machine.steps
        return run

    def improved(self, best: _Run) -> _Run:
        """Return the best run, having tried numbers of axes for the inputs one after the other."""
        for name in best.unknown()[:MOST_INPUTS]:
            found: _Run | None = None
            for rank in RANKS_OF_IDS if best.looked_up(name) else RANKS:
                if self._steps > MAX_STEPS:
                    break
                run = self.attempt({**best.ranks, name: rank}, best.every)
                if run is not None and (found is None or run.score < found.score):
                    found = run
                if run is not None and run.score == (0, 0):
                    break
            if found is not None and found.score <= best.score:
                best = found
        return best


class _Run:
    """One attempt, with the inputs taken in one way."""

    def __init__(self, code: Code, tree: Tree) -> None:
        self.machine = Machine()
        self._root = tree.root
        self._tensors = tree.tensors
        self._runner = Runner(code, tree, self.machine)
        self._inputs: dict[str, Sym] = {}
        self._code = code
        self._outputs: list[str] = []
        self._shapes: dict[str, Shape | None] = {}
        self.ranks: Mapping[str, int] = {}
        self.every = False

    @property
    def score(self) -> tuple[int, int]:
        """How much speaks against how the inputs were taken: what does not fit, what stayed open."""
        return self.machine.misfits, self.machine.undecided

    def unknown(self) -> list[str]:
        """Return the inputs that are used and whose number of axes is not known."""
        used = {ref.name for made in self.machine.tape for ref in _refs((made.args, made.kwargs))}
        return [name for name, shape in self._shapes.items() if shape is None and name in used]

    def looked_up(self, name: str) -> bool:
        """Whether an input's values are rows of an embedding."""
        lookups = (made for made in self.machine.tape if made.target == "embedding" and len(made.args) > 1)
        return any(made.args[1] == Ref(name) for made in lookups)

    def run(self, function: Function, ranks: Mapping[str, int], every: bool) -> None:
        """Follow `function`.

        Args:
            function: the method forward.
            ranks: how many axes its inputs have, where that is known.
            every: give those too that have a default.
        """
        self.ranks, self.every = ranks, every
        start = self.machine.mark()
        arguments = function.node.args
        parameters = arguments.args[1:]
        optional = {p.arg for p in parameters[len(parameters) - len(arguments.defaults) :]}
        given: dict[str, Any] = {}
        for parameter in parameters:
            wanted = parameter.annotation
            if parameter.arg in optional and not (every and wanted is not None and _holds_tensor(wanted)):
                continue
            given[parameter.arg] = self._argument(parameter.arg, wanted)
        try:
            self._runner.restore()
            result = self._runner.invoke(function, [], given, self._root)
            self._outputs = list(dict.fromkeys(sym.name for sym in _results(result)))
        finally:
            self._shapes = {name: sym.shape for name, sym in self._inputs.items()}
            self.machine.back(start, forget_calls=False)

    def _argument(self, name: str, wanted: ast.expr | None, depth: int = 0) -> Any:
        kind = dotted(wanted) if isinstance(wanted, (ast.Name, ast.Attribute)) else ""
        if kind in ("int", "float", "bool", "str", "number"):
            return self._input(name, Sym(name, (), number=True))
        if kind.startswith("__torch__.") and depth < _DEEPEST:
            made = self._code.class_code(kind)
            if made is not None and made.base == "NamedTuple":
                items = (self._argument(f"{name}.{key}", t, depth + 1) for key, t in made.fields.items())
                return Named(tuple(items), tuple(made.fields))
        if isinstance(wanted, ast.Subscript) and depth < _DEEPEST:
            inner = list(wanted.slice.elts) if isinstance(wanted.slice, ast.Tuple) else [wanted.slice]
            match dotted(wanted.value):
                case "Optional":
                    return self._argument(name, inner[0], depth + 1)
                case "List":
                    return [self._argument(f"{name}.0", inner[0], depth + 1)]
                case "Tuple":
                    return tuple(self._argument(f"{name}.{i}", t, depth + 1) for i, t in enumerate(inner))
        return self._input(name, Sym(name))

    def _input(self, name: str, sym: Sym) -> Sym:
        while sym.name in self._tensors or sym.name in self._inputs:
            sym.name += "'"
        if not sym.number:
            rank = self.ranks.get(sym.name)
            sym.shape = None if rank is None else (None,) * rank
        self._inputs[sym.name] = sym
        return sym

    def graph(self) -> Graph:
        """Return the graph of the calls that the outputs need."""
        needed = set(self._outputs)
        kept: list[Made] = []
        for made in reversed(self.machine.tape):
            if needed.isdisjoint(made.outputs):
                continue
            kept.append(made)
            needed.update(ref.name for ref in _refs((made.args, made.kwargs)))
        kept.reverse()
        names = {name: name for name in (*self._tensors, *self._inputs)}
        builder = Builder("aten")
        for name in self._inputs:
            builder.input(name, self._shapes.get(name))
        for name, tensor in self._tensors.items():
            if name in needed:
                builder.tensor(name, tensor)
        made_names = {output for made in kept for output in made.outputs}
        for name in sorted(needed - made_names - names.keys()):
            builder.input(name, None)
            names[name] = name
        for made in kept:
            outputs = []
            for output in made.outputs:
                names[output] = f"%{len(names) - len(self._inputs) - len(self._tensors) + 1}"
                outputs.append(names[output])
            args = tuple(_renamed(arg, names) for arg in made.args)
            kwargs = {key: _renamed(value, names) for key, value in made.kwargs.items()}
            shapes = [self.machine.shapes.get(output) for output in made.outputs]
            builder.call(made.target, args, kwargs, outputs, shapes=shapes, scope=made.scope)
        return builder.graph([names.get(name, name) for name in self._outputs])


def _results(value: Any) -> Iterator[Sym]:
    """Yield the tensors that a forward returns, objects opened."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        for leaf in leaves(todo.pop()):
            if isinstance(leaf, Obj) and id(leaf) not in seen and leaf.code.base != "Module":
                seen.add(id(leaf))
                todo += leaf.attrs.values()
            elif isinstance(leaf, Sym):
                yield leaf


def _holds_tensor(wanted: ast.expr) -> bool:
    return any(isinstance(node, ast.Name) and node.id == "Tensor" for node in ast.walk(wanted))


def _refs(value: Any) -> Iterator[Ref]:
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, Ref):
            yield item
        elif isinstance(item, tuple):
            todo += item
        elif isinstance(item, dict):
            todo += item.values()


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, Ref):
        return Ref(names.get(value.name, value.name))
    if isinstance(value, tuple):
        return tuple(_renamed(item, names) for item in value)
    return value
