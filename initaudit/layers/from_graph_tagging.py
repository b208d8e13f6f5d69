"""All that the graph tells of each weight in use, as tags and a depth."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

from initaudit.layers.from_graph_attention import attention_tags
from initaudit.layers.from_graph_branches import branch_tags
from initaudit.layers.from_graph_depth import Depth, depths
from initaudit.layers.from_graph_ends import end_tags
from initaudit.layers.from_graph_experts import expert_tags
from initaudit.layers.from_graph_flow import Flow
from initaudit.layers.from_graph_found import Found
from initaudit.layers.from_graph_products import product_tags
from initaudit.layers.from_graph_rounds import Reach, recurrent_tags
from initaudit.layers.from_graph_tags import PACKED, Tag
from initaudit.layers.from_graph_walk import Walk

_INNER = frozenset({  # no end of the graph
    Tag.RESIDUAL_CLOSING, Tag.SHORTCUT, Tag.ATTENTION_VECTOR, Tag.QUERY, Tag.KEY, Tag.VALUE, *PACKED.values(),
})  # fmt: skip


class Tagging:
    """The tags and the depth of every use of a weight."""

    def __init__(self, flow: Flow, founds: Sequence[Found], low_rank: Mapping[int, str]) -> None:
        walk = Walk(flow, founds)
        self.depths = depths(walk)
        self.tags: dict[int, set[Tag]] = {}
        for found, tag in self._all(walk, founds, low_rank):
            self.tags.setdefault(id(found), set()).add(tag)
        for tags in self.tags.values():
            if Tag.RECURRENT in tags:
                tags -= {Tag.GLU_GATE, Tag.GLU_VALUE, Tag.GLU_BOTH}  # gates of the cell
            if tags & _INNER:
                tags -= {Tag.ZERO_CONV, Tag.OUTPUT_HEAD, Tag.AUXILIARY_HEAD}

    @staticmethod
    def _all(walk: Walk, founds: Sequence[Found], low_rank: Mapping[int, str]) -> Iterator[tuple[Found, Tag]]:
        reach = Reach(walk)
        round_again = list(recurrent_tags(walk, reach))
        for found in founds:
            side = low_rank.get(id(found))
            if side:
                yield found, Tag.LOW_RANK_DOWN if side == "down" else Tag.LOW_RANK_UP
        yield from chain(
            attention_tags(walk),
            round_again,
            branch_tags(walk, {id(found) for found, _ in round_again}),
            product_tags(walk),
            expert_tags(walk),
            end_tags(walk, founds, reach, low_rank),
        )

    def of(self, found: Found) -> frozenset[Tag]:
        """Return the tags of one use of a weight."""
        return frozenset(self.tags.get(id(found), ()))

    def depth(self, found: Found) -> Depth | None:
        """Return the depth of one use of a weight; None for norms, scales and learned inputs."""
        if found.kind in ("norm", "parameter", "prelu"):
            return None
        return self.depths.get(found.node, (1, 1)) if found.kind == "embedding" else self.depths.get(found.node)
