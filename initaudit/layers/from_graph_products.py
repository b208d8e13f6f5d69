"""What multiplies a signal: gated linear units, adaptive norms, squeeze-and-excitation."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.layers.from_graph_adapters import before
from initaudit.layers.from_graph_fate import Ends
from initaudit.layers.from_graph_found import Found
from initaudit.layers.from_graph_origin import SKIP_NORMS
from initaudit.layers.from_graph_tags import Tag
from initaudit.layers.from_graph_walk import Back, Walk

_OPERATORS = frozenset({"linear", "conv"})
_LONG = 5  # weights in a gate; more of them do the work


def product_tags(walk: Walk) -> Iterator[tuple[Found, Tag]]:
    """Yield what every product of two signals says about the weights that make them."""
    for index, node in enumerate(walk.view.nodes):
        if node.op == "glu" and node.inputs:
            met = _plain(walk, node.inputs[0])
            yield from ((found, Tag.GLU_BOTH) for found in met.makers if found.kind in _OPERATORS)
        factors = walk.factors(index)
        if len(factors) != 2:
            continue
        told = list(_glu(walk, factors[0], factors[1])) or list(_excited(walk, index, factors))
        yield from told
        if not told:
            yield from _adaptive(walk, index, factors)


def _plain(walk: Walk, name: str) -> Back:
    """Walk back to the weights whose output this is, rearranged or scaled."""
    return walk.back(name, lambda index: walk.carried(index, ()))


def _one(met: Back) -> Found | None:
    """Return the only weight that a walk has met."""
    return met.makers[0] if len(met.makers) == 1 and not met.ends and met.makers[0].kind in _OPERATORS else None


# ---- gated linear units


def _glu(walk: Walk, left: str, right: str) -> Iterator[tuple[Found, Tag]]:
    (a, bent_a), (b, bent_b) = _based(walk, left), _based(walk, right)
    one, other = _one(a), _one(b)
    if one is None or other is None or not (bent_a or bent_b):
        return
    if bent_a and bent_b and _bounded(walk, a) == _bounded(walk, b):
        return  # neither is the gate
    if one is other:
        if not (a.seen <= b.seen or b.seen <= a.seen):  # two pieces of its output, not the output and a gate made of it
            yield one, Tag.GLU_BOTH
    elif before(walk.view, one.source) == before(walk.view, other.source):
        first = bent_a and (not bent_b or _bounded(walk, a))
        yield one if first else other, Tag.GLU_GATE
        yield other if first else one, Tag.GLU_VALUE


def _based(walk: Walk, name: str) -> tuple[Back, bool]:
    """Walk back past one activation and sums with low-rank additions."""

    def step(index: int) -> list[str] | None:
        node = walk.view.nodes[index]
        if node.op == "add":
            base = [one for one in walk.signals(node) if not walk.flow.low_rank(one)]
            return base if len(base) == 1 else None
        return walk.carried(index, ("activation",))

    met = walk.back(name, step)
    return met, any(walk.family(node) == "activation" for node in met.nodes)


def _bounded(walk: Walk, met: Back) -> bool:
    return any(walk.view.nodes[node].op in ("sigmoid", "hardsigmoid") for node in met.nodes)


# ---- a gate on a signal made of that signal, pooled


def _excited(walk: Walk, index: int, factors: list[str]) -> Iterator[tuple[Found, Tag]]:
    for gate, signal in (factors, factors[::-1]):
        if walk.flow.gating(gate, signal) is not Ends.GATES or not walk.flow.made_from(gate, signal):
            continue
        chain: list[Found] = []
        todo, pooled = [gate], False
        while todo and len(chain) <= _LONG:
            met = walk.back(todo.pop(), lambda index: _towards_pool(walk, index))
            pools = {name for name in met.ends if _is_pool(walk, name)}
            if len(pools) < len(met.ends):
                return
            pooled = pooled or bool(pools)
            fresh = [f for f in met.makers if all(f is not other for other in chain)]
            chain += fresh
            todo += [f.source for f in fresh]
        if pooled and 0 < len(chain) <= _LONG:
            yield from ((found, Tag.SQUEEZE_EXCITE) for found in chain)
            return


def _towards_pool(walk: Walk, index: int) -> list[str] | None:
    if _is_pool(walk, walk.view.nodes[index].outputs[0]):
        return None
    if len(walk.operands(index)) > 1:
        return walk.signals(walk.view.nodes[index])
    return walk.carried(index, ("norm", "activation"))


def _is_pool(walk: Walk, name: str) -> bool:
    """Whether a value is the mean or the largest over all places, channels apart."""
    index = walk.view.producer.get(name, -1)
    if index < 0 or walk.family(index) not in ("pool", "reduce"):
        return False
    node = walk.view.nodes[index]
    axes = node.attrs.get("axes", node.attrs.get("dim"))
    if axes is None and len(node.inputs) > 1 and node.op.startswith("reduce"):
        tensor = walk.view.constant(node.inputs[1])
        axes = tensor.load().ravel().tolist() if tensor is not None and tensor.size < 8 else None
    shape = walk.view.graph.shapes.get(node.inputs[0])
    channels = {1} if shape is None else {1, 1 - len(shape)}
    return not isinstance(axes, (tuple, list)) or not set(axes) <= channels


# ---- norms that a condition scales


def _adaptive(walk: Walk, index: int, factors: list[str]) -> Iterator[tuple[Found, Tag]]:
    for scale, signal in (factors, factors[::-1]):
        met = _plain(walk, scale)
        maker = _one(met)
        if maker is None or walk.flow.made_from(maker.out, signal):
            continue
        past = walk.back(signal, lambda at: walk.carried(at, ()))
        normed = [name for name in past.ends if walk.family(walk.view.producer.get(name, 0)) == "norm"]
        if normed and not past.makers and len(normed) == len(past.ends):
            yield maker, Tag.ADAPTIVE_NORM
            return
        if _branch(walk, index) and past.makers != [maker] and walk.flow.gating(scale, signal) is Ends.GATES:
            yield maker, Tag.ADAPTIVE_GATE
            return


def _branch(walk: Walk, index: int) -> bool:
    """Whether a product goes straight into a sum with what its factors were made from."""
    at = walk.view.nodes[index].outputs[0]
    for _ in range(8):
        readers = walk.view.readers(at)
        if len(readers) != 1:
            return False
        node = walk.view.nodes[readers[0].node]
        operands = walk.operands(readers[0].node)
        if len(operands) > 1 or node.op in SKIP_NORMS:
            return bool([one for one in operands if one != at and walk.stream(one, [at, one])])
        if walk.flow.family(node) != "move" or at not in walk.data(node):
            return False
        at = node.outputs[0]
    return False
