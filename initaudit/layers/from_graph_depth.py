"""How many weights a signal has passed when it leaves each weighted node, on the longest and the shortest way."""

from __future__ import annotations

from initaudit.layers.from_graph_origin import SKIP_NORMS, SUMS
from initaudit.layers.from_graph_walk import Walk

Depth = tuple[int, int]


def depths(walk: Walk) -> dict[int, Depth]:
    """Return the depth of every node that holds a linear layer, convolution, embedding or recurrent weight.

    A node counts once, itself included; norms, scales and other learned vectors do not. Ways start at the inputs of the
    graph and lead along data: a position, a mask or an index that is made of an input is none, and a learned constant
    starts one only where no input does. What goes round in a loop is followed once.
    """
    found: dict[int, Depth] = {}
    at: dict[str, Depth] = {}
    learned: set[str] = set()  # values that no input has a way to
    for index, node in enumerate(walk.view.nodes):
        if not any(name in walk.flow.live for name in node.outputs):
            continue
        names = list(node.inputs) if index in walk.flow.layers else walk.data(node)
        known = [name for name in names if name in at]
        ways = [at[name] for name in known if name not in learned]
        skips = node.op in SUMS or node.op in SKIP_NORMS or node.op == "concat"
        if skips and any(name in walk.flow.raw and name not in at for name in names) and not walk.logits(index):
            ways.append((0, 0))  # straight from an input
        here = walk.flow.layers.get(index, ())
        fed = bool(ways) or any(f.source not in walk.view.fixed and f.source not in at for f in here)
        if not fed:
            ways = [at[name] for name in known]
        if not ways and not here:
            continue
        depth = (max((way[0] for way in ways), default=0), min((way[1] for way in ways), default=0))
        if here:
            depth = found[index] = (depth[0] + 1, depth[1] + 1)
        at.update(dict.fromkeys((name for name in node.outputs if name), depth))
        if not fed:
            learned.update(node.outputs)
    return found
