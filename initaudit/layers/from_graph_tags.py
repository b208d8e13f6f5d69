"""The vocabulary of tags: what a weight is for, more finely than its role, as far as the graph proves it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum


class Tag(StrEnum):
    """What a weight is for. Several may hold; what the graph does not prove is not said."""

    # attention
    QUERY = "query"  # its output, moved, normalised or rotated, asks in an attention
    KEY = "key"  # is asked for
    VALUE = "value"  # is mixed
    QUERY_KEY_VALUE = "query, key and value"  # packed: three of these in one weight; Layer.parts says which rows
    KEY_VALUE = "key and value"  # packed: two
    QUERY_KEY = "query and key"  # packed: two
    OUT_PROJECTION = "out projection"  # the first weight that takes what an attention mixed
    ATTENTION_VECTOR = "attention vector"  # its product with the signal is an attention's logit, as in GAT
    RELATIVE_BIAS = "relative position bias"  # a learned table added to attention logits
    # recurrence and experts
    RECURRENT = "recurrent"  # takes the state it made the step before
    EXPERT = "expert"  # runs on what a router chose for it
    ROUTER = "router"  # chooses
    # residual branches
    RESIDUAL_CLOSING = "residual closing"  # the last weight of a branch added to what it was made from
    SHORTCUT = "shortcut"  # on the way past a branch, where nothing is nonlinear
    NORM_FOLLOWS_SUM = "norm follows the sum"  # closes a branch, and nothing but a norm reads the sum (post-norm)
    LAYER_SCALE = "layer scale"  # a learned vector that multiplies a branch before the sum
    REZERO = "rezero"  # a learned number that does
    RESIDUAL_SCALE = "residual scale"  # a learned scale on the way past a branch
    ZERO_CONV = "zero conv"  # zero, and only added to a signal that it is no branch of (or to an output)
    # gates
    ADAPTIVE_NORM = "adaptive norm"  # pieces of its output scale (and shift) what a norm made
    ADAPTIVE_GATE = "adaptive gate"  # a piece of its output multiplies a residual branch before the sum
    SQUEEZE_EXCITE = "squeeze-excite"  # makes a gate on a signal from that signal, pooled
    GLU_GATE = "gate of a GLU"  # activated, it multiplies what another weight makes of the same input
    GLU_VALUE = "value of a GLU"  # the other one
    GLU_BOTH = "gate and value of a GLU"  # packed
    LOW_RANK_DOWN = "low rank down"  # LoRA's A
    LOW_RANK_UP = "low rank up"  # LoRA's B
    # the ends
    TOKEN_EMBEDDING = "token embedding"  # looked up by an input
    POSITION_EMBEDDING = "position embedding"  # looked up by places, or a learned table added to the signal
    SEGMENT_EMBEDDING = "segment embedding"  # a table of few rows, or one row for all, added to other look-ups
    CLASS_TOKEN = "class token"  # a learned constant concatenated to the signal
    LEARNED_QUERIES = "learned queries"  # a learned constant that a weight takes as its input
    INPUT_LAYER = "input layer"  # the first weight after an input of the graph
    PATCH_EMBEDDING = "patch embedding"  # an input layer on pieces that do not overlap
    OUTPUT_HEAD = "output head"  # makes an output of the graph, nothing weighted comes after it
    TIED_HEAD = "tied head"  # a head that shares an embedding's values
    AUXILIARY_HEAD = "auxiliary head"  # a head on a signal that many more weights take to another head


PACKED = {
    frozenset({Tag.QUERY, Tag.KEY, Tag.VALUE}): Tag.QUERY_KEY_VALUE,
    frozenset({Tag.KEY, Tag.VALUE}): Tag.KEY_VALUE,
    frozenset({Tag.QUERY, Tag.KEY}): Tag.QUERY_KEY,
}


def whole(tags: Iterable[Tag]) -> set[Tag]:
    """Return the tags of a tensor from those of its uses: rows used one by one make up a packed weight.

    >>> ordered(whole({Tag.QUERY, Tag.KEY_VALUE})), ordered(whole({Tag.QUERY}))
    (('query, key and value',), ('query',))
    """
    have = set(tags)
    single = {tag for parts, tag in PACKED.items() if tag in have for tag in parts} | have & {
        Tag.QUERY,
        Tag.KEY,
        Tag.VALUE,
    }
    if single == {Tag.QUERY, Tag.KEY, Tag.VALUE}:
        have -= {*single, *PACKED.values()}
        have.add(Tag.QUERY_KEY_VALUE)
    return have


def ordered(tags: Iterable[str]) -> tuple[str, ...]:
    """Return tags once each, in the order of the vocabulary.

    >>> ordered(["output head", "query", "query"])
    ('query', 'output head')
    """
    have = set(tags)
    return tuple(tag.value for tag in Tag if tag.value in have)
