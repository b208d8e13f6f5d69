"""What signal and gradient do in a graph, told from second moments of the weights alone: nothing is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from initaudit.graph.integers import plain as real
from initaudit.graph.view import View, sound
from initaudit.layers.spots import Places
from initaudit.theory import (  # noqa: F401  they register operations
    activate,
    attention,
    contraction,
    convolution,
    dense,
    embedding,
    gates,
    maxima,
    moves,
    norms,
    pooling,
    predicted,
    recurrent,
    resizing,
    softmaxes,
    sources,
    sums,
)
from initaudit.theory.attention_found import folded
from initaudit.theory.composite import Parts
from initaudit.theory.engine import INPUTS, Walk
from initaudit.theory.feeds import feeds, ids
from initaudit.theory.kernel import Kernel
from initaudit.theory.weights import Weights
from initaudit.types import Graph, Measured, Signal, Signals, Tensor


def predict(graph: Graph, measured: Sequence[Measured], examples: Sequence[Tensor] = ()) -> Signals:
    """Return what theory says of each layer, in that order.

    Args:
        graph: of the model, from whatever source.
        measured: its layers with their measures.
        examples: of its inputs, where the caller gave some.
    """
    places, walk = walked(graph, measured, examples)
    fed = {name: walk.kernels.get(name) for name in walk.view.graph.inputs}
    own = [places.of(m.layer) for m in measured]
    ends = predicted.targets(places)

    def rows_of(one: Walk) -> list[Signal]:
        return [predicted.row(one, place, m, INPUTS) for place, m in zip(own, measured, strict=True)]

    rows = rows_of(walk)
    closed = gates.shut(gates.gates(places, walk.weights, measured), walk)
    if closed:
        second = _walk(
            walk.view, walk.weights.with_opened({gate.value: gate.opened for gate in closed}), ends, walk.parts, fed
        )
        rows = gates.woken(places, own, rows, rows_of(second), closed, walk, ends)
    return Signals(
        tuple(predicted.shortened(row) for row in rows),
        attention=tuple(walk.attending),
        heads=predicted.heads(walk, ends, any(ids(places.view).values())),
        inputs=INPUTS,
        by="theory",
        unread=tuple(walk.unread),
    )


def walked(graph: Graph, measured: Sequence[Measured], examples: Sequence[Tensor] = ()) -> tuple[Places, Walk]:
    """Return a walk through a graph, up and down, with the places of its layers."""
    places = Places(graph)
    view = folded(places.view)
    plain = View(sound(graph))
    parts = Parts(real(plain.graph)) if any(node.op == "composite" for node in view.nodes) else None
    weights = Weights(view, measured, plain=plain)
    return places, _walk(view, weights, predicted.targets(places), parts, feeds(view, examples))


def _walk(
    view: View, weights: Weights, ends: Sequence[str], parts: Parts | None, fed: Mapping[str, Kernel | None]
) -> Walk:
    walk = Walk(view, weights)
    walk.parts = parts
    walk.up(fed)
    walk.down(ends)
    return walk


__all__ = ["Signal", "predict"]
