"""Experts: weights that run on what a router has chosen for them, or that it has chosen themselves."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.layers.from_graph_found import Found
from initaudit.layers.from_graph_tags import Tag
from initaudit.layers.from_graph_walk import WRITES, Walk

_LONG = 8  # weights in an expert


def expert_tags(walk: Walk) -> Iterator[tuple[Found, Tag]]:
    """Yield routers and their experts, where the router's weights also scale what the experts make."""
    yield from _Routing(walk).tags()
    yield from mixture_tags(walk)


def mixture_tags(walk: Walk) -> Iterator[tuple[Found, Tag]]:
    """Yield experts that all run, each times a share that a softmax gives it, and the router that the softmax reads.

    The shares are pieces of the softmax's output, or multiply a stack of operators.
    """
    shares: dict[int, list[tuple[int, str]]] = {}  # by softmax: the product and the other factor
    for index, node in enumerate(walk.view.nodes):
        pair = walk.factors(index)
        if node.op == "einsum" or (node.op == "matmul" and index not in walk.flow.layers):
            pair = [name for name in node.inputs if name in walk.flow.live]
        for share, other in (pair, pair[::-1]) if len(pair) == 2 else ():
            met = walk.back(share, lambda at: walk.carried(at, ()))
            softmax = _softmax(walk, met.ends[0]) if len(met.ends) == 1 and not met.makers else -1
            if softmax >= 0:
                shares.setdefault(softmax, []).append((index, other))
    for softmax, products in shares.items():
        routers = walk.back(walk.view.nodes[softmax].inputs[0], lambda at: _chosen(walk, at)).makers
        if len(routers) != 1 or routers[0].kind != "linear":
            continue
        goal = set(walk.flow.chain(routers[0].source)) | {routers[0].source}
        experts = [[*walk.flow.layers.get(at, ()), *_chain(walk, other, goal)] for at, other in products]
        stacked = all(chain and all("s" in found.axes for found in chain) for chain in experts)
        apart = len(experts) > 1 and all(experts) and len({id(chain[0]) for chain in experts}) == len(experts)
        if stacked or apart:
            yield routers[0], Tag.ROUTER
            yield from ((found, Tag.EXPERT) for chain in experts for found in chain)


def _softmax(walk: Walk, name: str, most: int = 4) -> int:
    """Return the softmax that a share comes from, -1 for none: divided by their sum, or written where it was chosen."""
    index = walk.view.producer.get(name, -1)
    if index < 0 or most == 0 or walk.family(index) == "softmax":
        return index if most else -1
    node = walk.view.nodes[index]
    if node.op in WRITES:
        ends = walk.back(node.inputs[-1], lambda at: walk.carried(at, ())).ends
    elif node.op == "div":
        ends = walk.back(node.inputs[0], lambda at: walk.carried(at, ())).ends
    else:
        ends = [node.inputs[0]] if walk.family(index) == "index" and node.outputs[0] == name else []
    return _softmax(walk, ends[0], most - 1) if len(ends) == 1 else -1


def _chosen(walk: Walk, index: int) -> list[str] | None:
    """Return what a walk back goes on with, past the choice of the largest."""
    node = walk.view.nodes[index]
    return list(node.inputs[:1]) if walk.family(index) == "index" else walk.carried(index, ())


def _chain(walk: Walk, name: str, goal: set[str]) -> list[Found]:
    """Return the weights between a value and the one the router reads, or a stream; none where there are others."""
    chain: list[Found] = []
    todo = [name]
    while todo:
        met = walk.back(todo.pop(), lambda at: walk.carried(at, ("activation", "norm")))
        if any(end not in goal and len(walk.operands(walk.view.producer.get(end, 0))) < 2 for end in met.ends):
            return []
        fresh = [found for found in met.makers if all(found is not other for other in chain)]
        chain += fresh
        todo += [found.source for found in fresh if not goal & {found.source, *walk.flow.chain(found.source)}]
        if len(chain) > _LONG:
            return []
    return chain


class _Routing:
    """Follows each router's choice through the graph: where it steers, and which data it has sorted."""

    def __init__(self, walk: Walk) -> None:
        self.walk = walk
        self.steered: dict[str, int] = {}  # values that hold a choice: bits of the routers' choosing nodes
        self.sorted: dict[str, int] = {}  # data that a choice has picked, until it is put back
        self.experts: list[tuple[int, Found]] = []
        self.scaled = 0  # routers whose weights multiply what they chose
        self.routers: dict[int, list[Found]] = {}
        for index, node in enumerate(walk.view.nodes):
            self._node(index, node.op)

    def tags(self) -> Iterator[tuple[Found, Tag]]:
        proven = 0
        for bits, found in self.experts:
            if bits & self.scaled:
                proven |= bits
                yield found, Tag.EXPERT
        for index, routers in self.routers.items():
            if proven >> index & 1:
                yield from ((found, Tag.ROUTER) for found in routers)

    def _node(self, index: int, op: str) -> None:
        walk, view = self.walk, self.walk.view
        node = view.nodes[index]
        steers = picked = 0
        for name in node.inputs:
            steers |= self.steered.get(name, 0)
            picked |= self.sorted.get(name, 0)
        kind = walk.flow.family(node)
        choosing = kind == "index" and op not in ("shape", "size", "one_hot", "non_zero")
        choosing = choosing or (kind == "reduce" and len(node.outputs) > 1 and bool(view.readers(node.outputs[1])))
        if choosing and node.inputs[0] in walk.flow.live:
            self._choice(index, node.inputs[0])
            steers |= 1 << index
            if self.routers[index]:
                self._mark(self.steered, node.outputs, steers)
                return
        if index in walk.flow.layers:
            for found in walk.flow.layers[index]:
                chosen = picked | self._chosen(found, steers)
                if chosen and found.kind in ("linear", "conv"):
                    self.experts.append((chosen, found))
                    self._mark(self.sorted, node.outputs, chosen)
                    self._mark(self.sorted, (found.out,), chosen)
            return
        if not steers and not picked:
            return
        data = [name for name in walk.data(node) if self._signal(name) and name not in self.steered]
        if not data:
            self._mark(self.steered, node.outputs, steers)
            return
        if picked and steers and kind == "elementwise":
            self.scaled |= picked & steers
        if op in ("scatter", "scatter_elements", "scatter_nd", "index_add", "index_put", "scatter_add"):
            return  # put back
        fresh = [name for name in data if not self.sorted.get(name)]
        if picked and fresh and kind == "elementwise" and op in ("add", "sub", "sum"):
            return  # on the stream again
        if picked and op in ("reduce_sum", "matmul", "einsum"):
            self.scaled |= picked & steers
            return  # over the experts
        moved = steers and (kind in ("move", "weighted") or op == "mul")
        self._mark(self.sorted, node.outputs, picked | (steers if moved else 0))

    def _signal(self, name: str) -> bool:
        return name in self.walk.flow.live or name in self.walk.flow.raw

    def _choice(self, index: int, name: str) -> None:
        """Note which weights a choice is made with."""
        walk = self.walk
        met = walk.back(name, lambda at: walk.carried(at, ("activation", "softmax", "norm")))
        self.routers[index] = [found for found in met.makers if found.kind in ("linear", "conv")]
        for value in met.seen:  # the probabilities themselves scale what is chosen by them
            producer = walk.view.producer.get(value, -1)
            if producer >= 0 and walk.family(producer) in ("softmax", "activation"):
                self._mark(self.steered, (value,), 1 << index)

    def _chosen(self, found: Found, steers: int) -> int:
        """Return the routers that have chosen the weight itself among a stack."""
        return steers if "s" in found.axes else 0

    @staticmethod
    def _mark(where: dict[str, int], names: tuple[str, ...], bits: int) -> None:
        for name in names:
            if name and bits:
                where[name] = where.get(name, 0) | bits
