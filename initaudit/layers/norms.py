"""What follows a norm in a file that does not hold its graph."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

from initaudit.layers.drafts import sides
from initaudit.layers.families import Reading
from initaudit.layers.places import paired, place
from initaudit.types import Evidence, Layer

_OPERATORS = frozenset({"linear", "conv", "conv_transpose"})
# Norms of transformer blocks, by names that nothing else has: a linear layer or the sum comes next.
_OF_TRANSFORMERS = re.compile(
    r"(?:^|[._])(?:input_layernorm|post_attention_layernorm|(?:pre|post)_feedforward_layernorm|self_attn_layer_norm"
    r"|encoder_attn_layer_norm|layernorm_before|layernorm_after|[qk]_norm|ln_[12]|attention\.output\.LayerNorm"
    r"|attention_layernorm|ffn_layernorm|attn_norm|ffn_norm|sa_layer_norm)$"
)


class Norms:
    """The weights whose output a norm takes."""

    def __init__(self, layers: Sequence[Layer], ordered: bool) -> None:
        self._beside: dict[str, list[Layer]] = defaultdict(list)
        self._position = {a.weight.name: n for n, a in enumerate(layers)} if ordered else {}
        for a in layers:
            if a.kind in _OPERATORS and a.normed:
                self._beside[place(a).path.rpartition(".")[0]].append(a)

    def read(self, norm: Layer) -> Reading | None:
        """Return what follows: what was told of the weight before it, whose activation is the one behind the norm."""
        here = place(norm)
        before = [
            a
            for a in self._beside.get(here.path.rpartition(".")[0], ())
            if paired(place(a), here) and norm.weight.shape == (sides(a)[1],) and self._comes(a, norm)
        ]
        if before:
            if not norm.extra and any(a.kind == "linear" and a.activation for a in before):
                return None  # a layer norm may stand behind the activation
            if len({(a.activation, a.activation_evidence) for a in before}) > 1:
                return None
            first = before[0]
            sure = min(first.activation_evidence, Evidence.NAMED)
            return Reading(first.activation, sure, f"{first.activation or 'no activation'} follows, as {first.name}")
        if _OF_TRANSFORMERS.search(here.path) and not norm.extra:
            return Reading(None, Evidence.NAMED, "no activation follows a norm of this name")
        return None

    def _comes(self, a: Layer, norm: Layer) -> bool:
        return not self._position or self._position[a.weight.name] < self._position[norm.weight.name]
