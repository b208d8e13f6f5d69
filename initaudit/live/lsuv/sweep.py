"""One run of a graph, node by node, in which weights may change on the way: what hangs on them is then made again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from initaudit.errors import InitauditError
from initaudit.live.probe.cost import pass_limits
from initaudit.live.probe.guard import Guard, TooLargeError
from initaudit.live.probe.lockstep import Lockstep
from initaudit.types import Array

Feeds = Sequence[Mapping[str, torch.Tensor]]


_LINEAR = frozenset({"linear", "matmul", "gemm", "conv", "conv_transpose", "embedding", "gather", "einsum"})


@dataclass(frozen=True, slots=True)
class _Standing:
    """All values that are there at a node."""

    runs: list[dict[str, Any]]
    joined: dict[str, torch.Tensor]
    why: dict[str, str]


@dataclass(frozen=True, slots=True)
class Stop:
    """A node after which weights may change."""

    constants: frozenset[str]  # that may change
    goal: str  # value of the node that they change for
    others: frozenset[str]  # further values that the same constants make, each at a stop of its own


class Sweep(Lockstep):
    """Runs a graph once on several feeds side by side, and stops after nodes that it is asked to."""

    _runs: list[dict[str, Any]]
    _varying: set[str]
    _why: dict[str, str]
    _behind: dict[int, list[int]]

    def replace(self, name: str, value: Array) -> None:
        """Compute with other values of a constant from now on."""
        old = self._leaf(name)
        tensor = self.graph.constants[name]
        made = torch.from_numpy(np.require(value, requirements=["C", "W"])).to(old.dtype)
        self._leaves[(tensor.identity, tensor.dtype)] = made.reshape(old.shape)

    def through(
        self,
        feeds: Feeds,
        wanted: Iterable[str],
        stops: Mapping[int, Sequence[Stop]],
        at_stop: Callable[[int], None],
        stretches: Iterable[frozenset[int]] = (),
        repeat: Callable[[frozenset[int]], bool] = lambda _: False,
    ) -> None:
        """Run the graph as far as some values take it.

        A node that cannot be run leaves its values, and what is made of them, out.

        Args:
            feeds: the inputs, one set per run.
            wanted: values to make.
            stops: nodes after which to call `at_stop`.
            at_stop: may read values, replace constants and have values made again.
            stretches: stops, disjoint in order, that are gone through together.
            repeat: asked after the last stop of a stretch whether to go through it again.

        Raises:
            UsageError: an input is missing or has another shape than the graph says.
            UnsupportedError: it makes more than there is room or time for.
        """
        names = tuple(dict.fromkeys(wanted))
        plan = self._needed(names)
        self._runs = [dict(self._fed(feed, plan, names)) for feed in feeds]
        self._varying = set().union(*self._runs)
        self._why = {}
        for at in plan:
            if not self._varying.isdisjoint(self._uses[at]):
                self._varying.update(name for name in self.graph.nodes[at].outputs if name)
        self._behind = {at: self._hanging(at, own, plan) for at, own in stops.items()}
        last = {name: at for at in plan for name in (*self.graph.nodes[at].outputs, *self._uses[at])}
        for at, nodes in self._behind.items():
            for name in {name for node in (*nodes, at) for name in self._uses[node]}:
                last[name] = max(last.get(name, at), at)
        ending: dict[int, list[str]] = {}
        for name, at in last.items():
            ending.setdefault(at, []).append(name)
        begins, ends = self._bounds(stretches, plan)
        before: dict[frozenset[int], _Standing] = {}
        k = 0
        while k < len(plan):
            at = plan[k]
            for stretch in begins.get(at, ()):
                before.setdefault(stretch, self._standing())
            self._make(at)
            if at in stops:
                at_stop(at)
            own = ends.get(at)
            if own is not None and repeat(own):
                self._restore(before[own])
                k = plan.index(next(node for node, found in begins.items() if own in found))
                continue
            for name in ending.get(at, ()):
                for run in self._runs:
                    run.pop(name, None)
                self._joined.pop(name, None)
            k += 1

    def _bounds(
        self, stretches: Iterable[frozenset[int]], plan: Sequence[int]
    ) -> tuple[dict[int, list[frozenset[int]]], dict[int, frozenset[int]]]:
        """Return where stretches begin, weights that are turned for them included, and where they end."""
        begins: dict[int, list[frozenset[int]]] = {}
        ends: dict[int, frozenset[int]] = {}
        there = set(plan)
        for stretch in stretches:
            own = [at for at in stretch if at in there]
            if own:
                first = min([*own, *(node for at in own for node in self._behind[at])])
                begins.setdefault(first, []).append(stretch)
                ends[max(own)] = stretch
        return begins, ends

    def _standing(self) -> _Standing:
        return _Standing([dict(run) for run in self._runs], dict(self._joined), dict(self._why))

    def _restore(self, then: _Standing) -> None:
        self._runs = [dict(run) for run in then.runs]
        self._joined.clear()
        self._joined.update(then.joined)
        self._why = dict(then.why)

    @property
    def runs(self) -> int:
        """Number of runs side by side."""
        return len(self._runs)

    def scale(self, at: int, constants: Collection[str], factor: float) -> bool:
        """Multiply what a product makes by a number, where that is what its weight times this number makes.

        Args:
            at: the product, to which nothing is added but zero.
            constants: its weight.
            factor: the number.

        Returns:
            False where it is not known to be: the product has to be made again.
        """
        node = self.graph.nodes[at]
        weights = sum(name in constants for name in node.inputs)
        signals = sum(name in self._varying for name in node.inputs)
        if self._behind[at] != [at] or node.op not in _LINEAR or len(node.outputs) != 1 or weights != 1 or signals > 1:
            return False
        (name,) = node.outputs
        for run in self._runs if name in self._varying else self._runs[:1]:
            run[name] = run[name] * factor
        if name not in self._varying:
            for run in self._runs[1:]:
                run[name] = self._runs[0][name]
        whole = self._joined.get(name)
        if whole is not None:
            self._joined[name] = whole = whole * factor
            first = len(self._runs[0][name])
            for run, piece in zip(self._runs, torch.split(whole, first), strict=True):
                run[name] = piece
        return True

    def copies(self, name: str) -> int:
        """Return how many runs share what `seen` returns of a value once."""
        return 1 if name in self._varying else len(self._runs)

    def again(self, at: int, *, fixed: bool = False) -> None:
        """Make all values again that hang on the constants of a stop, up to its node; `fixed`: only weights."""
        for node in self._behind[at]:
            if not fixed or self._varying.isdisjoint(self._uses[node]):
                self._make(node)

    def why(self, name: str) -> str:
        """Return why a value was not made, "" if it was."""
        return self._why.get(name, "")

    def seen(self, name: str) -> list[torch.Tensor]:
        """Return a value: one tensor per run, or one of all runs, one after the other."""
        joined = self._joined.get(name)
        if joined is not None:
            return [joined]
        runs = self._runs if name in self._varying else self._runs[:1]
        values = [self._value(name, run) for run in runs]
        return [v for v in values if isinstance(v, torch.Tensor)]

    def by_run(self, name: str) -> list[Any]:
        """Return a value of each run, one for all where no input moves it."""
        return [self._value(name, run) for run in (self._runs if name in self._varying else self._runs[:1])]

    def of_run(self, run: int, name: str) -> Any:
        """Return a value of one run."""
        return self._value(name, self._runs[run])

    def made_by(self, at: int) -> list[list[Any]]:
        """Return all that a node makes, outputs that the graph has no name for included, in each run."""
        node = self.graph.nodes[at]
        out = []
        for run in self._runs:
            own = {name: self._value(name, run) for name in self._uses[at]}
            with Guard(*pass_limits()):
                made = self._called(node, own) if node.call is not None else self._operated(node, own)
            out.append(list(made))
        return out

    # ---- one node

    def _make(self, at: int) -> None:
        node = self.graph.nodes[at]
        broken = next((self._why[name] for name in self._uses[at] if name in self._why), "")
        if broken:
            self._why.update(dict.fromkeys(filter(None, node.outputs), broken))
            return
        for name in node.outputs:
            self._joined.pop(name, None)
        moves = not self._varying.isdisjoint(self._uses[at])
        try:
            with Guard(*pass_limits()):
                made = self._step(at, self._runs, self._varying) if moves else [self._results(node, self._runs[0])]
        except InitauditError as error:
            if isinstance(error, TooLargeError) or isinstance(error.__cause__, TooLargeError):
                raise
            self._why.update(dict.fromkeys(filter(None, node.outputs), error.reason))
            return
        for k, run in enumerate(self._runs):
            run.update(made[k if moves else 0])

    def _hanging(self, stop: int, own: Sequence[Stop], plan: Sequence[int]) -> list[int]:
        """Return the nodes up to a stop whose values change with its constants, in order."""
        found: set[int] = set()
        before = [at for at in plan if at <= stop]
        for one in own:
            hanging = set(one.constants)
            reached = []
            for at in before:
                if not hanging.isdisjoint(self._uses[at]):
                    reached.append(at)
                    hanging.update(name for name in self.graph.nodes[at].outputs if name and name not in one.others)
            elsewhere = self._towards(one.others, reached, one.others) - self._towards({one.goal}, reached, one.others)
            found.update(
                at for at in reached if at not in elsewhere or self._varying.isdisjoint(self.graph.nodes[at].outputs)
            )
        return sorted(found)

    def _towards(self, goals: Iterable[str], nodes: Sequence[int], ends: frozenset[str]) -> set[int]:
        """Return those of some nodes that lead to a goal without passing an end."""
        wanted = set(goals)
        found = set()
        for at in reversed(nodes):
            if not wanted.isdisjoint(self.graph.nodes[at].outputs):
                found.add(at)
                wanted.update(name for name in self._uses[at] if name not in ends)
        return found
