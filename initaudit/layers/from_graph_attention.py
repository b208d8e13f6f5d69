"""Attention in a graph, whole or written out: which weights ask, are asked, are mixed, and which takes the mixture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from initaudit.layers.from_graph_adapters import before, extent
from initaudit.layers.from_graph_found import Found, text
from initaudit.layers.from_graph_tags import PACKED, Tag
from initaudit.layers.from_graph_walk import Walk
from initaudit.layers.words import PARTS_QKV
from initaudit.types import Node

_PRODUCTS = frozenset({"matmul", "einsum", "gemm"})
_OPERATORS = frozenset({"linear", "conv", "conv_transpose"})
_PIECES = frozenset({"split", "slice", "gather", "chunk", "unbind"})
_NEAR = 120  # values between a softmax and the products around it


@dataclass(slots=True)
class Core:
    """One attention: the values that ask, are asked and are mixed, and what comes out."""

    query: list[str] = field(default_factory=list)
    key: list[str] = field(default_factory=list)
    value: list[str] = field(default_factory=list)
    out: str = ""
    inside: list[Found] = field(default_factory=list)  # weights that the mixing product applies itself


def attention_tags(walk: Walk) -> Iterator[tuple[Found, Tag]]:
    """Yield the projections around every attention of the graph."""
    for index, node in enumerate(walk.view.nodes):
        kind = walk.flow.family(node)
        if kind == "attention" and len(node.inputs) > 2 and index not in walk.flow.layers:
            q, k, v = (node.inputs[k : k + 1] for k in range(3))
            yield from _around(walk, Core(list(q), list(k), list(v), node.outputs[0]))
        elif index in walk.flow.layers and any(found.parts == PARTS_QKV for found in walk.flow.layers[index]):
            if kind == "attention":  # with its projections inside
                yield from ((found, Tag.QUERY_KEY_VALUE) for found in walk.flow.layers[index])
                yield from _around(walk, Core(out=node.outputs[0]))
        elif len(_product(walk, index)) == 2:
            yield from _positive(walk, index)
        elif kind == "softmax" and node.inputs and node.inputs[0] in walk.flow.live:
            core = _written_out(walk, index, node)
            if core is not None:
                yield from _around(walk, core)
            else:
                yield from _additive(walk, index, node)


# ---- finding one


def _written_out(walk: Walk, index: int, node: Node) -> Core | None:
    mixing = list(_mixtures(walk, node.outputs[0]))
    if not mixing:
        return None
    logits = _logits(walk, node.inputs[0])
    core = Core(out=walk.view.nodes[mixing[0][0]].outputs[0], inside=walk.flow.layers.get(mixing[0][0], []))
    core.value = [other for _, other in mixing]
    if logits:
        for product in logits:
            asks, asked = _sides(walk, product, index)
            core.query.append(asks)
            core.key.append(asked)
        return core
    context = [
        (at, other) for product, _ in mixing for at, other in _mixtures(walk, walk.view.nodes[product].outputs[0])
    ]
    if not context:
        return None  # a pooling by learned weights
    core.key, core.query = [node.inputs[0]], [other for _, other in context]  # keys normalised one by one
    core.out = walk.view.nodes[context[0][0]].outputs[0]
    return core


def _product(walk: Walk, index: int) -> list[str]:
    """Return the signals of a product of matrices; an einsum may take more than two, and apply a weight as well."""
    node = walk.view.nodes[index]
    if node.op not in _PRODUCTS or (index in walk.flow.layers and node.op != "einsum"):
        return []
    both = [name for name in (node.inputs if node.op == "einsum" else node.inputs[:2]) if name in walk.flow.live]
    return both if len(both) > 1 else []


def _mixtures(walk: Walk, name: str) -> Iterator[tuple[int, str]]:
    """Yield the products that take a softmax's output, and what it mixes there."""
    todo, seen, mixed = [name], {name}, 0
    while todo and len(seen) < _NEAR:
        at = todo.pop()
        for use in walk.view.readers(at):
            node = walk.view.nodes[use.node]
            both = _product(walk, use.node)
            if at in both:
                yield from ((use.node, other) for other in both if other != at)
                continue
            weighted = use.node in walk.flow.layers
            if weighted and mixed < 2:  # heads that talk to each other
                mixed += 1
            elif weighted or walk.flow.family(node) not in ("move", "elementwise", "quant", "norm"):
                continue
            if not weighted and at not in walk.data(node):
                continue
            for out in node.outputs:
                if out and out not in seen:
                    seen.add(out)
                    todo.append(out)


def _logits(walk: Walk, name: str) -> list[int]:
    """Return the products of two signals that a softmax's input is made of."""
    found: list[int] = []
    todo, seen, mixed = [name], {name}, 0
    while todo and len(seen) < _NEAR:
        at = todo.pop()
        index = walk.view.producer.get(at, -1)
        if index < 0 or at not in walk.flow.live:
            continue
        if len(_product(walk, index)) == 2:
            found.append(index)
            continue
        node = walk.view.nodes[index]
        here = walk.flow.layers.get(index, [])
        kind = walk.flow.family(node)
        if here:
            if mixed or kind == "recurrent":
                continue
            mixed += 1
            further = [f.source for f in here if _heads_only(walk, f)]
        elif kind in ("move", "elementwise", "activation", "quant"):
            further = [one for one in walk.data(node) if one in walk.flow.live]
        else:
            continue
        for one in further:
            if one not in seen:
                seen.add(one)
                todo.append(one)
    return found


def _additive(walk: Walk, index: int, node: Node) -> Iterator[tuple[Found, Tag]]:
    """Yield the weights that make logits on their own, one number for each place, and those of what these mix."""
    axis = node.attrs.get("axis", node.attrs.get("dim", -1))
    shape = walk.view.graph.shapes.get(node.inputs[0])
    last = axis == -1 or (shape is not None and axis == len(shape) - 1)

    def inward(at: int) -> list[str] | None:
        kind = walk.family(at)
        through = kind in ("move", "elementwise", "activation", "quant")
        return [one for one in walk.data(walk.view.nodes[at]) if one in walk.flow.live] if through else None

    def onward(at: int, name: str) -> bool:
        step = walk.view.nodes[at]
        factors = _product(walk, at) or walk.factors(at)
        if len(factors) == 2 and name in factors:
            mixed.append(factors[1 - factors.index(name)])
            return False
        return walk.family(at) in ("move", "elementwise", "quant") and name in walk.data(step)

    makers = [f for f in walk.back(node.inputs[0], inward, _NEAR).makers if f.kind in _OPERATORS]
    vectors = [f for f in makers if not last or extent(f, "o") == 1]
    mixed: list[str] = []
    if makers and len(vectors) == len(makers):
        walk.on(node.outputs[0], onward, _NEAR)
    if mixed:
        yield from ((found, Tag.ATTENTION_VECTOR) for found in vectors)
        for name in mixed:
            yield from (
                (f, Tag.VALUE) for f in walk.back(name, lambda at: _along(walk, at)).makers if f.kind in _OPERATORS
            )


def _positive(walk: Walk, index: int) -> Iterator[tuple[Found, Tag]]:
    """Yield the projections of an attention without softmax: queries times (positive keys times values)."""
    sides = []
    for name in _product(walk, index):
        met = walk.back(name, lambda at: _along(walk, at))
        positive = any(walk.family(at) == "activation" for at in met.nodes)
        if len(met.makers) != 1 or met.ends or met.makers[0].kind not in _OPERATORS:
            return
        sides.append((met.makers[0], positive, name))
    (a, positive, k), (b, also, v) = sides if sides[0][1] else sides[::-1]
    if a is b or not positive or also or before(walk.view, a.source) != before(walk.view, b.source):
        return
    for at, other in _mixtures(walk, walk.view.nodes[index].outputs[0]):
        yield from _around(walk, Core([other], [k], [v], walk.view.nodes[at].outputs[0]))


def _heads_only(walk: Walk, found: Found) -> bool:
    """Whether a weight mixes the logits of the heads: it takes a product of two signals, only rearranged."""
    met = walk.back(found.source, lambda index: walk.carried(index, ()))
    products = [walk.view.producer.get(name, -1) for name in met.ends]
    return bool(products) and not met.makers and all(p >= 0 and _product(walk, p) for p in products)


def _sides(walk: Walk, product: int, softmax: int) -> tuple[str, str]:
    """Return the operand that asks and the one that is asked: the softmax goes over the latter's positions."""
    node = walk.view.nodes[product]
    a, b = _product(walk, product)
    axis = walk.view.nodes[softmax].attrs.get("axis", walk.view.nodes[softmax].attrs.get("dim", -1))
    shape = walk.view.graph.shapes.get(walk.view.nodes[softmax].inputs[0])
    last = not isinstance(axis, int) or axis == -1 or (shape is not None and axis == len(shape) - 1)
    if not last and isinstance(axis, int) and axis >= 0 and shape is None:
        last = axis != 1  # of three or four axes; the second is that of heads or channels
    equation = text(node.attrs.get("equation")).replace(" ", "")
    if "->" in equation and "." not in equation:
        left, _, right = equation.partition("->")
        terms = left.split(",")
        label = right[-1 if last else -2] if len(right) > 1 else ""
        if len(terms) == 2 and (label in terms[0]) != (label in terms[1]):
            return (b, a) if label in terms[0] else (a, b)
        return a, b
    turned = not last
    at = node.outputs[0]
    for _ in range(6):
        readers = walk.view.readers(at)
        if len(readers) != 1 or readers[0].node == softmax:
            break
        step = walk.view.nodes[readers[0].node]
        perm = step.attrs.get("perm")
        if (
            step.op == "transpose"
            and isinstance(perm, (tuple, list))
            and list(perm[-2:]) == [len(perm) - 1, len(perm) - 2]
        ):
            turned = not turned
        at = step.outputs[0]
    return (b, a) if turned else (a, b)


# ---- what is around one


def _around(walk: Walk, core: Core) -> Iterator[tuple[Found, Tag]]:
    kinds: dict[int, set[Tag]] = {}
    founds: dict[int, Found] = {}
    pieces: dict[int, set[str]] = {}
    for tag, names in ((Tag.QUERY, core.query), (Tag.KEY, core.key), (Tag.VALUE, core.value)):
        for name in names:
            met = walk.back(name, lambda index: _along(walk, index))
            for found in met.makers:
                if found.kind in _OPERATORS and not walk.flow.adapters & 1 << found.node:
                    founds[id(found)] = found
                    kinds.setdefault(id(found), set()).add(tag)
                    if any(walk.view.nodes[n].op in _PIECES for n in met.nodes):
                        pieces.setdefault(id(found), set()).add(name)
    for key, tags in kinds.items():
        if len(tags) == 1:
            yield founds[key], next(iter(tags))
        elif key in pieces and frozenset(tags) in PACKED:
            yield founds[key], PACKED[frozenset(tags)]
        elif tags != {Tag.QUERY, Tag.KEY, Tag.VALUE}:  # else it is the signal itself that attends
            yield from ((founds[key], tag) for tag in tags)
    if core.inside:
        yield from ((found, Tag.OUT_PROJECTION) for found in core.inside)
    elif core.out:
        yield from ((found, Tag.OUT_PROJECTION) for found in _after(walk, core))


def _along(walk: Walk, index: int) -> list[str] | None:
    """Return where a projection's output comes from: moved, scaled, normalised, rotated, or made positive."""
    further = walk.carried(index, ("norm", "pool", "activation", "softmax"))
    if further is not None:
        return further
    node = walk.view.nodes[index]
    signals = walk.signals(node)
    if node.op not in ("add", "sub", "sum", "mul"):
        return None
    base = [name for name in signals if not walk.flow.low_rank(name)]
    near = {walk.flow.near(name) for name in base}
    return base if len(near) == 1 or len(base) == 1 else None


def _after(walk: Walk, core: Core) -> list[Found]:
    """Return the first weights that take what an attention mixed, unless the stream takes it first."""
    sources = [found.source for name in core.value for found in walk.back(name, lambda i: _along(walk, i)).makers]

    def passes(index: int, at: str) -> bool:
        node = walk.view.nodes[index]
        operands = walk.operands(index)
        if len(operands) > 1:
            others = [one for one in operands if one != at]
            return not any(walk.stream(one, [*operands, *sources]) for one in others)
        kind = walk.flow.family(node)
        return at in walk.data(node) and kind in (
            "move",
            "norm",
            "elementwise",
            "activation",
            "quant",
            "pool",
            "reduce",
        )

    found, _ = walk.on(core.out, passes)
    return [one for one in found if one.kind in _OPERATORS and not walk.flow.adapters & 1 << one.node]
