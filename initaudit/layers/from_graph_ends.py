"""Where the graph begins and ends: embeddings, input layers, learned inputs, heads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np

from initaudit.layers.from_graph_fate import Ends
from initaudit.layers.from_graph_found import Found
from initaudit.layers.from_graph_parameters import read, values
from initaudit.layers.from_graph_rounds import Reach
from initaudit.layers.from_graph_tags import Tag
from initaudit.layers.from_graph_walk import Walk
from initaudit.types import Tensor

_OPERATORS = frozenset({"linear", "conv", "conv_transpose", "bilinear"})
_FEW = 4  # rows in a table of kinds
_DEEPER = 4  # that part of a head's weights and more, beyond the fork, make the other head the main one
_LEARNED = {  # how a parameter's reading begins, and what that makes of it
    "added to attention logits": Tag.RELATIVE_BIAS,
    "added to the signal as a position": Tag.POSITION_EMBEDDING,
    "joined to the signal": Tag.CLASS_TOKEN,
    "a learned input of": Tag.LEARNED_QUERIES,
    "its product with the signal is an attention's logit": Tag.ATTENTION_VECTOR,
}


def end_tags(
    walk: Walk, founds: Iterable[Found], reach: Reach, adapters: Collection[int]
) -> Iterator[tuple[Found, Tag]]:
    """Yield what lies at the ends of the graph, in the order of `founds`."""
    heads: list[Found] = []
    for found in founds:
        if found.kind == "parameter":
            yield from (
                (found, tag) for start, tag in _LEARNED.items() if any(r.startswith(start) for r in found.reasons)
            )
        elif found.kind == "embedding":
            yield found, _embedding(walk, found)
        elif found.suffix.startswith("weight_hh"):
            yield found, Tag.RECURRENT
        elif found.kind in _OPERATORS:
            if found.source not in walk.flow.live and _from_input(walk, found.source):
                yield found, Tag.INPUT_LAYER
                if _patches(walk, found):
                    yield found, Tag.PATCH_EMBEDDING
            if id(found) in adapters:
                continue
            fate = walk.flow.fate(found.out)
            if found.out in walk.view.fixed and fate.ends & (Ends.LOGITS | Ends.MIX) == Ends.LOGITS:
                yield found, Tag.RELATIVE_BIAS
            if not fate.weighted and not fate.ends & (Ends.GATES | Ends.CHOICE):
                if fate.ends & Ends.OUTPUT and _zero(walk, found, Ends.OUTPUT):
                    yield found, Tag.ZERO_CONV
                else:
                    heads += [] if fate.ends & Ends.JOIN else [found]
                    yield found, Tag.OUTPUT_HEAD
            elif fate.ends & Ends.JOIN and _zero(walk, found, Ends.JOIN):
                yield found, Tag.ZERO_CONV
    yield from ((found, Tag.AUXILIARY_HEAD) for found in _auxiliary(reach, heads))


# ---- the beginning


def _embedding(walk: Walk, found: Found) -> Tag:
    """Tell tables looked up by an input from those looked up by places."""
    if _into_logits(walk, found):
        return Tag.RELATIVE_BIAS
    if found.node not in walk.flow.layers:  # looked up in advance: one row of the table for each place
        table = values(found.weight)
        rows = None if table is None else table.reshape(-1, found.weight.shape[-1])
        return Tag.SEGMENT_EMBEDDING if rows is not None and bool(np.all(rows == rows[:1])) else Tag.POSITION_EMBEDDING
    if found.weight.shape[0] <= _FEW and walk.flow.fate(found.out).ends & Ends.JOIN:
        return Tag.SEGMENT_EMBEDDING
    at = found.source
    for _ in range(12):
        if at in walk.view.graph.inputs:
            return Tag.TOKEN_EMBEDDING
        index = walk.view.producer.get(at, -1)
        if index < 0 or at in walk.view.fixed:
            break
        node = walk.view.nodes[index]
        if walk.family(index) not in ("move", "elementwise") or not node.inputs:
            break
        moving = [k for k in walk.view.moving(node) if node.op != "where" or k > 0]
        if len(moving) != 1:
            break
        at = node.inputs[moving[0]]
    return Tag.POSITION_EMBEDDING


def _into_logits(walk: Walk, found: Found) -> bool:
    """Whether what is looked up goes, only moved, into a sum that a softmax follows."""

    def passes(index: int, at: str) -> bool:
        node = walk.view.nodes[index]
        if node.op == "add":
            hit.append(index)
            return False
        return walk.family(index) == "move" and at in walk.data(node)

    hit: list[int] = []
    into, _ = walk.on(found.out, passes)
    return bool(hit) and not into and all(_softmax_next(walk, walk.view.nodes[index].outputs[0]) for index in hit)


def _softmax_next(walk: Walk, name: str) -> bool:
    softmax: list[int] = []

    def passes(index: int, _: str) -> bool:
        if walk.family(index) == "softmax":
            softmax.append(index)
        return walk.family(index) in ("move", "elementwise", "activation")

    into, _ = walk.on(name, passes, 30)
    return bool(softmax) and not into


def _from_input(walk: Walk, name: str) -> bool:
    return any(one in walk.view.graph.inputs for one in walk.flow.chain(name)) or name in walk.flow.raw


def _patches(walk: Walk, found: Found) -> bool:
    """Whether an input layer takes pieces that do not overlap: by its stride, or cut out before."""
    kernel = tuple(n for n, label in zip(found.weight.shape, found.axes, strict=True) if label == "k")
    if found.kind == "conv":
        return bool(found.stride) and max(kernel, default=1) > 1 and tuple(found.stride) == kernel
    at = found.source
    cut = turned = False
    while at in walk.view.producer:
        node = walk.view.nodes[walk.view.producer[at]]
        if walk.flow.family(node) != "move" or not node.inputs:
            break
        cut = cut or node.op in ("reshape", "view", "unfold", "space_to_depth")
        turned = turned or node.op in ("transpose", "unfold", "space_to_depth")
        at = node.inputs[0]
    return cut and turned


# ---- the end


def _auxiliary(reach: Reach, heads: list[Found]) -> list[Found]:
    """Return the heads on a signal that at least as many more weights take on to another head as came before."""
    above = [reach.above.get(found.out, 0) for found in heads]
    out = []
    for found, mine in zip(heads, above, strict=True):
        for theirs in above:
            shared, own, other = mine & theirs, mine & ~theirs, theirs & ~mine
            if shared and other.bit_count() > max(shared.bit_count() / _DEEPER, 2 * own.bit_count(), _DEEPER):
                out.append(found)
                break
    return out


def _zero(walk: Walk, found: Found, end: Ends) -> bool:
    """Whether a weight ends in sums alone, or maps each place of an output to as many channels, and is zero."""
    shape = dict.fromkeys(found.axes, 1)
    for extent, label in zip(found.weight.shape, found.axes, strict=True):
        shape[label] *= extent
    square = shape.get("i") == shape.get("o") and shape.get("k", 1) == 1 and found.groups == 1
    fate = walk.flow.fate(found.out)
    if (end is Ends.OUTPUT and not square) or fate.ends & ~(end | Ends.SKIP):
        return False
    numbers = values(found.weight)
    return numbers is not None and not numbers.any()


def twin(head: Tensor, table: Tensor) -> bool:
    """Whether a head's weight holds an embedding's values, as they are or transposed, told by a sample of them."""
    if sorted(head.shape) != sorted(table.shape) or len(head.shape) != 2 or table.size < 2:
        return False
    a, b = read(head), read(table)
    if a is None or b is None:
        return False
    rng = np.random.default_rng(0)
    rows, columns = (rng.integers(0, extent, 64) for extent in b.shape)
    want = b[rows, columns].astype(np.float64)
    if not np.isfinite(want).all() or np.ptp(want) == 0:
        return False
    same = a.shape == b.shape and np.array_equal(a[rows, columns].astype(np.float64), want)
    return same or (a.shape == b.shape[::-1] and np.array_equal(a[columns, rows].astype(np.float64), want))
