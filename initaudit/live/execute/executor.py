"""Runs a graph: which nodes a wish takes, in which order values die, and what cannot be run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from initaudit.errors import InitauditError, UnsupportedError, UsageError
from initaudit.live.execute import (
    attention,
    choices,
    moves,
    norms,
    pointwise,
    quantised,
    recurrent,
    reductions,
    resizing,
    windows,
)
from initaudit.live.execute.case import OPERATORS, Case, Settings
from initaudit.live.execute.elements import computed, held
from initaudit.live.execute.replay import replay, why_not
from initaudit.torch_ops.bind import refs
from initaudit.types import Graph, Node

TABLES = (attention, choices, moves, norms, pointwise, quantised, recurrent, reductions, resizing, windows)
_ROUNDS = "values that a loop or a condition joins are not computed"
_WHY = {"phi": _ROUNDS, "loop_index": _ROUNDS, "scan_slice": _ROUNDS, "scan_stack": _ROUNDS, "subgraph_input": _ROUNDS}


Watch = Callable[[str, torch.Tensor], "torch.Tensor | None"]


class Executor:
    """A graph that can be run on tensors, with gradients.

    Half precision is computed in single. Dropout is off, random sources are seeded. Shapes that a graph recorded from
    torch was given are part of it: it takes inputs of these shapes only.

    Args:
        graph: from whatever source.
        training_norms: batch norms use the statistics of the batch instead of those in the file.
        dtype: what float32 is computed in.
        seed: of random numbers that the graph itself asks for.
    """

    def __init__(
        self, graph: Graph, *, training_norms: bool = False, dtype: torch.dtype = torch.float32, seed: int = 0
    ) -> None:
        self.graph = graph
        self.settings = Settings(training_norms, dtype)
        self._seed = seed
        self._makers = {name: at for at, node in enumerate(graph.nodes) for name in node.outputs if name}
        self._uses = [_uses(node) for node in graph.nodes]
        self._joins = any(node.op == "phi" and not _why(node) for node in graph.nodes)
        self._declared = {name: tensor.dtype for name, tensor in graph.constants.items()}
        self._leaves: dict[Any, torch.Tensor] = {}

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Operations of this graph that cannot be run, each with the reason."""
        found = {f"{node.op}: {why}": None for node in self.graph.nodes if (why := _why(node))}
        return tuple(found)

    def lacking(self, wanted: Iterable[str] | None = None) -> tuple[str, ...]:
        """Return what cannot be run of what these values take, each with the reason."""
        names = self.graph.outputs if wanted is None else wanted
        nodes = [self.graph.nodes[at] for at in self._needed(names)]
        return tuple({f"{node.op}: {why}": None for node in nodes if (why := _why(node))})

    @cached_property
    def parameters(self) -> Mapping[str, torch.Tensor]:
        """The weights that the graph reads, by value name: tensors that gather gradients; tied ones are one tensor."""
        read = {name for names in self._uses for name in names} | set(self.graph.outputs)
        return {
            name: self._leaf(name)
            for name, tensor in self.graph.constants.items()
            if name in read and tensor.is_float and not tensor.buffer
        }

    def run(
        self,
        feeds: Mapping[str, torch.Tensor],
        wanted: Iterable[str] | None = None,
        *,
        keep: Callable[[str], bool] | None = None,
        watch: Watch | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return values of the graph; autograd can go back from them to `parameters` and to feeds that ask for it.

        Args:
            feeds: the inputs by name; those that no wanted value takes may be left out.
            wanted: names of values, the graph's outputs by default.
            keep: says which values stay besides the wanted ones; all others are freed as soon as nothing needs them.
            watch: sees each value of a node as it is made; a tensor that it returns takes the value's place.

        Raises:
            UnsupportedError: a node that is needed cannot be run; the reason says which and why.
            UsageError: an input is missing or has another shape than the graph says.
        """
        names = tuple(dict.fromkeys(self.graph.outputs if wanted is None else wanted))
        plan = self._needed(names)
        values: dict[str, Any] = dict(self._fed(feeds, plan, names))
        last = {name: at for at in plan for name in self._uses[at]}
        kept = set(names)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            for at in plan:
                node = self.graph.nodes[at]
                for name, value in self._results(node, values).items():
                    seen = watch(name, value) if watch is not None and isinstance(value, torch.Tensor) else None
                    values[name] = value if seen is None else seen
                    if keep is not None and keep(name):
                        kept.add(name)
                for name in {*self._uses[at], *node.outputs}:
                    if last.get(name, at) <= at and name not in kept:
                        values.pop(name, None)
        out = {name: self._value(name, values) for name in names if name in values or name in self.graph.constants}
        absent = [name for name in names if name not in out]
        if absent:
            raise UnsupportedError(f"{absent[0][:80]} is an optional value that is not there")
        out.update({name: values[name] for name in kept if name in values})
        for value in out.values():
            if isinstance(value, _Failed):
                raise value.error
        return {name: torch.as_tensor(v) if isinstance(v, bool | int | float) else v for name, v in out.items()}

    # ---- plan

    def _needed(self, wanted: Iterable[str]) -> list[int]:
        """Return the places of the nodes that make the wanted values, in order."""
        todo = [self._makers[name] for name in wanted if name in self._makers]
        seen: set[int] = set()
        while todo:
            at = todo.pop()
            if at not in seen:
                seen.add(at)
                todo += [self._makers[name] for name in self._uses[at] if name in self._makers]
        return sorted(seen)

    def _fed(self, feeds: Mapping[str, torch.Tensor], plan: Sequence[int], wanted: Sequence[str]) -> dict[str, Any]:
        needed = {name for at in plan for name in self._uses[at]} | set(wanted)
        out: dict[str, Any] = {}
        for name, shape in self.graph.inputs.items():
            given = feeds.get(name)
            if given is None:
                if name in needed:
                    raise UsageError(f"no value for the input {name[:80]}")
                continue
            if not isinstance(given, torch.Tensor):
                out[name] = given
                continue
            if shape is not None and not _fits(shape, given):
                raise UsageError(f"input {name[:80]} has shape {tuple(given.shape)}, the graph takes {shape}")
            out[name] = given.to(computed(given.dtype, self.settings.single))
        unknown = [n for n in needed if n not in self._makers and n not in out and n not in self.graph.constants]
        if unknown:
            raise UsageError(f"nothing makes the value {unknown[0][:80]}")
        return out

    # ---- values

    def _leaf(self, name: str) -> torch.Tensor:
        tensor = self.graph.constants[name]
        key = (tensor.identity, tensor.dtype)
        if key not in self._leaves:
            value = held(tensor, self.settings.single)
            value.requires_grad_(
                tensor.is_float and not tensor.buffer and (value.is_floating_point() or value.is_complex())
            )
            self._leaves[key] = value
        return self._leaves[key]

    def _value(self, name: str, values: Mapping[str, Any]) -> Any:
        return values[name] if name in values else self._leaf(name)

    def _results(self, node: Node, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a node makes; where a condition joins values, a failure waits for whether it is chosen."""
        try:
            return self._made(node, values)
        except InitauditError as error:
            if not self._joins:
                raise
            return {name: _Failed(error) for name in node.outputs if name}

    def _made(self, node: Node, values: Mapping[str, Any]) -> dict[str, Any]:
        why = _why(node)
        if why:
            raise UnsupportedError(f"{node.op} cannot be run: {why}")
        own = {name: self._value(name, values) for name in _uses(node)}
        if node.op == "phi":
            branch = node.inputs[0 if bool(own[node.attrs["condition"]]) else 1]
            return {node.outputs[0]: own[branch]}
        for value in own.values():
            if isinstance(value, _Failed):
                raise value.error
        try:
            made = self._called(node, own) if node.call is not None else self._operated(node, own)
        except InitauditError as error:
            raise UnsupportedError(f"{_place(node)}: {error.reason}") from error
        except Exception as error:  # arguments of a stranger may be refused in any way
            raise UnsupportedError(f"{_place(node)}: {' '.join(str(error).split())[:300]}") from error
        if len(made) < len(node.outputs):
            short = [name for name in node.outputs[len(made) :] if name]
            if short:
                raise UnsupportedError(f"{_place(node)}: its output {len(made) + 1} is not computed")
        return {name: value for name, value in zip(node.outputs, made, strict=False) if name and value is not None}

    def _called(self, node: Node, own: Mapping[str, Any]) -> Sequence[Any]:
        shapes = (self.graph.shapes.get(name) for name in node.outputs)
        return replay(node, own, self.settings, [None if shape is None else len(shape) for shape in shapes])

    def _operated(self, node: Node, own: Mapping[str, Any]) -> Sequence[Any]:
        case = Case(node, [own[name] if name else None for name in node.inputs], self.settings, self._declared)
        made = OPERATORS[node.op](case)
        return made if isinstance(made, tuple | list) else (made,)


class _Failed:
    """Stands for a value that could not be computed, until it is known whether anything needs it."""

    def __init__(self, error: InitauditError) -> None:
        self.error = error


def _fits(shape: Sequence[int | None], given: torch.Tensor) -> bool:
    """Whether a tensor has the shape of an input; where no extent is known, the number of axes is a guess too."""
    if all(extent is None for extent in shape):
        return True
    return len(shape) == given.dim() and all(e in (None, n) for e, n in zip(shape, given.shape, strict=True))


def _uses(node: Node) -> tuple[str, ...]:
    """Return the names of the values that a node takes."""
    names = [name for name in node.inputs if name]
    if node.call is not None:
        names += [ref.name for ref in (*refs(node.call.args), *refs(node.call.kwargs))]
    condition = node.attrs.get("condition")
    if node.op == "phi" and isinstance(condition, str):
        names.append(condition)
    return tuple(dict.fromkeys(names))


def _why(node: Node) -> str:
    """Return why a node cannot be run, "" if it can."""
    if node.op == "phi" and node.call is None and len(node.inputs) == 2 and node.attrs.get("condition"):
        return ""
    if node.op in _WHY:
        return _WHY[node.op]
    if node.call is not None:
        return why_not(node)
    return "" if node.op in OPERATORS else "not implemented"


def _place(node: Node) -> str:
    return f"{node.op} {node.name or (node.outputs[0] if node.outputs else '')}"[:120].strip()
