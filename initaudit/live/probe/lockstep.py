"""Several runs of one graph side by side, node by node.

A graph recorded from torch takes its own batch only, often of one or two. So the inputs are spread over several runs,
and what needs the whole batch, a batch norm, sees all of them at once. Products with weights do too: that is faster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch

from initaudit.errors import UnsupportedError
from initaudit.live.execute import Executor
from initaudit.ops import family
from initaudit.types import Node

# Told each value of a node: its name, one tensor per run or one for all, and the one that those of runs were cut from.
Seen = Callable[[str, Sequence[torch.Tensor], "torch.Tensor | None"], None]


_BATCHED = frozenset({
    "conv", "linear", "matmul", "gemm", "batch_norm", "embedding", "layer_norm", "max_pool", "average_pool",
    "global_average_pool",
})  # fmt: skip


class Lockstep(Executor):
    """An executor that can run a graph on several feeds together."""

    @cached_property
    def _joined(self) -> dict[str, torch.Tensor]:
        return {}  # values of all runs one after the other, where a node made them so

    @cached_property
    def _taken(self) -> dict[str, frozenset[int]]:
        return {}

    def together(
        self, feeds: Sequence[Mapping[str, torch.Tensor]], wanted: Iterable[str], seen: Seen
    ) -> dict[str, list[torch.Tensor]]:
        """Return values of the graph, one per feed; one only of those that no input moves. Raises as `run`."""
        names = tuple(dict.fromkeys(wanted))
        plan = self._needed(names)
        runs: list[dict[str, Any]] = [dict(self._fed(feed, plan, names)) for feed in feeds]
        varying = set().union(*runs)
        last = {name: at for at in plan for name in self._uses[at]}
        kept = set(names)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._seed)
            for name in runs[0]:
                given = [run[name] for run in runs]
                if all(isinstance(value, torch.Tensor) for value in given):
                    seen(name, given, None)
            for at in plan:
                node = self.graph.nodes[at]
                moves = not varying.isdisjoint(self._uses[at])
                made = self._step(at, runs, varying) if moves else [self._results(node, runs[0])]
                if moves:
                    varying.update(name for name in node.outputs if name)
                for k, run in enumerate(runs):
                    run.update(made[k if moves else 0])
                for name in made[0]:
                    values = [one.get(name) for one in made]
                    if all(isinstance(value, torch.Tensor) for value in values):
                        seen(name, [value for value in values if value is not None], self._joined.get(name))
                for name in {*self._uses[at], *node.outputs}:
                    if last.get(name, at) <= at and name not in kept:
                        for run in runs:
                            run.pop(name, None)
                        self._joined.pop(name, None)
        self._joined.clear()
        out: dict[str, list[torch.Tensor]] = {}
        for name in names:
            own = [self._value(name, run) for run in (runs if name in varying else runs[:1])]
            if not all(isinstance(value, torch.Tensor) for value in own):
                raise UnsupportedError(f"{name[:80]} is no tensor")
            out[name] = own
        return out

    def constant(self, name: str) -> torch.Tensor | None:
        """Return a tensor of the file."""
        return self._leaf(name) if name in self.graph.constants else None

    def maker(self, name: str) -> int | None:
        """Return the place of the node that makes a value."""
        return self._makers.get(name)

    def ancestors(self, name: str) -> frozenset[int]:
        """Return the places of the nodes that a value takes, its own maker included."""
        if name not in self._taken:
            self._taken[name] = frozenset(self._needed([name]))
        return self._taken[name]

    def _step(self, at: int, runs: Sequence[dict[str, Any]], varying: set[str]) -> list[dict[str, Any]]:
        node = self.graph.nodes[at]
        names = [name for name in self._uses[at] if name in varying]
        ranks = [len(runs[0][n].shape) if isinstance(runs[0].get(n), torch.Tensor) else 0 for n in names]
        if _takes_batch(node, names) and all(ranks) and self._allows(node, names, ranks[0], runs):
            parts = [[run[name] for run in runs] for name in names]
            if all(one.shape == of[0].shape for of in parts for one in of):
                joined = {n: self._joined.get(n, None) for n in names}
                whole = {
                    n: torch.cat(of) if joined[n] is None else joined[n] for n, of in zip(names, parts, strict=True)
                }
                made = self._results(node, {**runs[0], **{n: whole[n] for n in names}})
                out, first = node.outputs[0], len(parts[0][0])
                value = made.get(out)
                if isinstance(value, torch.Tensor) and value.dim() and len(value) == first * len(runs):
                    self._joined[out] = value
                    return [{**made, out: piece} for piece in torch.split(value, first)]
        return [self._results(node, run) for run in runs]

    def _allows(self, node: Node, names: Sequence[str], rank: int, runs: Sequence[Mapping[str, Any]]) -> bool:
        """Whether the first axis of values is one that the node treats element by element, or a batch norm's."""
        others = [self._value(n, runs[0]) for n in node.inputs if n and n not in names]
        ranks = [other.dim() for other in others if isinstance(other, torch.Tensor)]
        match node.op:
            case "conv":
                return ranks[:1] == [rank]
            case "matmul":
                return rank > 1 and ranks == [2]
            case "gemm":
                turned = bool(node.attrs.get("transA"))
                return rank == 2 and not turned and ranks[:1] == [2] and all(r <= 1 for r in ranks[1:])
            case "linear" | "batch_norm":
                return rank > 1
            case "embedding":
                return True
        # What follows costs a copy unless its values are together already.
        if any(name not in self._joined for name in names):
            return False
        if node.op == "layer_norm":
            return rank > 2 and all(r == 1 for r in ranks)
        if node.op == "add":
            return len({runs[0][name].shape for name in names}) == 1 and rank > 1
        return rank == 4 if family(node.op) == "pool" else rank > 1 and not ranks


def _takes_batch(node: Node, moving: Sequence[str]) -> bool:
    """Whether a node may take the inputs of all runs one after the other: only its data move."""
    if not node.inputs or not node.outputs or node.op in ("glu", "prelu") or not node.outputs[0]:
        return False
    if node.op == "add":
        return list(moving) == list(node.inputs)
    place = 1 if node.op == "embedding" and len(node.inputs) > 1 else 0
    known = node.op in _BATCHED or family(node.op) == "activation"
    return known and list(moving) == [node.inputs[place]]
