"""Takes the measures while a batch passes through, so that no value is kept for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch.utils._python_dispatch import _disable_current_modes

from initaudit.layers.spots import Bend, Places
from initaudit.live.probe.gating import LAYERS, Driven, Value, driven
from initaudit.live.probe.measures import Spread, Weights, attention, slopes, spread
from initaudit.types import Attending, Node

_BACK = frozenset({"add", "sub", "mul", "div", "where", "masked_fill", "clip", "tanh", "cast", "reshape", "max"})
_FAR = 10
_MOST_LOGITS = 1 << 26  # of one run


class Watching:
    """Told the values of one pass.

    Args:
        places: of the graph.
        outs: values whose spread is wanted.
        bends: activations with the number of units that they act on.
        sizes: values whose largest size is wanted.
        closely: look at activations, gates and attention too.
        value: tells weights by name.
    """

    def __init__(
        self,
        places: Places,
        outs: Iterable[str],
        bends: Mapping[Bend, int],
        sizes: Iterable[str],
        closely: bool,
        value: Value,
    ) -> None:
        self.spreads: dict[str, Spread | None] = {}
        self.slopes: dict[Bend, tuple[float, float | None] | None] = {}
        self.sizes: dict[str, float] = {}
        self.attending: list[Attending] = []
        self.driven: dict[str, list[Driven]] = {}  # by the output of a recurrent layer
        self._recurrent: dict[str, Node] = {}
        self._value = value
        self._outs = frozenset(outs)
        self._sizes = frozenset(sizes)
        self._bends: dict[str, list[tuple[Bend, int]]] = {}
        self._softmax: dict[str, Node] = {}
        self._whole: dict[str, Node] = {}
        self._held: dict[str, Sequence[torch.Tensor]] = {}
        self._roots: dict[str, Sequence[torch.Tensor]] = {}
        self._hold: set[str] = set()
        if closely:
            for bend, units in bends.items():
                self._bends.setdefault(bend.after, []).append((bend, units))
            self._find(places)
            self._hold = {bend.before for bend in bends}
            self._recurrent = {n.outputs[0]: n for n in places.view.nodes if n.op in LAYERS and n.inputs and n.outputs}
            self._hold |= {name for node in self._recurrent.values() for name in node.inputs if name}
            self._hold |= {name for node in self._whole.values() for name in node.inputs if name}

        self._wanted = self._outs | self._sizes | self._hold | set(self._bends) | set(self._softmax)
        self._wanted |= set(self._whole) | set(self._recurrent)

    def __call__(self, name: str, values: Sequence[torch.Tensor], whole: torch.Tensor | None) -> None:
        """Take one value of all runs, and what it was cut from."""
        if name in self._wanted:
            with _disable_current_modes():  # what is measured is no part of the graph
                self._take(name, values, whole)

    def _take(self, name: str, values: Sequence[torch.Tensor], whole: torch.Tensor | None) -> None:
        if name in self._outs:
            self.spreads[name] = spread(values)
        if name in self._sizes:
            self.sizes[name] = max(float(v.detach().abs().amax()) for v in values if v.numel())
        if name in self._hold:
            self._held[name] = values
            self._roots[name] = values if whole is None else [whole]
        for bend, units in self._bends.get(name, ()):
            before = self._roots.get(bend.before)
            self.slopes[bend] = None if before is None else slopes(bend, before, values, units)
        if name in self._softmax:
            node = self._softmax[name]
            axis = node.attrs.get("axis", -1)
            self._attends(node, attention(values, axis if isinstance(axis, int) else -1))
        if name in self._recurrent:
            node = self._recurrent[name]
            self.driven[name] = driven(node, self._held.get(node.inputs[0], ()), values, self._operand)
        if name in self._whole:
            self._attends(self._whole[name], self._logits(self._whole[name]))

    def _operand(self, name: str) -> torch.Tensor | None:
        held = self._held.get(name)
        return self._value(name) if held is None else held[0]

    def _find(self, places: Places) -> None:
        for node in places.view.nodes:
            if node.op == "softmax" and node.inputs and _scores(places, node.inputs[0]):
                self._softmax[node.inputs[0]] = node
            elif node.op == "scaled_dot_product_attention" and len(node.inputs) > 2:
                self._whole[node.outputs[0]] = node

    def _attends(self, node: Node, weights: Weights | None) -> None:
        if weights is not None:
            name = str(node.attrs.get("@scope") or node.name or node.outputs[0])
            self.attending.append(Attending(name, weights.entropy, weights.spread))

    def _logits(self, node: Node) -> Weights | None:
        """Return the measures of an attention that is one operation, from its operands."""
        queries, keys = (self._held.get(name) for name in node.inputs[:2])
        masks = self._held.get(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else None
        if queries is None or keys is None:
            return None
        logits = []
        with torch.no_grad():
            for at, q in enumerate(queries):
                k = keys[min(at, len(keys) - 1)]
                if q.dim() > 2 and q.shape[-3] != k.shape[-3] and k.shape[-3]:
                    k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3)
                if q.numel() // q.shape[-1] * k.shape[-2] > _MOST_LOGITS:
                    return None
                scale = node.attrs.get("scale")
                scores = q @ k.transpose(-1, -2) * (scale if isinstance(scale, float) else q.shape[-1] ** -0.5)
                if node.attrs.get("is_causal"):
                    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
                    scores = scores.masked_fill(later, -torch.inf)
                if masks is not None:
                    mask = masks[min(at, len(masks) - 1)]
                    scores = scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
                logits.append(scores)
        return attention(logits, -1)


def _scores(places: Places, name: str) -> bool:
    """Whether logits come from a product of two signals, as those of attention do."""
    for _ in range(_FAR):
        at = places.view.producer.get(name)
        if at is None:
            return False
        node = places.view.nodes[at]
        moving = places.view.moving(node)
        if node.op in ("matmul", "einsum", "gemm"):
            return len(moving) > 1
        if node.op not in _BACK or not moving:
            return False
        name = node.inputs[moving[0]]
    return False
