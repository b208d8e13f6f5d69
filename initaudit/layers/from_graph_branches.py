"""Residual branches: the weight that closes each, what scales it, and what stands on the way past it."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from initaudit.layers.from_graph_found import Found
from initaudit.layers.from_graph_origin import SKIP_NORMS, SUMS
from initaudit.layers.from_graph_tags import Tag
from initaudit.layers.from_graph_walk import Back, Walk
from initaudit.types import Role

_NONLINEAR = frozenset({"activation", "softmax", "attention"})
_OPERATORS = frozenset({"linear", "conv", "conv_transpose"})
_MOST_PAST = 3  # weights on the way past a branch, nothing nonlinear between them
_REGION = 600  # values in a branch


class Branches:
    """The sums of a graph, taken apart into ways past and branches."""

    def __init__(self, walk: Walk, recurrent: Collection[int]) -> None:
        self.walk = walk
        self.recurrent = recurrent  # ids of weights whose sums with others are a cell's, no branch's
        self.parts: dict[int, tuple[list[str], list[str]]] = {}  # of a residual sum: ways past, branches
        self.tags: list[tuple[Found, Tag]] = []
        for index in range(len(walk.view.nodes)):
            operands = walk.operands(index)
            if len(operands) > 1 and not walk.logits(index) and not walk.flow.shifted(index):
                self._sum(index, operands)

    def _sum(self, index: int, operands: list[str]) -> None:
        forks = {one: fork for one in operands if (fork := self.walk.stream(one, operands))}
        past = list(forks)
        branches = [one for one in operands if one not in forks]
        closing = [(one, self.last(one)) for one in branches] if past else []
        for (
            _,
            met,
        ) in closing:  # with a weight or scale of its own, else versions of one signal, as in a rotary embedding
            met.makers = [f for f in met.makers if any(self._made(f.node, fork) for fork in forks.values())]
        copies = {one for one in branches if self._copy(one, set(forks.values()))}
        if any(met.makers or (one not in copies and self._scaled(met.nodes)) for one, met in closing):
            self.parts[index] = (past, branches)
            for _, met in closing:
                self._close(index, met)
            for one, fork in forks.items():
                nodes = [self.walk.view.producer.get(at, -1) for at in self._until(one, fork)]
                self._scales(nodes, Tag.RESIDUAL_SCALE, Tag.RESIDUAL_SCALE)
        elif not past:
            self._shortcut(index, operands)

    def _made(self, index: int, fork: str) -> bool:
        return self.walk.flow.made_from(self.walk.view.nodes[index].outputs[0], fork)

    def _copy(self, name: str, forks: set[str]) -> bool:
        """Whether a branch is the fork itself, moved or scaled."""

        def step(index: int) -> list[str] | None:
            operands = self.walk.operands(index)
            return operands if len(operands) == 1 else self.walk.carried(index, ())

        return bool(forks & self.walk.back(name, step).seen)

    def _scaled(self, nodes: list[int]) -> bool:
        return any(found.role is Role.GATE for node in nodes for found in self.walk.learned.get(node, ()))

    def _until(self, name: str, fork: str) -> list[str]:
        chain = self.walk.flow.chain(name)
        return chain[: chain.index(fork)] if fork in chain else []

    def last(self, name: str) -> Back:
        """Walk back from a branch's end to its last weights."""
        return self.walk.back(name, self._inward)

    def _inward(self, index: int) -> list[str] | None:
        walk = self.walk
        operands = walk.operands(index)
        if operands and walk.view.nodes[index].op in SUMS | SKIP_NORMS:
            scaled = walk.flow.shifted(index)
            inner = [scaled] if scaled else self.parts.get(index, ([], operands))[1]
            return [name for name in inner if name in walk.flow.live]
        factors = walk.factors(index)
        if len(factors) == 2:
            return walk.flow.ungated(factors)
        node = walk.view.nodes[index]
        if walk.flow.family(node) == "attention":
            return [name for name in node.inputs[2:3] if name in walk.flow.live]
        mixed = walk.signals(node) if node.op in ("matmul", "einsum") else []
        if len(mixed) == 2:
            return [name for name in mixed if not self._share(name)] or None
        return walk.carried(index, ("norm", "pool", "reduce", "activation"))

    def _share(self, name: str) -> bool:
        """Whether a value is what a softmax gives each of many."""
        ends = self.walk.back(name, self.walk.carried).ends
        return any(
            self.walk.family(self.walk.view.producer[end]) == "softmax"
            for end in ends
            if end in self.walk.view.producer
        )

    def _close(self, index: int, met: Back) -> None:
        node = self.walk.view.nodes[index]
        after = node.op.startswith("skip") or self.walk.flow.fate(node.outputs[0]).normed
        for found in met.makers:
            if id(found) in self.recurrent:
                continue
            self.tags.append((found, Tag.RESIDUAL_CLOSING))
            if after:
                self.tags.append((found, Tag.NORM_FOLLOWS_SUM))
        self._scales(met.nodes, Tag.LAYER_SCALE, Tag.REZERO)

    def _scales(self, nodes: list[int], vector: Tag, number: Tag) -> None:
        for node in nodes:
            if self.walk.view.nodes[node].op in ("mul", "div"):
                constants = [self.walk.view.constant(name) for name in self.walk.view.nodes[node].inputs]
                for found in self.walk.learned.get(node, ()) if any(c is not None for c in constants) else ():
                    self.tags.append((found, vector if found.weight.size > 1 else number))

    # ---- a weight on the way past

    def _shortcut(self, index: int, operands: list[str]) -> None:
        for one in operands:
            branches = [other for other in operands if other != one]
            makers: list[Found] = []
            at = one
            while len(makers) < _MOST_PAST:
                met = self.walk.back(at, self.walk.carried)
                if len(met.makers) != 1 or met.ends or met.makers[0].kind not in _OPERATORS:
                    break
                makers.append(met.makers[0])
                at = makers[-1].source
                forks = set(self.walk.flow.chain(at))
                if all(self._longer(other, forks, makers) for other in branches):
                    lasts = [self.last(other) for other in branches]
                    cell = any(id(found) in self.recurrent for met in lasts for found in met.makers)
                    if (
                        not cell
                        and self._private(index, makers[:1])
                        and all(self._private(index, m.makers) for m in lasts)
                    ):
                        self.parts[index] = ([one], branches)
                        self.tags += [(maker, Tag.SHORTCUT) for maker in makers]
                        for last in lasts:
                            self._close(index, last)
                        return

    def _longer(self, name: str, forks: set[str], past: list[Found]) -> bool:
        """Whether a branch comes from one of the forks within its block, over more than one linear weight."""
        walk, view = self.walk, self.walk.view
        todo, seen = [name], {name}
        own = {found.weight.identity for found in past}
        weights: set[int] = set()
        bent = reached = False
        while todo and len(seen) < _REGION:
            at = todo.pop()
            if at in forks:
                reached = True
                continue
            index = view.producer.get(at, -1)
            if any(one.weight.identity in own for one in walk.flow.layers.get(index, ())):
                return False  # that weight comes before the fork, or in the step before
            if index < 0 or index in self.parts:
                continue
            if index in walk.flow.layers:
                weights.add(index)
            bent = bent or (walk.family(index) in _NONLINEAR and view.nodes[index].op != "exp")
            for one in view.nodes[index].inputs:
                if one and one not in seen and (one in forks or one in walk.flow.live or one in walk.flow.raw):
                    seen.add(one)
                    todo.append(one)
        return reached and bool(weights) and (bent or len(weights) > len(past))

    def _private(self, index: int, makers: list[Found]) -> bool:
        """Whether a branch goes into this sum and nowhere else from its last weights on, gates on it included."""
        view = self.walk.view
        todo = [found.out for found in makers]
        seen = set(todo)
        while todo and len(seen) < _REGION:
            at = todo.pop()
            if at in view.outputs:
                return False
            for use in view.readers(at):
                if use.node > index:
                    return False
                fresh = [] if use.node == index else [o for o in view.nodes[use.node].outputs if o and o not in seen]
                seen.update(fresh)
                todo += fresh
        return bool(makers)


def branch_tags(walk: Walk, recurrent: Collection[int] = ()) -> Iterator[tuple[Found, Tag]]:
    """Yield what closes, scales and passes by each residual branch; the weights of a recurrent cell have none."""
    yield from Branches(walk, recurrent).tags
